//! What the engine does when a guest or its emulator ends: the policy table carried out.

use std::sync::Arc;
use std::time::Duration;

use kxl_backend::{Event, Exit};
use kxl_domain::config::model::StopSignal;
use kxl_domain::lifecycle::{self, ImageSeen, Seen};
use kxl_domain::policy::{PolicyRule, Then, policy_of};
use kxl_domain::state::Status;
use kxl_domain::supervision::{Ended, LastExit, Record};
use kxl_domain::{
    Action, Capability, DomainConfig, DomainName, DomainUuid, Failure, GuestEvent, Kind, Op,
    Reason, State, Verb, Wanted,
};
use kxl_store::{Asked, Claim, DomainLock, LiveChange, Severity, StoreError, boot_ms};

use nix::sys::signal::Signal;

use crate::handover::{Mission, start_monitor};
use crate::live::{LiveDomain, Next};
use crate::spec::launch_spec;
use crate::stamp::corpse_name;
use crate::steps::{Step, reach};

/// A guest that ends again this soon after its start is restarted only after [`RESTART_GAP`], so
/// that a crash loop does not become a busy loop.
const SHORT_RUN: Duration = Duration::from_secs(10);

/// How many remains of one domain may come from one minute.
const MOST_KEPT: u32 = 99;

/// xl's pause between the end of a domain and its restart.
const RESTART_GAP: Duration = Duration::from_secs(2);

impl LiveDomain {
    /// Follows an event of the emulator.
    ///
    /// Cancelled only by a destroy, which leaves a consistent record whatever step was reached.
    ///
    /// # Errors
    /// When the policy's action failed; the domain then rests as the record says.
    pub async fn on_event(&mut self, event: Event) -> Result<Next, Failure> {
        match event {
            Event::Stopped => Ok(self.stopped_or_resumed(State::Running, State::Paused)),
            Event::Resumed => {
                self.stopped_or_resumed(State::Asleep, State::Running);
                Ok(self.stopped_or_resumed(State::Paused, State::Running))
            }
            Event::Reset => {
                if !std::mem::take(&mut self.reset_by_us) {
                    self.event(Severity::Info, "reset", None, "by the guest");
                }
                Ok(Next::Continue)
            }
            Event::Note(text) => {
                tracing::info!(domid = self.row.domid.0, text, "emulator");
                Ok(Next::Continue)
            }
            Event::Warning { what, text } => {
                self.event(Severity::Warning, what, None, &text);
                Ok(Next::Continue)
            }
            Event::GuestEnded(event) => self.guest_ended(event).await,
            Event::Exited(exit) => self.emulator_ended(exit).await,
        }
    }

    /// The machine was stopped or resumed past us (by its own monitor, a debugger): the record
    /// follows the host.
    fn stopped_or_resumed(&mut self, from: State, to: State) -> Next {
        if self.row.op.is_none() && self.row.state == from {
            self.rest(to, None, LiveChange::default());
        }
        Next::Continue
    }

    async fn guest_ended(&mut self, event: GuestEvent) -> Result<Next, Failure> {
        if self.row.state == State::Shutdown || self.row.op == Some(Op::Stopping) {
            return Ok(Next::Continue);
        }
        let (event, rule, by_person) = self.policy(event);
        if self.is_supervised_end(event) {
            let text = format!("its guest ended ({event})");
            return self.supervised_end(Ended { event, code: None, signal: None, text }).await;
        }
        let then = self.overruled(rule.standing);
        self.record_end(event.reason(), LiveChange::default());
        self.announce(event, rule, then, "");
        self.carry_out(then, event, by_person, "").await
    }

    /// Writes that the run has ended. What was asked stays written until the policy is carried
    /// out: a monitor that takes over half-way has to come to the same decision.
    fn record_end(&mut self, reason: Reason, more: LiveChange) {
        self.note_end(reason);
        self.rest(State::Shutdown, Some(reason), more);
        reach(Step::EndSeen, self.row.process.as_ref().map(|p| p.pid));
    }

    /// Carries out what follows from an end that an earlier monitor has written: it may have died
    /// before it came to that. Done twice it is the same: what is kept stays kept.
    pub(crate) async fn follow_recorded_end(&mut self) -> Result<Next, Failure> {
        if let Some(followed) = self.follow_supervised_end().await {
            return followed;
        }
        let Some(event) = self.row.reason.and_then(GuestEvent::of) else {
            return Ok(Next::Continue);
        };
        let (event, rule, by_person) = self.policy(event);
        let then = self.overruled(rule.standing);
        self.carry_out(then, event, by_person, "").await
    }

