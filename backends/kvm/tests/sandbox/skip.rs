//! Tests that this host cannot run: the name and the reason go to standard error and to the file
//! that `KXL_SKIPS` names.

use std::fs::File;
use std::io::Write;

/// Says that `name` was not run, and why.
pub(crate) fn skip(name: &str, reason: &str) {
    let line = format!("SKIP {name}: {reason}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os("KXL_SKIPS").filter(|path| !path.is_empty()) {
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}
