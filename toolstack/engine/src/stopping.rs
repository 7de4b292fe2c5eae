//! A person's stop of a live domain: its guest is asked, and after `stopwaitsecs` the power is taken
//! away. The monitor holds that deadline: it comes whatever becomes of the command that asked.

use std::time::Duration;

use kxl_backend::{BackendError, Exit, Identity, Process};
use kxl_domain::supervision::{LastExit, Record};
use kxl_domain::{Failure, Kind, Op, Reason, State, Verb, Verdict, Wanted, decide};
use kxl_store::{Asked, LiveChange, Severity, boot_ms};
use nix::sys::signal::Signal;

use crate::error::denied;
use crate::live::{LiveDomain, Next};
use crate::recorder::identity_of;
use crate::steps::{Step, reach};

/// How long a killed process may take to go.
pub(crate) const KILL_DEADLINE: Duration = Duration::from_secs(3);

/// What is put back where nobody could be asked.
type Wish = (Option<Asked>, Wanted, Record);

impl LiveDomain {
    /// Asks the guest to end, and sees to it that the domain is off after `stopwaitsecs`: one that
    /// does not hear is destroyed then as well. `trouble` is why it cannot be asked.
    ///
    /// # Errors
    /// Refusals by the table ([`Kind::Denied`]), and by a backend without any way to ask
    /// ([`Kind::Unsupported`]); nothing is changed then.
    pub async fn stop(&mut self, trouble: Option<Failure>) -> Result<(Verdict, Next), Failure> {
        if self.waits() {
            return self.verb(Verb::Destroy).await;
        }
        let rule = match decide(self.status(), Verb::Shutdown) {
            Verdict::Go(rule) => rule,
            Verdict::Already => return Ok((Verdict::Already, Next::Continue)),
            Verdict::Denied(reason) => return Err(denied(&self.row.name, reason)),
        };
        if let Some(need) = rule.needs {
            self.require(Verb::Shutdown, need)?;
        }
        let patience = Duration::from_secs(u64::from(self.row.config.stop.wait_secs));
        let by = boot_ms().saturating_add(i64::try_from(patience.as_millis()).unwrap_or(i64::MAX));
        // Of two stops the first one counts.
        self.row.supervision.stop_by_ms.get_or_insert(by);
        self.unheard = None;
        let before = self.wish(Asked::Poweroff);
        let asked = match trouble {
            Some(failure) => Err(failure),
            None => match tokio::time::timeout(patience, self.press(Verb::Shutdown)).await {
                Ok(pressed) => pressed,
                Err(_) => Err(self.cannot(
                    Verb::Shutdown,
                    &BackendError::TimedOut {
                        waited_for: "answer to the request".to_owned(),
                        after: patience,
                    },
                )),
            },
        };
        match asked {
            Ok(()) => self.event(Severity::Info, "asked", Some("shutdown"), ""),
            // There is no way after all: whoever asked takes the power away.
            Err(failure) if failure.kind == Kind::Unsupported => {
                self.unwish(before);
                return Err(failure);
            }
            // It may hear of it yet: the wish stays as it is.
            Err(failure) => {
                let text = failure.to_string();
                self.event(Severity::Warning, "asked", Some("shutdown"), &text);
                self.unheard = Some(failure.causes.first().cloned().unwrap_or(failure.text));
                self.publish();
            }
        }
        Ok((Verdict::Go(rule), Next::Continue))
    }

    /// It has not ended in time.
    pub(crate) async fn stop_is_due(&mut self) -> Next {
        let waited = self.row.config.stop.wait_secs;
        if let Some(script) = self.ready_stop_script() {
            let script = script.display();
            let why =
                format!("the stop script {script} has not ended the emulator within {waited} s");
            return self.stop_has_failed(why).await;
        }
        let mut text = format!("it had not ended within {waited} s");
        if let Some(why) = self.unheard.take() {
            text = format!("{text}, and could not be asked: {why}");
        }
        self.row.supervision.stop_by_ms = None;
        match self.destroy().await {
            Ok(next) => {
                self.event(Severity::Warning, "stop-forced", None, &text);
                next
            }
            // There is an alert about it, and the command asks for itself.
            Err(failure) => {
                tracing::error!(%failure, "a stop could not be carried through");
                Next::Continue
            }
        }
    }

