//! A QMP channel at which an emulator of one's own profile listens.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use kxl_backend::{BackendError, Event, Process, Result};
use kxl_domain::{GuestEvent, State};
use kxl_qmp::{Client, QmpError};
use tokio::sync::mpsc;

use crate::profile::Meaning;
use crate::qemu::translated;
use crate::sockets;

/// How long a command may take.
const COMMAND: Duration = Duration::from_secs(5);

/// How long a query may take ([`kxl_backend::Live::query`]).
const QUERY: Duration = Duration::from_millis(150);

/// Pause between two tries to connect: nothing wakes us when a program begins to listen.
const PAUSE: Duration = Duration::from_millis(20);

/// How long an emulator that has told its guest's end may take to end itself; after that it stands
/// still and waits for us.
const ENDING: Duration = Duration::from_secs(2);

/// The channel; not connected at first.
#[derive(Debug)]
pub(crate) struct Channel {
    path: PathBuf,
    meanings: BTreeMap<String, Meaning>,
    client: RefCell<Option<Rc<Client>>>,
    /// We stop the guest and let it go ourselves, and nobody is to be told.
    pub(super) quiet: Rc<Cell<bool>>,
    /// How the guest ended, by its last event.
    ended: Rc<Cell<Option<GuestEvent>>>,
    events: mpsc::UnboundedSender<Event>,
}

impl Channel {
    /// A channel through this socket; nothing is done yet.
    pub(super) fn new(
        path: PathBuf,
        meanings: BTreeMap<String, Meaning>,
        events: mpsc::UnboundedSender<Event>,
    ) -> Self {
        let (client, quiet, ended) = (RefCell::default(), Rc::default(), Rc::default());
        Self { path, meanings, client, quiet, ended, events }
    }

    /// How the guest ended, as far as the emulator has told.
    pub(crate) fn ended(&self) -> Option<GuestEvent> {
        self.ended.get()
    }

    /// Connects, as soon as the emulator listens, and reads what it says from then on.
    ///
    /// # Errors
    /// [`BackendError::TimedOut`], or [`BackendError::Exited`] when it has ended.
    pub(super) async fn connect(&self, process: &Rc<Process>, patience: Duration) -> Result<()> {
        let connected = async {
            loop {
                if let Ok(stream) = sockets::dial(&self.path) {
                    match Client::connect(stream, patience).await {
                        Ok(connected) => return Ok(connected),
                        Err(QmpError::Closed { .. } | QmpError::Io(_)) => {}
                        Err(error) => return Err(translated(error)),
                    }
                }
                if !process.identity().alive() {
                    return Err(BackendError::Exited { text: "before it answered".into() });
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        let (client, incoming) =
            tokio::time::timeout(patience, connected).await.map_err(|_| {
                let waited_for = format!("the emulator to listen at {}", self.path.display());
                BackendError::TimedOut { waited_for, after: patience }
            })??;
        *self.client.borrow_mut() = Some(Rc::new(client));
        let listener = Listener {
            meanings: self.meanings.clone(),
            quiet: Rc::clone(&self.quiet),
            ended: Rc::clone(&self.ended),
            events: self.events.clone(),
            process: Rc::clone(process),
        };
        tokio::task::spawn_local(listener.run(incoming));
        Ok(())
    }

    /// Whether it was connected.
    pub(super) fn is_connected(&self) -> bool {
        self.client.borrow().is_some()
    }

    /// Runs a command.
    ///
    /// # Errors
    /// As the emulator answers.
    pub(super) async fn execute(&self, command: &str, deadline: Duration) -> Result<()> {
        self.ask(command, None, deadline).await.map(drop)
    }

    /// The same with arguments; gives what it answers.
    ///
    /// # Errors
    /// As [`Self::execute`].
    pub(super) async fn ask(
        &self,
        command: &str,
        arguments: Option<serde_json::Value>,
        deadline: Duration,
    ) -> Result<serde_json::Value> {
        let client = self.client.borrow().clone();
        let Some(client) = client else {
            let why = "the control channel is not connected".to_owned();
            return Err(BackendError::Control { command: command.to_owned(), why });
        };
        client.execute(command.to_owned(), arguments, deadline).await.map_err(translated)
    }

    /// The same within the time that a command may take.
    ///
    /// # Errors
    /// As [`Self::execute`].
    pub(super) async fn command(&self, command: &str) -> Result<()> {
        self.execute(command, COMMAND).await
    }

    /// Where the guest stands.
    ///
    /// # Errors
    /// [`BackendError::TimedOut`].
    pub(super) async fn state(&self) -> Result<State> {
        self.state_within(QUERY).await
    }

    /// The same within a time.
    ///
    /// # Errors
    /// [`BackendError::TimedOut`].
    pub(super) async fn state_within(&self, deadline: Duration) -> Result<State> {
        let answer = self.ask("query-status", None, deadline).await?;
        let status = answer.get("status").and_then(serde_json::Value::as_str).unwrap_or_default();
        let running = answer.get("running").and_then(serde_json::Value::as_bool);
        Ok(match (self.ended.get(), status, running) {
            (Some(_), ..) | (_, "shutdown" | "guest-panicked", _) => State::Shutdown,
            (_, "running", _) | (_, _, Some(true)) => State::Running,
            _ => State::Paused,
        })
    }
}

/// What turns the emulator's events into ours.
struct Listener {
    meanings: BTreeMap<String, Meaning>,
    quiet: Rc<Cell<bool>>,
    ended: Rc<Cell<Option<GuestEvent>>>,
    events: mpsc::UnboundedSender<Event>,
    process: Rc<Process>,
}

impl Listener {
    async fn run(self, mut incoming: mpsc::UnboundedReceiver<kxl_qmp::Event>) {
        while let Some(event) = incoming.recv().await {
            let reason = event.data.get("reason").and_then(serde_json::Value::as_str);
            let named = reason.map(|reason| format!("{}:{reason}", event.name));
            let meaning = named
                .and_then(|named| self.meanings.get(&named))
                .or_else(|| self.meanings.get(&event.name));
            match (meaning.copied().and_then(Meaning::event), event.name.as_str()) {
                (Some(how), _) => self.end(how),
                (None, "STOP" | "RESUME") if self.quiet.get() => {}
                (None, "STOP") => self.tell(Event::Stopped),
                (None, "RESUME") => self.tell(Event::Resumed),
                (None, "RESET") => self.tell(Event::Reset),
                (None, _) => {}
            }
        }
    }

    /// The guest has ended. Most emulators end with it, and their end tells more.
    fn end(&self, how: GuestEvent) {
        if self.ended.replace(Some(how)).is_some() {
            return;
        }
        let (process, events) = (Rc::clone(&self.process), self.events.clone());
        tokio::task::spawn_local(async move {
            if tokio::time::timeout(ENDING, process.gone()).await.is_err() {
                let _nobody_listens = events.send(Event::GuestEnded(how));
            }
        });
    }

    fn tell(&self, event: Event) {
        let _nobody_listens = self.events.send(event);
    }
}
