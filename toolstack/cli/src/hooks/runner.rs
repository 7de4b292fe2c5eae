//! Who is told of which event next, and what follows when that fails.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use kxl_domain::{DomainUuid, Failure, Kind};
use kxl_engine::hooks::{self, DIRECTORY, Tells};
use kxl_engine::{Conf, Host, Telling};
use kxl_store::{Event, EventQuery, EventRow, HookRow, Severity, StoreError, now_ms};

use super::call::{Call, call};
use super::event::{environment, json};
use super::lane::{Lane, Teller};
use super::mail::letter;

/// The name of the mail's cursor; no file's name looks like it.
const MAIL: &str = "(mail)";

/// The problem of a hook that is not there any more; no complaint has this text.
const ABSENT: &str = "(absent)";

/// How long the cursor of such a hook is kept, in milliseconds.
const MISSED: i64 = 86_400_000;

/// The gaps between the tries of one event, in milliseconds; after the last try it is given up.
const GAPS: [i64; 4] = [1_000, 5_000, 30_000, 120_000];

/// How many events of one domain a hook is told of in a minute of the clock.
const HOOK_MOST: u32 = 60;

/// How many mails about one domain are sent in a minute of the clock.
const MAIL_MOST: u32 = 10;

/// The event that tells of a flood, and is told in spite of one.
const FLOOD: &str = "flood";

/// What comes next.
enum Next {
    /// The event of this lane.
    Tell(usize),
    /// Nothing for so long; then one is tried again.
    Wait(Duration),
    /// Nothing at all.
    Nothing,
}

/// The one that tells.
#[derive(Debug)]
pub(crate) struct Runner<'a> {
    host: &'a Host,
    /// What kxl.conf says; `None` where it has never been right since this began.
    telling: Option<Telling>,
    lanes: Vec<Lane>,
    /// Of each domain the last event that was left out, for hooks and for mail.
    left_out: BTreeMap<(Option<DomainUuid>, bool), i64>,
}

impl<'a> Runner<'a> {
    pub(crate) fn new(host: &'a Host) -> Self {
        Self { host, telling: None, lanes: Vec::new(), left_out: BTreeMap::new() }
    }

    /// Tells until nothing is left. What has failed is waited for.
    ///
    /// # Errors
    /// When the events cannot be read, or the cursors not be written: what cannot be noted is not
    /// told, else it would be told again and again.
    pub(crate) fn work(&mut self) -> Result<(), Failure> {
        let mut tail = None;
        loop {
            self.look_around().map_err(|error| failed(&error))?;
            match self.next().map_err(|error| failed(&error))? {
                Next::Tell(lane) => self.tell(lane)?,
                Next::Nothing => return Ok(()),
                Next::Wait(time) => {
                    // Followed from before the last look at the events.
                    let Some(tail) = &mut tail else {
                        let now = EventQuery::default();
                        tail = Some(self.host.store.follow_events(now).map_err(|e| failed(&e))?);
                        continue;
                    };
                    tail.next(Some(time)).map_err(|error| failed(&error))?;
                }
            }
        }
    }

    /// Whether something has come meanwhile.
    ///
    /// # Errors
    /// As [`work`](Self::work).
    pub(crate) fn has_work(&mut self) -> Result<bool, Failure> {
        self.look_around().map_err(|error| failed(&error))?;
        Ok(!matches!(self.next().map_err(|error| failed(&error))?, Next::Nothing))
    }

