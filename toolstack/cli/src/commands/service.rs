//! `kxl start`, `stop` and `restart`: any number of domains, in their order, told as it happens.

use std::collections::HashMap;

use kxl_control::{Call, Until};
use kxl_domain::{DomId, DomainUuid, Failure, Kind, State};
use kxl_engine::maintenance::{self, Done, Item, News, Outcome, Settings};
use kxl_engine::{GOODBYE, Host, Started, Stopped, came_up, is_pending, make_room};
use kxl_store::ListRow;

use super::{Exit, console, create, list};
use crate::args::{Restart, Start, Stop};
use crate::crowd::Crowd;
use crate::{out, report};

/// How many launches are in flight at once, for each processor.
const JOBS: usize = 4;

/// The word for every managed domain.
pub(crate) const ALL: &str = "all";

/// Starts registered domains.
pub(crate) fn start(args: &Start) -> Exit {
    if args.console && (args.names.len() > 1 || args.names == [ALL]) {
        return Err(Failure::new(Kind::Usage, "--console goes with one domain only"));
    }
    let mut host = Host::open()?;
    let (mut rows, worst) = select(&mut host, &args.names)?;
    if args.names.iter().any(|name| name == ALL) {
        rows.retain(|row| row.domid.is_none() && row.state != State::Suspended);
    }
    let how = How {
        paused: args.paused,
        wait: !args.no_wait && !args.paused && !args.console,
        quiet: args.quiet,
        json: args.json,
    };
    let mut starting = Starting::new(how);
    starting.run(&mut host, &rows)?;
    if let ([started], true) = (&starting.started[..], args.console) {
        console::after_start(&mut host, started)?;
    }
    Ok(worst.max(starting.worst))
}

/// Asks domains to end, and takes the power away from those that do not.
pub(crate) fn stop(args: &Stop) -> Exit {
    let mut host = Host::open()?;
    let (mut rows, worst) = select(&mut host, &args.names)?;
    if args.names.iter().any(|name| name == ALL) {
        rows.retain(|row| row.domid.is_some());
    }
    let (failed, _) = stop_rows(&mut host, &rows, args.quiet)?;
    Ok(worst.max(failed))
}

/// Stops domains, and starts those that are off then.
pub(crate) fn restart(args: &Restart) -> Exit {
    let mut host = Host::open()?;
    let (mut rows, worst) = select(&mut host, &args.names)?;
    rows.retain(|row| row.managed);
    if args.names.iter().any(|name| name == ALL) {
        rows.retain(|row| row.state != State::Suspended);
    }
    let (failed, off) = stop_rows(&mut host, &rows, args.quiet)?;
    let how = How { paused: false, wait: !args.no_wait, quiet: args.quiet, json: false };
    let mut starting = Starting::new(how);
    let mut resting = Vec::new();
    for uuid in off {
        resting.extend(host.row(uuid)?);
    }
    starting.run(&mut host, &resting)?;
    Ok(worst.max(failed).max(starting.worst))
}

/// The domains that are named, each once; `all` is every managed one. What is wrong with a name is
/// told, and decides the status that is given beside.
///
/// # Errors
/// When the databases cannot be read.
pub(crate) fn select(host: &mut Host, names: &[String]) -> Result<(Vec<ListRow>, u8), Failure> {
    let mut rows: Vec<ListRow> = Vec::new();
    let mut worst = 0;
    for name in names {
        let found = match host.find(name) {
            // A domain may have that name.
            Err(_) if name == ALL => {
                list::all(host)?.into_iter().filter(|row| row.managed).collect()
            }
            Ok(row) => vec![row],
            Err(failure) => {
                report::failure(&failure);
                worst = worst.max(failure.kind.exit_code());
                Vec::new()
            }
        };
        for row in found {
            if !rows.iter().any(|other| other.uuid == row.uuid) {
                rows.push(row);
            }
        }
    }
    Ok((rows, worst))
}

