//! Running a program to its end, and to the end of its output.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What a program left behind.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    /// The command line, for messages.
    pub(crate) line: String,
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

impl Output {
    /// Exit status; `None` when a signal ended it.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The same, which has to have ended with `code`.
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code(), Some(code), "{self}");
        self
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { line, status, stdout, stderr } = self;
        write!(f, "{line}\n  ended with {status}\n  stdout: {stdout}\n  stderr: {stderr}")
    }
}

/// A program that runs, with its output being collected.
pub(crate) struct Running {
    pub(crate) child: Child,
    line: String,
    streams: [Receiver<Vec<u8>>; 2],
}

/// Starts a program with nothing to read.
pub(crate) fn start(command: &mut Command) -> Running {
    let line = format!("{command:?}");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{line}: {error}"));
    let streams = [collect(child.stdout.take().unwrap()), collect(child.stderr.take().unwrap())];
    Running { child, line, streams }
}

fn collect(mut stream: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A stream that breaks has ended; what was read counts.
        drop(stream.read_to_end(&mut bytes));
        drop(sender.send(bytes));
    });
    receiver
}

impl Running {
    /// Sends it a signal.
    pub(crate) fn signal(&self, which: Signal) {
        kill(self.pid(), which).unwrap();
    }

    /// Sends it a signal that it waits for, and waits until it has taken that.
    pub(crate) fn hears(&self, which: Signal) {
        self.signal(which);
        super::wait::eventually("it takes the signal", || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
            let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap();
            u64::from_str_radix(pending.trim(), 16).unwrap() & (1 << (which as u64 - 1)) == 0
        });
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// Waits for the end of both streams and of the program. A program that leaves its streams to
    /// somebody who keeps them open has not ended for its caller: that is a failure.
    pub(crate) fn end(mut self, within: Duration) -> Output {
        let until = Instant::now() + within;
        let mut texts = Vec::new();
        for stream in &self.streams {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(bytes) = stream.recv_timeout(left) else {
                let state = self.child.try_wait();
                drop(self.child.kill());
                panic!(
                    "{}: its output has no end after {within:?} (process: {state:?})",
                    self.line
                );
            };
            texts.push(String::from_utf8_lossy(&bytes).into_owned());
        }
        let status = super::wait::until(&self.line, within, || self.child.try_wait().unwrap());
        let stderr = texts.pop().unwrap();
        let stdout = texts.pop().unwrap();
        Output { line: self.line, status, stdout, stderr }
    }
}

/// Runs a program with nothing to read.
pub(crate) fn run(command: &mut Command, within: Duration) -> Output {
    start(command).end(within)
}
