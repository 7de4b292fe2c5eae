//! Requests with descriptors on their way through the socket, bounded in size and in time.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::{LONGEST, Reply, Request};

/// A request as it came.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) request: Request,
    /// The caller's standard streams.
    pub(super) streams: [OwnedFd; 3],
    /// What came behind the request: signals already.
    pub(super) early: Vec<u8>,
}

/// Sends a request together with three descriptors.
pub(super) fn ask(
    mut stream: &UnixStream,
    request: &Request,
    streams: &[BorrowedFd<'_>; 3],
) -> io::Result<()> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(streams)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = sendmsg(stream, &[IoSlice::new(&line)], &mut control, SendFlags::NOSIGNAL)?;
    stream.write_all(&line[sent..])
}

/// Takes a request; the whole of it has to be here at `until`.
///
/// # Errors
/// `TimedOut`, `UnexpectedEof`, or `InvalidData` with a sentence about what is wrong with it.
pub(super) fn take(stream: &UnixStream, until: Instant) -> io::Result<Received> {
    let (mut bytes, mut fds) = (Vec::new(), Vec::new());
    let end = loop {
        await_bytes(stream, until)?;
        receive(stream, &mut bytes, &mut fds)?;
        if fds.len() > 3 {
            return Err(wrong("more than three descriptors came with it"));
        }
        match bytes.iter().position(|byte| *byte == b'\n') {
            Some(end) if end < LONGEST => break end,
            None if bytes.len() < LONGEST => {}
            _ => return Err(wrong("it is too long")),
        }
    };
    let early = bytes.split_off(end + 1);
    let request = serde_json::from_slice(&bytes)
        .map_err(|error| wrong(&format!("it makes no sense: {error}")))?;
    let streams: Result<[OwnedFd; 3], _> = fds.try_into();
    let streams = streams.map_err(|_| wrong("three descriptors have to come with it"))?;
    Ok(Received { request, streams, early })
}

fn wrong(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn await_bytes(stream: &UnixStream, until: Instant) -> io::Result<()> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let timeout = PollTimeout::try_from(left + Duration::from_micros(999));
        let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout.unwrap_or(PollTimeout::MAX)) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn receive(stream: &UnixStream, bytes: &mut Vec<u8>, fds: &mut Vec<OwnedFd>) -> io::Result<()> {
    let mut chunk = [0u8; 4096];
    // Descriptors for which there is no room are closed by the kernel, which says so.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let got = match recvmsg(stream, &mut [IoSliceMut::new(&mut chunk)], &mut control, flags) {
        Ok(got) => got,
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            fds.extend(more);
        }
    }
    if got.flags.contains(ReturnFlags::CTRUNC) {
        return Err(wrong("more than three descriptors came with it"));
    }
    if got.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    bytes.extend(&chunk[..got.bytes]);
    Ok(())
}

/// Sends the one reply. A caller that has gone, or takes nothing, misses it.
pub(super) fn reply(mut stream: &UnixStream, reply: &Reply, patience: Duration) {
    let Ok(mut line) = serde_json::to_vec(reply) else { return };
    line.push(b'\n');
    let sent = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_write_timeout(Some(patience)))
        .and_then(|()| stream.write_all(&line));
    if let Err(error) = sent {
        tracing::debug!(%error, "a caller did not hear how it ended");
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn request() -> Request {
        let words = vec!["list".to_owned()];
        Request { v: 1, words, term: None, plain: false, password: None }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    fn null() -> File {
        File::open("/dev/null").unwrap()
    }

    #[test]
    fn a_request_arrives_with_its_descriptors_and_what_is_behind_it() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let file = null();
        ask(&ours, &request(), &[file.as_fd(), file.as_fd(), file.as_fd()]).unwrap();
        (&ours).write_all(b"I").unwrap();
        // Both are there before anything is read.
        let received = take(&theirs, soon()).unwrap();
        assert_eq!(received.request, request());
        assert!(received.early.is_empty() || received.early == b"I");
    }

    fn refused(send: impl FnOnce(&UnixStream)) -> String {
        let (ours, theirs) = UnixStream::pair().unwrap();
        send(&ours);
        drop(ours);
        take(&theirs, soon()).unwrap_err().to_string()
    }

    fn with_fds(stream: &UnixStream, bytes: &[u8], count: usize) {
        let files: Vec<File> = (0..count).map(|_| null()).collect();
        let fds: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
    }

    #[test]
    fn a_request_that_is_not_as_it_should_be_is_refused_and_its_descriptors_are_closed() {
        let mut line = serde_json::to_vec(&request()).unwrap();
        line.push(b'\n');
        assert!(refused(|s| (&mut &*s).write_all(&line).unwrap()).contains("three descriptors"));
        assert!(refused(|s| with_fds(s, &line, 2)).contains("three descriptors"));
        assert!(refused(|s| with_fds(s, &line, 40)).contains("more than three"));
        let twice = |s: &UnixStream| {
            with_fds(s, b"{", 3);
            with_fds(s, b"}\n", 3);
        };
        assert!(refused(twice).contains("more than three"));
        assert!(refused(|s| with_fds(s, b"[[[[\n", 3)).contains("no sense"));
        assert!(refused(|s| with_fds(s, b"{\"v\":1}\n", 3)).contains("no sense"));
        assert!(refused(|s| with_fds(s, b"{", 3)).contains("end of file"));
        let (open, words) = (b"{\"words\":[\"".to_vec(), vec![b'x'; LONGEST + 10]);
        let huge = [open, words].concat();
        assert!(refused(|s| (&mut &*s).write_all(&huge).unwrap()).contains("too long"));
    }

    #[test]
    fn a_caller_that_says_nothing_is_not_waited_for_for_ever() {
        let (_ours, theirs) = UnixStream::pair().unwrap();
        let soon = Instant::now() + Duration::from_millis(30);
        assert_eq!(take(&theirs, soon).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
