//! Supervision carried out: what the table of `kxl_domain::supervision` says, done to a live domain.
//!
//! An end is written with what is known of it before anything follows; what follows is computed
//! from that, and the record after it is written together with the state that it belongs to. A
//! monitor that takes over half-way computes the same again: no failed start is counted twice.

use std::time::Duration;

use kxl_domain::config::model::Supervision;
use kxl_domain::supervision::{
    Ended, GuestWord, Happened, LastExit, Phase, Record, Step as Follows, Then, Timer, follow,
    next_timer, stop_timer,
};
use kxl_domain::{Failure, GuestEvent, Op, Reason, State, Verb, Wanted};
use kxl_store::{LiveChange, Severity, boot_ms, now_ms};

use crate::live::{LiveDomain, Next};
use crate::steps::{Step, reach};

/// At most one start in this time: a program that ends at once with `startsecs=0` must not become
/// a busy loop.
const LEAST_RUN: Duration = Duration::from_secs(1);

impl LiveDomain {
    /// The rules, for a domain that is supervised.
    const fn rules(&self) -> Option<&Supervision> {
        self.row.config.supervision.as_ref()
    }

    pub(crate) const fn is_supervised(&self) -> bool {
        self.rules().is_some()
    }

    /// Whether it waits for its next try.
    pub(crate) const fn waits(&self) -> bool {
        matches!(self.row.op, Some(Op::Starting)) && self.row.supervision.retry_at_ms.is_some()
    }

    /// Where it is, as far as supervision is concerned.
    fn phase(&self) -> Phase {
        let Record { retry_at_ms, stopped_by_person, ready, .. } = self.row.supervision;
        let launching = self.row.op == Some(Op::Starting);
        match (launching, self.row.process.is_some()) {
            (true, false) if retry_at_ms.is_some() => Phase::Waiting,
            (true, false) => Phase::Launching,
            _ if stopped_by_person => Phase::Stopping,
            _ if ready => Phase::Running,
            _ => Phase::Starting,
        }
    }

    fn step(&self, phase: Phase, happened: &Happened) -> Option<Follows> {
        let record = &self.row.supervision;
        self.rules().map(|rules| follow(rules, phase, record, happened, boot_ms()))
    }

    /// When something is due, if anything is: the monitor sleeps until then.
    #[must_use]
    pub fn next_timer(&self) -> Option<Duration> {
        self.pending().map(|(wait, _)| wait)
    }

    fn pending(&self) -> Option<(Duration, Timer)> {
        if self.row.op.is_some() && !self.waits() {
            return None;
        }
        let (now, record) = (boot_ms(), &self.row.supervision);
        let stop = stop_timer(record, self.row.config.stop.wait_secs, now);
        // What is kept after its end starts no more.
        let kept = self.row.state == State::Shutdown;
        let rules = || self.rules().filter(|_| !kept);
        let (ms, timer) = match stop {
            Some(ms) => (ms, Timer::Stop),
            None => next_timer(rules()?, record, now)?,
        };
        Some((Duration::from_millis(ms), timer))
    }

    /// Does what is due now. Cancelled only by a destroy.
    ///
    /// # Errors
    /// When an emulator could not be ended; it is left as it is.
    pub async fn timer_passed(&mut self) -> Result<Next, Failure> {
        let Some((Duration::ZERO, timer)) = self.pending() else { return Ok(Next::Continue) };
        match timer {
            Timer::Retry => {
                let Some(step) = self.step(Phase::Waiting, &Happened::RetryDue) else {
                    return Ok(Next::Continue);
                };
                self.start_again(Duration::ZERO, step.record).await
            }
            Timer::Settled => self.follow_alive(&Happened::Settled).await,
            Timer::Late => self.follow_alive(&Happened::Late).await,
            Timer::Stop => Ok(self.stop_is_due().await),
        }
    }

    /// Takes what the guest says about its own start. Cancelled only by a destroy.
    ///
    /// # Errors
    /// As [`Self::timer_passed`].
    pub async fn guest_word(&mut self, word: GuestWord) -> Result<Next, Failure> {
        if self.row.op.is_some() || !matches!(self.row.state, State::Running) {
            return Ok(Next::Continue);
        }
        self.follow_alive(&Happened::Guest(word)).await
    }

    /// Whether what its guest says about its start comes too late to matter: it counts as started.
    #[must_use]
    pub fn is_past_its_start(&self) -> bool {
        self.is_supervised() && self.phase() == Phase::Running
    }

