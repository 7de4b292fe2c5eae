//! What supervision asks of a command: waiting until a domain is up, and stopping it for good.

use std::time::{Duration, Instant};

use kxl_control::{Answer, Call, MonitorStatus, Until};
use kxl_domain::supervision::Word;
use kxl_domain::{Action, DomainUuid, Failure, Kind, Op, State, Verb};
use kxl_store::{Event, ListRow, Severity};

use crate::host::{Host, stored};

/// How long a monitor may take to pass a request on, or to take the power away.
const ASK: Duration = Duration::from_secs(30);

/// How long a monitor that has said goodbye may take to go.
const GOODBYE: Duration = Duration::from_millis(5);

/// How a stop ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It was off already.
    Already,
    /// Its guest, or its program, ended when it was asked to.
    Obeyed,
    /// It had not ended in time: the power was taken away.
    Late {
        /// `stopwaitsecs`.
        waited: u32,
    },
    /// It could not be asked: the power was taken away at once.
    NotAsked {
        /// Why.
        why: String,
    },
}

impl Host {
    /// Stops a domain: `shutdown`, and after `stopwaitsecs` `destroy`. Where there is nobody to be
    /// asked (its backend has no power button, it is paused, it waits for its next try) the power is
    /// taken away at once.
    ///
    /// # Errors
    /// When it can neither be asked nor ended, and when it is being saved.
    pub fn stop(&mut self, row: &ListRow) -> Result<Stopped, Failure> {
        // Others may have been stopped before this one: it is read anew, not as it was listed.
        let row = &match self.find(&row.uuid.to_string()) {
            Ok(now) => now,
            Err(failure) if failure.kind == Kind::NoSuchDomain => return Ok(Stopped::Already),
            Err(failure) => return Err(failure),
        };
        if row.domid.is_none() {
            return Ok(Stopped::Already);
        }
        let config = self.config_of(row)?;
        let (waited, kept) = config.map_or((0, false), |config| {
            let kept = config.supervision.is_none() && config.on_poweroff == Action::Preserve;
            (config.stop.wait_secs, kept)
        });
        if row.op == Some(Op::Starting) {
            return self.end(row, "it was on its way up");
        }
        match self.verb(row, Verb::Shutdown, ASK, |_| ()) {
            Ok(crate::Outcome::Already) => return Ok(Stopped::Already),
            Ok(crate::Outcome::Done) => {}
            Err(failure) if failure.kind == Kind::Unsupported => {
                return self.end(row, "there is no way to ask it");
            }
            Err(failure) if failure.kind == Kind::Denied => {
                let Ok(now) = self.find(&row.uuid.to_string()) else { return Ok(Stopped::Obeyed) };
                return match (now.op, now.state) {
                    (None | Some(Op::Starting), _) if now.domid.is_none() => Ok(Stopped::Obeyed),
                    (None, state) => self.end(row, &format!("it was {state}")),
                    (Some(Op::Starting), _) => self.end(row, "it was on its way up"),
                    (Some(_), _) => Err(failure),
                };
            }
            Err(failure) if failure.kind == Kind::NoSuchDomain => return Ok(Stopped::Obeyed),
            Err(failure) => return Err(failure),
        }
        if self.ends_within(row, kept, Duration::from_secs(u64::from(waited)))? {
            return Ok(Stopped::Obeyed);
        }
        self.end(row, "")?;
        let text = format!("it had not ended within {waited} s");
        let event = Event::new(Severity::Warning, "stop-forced")
            .of(row.uuid, &row.name, row.domid)
            .text(&text);
        if let Err(error) = self.store.event(&event) {
            tracing::warn!(%error, "event not recorded");
        }
        Ok(Stopped::Late { waited })
    }

    fn end(&mut self, row: &ListRow, why: &str) -> Result<Stopped, Failure> {
        match self.verb(row, Verb::Destroy, ASK, |_| ()) {
            Ok(_) => Ok(Stopped::NotAsked { why: why.to_owned() }),
            Err(failure) if failure.kind == Kind::NoSuchDomain => Ok(Stopped::Obeyed),
            Err(failure) => Err(failure),
        }
    }

