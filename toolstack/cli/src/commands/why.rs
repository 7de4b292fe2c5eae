//! `kxl why`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use kxl_domain::supervision::Word;
use kxl_domain::{DomainName, Reason, State};
use kxl_engine::{Answering, Host, Owner, Seen, StoredImage, observe};
use kxl_store::{EventQuery, EventRow, ListRow};
use serde_json::json;

use super::{Exit, LOOK_BUDGET, events};
use crate::args::Why;
use crate::view::{size, tame, when};
use crate::{facts, out};

/// How many of the last events are told.
const EVENTS: u32 = 5;

/// How many of the last lines of an emulator's log are told.
const LINES: usize = 10;

/// Events after which a domain is still in the state it was in.
const NO_CHANGE: &[&str] = &[
    "adopted",
    "affinity-missing",
    "asked",
    "clock",
    "limit-missing",
    "no-core-dump",
    "policy-failed",
    "running",
    "save-failed",
];

/// Tells in one paragraph why a domain is in its state.
pub(crate) fn why(args: &Why) -> Exit {
    let mut host = Host::open()?;
    if let Err(failure) = host.find(&args.name).and_then(|row| host.attend(&row)) {
        // It is gone, or hangs: why says so with more words.
        tracing::debug!(%failure, "not attended to");
    }
    let mut query = EventQuery { limit: Some(EVENTS), ..EventQuery::default() };
    events::narrow(&mut host, &mut query, &args.name)?;
    let happened = host.store.events(&query).map_err(|e| events::unreadable(&e))?;
    let seen = match query.uuid {
        Some(_) => {
            let row = host.find(&args.name)?;
            observe(&host.paths, vec![row], LOOK_BUDGET).pop()
        }
        None => None,
    };
    let now = facts::now_ms();
    let paragraph = match &seen {
        Some(seen) => tell(seen, &happened, now) + &kept(&mut host, &seen.row),
        None => gone(&args.name, &happened),
    };
    let matters = match &seen {
        Some(seen) => emulator_matters(seen),
        None => happened.last().is_some_and(|row| {
            row.event.what == "start-failed" || row.event.reason.is_some_and(blames_emulator)
        }),
    };
    let name = match &seen {
        Some(seen) => Some(seen.row.name.clone()),
        None => DomainName::new(args.name.as_str()).ok(),
    };
    let log = name.filter(|_| matters).and_then(|name| {
        let path = host.paths.emulator_log(&name);
        let lines = last_lines(&path).ok().filter(|lines| !lines.is_empty())?;
        Some((path, lines))
    });
    if args.json {
        out::print_json(&json!({
            "name": args.name,
            "why": paragraph,
            "events": happened,
            "emulator_log": log.as_ref().map(|(_, lines)| lines),
        }))?;
        return Ok(0);
    }
    let mut text = format!("{paragraph}\n");
    for row in &happened {
        text.push_str(&format!("  {}  {}\n", when::moment(row.event.time_ms), events::said(row)));
    }
    if let Some((path, lines)) = log {
        text.push_str(&format!("The last lines of {}:\n", path.display()));
        lines.iter().for_each(|line| text.push_str(&format!("  | {line}\n")));
    }
    // Programs and guests have a say in it.
    out::print(&tame::lines(&text))?;
    Ok(0)
}

/// The paragraph about a domain that exists.
fn tell(seen: &Seen, happened: &[EventRow], now_ms: u64) -> String {
    let row = &seen.row;
    let mut text = format!("Domain \"{}\"", row.name);
    if let Some(domid) = seen.domid {
        text.push_str(&format!(" (domid {domid})"));
    }
    text.push_str(&format!(" is {}", seen.status.state));
    if let Some(op) = seen.status.op {
        text.push_str(&format!(" and busy {op}"));
    }
    let live = seen.domid.is_some();
    let change = happened.iter().rev().find(|row| {
        let what = row.event.what.as_str();
        // A live domain that was saved went on.
        let same = NO_CHANGE.contains(&what) || (live && what == "saved");
        !same
    });
    let since = change.map(|row| row.event.time_ms).or(row.started_ms);
    if let Some(ms) = since {
        let ago = u64::try_from(ms).map_or(0, |ms| now_ms.saturating_sub(ms) / 1000);
        text.push_str(&format!(" since {} ({} ago)", when::moment(ms), when::span(ago)));
    }
    if let Some(reason) = seen.reason {
        text.push_str(&format!(": {}", because(reason)));
    }
    if !row.detail.is_empty() {
        text.push_str(&format!(" ({})", row.detail.trim_end().trim_end_matches('.')));
    }
    text.push('.');
    match seen.answering {
        Answering::No(why) => text.push_str(&format!(" It does not answer: {why}.")),
        Answering::NoMonitor => {
            text.push_str(" Its monitor has died; the next command about it brings a new one.");
        }
        Answering::Lost => {
            text.push_str(" Its monitor and its emulator are gone; kxl recover settles it.");
        }
        Answering::Resting | Answering::Yes => {}
    }
    text.push_str(&format!(" It should be {}.", row.wanted));
    text.push_str(&supervised(seen));
    if live && seen.status.state == State::Asleep {
        text.push_str(&format!(
            " Its memory is in its emulator, and lost with the host; kxl wake {} lets it go on.",
            row.name
        ));
    }
    text
}