    /// What follows while the emulator stands.
    async fn follow_alive(&mut self, happened: &Happened) -> Result<Next, Failure> {
        let Some(step) = self.step(self.phase(), happened) else { return Ok(Next::Continue) };
        match step.then {
            Then::Up => {
                self.remember(step.record);
                self.event(Severity::Info, "running", None, "");
                Ok(Next::Continue)
            }
            Then::Note => {
                self.remember(step.record);
                Ok(Next::Continue)
            }
            Then::Retry | Then::Fatal => {
                let why = step.record.why.unwrap_or_default();
                if *happened == Happened::Late {
                    self.event(Severity::Alert, "start-hung", Some("destroy"), &why);
                }
                self.give_start_up(why).await
            }
            _ => Ok(Next::Continue),
        }
    }

    fn remember(&mut self, record: Record) {
        self.row.supervision = record.clone();
        self.change(&LiveChange { supervision: Some(record), ..LiveChange::default() });
    }

    /// Ends the emulator of a start that failed without ending it.
    async fn give_start_up(&mut self, why: String) -> Result<Next, Failure> {
        self.row.supervision.why = Some(why);
        self.record_end_on_the_way(Reason::StartFailed);
        self.follow_recorded_end().await
    }

    /// A process is there: its start begins. Written with what comes next.
    pub(crate) fn begin_start(&mut self) {
        self.row.supervision.stopped_by_person = false;
        self.row.supervision.stop_by_ms = None;
        self.row.supervision = match self.step(Phase::Launching, &Happened::Launched) {
            Some(step) => step.record,
            // Nobody asks whether it stays up.
            None => Record { ready: true, ..self.row.supervision.clone() },
        };
    }

    /// The same for one that an earlier monitor launched, at the time of then.
    pub(crate) fn has_begun_start(&mut self) {
        self.begin_start();
        let record = &mut self.row.supervision;
        if let (Some(since), Some(started)) = (&mut record.since_ms, self.row.started_ms) {
            *since -= (now_ms() - started).max(0);
        }
    }

    /// The time of a start runs with its guest, and stands still with it.
    pub(crate) fn keep_time(&mut self, state: State) {
        let record = &mut self.row.supervision;
        if record.ready || record.retry_at_ms.is_some() || self.row.config.supervision.is_none() {
            return;
        }
        let before = std::mem::take(record);
        *record = match state {
            State::Running => before.going_on(boot_ms()),
            State::Paused | State::Asleep | State::Suspended | State::Halted => {
                before.standing(boot_ms())
            }
            State::Absent | State::Shutdown | State::Failed => before,
        };
    }

    /// Whether supervision decides about this end. A guest's reboot is none, but for one that a
    /// person wants off.
    pub(crate) fn is_supervised_end(&self, event: GuestEvent) -> bool {
        let stopping = self.row.supervision.stopped_by_person;
        self.is_supervised() && (event != GuestEvent::Reboot || stopping)
    }

    /// Follows an end: writes what is known of it, and then does what the table says.
    pub(crate) async fn supervised_end(&mut self, ended: Ended) -> Result<Next, Failure> {
        if let Some(rules) = self.rules() {
            self.row.supervision.last_exit = Some(ended.last_exit(rules));
        }
        self.record_end_on_the_way(ended.event.reason());
        self.follow_end(&ended).await
    }

    /// Writes that the run has ended, and that something follows: nobody is to take it for the end
    /// of the domain.
    fn record_end_on_the_way(&mut self, reason: Reason) {
        self.note_end(reason);
        self.row.supervision.ended_ms = Some(now_ms());
        self.row.state = State::Shutdown;
        self.row.op = Some(Op::Stopping);
        self.row.reason = Some(reason);
        self.change(&LiveChange {
            state: Some(State::Shutdown),
            op: Some(Some(Op::Stopping)),
            reason: Some(Some(reason)),
            process: self.row.process.is_none().then_some(None),
            supervision: Some(self.row.supervision.clone()),
            passing: true,
            ..LiveChange::default()
        });
        reach(Step::EndSeen, self.row.process.as_ref().map(|process| process.pid));
    }

    /// Follows the end that is written in the row, if it is supervision's.
    pub(crate) async fn follow_supervised_end(&mut self) -> Option<Result<Next, Failure>> {
        let reason = self.row.reason.filter(|_| self.is_supervised())?;
        let record = &self.row.supervision;
        if reason == Reason::StartFailed {
            let why = record.why.clone().unwrap_or_default();
            let happened = Happened::LaunchFailed { for_good: false, why };
            let step = self.step(Phase::Launching, &happened)?;
            return Some(self.carry(step, reason, "").await);
        }
        let event = GuestEvent::of(reason).filter(|event| self.is_supervised_end(*event))?;
        let LastExit { code, signal, .. } = record.last_exit.unwrap_or_default();
        let text = format!("it ended ({event})");
        Some(self.follow_end(&Ended { event, code, signal, text }).await)
    }

