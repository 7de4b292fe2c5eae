//! Running a script of the operator's from a command, with a deadline, and hearing what it says.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeReader, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How much of what it says is kept; the rest is read and dropped.
const KEPT: usize = 16 << 10;

/// How often a script is looked at that has closed its output.
const LOOK: Duration = Duration::from_millis(20);

/// What to run, without a shell.
#[derive(Clone, Debug)]
pub struct Script {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// What it finds in its environment besides ours.
    pub env: Vec<(OsString, OsString)>,
    /// How long it may take.
    pub patience: Duration,
    /// The file that it writes to, errors as well, so that it can go on when we are gone; without
    /// one, its standard output is heard through a pipe.
    pub output: Option<PathBuf>,
    /// Set while it runs, it is ended as if its time were up.
    pub cancel: Arc<AtomicBool>,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself.
    Status {
        /// Its exit code; `None` when a signal ended it.
        code: Option<i32>,
        /// What it wrote: the beginning of it, or of a file the end.
        said: String,
    },
    /// It took too long, and was ended with all that it had started in its process group.
    TooLate,
}

/// Runs a script to its end.
///
/// # Errors
/// When it cannot be started.
pub fn run(script: &Script) -> io::Result<Ended> {
    let until = Instant::now() + script.patience;
    let (read, output, errors): (_, Stdio, Stdio) = match &script.output {
        Some(file) => {
            let file = File::create(file)?;
            (None, file.try_clone()?.into(), file.into())
        }
        None => {
            let (read, write) = io::pipe()?;
            (Some(read), write.into(), Stdio::null())
        }
    };
    // Dropped with its ends of the pipe.
    let mut child = Command::new(&script.program)
        .args(&script.args)
        .envs(script.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .process_group(0)
        .spawn()?;
    let ended = attend(&mut child, read, until, &script.cancel);
    if !matches!(ended, Ok(Ended::Status { .. })) {
        end(&mut child)?;
    }
    match (ended, &script.output) {
        (Ok(Ended::Status { code, .. }), Some(file)) => {
            Ok(Ended::Status { code, said: tail(file)? })
        }
        (ended, _) => ended,
    }
}

/// The end of what was written to a file.
fn tail(file: &Path) -> io::Result<String> {
    let mut file = File::open(file)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(KEPT as u64)))?;
    let mut bytes = Vec::new();
    file.take(KEPT as u64).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn attend(
    child: &mut Child,
    mut stdout: Option<PipeReader>,
    until: Instant,
    cancel: &AtomicBool,
) -> io::Result<Ended> {
    let mut said = Vec::new();
    loop {
        let status = child.try_wait()?;
        let left = match cancel.load(Ordering::Relaxed) {
            true => Duration::ZERO,
            false => until.saturating_duration_since(Instant::now()),
        };
        // What it has left running may keep the pipe open: only what is there already is read.
        let wait = if status.is_some() { Duration::ZERO } else { left.min(LOOK) };
        let mut more = false;
        if let Some(pipe) = &mut stdout {
            match piece(pipe, wait)? {
                Piece::Bytes(bytes) => {
                    let room = KEPT.saturating_sub(said.len()).min(bytes.len());
                    said.extend_from_slice(&bytes[..room]);
                    more = room > 0;
                }
                Piece::Nothing => {}
                Piece::End => stdout = None,
            }
        } else if status.is_none() {
            std::thread::sleep(wait);
        }
        match status {
            Some(status) if !more => {
                let said = String::from_utf8_lossy(&said).into_owned();
                return Ok(Ended::Status { code: status.code(), said });
            }
            None if left.is_zero() => return Ok(Ended::TooLate),
            _ => {}
        }
    }
}

enum Piece {
    Bytes(Vec<u8>),
    Nothing,
    End,
}

fn piece(pipe: &mut (impl Read + AsFd), wait: Duration) -> io::Result<Piece> {
    let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO)) {
        Ok(0) | Err(nix::errno::Errno::EINTR) => return Ok(Piece::Nothing),
        Ok(_) => {}
        Err(errno) => return Err(errno.into()),
    }
    let mut bytes = vec![0; KEPT];
    let count = pipe.read(&mut bytes)?;
    bytes.truncate(count);
    Ok(if count == 0 { Piece::End } else { Piece::Bytes(bytes) })
}

/// Ends the script and its group. It is not reaped before, so that the number is its own.
fn end(child: &mut Child) -> io::Result<()> {
    let group = Pid::from_raw(child.id().cast_signed());
    if let Err(error) = killpg(group, Signal::SIGKILL) {
        tracing::debug!(%error, "a script's group is gone");
    }
    child.kill()?;
    child.wait().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(text: &str, patience: Duration) -> Ended {
        let args = vec!["-c".into(), text.into()];
        let env = vec![("WORD".into(), "it".into())];
        let cancel = Arc::default();
        let program = "/bin/sh".into();
        run(&Script { program, args, env, patience, output: None, cancel }).unwrap()
    }

    #[test]
    fn a_script_is_heard_and_what_it_leaves_behind_is_not_waited_for() {
        const LONG: Duration = Duration::from_secs(60);
        let status = |code, said: &str| Ended::Status { code, said: said.to_owned() };
        assert_eq!(shell("echo $WORD; exit 3", LONG), status(Some(3), "it\n"));
        assert_eq!(shell("exec >&-; sleep 0.1; exit 4", LONG), status(Some(4), ""));
        assert_eq!(shell("sleep 5 & echo left", LONG), status(Some(0), "left\n"));
        let Ended::Status { said, .. } = shell("yes | head -c 100000; echo no >&2", LONG) else {
            panic!("it took too long");
        };
        assert_eq!(said.len(), KEPT);
    }

    #[test]
    fn one_that_takes_too_long_is_ended_with_its_children() {
        let scratch = std::env::temp_dir().join(format!("kxl-script-{}", std::process::id()));
        let text = format!("sleep 1000 & echo $! > {}; wait", scratch.display());
        assert_eq!(shell(&text, Duration::from_millis(500)), Ended::TooLate);
        let pid: i32 = std::fs::read_to_string(&scratch).unwrap().trim().parse().unwrap();
        std::fs::remove_file(&scratch).unwrap();
        let identity = kxl_backend::Identity::of(pid);
        while identity.as_ref().is_ok_and(kxl_backend::Identity::alive) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
