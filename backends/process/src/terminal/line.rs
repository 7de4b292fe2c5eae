//! A console that is not the emulator's own terminal: a socket or a TCP port at which it listens.
//!
//! The monitor is its one client for as long as the emulator lives. A line that breaks off is
//! called again; what is typed meanwhile waits.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use kxl_backend::Process;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::ear::Ear;
use super::outgoing::Outgoing;
use crate::telnet::Telnet;
use crate::{ports, sockets};

/// Output kept for a monitor that does not read; the oldest goes first, the emulator never waits.
const BACKLOG: usize = 1 << 20;

/// What may wait to be sent to the emulator before no more is read.
const MOST_TYPED: usize = 64 << 10;

/// First and longest pause between two calls: an emulator opens its line within its first
/// moments, or never.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// A line that has lived for so long was a good one: when it breaks off it is called again as if
/// for the first time. One that hangs up at once is as bad as none.
const GOOD: Duration = Duration::from_secs(5);

/// How long a line of an emulator that has ended may take to be read to its end.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// Where the emulator listens.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// A unix socket; raw bytes.
    Unix(PathBuf),
    /// A port of 127.0.0.1; telnet.
    Telnet(u16),
}

/// The side of the handle.
#[derive(Debug)]
pub(crate) struct Line {
    typed: mpsc::UnboundedSender<Vec<u8>>,
    connected: watch::Receiver<bool>,
    ended: watch::Sender<bool>,
    task: std::cell::RefCell<Option<JoinHandle<()>>>,
}

impl Line {
    /// Calls the emulator's line and connects it with the monitor's end of the console.
    pub(crate) fn open(place: Place, process: Rc<Process>, ours: UnixStream, ear: Rc<Ear>) -> Self {
        let (typed, typing) = mpsc::unbounded_channel();
        let (told, connected) = watch::channel(false);
        let (ended, over) = watch::channel(false);
        let wire = Wire {
            place,
            process,
            ours: Some(ours),
            ear,
            typing,
            told,
            over,
            printed: VecDeque::new(),
            outgoing: Outgoing::default(),
            telnet: None,
        };
        let task = std::cell::RefCell::new(Some(tokio::task::spawn_local(wire.run())));
        Self { typed, connected, ended, task }
    }