    async fn emulator_ended(&mut self, exit: Exit) -> Result<Next, Failure> {
        if self.row.op == Some(Op::Stopping) {
            return Ok(Next::Continue);
        }
        self.live = None;
        self.row.process = None;
        if let Some(next) = self.ended_as_image() {
            return Ok(next);
        }
        if self.row.state == State::Shutdown {
            // It could not be ended before: what was to follow then does now.
            if let Some(followed) = self.follow_supervised_end().await {
                return followed;
            }
            // It was kept for inspection and somebody ended it.
            let reason = self.row.reason.unwrap_or(Reason::Unknown);
            self.event(Severity::Info, "cleared", None, &exit.text);
            return Ok(self.settle(State::Halted, reason, &exit.text, None));
        }
        let (event, rule, by_person) = self.policy(self.meaning(&exit));
        if self.is_supervised_end(event) {
            let Exit { code, signal, text, .. } = exit;
            return self.supervised_end(Ended { event, code, signal, text }).await;
        }
        let expected = event == GuestEvent::Poweroff;
        let last_exit = LastExit { code: exit.code, signal: exit.signal, expected };
        self.row.supervision.last_exit = Some(last_exit);
        let then = self.overruled(rule.gone);
        let gone = LiveChange { process: Some(None), ..LiveChange::default() };
        self.record_end(event.reason(), gone);
        self.announce(event, rule, then, &exit.text);
        self.carry_out(then, event, by_person, &exit.text).await
    }

