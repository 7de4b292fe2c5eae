//! Finding an emulator and asking it what it is.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kxl_backend::{BackendError, spawn};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Directories that are searched, in order, beside those of `PATH`.
const USUAL: &[&str] = &["/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin", "/bin"];

/// How long an emulator may take to print its version.
const PROBE: Duration = Duration::from_secs(10);

/// The executable file of this name or path; `None` when there is none.
#[must_use]
pub fn find(program: &Path) -> Option<PathBuf> {
    let executable = |path: &Path| {
        fs::metadata(path)
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if program.components().count() > 1 || program.is_absolute() {
        return executable(program).then(|| program.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .chain(USUAL.iter().map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|path| executable(path))
}

/// What tells one build of a program from another without running it.
///
/// # Errors
/// When the file cannot be looked at.
pub fn stamp(path: &Path) -> std::io::Result<String> {
    let meta = fs::metadata(path)?;
    Ok(format!("{} {}.{} {}", path.display(), meta.mtime(), meta.mtime_nsec(), meta.size()))
}

/// Runs a program that prints something and ends by itself; standard output as text, at most 1 MiB.
/// Blocks the caller, at most ten seconds.
///
/// # Errors
/// [`BackendError::Launch`] when it cannot be run, [`BackendError::TimedOut`] when it does not end.
pub fn output(program: &Path, args: &[&str]) -> Result<String, BackendError> {
    answer(program, args, "")
}

/// The same of a program that reads `input` first, at most a few lines.
///
/// # Errors
/// As [`output`].
pub fn answer(program: &Path, args: &[&str], input: &str) -> Result<String, BackendError> {
    let name = program.display().to_string();
    let failed = |error: std::io::Error| BackendError::Launch {
        program: name.clone(),
        why: error.to_string(),
    };
    let (read, write) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|errno| failed(errno.into()))?;
    // Short enough for the pipe to take it whole.
    let (stdin, typed) = std::io::pipe().map_err(failed)?;
    (&typed).write_all(input.as_bytes()).map_err(failed)?;
    drop(typed);
    let quiet = fs::OpenOptions::new().write(true).open("/dev/null").map_err(failed)?;
    let mut command = spawn::Command::new(program).map_err(failed)?;
    for arg in args {
        command.arg(arg).map_err(failed)?;
    }
    command.fd(stdin.into(), 0).fd(write, 1).fd(quiet.into(), 2);
    // Whatever happens below, nothing of it is left when this goes out of scope.
    let _probe =
        crate::kill::Doomed::new(spawn::spawn(command).map_err(failed)?.open().map_err(failed)?);

    let deadline = Instant::now() + PROBE;
    let mut pipe = fs::File::from(read);
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, left).map_err(|errno| failed(errno.into()))? == 0 {
            return Err(BackendError::TimedOut {
                waited_for: format!("output of {name}"),
                after: PROBE,
            });
        }
        let count = pipe.read(&mut buffer).map_err(failed)?;
        if count == 0 || text.len() > 1 << 20 {
            break;
        }
        text.extend_from_slice(&buffer[..count]);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_name_and_by_path() {
        assert!(find(Path::new("sh")).is_some_and(|path| path.is_absolute()));
        assert_eq!(find(Path::new("/bin/sh")), Some("/bin/sh".into()));
        assert_eq!(find(Path::new("/etc/passwd")), None, "not executable");
        assert_eq!(find(Path::new("no-such-simulator")), None);
    }

    #[test]
    fn the_output_of_a_program_is_read_to_its_end() {
        let text =
            output(Path::new("/bin/sh"), &["-c", "echo one; echo two; echo no >&2"]).unwrap();
        assert_eq!(text, "one\ntwo\n");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = output(Path::new("/nonexistent/x"), &[]).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/x did not start"), "{error}");
    }
}
