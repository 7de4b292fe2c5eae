//! Building text.

use std::fmt::{Arguments, Write};

/// Adds formatted text to a string without a copy in between.
pub(crate) fn add(out: &mut String, text: Arguments<'_>) {
    out.write_fmt(text).expect("writing into a string cannot fail");
}
