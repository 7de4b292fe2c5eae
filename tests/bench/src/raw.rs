//! QEMU without kxl: the same program, arguments and descriptors, started by the same call.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kxl_backend::Process;
use kxl_backend::spawn::{Command, spawn};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, waitid};

use crate::error::BenchError;
use crate::interrupt;

/// How QEMU was started by kxl, to be started again without it.
#[derive(Debug)]
pub(crate) struct Recipe {
    program: PathBuf,
    args: Vec<String>,
    /// Numbers of the listening sockets that it inherits; the first is the control channel.
    sockets: Vec<i32>,
}

impl Recipe {
    /// Reads it off a running emulator.
    ///
    /// # Errors
    /// When the process is gone or its arguments name no inherited socket.
    pub(crate) fn of(pid: i32) -> Result<Self, BenchError> {
        let file = format!("/proc/{pid}/cmdline");
        let bytes = fs::read(&file).map_err(BenchError::io(format!("read {file}")))?;
        let text = String::from_utf8_lossy(&bytes);
        let mut words = text.split_terminator('\0').map(str::to_owned);
        let program = PathBuf::from(words.next().unwrap_or_default());
        let args: Vec<String> = words.collect();
        let sockets: Vec<i32> = args.iter().filter_map(|arg| inherited(arg)).collect();
        if sockets.is_empty() {
            return Err(BenchError::wrong(format!("no inherited socket among {args:?}")));
        }
        Ok(Self { program, args, sockets })
    }

    /// The word that follows an option.
    pub(crate) fn option(&self, name: &str) -> Option<&str> {
        let at = self.args.iter().position(|arg| arg == name)?;
        self.args.get(at + 1).map(String::as_str)
    }

    /// Starts it, waits for its first answer and kills it; the time from before the fork to that
    /// answer. `dir` is for its sockets and its log.
    ///
    /// # Errors
    /// When it does not start or does not answer.
    pub(crate) fn first_answer(&self, dir: &Path) -> Result<Duration, BenchError> {
        interrupt::check()?;
        let failed = |error| BenchError::Io { attempt: "start QEMU".into(), source: error };
        let mut command = Command::new(&self.program).map_err(failed)?;
        for arg in &self.args {
            command.arg(arg).map_err(failed)?;
        }
        let null = fs::File::options().read(true).write(true).open("/dev/null").map_err(failed)?;
        let log = fs::File::create(dir.join("raw.log")).map_err(failed)?;
        command.fd(null.into(), 0).fd(log.try_clone().map_err(failed)?.into(), 1);
        command.fd(log.into(), 2);
        let mut ends = Vec::new();
        for number in &self.sockets {
            let (listener, client) = pair(&dir.join(format!("raw-{number}"))).map_err(failed)?;
            command.fd(listener, *number);
            ends.push(client);
        }
        let start = Instant::now();
        let process = spawn(command).and_then(kxl_backend::spawn::Gated::open).map_err(failed)?;
        let answered = ask(&ends[0]).map(|()| start.elapsed());
        end(&process)?;
        answered
    }
}

/// `3` out of `socket,id=control,fd=3,server=on`.
fn inherited(arg: &str) -> Option<i32> {
    let rest = arg.strip_prefix("socket,")?;
    rest.split(',').find_map(|option| option.strip_prefix("fd="))?.parse().ok()
}

/// A listener and a connection that waits in its queue, as kxl makes them.
fn pair(path: &Path) -> std::io::Result<(OwnedFd, UnixStream)> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    let client = UnixStream::connect(path)?;
    // Generous: it is missed only when QEMU hangs.
    client.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok((listener.into(), client))
}

/// Says hello and reads the first answer.
fn ask(mut stream: &UnixStream) -> Result<(), BenchError> {
    let failed = |error| BenchError::Io { attempt: "talk to QEMU".into(), source: error };
    stream.write_all(b"{\"execute\": \"qmp_capabilities\"}\n").map_err(failed)?;
    let mut lines = BufReader::new(stream).lines();
    for line in lines.by_ref().take(3) {
        let line = line.map_err(failed)?;
        if line.contains("\"return\"") {
            return Ok(());
        }
    }
    Err(BenchError::wrong("QEMU answered nothing to qmp_capabilities"))
}

fn end(process: &Process) -> Result<(), BenchError> {
    process.signal(Signal::SIGKILL).map_err(BenchError::io("kill QEMU"))?;
    waitid(Id::PIDFd(process.pidfd()), WaitPidFlag::WEXITED)
        .map_err(BenchError::os("wait for QEMU"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inherited_sockets_are_found_among_the_arguments() {
        assert_eq!(inherited("socket,id=control,fd=3,server=on,wait=off"), Some(3));
        assert_eq!(inherited("chardev=control,mode=control"), None);
        assert_eq!(inherited("socket,id=x,path=/a,fd=y"), None);
    }
}