    /// Whether a person has stopped it and it is to be off after `stopwaitsecs`.
    pub(crate) const fn is_being_stopped(&self) -> bool {
        self.row.supervision.stop_by_ms.is_some()
    }

    /// `shutdown` and `reboot`: the wish is written first, so that a monitor that adopts the
    /// domain later knows what the guest's power-off means.
    pub(crate) async fn ask(&mut self, asked: Asked, verb: Verb) -> Result<Next, Failure> {
        let before = self.wish(asked);
        if let Err(failure) = self.press(verb).await {
            self.unwish(before);
            return Err(failure);
        }
        self.event(Severity::Info, "asked", Some(verb.as_str()), "");
        Ok(Next::Continue)
    }

    /// Writes what is asked of the guest; gives back what was written before.
    fn wish(&mut self, asked: Asked) -> Wish {
        let before = (self.row.asked, self.row.wanted, self.row.supervision.clone());
        if asked == Asked::Poweroff {
            self.row.wanted = Wanted::Halted;
        } else {
            self.row.supervision.stop_by_ms = None;
        }
        self.row.supervision.stopped_by_person = asked == Asked::Poweroff;
        self.row.asked = Some(asked);
        let wanted = self.row.wanted;
        self.change(&LiveChange {
            asked: Some(Some(asked)),
            wanted: Some(wanted),
            supervision: Some(self.row.supervision.clone()),
            ..LiveChange::default()
        });
        reach(Step::Asked, self.row.process.as_ref().map(|p| p.pid));
        before
    }

    /// Writes what was asked of the guest before.
    fn unwish(&mut self, before: Wish) {
        (self.row.asked, self.row.wanted, self.row.supervision) = before.clone();
        self.change(&LiveChange {
            asked: Some(before.0),
            wanted: Some(before.1),
            supervision: Some(before.2),
            ..LiveChange::default()
        });
    }

    async fn press(&mut self, verb: Verb) -> Result<(), Failure> {
        if let Some(script) = self.ready_stop_script().filter(|_| verb == Verb::Shutdown) {
            self.begin_stop_script(script)?;
            reach(Step::Sent, self.row.process.as_ref().map(|p| p.pid));
            return Ok(());
        }
        match self.emulator()?.powerdown().await {
            // It has ended at this moment by itself; that it has is told next, and is as was wished.
            Ok(()) | Err(BackendError::Exited { .. }) => {}
            Err(error) => return Err(self.cannot(verb, &error)),
        }
        reach(Step::Sent, self.row.process.as_ref().map(|p| p.pid));
        Ok(())
    }

    pub(crate) async fn destroy(&mut self) -> Result<Next, Failure> {
        let (state, reason) = (self.row.state, self.row.reason);
        let before = self.row.supervision.clone();
        self.row.wanted = Wanted::Halted;
        self.row.supervision.stopped_by_person = true;
        // Written after the power is taken, with the time of now: nothing comes before that.
        let began = self.compose(Severity::Info, "destroying", None, "");
        self.begin_stopping();
        let destroyed = self.finish_stopping(Some(&began)).await;
        if let Err(failure) = &destroyed {
            self.event(Severity::Alert, "stop-failed", None, &failure.to_string());
            // It stands where it stood, and its end is still followed when it comes.
            self.row.supervision = Record { stopped_by_person: true, ..before };
            self.rest(state, reason, LiveChange::default());
        }
        destroyed
    }