    /// What the end of a process means. One that a person's shutdown or reboot has ended by a signal
    /// has done as it was asked.
    fn meaning(&self, exit: &Exit) -> GuestEvent {
        let own = self.row.config.stop.signal.map(StopSignal::number);
        let polite = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].map(|signal| signal as i32);
        let obeys =
            exit.signal.is_some_and(|signal| own == Some(signal) || polite.contains(&signal));
        match self.row.asked {
            Some(Asked::Poweroff) if obeys => GuestEvent::Poweroff,
            Some(Asked::Reboot) if obeys => GuestEvent::Reboot,
            _ => exit.meaning.unwrap_or(GuestEvent::Crash),
        }
    }

    /// Adoption found no emulator: an operation that was cut off comes to rest by its own row of
    /// the lifecycle table; a death that nobody saw is a crash, handled by policy.
    pub(crate) async fn emulator_was_lost(&mut self) -> Result<Next, Failure> {
        let spec = launch_spec(&self.paths, &self.conf, &self.row, Vec::new());
        self.backend.sweep(&spec, &self.attachments);
        let interrupted = self.row.op;
        // The emulator that is recorded belongs to the start that was cut off.
        let had_process = self.row.process.is_some();
        let runs_before = self.row.spawn_count.saturating_sub(u32::from(had_process));
        self.live = None;
        self.row.process = None;
        let cut = self.cut_off_image();
        let unseen = match (interrupted, cut.seen) {
            (None, _) => true,
            // Nothing of the save is left, or the guest had gone on: its emulator's death is one
            // like any other.
            (Some(Op::Saving | Op::Suspending), ImageSeen::Nothing)
            | (Some(Op::Restoring | Op::Resuming), ImageSeen::Spent) => true,
            _ => false,
        };
        if unseen && self.row.state != State::Shutdown {
            self.forget_cut_off(&cut);
            self.row.op = None;
            let exit = Exit {
                code: None,
                signal: None,
                meaning: None,
                text: "the emulator ended while no monitor was watching".to_owned(),
            };
            return self.emulator_ended(exit).await;
        }
        let text = interrupted.map_or_else(String::new, |op| format!("cut off while {op}"));
        if self.row.wanted != Wanted::Halted {
            if let Some(next) = self.start_was_cut_off(interrupted, had_process).await {
                return next;
            }
            if self.row.state == State::Shutdown
                && let Some(followed) = self.follow_supervised_end().await
            {
                return followed;
            }
            // A restart that had begun is a promise to the guest's owner: it goes on.
            let ended = self.row.reason.filter(|_| self.row.state == State::Shutdown);
            if let Some(event) = ended.and_then(GuestEvent::of) {
                let (event, rule, by_person) = self.policy(event);
                let then = self.overruled(rule.gone);
                return self.carry_out(then, event, by_person, &text).await;
            }
            if interrupted == Some(Op::Starting) && runs_before > 0 {
                return self.relaunch(true).await;
            }
        }
        let (state, reason) = lifecycle::recover(interrupted, self.row.state, Seen::Gone, cut.seen);
        let reason = match (self.row.state, self.row.reason) {
            // The guest had ended by itself; only the clean-up was cut off.
            (State::Shutdown, Some(reason)) => reason,
            _ => reason.unwrap_or(Reason::Unknown),
        };
        self.event(Severity::Warning, "settled", None, &text);
        if matches!(interrupted, Some(Op::Restoring | Op::Resuming)) {
            self.unmark(&cut).await;
        }
        self.journalled.clone_from(&cut.journalled);
        Ok(match (state, reason, cut.image) {
            (State::Suspended, _, Some(image)) => {
                self.settle_with(state, reason, &text, None, Some(image))
            }
            (State::Halted, Reason::Saved, Some(image)) => self.settle_as_image(false, image),
            _ => self.settle(state, reason, &text, None),
        })
    }

    /// Which event it was, which row applies, and whether a person asked for it. A guest that was
    /// asked to reboot and powered off has done its part of the reboot.
    fn policy(&self, event: GuestEvent) -> (GuestEvent, &'static PolicyRule, bool) {
        let (event, by_person) = match (event, self.row.asked) {
            (GuestEvent::Poweroff | GuestEvent::Reboot, Some(Asked::Reboot)) => {
                (GuestEvent::Reboot, true)
            }
            (GuestEvent::Poweroff, Some(Asked::Poweroff)) => (event, true),
            _ => (event, false),
        };
        (event, policy_of(self.row.config.action(event)), by_person)
    }

    /// A person's stop is never undone by policy, however it is obeyed, and what a backend cannot do
    /// is not tried.
    fn overruled(&self, then: Then) -> Then {
        let stopped = self.row.asked == Some(Asked::Poweroff) || self.is_being_stopped();
        match then {
            Then::Restart | Then::RenameRestart | Then::Reset if stopped => Then::Destroy,
            Then::Reset if !self.backend.capabilities(&self.row.config).has(Capability::Reset) => {
                Then::Restart
            }
            then => then,
        }
    }

    fn announce(&mut self, event: GuestEvent, rule: &PolicyRule, then: Then, text: &str) {
        let stopped = self.row.asked == Some(Asked::Poweroff);
        let severity = match event {
            // A program that says so when it is asked to end.
            GuestEvent::Crash if stopped => Severity::Warning,
            GuestEvent::Poweroff | GuestEvent::Reboot => Severity::Info,
            GuestEvent::Crash | GuestEvent::Watchdog => Severity::Alert,
        };
        if rule.dump {
            let text = "core dumps are not built yet: the action goes on without one";
            self.event(Severity::Warning, "no-core-dump", Some(rule.action.as_str()), text);
        }
        self.event(severity, event.as_str(), Some(then.as_str()), text);
    }

    async fn carry_out(
        &mut self,
        then: Then,
        event: GuestEvent,
        by_person: bool,
        text: &str,
    ) -> Result<Next, Failure> {
        match then {
            Then::Preserve => {
                self.row.asked = None;
                self.row.supervision.stop_by_ms = None;
                self.change(&LiveChange {
                    asked: Some(None),
                    supervision: Some(self.row.supervision.clone()),
                    ..LiveChange::default()
                });
                Ok(Next::Continue)
            }
            Then::Destroy => {
                // A policy that ran to its end is a completed wish; a crash changes none.
                let done = matches!(event, GuestEvent::Poweroff | GuestEvent::Reboot);
                if done {
                    self.row.wanted = Wanted::Halted;
                }
                self.begin_stopping();
                self.end_or_keep(Verb::Destroy, event.reason()).await?;
                let wanted = done.then_some(Wanted::Halted);
                Ok(self.settle(State::Halted, event.reason(), text, wanted))
            }
            Then::Reset => {
                self.reset_by_us = true;
                let result = self.emulator()?.reset().await;
                result.map_err(|error| {
                    let attempt = format!("cannot reset domain \"{}\"", self.row.name);
                    Failure::because(crate::live::error_kind(&error), attempt, &error)
                })?;
                // The guest has done what it was asked: its next end means what it says.
                self.row.asked = None;
                self.row.supervision = self.row.supervision.clone().rebooting(boot_ms());
                self.begin_start();
                let more = LiveChange { asked: Some(None), ..LiveChange::default() };
                self.rest(State::Running, None, more);
                Ok(Next::Continue)
            }
            Then::Restart => {
                self.begin_stopping();
                self.end_or_keep(Verb::Reboot, event.reason()).await?;
                self.relaunch(by_person).await
            }
            Then::RenameRestart => self.rename_and_replace(by_person).await,
        }
    }

    async fn relaunch(&mut self, by_person: bool) -> Result<Next, Failure> {
        let gap = self.restart_gap(by_person);
        let mut record = self.row.supervision.clone().rebooting(boot_ms());
        if by_person {
            record.earlier_ms = 0;
        }
        self.start_anew(gap, record, false).await
    }

    /// Writes that the domain is on its way up again, or waits for that: no emulator, and nothing
    /// left of the run before.
    pub(crate) fn between_runs(&mut self, record: Record, passing: bool) {
        self.leave_image(false);
        self.row.op = Some(Op::Starting);
        self.row.state = State::Halted;
        self.row.wanted = Wanted::Running;
        self.row.reason = None;
        self.row.asked = None;
        self.row.supervision = record.clone();
        self.change(&LiveChange {
            op: Some(Some(Op::Starting)),
            state: Some(State::Halted),
            wanted: Some(Wanted::Running),
            reason: Some(None),
            asked: Some(None),
            process: Some(None),
            image: Some(None),
            supervision: Some(record),
            passing,
            ..LiveChange::default()
        });
    }

    /// Launches anew with a new domid under the same name and uuid. The row is there all the time.
    pub(crate) async fn start_anew(
        &mut self,
        gap: Duration,
        record: Record,
        passing: bool,
    ) -> Result<Next, Failure> {
        self.between_runs(record, passing);
        match self.store.renew_domid(self.row.uuid) {
            Ok(domid) => self.row.domid = domid,
            Err(error) => {
                let attempt = format!("cannot restart domain \"{}\"", self.row.name);
                let failure = Failure::because(Kind::Failed, attempt, &error);
                if self.is_supervised() {
                    return Ok(self.launch_failed(false, &failure));
                }
                let text = failure.to_string();
                self.event(Severity::Alert, "start-failed", None, &text);
                self.settle(State::Failed, Reason::StartFailed, &text, None);
                return Err(failure);
            }
        }
        reach(Step::Renewed, None);
        // A crash loop must not become a busy loop; a destroy or a shutdown cancels the wait.
        self.pausing = !gap.is_zero();
        self.publish();
        tokio::time::sleep(gap).await;
        self.pausing = false;
        self.publish();
        let launched = self.launch(&Arc::default()).await?;
        Ok(self.is_up(launched))
    }

    fn restart_gap(&self, by_person: bool) -> Duration {
        if by_person || self.ran_for() > SHORT_RUN { Duration::ZERO } else { RESTART_GAP }
    }

    /// Renames what is left of the domain, with a new uuid, and starts another one under the old
    /// name and uuid, with a monitor of its own. This monitor stays with the remains.
    async fn rename_and_replace(&mut self, by_person: bool) -> Result<Next, Failure> {
        tokio::time::sleep(self.restart_gap(by_person)).await;
        let old = self.row.clone();
        let attempt = format!("cannot keep the remains of domain \"{}\"", old.name);
        let failed = |error: &StoreError| Failure::because(Kind::Failed, &attempt, error);
        let now = u64::try_from(kxl_store::now_ms()).unwrap_or(0);
        let uuid = DomainUuid::random();
        // The stamp counts minutes; a domain that ends more often gets a number behind it.
        let mut name = corpse_name(&old.name, now, 1);
        for count in 2.. {
            match self.store.rekey(old.uuid, uuid, &name) {
                Ok(()) => break,
                Err(StoreError::NameTaken { .. }) if count <= MOST_KEPT => {
                    name = corpse_name(&old.name, now, count);
                }
                Err(error) => return Err(failed(&error)),
            }
        }
        // What is kept is kept for good: whoever adopts it must not start one more from it.
        let config = kept(&old.config, &name);
        (self.row.uuid, self.row.name, self.row.managed) = (uuid, name, false);
        self.row.asked = None;
        self.row.config = config.clone();
        self.change(&LiveChange {
            asked: Some(None),
            config: Some(config),
            ..LiveChange::default()
        });
        self.event(Severity::Warning, "kept", None, &format!("was {}", old.name));

        let lock = DomainLock::try_acquire(&self.paths, old.uuid).map_err(|e| failed(&e))?;
        let Some(lock) = lock else {
            let text = format!("domain \"{}\" was taken by another command", old.name);
            return Err(Failure::new(Kind::Failed, text));
        };
        let claim = Claim {
            uuid: old.uuid,
            name: old.name.clone(),
            managed: old.managed,
            config: old.config,
            backend: old.backend,
            wanted: Wanted::Running,
            op: Op::Starting,
            image: None,
            domid: None,
            supervision: Record::default(),
        };
        self.store.claim(&claim).map_err(|error| failed(&error))?;
        // Nobody waits here: how the start ended is in the new domain's own record and events.
        let monitor = start_monitor(lock, old.uuid, &old.name, Mission::Launch)?.into_process();
        tokio::task::spawn_local(async move { monitor.wait().await.map(drop) });
        Ok(Next::Continue)
    }

    /// The status by which verbs are decided.
    #[must_use]
    pub const fn status(&self) -> Status {
        Status { state: self.row.state, op: self.row.op }
    }
}

/// The configuration of remains: under their own name, and nothing follows from how they ended.
fn kept(config: &DomainConfig, name: &DomainName) -> DomainConfig {
    DomainConfig {
        name: name.clone(),
        supervision: None,
        on_poweroff: Action::Preserve,
        on_reboot: Action::Preserve,
        on_crash: Action::Preserve,
        on_watchdog: Action::Preserve,
        on_soft_reset: Action::Preserve,
        ..config.clone()
    }
}