/// What supervision knows of it beyond its state.
fn supervised(seen: &Seen) -> String {
    let (word, record) = (seen.word(), &seen.row.supervision);
    let mut text = match word {
        Word::Starting if record.failed_starts == 0 => String::new(),
        Word::Starting | Word::Backoff | Word::Fatal if record.failed_starts > 0 => {
            let starts = if record.failed_starts == 1 { "start has" } else { "starts have" };
            let why = record.why.as_deref().unwrap_or("nobody knows why");
            format!(
                " It is {word}: {} {starts} failed in a row, the last one because: {why}.",
                record.failed_starts
            )
        }
        Word::Exited => match record.last_exit {
            Some(last) if !last.expected => " Its end was not an expected one.".to_owned(),
            _ => String::new(),
        },
        _ => String::new(),
    };
    if let (Word::Starting, Some(work)) = (word, &record.maintenance) {
        text.push_str(&format!(" Its guest is at work before it can start: {} %", work.percent));
        let told = if work.text.is_empty() { ".".to_owned() } else { format!(" ({}).", work.text) };
        text.push_str(&told);
    }
    if record.stopped_by_person && word == Word::Stopped {
        text.push_str(" A person stopped it: no rule starts it again.");
    }
    text
}

/// The sentences about the states that are kept of a domain; what cannot be read is said as well.
fn kept(host: &mut Host, row: &ListRow) -> String {
    let images = match host.images() {
        Ok(images) => images,
        Err(failure) => return format!(" Whether states of it are kept is unknown: {failure}."),
    };
    let mut text = String::new();
    for image in images.images.iter().filter(|image| image.listed.facts.uuid == row.uuid) {
        text.push_str(&sentence(row, image));
    }
    let own = host.store.managed(row.uuid).ok().flatten().and_then(|managed| managed.image);
    for (id, failure) in images.damaged.iter().filter(|(id, _)| Some(*id) == own) {
        text.push_str(&format!(" The image that it is ({id}) cannot come back: {failure}."));
    }
    for (_, bytes) in images.pinned.iter().filter(|(name, _)| *name == row.name) {
        text.push_str(&format!(
            " It came from an image that is removed; {} stay taken until its emulator ends.",
            size::bytes(*bytes)
        ));
    }
    text
}

fn sentence(row: &ListRow, image: &StoredImage) -> String {
    let id = super::image::short(image.listed.facts.id);
    let size = size::bytes(image.listed.bytes);
    let saved = when::moment(image.listed.facts.moment.stopped_ms);
    match &image.owner {
        Owner::Suspended(_) => format!(
            " Its state of {saved} is image {id} ({size}) in the store; kxl resume {} brings it back.",
            row.name
        ),
        Owner::Live(_) => format!(" It runs from image {id} ({size}), which is being checked."),
        Owner::Nobody if image.listed.spent.is_some() => format!(
            " Image {id} ({size}) holds its state of {saved}; a guest went on from it, so it does \
             not come back by itself: kxl image rm {id} removes it."
        ),
        Owner::Nobody => format!(
            " Image {id} ({size}) holds its state of {saved}; kxl restore {} comes back from it.",
            image.listed.facts.id
        ),
    }
}

/// The paragraph about a domain that exists no more.
fn gone(name: &str, happened: &[EventRow]) -> String {
    let last = happened.last().map_or_else(String::new, |row| {
        let event = &row.event;
        let reason = event.reason.map_or_else(String::new, |r| format!(": {}", because(r)));
        format!(
            " The last that was recorded of it, on {}, is \"{}\"{reason}.",
            when::moment(event.time_ms),
            event.what
        )
    });
    format!("There is no domain \"{name}\" any more: it was transient, or it was deleted.{last}")
}