    /// Whether the domain is off in time. One that is kept after its end counts as off; one whose
    /// guest has rebooted instead is not off.
    fn ends_within(
        &mut self,
        row: &ListRow,
        kept: bool,
        patience: Duration,
    ) -> Result<bool, Failure> {
        let until = Instant::now() + patience;
        loop {
            let row = match self.find(&row.uuid.to_string()) {
                Ok(row) if row.domid.is_some() => row,
                Ok(_) => return Ok(true),
                Err(failure) if failure.kind == Kind::NoSuchDomain => return Ok(true),
                Err(failure) => return Err(failure),
            };
            if kept && row.state == State::Shutdown {
                return Ok(true);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let mut client = match self.connect(&row) {
                Ok(client) => client,
                Err(failure) if matches!(failure.kind, Kind::Denied | Kind::NoSuchDomain) => {
                    return Ok(true);
                }
                Err(failure) => return Err(failure),
            };
            let what = if kept { Until::Shutdown } else { Until::Gone };
            match client.call(Call::Wait(what), Some(left), |_| ()) {
                Ok(_) => std::thread::sleep(GOODBYE),
                Err(failure) if failure.kind == Kind::TimedOut => return Ok(false),
                // The monitor went, with its domain or without: a look tells.
                Err(failure) if failure.kind == Kind::Failed => std::thread::sleep(GOODBYE),
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Waits until it is decided how the start of a domain went; `backs_off` hears of each try that
    /// failed while others follow. Waits as long as that takes.
    ///
    /// # Errors
    /// [`Kind::Failed`], saying why, for a domain that did not come up.
    pub fn comes_up(
        &mut self,
        uuid: DomainUuid,
        mut backs_off: impl FnMut(&MonitorStatus),
    ) -> Result<(), Failure> {
        loop {
            let row = self.find(&uuid.to_string())?;
            let mut word = row.word();
            let mut client = match row.domid {
                Some(_) if is_pending(word) => match self.connect(&row) {
                    Ok(client) => client,
                    Err(failure) if matches!(failure.kind, Kind::Denied | Kind::NoSuchDomain) => {
                        continue;
                    }
                    Err(failure) => return Err(failure),
                },
                _ => return came_up(&row),
            };
            while is_pending(word) {
                match client.call(Call::Wait(Until::Leaves(word)), None, |_| ()) {
                    Ok(Answer::Status(status)) => {
                        word = status.word();
                        if word == Word::Backoff {
                            backs_off(&status);
                        }
                    }
                    Ok(_) => break,
                    // With its domain, or without: the row tells.
                    Err(failure) if failure.kind == Kind::Failed => break,
                    Err(failure) => return Err(failure),
                }
            }
            if word == Word::Running {
                return Ok(());
            }
            std::thread::sleep(GOODBYE);
        }
    }

    /// The row of a domain, by its uuid, if it is there.
    ///
    /// # Errors
    /// When the databases cannot be read.
    pub fn row(&self, uuid: DomainUuid) -> Result<Option<ListRow>, Failure> {
        self.store.find(&uuid.to_string()).map_err(|e| stored("cannot read the registry", &e))
    }
}

/// Whether a start is under way and nothing is decided.
#[must_use]
pub const fn is_pending(word: Word) -> bool {
    matches!(word, Word::Starting | Word::Backoff | Word::Stopping)
}

/// Whether a domain whose start is decided is up; a program that has done its work and ended was.
///
/// # Errors
/// [`Kind::Failed`] with the reason.
pub fn came_up(row: &ListRow) -> Result<(), Failure> {
    let word = row.word();
    let well = row.supervision.last_exit.is_some_and(|last| last.expected);
    if word == Word::Running || (word == Word::Exited && well) {
        return Ok(());
    }
    let mut failure = Failure::new(
        Kind::Failed,
        format!("domain \"{}\" did not come up: it is {word}", row.name),
    );
    let why = row.supervision.why.clone().filter(|_| word == Word::Fatal);
    failure.causes.extend(why.or_else(|| Some(row.detail.clone()).filter(|d| !d.is_empty())));
    Err(failure.hint(format!("kxl why {} tells more", row.name)))
}
