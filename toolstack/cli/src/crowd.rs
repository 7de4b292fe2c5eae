//! Many monitors asked at once, their answers taken as they come, in one poll loop.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use kxl_control::client::Client;
use kxl_control::{Answer, Body, Call};
use kxl_domain::{Failure, Kind};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// One question that is out.
#[derive(Debug)]
struct Waiting<T> {
    tag: T,
    client: Client,
    id: u64,
}

/// The questions that are out; each with a tag of the caller's.
#[derive(Debug)]
pub(crate) struct Crowd<T> {
    waiting: Vec<Waiting<T>>,
}

impl<T> Crowd<T> {
    /// Nobody asked yet.
    pub(crate) const fn new() -> Self {
        Self { waiting: Vec::new() }
    }

    /// How many answers are still to come.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Asks one monitor.
    ///
    /// # Errors
    /// When it has hung up.
    pub(crate) fn ask(
        &mut self,
        tag: T,
        mut client: Client,
        call: Call,
        deadline: Option<Duration>,
    ) -> Result<(), Failure> {
        let id = client.send(call, deadline).map_err(|error| lost(&error))?;
        self.waiting.push(Waiting { tag, client, id });
        Ok(())
    }

    /// The tags of those that have not answered.
    pub(crate) fn tags(&self) -> impl Iterator<Item = &T> {
        self.waiting.iter().map(|one| &one.tag)
    }

    /// Waits no more for the one with this tag.
    pub(crate) fn forget(&mut self, tag: &T)
    where
        T: PartialEq,
    {
        self.waiting.retain(|one| one.tag != *tag);
    }

    /// Waits for the next answer; `None` when nobody is left to answer, or at `until`.
    pub(crate) fn next(&mut self, until: Option<Instant>) -> Option<(T, Result<Answer, Failure>)> {
        while !self.waiting.is_empty() {
            // What has been read already comes first: poll knows nothing of it.
            let done =
                self.waiting.iter_mut().enumerate().find_map(|(at, one)| {
                    end(&mut one.client, one.id).map(|outcome| (at, outcome))
                });
            if let Some((at, outcome)) = done {
                return Some((self.waiting.remove(at).tag, outcome));
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return None;
            }
            for at in self.readable(left) {
                let one = &mut self.waiting[at];
                match one.client.fill() {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => {
                        let gone = self.waiting.remove(at);
                        return Some((gone.tag, Err(lost(&error))));
                    }
                    Ok(()) => {}
                }
            }
        }
        None
    }

    /// The places of those with something to read. An interrupted wait shows nobody.
    fn readable(&self, left: Option<Duration>) -> Vec<usize> {
        let mut fds: Vec<PollFd> = self
            .waiting
            .iter()
            .map(|one| PollFd::new(one.client.stream().as_fd(), PollFlags::POLLIN))
            .collect();
        // Rounded up, so that the last millisecond is waited for and not spun through.
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Ok(n) if n > 0 => {}
            _ => return Vec::new(),
        }
        let ready = fds.iter().enumerate().filter(|(_, fd)| fd.any().unwrap_or(false));
        ready.map(|(at, _)| at).collect()
    }
}

/// The end of the question `id`, if it has been read. Progress and answers to others are passed
/// over.
fn end(client: &mut Client, id: u64) -> Option<Result<Answer, Failure>> {
    loop {
        match client.take() {
            Ok(Some(reply)) if reply.id == id => match reply.body {
                Body::Progress(_) | Body::Moved(_) => {}
                Body::Done(answer) => return Some(Ok(answer)),
                Body::Failed(failure) => return Some(Err(failure)),
            },
            Ok(Some(_)) => {}
            Ok(None) => return None,
            Err(error) => return Some(Err(lost(&error))),
        }
    }
}

fn lost(error: &io::Error) -> Failure {
    Failure::because(Kind::Failed, "the domain's monitor is gone", error)
        .hint("run the command again: the domain is adopted by a new monitor")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (Client, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Client::new(ours), theirs)
    }

    #[test]
    fn answers_come_in_the_order_they_are_given_and_not_in_the_order_asked() {
        let mut crowd = Crowd::new();
        let (slow, _slow_end) = pair();
        let (quick, mut quick_end) = pair();
        let (gone, gone_end) = pair();
        let status = || Call::Status { probe: false };
        crowd.ask("slow", slow, status(), None).unwrap();
        crowd.ask("quick", quick, status(), None).unwrap();
        quick_end
            .write_all(b"{\"id\":1,\"body\":{\"progress\":\"on it\"}}\n{\"id\":1,\"body\":{\"done\":\"ok\"}}\n")
            .unwrap();
        assert_eq!(crowd.next(None), Some(("quick", Ok(Answer::Ok))));
        crowd.ask("gone", gone, status(), None).unwrap();
        drop(gone_end);
        let (tag, outcome) = crowd.next(None).unwrap();
        assert_eq!((tag, outcome.is_err()), ("gone", true));
        assert_eq!(crowd.next(Some(Instant::now())), None, "the deadline has passed");
        assert_eq!(crowd.len(), 1);
    }
}
