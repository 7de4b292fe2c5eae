//! What a guest says, line by line and with the time at which the host heard it.
//!
//! A thread of its own sleeps until there is something to read, so that nothing is polled and a line
//! is stamped when it comes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::error::BenchError;

/// How often the reading thread looks whether it is to end, in milliseconds.
const GLANCE: u16 = 250;

/// How a guest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `C n seconds`, `READY`, `CK OK sum`, `W OK`: the Linux test guest.
    Linux,
    /// `N=` and six octal digits; keys are echoed before it.
    Pdp11,
    /// Eight hexadecimal digits; keys are echoed before them.
    Vax,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// The counter.
    Count(u64),
    /// The counter, and before it in the line the keys that were echoed.
    Echo(u64),
    /// The guest has booted.
    Ready,
    /// It has checked its memory; whether the sum was right.
    Checked(bool),
    /// It has written all its memory anew.
    Rewritten,
    /// Something else.
    Other(String),
}

impl Said {
    /// The count in it.
    pub(crate) const fn count(&self) -> Option<u64> {
        match self {
            Self::Count(count) | Self::Echo(count) => Some(*count),
            _ => None,
        }
    }
}

impl Dialect {
    fn read(self, line: &str) -> Said {
        let line = line.trim_matches(['\r', '\n', '\0', ' ']);
        let found = match self {
            Self::Linux => linux(line),
            Self::Pdp11 => digits(line, "N=", 6, 8),
            Self::Vax => digits(line, "", 8, 16),
        };
        found.unwrap_or_else(|| Said::Other(line.to_owned()))
    }
}

/// A line that was cut, because nobody listened for a while, is not taken for a smaller count.
fn linux(line: &str) -> Option<Said> {
    match line {
        // A reset cuts a line off, and the next boot's first word is glued to what there is of it.
        _ if line.ends_with("READY") => return Some(Said::Ready),
        "W OK" => return Some(Said::Rewritten),
        _ => {}
    }
    if let Some(rest) = line.strip_prefix("CK ") {
        return Some(Said::Checked(rest.starts_with("OK ")));
    }
    let (count, time) = line.strip_prefix("C ")?.split_once(' ')?;
    let (_, thousandths) = time.split_once('.')?;
    (thousandths.len() == 3).then(|| count.parse().ok().map(Said::Count))?
}

fn digits(line: &str, before: &str, length: usize, radix: u32) -> Option<Said> {
    let head = line.len().checked_sub(length)?;
    let (echoed, count) = (line.get(..head)?, line.get(head..)?);
    let echoed = echoed.strip_suffix(before)?;
    let count = u64::from_str_radix(count, radix).ok()?;
    // A cut line glued to a whole one has more than keys in it.
    let keys = echoed.chars().all(|key| key.is_ascii_uppercase() && key != 'N');
    match echoed {
        "" => Some(Said::Count(count)),
        _ if keys => Some(Said::Echo(count)),
        _ => None,
    }
}

/// A line and when it came.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    /// When the host read its end.
    pub(crate) at: Instant,
    /// What it was.
    pub(crate) said: Said,
}

#[derive(Debug, Default)]
struct Shared {
    heard: Mutex<Vec<Heard>>,
    bell: Condvar,
    end: AtomicBool,
}

impl Shared {
    fn lines(&self) -> MutexGuard<'_, Vec<Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self) -> bool {
        self.end.load(Ordering::Relaxed)
    }

    /// Takes the whole lines off `rest`.
    fn take(&self, rest: &mut Vec<u8>, dialect: Dialect) {
        let at = Instant::now();
        let mut lines = self.lines();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let said = dialect.read(&String::from_utf8_lossy(&line));
            if said != Said::Other(String::new()) {
                lines.push(Heard { at, said });
            }
        }
        drop(lines);
        self.bell.notify_all();
    }
}

/// Everything that was heard of one guest since this began. The thread ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Transcript {
    shared: Arc<Shared>,
    writer: Arc<Mutex<Option<UnixStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl Transcript {
    /// Follows the console log of a domain of kxl, from its present end on, over the ends and
    /// starts of its monitors. The log must not be rotated meanwhile.
    ///
    /// # Errors
    /// When the log's directory cannot be watched.
    pub(crate) fn of_log(path: &Path, dialect: Dialect) -> Result<Self, BenchError> {
        let dir = path.parent().unwrap_or_else(|| Path::new("/")).to_owned();
        let watch = || -> nix::Result<Inotify> {
            let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
            inotify.add_watch(&dir, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE)?;
            Ok(inotify)
        };
        let inotify = watch().map_err(BenchError::os(format!("watch {}", dir.display())))?;
        let start = path.metadata().map_or(0, |data| data.len());
        let path = path.to_owned();
        Ok(Self::begin(move |shared, _| follow(&path, start, &inotify, shared, dialect)))
    }

    /// Accepts the guest's serial line on a socket, again whenever its emulator is replaced.
    pub(crate) fn of_socket(listener: UnixListener, dialect: Dialect) -> Self {
        Self::begin(move |shared, writer| accept(&listener, shared, writer, dialect))
    }

    fn begin(
        work: impl FnOnce(&Shared, &Mutex<Option<UnixStream>>) -> io::Result<()> + Send + 'static,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let writer = Arc::default();
        let (own, pen) = (Arc::clone(&shared), Arc::clone(&writer));
        let thread = std::thread::spawn(move || {
            if let Err(error) = work(&own, &pen) {
                let text = format!("the console is not heard any more: {error}");
                own.lines().push(Heard { at: Instant::now(), said: Said::Other(text) });
            }
        });
        Self { shared, writer, thread: Some(thread) }
    }

    /// How many lines were heard: the place from which to look for what comes.
    pub(crate) fn place(&self) -> usize {
        self.shared.lines().len()
    }

    /// The first line from `place` on for which `found` holds, and the place behind it; waits.
    pub(crate) fn wait(
        &self,
        place: usize,
        within: Duration,
        found: impl Fn(&Said) -> bool,
    ) -> Option<(Heard, usize)> {
        let until = Instant::now() + within;
        let mut next = place;
        let mut lines = self.shared.lines();
        loop {
            while let Some(heard) = lines.get(next) {
                next += 1;
                if found(&heard.said) {
                    return Some((heard.clone(), next));
                }
            }
            let left = until.checked_duration_since(Instant::now())?;
            let waited = self.shared.bell.wait_timeout(lines, left);
            lines = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The lines from `place` on.
    pub(crate) fn since(&self, place: usize) -> Vec<Heard> {
        self.shared.lines().get(place..).unwrap_or_default().to_vec()
    }

    /// The longest time between two counts that followed each other, from `place` on.
    pub(crate) fn largest_gap(&self, place: usize) -> Option<Duration> {
        let lines = self.since(place);
        let counts: Vec<&Heard> = lines.iter().filter(|one| one.said.count().is_some()).collect();
        counts.windows(2).map(|pair| pair[1].at - pair[0].at).max()
    }

    /// Types to a guest that is heard through a socket.
    ///
    /// # Errors
    /// When nobody is connected.
    pub(crate) fn send(&self, keys: &[u8]) -> Result<(), BenchError> {
        let mut pen = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stream) = pen.as_mut() else {
            return Err(BenchError::wrong("the guest has not opened its console"));
        };
        stream.write_all(keys).map_err(BenchError::io("type to the guest"))
    }
}

impl Drop for Transcript {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of its was told already.
            let _told = thread.join();
        }
    }
}

