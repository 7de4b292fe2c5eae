//! The library's end of the control connection: one request at a time, events as they come.

use std::cell::RefCell;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use kxl_backend::{BackendError, Event};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::protocol::{Message, Notice, Request, Status, With};
use crate::script::{Script, Step};

/// What came back, or the connection's end.
type Answer = (Option<String>, Status);

/// The request that waits for its answer.
type Pending = Rc<RefCell<Option<(u64, oneshot::Sender<Answer>)>>>;

/// Why a request was not answered.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// The emulator said no.
    Refused(String),
    /// The connection has ended: the emulator is gone, or another monitor has taken it.
    Lost,
    /// Not in time.
    Late(Duration),
}

impl Unanswered {
    /// The error for a command that the emulator did not carry out.
    pub(crate) fn error(self, step: Step) -> BackendError {
        let command = step.as_str().to_owned();
        match self {
            Self::Refused(why) => BackendError::Control { command, why },
            Self::Lost => {
                BackendError::Control { command, why: "the control connection is closed".into() }
            }
            Self::Late(after) => {
                BackendError::TimedOut { waited_for: format!("answer to {command}"), after }
            }
        }
    }
}

/// The connection.
#[derive(Debug)]
pub(crate) struct Control {
    writer: OwnedWriteHalf,
    pending: Pending,
    next_id: u64,
}

impl Control {
    /// Takes over a connected stream. Events go to `events`; the task that reads ends with the
    /// connection and is returned so that its end can be awaited.
    pub(crate) fn new(
        stream: UnixStream,
        events: mpsc::UnboundedSender<Event>,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (reader, writer) = tokio::net::UnixStream::from_std(stream)?.into_split();
        let pending = Pending::default();
        let reading = tokio::task::spawn_local(read(reader, Rc::clone(&pending), events));
        Ok((Self { writer, pending, next_id: 0 }, reading))
    }

    /// Asks for one step and waits for the answer, at most `deadline`.
    ///
    /// Cancel-safe: an answer that comes after the future was dropped is thrown away.
    pub(crate) async fn ask(
        &mut self,
        step: Step,
        script: &Script,
        with: With,
        deadline: Duration,
    ) -> Result<Status, Unanswered> {
        self.next_id += 1;
        let (id, fault, guest) = (self.next_id, script.fault(step), script.guest);
        let mut line = serde_json::to_string(&Request { id, step, fault, guest, with })
            .map_err(|error| Unanswered::Refused(error.to_string()))?;
        line.push('\n');
        let (sender, answer) = oneshot::channel();
        self.pending.replace(Some((id, sender)));
        let asked = async {
            self.writer.write_all(line.as_bytes()).await.map_err(|_| Unanswered::Lost)?;
            answer.await.map_err(|_| Unanswered::Lost)
        };
        match tokio::time::timeout(deadline, asked).await {
            Ok(Ok((None, status))) => Ok(status),
            Ok(Ok((Some(why), _))) => Err(Unanswered::Refused(why)),
            Ok(Err(lost)) => Err(lost),
            Err(_) => Err(Unanswered::Late(deadline)),
        }
    }
}

async fn read(reader: OwnedReadHalf, pending: Pending, events: mpsc::UnboundedSender<Event>) {
    let mut lines = BufReader::with_capacity(1024, reader).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str(&line) {
            Ok(Message::Reply { id, refused, status }) => {
                let waiting = pending.borrow_mut().take_if(|(asked, _)| *asked == id);
                if let Some((_, sender)) = waiting {
                    // Whoever asked may have given up by now.
                    let _late = sender.send((refused, status));
                }
            }
            Ok(Message::Event(notice)) => {
                let _unheard = events.send(event(notice));
            }
            Err(error) => tracing::warn!(%error, line, "the mock said something odd"),
        }
    }
    drop(pending.take());
}

fn event(notice: Notice) -> Event {
    match notice {
        Notice::Stopped => Event::Stopped,
        Notice::Resumed => Event::Resumed,
        Notice::Reset => Event::Reset,
        Notice::Ended(event) => Event::GuestEnded(event),
    }
}