    /// Types for us, whoever else types.
    ///
    /// # Errors
    /// When the line is closed for good.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.typed.send(bytes.to_vec()).map_err(closed)
    }

    /// Waits until the line is connected.
    pub(crate) async fn connected(&self) -> bool {
        self.connected.clone().wait_for(|connected| *connected).await.is_ok()
    }

    /// The emulator has ended: what it said last is passed on, then the console is closed.
    pub(crate) async fn finish(&self) {
        self.ended.send_replace(true);
        let task = self.task.borrow_mut().take();
        if let Some(mut task) = task
            && tokio::time::timeout(LAST_OUTPUT * 2, &mut task).await.is_err()
        {
            task.abort();
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(task) = self.task.borrow_mut().take() {
            task.abort();
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// The task's side.
struct Wire {
    place: Place,
    process: Rc<Process>,
    /// The console's end towards the monitor; `None` when the monitor has closed its own.
    ours: Option<UnixStream>,
    ear: Rc<Ear>,
    typing: mpsc::UnboundedReceiver<Vec<u8>>,
    told: watch::Sender<bool>,
    over: watch::Receiver<bool>,
    /// Said by the emulator, not yet taken by the monitor.
    printed: VecDeque<u8>,
    /// For the emulator, not yet taken by it.
    outgoing: Outgoing,
    /// Of this line, where it speaks telnet.
    telnet: Option<Telnet>,
}

/// The pauses between calls.
#[derive(Debug)]
struct Pauses(Duration);

impl Pauses {
    const fn new() -> Self {
        Self(PAUSES.0)
    }

    /// The next one; each is twice the one before.
    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(PAUSES.1);
        pause
    }

    /// The one after a line that has lived for so long.
    fn after(&mut self, lived: Duration) -> Duration {
        if lived >= GOOD {
            self.0 = PAUSES.0;
        }
        self.next()
    }
}

impl Wire {
    async fn run(mut self) {
        let mut over = self.over.clone();
        let (mut pauses, mut first) = (Pauses::new(), Duration::ZERO);
        loop {
            let line = tokio::select! {
                line = self.call(first, &mut pauses) => line,
                _ended = over.wait_for(|over| *over) => break,
            };
            let since = tokio::time::Instant::now();
            self.telnet = matches!(self.place, Place::Telnet(_)).then(Telnet::client);
            self.told.send_replace(true);
            let broken = self.talk(line, &mut over).await;
            self.told.send_replace(false);
            self.outgoing.broke_off(self.telnet.as_ref());
            match broken {
                Ok(()) => break,
                Err(error) => tracing::debug!(%error, place = ?self.place, "the line broke off"),
            }
            first = pauses.after(since.elapsed());
        }
        self.pass_on_the_rest().await;
    }

    /// Calls after a pause, until somebody answers.
    async fn call(&self, mut pause: Duration, pauses: &mut Pauses) -> Box<dyn Stream> {
        loop {
            // Nothing wakes us when a program begins to listen.
            tokio::time::sleep(pause).await;
            match self.dial().await {
                Ok(stream) => return stream,
                Err(error) => tracing::trace!(%error, "no line yet"),
            }
            pause = pauses.next();
        }
    }

    async fn dial(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match &self.place {
            Place::Unix(path) => Box::new(sockets::dial(path)?),
            Place::Telnet(port) => {
                // Somebody else may have been given the port in between.
                if !ports::listens(self.process.identity().pid, *port) {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                let stream = TcpStream::connect(("127.0.0.1", *port)).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
        })
    }

    /// Passes bytes both ways. `Ok` when the emulator has ended and everything was read.
    async fn talk(
        &mut self,
        line: Box<dyn Stream>,
        over: &mut watch::Receiver<bool>,
    ) -> io::Result<()> {
        let (mut hear, mut say) = tokio::io::split(line);
        let (mut heard, mut told) = (vec![0; 4096], vec![0; 1024]);
        let mut last = None;
        loop {
            let ended = last.is_some();
            self.outgoing.prepare(self.telnet.as_ref());
            let (printed, to_send) = (self.printed.as_slices().0, self.outgoing.ready());
            let room = self.outgoing.len() < MOST_TYPED;
            let all_sent = !self.outgoing.has_typed();
            let (mut reading, mut writing) = match &mut self.ours {
                Some(ours) => {
                    let (reading, writing) = ours.split();
                    (Some(reading), Some(writing))
                }
                None => (None, None),
            };
            tokio::select! {
                count = hear.read(&mut heard), if room => match count {
                    Ok(0) if ended => return Ok(()),
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(count) => self.took(&heard[..count]),
                    Err(_) if ended => return Ok(()),
                    Err(error) => return Err(error),
                },
                count = say.write(to_send), if !to_send.is_empty() => {
                    let count = count?;
                    self.outgoing.wrote(count);
                }
                count = write(writing.as_mut(), printed), if !printed.is_empty() => match count {
                    Ok(count) => drop(self.printed.drain(..count)),
                    Err(_) => self.ours = None,
                },
                count = read(reading.as_mut(), &mut told), if all_sent => match count {
                    Ok(count) if count > 0 => self.outgoing.say(&told[..count]),
                    _ => self.ours = None,
                },
                Some(bytes) = self.typing.recv() => self.outgoing.say(&bytes),
                _ended = over.wait_for(|over| *over), if !ended => {
                    last = Some(tokio::time::Instant::now() + LAST_OUTPUT);
                }
                () = late(last), if ended => return Ok(()),
            }
        }
    }

    /// What came from the emulator.
    fn took(&mut self, bytes: &[u8]) {
        let mut data = Vec::new();
        match &mut self.telnet {
            Some(telnet) => {
                let mut reply = Vec::new();
                telnet.take(bytes, &mut data, &mut reply);
                self.outgoing.reply(&reply);
            }
            None => data.extend_from_slice(bytes),
        }
        self.ear.hear(&data);
        if self.ours.is_some() {
            self.printed.extend(data);
            let excess = self.printed.len().saturating_sub(BACKLOG);
            self.printed.drain(..excess);
        }
    }

    /// Passes on what the emulator said before its end, for as long as it is taken.
    async fn pass_on_the_rest(&mut self) {
        let Some(ours) = &mut self.ours else { return };
        let rest: Vec<u8> = self.printed.drain(..).collect();
        if tokio::time::timeout(LAST_OUTPUT, ours.write_all(&rest)).await.is_err() {
            tracing::debug!("the end of the console was not taken");
        }
    }
}

async fn read(
    from: Option<&mut tokio::net::unix::ReadHalf<'_>>,
    buffer: &mut [u8],
) -> io::Result<usize> {
    match from {
        Some(from) => from.read(buffer).await,
        None => std::future::pending().await,
    }
}

async fn write(
    to: Option<&mut tokio::net::unix::WriteHalf<'_>>,
    bytes: &[u8],
) -> io::Result<usize> {
    match to {
        Some(to) => to.write(bytes).await,
        None => std::future::pending().await,
    }
}

async fn late(when: Option<tokio::time::Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use kxl_backend::Identity;

    use super::*;
    use crate::testing::{Scratch, monitor};

    #[test]
    fn a_line_that_hangs_up_at_once_is_called_ever_more_seldom_and_a_good_one_soon() {
        let mut pauses = Pauses::new();
        let moment = Duration::from_millis(1);
        assert_eq!(pauses.after(moment), PAUSES.0);
        for _ in 0..10 {
            pauses.after(moment);
        }
        assert_eq!(pauses.after(moment), PAUSES.1);
        assert_eq!(pauses.next(), PAUSES.1, "refused, or hung up: it is the same");
        assert_eq!(pauses.after(GOOD), PAUSES.0);
        assert_eq!(pauses.next(), PAUSES.0 * 2);
    }

    /// Five times it answers and hangs up; the sixth time it stays.
    #[test]
    fn an_emulator_that_answers_and_hangs_up_is_not_called_without_a_pause() {
        let scratch = Scratch::new("line");
        let path = scratch.0.join("line");
        monitor(async {
            let listener = tokio::net::UnixListener::bind(&path).unwrap();
            let us = Identity::of(i32::try_from(std::process::id()).unwrap()).unwrap();
            let process = Rc::new(Process::open(us).unwrap());
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let since = tokio::time::Instant::now();
            let line = Line::open(Place::Unix(path.clone()), process, ours, Rc::default());
            for _ in 0..5 {
                drop(listener.accept().await.unwrap());
            }
            let (mut emulator, _) = listener.accept().await.unwrap();
            let least = PAUSES.0 * (1 + 2 + 4 + 8 + 16);
            assert!(since.elapsed() >= least, "{:?}", since.elapsed());
            assert!(line.connected().await);
            theirs.write_all(b"typed").await.unwrap();
            let mut came = [0; 5];
            emulator.read_exact(&mut came).await.unwrap();
            assert_eq!(&came, b"typed");
        });
    }
}