    /// Sees which hooks there are now; complains once of those that are not run.
    fn look_around(&mut self) -> Result<(), StoreError> {
        // One that is being edited and wrong counts as it was.
        if let Ok(conf) = Conf::read(&self.host.paths) {
            self.telling = Some(conf.telling);
        }
        let found = hooks::find(&self.host.paths.hooks_dir());
        let store = &self.host.store;
        let mut known: BTreeMap<String, HookRow> =
            store.hooks()?.into_iter().map(|row| (row.name.clone(), row)).collect();
        for (name, problem) in &found.refused {
            self.complain(known.remove(name), name, "hook-refused", problem)?;
        }
        let mut ways: Vec<(String, Teller, Tells, i64)> = found
            .hooks
            .into_iter()
            .map(|hook| (hook.name, Teller::Hook(hook.path), hook.tells, hook.since_ms))
            .collect();
        let mail = known.remove(MAIL);
        match &self.telling {
            // Nobody knows who is to be told: later, from where it was.
            None => {}
            Some(telling) if telling.mail_to.is_empty() => {
                mail.iter().try_for_each(|row| store.forget_hook(&row.name))?;
            }
            Some(telling) if telling.sendmail.is_file() => {
                known.extend(mail.map(|row| (row.name.clone(), row)));
                ways.push((MAIL.to_owned(), Teller::Mail, Tells::Alerts, self.conf_changed_ms()));
            }
            Some(telling) => {
                let problem = format!(
                    "no mail is sent about alerts: there is no {}; install one, or set sendmail",
                    telling.sendmail.display()
                );
                self.complain(mail, MAIL, "mail-failed", &problem)?;
            }
        }
        let mut before: BTreeMap<String, Lane> =
            self.lanes.drain(..).map(|lane| (lane.cursor.name.clone(), lane)).collect();
        for (name, teller, tells, since_ms) in ways {
            let kept = before.remove(&name).filter(|lane| lane.tells == tells);
            let row = known.remove(&name);
            let lane = match (kept, row) {
                (Some(lane), Some(_)) => lane.by(teller),
                (_, row) => Lane::new(teller, tells, self.cursor(&name, since_ms, row.as_ref())?),
            };
            self.lanes.push(lane);
        }
        // Those of hooks that are gone; where nobody can look, none is.
        if !found.refused.iter().any(|(name, _)| name == DIRECTORY) {
            known.into_values().try_for_each(|row| self.miss(row))?;
        }
        Ok(())
    }

    /// A hook is not there: it may be replaced just now. Only after a while its cursor goes.
    fn miss(&self, row: HookRow) -> Result<(), StoreError> {
        let (store, now) = (&self.host.store, now_ms());
        if row.name == DIRECTORY {
            return store.forget_hook(&row.name);
        }
        if row.problem.as_deref() != Some(ABSENT) {
            let (problem, next_ms) = (Some(ABSENT.to_owned()), now + MISSED);
            return store.set_hook(&HookRow { problem, next_ms, ..row });
        }
        // One that is too far away was written under another clock.
        if !(now..=now + MISSED).contains(&row.next_ms) {
            return store.forget_hook(&row.name);
        }
        Ok(())
    }

    /// The cursor of a hook: one that is seen for the first time is told of nothing that was before
    /// it was put there, one that was away or refused goes on where it was.
    fn cursor(
        &self,
        name: &str,
        since_ms: i64,
        row: Option<&HookRow>,
    ) -> Result<HookRow, StoreError> {
        let store = &self.host.store;
        let now = match row {
            None => HookRow {
                name: name.to_owned(),
                told: store.event_before(since_ms)?,
                tries: 0,
                next_ms: 0,
                problem: None,
            },
            Some(row) => {
                // Beyond the newest it is by somebody's hand: nothing would ever come after it.
                let told = row.told.min(store.event_before(i64::MAX)?);
                let next_ms = if row.problem.is_none() { row.next_ms } else { 0 };
                HookRow { told, next_ms, problem: None, ..row.clone() }
            }
        };
        if row != Some(&now) {
            store.set_hook(&now)?;
        }
        Ok(now)
    }

    /// Tells once, by an event, why a hook is not run.
    fn complain(
        &self,
        row: Option<HookRow>,
        name: &str,
        what: &str,
        problem: &str,
    ) -> Result<(), StoreError> {
        if row.as_ref().and_then(|row| row.problem.as_deref()) == Some(problem) {
            return Ok(());
        }
        let store = &self.host.store;
        let told = match row {
            Some(row) => row.told,
            None => store.event_before(now_ms())?,
        };
        let problem = problem.to_owned();
        // First: an event too many is better than none.
        store.event(&Event::new(Severity::Warning, what).text(&problem))?;
        let (name, problem) = (name.to_owned(), Some(problem));
        store.set_hook(&HookRow { name, told, tries: 0, next_ms: 0, problem })
    }

    fn conf_changed_ms(&self) -> i64 {
        fs::metadata(self.host.paths.conf_file())
            .map_or(0, |meta| meta.ctime() * 1000 + meta.ctime_nsec() / 1_000_000)
    }

