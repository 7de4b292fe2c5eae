//! What supervision asks of a command: waiting until a domain is up, and stopping it for good.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use kxl_control::{Answer, Call, Until};
use kxl_domain::supervision::Word;
use kxl_domain::{
    Action, DomainConfig, DomainUuid, Failure, GuestEvent, Kind, Op, Reason, State, Verb,
};
use kxl_store::{Event, ListRow, Severity};

use crate::asking::Charge;
use crate::host::{Host, stored};

/// How long a monitor may take to pass a request on, or to take the power away.
const ASK: Duration = Duration::from_secs(30);

/// How long a monitor that has said goodbye may keep its socket.
pub const GOODBYE: Duration = Duration::from_millis(5);

/// How long a monitor that holds the deadline of a stop may take over it beyond that.
const LATE: Duration = Duration::from_secs(5);

/// How much longer than its guest a monitor may take to answer.
const ANSWER: Duration = Duration::from_secs(2);

/// After how long the record of an end is not waited for that a monitor tells of.
const UNWRITTEN: Duration = Duration::from_secs(1);

/// How often a domain is looked at whose monitor cannot be asked to tell of its end.
const LOOK: Duration = Duration::from_millis(100);

/// `stopwaitsecs` of a domain whose configuration cannot be read.
const WAIT_SECS: u32 = 10;

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
        /// Why it could not be asked, where that is so.
        unheard: Option<String>,
    },
    /// There is nobody to ask: the power was taken away at once.
    NotAsked {
        /// Why.
        why: String,
    },
}

/// How a request to end was passed on.
#[derive(Default)]
struct Passed {
    /// The monitor holds the deadline.
    held: bool,
    /// Why nobody knows whether it was heard.
    unheard: Option<String>,
}

/// How the request to end went.
enum Request {
    /// It is over with the domain, in this way.
    Over(Stopped),
    /// It was passed on.
    Passed(Passed),
}

/// How long it is waited for a domain that comes up.
pub(crate) struct Patience<'a> {
    /// Until when.
    pub(crate) until: Instant,
    /// Comes to its end when nobody waits any more.
    pub(crate) sign: &'a OwnedFd,
    /// Whether that has happened.
    pub(crate) over: &'a (dyn Fn() -> bool + Sync),
}

impl Patience<'_> {
    fn left(&self, row: &ListRow) -> Result<Duration, Failure> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() || (self.over)() {
            let text = format!("domain \"{}\" is not up yet: it is {}", row.name, row.word());
            return Err(Failure::new(Kind::TimedOut, text));
        }
        Ok(left)
    }
}

