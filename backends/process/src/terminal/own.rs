//! What one start has of its own, and a later monitor has to know again.

use kxl_backend::spawn::Account;
use kxl_backend::{Attachments, BackendError, Event, Identity, LaunchSpec, Result};
use tokio::sync::mpsc;

use super::detached;
use super::freezer::{self, Freezer};
use crate::charon::{self, Charon};
use crate::ports;
use crate::profile::{ConsoleKind, Detach, PauseWay, Profile};
use crate::template::Values;

/// Key of the port among [`Attachments::notes`].
const PORT: &str = "port";

/// Key of the port that the configuration names, there and among the values.
const CONSOLE_PORT: &str = "console_port";

/// Whether a start has a port of its own.
pub(super) fn picks_a_port(profile: &Profile) -> bool {
    profile.templates().any(|template| template.contains("{port}"))
}

/// Whether a program that runs as another user gets to everything that its profile gives it.
///
/// # Errors
/// [`BackendError::Config`] for what lies where nobody else can go.
pub(super) fn check_user(profile: &Profile, user: Option<&Account>) -> Result<()> {
    let another = |user: &&Account| user.uid != nix::unistd::geteuid().as_raw();
    let Some(user) = user.filter(another) else { return Ok(()) };
    let what = match profile.console.kind {
        ConsoleKind::Unix => "its console's socket",
        ConsoleKind::File => "its console's file",
        _ if profile.control.socket.is_some() => "its control socket",
        _ => return Ok(()),
    };
    let why = format!(
        "{} cannot run as {}: {what} is in the runtime directory, where nobody else can go; leave \
         user out, or choose another kind in the profile",
        profile.name, user.name
    );
    Err(BackendError::config("user", why))
}

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
        let port = picks_a_port(profile);
        let free = || {
            ports::free(&charon::configured_ports(&spec.host.resting_charons))
                .map_err(|error| BackendError::io("no port is free", error))
        };
        let mut own = Self {
            port: port.then(free).transpose()?,
            console_port: charon.map(|charon| charon.console_port),
            mark: (profile.start.detach == Detach::Itself).then(|| detached::mark(spec)),
            ..Self::default()
        };
        let freezes = profile.pause.kind == PauseWay::Freezer;
        // What goes into the background is found again by its group.
        if freezes || own.mark.is_some() {
            match Freezer::make(spec) {
                Ok(freezer) => own.freezer = Some(freezer),
                Err(error) if freezes => own.unfrozen = Some(error.to_string()),
                Err(error) => tracing::debug!(%error, "no group of its own"),
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

    /// Gives back what an emulator that has ended had, and ends what it left running.
    pub(super) fn give_back(&self) {
        let group = self.freezer.as_ref().map(Freezer::dir);
        self.mark.iter().for_each(|mark| detached::end_what_is_left(mark, group));
        self.freezer.iter().for_each(Freezer::remove);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_user_is_refused_what_lies_where_only_we_can_go() {
        let profile = |keys: &str| {
            let text = format!("schema = 1\nname = \"own\"\n[start]\nexec = \"/bin/sh\"\n{keys}");
            Profile::examine(&text, None, std::path::Path::new("own.toml")).unwrap()
        };
        let signal = "[control]\nkind = \"signal\"\n[console]\nkind = ";
        let socket = "[control]\nkind = \"qmp\"\nsocket = \"{rundir}/q\"\n\
                      [ready]\nkind = \"qmp\"\n[console]\nkind = \"none\"\n";
        let us = nix::unistd::geteuid().as_raw();
        let account = |uid| Account {
            name: "vax".into(),
            uid,
            gid: uid,
            groups: Vec::new(),
            home: "/".into(),
        };
        for (keys, what) in [
            (
                format!("{signal}\"unix\"\npath = \"{{rundir}}/line\"\n"),
                Some("its console's socket"),
            ),
            (format!("{signal}\"file\"\npath = \"{{rundir}}/out\"\n"), Some("its console's file")),
            (socket.to_owned(), Some("its control socket")),
            (format!("{signal}\"pty\"\n"), None),
            (format!("{signal}\"telnet\"\nport = \"{{port}}\"\n"), None),
        ] {
            let profile = profile(&keys);
            check_user(&profile, None).unwrap();
            check_user(&profile, Some(&account(us))).unwrap();
            match (check_user(&profile, Some(&account(us + 1))), what) {
                (Err(error), Some(what)) => {
                    let error = error.to_string();
                    assert!(error.contains("user") && error.contains(what), "{error}");
                }
                (Ok(()), None) => {}
                (other, _) => panic!("{keys}: {other:?}"),
            }
        }
    }
}