/// Stops the domains of these rows. Gives the worst exit status, and which are off.
fn stop_rows(
    host: &mut Host,
    rows: &[ListRow],
    quiet: bool,
) -> Result<(u8, Vec<DomainUuid>), Failure> {
    let (desk, _remote) = maintenance::desk();
    let (mut worst, mut off, mut unsaid) = (0, Vec::new(), None);
    let circle = host.stop_all(rows, &desk, &mut |index, outcome| {
        let row = &rows[index];
        match outcome {
            Ok(how) => {
                off.push(row.uuid);
                if !quiet && let Err(failure) = out::print(&stopped(row, how)) {
                    unsaid = Some(failure);
                }
            }
            Err(failure) => {
                report::failure(failure);
                worst = worst.max(failure.kind.exit_code());
            }
        }
    });
    if let Some(circle) = circle {
        report::warning(&format!("{circle}: they were stopped without an order"));
    }
    unsaid.map_or(Ok((worst, off)), Err)
}

fn stopped(row: &ListRow, how: &Stopped) -> String {
    let name = &row.name;
    match how {
        Stopped::Already => format!("{name}: not running\n"),
        Stopped::Obeyed => format!("{name}: stopped\n"),
        Stopped::Late { waited, unheard: None } => {
            format!("{name}: stopped (destroyed: it had not ended within {waited} s)\n")
        }
        Stopped::Late { waited, unheard: Some(why) } => format!(
            "{name}: stopped (destroyed: it had not ended within {waited} s, and could not be \
             asked: {why})\n"
        ),
        Stopped::NotAsked { why } => format!("{name}: stopped (destroyed: {why})\n"),
    }
}

/// Says of each once that it waits for others.
fn tell_held(told: &mut Vec<usize>, held: &[usize], items: &[Item]) {
    for index in held {
        if !told.contains(index) {
            told.push(*index);
            report::note(&format!("{}: waits for what it comes after", items[*index].name));
        }
    }
}

/// How to start.
#[derive(Clone, Copy)]
struct How {
    paused: bool,
    wait: bool,
    quiet: bool,
    json: bool,
}

/// A start of several domains.
struct Starting {
    how: How,
    worst: u8,
    started: Vec<Started>,
    /// How many failed tries of each were told.
    told: HashMap<DomainUuid, u32>,
}

impl Starting {
    fn new(how: How) -> Self {
        Self { how, worst: 0, started: Vec::new(), told: HashMap::new() }
    }

    fn failed(&mut self, failure: &Failure) {
        report::failure(failure);
        self.worst = self.worst.max(failure.kind.exit_code());
    }

    fn run(&mut self, host: &mut Host, rows: &[ListRow]) -> Result<(), Failure> {
        let (mut items, mut supervised) = (Vec::new(), Vec::new());
        for row in rows {
            if row.domid.is_some() || !row.managed || row.state == State::Suspended {
                // Refused by the table, with its hint.
                let start =
                    kxl_engine::StartOpts { paused: false, deadline: super::START_DEADLINE };
                if let Err(failure) = host.start(row, start) {
                    self.failed(&failure);
                }
                continue;
            }
            let Some(config) = list::config(host, row.uuid)? else { continue };
            supervised.push(config.supervision.is_some());
            items.push(Item::start(row.uuid, &config, self.how.paused));
        }
        let ranks: Vec<_> = items.iter().map(Item::rank).collect();
        let waves = maintenance::waves(&ranks).map_err(|circle| {
            Failure::because(Kind::Usage, "there is no order for these domains", &circle)
        })?;
        drop(ranks);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let settings = Settings { jobs: JOBS * processors, ..Settings::default() };
        let (desk, _remote) = maintenance::desk();
        let mut waiting = Vec::new();
        let mut unsaid = Ok(());
        let mut told = Vec::new();
        host.fill(&items, &waves, &settings, &desk, &mut |news| {
            let (index, course) = match news {
                News::Held(held) if !self.how.quiet && !held.is_empty() => {
                    tell_held(&mut told, held, &items);
                    return;
                }
                News::Ended(index, course) => (index, course),
                _ => return,
            };
            let item = &items[index];
            match (&course.outcome, item.uuid) {
                (Outcome::Done(_, Done::Up(domid)), Some(uuid)) => {
                    let (name, domid) = (item.name.clone(), *domid);
                    let started = Started { uuid, domid, name, retrying: None };
                    if supervised[index] && self.how.wait {
                        waiting.push(started);
                    } else if unsaid.is_ok() {
                        unsaid = self.up(started, supervised[index]);
                    }
                }
                // Somebody was faster, after the look at the list.
                (Outcome::Done(..), _) => {
                    let text = format!("cannot start domain \"{}\": it is running", item.name);
                    self.failed(&Failure::new(Kind::Denied, text));
                }
                _ => course.tried.iter().for_each(|(_, failure)| self.failed(failure)),
            }
        })?;
        unsaid?;
        self.wait(host, &waiting)
    }

