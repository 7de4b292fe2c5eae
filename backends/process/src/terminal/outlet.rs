//! Where the console is, and where something can be typed.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use kxl_backend::{BackendError, Process, Result};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::ear::Ear;
use super::line::{Line, Place};
use super::{save, tail};
use crate::profile::{Console, ConsoleKind};
use crate::template::Values;

/// How long the end of a file may take to be passed on.
const LAST_OUTPUT: Duration = Duration::from_secs(2);

/// What a profile's `[console]` comes to for a domain.
#[derive(Clone, Debug)]
pub(super) enum Where {
    /// The emulator's own terminal, or its standard streams.
    Own,
    /// A place at which it listens.
    Line(Place),
    /// A file that it writes.
    File(PathBuf),
    /// There is none.
    Nowhere,
}

impl Where {
    /// By the values of a domain.
    ///
    /// # Errors
    /// [`BackendError::Config`] for a value that is missing or no port.
    pub(super) fn of(console: &Console, values: &Values) -> Result<Self> {
        let path = || -> Result<PathBuf> {
            let template = console.path.as_deref().unwrap_or_default();
            Ok(values.argument(template)?.unwrap_or_default().into())
        };
        Ok(match console.kind {
            ConsoleKind::Pty | ConsoleKind::Stdio | ConsoleKind::Socket => Self::Own,
            ConsoleKind::Unix => Self::Line(Place::Unix(path()?)),
            ConsoleKind::Telnet => {
                Self::Line(Place::Telnet(port(values, console.port.as_deref())?.unwrap_or(0)))
            }
            ConsoleKind::File => Self::File(path()?),
            ConsoleKind::None => Self::Nowhere,
        })
    }

    /// Clears away what an earlier emulator has left there.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub(super) fn prepare(&self) -> Result<()> {
        match self {
            Self::Line(Place::Unix(path)) => save::remove(path),
            Self::File(path) => tail::make(path).map_err(|error| {
                BackendError::io(format!("cannot make {}", path.display()), error)
            })?,
            Self::Line(Place::Telnet(_)) | Self::Own | Self::Nowhere => {}
        }
        Ok(())
    }

    /// Connects it with our end of the monitor's console; what is the emulator's own is connected
    /// by whoever reads its terminal, to whom the end is given back.
    pub(super) fn open(
        self,
        process: &Rc<Process>,
        ours: UnixStream,
        ear: &Rc<Ear>,
    ) -> (Outlet, Option<UnixStream>) {
        match self {
            Self::Own => (Outlet::Own, Some(ours)),
            Self::Line(place) => {
                let line = Line::open(place, Rc::clone(process), ours, Rc::clone(ear));
                (Outlet::Line(Rc::new(line)), None)
            }
            Self::File(path) => (Outlet::File(Rc::new(Tail::open(path, ours, ear))), None),
            Self::Nowhere => (Outlet::Nothing, None),
        }
    }
}

/// A port by a template, where there is one.
///
/// # Errors
/// [`BackendError::Config`] for a value that is missing or no port.
pub(super) fn port(values: &Values, template: Option<&str>) -> Result<Option<u16>> {
    let Some(template) = template else { return Ok(None) };
    let text = values.argument(template)?.unwrap_or_default();
    let number = text.to_str().and_then(|text| text.parse::<u16>().ok()).filter(|port| *port > 0);
    number.map(Some).ok_or_else(|| {
        let why = format!("{text:?}, which the profile's {template:?} comes to, is no TCP port");
        BackendError::config("backend", why)
    })
}

/// A file that is followed.
#[derive(Debug)]
pub(crate) struct Tail {
    ended: watch::Sender<bool>,
    task: RefCell<Option<JoinHandle<()>>>,
}

impl Tail {
    fn open(path: PathBuf, ours: UnixStream, ear: &Rc<Ear>) -> Self {
        let (ended, over) = watch::channel(false);
        let task = tokio::task::spawn_local(tail::follow(path, ours, Rc::clone(ear), over));
        Self { ended, task: RefCell::new(Some(task)) }
    }

    async fn finish(&self) {
        self.ended.send_replace(true);
        let task = self.task.borrow_mut().take();
        if let Some(mut task) = task
            && tokio::time::timeout(LAST_OUTPUT, &mut task).await.is_err()
        {
            task.abort();
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        if let Some(task) = self.task.borrow_mut().take() {
            task.abort();
        }
    }
}

/// Where something can be typed.
#[derive(Clone, Debug)]
pub(crate) enum Outlet {
    /// The emulator's own terminal or standard input.
    Own,
    /// A line at which it listens.
    Line(Rc<Line>),
    /// Nowhere: what it writes into a file is read.
    File(Rc<Tail>),
    /// Nowhere.
    Nothing,
}

impl Outlet {
    /// The emulator has ended: what it said last is passed on, and the console is closed.
    pub(super) async fn finish(&self) {
        match self {
            Self::Line(line) => line.finish().await,
            Self::File(tail) => tail.finish().await,
            Self::Own | Self::Nothing => {}
        }
    }
}
