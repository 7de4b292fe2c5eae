//! Whether a program of the operator's is the operator's: nobody else has a say in what it does.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// In a directory with this bit nobody can take away or replace what is not their own.
const STICKY: u32 = 0o1000;

/// Why others than root and our user could have a say in what stands in a file or directory.
#[must_use]
pub fn problem(path: &Path, meta: &Metadata) -> Option<String> {
    owner(path, meta).or_else(|| writers(path, meta))
}

/// Why others could have a say in what a program does that we are about to run: by the file, by the
/// link to it, or by the directory of either. What cannot be looked at is not trusted, but for one
/// that is not there: whoever runs it says that.
#[must_use]
pub fn of_program(path: &Path) -> Option<String> {
    match look(path) {
        Ok(problem) => problem,
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(format!("cannot look at {}: {error}", path.display())),
    }
}

fn look(path: &Path) -> io::Result<Option<String>> {
    if let Some(problem) = problem(path, &fs::metadata(path)?) {
        return Ok(Some(problem));
    }
    // A link can be led elsewhere by its owner; its mode says nothing.
    if let Some(problem) = owner(path, &fs::symlink_metadata(path)?) {
        return Ok(Some(problem));
    }
    let real = fs::canonicalize(path)?;
    for directory in [path.parent(), real.parent()].into_iter().flatten() {
        let here = directory.as_os_str().is_empty();
        let directory = if here { Path::new(".") } else { directory };
        let meta = fs::metadata(directory)?;
        let sticky = meta.permissions().mode() & STICKY != 0;
        let writers = if sticky { None } else { writers(directory, &meta) };
        if let Some(problem) = owner(directory, &meta).or(writers) {
            return Ok(Some(problem));
        }
    }
    Ok(None)
}

fn owner(path: &Path, meta: &Metadata) -> Option<String> {
    let (owner, user) = (meta.uid(), nix::unistd::geteuid().as_raw());
    let ours = owner == 0 || owner == user;
    (!ours).then(|| format!("{} belongs to uid {owner}; chown it", path.display()))
}

fn writers(path: &Path, meta: &Metadata) -> Option<String> {
    let mode = meta.permissions().mode() & 0o7777;
    (mode & 0o022 != 0).then(|| {
        format!("{} can be written by others (mode {mode:o}); chmod go-w it", path.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_trusted_by_its_file_its_link_and_their_directories() {
        let top = std::env::temp_dir().join(format!("kxl-trusted-{}", std::process::id()));
        let (own, other) = (top.join("own"), top.join("other"));
        let set = |path: &Path, mode: u32| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        for dir in [&top, &own, &other] {
            fs::create_dir_all(dir).unwrap();
            set(dir, 0o755);
        }
        let (script, link) = (own.join("script"), other.join("link"));
        fs::write(&script, "#!/bin/sh\n").unwrap();
        std::os::unix::fs::symlink(&script, &link).unwrap();
        set(&script, 0o755);
        assert_eq!((of_program(&script), of_program(&link)), (None, None));
        assert_eq!(of_program(&own.join("none")), None);
        for mode in [0o775, 0o757] {
            set(&script, mode);
            assert!(of_program(&link).unwrap().contains(&format!("mode {mode:o}")));
        }
        set(&script, 0o755);
        set(&own, 0o777);
        // The script's own directory counts behind a link as well.
        for path in [&script, &link] {
            assert!(of_program(path).unwrap().contains(&format!("{} can be", own.display())));
        }
        set(&own, 0o1777);
        assert_eq!(of_program(&script), None);
        set(&other, 0o775);
        assert!(of_program(&link).unwrap().contains(&format!("{} can be", other.display())));
        // Only root can give files away.
        if nix::unistd::geteuid().is_root() {
            set(&own, 0o755);
            std::os::unix::fs::chown(&script, Some(65534), None).unwrap();
            assert!(of_program(&script).unwrap().contains("belongs to uid 65534"));
        }
        fs::remove_dir_all(&top).unwrap();
    }
}
