//! The directory of hooks: which programs are told of events, and of which.
//!
//! A file there is a hook if it is executable and its name has only letters, digits and `_ - .`,
//! without what package managers leave behind. What others than root or the user of kxl may change
//! is none of ours to run.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use kxl_backend::trusted::problem;
use kxl_store::Severity;

/// Ends of names that package managers give to files that are not in use.
const LEFTOVERS: &[&str] =
    &[".dpkg-old", ".dpkg-new", ".dpkg-dist", ".rpmsave", ".rpmnew", ".rpmorig"];

/// Of which events a hook is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tells {
    /// Of all.
    All,
    /// Of warnings and alerts: the name ends in `.warning`.
    Warnings,
    /// Of alerts, each once while it is open: the name ends in `.alert`.
    Alerts,
}

impl Tells {
    fn of(name: &str) -> Self {
        match name.rsplit_once('.').map(|(_, end)| end) {
            Some("alert") => Self::Alerts,
            Some("warning") => Self::Warnings,
            _ => Self::All,
        }
    }

    /// Whether events of this severity are among them.
    #[must_use]
    pub fn includes(self, severity: Severity) -> bool {
        severity
            >= match self {
                Self::All => Severity::Info,
                Self::Warnings => Severity::Warning,
                Self::Alerts => Severity::Alert,
            }
    }
}

/// A program that is told of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Its name in the directory.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Of which events it is told.
    pub tells: Tells,
    /// When it was put there or last changed: it is not told of what was before.
    pub since_ms: i64,
}

/// What is in the directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// What is run, in order of names.
    pub hooks: Vec<Hook>,
    /// What is not, although it looks as if it should be: name and why.
    pub refused: Vec<(String, String)>,
}

/// The name under which a problem of the directory itself is told; no file's name looks like it.
pub const DIRECTORY: &str = "(hooks.d)";

/// Looks at the directory.
#[must_use]
pub fn find(dir: &Path) -> Found {
    let mut found = Found::default();
    let whole = |problem: String| Found {
        hooks: Vec::new(),
        refused: vec![(DIRECTORY.to_owned(), problem)],
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return found,
        Err(error) => return whole(format!("cannot read {}: {error}", dir.display())),
    };
    match fs::metadata(dir) {
        Ok(meta) => {
            if let Some(problem) = problem(dir, &meta) {
                return whole(problem);
            }
        }
        Err(error) => return whole(format!("cannot look at {}: {error}", dir.display())),
    }
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return whole(format!("cannot read {}: {error}", dir.display())),
        };
        let Some(name) = entry.file_name().to_str().filter(|name| is_name(name)).map(str::to_owned)
        else {
            continue;
        };
        let path = dir.join(&name);
        // Through a link: what is run is what it leads to. One that leads nowhere is no program.
        let Ok(meta) = fs::metadata(&path) else { continue };
        if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
            continue;
        }
        match problem(&path, &meta) {
            Some(problem) => found.refused.push((name, problem)),
            None => {
                let since_ms = meta.ctime() * 1000 + meta.ctime_nsec() / 1_000_000;
                found.hooks.push(Hook { tells: Tells::of(&name), name, path, since_ms });
            }
        }
    }
    found.hooks.sort_by(|a, b| a.name.cmp(&b.name));
    found.refused.sort();
    found
}

/// Whether something there is to be told, or complained, of after an event of this severity.
pub(crate) fn any(dir: &Path, severity: Option<Severity>) -> bool {
    let found = find(dir);
    let wants = |hook: &Hook| severity.is_none_or(|severity| hook.tells.includes(severity));
    !found.refused.is_empty() || found.hooks.iter().any(wants)
}

fn is_name(name: &str) -> bool {
    !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
        && !LEFTOVERS.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("kxl-{name}-{}", std::process::id()));
            fs::create_dir(&dir).unwrap();
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
            Self(dir)
        }

        fn put(&self, name: &str, mode: u32) {
            fs::write(self.0.join(name), "x").unwrap();
            fs::set_permissions(self.0.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn executables_of_good_names_are_hooks_in_order_of_their_names() {
        let dir = Dir::new("hooks-names");
        for name in ["20-b.alert", "10-a", "5.warning", "a~", ".x", "a b", "c.dpkg-old", "ü"] {
            dir.put(name, 0o755);
        }
        dir.put("readme", 0o644);
        fs::create_dir(dir.0.join("sub")).unwrap();
        std::os::unix::fs::symlink("/bin/true", dir.0.join("true")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.0.join("broken")).unwrap();
        let found = find(&dir.0);
        let hooks: Vec<_> = found.hooks.iter().map(|h| (h.name.as_str(), h.tells)).collect();
        assert_eq!(
            hooks,
            [
                ("10-a", Tells::All),
                ("20-b.alert", Tells::Alerts),
                ("5.warning", Tells::Warnings),
                ("true", Tells::All)
            ]
        );
        assert!(found.refused.is_empty(), "{found:?}");
        assert!(any(&dir.0, Some(Severity::Info)) && any(&dir.0, None));
    }

    #[test]
    fn what_others_may_write_is_refused_with_the_reason() {
        let dir = Dir::new("hooks-modes");
        dir.put("a", 0o775);
        dir.put("b", 0o757);
        dir.put("c", 0o700);
        let found = find(&dir.0);
        assert_eq!(found.hooks.len(), 1);
        let names: Vec<_> = found.refused.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(found.refused[0].1.contains("mode 775"), "{found:?}");
        fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o777)).unwrap();
        let found = find(&dir.0);
        assert!(found.hooks.is_empty() && found.refused[0].0 == DIRECTORY, "{found:?}");
    }

    #[test]
    fn without_a_directory_there_is_nothing_to_tell() {
        let dir = std::env::temp_dir().join("kxl-hooks-that-are-not-there");
        assert_eq!(find(&dir), Found::default());
        assert!(!any(&dir, Some(Severity::Alert)));
    }

    #[test]
    fn a_hook_for_alerts_is_not_started_for_less() {
        let dir = Dir::new("hooks-less");
        dir.put("mail.alert", 0o755);
        assert!(!any(&dir.0, Some(Severity::Warning)));
        assert!(any(&dir.0, Some(Severity::Alert)));
    }
}
