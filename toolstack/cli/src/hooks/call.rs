//! Running one program over one event, with an end to it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use kxl_backend::Process;
use kxl_backend::spawn::{Command, spawn};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

/// How much of what a program prints is kept: its end.
const KEPT: usize = 2048;

/// What a program inherits beside what it is told: which host this is.
const INHERITED: &[&str] = &[
    "KXL_ROOT",
    "KXL_LIBEXEC",
    "KXL_BOOT_ID",
    "HOME",
    "XDG_CONFIG_HOME",
    "XDG_STATE_HOME",
    "XDG_RUNTIME_DIR",
    "TZ",
];

/// What is run.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    /// The program.
    pub(crate) program: &'a Path,
    /// Its arguments.
    pub(crate) args: &'a [&'a str],
    /// Its environment, beside what every program gets.
    pub(crate) env: &'a [(&'static str, String)],
    /// What it reads from its standard input.
    pub(crate) input: &'a [u8],
    /// How long it may take.
    pub(crate) timeout: Duration,
}

/// Runs the program and waits for its end; `Err` says in a few words why it did not do its work.
pub(crate) fn call(what: &Call<'_>) -> Result<(), String> {
    let (process, output) = start(what).map_err(|error| not_started(&error))?;
    let mut output = File::from(output);
    let mut heard = Vec::new();
    let ended = watch(&process, &mut output, &mut heard, what.timeout);
    if !matches!(ended, Ok(true)) {
        // Not reaped yet, so the number of the group is still its own.
        if let Err(error) = killpg(Pid::from_raw(process.identity().pid), Signal::SIGKILL) {
            tracing::warn!(%error, "a hook is not ended with all that it has started");
        }
        drop(process.signal(Signal::SIGKILL));
    }
    let status = waitid(Id::PIDFd(process.pidfd()), WaitPidFlag::WEXITED);
    // What it said last may have come after it was last looked.
    hear(&mut output, &mut heard);
    let seconds = what.timeout.as_secs();
    let how = match (ended, status) {
        (Ok(false), _) => format!("it was ended after {seconds} s"),
        (Err(error), _) => format!("it could not be waited for: {error}"),
        (_, Ok(WaitStatus::Exited(_, 0))) => return Ok(()),
        (_, Ok(WaitStatus::Exited(_, code))) => format!("exit status {code}"),
        (_, Ok(WaitStatus::Signaled(_, signal, _))) => format!("it was killed by {signal}"),
        (_, Ok(other)) => format!("it ended oddly: {other:?}"),
        (_, Err(error)) => format!("how it ended is unknown: {error}"),
    };
    Err(match last_line(&heard) {
        Some(line) => format!("{how}: {line}"),
        None => how,
    })
}

fn not_started(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(nix::libc::ENOEXEC) => {
            "it is neither a program nor a script with #! in its first line".to_owned()
        }
        _ => format!("it cannot be executed: {error}"),
    }
}

/// Starts it in a session of its own: process and what it prints.
fn start(what: &Call<'_>) -> io::Result<(Process, OwnedFd)> {
    let mut input = File::from(memfd_create("kxl-event", MFdFlags::MFD_CLOEXEC)?);
    input.write_all(what.input)?;
    input.seek(SeekFrom::Start(0))?;
    let (output, theirs) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let mut command = Command::new(what.program)?;
    for arg in what.args {
        command.arg(arg)?;
    }
    for key in INHERITED {
        if let Some(value) = std::env::var_os(key) {
            let mut entry = std::ffi::OsString::from(key);
            entry.push("=");
            entry.push(value);
            command.env(entry)?;
        }
    }
    for (name, value) in what.env {
        // What ends a string of the environment cannot be in one.
        command.env(format!("{name}={}", value.replace('\0', " ")))?;
    }
    command.fd(input.into(), 0).fd(theirs.try_clone()?, 1).fd(theirs, 2);
    Ok((spawn(command)?.open()?, output))
}