    async fn follow_end(&mut self, ended: &Ended) -> Result<Next, Failure> {
        let Some(step) = self.step(self.phase(), &Happened::Ended(ended.clone())) else {
            return Ok(Next::Continue);
        };
        let reason = ended.event.reason();
        let unexpected = step.record.last_exit.is_some_and(|last| !last.expected);
        let severity = match step.then {
            Then::Restart | Then::Exited if unexpected => Severity::Warning,
            _ => Severity::Info,
        };
        if matches!(step.then, Then::Restart | Then::Exited | Then::Stopped) {
            let action = match step.then {
                Then::Restart => "restart",
                Then::Exited => "exited",
                _ => "stopped",
            };
            self.event(severity, ended.event.as_str(), Some(action), &ended.text);
        }
        self.carry(step, reason, &ended.text).await
    }

    /// Carries out what follows an end.
    async fn carry(&mut self, step: Follows, reason: Reason, text: &str) -> Result<Next, Failure> {
        let stands = self.live.is_some() || self.row.process.is_some();
        if stands {
            self.end_or_keep(Verb::Destroy, reason).await?;
        }
        let Follows { then, record } = step;
        match then {
            Then::Restart => {
                let gap = LEAST_RUN.saturating_sub(self.ran_for());
                self.start_again(gap, record).await
            }
            Then::Retry => Ok(self.back_off(record)),
            Then::Fatal => Ok(self.give_up(record)),
            _ => {
                self.row.supervision = record;
                let done = then == Then::Stopped || reason == Reason::Poweroff;
                let wanted = done.then_some(Wanted::Halted);
                Ok(self.settle(State::Halted, reason, text, wanted))
            }
        }
    }

    /// Starts it once more. A start that fails again is followed by the table, too.
    async fn start_again(&mut self, gap: Duration, record: Record) -> Result<Next, Failure> {
        match self.start_anew(gap, record, true).await {
            // Written, and told to whom it concerns, where it was found out.
            Err(_) if !self.row.state.is_live() && self.row.op.is_none() => Ok(Next::Over),
            other => other,
        }
    }

    /// A launch failed.
    pub(crate) fn launch_failed(&mut self, for_good: bool, failure: &Failure) -> Next {
        let why = failure.causes.join(": ");
        let why = if why.is_empty() { failure.text.clone() } else { why };
        match self.step(Phase::Launching, &Happened::LaunchFailed { for_good, why }) {
            Some(Follows { then: Then::Retry, record }) => self.back_off(record),
            Some(step) => self.give_up(step.record),
            None => Next::Continue,
        }
    }

    /// The next try is waited for. The monitor holds the row meanwhile.
    fn back_off(&mut self, record: Record) -> Next {
        let why = record.why.clone().unwrap_or_default();
        let text = format!("{why}; the next try is in {} s", record.failed_starts);
        self.between_runs(record, true);
        self.event(Severity::Warning, "start-failed", Some("backoff"), &text);
        Next::Parted
    }

    /// Nothing is tried any more.
    fn give_up(&mut self, record: Record) -> Next {
        let why = record.why.clone().unwrap_or_default();
        let tries = record.failed_starts;
        self.row.supervision = record;
        let next = self.settle(State::Failed, Reason::StartFailed, &why, None);
        let tries = if tries == 1 { "1 try".to_owned() } else { format!("{tries} tries") };
        let text = format!("not started after {tries}; the last one: {why}");
        self.event(Severity::Alert, "fatal", None, &text);
        next
    }

    /// The monitor before died while the domain was on its way up and there is no emulator now: the
    /// wait for the next try goes on, or the start does. `None` where it is nothing of that.
    pub(crate) async fn start_was_cut_off(
        &mut self,
        interrupted: Option<Op>,
        had_process: bool,
    ) -> Option<Result<Next, Failure>> {
        if interrupted != Some(Op::Starting) || !self.is_supervised() {
            return None;
        }
        if self.waits() {
            self.event(Severity::Info, "adopted", Some("backoff"), "its monitor had died");
            self.publish();
            return Some(Ok(Next::Parted));
        }
        if had_process {
            let why = "its program ended during the launch, and nobody saw how".to_owned();
            let happened = Happened::LaunchFailed { for_good: false, why };
            let step = self.step(Phase::Launching, &happened)?;
            return Some(self.carry(step, Reason::StartFailed, "").await);
        }
        let record = self.row.supervision.clone();
        Some(self.start_again(Duration::ZERO, record).await)
    }
}
