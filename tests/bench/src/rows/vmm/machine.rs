//! One kxl-vmm, from its exec to its end.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde_json::{Value, json};

use crate::error::BenchError;
use crate::interrupt;

/// No machine takes longer for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// How to start machines.
#[derive(Clone, Debug)]
pub(super) struct Starter {
    pub(super) program: PathBuf,
    /// Where their sockets are for a moment.
    pub(super) dir: PathBuf,
}

/// A machine. It ends with this.
#[derive(Debug)]
pub(super) struct Machine {
    child: Child,
    /// When it was about to be started.
    pub(super) began: Instant,
    channel: UnixStream,
    heard: Vec<u8>,
}

impl Starter {
    /// Starts a machine with these options. As kxl does it, the socket is listened on and connected
    /// to before the process exists; `ahead` has been sent by then.
    pub(super) fn start<S: AsRef<OsStr>>(
        &self,
        options: &[S],
        ahead: &[Value],
    ) -> Result<Machine, BenchError> {
        interrupt::check()?;
        let path = self.dir.join("qmp");
        let listener = UnixListener::bind(&path).map_err(BenchError::io("make a socket"))?;
        let connected = UnixStream::connect(&path);
        std::fs::remove_file(&path).map_err(BenchError::io("remove a socket"))?;
        let mut channel = connected.map_err(BenchError::io("connect to a socket"))?;
        channel.set_read_timeout(Some(PATIENCE)).map_err(BenchError::io("limit a wait"))?;
        for request in ahead {
            let text = request.to_string();
            channel.write_all(text.as_bytes()).map_err(BenchError::io("send a command"))?;
        }
        fcntl(listener.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))
            .map_err(BenchError::os("pass a socket"))?;
        let mut command = Command::new(&self.program);
        command
            .args(["-serial", "stdio", "-qmp", &format!("fd:{}", listener.as_raw_fd())])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let began = Instant::now();
        let child = command.spawn().map_err(BenchError::io("start kxl-vmm"))?;
        Ok(Machine { child, began, channel, heard: Vec::new() })
    }
}

impl Machine {
    /// Waits for the guest's word; how long after the start it came.
    pub(super) fn word(&mut self, word: u8) -> Result<Duration, BenchError> {
        let mut byte = [0];
        let stdout = self.child.stdout.as_mut().ok_or_else(|| BenchError::wrong("no output"))?;
        stdout.read_exact(&mut byte).map_err(BenchError::io("hear a guest"))?;
        let after = self.began.elapsed();
        if byte[0] == word {
            Ok(after)
        } else {
            Err(BenchError::wrong(format!("the guest says {byte:?}")))
        }
    }

    /// The next line of the api-channel.
    pub(super) fn line(&mut self) -> Result<Value, BenchError> {
        loop {
            if let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                return serde_json::from_slice(&line)
                    .map_err(|error| BenchError::wrong(format!("not a line of QMP: {error}")));
            }
            let mut bytes = [0; 4096];
            let read = self.channel.read(&mut bytes);
            let count = read.map_err(BenchError::io("hear from kxl-vmm"))?;
            if count == 0 {
                return Err(BenchError::wrong("kxl-vmm hung up"));
            }
            self.heard.extend(&bytes[..count]);
        }
    }

    /// The next answer; what comes before it is passed over.
    pub(super) fn answer(&mut self) -> Result<Value, BenchError> {
        loop {
            let line = self.line()?;
            if let Some(value) = line.get("return") {
                return Ok(value.clone());
            }
            if line.get("error").is_some() {
                return Err(BenchError::wrong(format!("kxl-vmm refuses: {line}")));
            }
        }
    }

    /// Runs a command.
    pub(super) fn run(&mut self, command: &str) -> Result<Value, BenchError> {
        self.run_with(command, &json!({}))
    }

    /// Runs a command with arguments.
    pub(super) fn run_with(&mut self, command: &str, given: &Value) -> Result<Value, BenchError> {
        let text = json!({"execute": command, "arguments": given}).to_string();
        self.channel.write_all(text.as_bytes()).map_err(BenchError::io("send a command"))?;
        self.answer()
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Gone already is as good.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}
