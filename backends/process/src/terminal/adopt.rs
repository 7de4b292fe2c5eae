//! Taking up a program that an earlier monitor made.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use kxl_backend::process::Identity;
use kxl_backend::{Attachments, BackendError, Event, LaunchSpec, Live, Process, Result};
use kxl_domain::GuestEvent;

use super::keeper::{Phase, Shared};
use super::lifeline::Lifeline;
use super::outlet::Where;
use super::own::Own;
use super::streams::Streams;
use super::wires::Wires;
use super::{
    Driver, ENDED, MASTER_FD, PROMPT, detached, inherited, left, outlet, pty, published, save,
};
use crate::profile::Meaning;

/// How long an emulator may take to answer at its control channel.
const ANSWER: Duration = Duration::from_secs(5);

impl Driver {
    /// [`kxl_backend::Backend::adopt`].
    pub(super) async fn take_up(
        &self,
        spec: &LaunchSpec,
        identity: Identity,
        attachments: &Attachments,
    ) -> Result<Box<dyn Live>> {
        let gone = |error: std::io::Error| BackendError::Exited { text: error.to_string() };
        let process = match detached::executed(&identity, attachments) {
            true => detached::settled(&identity, attachments, self.patience()).await?,
            false => Process::open(identity).map_err(gone)?,
        };
        let own = Own::of(attachments);
        let values = own.values(&self.profile, spec);
        let lifeline = Lifeline::take_back(&process, attachments, &spec.rundir)
            .map_err(|error| BackendError::io("cannot take the console back", error))?;
        // A child of it may have what the program itself has closed.
        let fellows = match lifeline {
            Lifeline::Cut => left::fellows(process.identity().pid),
            _ => Vec::new(),
        };
        let holders: Vec<_> =
            [&process].into_iter().chain(lifeline.holder()).chain(&fellows).collect();
        let (master, lost) = self.master_of(&holders, attachments)?;
        pty::unblock(&master).map_err(|error| BackendError::io("the console", error))?;
        let stopped = process
            .identity()
            .stat()
            .is_some_and(|stat| stat.state == kxl_backend::process::RunState::Stopped);
        let at_rest = self.profile.control.prompt.is_some() && pty::cooked(&master);
        let mut wires = Wires::of(&master)
            .map_err(|error| BackendError::io("cannot set up the console", error))?;
        let (streams, closed) = Streams::take_back(&spec.config, &holders, attachments)?;
        // There is nothing left to be held.
        if lost.is_none() || streams.any() {
            wires.lifeline = lifeline;
        }
        let shared = self.shared(spec, master, streams, Phase::Running, &own)?;
        shared.tell_lost(lost.into_iter().chain(closed));
        let held = at_rest.then(|| shared.hold.left()).flatten();
        match held {
            Some(note) => {
                shared.phase.set(Phase::AtPrompt(Some(Meaning::Stopped)));
                shared.hold.take(note);
            }
            // It was about to come to its prompt and has not.
            None => save::remove(&spec.rundir.join(PROMPT)),
        }
        let program = attachments.emulator.split_once(' ').map_or("", |(_, path)| path);
        let place = Where::of(&self.profile.console, &values)?;
        let mut terminal = self.assemble(spec, process, shared, wires, place, Path::new(program));
        terminal.unsure = held.is_some();
        if let Some(port) = outlet::port(&values, self.profile.console.publish.as_deref())? {
            match published(port).await {
                Ok(listener) => terminal.listener = Some(listener),
                Err(error) => {
                    let text = error.to_string();
                    let warning = Event::Warning { what: "console-port", text };
                    let _nobody_listens = terminal.shared.events.send(warning);
                }
            }
        }
        // One that was launched paused and has not begun does not answer yet.
        if let Some(channel) = terminal.shared.channel.as_ref().filter(|_| !stopped) {
            channel.connect(&terminal.process, ANSWER).await?;
        }
        if at_rest && held.is_none() {
            Self::find_out(spec, &terminal.shared, stopped).await;
        }
        Ok(Box::new(terminal))
    }

    /// The terminal of a running program. One that is steered by its terminal keeps it; a plain one
    /// may have closed it and gets one in its place that nobody is on.
    fn master_of(
        &self,
        holders: &[&Process],
        attachments: &Attachments,
    ) -> Result<(OwnedFd, Option<&'static str>)> {
        let number = attachments.pty_fd.unwrap_or(MASTER_FD);
        let failed = |error| BackendError::io("cannot take the console back", error);
        if let Some(master) = inherited::terminal(holders, attachments, number).map_err(failed)? {
            return Ok((master, None));
        }
        if self.profile.control.prompt.is_some() {
            return Err(failed(std::io::Error::other("the emulator has closed it")));
        }
        let (master, _slave) = pty::open().map_err(failed)?;
        Ok((master, self.profile.console.kind.is_own().then_some("console")))
    }

    /// Why an adopted emulator stands at its prompt: by what it printed since, else by the note of
    /// the monitor that read it.
    async fn find_out(spec: &LaunchSpec, shared: &Shared, stopped: bool) {
        // What waits in the terminal is read by the task within one turn of the loop.
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(2)).await;
            if matches!(shared.phase.get(), Phase::AtPrompt(_)) {
                return;
            }
        }
        let note = fs::read_to_string(spec.rundir.join(ENDED)).ok();
        let meaning = note.and_then(|text| GuestEvent::parse(text.trim())).map(|how| match how {
            GuestEvent::Poweroff => Meaning::Poweroff,
            GuestEvent::Reboot => Meaning::Reboot,
            GuestEvent::Crash => Meaning::Crash,
            GuestEvent::Watchdog => Meaning::Watchdog,
        });
        // Stopped and silent: it was launched paused and has not begun.
        if meaning.is_some() || !(stopped && shared.transcript.borrow().is_empty()) {
            shared.phase.set(Phase::AtPrompt(meaning));
            if let Some(how) = shared.ended() {
                // Whether the earlier monitor still acted on it, the engine's record knows.
                let _nobody_listens = shared.events.send(kxl_backend::Event::GuestEnded(how));
            }
        } else {
            shared.phase.set(Phase::Starting);
        }
    }
}
