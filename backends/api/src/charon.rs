//! Charon's configurations as files.

use std::io;
use std::path::Path;

use kxl_domain::charon::{self, CharonError, Configuration};

use crate::plain;

/// Why a configuration cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file.
    #[error("{0}")]
    File(io::Error),
    /// What stands in it.
    #[error(transparent)]
    Text(CharonError),
}

/// Reads a configuration; what it includes is looked for beside it.
///
/// # Errors
/// [`ReadError`].
pub fn read(file: &Path) -> Result<Configuration, ReadError> {
    let beside = file.parent().unwrap_or(file);
    let include = |name: &str| contents(&beside.join(name)).ok();
    charon::parse(&contents(file).map_err(ReadError::File)?, include).map_err(ReadError::Text)
}

/// A file's text. Nothing but a plain file is opened: others may never come to an end.
fn contents(file: &Path) -> io::Result<String> {
    // Comments may be in any encoding.
    Ok(String::from_utf8_lossy(&plain::head(file, plain::MOST)?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read_with_what_lies_beside_it() {
        let dir = std::env::temp_dir().join(format!("kxl-charon-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("ds20.cfg");
        std::fs::write(&file, "set session hw_model=AlphaServer_DS20\ninclude name.icfg\n")
            .unwrap();
        assert!(matches!(read(&file), Err(ReadError::Text(_))));
        std::fs::write(dir.join("name.icfg"), "set session configuration_name=\"vms\"\n").unwrap();
        let facts = charon::facts(&read(&file).unwrap());
        assert_eq!(facts.name.as_deref(), Some("vms"));
        assert!(matches!(read(&dir), Err(ReadError::File(_))));
        // Neither one nor what it includes holds anybody up.
        let fifo = dir.join("fifo.icfg");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(read(&fifo), Err(ReadError::File(_))));
        std::fs::write(&file, "set session hw_model=AlphaServer_DS20\ninclude fifo.icfg\n")
            .unwrap();
        assert!(matches!(read(&file), Err(ReadError::Text(_))));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
