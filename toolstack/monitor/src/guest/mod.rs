//! What the guest tells of itself, over a port of its own or by marked lines on its console.
//!
//! A guest may be hostile. What it costs is bounded: the port is read at [`port::RATE`] and waits in
//! between; of log messages and alerts so many become events, the others are counted; of what it
//! says about its start the last words count. Nothing here ever waits for the guest.

mod bucket;
mod intake;
mod port;
mod words;

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use kxl_domain::config::model::{DomainConfig, GuestEvents};
use kxl_domain::guest::{GuestWord, Piece};
use kxl_engine::{Conf, Host, Snapshot};
use kxl_store::{Event, Paths};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use intake::{Intake, SUPPRESSED, Said, Taken};
use port::Port;

use crate::PATIENCE;
use crate::timing::at;

/// How long after an event the database stays open for the next one.
const QUIET: Duration = Duration::from_secs(2);

const NOT_RECORDED: &str = "it could not be recorded";

/// The monitor's ear for one guest.
pub(crate) struct Ear {
    way: GuestEvents,
    inner: RefCell<Inner>,
    /// Something is there for [`Ear::next`].
    news: Notify,
}

struct Inner {
    intake: Intake,
    /// Who the guest is now.
    snapshots: watch::Receiver<Snapshot>,
    port: Option<Rc<Port>>,
    reading: Option<JoinHandle<()>>,
    /// Where the host's records are, and what kxl.conf said when the monitor came.
    place: (Paths, Conf),
    /// The host's records, apart from those of the domain's task, which may be at work for minutes.
    host: Option<Host>,
    close_at: Option<Instant>,
}

/// A word of the guest about its start, and who wants to know that it was heard.
#[derive(Debug)]
pub(crate) struct Word {
    pub(crate) word: GuestWord,
    references: Vec<String>,
}

impl Ear {
    pub(crate) fn new(
        config: &DomainConfig,
        snapshots: watch::Receiver<Snapshot>,
        place: (Paths, Conf),
    ) -> Self {
        let managed = config.supervision.as_ref().is_some_and(|rules| rules.managed_start);
        let inner = Inner {
            intake: Intake::new(managed),
            snapshots,
            port: None,
            reading: None,
            place,
            host: None,
            close_at: None,
        };
        Self { way: config.guest_events, inner: RefCell::new(inner), news: Notify::new() }
    }

    /// Whether the console is listened to.
    pub(crate) fn hears_the_console(&self) -> bool {
        self.way == GuestEvents::Console
    }

    /// Another emulator is there: what the last one's guest said of its start is past.
    pub(crate) fn renew(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.intake.forget_words();
        inner.port = None;
        if let Some(task) = inner.reading.take() {
            task.abort();
        }
    }

    /// Listens to the port of an emulator.
    pub(crate) fn connect(self: &Rc<Self>, channel: OwnedFd) {
        match Port::new(channel) {
            Ok(port) => {
                let port = Rc::new(port);
                let task =
                    tokio::task::spawn_local(port::read(Rc::clone(&port), Rc::downgrade(self)));
                let mut inner = self.inner.borrow_mut();
                inner.reading = Some(task);
                inner.port = Some(port);
            }
            Err(error) => tracing::warn!(%error, "the guest's port cannot be read"),
        }
    }

    /// Takes what a stream has brought. Never waits for the guest.
    pub(crate) fn hear(&self, piece: Piece<'_>) {
        let mut inner = self.inner.borrow_mut();
        let taken = inner.intake.take(piece, std::time::Instant::now());
        inner.keep(taken);
        drop(inner);
        self.news.notify_one();
    }