    /// Writes op `stopping`.
    pub(crate) fn begin_stopping(&mut self) {
        self.row.op = Some(Op::Stopping);
        let wanted = self.row.wanted;
        let change = LiveChange {
            op: Some(Some(Op::Stopping)),
            wanted: Some(wanted),
            supervision: Some(self.row.supervision.clone()),
            ..LiveChange::default()
        };
        self.change(&change);
        reach(Step::Stopping, self.row.process.as_ref().map(|p| p.pid));
    }

    pub(crate) async fn finish_stopping(
        &mut self,
        began: Option<&kxl_store::Event>,
    ) -> Result<Next, Failure> {
        let exit = self.end_emulator(Verb::Destroy).await?;
        if let Some(began) = began {
            self.write_event(began);
        }
        let stop_failed = self.stop_failed.take();
        let before = &self.row.supervision;
        let last_exit = exit.map_or(before.last_exit, |exit| {
            Some(LastExit { code: exit.code, signal: exit.signal, expected: false })
        });
        self.row.supervision =
            Record { stopped_by_person: true, last_exit, stop_failed, ..Record::fresh(before) };
        let next = self.settle(State::Halted, Reason::Destroyed, "", Some(Wanted::Halted));
        self.event(Severity::Info, "destroyed", None, "");
        Ok(next)
    }

    /// Ends the emulator of a run that is over. Where that fails it is kept as it stands, with an
    /// alert, and its end is followed when it comes.
    pub(crate) async fn end_or_keep(&mut self, verb: Verb, reason: Reason) -> Result<(), Failure> {
        let Err(failure) = self.end_emulator(verb).await else { return Ok(()) };
        self.event(Severity::Alert, "stop-failed", None, &failure.to_string());
        self.row.supervision.stop_by_ms = None;
        let passing = LiveChange { passing: true, ..LiveChange::default() };
        self.rest(State::Shutdown, Some(reason), passing);
        Err(failure)
    }

    /// Ends the emulator, if there is one, and forgets the handle. Gives how it ended, where there
    /// was one.
    pub(crate) async fn end_emulator(&mut self, verb: Verb) -> Result<Option<Exit>, Failure> {
        let ended = if let Some(live) = self.live.as_mut() {
            Some(live.destroy().await)
        } else if let Some(identity) = self.row.process.as_ref().map(identity_of) {
            // It could not be taken up (it hangs): there is no handle, but its identity is known.
            Some(kill(identity).await)
        } else {
            None
        };
        let exit = ended.transpose().map_err(|error| self.cannot(verb, &error))?;
        self.live = None;
        self.row.process = None;
        reach(Step::Killed, None);
        Ok(exit)
    }
}

/// Ends a process that no backend holds: killed, continued and thawed, and gone within 3 s. Its status goes to whoever is its parent.
async fn kill(identity: Identity) -> Result<Exit, BackendError> {
    let killed = |signal| Exit { code: None, signal, meaning: None, text: "destroyed".to_owned() };
    let Ok(process) = Process::open(identity) else { return Ok(killed(None)) };
    let failed = |error| BackendError::io("kill the emulator", error);
    send_kill(&process);
    match tokio::time::timeout(KILL_DEADLINE, process.gone()).await {
        Ok(gone) => gone.map(|()| killed(Some(Signal::SIGKILL as i32))).map_err(failed),
        Err(_) => Err(BackendError::TimedOut {
            waited_for: "end of the killed emulator".to_owned(),
            after: KILL_DEADLINE,
        }),
    }
}

/// Kills, continues and thaws a process. It may be gone already, which the caller waits for.
pub(crate) fn send_kill(process: &Process) {
    for signal in [Signal::SIGKILL, Signal::SIGCONT] {
        if let Err(error) = process.signal(signal) {
            tracing::debug!(%error, %signal, "not signalled");
        }
    }
    // A frozen process takes the signals only when it is thawed.
    if let Err(error) = process.thaw() {
        tracing::debug!(%error, "not thawed");
    }
}
