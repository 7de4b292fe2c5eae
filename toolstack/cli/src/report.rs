//! How a failure is told: once, here, on standard error.

use kxl_domain::Failure;

use crate::out;
use crate::text::add;
use crate::view::tame;

/// Tells a failure in kxl's own manner.
pub(crate) fn failure(failure: &Failure) {
    tracing::debug!(kind = %failure.kind, "{failure}");
    out::complain(&text("kxl", failure));
}

/// Tells a warning.
pub(crate) fn warning(text: &str) {
    out::complain(&format!("kxl: warning: {}\n", tame::lines(text)));
}

/// Tells something that is neither.
pub(crate) fn note(text: &str) {
    out::complain(&format!("kxl: {}\n", tame::lines(text)));
}

/// The failure as `program` says it: what was attempted, why not, what to do next.
///
/// A configuration error brings several lines of its own; they are not indented, so that the
/// caret under the line stays where it belongs.
pub(crate) fn text(program: &str, failure: &Failure) -> String {
    let mut out = String::new();
    // Programs and files have a say in it; line ends are the layout of a configuration error.
    add(&mut out, format_args!("{program}: {}\n", tame::lines(&failure.text)));
    for cause in &failure.causes {
        add(&mut out, format_args!("  because: {}\n", tame::lines(cause)));
    }
    if let Some(hint) = &failure.hint {
        add(&mut out, format_args!("  hint: {hint}\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use kxl_domain::Kind;

    use super::*;

    #[test]
    fn a_failure_says_what_why_and_what_next() {
        let mut failure = Failure::new(Kind::Unsupported, "cannot save domain \"vax\" (domid 7)")
            .hint("kxl info --backends shows what each backend offers");
        failure.causes.push("backend \"simh\" does not offer save-state".into());
        assert_eq!(
            text("kxl", &failure),
            "kxl: cannot save domain \"vax\" (domid 7)\n  \
             because: backend \"simh\" does not offer save-state\n  \
             hint: kxl info --backends shows what each backend offers\n"
        );
    }
}