/// A reason as a clause.
const fn because(reason: Reason) -> &'static str {
    match reason {
        Reason::New => "it was registered and has never been started",
        Reason::Poweroff => "the guest switched itself off",
        Reason::Reboot => "the guest asked for a reboot",
        Reason::Crash => "the guest crashed, or its emulator died",
        Reason::Watchdog => "its watchdog fired",
        Reason::Destroyed => "somebody took the power away",
        Reason::Saved => "its state was saved to a file",
        Reason::Suspended => "its state is kept in the store",
        Reason::StartFailed => "its start did not succeed",
        Reason::LostAtHostReboot => "the host went down while it was running",
        Reason::Unknown => "nobody saw how it ended",
    }
}

/// Whether the emulator's own words may explain the state.
fn emulator_matters(seen: &Seen) -> bool {
    seen.status.state == State::Failed
        || matches!(seen.answering, Answering::No(_))
        || seen.reason.is_some_and(blames_emulator)
}

/// Whether the emulator may have had a say in an end for this reason.
const fn blames_emulator(reason: Reason) -> bool {
    matches!(reason, Reason::Crash | Reason::StartFailed | Reason::Unknown | Reason::Watchdog)
}

/// The last lines of a log, without control characters.
fn last_lines(path: &Path) -> io::Result<Vec<String>> {
    const TAIL: u64 = 16 * 1024;
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let clean = |line: &str| line.chars().filter(|c| !c.is_control() || *c == '\t').collect();
    let mut lines: Vec<String> =
        text.lines().filter(|line| !line.trim().is_empty()).map(clean).collect();
    Ok(lines.split_off(lines.len().saturating_sub(LINES)))
}

#[cfg(test)]
mod tests {
    use kxl_store::{Event, Severity};

    use super::*;
    use crate::view::table::tests::seen;

    fn event(what: &str, reason: Option<Reason>) -> EventRow {
        let mut event = Event::new(Severity::Info, what).reason(reason);
        event.time_ms = 1_785_000_000_000;
        EventRow::new(1, event)
    }

    #[test]
    fn the_paragraph_tells_state_time_reason_and_wish() {
        let mut domain = seen("web", 0, State::Halted);
        domain.reason = Some(Reason::Poweroff);
        let text = tell(&domain, &[event("ended", domain.reason)], 1_785_000_061_000);
        assert!(text.starts_with("Domain \"web\" is halted since "), "{text}");
        assert!(
            text.ends_with("(1 min 1 s ago): the guest switched itself off. It should be halted."),
            "{text}"
        );
    }

    #[test]
    fn asking_a_guest_is_no_change_of_state() {
        let domain = seen("web", 3, State::Running);
        let (started, mut asked) = (event("started", None), event("asked", None));
        asked.event.time_ms += 60_000;
        let text = tell(&domain, &[started, asked], 1_785_000_061_000);
        assert!(text.contains("(1 min 1 s ago)"), "{text}");
    }

    #[test]
    fn a_silent_emulator_and_a_dead_monitor_are_told() {
        let mut domain = seen("web", 3, State::Running);
        domain.answering = Answering::No("its emulator is stopped by a signal");
        assert!(tell(&domain, &[], 0).contains("does not answer: its emulator is stopped"));
        domain.answering = Answering::NoMonitor;
        assert!(tell(&domain, &[], 0).contains("monitor has died"));
    }

    #[test]
    fn what_supervision_knows_is_told() {
        let mut domain = seen("web", 0, State::Failed);
        domain.row.supervision.failed_starts = 4;
        domain.row.supervision.why = Some("exit status 1".into());
        let text = tell(&domain, &[], 0);
        assert!(text.contains("is FATAL: 4 starts have failed in a row"), "{text}");
        assert!(text.ends_with("because: exit status 1."), "{text}");
        let mut domain = seen("web", 0, State::Halted);
        domain.row.supervision.stopped_by_person = true;
        assert!(tell(&domain, &[], 0).ends_with("no rule starts it again."));
    }

    #[test]
    fn a_domain_that_is_gone_is_explained_by_what_was_recorded() {
        let text = gone("web", &[event("ended", Some(Reason::Destroyed))]);
        assert!(text.contains("no domain \"web\" any more"), "{text}");
        assert!(text.ends_with("is \"ended\": somebody took the power away."), "{text}");
    }
}
