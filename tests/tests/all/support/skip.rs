//! Tests that this host cannot run. Nothing is skipped silently: the name and the reason go to
//! standard error and to the file that `KXL_SKIPS` names, which the suite's caller prints.

use std::fs::OpenOptions;
use std::io::Write;

/// Says that `name` was not run, and why.
pub(crate) fn skip(name: &str, reason: &str) {
    let line = format!("SKIP {name}: {reason}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os("KXL_SKIPS").filter(|path| !path.is_empty()) {
        let file = OpenOptions::new().create(true).append(true).open(&path);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .unwrap_or_else(|error| panic!("cannot record a skip in {path:?}: {error}"));
    }
}

/// `true` where `found` is an error, after saying so.
pub(crate) fn skipped<T>(name: &str, found: &Result<T, String>) -> bool {
    if let Err(reason) = found {
        skip(name, reason);
    }
    found.is_err()
}
