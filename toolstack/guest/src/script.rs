//! A start script, and what its end means.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use crate::arguments::{DRAIN, Options};
use crate::line::Message;
use crate::send::send;
use crate::trouble::Trouble;

/// How much of a script's stderr is kept.
const KEPT: u64 = 1 << 20;
/// How much of its end the last line is looked for in.
const TAIL: usize = 4096;
const FAILED_TO_START: &str = "Failed to Start";
const CUT: &[u8] = b"\n[kxl-event: the rest is not kept]\n";

/// Runs a start script and tells the host how it has ended. The script's own exit status, and
/// whether the host could be told.
pub(crate) fn run(command: &[OsString], options: &Options) -> (Result<(), Trouble>, u8) {
    let Some((script, arguments)) = command.split_first() else {
        return (Err(Trouble::Usage("run needs a script".to_owned())), 0);
    };
    let name = script.to_string_lossy();
    let mut stderr = Stderr::new(&options.stderr);
    let (why, code) = match execute(script, arguments, &mut stderr) {
        Ok(status) if status.success() => (None, 0),
        Ok(status) => (Some(reason(&stderr, status)), code(status)),
        Err(error) if error.kind() == ErrorKind::NotFound && !Path::new(script).exists() => {
            say(&format!("there is no {name}, so nothing is to be done before the start"));
            (None, 0)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            (Some(format!("{name}: the program that is to run it is missing")), 127)
        }
        Err(error) => (Some(format!("{name}: {error}")), 126),
    };
    let message = match &why {
        None => Message::new("started"),
        Some(why) => {
            say(&format!("{name} has failed: {}", why.escape_debug()));
            Message::new("failed").text(why)
        }
    };
    (send(&message, options), code)
}

fn say(text: &str) {
    // Nothing can be done for a message that cannot be written.
    let _unwritten = writeln!(io::stderr(), "kxl-event: {text}");
}

fn execute(
    script: &OsString,
    arguments: &[OsString],
    stderr: &mut Stderr<'_>,
) -> io::Result<ExitStatus> {
    let (mut said, into) = io::pipe()?;
    let (ended, end) = io::pipe()?;
    let mut command = Command::new(script);
    let mut child = command.args(arguments).stderr(into).spawn()?;
    // Our copy of the writing end.
    drop(command);
    let flags = fcntl_getfl(&said)?;
    fcntl_setfl(&said, flags | OFlags::NONBLOCK)?;
    let waiter = thread::spawn(move || {
        let status = child.wait();
        drop(end);
        status
    });
    let open = listen(&mut said, &ended, stderr)?;
    let status = waiter.join().unwrap_or_else(|_| Err(ErrorKind::Other.into()))?;
    if open {
        leave_behind(said.into(), stderr);
    }
    Ok(status)
}

/// Keeps what a script says until it has ended. Whether somebody holds its stderr still: a process
/// that it leaves running is not waited for.
fn listen(said: &mut PipeReader, ended: &PipeReader, stderr: &mut Stderr<'_>) -> io::Result<bool> {
    loop {
        let mut fds = [PollFd::new(said, PollFlags::IN), PollFd::new(ended, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        // Looked at before the rest is read: all that it has said is in the pipe then.
        let over = !fds[1].revents().is_empty();
        // As much as a pipe can hold, and no more: a process that is left running may go on and on.
        for _ in 0..1024 {
            match stderr.take(said) {
                Ok(0) => return Ok(false),
                Ok(_) if over => {}
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if over {
            return Ok(true);
        }
    }
}

/// Goes on reading for processes that the script has left: their next word would be their last
/// one if nobody held the other end of the pipe.
fn leave_behind(said: OwnedFd, stderr: &Stderr<'_>) {
    let flags = fcntl_getfl(&said);
    let blocking = flags.and_then(|flags| fcntl_setfl(&said, flags - OFlags::NONBLOCK));
    let spawned = blocking.map_err(io::Error::from).and_then(|()| {
        Command::new("/proc/self/exe")
            .arg(DRAIN)
            .arg(stderr.kept.to_string())
            .arg(stderr.path)
            .stdin(said)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
    });
    if let Err(error) = spawned {
        say(&format!("nobody reads what is left of the script's stderr: {error}"));
    }
}

/// Reads stdin to its end and keeps it as far as there is room.
pub(crate) fn drain(path: &Path, kept: u64) -> Result<(), Trouble> {
    let mut stderr = Stderr { kept, ..Stderr::appending(path) };
    let mut stdin = io::stdin().lock();
    loop {
        match stderr.take(&mut stdin) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Trouble::io("cannot read stdin", error)),
        }
    }
}

/// What a script has said.
struct Stderr<'a> {
    path: &'a Path,
    file: Option<File>,
    kept: u64,
    tail: Vec<u8>,
}

impl<'a> Stderr<'a> {
    fn new(path: &'a Path) -> Self {
        Self::open(path, true)
    }

    fn appending(path: &'a Path) -> Self {
        Self::open(path, false)
    }

    /// Without a file only the last line is kept, which is what matters most.
    fn open(path: &'a Path, anew: bool) -> Self {
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let mut options = File::options();
        options.append(true).create(true).mode(0o600).custom_flags(flags.bits().cast_signed());
        let opened = options.open(path).or_else(|error| match path.parent() {
            // A guest made by hand has no /var/log.
            Some(directory) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(directory)?;
                options.open(path)
            }
            _ => Err(error),
        });
        let file = opened.and_then(|file| {
            if anew && file.metadata()?.is_file() {
                file.set_len(0)?;
            }
            Ok(file)
        });
        if let Err(error) = &file {
            say(&format!("{} is not written: {error}", path.display()));
        }
        Self { path, file: file.ok(), kept: 0, tail: Vec::new() }
    }

    /// Takes a piece; the number of its bytes.
    fn take(&mut self, from: &mut impl Read) -> io::Result<usize> {
        let mut chunk = [0; 4096];
        let count = from.read(&mut chunk)?;
        self.keep(&chunk[..count]);
        Ok(count)
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        let excess = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..excess);
        let room = KEPT.saturating_sub(self.kept);
        let fits = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        self.kept += bytes.len() as u64;
        let Some(file) = &mut self.file else { return };
        let mut written = file.write_all(&bytes[..fits]);
        if fits < bytes.len() && room > 0 {
            written = written.and_then(|()| file.write_all(CUT));
        }
        if let Err(error) = written {
            say(&format!("{} is not written further: {error}", self.path.display()));
            self.file = None;
        }
    }

    /// The last line that is not empty.
    fn last_line(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.tail);
        let mut lines = text.split(['\n', '\r']).rev().map(str::trim);
        lines.find(|line| !line.is_empty()).map(str::to_owned)
    }
}

