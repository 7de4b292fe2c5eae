//! Whether a user could write a file, by the modes of what is there already.
//!
//! Nothing is made or opened: an import is a look. Access lists and read-only file systems are not
//! seen; the start of the domain says what really is so.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Who writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Writer {
    pub(super) uid: u32,
    pub(super) groups: Vec<u32>,
}

const WRITE: u32 = 0o2;
const SEARCH: u32 = 0o1;

impl Writer {
    /// Why this file could not be written, or not be made where there is none.
    pub(super) fn problem(&self, path: &Path) -> Option<String> {
        let directory = path.parent()?;
        for above in directory.ancestors().collect::<Vec<_>>().into_iter().rev() {
            match fs::metadata(above) {
                Ok(meta) if self.may(&meta, SEARCH) => {}
                Ok(meta) => return Some(format!("may not go into {}", described(above, &meta))),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Some(format!("finds no directory {}", above.display()));
                }
                // Nothing is known then.
                Err(_) => return None,
            }
        }
        let (what, meta, doing) = match fs::metadata(path) {
            Ok(meta) => (path, meta, "write"),
            Err(_) => (directory, fs::metadata(directory).ok()?, "make a file in"),
        };
        (!self.may(&meta, WRITE)).then(|| format!("may not {doing} {}", described(what, &meta)))
    }

    fn may(&self, meta: &Metadata, what: u32) -> bool {
        let mode = meta.permissions().mode();
        let bits = if self.uid == 0 {
            return true;
        } else if meta.uid() == self.uid {
            mode >> 6
        } else if self.groups.contains(&meta.gid()) {
            mode >> 3
        } else {
            mode
        };
        bits & what != 0
    }
}

fn described(path: &Path, meta: &Metadata) -> String {
    let mode = meta.permissions().mode() & 0o7777;
    format!("{} (mode {mode:o}, of uid {} and gid {})", path.display(), meta.uid(), meta.gid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_modes_of_what_is_there_decide() {
        let dir = std::env::temp_dir().join(format!("kxl-writable-{}", std::process::id()));
        let (open, shut) = (dir.join("open"), dir.join("shut"));
        for (path, mode) in [(&dir, 0o755), (&open, 0o777), (&shut, 0o700)] {
            fs::create_dir(path).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let file = open.join("file");
        fs::write(&file, "").unwrap();
        let meta = fs::metadata(&file).unwrap();
        let other = Writer { uid: meta.uid() + 1, groups: vec![meta.gid() + 1] };
        let group = Writer { uid: meta.uid() + 1, groups: vec![meta.gid()] };
        let problem = |writer: &Writer, path: &Path| writer.problem(path).unwrap_or_default();

        assert_eq!(problem(&other, &open.join("new")), "");
        assert!(problem(&other, &dir.join("new")).starts_with("may not make a file in "));
        assert!(problem(&other, &shut.join("new")).starts_with("may not go into "));
        assert!(problem(&other, &dir.join("no/new")).starts_with("finds no directory "));
        for (mode, by_other, by_group) in [(0o664, false, true), (0o606, true, false)] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let may = [&other, &group].map(|writer| writer.problem(&file).is_none());
            assert_eq!(may, [by_other, by_group], "{mode:o}");
        }
        let owner = Writer { uid: meta.uid(), groups: Vec::new() };
        assert_eq!(problem(&owner, &shut.join("new")), "");
        assert_eq!(problem(&Writer { uid: 0, groups: Vec::new() }, &shut.join("new")), "");
        fs::remove_dir_all(&dir).unwrap();
    }
}
