//! A message on its way to the host.

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::answer::{Answer, Answers};
use crate::arguments::Options;
use crate::line::Message;
use crate::trouble::Trouble;
use crate::way::{self, Line, Way};

/// What a marked line of a console begins with.
const MARKER: &str = "@@kxl-event ";
/// How long one poll may take: a port tells nobody when its other end comes back.
const LOOK: Duration = Duration::from_millis(50);
/// After how long without an answer the line is said once more. The host knows it again.
const AGAIN: Duration = Duration::from_secs(2);

const SILENT: &str = "it took the message and said nothing";
const ABSENT: &str = "nobody listens at the other end";

/// Tells the host, waiting for it no longer than the options say.
pub(crate) fn send(message: &Message, options: &Options) -> Result<(), Trouble> {
    let deadline = Instant::now() + options.patience;
    let line = message.line()?;
    let way = way::choose(options, deadline)?;
    let open = way.open(deadline)?;
    let failed = |error| Trouble::io(format!("cannot write to {}", way.path().display()), error);
    // A line of somebody who has died in the middle of it ends before ours begins.
    match &way {
        Way::Console(_) => {
            let bytes = format!("\n{MARKER}{line}\n");
            written(&open, bytes.as_bytes(), deadline, failed)
        }
        Way::Port(_) if !open.answers => {
            written(&open, format!("\n{line}\n").as_bytes(), deadline, failed)
        }
        Way::Port(_) => {
            let reference = reference();
            let bytes = format!("\n{line} ref={reference}\n");
            answered(&open, bytes.as_bytes(), &reference, deadline, failed)
        }
    }
}

/// Letters and digits that no other message has at the same time.
fn reference() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mixed = now.as_nanos() ^ (u128::from(std::process::id()) << 40);
    format!("{:016x}", mixed & u128::from(u64::MAX))
}

/// What a look at the line has shown.
struct Seen {
    readable: bool,
    writable: bool,
    gone: bool,
}

fn look(line: &Line, wanted: PollFlags) -> io::Result<Seen> {
    let mut fds = [PollFd::new(&line.fd, wanted)];
    let patience = Timespec::try_from(LOOK).unwrap_or_default();
    match poll(&mut fds, Some(&patience)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let seen = fds[0].revents();
    Ok(Seen {
        readable: seen.contains(PollFlags::IN),
        writable: seen.contains(PollFlags::OUT),
        gone: seen.intersects(PollFlags::HUP | PollFlags::ERR),
    })
}

/// Writes as much as there is room for; the number of bytes.
fn write(line: &Line, bytes: &[u8]) -> io::Result<usize> {
    match rustix::io::write(&line.fd, bytes) {
        Ok(count) => Ok(count),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Writes everything, and is done.
fn written(
    line: &Line,
    mut bytes: &[u8],
    deadline: Instant,
    failed: impl Fn(io::Error) -> Trouble,
) -> Result<(), Trouble> {
    loop {
        bytes = &bytes[write(line, bytes).map_err(&failed)?..];
        if bytes.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Trouble::NoAnswer(ABSENT));
        }
        if !look(line, PollFlags::OUT).map_err(&failed)?.writable {
            sleep(LOOK / 10);
        }
    }
}

/// Writes a line and waits for the answer. Where the other end goes away meanwhile, the line is said
/// again to whoever comes next.
fn answered(
    line: &Line,
    bytes: &[u8],
    reference: &str,
    deadline: Instant,
    failed: impl Fn(io::Error) -> Trouble,
) -> Result<(), Trouble> {
    let mut answers = Answers::new(reference);
    let mut rest = bytes;
    let mut said = None;
    loop {
        let wanted = if rest.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let seen = look(line, wanted).map_err(&failed)?;
        let mut gone = seen.gone;
        if seen.readable {
            let mut chunk = [0; 512];
            match rustix::io::read(&line.fd, &mut chunk) {
                Ok(0) => gone = true,
                Ok(count) => match answers.push(&chunk[..count]) {
                    Some(Answer::Taken) => return Ok(()),
                    Some(Answer::Refused(why)) => return Err(Trouble::Refused(why)),
                    None => {}
                },
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
        if seen.writable && !rest.is_empty() {
            rest = &rest[write(line, rest).map_err(&failed)?..];
            if rest.is_empty() {
                said = Some(Instant::now());
            }
        }
        let silent = said.is_some_and(|said| said.elapsed() >= AGAIN);
        if silent || (gone && rest.len() != bytes.len()) {
            (rest, said) = (bytes, None);
        }
        if Instant::now() >= deadline {
            return Err(Trouble::NoAnswer(if said.is_some() { SILENT } else { ABSENT }));
        }
        if gone {
            // The poll of an end that is gone returns at once.
            sleep(LOOK);
        }
    }
}

#[cfg(test)]
mod tests;