    /// Says that a domain is up.
    fn up(&mut self, started: Started, supervised: bool) -> Result<(), Failure> {
        if self.how.json {
            create::tell(&started, self.how.paused, true)?;
        } else if !self.how.quiet {
            let Started { name, domid, .. } = &started;
            let word = match self.how {
                How { paused: true, .. } => "paused",
                How { wait: false, .. } if supervised => "starting",
                _ => "started",
            };
            out::print(&format!("{name}: {word}, domid {domid}\n"))?;
        }
        self.started.push(started);
        Ok(())
    }

    /// Waits until it is decided how each start went.
    fn wait(&mut self, host: &mut Host, waiting: &[Started]) -> Result<(), Failure> {
        make_room(waiting.len());
        let mut crowd = Crowd::new();
        for (index, started) in waiting.iter().enumerate() {
            self.look(host, &mut crowd, index, started)?;
        }
        // What changed shows in the record; a monitor that is gone has said so with it.
        while let Some((index, _changed)) = crowd.next(None) {
            self.look(host, &mut crowd, index, &waiting[index])?;
        }
        Ok(())
    }

    /// Tells of a try that failed, once.
    fn backs_off(&mut self, row: &ListRow) {
        let record = &row.supervision;
        let told = self.told.entry(row.uuid).or_default();
        if self.how.quiet || record.failed_starts <= *told {
            return;
        }
        *told = record.failed_starts;
        let why = record.why.as_deref().unwrap_or("nobody knows why");
        let text = format!("{}: start failed, it is tried again: {why}", row.name);
        report::note(&text);
    }

    /// Says how it went, or asks its monitor to tell when something changes.
    fn look(
        &mut self,
        host: &mut Host,
        crowd: &mut Crowd<usize>,
        index: usize,
        started: &Started,
    ) -> Result<(), Failure> {
        loop {
            let Some(row) = host.row(started.uuid)? else {
                let text = format!("domain \"{}\" has ended meanwhile", started.name);
                self.failed(&Failure::new(Kind::Failed, text));
                return Ok(());
            };
            let word = row.word();
            if row.domid.is_some() {
                self.backs_off(&row);
            }
            if row.domid.is_none() || !is_pending(word) {
                return match came_up(&row) {
                    Ok(()) => {
                        let domid: DomId = row.domid.unwrap_or(started.domid);
                        self.up(Started { domid, ..started.clone() }, true)
                    }
                    Err(failure) => {
                        self.failed(&failure);
                        Ok(())
                    }
                };
            }
            let asked = host
                .connect(&row)
                .and_then(|client| crowd.ask(index, client, Call::Wait(Until::Leaves(word)), None));
            match asked {
                Ok(()) => return Ok(()),
                // It has come to rest between the look and the question.
                Err(failure) if matches!(failure.kind, Kind::Denied | Kind::Failed) => {
                    std::thread::sleep(GOODBYE);
                }
                Err(failure) => {
                    self.failed(&failure);
                    return Ok(());
                }
            }
        }
    }
}