/// Waits for the end of the program and hears what it prints; `false` when its time is up.
fn watch(
    process: &Process,
    output: &mut File,
    heard: &mut Vec<u8>,
    timeout: Duration,
) -> io::Result<bool> {
    let until = Instant::now() + timeout;
    let mut open = true;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let patience = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        let events = |wanted| if wanted { PollFlags::POLLIN } else { PollFlags::empty() };
        let mut fds = [
            PollFd::new(process.pidfd(), PollFlags::POLLIN),
            PollFd::new(output.as_fd(), events(open)),
        ];
        // A pipe that is closed would wake us again and again.
        let fds = if open { &mut fds[..] } else { &mut fds[..1] };
        match poll(fds, patience) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if fds[0].any().unwrap_or(false) {
            return Ok(true);
        }
        if fds.get(1).and_then(PollFd::any).unwrap_or(false) {
            open = hear(output, heard);
        }
    }
}

/// Takes what is in the pipe and keeps its end; whether more may come. Once round: a program that
/// prints for ever must not keep us from looking at the clock.
fn hear(output: &mut File, heard: &mut Vec<u8>) -> bool {
    let mut chunk = [0; 65_536];
    match output.read(&mut chunk) {
        Ok(0) => false,
        Ok(count) => {
            heard.extend_from_slice(&chunk[..count]);
            let excess = heard.len().saturating_sub(KEPT);
            heard.drain(..excess);
            true
        }
        Err(error) => {
            matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
        }
    }
}

fn last_line(heard: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(heard);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.chars().take(300).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, timeout: Duration) -> Result<(), String> {
        call(&Call {
            program: Path::new("/bin/sh"),
            args: &["-c", script],
            env: &[("KXL_EVENT_TEXT", "a\0b".to_owned())],
            input: b"{}\n",
            timeout,
        })
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_program_is_told_by_environment_and_input_and_nothing_else_is_open() {
        let script = "read line && [ \"$line\" = '{}' ] && [ \"$KXL_EVENT_TEXT\" = 'a b' ] \
                      && [ $(ls /proc/self/fd | wc -l) -le 4 ] || { ls -l /proc/self/fd; exit 1; }";
        assert_eq!(sh(script, LONG), Ok(()));
    }

    #[test]
    fn the_last_line_and_the_status_tell_why() {
        assert_eq!(sh("echo one; echo two >&2; exit 3", LONG), Err("exit status 3: two".into()));
        assert_eq!(sh("kill -9 $$", LONG), Err("it was killed by SIGKILL".into()));
        assert_eq!(sh("exit 0; echo no", LONG), Ok(()));
    }

    #[test]
    fn a_program_that_hangs_is_ended_with_all_that_it_started() {
        let file = std::env::temp_dir().join(format!("kxl-call-{}", std::process::id()));
        let script = format!("sleep 600 & echo $! > {}; echo stuck; wait", file.display());
        let outcome = sh(&script, Duration::from_millis(700));
        assert_eq!(outcome, Err("it was ended after 0 s: stuck".into()));
        let pid: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        std::fs::remove_file(&file).unwrap();
        let gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        };
        let until = Instant::now() + LONG;
        while !gone() {
            assert!(Instant::now() < until, "its child goes on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_program_that_prints_for_ever_is_ended_too() {
        let outcome = sh("while :; do echo y; done", Duration::from_millis(300));
        assert_eq!(outcome, Err("it was ended after 0 s: y".into()));
    }

    #[test]
    fn what_it_leaves_running_is_not_waited_for() {
        let before = Instant::now();
        assert_eq!(sh("sleep 100 & exit 0", LONG), Ok(()));
        assert!(before.elapsed() < LONG);
    }

    #[test]
    fn what_is_no_program_is_told_so() {
        let what = |program| Call { program, args: &[], env: &[], input: b"", timeout: LONG };
        let outcome = call(&what(Path::new("/etc/passwd")));
        assert!(outcome.unwrap_err().starts_with("it cannot be executed"), "no right to");
        assert!(call(&what(Path::new("/nowhere"))).is_err());
    }
}
