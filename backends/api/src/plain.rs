//! Reading files that somebody else may have put there: plain ones only, and none without an end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A fifo would hold the open up, a terminal would become ours.
const FLAGS: i32 = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;

/// As much as is read of a configuration or a script: what people write is far smaller.
pub const MOST: u64 = 1 << 20;

/// Opens a plain file for reading. Never waits, and is no more than a look at anything else.
///
/// # Errors
/// When there is none, and for everything that is not a plain file.
pub fn open(path: &Path) -> io::Result<File> {
    // Some devices act on being opened alone; what is there by then is looked at below.
    is_plain(&fs::metadata(path)?)?;
    let file = OpenOptions::new().read(true).custom_flags(FLAGS).open(path)?;
    is_plain(&file.metadata()?)?;
    Ok(file)
}

fn is_plain(meta: &fs::Metadata) -> io::Result<()> {
    if meta.is_file() { Ok(()) } else { Err(io::Error::other("it is not a plain file")) }
}

/// The beginning of a plain file, at most so many bytes.
///
/// # Errors
/// As [`open`], and when it cannot be read.
pub fn head(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A plain file as a whole, which is refused where it has more than so many bytes.
///
/// # Errors
/// As [`head`], and [`io::ErrorKind::FileTooLarge`].
pub fn whole(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let bytes = head(path, most.saturating_add(1))?;
    if bytes.len() as u64 > most {
        let text = format!("it is larger than {most} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_plain_files_is_read_and_nothing_waits_or_grows() {
        let dir = std::env::temp_dir().join(format!("kxl-plain-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let at = |name: &str| dir.join(name);
        fs::write(at("file"), "12345").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _bound = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        assert_eq!(head(&at("link"), 3).unwrap(), b"123");
        assert_eq!(whole(&at("file"), 5).unwrap(), b"12345");
        let error = whole(&at("file"), 4).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        for path in [at("fifo"), at("socket"), dir.clone(), "/dev/zero".into(), "/dev/tty".into()] {
            assert!(head(&path, 1).is_err(), "{}", path.display());
        }
        assert_eq!(open(&at("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::remove_dir_all(&dir).unwrap();
    }
}
