//! Watching the emulator process for its end.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use kxl_backend::{Event, Exit, Process};
use kxl_domain::GuestEvent;
use nix::sys::signal::Signal;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};

/// Bytes of the emulator's log that may become its last words.
const LAST_WORDS: u64 = 400;

/// Knows when and how the process ended; tells the event stream, as its last event. Dropped, it
/// stops watching and leaves the process alone.
#[derive(Debug)]
pub(crate) struct Watch {
    exit: watch::Receiver<Option<Exit>>,
    destroyed: Rc<Cell<bool>>,
    tasks: [AbortHandle; 2],
}

impl Drop for Watch {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Watch {
    /// Watches `process`. `reading` is the task that reads its control connection: what the
    /// emulator said before its end comes before the news of its end.
    pub(crate) fn new(
        process: Rc<Process>,
        reading: JoinHandle<()>,
        events: mpsc::UnboundedSender<Event>,
        log: Log,
    ) -> Self {
        let (sender, exit) = watch::channel(None);
        let destroyed = Rc::new(Cell::new(false));
        let reader = reading.abort_handle();
        let watcher = {
            let destroyed = Rc::clone(&destroyed);
            tokio::task::spawn_local(async move {
                let (code, signal) = process.wait().await.unwrap_or_default();
                // An aborted reader has nothing left to say either.
                let _said = reading.await;
                let exit = told(code, signal, destroyed.get(), &log);
                sender.send_replace(Some(exit.clone()));
                let _unheard = events.send(Event::Exited(exit));
            })
        };
        Self { exit, destroyed, tasks: [reader, watcher.abort_handle()] }
    }

    /// From now on the process's end is our doing.
    pub(crate) fn destroying(&self) {
        self.destroyed.set(true);
    }

    /// How the process ended, if that is known already.
    pub(crate) fn known(&self) -> Option<Exit> {
        self.exit.borrow().clone()
    }

    /// Waits at most `patience` until it is known how the process ended.
    pub(crate) async fn exit(&self, patience: Duration) -> Option<Exit> {
        let mut exit = self.exit.clone();
        let known = tokio::time::timeout(patience, exit.wait_for(Option::is_some)).await;
        known.ok()?.ok()?.clone()
    }
}

fn told(code: Option<i32>, signal: Option<i32>, destroyed: bool, log: &Log) -> Exit {
    let how = match (code, signal) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(number)) => {
            let name = Signal::try_from(number).map_or("unknown", Signal::as_str);
            format!("killed by signal {number} ({name})")
        }
        (None, None) => "nobody saw how it ended".to_owned(),
    };
    let words = if destroyed { String::new() } else { log.last_words() };
    let text = if words.is_empty() { how } else { format!("{how}: {words}") };
    Exit { code, signal, meaning: (!destroyed).then_some(GuestEvent::Crash), text }
}

/// The emulator's log from where it stood when this emulator began.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    path: PathBuf,
    from: u64,
}

impl Log {
    /// The log as it stands now.
    pub(crate) fn now(path: &Path) -> Self {
        let from = std::fs::metadata(path).map_or(0, |meta| meta.len());
        Self { path: path.to_owned(), from }
    }

    /// What was added at the end, as one line; empty when nothing was or it cannot be read.
    pub(crate) fn last_words(&self) -> String {
        let tail = || -> io::Result<String> {
            let mut file = File::open(&self.path)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(self.from.max(length.saturating_sub(LAST_WORDS))))?;
            let mut bytes = Vec::new();
            file.take(LAST_WORDS).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).lines().collect::<Vec<_>>().join("; "))
        };
        tail().unwrap_or_default()
    }
}