/// Waits until there is something to read; false when it is time to look whether to end.
fn readable(fd: &impl AsFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::from(GLANCE)) {
        Ok(count) => Ok(count > 0),
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn follow(
    path: &PathBuf,
    start: u64,
    inotify: &Inotify,
    shared: &Shared,
    dialect: Dialect,
) -> io::Result<()> {
    let mut file: Option<File> = None;
    let mut rest = Vec::new();
    while !shared.ended() {
        if readable(inotify)? {
            match inotify.read_events() {
                Ok(_) | Err(nix::errno::Errno::EAGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if file.is_none() {
            file = match File::open(path) {
                Ok(mut opened) => {
                    opened.seek(SeekFrom::Start(start))?;
                    Some(opened)
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
        }
        if let Some(file) = &mut file
            && file.read_to_end(&mut rest)? > 0
        {
            shared.take(&mut rest, dialect);
        }
    }
    Ok(())
}

fn accept(
    listener: &UnixListener,
    shared: &Shared,
    writer: &Mutex<Option<UnixStream>>,
    dialect: Dialect,
) -> io::Result<()> {
    while !shared.ended() {
        if !readable(listener)? {
            continue;
        }
        let (mut stream, _) = listener.accept()?;
        *writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream.try_clone()?);
        let (mut rest, mut chunk) = (Vec::new(), [0; 4096]);
        while !shared.ended() {
            if !readable(&stream)? {
                continue;
            }
            match stream.read(&mut chunk) {
                Ok(0) | Err(_) => break,
                Ok(count) => rest.extend(&chunk[..count]),
            }
            shared.take(&mut rest, dialect);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_were_cut_or_glued_are_no_counts() {
        let linux = |line| Dialect::Linux.read(line);
        assert_eq!(linux("C 12 3.456\r\n"), Said::Count(12));
        for line in ["C 12 3.4", "C 12", "12 3.456", "C 1C 12 3.456", "C 12 3"] {
            assert_eq!(linux(line), Said::Other(line.into()), "{line}");
        }
        assert_eq!(linux("CREADY\r"), Said::Ready, "a reset came in between");
        assert_eq!(linux("CK OK 00ff\r"), Said::Checked(true));
        assert_eq!(linux("CK BAD 00ff"), Said::Checked(false));
        let pdp = |line| Dialect::Pdp11.read(line);
        assert_eq!(pdp("N=000017\r"), Said::Count(15));
        assert_eq!(pdp("QN=000017"), Said::Echo(15));
        for line in ["N=00001", "N=0000N=000017", "000017", "N=000018"] {
            assert_eq!(pdp(line), Said::Other(line.into()), "{line}");
        }
        assert_eq!(Dialect::Vax.read("0000001F"), Said::Count(31));
        assert_eq!(Dialect::Vax.read("Q0000001F"), Said::Echo(31));
    }

    #[test]
    fn a_log_is_heard_from_its_present_end_on_and_gaps_are_between_counts() {
        let dir = std::env::temp_dir().join(format!("kxl-heard-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("log");
        std::fs::write(&path, "C 1 0.100\r\nC 2 0.200\r\n").unwrap();
        let transcript = Transcript::of_log(&path, Dialect::Linux).unwrap();
        let mut log = File::options().append(true).open(&path).unwrap();
        write!(log, "C 3 0.3").unwrap();
        write!(log, "00\r\nREADY\r\n").unwrap();
        let patient = Duration::from_secs(60);
        let (_, behind) = transcript.wait(0, patient, |said| *said == Said::Ready).unwrap();
        assert_eq!(transcript.since(0)[0].said, Said::Count(3));
        assert_eq!(transcript.largest_gap(0), None);
        write!(log, "C 4 0.400\r\n").unwrap();
        let (heard, _) = transcript.wait(behind, patient, |said| said.count().is_some()).unwrap();
        assert_eq!(heard.said, Said::Count(4));
        assert!(transcript.largest_gap(0).is_some());
        drop(transcript);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