fn reason(stderr: &Stderr<'_>, status: ExitStatus) -> String {
    stderr.last_line().unwrap_or_else(|| match status.signal() {
        Some(signal) => format!("{FAILED_TO_START}: killed by signal {signal}"),
        None => FAILED_TO_START.to_owned(),
    })
}

/// As a shell shows it.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(bytes: &[u8]) -> Stderr<'static> {
        let mut stderr =
            Stderr { path: Path::new("/dev/null"), file: None, kept: 0, tail: Vec::new() };
        bytes.chunks(1000).for_each(|part| stderr.keep(part));
        stderr
    }

    #[test]
    fn the_last_line_is_the_reason() {
        let rows: [(&[u8], Option<&str>); 6] = [
            (b"", None),
            (b"\n \r\n", None),
            (b"one\ntwo\n\n", Some("two")),
            (b"one\rtwo", Some("two")),
            (b"bad \xff byte\n", Some("bad \u{fffd} byte")),
            (b"  blanks  \n", Some("blanks")),
        ];
        for (bytes, wanted) in rows {
            assert_eq!(said(bytes).last_line().as_deref(), wanted, "{bytes:?}");
        }
        let mut long = vec![b'x'; 3 << 20];
        long.extend(b"\nend\n");
        let stderr = said(&long);
        assert!(stderr.tail.len() <= TAIL);
        assert_eq!(stderr.last_line().as_deref(), Some("end"));
    }

    #[test]
    fn a_silent_failure_has_a_reason_of_its_own() {
        let exit = ExitStatus::from_raw(3 << 8);
        assert_eq!((reason(&said(b""), exit).as_str(), code(exit)), (FAILED_TO_START, 3));
        let killed = ExitStatus::from_raw(9);
        assert_eq!(reason(&said(b""), killed), "Failed to Start: killed by signal 9");
        assert_eq!((reason(&said(b"why\n"), killed).as_str(), code(killed)), ("why", 137));
    }

    #[test]
    fn what_is_kept_is_bounded_and_says_where_it_ends() {
        let dir = std::env::temp_dir().join(format!("kxl-event-stderr-{}", std::process::id()));
        // In a directory that is made.
        let path = dir.join("log/kept");
        let mut stderr = Stderr::new(&path);
        (0..300).for_each(|_| stderr.keep(&[b'x'; 5000]));
        stderr.keep(b"more");
        let kept = std::fs::read(&path).unwrap();
        assert_eq!(kept.len() as u64, KEPT + CUT.len() as u64);
        assert!(kept.ends_with(CUT));
        drop(Stderr::appending(&path));
        assert!(!std::fs::read(&path).unwrap().is_empty());
        drop(Stderr::new(&path));
        assert!(std::fs::read(&path).unwrap().is_empty(), "another run begins anew");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
