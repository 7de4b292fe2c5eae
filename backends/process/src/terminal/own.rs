//! What one start has of its own, and a later monitor has to know again.

use kxl_backend::{Attachments, BackendError, Event, Identity, LaunchSpec, Result};
use tokio::sync::mpsc;

use super::detached;
use super::freezer::{self, Freezer};
use crate::charon::{self, Charon};
use crate::ports;
use crate::profile::{Detach, PauseWay, Profile};
use crate::template::Values;

/// Key of the port among [`Attachments::notes`].
const PORT: &str = "port";

/// Key of the port that the configuration names, there and among the values.
const CONSOLE_PORT: &str = "console_port";

/// What it has.
#[derive(Clone, Debug, Default)]
pub(super) struct Own {
    /// A TCP port of 127.0.0.1 that was free: `{port}`.
    pub(super) port: Option<u16>,
    /// What an emulator that puts itself into the background is known by.
    pub(super) mark: Option<String>,
    /// The group in which it can be frozen.
    pub(super) freezer: Option<Freezer>,
    /// The port that the emulator's own configuration names for its console.
    console_port: Option<u16>,
    /// Why there is no such group.
    unfrozen: Option<String>,
}

impl Own {
    /// Chooses them for a start.
    ///
    /// # Errors
    /// When the host has no port left.
    pub(super) fn make(
        profile: &Profile,
        spec: &LaunchSpec,
        charon: Option<&Charon>,
    ) -> Result<Self> {
        let port = profile.templates().any(|template| template.contains("{port}"));
        let free = || ports::free().map_err(|error| BackendError::io("no port is free", error));
        let mut own = Self {
            port: port.then(free).transpose()?,
            console_port: charon.map(|charon| charon.console_port),
            mark: (profile.start.detach == Detach::Itself).then(|| detached::mark(spec)),
            ..Self::default()
        };
        if profile.pause.kind == PauseWay::Freezer {
            match Freezer::make(spec) {
                Ok(freezer) => own.freezer = Some(freezer),
                Err(error) => own.unfrozen = Some(error.to_string()),
            }
        }
        Ok(own)
    }

    /// Something in their place, for a check.
    pub(super) fn sample() -> Self {
        Self { port: Some(1), console_port: Some(1), ..Self::default() }
    }

    /// What an earlier monitor has written down.
    pub(super) fn of(attachments: &Attachments) -> Self {
        let note = |key: &str| attachments.notes.get(key);
        Self {
            port: note(PORT).and_then(|port| port.parse().ok()),
            console_port: note(CONSOLE_PORT).and_then(|port| port.parse().ok()),
            mark: note(detached::NOTE).cloned(),
            freezer: note(freezer::NOTE).map(|dir| Freezer::of(dir)),
            unfrozen: None,
        }
    }

    /// Writes them down, with the process that is executed.
    pub(super) fn note(&self, attachments: &mut Attachments, first: &Identity) {
        let notes = [
            (PORT, self.port.map(|port| port.to_string())),
            (CONSOLE_PORT, self.console_port.map(|port| port.to_string())),
            (detached::NOTE, self.mark.clone()),
            (detached::FIRST, self.mark.as_ref().map(|_| detached::name_of(first))),
            (freezer::NOTE, self.freezer.as_ref().map(|own| own.dir().display().to_string())),
        ];
        let notes = notes.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        attachments.notes.extend(notes);
    }

    /// The values of a domain with them.
    pub(super) fn values(&self, profile: &Profile, spec: &LaunchSpec) -> Values {
        let mut values = Values::of(&profile.name, spec);
        for (name, port) in [(PORT, self.port), (CONSOLE_PORT, self.console_port)] {
            if let Some(port) = port {
                values = values.with(name, port.to_string());
            }
        }
        match &spec.config.emulator_config {
            Some(file) => values.with("config_copy", charon::copy_of(file, spec)),
            None => values,
        }
    }

    /// Tells what the host does not let it have.
    pub(super) fn tell(&self, events: &mpsc::UnboundedSender<Event>) {
        if let Some(why) = &self.unfrozen {
            let text = format!("it cannot be frozen and is paused by signals instead: {why}");
            let _nobody_listens = events.send(Event::Warning { what: "freezer-missing", text });
        }
    }
}