    /// The next word about the guest's start, once somebody `listens` for it. Meanwhile tells what
    /// was suppressed, when that is due. Cancel-safe.
    pub(crate) async fn next(&self, listens: bool) -> Word {
        loop {
            let until = {
                let mut inner = self.inner.borrow_mut();
                let now = std::time::Instant::now();
                if let Some(said) = inner.intake.due(now) {
                    inner.record(&said);
                }
                if listens && let Some((word, references)) = inner.intake.word(now) {
                    return Word { word, references };
                }
                if inner.close_at.is_some_and(|at| at <= Instant::now()) {
                    (inner.host, inner.close_at) = (None, None);
                }
                let timer = inner.intake.timer(listens).map(Instant::from_std);
                timer.into_iter().chain(inner.close_at).min()
            };
            tokio::select! {
                () = self.news.notified() => {}
                () = at(until) => {}
            }
        }
    }

    /// Waits, no longer than `patience`, until what is in the port was read: to its end where the
    /// emulator has ended.
    pub(crate) async fn drained(&self, patience: Duration) {
        let reading = self.inner.borrow_mut().reading.take();
        if let Some(mut task) = reading
            && tokio::time::timeout(patience, &mut task).await.is_err()
        {
            self.inner.borrow_mut().reading = Some(task);
        }
    }

    /// A word that was said already, if there is one.
    pub(crate) fn waiting(&self) -> Option<Word> {
        let (word, references) = self.inner.borrow_mut().intake.word(std::time::Instant::now())?;
        Some(Word { word, references })
    }

    /// A word has had its effect: whoever said it is told.
    pub(crate) fn heard(&self, word: Word) {
        let inner = self.inner.borrow();
        for reference in word.references {
            inner.answer(&reference, Ok(()));
        }
    }

    /// A word that has come too late to have an effect: a failure is worth an event none the less.
    pub(crate) fn late(&self, word: Word) {
        if !matches!(word.word, GuestWord::Failed { .. }) {
            return self.heard(word);
        }
        let mut inner = self.inner.borrow_mut();
        let answer = match inner.intake.late(word.word, std::time::Instant::now()) {
            Some(said) if inner.record(&said) => Ok(()),
            Some(_) => Err(NOT_RECORDED),
            None => Err(SUPPRESSED),
        };
        for reference in &word.references {
            inner.answer(reference, answer);
        }
        drop(inner);
        self.news.notify_one();
    }

    /// The domain has ended: tells what was suppressed.
    pub(crate) fn end(&self) {
        self.renew();
        let mut inner = self.inner.borrow_mut();
        if let Some(said) = inner.intake.last() {
            inner.record(&said);
        }
        inner.host = None;
    }
}

impl Inner {
    /// Records what was taken, and answers who waits for that.
    fn keep(&mut self, taken: Taken) {
        let recorded = taken.said.is_none_or(|said| self.record(&said));
        if let Some((reference, answer)) = taken.answer {
            let answer = if recorded { answer } else { Err(NOT_RECORDED) };
            self.answer(&reference, answer);
        }
    }

    /// Writes an event; whether that worked.
    fn record(&mut self, said: &Said) -> bool {
        let event = {
            let status = &self.snapshots.borrow().status;
            let event = Event::new(said.severity, said.what);
            event.of(status.uuid, &status.name, Some(status.domid)).text(&said.text)
        };
        self.close_at = Some(Instant::now() + QUIET);
        if self.host.is_none() {
            let (paths, conf) = self.place.clone();
            match Host::with(paths, conf) {
                Ok(host) => {
                    if let Err(error) = host.store.set_patience(PATIENCE) {
                        tracing::warn!(%error, "waits for the databases are longer than they should be");
                    }
                    self.host = Some(host);
                }
                Err(failure) => tracing::warn!(%failure, "the host's records cannot be opened"),
            }
        }
        let Some(host) = &self.host else { return false };
        let recorded = host.store.event(&event);
        if let Err(error) = &recorded {
            tracing::warn!(%error, "what the guest said is not recorded");
        }
        recorded.is_ok()
    }

    fn answer(&self, reference: &str, answer: Result<(), &str>) {
        if let Some(port) = &self.port {
            port.answer(&match answer {
                Ok(()) => format!("ok {reference}\n"),
                Err(why) => format!("no {reference} {why}\n"),
            });
        }
    }
}

impl std::fmt::Debug for Ear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ear").field("way", &self.way).finish_non_exhaustive()
    }
}
