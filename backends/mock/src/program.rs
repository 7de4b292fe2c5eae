//! Where the emulator program is.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use kxl_backend::BackendError;

const NAME: &str = "kxl-mock";

/// The emulator program of this installation.
///
/// # Errors
/// [`BackendError::Missing`] when none of the places has it.
pub(crate) fn find() -> Result<PathBuf, BackendError> {
    let exe = std::env::current_exe().ok();
    let places = places(std::env::var_os("KXL_LIBEXEC"), exe.as_deref());
    let found = places.iter().map(|dir| dir.join(NAME)).find(|path| path.is_file());
    found.ok_or_else(|| missing(NAME, &places))
}

/// The error for a program that is not in any of these directories.
pub(crate) fn missing(what: impl Into<String>, places: &[PathBuf]) -> BackendError {
    let looked: Vec<_> = places.iter().map(|dir| dir.display().to_string()).collect();
    let hint = format!(
        "looked in {}; KXL_LIBEXEC can name its directory",
        if looked.is_empty() { "no directory".to_owned() } else { looked.join(", ") }
    );
    BackendError::Missing { what: what.into(), hint }
}

/// The directories to look in, in order. Test programs lie in a directory `deps` below the
/// programs they test.
fn places(libexec: Option<OsString>, exe: Option<&Path>) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> =
        libexec.filter(|dir| !dir.is_empty()).map(PathBuf::from).into_iter().collect();
    if let Some(dir) = exe.and_then(Path::parent) {
        places.push(dir.to_owned());
        let parent = dir.parent().unwrap_or(dir);
        if dir.file_name().is_some_and(|name| name == "deps") {
            places.push(parent.to_owned());
        }
        places.push(parent.join("libexec/kxl"));
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_comes_first_then_the_neighbours() {
        let places = places(Some("/opt/x".into()), Some(Path::new("/usr/bin/kxl")));
        assert_eq!(places, ["/opt/x", "/usr/bin", "/usr/libexec/kxl"].map(PathBuf::from));
    }

    #[test]
    fn test_programs_find_the_programs_they_were_built_with() {
        let places = places(None, Some(Path::new("/t/debug/deps/lifecycle-0f")));
        assert!(places.contains(&PathBuf::from("/t/debug")));
    }

    #[test]
    fn a_missing_program_says_where_it_was_looked_for() {
        let error = missing(NAME, &[PathBuf::from("/usr/libexec/kxl")]);
        let BackendError::Missing { what, hint } = error else { panic!("{error}") };
        assert_eq!(what, "kxl-mock");
        assert!(hint.contains("/usr/libexec/kxl") && hint.contains("KXL_LIBEXEC"), "{hint}");
    }
}