    /// The oldest event that somebody is to be told of; of several of them in order of names.
    fn next(&mut self) -> Result<Next, StoreError> {
        let now = now_ms();
        let longest = GAPS[GAPS.len() - 1];
        let mut next: Option<(i64, usize)> = None;
        let mut wait: Option<i64> = None;
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let due = lane.cursor.next_ms - now;
            match lane.next(&self.host.store)? {
                None => lane.settle(&self.host.store)?,
                // A gap that is too long was written under another clock.
                Some(_) if (1..=longest).contains(&due) => {
                    wait = Some(wait.map_or(due, |wait| wait.min(due)));
                }
                Some(row) if next.is_none_or(|(id, _)| row.id < id) => next = Some((row.id, index)),
                Some(_) => {}
            }
        }
        Ok(match (next, wait) {
            (Some((_, lane)), _) => Next::Tell(lane),
            (None, Some(ms)) => Next::Wait(Duration::from_millis(ms.unsigned_abs())),
            (None, None) => Next::Nothing,
        })
    }

    /// Tells the event that comes next on this lane.
    fn tell(&mut self, index: usize) -> Result<(), Failure> {
        let store = &self.host.store;
        let Some(row) = self.lanes[index].next(store).map_err(|e| failed(&e))?.cloned() else {
            return Ok(());
        };
        let mail = self.lanes[index].teller == Teller::Mail;
        // Of what somebody has acknowledged nobody needs a mail.
        let moot = mail && row.acked.is_some();
        if moot || self.is_too_much(&row, index).map_err(|e| failed(&e))? {
            return self.lanes[index].pass(store).map_err(|e| failed(&e));
        }
        let lane = &mut self.lanes[index];
        let tries = u32::try_from(GAPS.len() + 1).unwrap_or(u32::MAX);
        // Counted before it is tried: one that takes its teller along is given up, too.
        let outcome = if lane.cursor.tries < tries {
            lane.cursor.tries += 1;
            store.set_hook(&lane.cursor).map_err(|error| failed(&error))?;
            attempt(&lane.teller, &row, &self.telling.clone().unwrap_or_default())?
        } else {
            Err("whoever runs it was ended with it each time".to_owned())
        };
        let Err(why) = outcome else { return lane.pass(store).map_err(|e| failed(&e)) };
        let name = lane.cursor.name.clone();
        tracing::info!(name, event = row.id, tries = lane.cursor.tries, why, "not told");
        let gap = usize::try_from(lane.cursor.tries).ok().and_then(|n| GAPS.get(n - 1));
        if let Some(gap) = gap {
            lane.cursor.next_ms = now_ms() + gap;
            return store.set_hook(&lane.cursor).map_err(|error| failed(&error));
        }
        let (id, what) = (row.id, &row.event.what);
        let (kind, who) = if mail {
            ("mail-failed", "the mail".to_owned())
        } else {
            ("hook-failed", format!("hook {name}"))
        };
        let text =
            format!("{who} about event {id} ({what}) is given up after {tries} tries: {why}");
        store
            .event(&Event::new(Severity::Warning, kind).text(text))
            .and_then(|()| lane.pass(store))
            .map_err(|error| failed(&error))
    }

    /// Whether the domain has more to tell than anybody is to be told in a minute; an alert says so
    /// once.
    fn is_too_much(&mut self, row: &EventRow, index: usize) -> Result<bool, StoreError> {
        let lane = &self.lanes[index];
        let mail = lane.teller == Teller::Mail;
        let most = if mail { MAIL_MOST } else { HOOK_MOST };
        let event = &row.event;
        let Some(uuid) = event.uuid.filter(|_| event.what != FLOOD) else { return Ok(false) };
        let alerts = lane.tells == Tells::Alerts;
        if self.host.store.earlier_in_minute(row, alerts, most)? < most {
            return Ok(false);
        }
        let last = self.left_out.entry((Some(uuid), mail)).or_default();
        // Another hook has left it out as well.
        if *last < row.id {
            *last = row.id;
            let whom = if mail { "mail tells" } else { "hooks are told" };
            let text = format!(
                "{whom} of {most} events of this domain in a minute, and of no more: kxl events {} \
                 prints them all",
                event.name
            );
            let mut flood = Event::new(Severity::Alert, FLOOD).action("suppress").text(text);
            (flood.uuid, flood.name, flood.domid) = (Some(uuid), event.name.clone(), event.domid);
            self.host.store.alert_once(&flood)?;
        }
        Ok(true)
    }
}

/// Tells one event to one of them; inside why that did not work.
fn attempt(
    teller: &Teller,
    row: &EventRow,
    telling: &Telling,
) -> Result<Result<(), String>, Failure> {
    let timeout = telling.timeout;
    Ok(match teller {
        Teller::Hook(program) => {
            let (env, input) = (environment(row), json(row)?);
            call(&Call { program, args: &[], env: &env, input: &input, timeout })
        }
        Teller::Mail => {
            let letter = letter(telling, row);
            // A line with a dot alone is no end of it.
            let args = ["-t", "-i"];
            let program = &telling.sendmail;
            call(&Call { program, args: &args, env: &[], input: letter.as_bytes(), timeout })
        }
    })
}

fn failed(error: &StoreError) -> Failure {
    Failure::because(Kind::Failed, "cannot tell hooks of events", error)
}