impl Host {
    /// Stops a domain: `shutdown`, and after `stopwaitsecs` `destroy`, whatever the shutdown
    /// answers. Where there is nobody to be asked (its backend has no power button, it is paused, it
    /// waits for its next try) the power is taken away at once. Its monitor does all that, even if
    /// this command ends meanwhile; the command does it where the monitor does not.
    ///
    /// # Errors
    /// When it cannot be ended, and when it is being saved.
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
        if self.destroy_unreadable(row)? {
            let why = "its record cannot be read, so nobody can ask it".to_owned();
            return Ok(Stopped::NotAsked { why });
        }
        let (waited, kept) = match self.config_of(row) {
            Ok(Some(config)) => (config.stop.wait_secs, kept(&config)),
            Ok(None) => (0, Vec::new()),
            Err(failure) => {
                tracing::warn!(%failure, "a domain is stopped without its stopwaitsecs");
                (WAIT_SECS, Vec::new())
            }
        };
        let until = Instant::now() + Duration::from_secs(u64::from(waited));
        let Passed { held, unheard } = match self.request_end(row, until)? {
            Request::Over(stopped) => return Ok(stopped),
            Request::Passed(passed) => passed,
        };
        let late = if held { LATE } else { Duration::ZERO };
        let forced = Stopped::Late { waited, unheard };
        match self.ends_by(row, &kept, until + late) {
            Some(Some(Reason::Destroyed)) => {
                return self.failed_stop(row).map_or(Ok(forced), Err);
            }
            Some(_) => return Ok(Stopped::Obeyed),
            None => {}
        }
        self.end(row, "")?;
        let mut text = format!("it had not ended within {waited} s");
        if let Stopped::Late { unheard: Some(why), .. } = &forced {
            text = format!("{text}, and could not be asked: {why}");
        }
        self.tell(row, Severity::Warning, "stop-forced", &text);
        Ok(forced)
    }

    /// The failure of a stop whose script has not shut the guest down.
    fn failed_stop(&mut self, row: &ListRow) -> Option<Failure> {
        let why = self.row(row.uuid).ok()??.supervision.stop_failed?;
        let attempt = format!("cannot shut the guest of domain \"{}\" down", row.name);
        let mut failure = Failure::new(Kind::Failed, attempt);
        failure.causes.push(why);
        Some(failure.hint("the power was taken away; kxl stop-script check tells about the script"))
    }

    /// Asks it to end, again as long as something else is being done to it for a moment.
    fn request_end(&mut self, row: &ListRow, until: Instant) -> Result<Request, Failure> {
        loop {
            let patience = until.saturating_duration_since(Instant::now()) + ANSWER;
            let failure = match self.ask_to_stop(row, patience) {
                Ok(request) => return Ok(request),
                Err(failure) => failure,
            };
            match failure.kind {
                Kind::NoSuchDomain => return Ok(Request::Over(Stopped::Obeyed)),
                Kind::Unsupported => {
                    return self.end(row, "there is no way to ask it").map(Request::Over);
                }
                Kind::Denied => {}
                _ => return Ok(unheard(&failure)),
            }
            let Ok(now) = self.find(&row.uuid.to_string()) else {
                return Ok(Request::Over(Stopped::Obeyed));
            };
            match (now.op, now.state) {
                _ if now.domid.is_none() => return Ok(Request::Over(Stopped::Obeyed)),
                (Some(Op::Starting), _) => {
                    return self.end(row, "it was on its way up").map(Request::Over);
                }
                (Some(Op::Stopping), _) => {
                    return Ok(Request::Passed(Passed { held: true, unheard: None }));
                }
                (None, State::Running) if Instant::now() < until => std::thread::sleep(LOOK),
                (None, State::Running) => return Ok(unheard(&failure)),
                (None, state) => {
                    return self.end(row, &format!("it was {state}")).map(Request::Over);
                }
                (Some(_), _) => return Err(failure),
            }
        }
    }

    /// Has the monitor stop it. One of a version that does not know how is asked to shut it down.
    fn ask_to_stop(&mut self, row: &ListRow, patience: Duration) -> Result<Request, Failure> {
        if let Charge::Monitor(mut client) = self.in_charge(row.uuid, &row.name)? {
            match client.call(Call::Stop, Some(patience), |_| ()) {
                Ok(Answer::Already) => return Ok(Request::Over(Stopped::Already)),
                Ok(Answer::Unheard(why)) => {
                    return Ok(Request::Passed(Passed { held: true, unheard: Some(why) }));
                }
                Ok(_) => return Ok(Request::Passed(Passed { held: true, unheard: None })),
                Err(_) if client.has_hung_up() => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(match self.verb(row, Verb::Shutdown, patience, |_| ())? {
            crate::Outcome::Already => Request::Over(Stopped::Already),
            crate::Outcome::Done => Request::Passed(Passed::default()),
        })
    }

    fn end(&mut self, row: &ListRow, why: &str) -> Result<Stopped, Failure> {
        match self.verb(row, Verb::Destroy, ASK, |_| ()) {
            Ok(_) => Ok(Stopped::NotAsked { why: why.to_owned() }),
            Err(failure) if failure.kind == Kind::NoSuchDomain => Ok(Stopped::Obeyed),
            Err(failure) => Err(failure),
        }
    }

    fn tell(&mut self, row: &ListRow, severity: Severity, what: &str, text: &str) {
        let event = Event::new(severity, what).of(row.uuid, &row.name, row.domid).text(text);
        if let Err(error) = self.store.event(&event) {
            tracing::warn!(%error, "event not recorded");
        }
    }

    /// Waits until the domain is off: why it is then, or `None` when it is not in time. One that is
    /// kept after an end for one of these reasons counts as off; one whose guest has rebooted instead
    /// is not off.
    fn ends_by(
        &mut self,
        row: &ListRow,
        kept: &[Reason],
        until: Instant,
    ) -> Option<Option<Reason>> {
        let mut said = None;
        loop {
            let mut asked = Err(());
            match self.find(&row.uuid.to_string()) {
                Ok(now) if now.domid.is_none() => return Some(now.reason),
                Ok(now) if rests_as(&now, kept) => return Some(now.reason),
                Ok(now) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    let what = if kept.is_empty() { Until::Gone } else { Until::Shutdown };
                    if let Ok(mut client) = self.connect(&now) {
                        asked = client.call(Call::Wait(what), Some(left), |_| ()).map_err(drop);
                    }
                }
                Err(failure) if failure.kind == Kind::NoSuchDomain => return Some(None),
                Err(_) if Instant::now() >= until => return None,
                Err(_) => {}
            }
            match asked {
                // A transient domain leaves nothing to look at.
                Ok(Answer::Ended { reason, .. }) if !row.managed => {
                    std::thread::sleep(GOODBYE);
                    if self.row(row.uuid).is_ok_and(|now| now.is_none()) {
                        return Some(reason);
                    }
                }
                // Where it cannot be written down the monitor alone knows of the end.
                Ok(Answer::Ended { reason, .. }) if kept.is_empty() => {
                    if said.get_or_insert_with(Instant::now).elapsed() > UNWRITTEN {
                        return Some(reason);
                    }
                    std::thread::sleep(GOODBYE);
                }
                Ok(_) => std::thread::sleep(GOODBYE),
                // Late, or gone, with its domain or without: the next look tells.
                Err(()) => std::thread::sleep(LOOK),
            }
        }
    }

    /// Waits until it is decided how the start of a domain went.
    ///
    /// # Errors
    /// [`Kind::Failed`], saying why, for a domain that did not come up; [`Kind::TimedOut`] when the
    /// patience is at its end before.
    pub(crate) fn comes_up(
        &mut self,
        uuid: DomainUuid,
        patience: &Patience<'_>,
    ) -> Result<(), Failure> {
        loop {
            let row = self.find(&uuid.to_string())?;
            let word = row.word();
            if row.domid.is_none() || !is_pending(word) {
                return came_up(&row);
            }
            let left = patience.left(&row)?;
            let asked = self.connect(&row).and_then(|mut client| {
                if let Ok(sign) = patience.sign.try_clone() {
                    client.take_back_on(sign);
                }
                client.call(Call::Wait(Until::Leaves(word)), Some(left), |_| ())
            });
            match asked {
                Ok(_) => {}
                // It comes to rest at this moment, or its monitor went: the next look tells.
                Err(failure) if matches!(failure.kind, Kind::Denied | Kind::Failed) => {
                    std::thread::sleep(GOODBYE);
                }
                // Late, which the next look at the clock tells as well.
                Err(failure) if failure.kind == Kind::TimedOut => {}
                Err(failure) => return Err(failure),
            }
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

/// The ends after which an unsupervised domain is kept as it is, for somebody to look at.
pub(crate) fn kept(config: &DomainConfig) -> Vec<Reason> {
    let preserved = |event: &&GuestEvent| config.action(**event) == Action::Preserve;
    match config.supervision {
        Some(_) => Vec::new(),
        None => GuestEvent::ALL.iter().filter(preserved).map(|event| event.reason()).collect(),
    }
}

/// Whether a guest has ended for one of these reasons, and stands still since.
pub(crate) fn rests_as(row: &ListRow, kept: &[Reason]) -> bool {
    let ended = row.state == State::Shutdown && row.op.is_none();
    ended && row.reason.is_some_and(|reason| kept.contains(&reason))
}

/// A request of which nobody knows whether it was heard.
fn unheard(failure: &Failure) -> Request {
    let why = failure.causes.first().unwrap_or(&failure.text).clone();
    Request::Passed(Passed { held: false, unheard: Some(why) })
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

#[cfg(test)]
mod tests {
    use super::*;
    use kxl_domain::config::parse;

    #[test]
    fn only_an_end_that_the_policy_preserves_is_an_end_of_a_stop() {
        let kept = |text: &str| {
            let config = parse("f", &format!("name='a'\nbackend='mock'\n{text}\n"), &[]).unwrap();
            super::kept(&config.config)
        };
        assert_eq!(kept(""), []);
        assert_eq!(kept("on_poweroff='preserve'"), [Reason::Poweroff]);
        let both = kept("on_crash='preserve'\non_watchdog='preserve'");
        assert_eq!(both, [Reason::Crash, Reason::Watchdog]);
        assert_eq!(kept("on_reboot='preserve'\nautorestart='unexpected'"), []);
    }
}
