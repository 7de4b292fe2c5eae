//! The password: asked for without an echo, kept as an Argon2 hash only.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use kxl_domain::{Failure, Kind};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

/// Longest password in bytes.
pub(crate) const LONGEST: usize = 1024;

/// Where a password is looked for that nobody should see among the arguments of a process.
pub(crate) const VARIABLE: &str = "KXL_PASSWORD";

/// The key that gives up.
const INTERRUPT: char = '\u{3}';

/// The hash of a new password, to be kept in kxl.conf.
///
/// # Errors
/// [`Kind::Usage`] for an empty one; [`Kind::Internal`] without random numbers.
pub(crate) fn hash(password: &str) -> Result<String, Failure> {
    if password.is_empty() {
        return Err(Failure::new(Kind::Usage, "an empty password is none"));
    }
    let hash: PasswordHash = Argon2::default()
        .hash_password(password.as_bytes())
        .map_err(|error| Failure::because(Kind::Internal, "cannot hash the password", &error))?;
    Ok(hash.to_string())
}

/// Whether this is the hash of a password.
///
/// # Errors
/// [`Kind::Usage`] when it is not.
pub(crate) fn check_hash(hash: &str) -> Result<(), Failure> {
    let known = PasswordHash::new(hash).is_ok_and(|hash| hash.algorithm.as_str() == "argon2id");
    if known {
        return Ok(());
    }
    let text = "kxl.conf: control_password_hash is no hash of a password";
    Err(Failure::new(Kind::Usage, text).hint("kxl gate password prints the line"))
}

/// Whether a password is the one that was hashed. Takes some memory and time, that is its point.
pub(crate) fn is_right(password: &str, hash: &str) -> bool {
    let Ok(hash) = PasswordHash::new(hash) else { return false };
    password.len() <= LONGEST
        && Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()
}

/// Asks at the terminal, without an echo.
///
/// # Errors
/// When there is no terminal, or the interrupt key was hit.
pub(crate) fn ask(prompt: &str) -> Result<String, Failure> {
    let failed = |e: &dyn std::error::Error| {
        Failure::because(
            Kind::Failed,
            "cannot ask for the password",
            &io::Error::other(e.to_string()),
        )
        .hint(format!("without a terminal, set {VARIABLE} or name a file"))
    };
    let mut terminal =
        File::options().read(true).write(true).open("/dev/tty").map_err(|e| failed(&e))?;
    let before = tcgetattr(terminal.as_fd()).map_err(|e| failed(&e))?;
    let mut silent = before.clone();
    // No signals either: an interrupt would leave the terminal without an echo.
    silent.local_flags.remove(LocalFlags::ECHO | LocalFlags::ISIG);
    tcsetattr(terminal.as_fd(), SetArg::TCSAFLUSH, &silent).map_err(|e| failed(&e))?;
    let read = terminal.write_all(prompt.as_bytes()).and_then(|()| line(&terminal));
    let restored = tcsetattr(terminal.as_fd(), SetArg::TCSAFLUSH, &before);
    drop(terminal.write_all(b"\n"));
    let typed = read.map_err(|e| failed(&e))?;
    restored.map_err(|e| failed(&e))?;
    if typed.contains(INTERRUPT) {
        return Err(Failure::new(Kind::Failed, "no password was given"));
    }
    Ok(typed)
}

/// One line, without its end.
fn line(from: impl Read) -> io::Result<String> {
    let mut text = String::new();
    let limit = u64::try_from(LONGEST + 2).unwrap_or(u64::MAX);
    BufReader::new(from.take(limit)).read_line(&mut text)?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.len() > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
    }
    Ok(text.to_owned())
}

/// The first line of a file.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn from_file(path: &Path) -> Result<String, Failure> {
    let attempt = format!("cannot read the password in {}", path.display());
    let read = File::open(path).and_then(line);
    read.map_err(|error| Failure::because(Kind::Failed, attempt, &error))
}

/// A new password: typed twice at a terminal, else a line of standard input.
///
/// # Errors
/// When the two differ, or nothing can be read.
pub(crate) fn new() -> Result<String, Failure> {
    if !io::stdin().is_terminal() {
        return line(io::stdin().lock())
            .map_err(|e| Failure::because(Kind::Failed, "cannot read the password", &e));
    }
    let first = ask("New password: ")?;
    if ask("Again: ")? != first {
        return Err(Failure::new(Kind::Usage, "the two passwords differ"));
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_right_for_its_own_hash_only() {
        let first = hash("correct horse").unwrap();
        assert!(first.starts_with("$argon2id$"), "{first}");
        assert_ne!(first, hash("correct horse").unwrap(), "salted");
        assert!(is_right("correct horse", &first));
        assert!(!is_right("correct horse ", &first));
        assert!(!is_right("", &first));
        assert!(!is_right("correct horse", "correct horse"));
        hash("").unwrap_err();
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        check_hash(&hash("x").unwrap()).unwrap();
        for bad in ["", "x", "$1$abc$def", "$argon2id$", "$pbkdf2-sha256$i=1$c2FsdHNhbHQ$aGFzaA"] {
            assert!(check_hash(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_line_loses_its_end_and_may_not_be_too_long() {
        assert_eq!(line(&b"secret\r\nmore"[..]).unwrap(), "secret");
        assert_eq!(line(&b" a b "[..]).unwrap(), " a b ");
        let long = vec![b'x'; LONGEST + 1];
        line(&long[..]).unwrap_err();
        line(&long[1..]).unwrap();
    }
}
