//! The table of `kxl list`.

use kxl_domain::State;
use kxl_engine::{Answering, Seen};

use crate::text::add;

/// Whether the wide columns are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    /// NAME to TIME(s).
    Normal,
    /// And uuid, backend, reason, wish.
    Wide,
}

const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Renders the table. One pass over the rows for the width of the names, one for the text.
pub(crate) fn render(domains: &[Seen], width: Width, colour: bool) -> String {
    let name = domains.iter().map(|d| d.row.name.as_str().len()).max().unwrap_or(0).max(20);
    let states: Vec<String> = domains.iter().map(state).collect();
    let status = states.iter().map(String::len).max().unwrap_or(0).max(9);
    let mut out = String::with_capacity((domains.len() + 1) * (name + status + 40));
    add(
        &mut out,
        format_args!(
            "{:<name$}  {:>5} {:>7} {:>5}  {:<status$}  {:>9}",
            "NAME", "ID", "MEM", "VCPUS", "STATE", "TIME(s)"
        ),
    );
    if width == Width::Wide {
        add(
            &mut out,
            format_args!("  {:<36}  {:<8}  {:<19}  {}", "UUID", "BACKEND", "REASON", "WANTED"),
        );
    }
    out.push('\n');
    for (domain, words) in domains.iter().zip(&states) {
        line(&mut out, domain, words, name, status, colour);
        if width == Width::Wide {
            add(
                &mut out,
                format_args!(
                    "  {}  {:<8}  {:<19}  {}",
                    domain.row.uuid,
                    domain.row.backend,
                    domain.reason.map_or("-", kxl_domain::Reason::as_str),
                    domain.row.wanted,
                ),
            );
        }
        out.push('\n');
    }
    out
}

fn line(out: &mut String, domain: &Seen, words: &str, name: usize, status: usize, colour: bool) {
    let row = &domain.row;
    add(out, format_args!("{:<name$}  ", row.name.as_str()));
    match domain.domid {
        Some(domid) => add(out, format_args!("{:>5}", domid.0)),
        None => out.push_str("    -"),
    }
    add(out, format_args!(" {:>7} {:>5}  ", domain.memory_mib, domain.vcpus));
    if colour {
        add(out, format_args!("{}{words:<status$}{PLAIN}  ", tint(domain)));
    } else {
        add(out, format_args!("{words:<status$}  "));
    }
    if domain.domid.is_some() {
        add(out, format_args!("{:>9.1}", domain.cpu_seconds));
    } else {
        out.push_str("        -");
    }
}

/// The word for where a domain rests or what is being done to it, and whether it answers.
pub(crate) fn state(domain: &Seen) -> String {
    let word = domain.status.op.map_or(domain.status.state.as_str(), kxl_domain::Op::as_str);
    match domain.answering {
        Answering::Resting | Answering::Yes => match (domain.status.state, domain.reason) {
            (State::Shutdown, Some(reason)) => format!("{word} ({reason})"),
            _ => word.to_owned(),
        },
        Answering::No(_) => format!("{word} (not answering)"),
        Answering::NoMonitor => format!("{word} (no monitor)"),
        Answering::Lost => "lost".to_owned(),
    }
}

fn tint(domain: &Seen) -> &'static str {
    match (domain.answering, domain.status.state) {
        (Answering::No(_) | Answering::NoMonitor | Answering::Lost, _) | (_, State::Failed) => RED,
        (_, State::Running) => GREEN,
        (_, State::Paused | State::Shutdown | State::Asleep) => YELLOW,
        (_, State::Halted | State::Suspended | State::Absent) => DIM,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use kxl_domain::state::Status;
    use kxl_domain::supervision::Record;
    use kxl_domain::{DomId, DomainName, Op, Reason, Wanted};
    use kxl_store::ListRow;

    use super::*;

    /// A domain as it may be seen; number 0 makes a resting one.
    pub(crate) fn seen(name: &str, domid: u32, state: State) -> Seen {
        let domid = Some(DomId(domid)).filter(|domid| domid.0 > 0);
        let row = ListRow {
            uuid: format!("8d5dbf3a-0000-4000-8000-{:012}", domid.map_or(0, |d| d.0))
                .parse()
                .unwrap(),
            name: DomainName::new(name).unwrap(),
            domid,
            managed: true,
            backend: "qemu".into(),
            memory_mib: 256,
            vcpus: 2,
            wanted: if state == State::Running { Wanted::Running } else { Wanted::Halted },
            state,
            reason: None,
            detail: String::new(),
            op: None,
            process: None,
            started_ms: domid.map(|_| 1_000),
            supervision: Record::assumed(),
        };
        Seen {
            status: Status { state, op: None },
            reason: None,
            domid,
            answering: if domid.is_some() { Answering::Yes } else { Answering::Resting },
            monitor: None,
            cpu_seconds: if domid.is_some() { 7.64 } else { 0.0 },
            on_cpu: false,
            memory_mib: 256,
            vcpus: 2,
            row,
        }
    }

    fn some() -> Vec<Seen> {
        let mut starting = seen("starting", 4, State::Halted);
        starting.status.op = Some(Op::Starting);
        let mut hung = seen("hung", 2, State::Running);
        hung.answering = Answering::No("its emulator is stopped by a signal");
        let mut orphan = seen("orphan", 3, State::Paused);
        orphan.answering = Answering::NoMonitor;
        let mut kept = seen("kept", 5, State::Shutdown);
        kept.reason = Some(Reason::Crash);
        let mut off = seen("a-guest-with-a-long-name", 0, State::Halted);
        off.reason = Some(Reason::Poweroff);
        vec![seen("web", 1, State::Running), hung, orphan, starting, kept, off]
    }

    #[test]
    fn the_table_shows_resting_domains_and_those_that_do_not_answer() {
        insta::assert_snapshot!(render(&some(), Width::Normal, false));
    }

    #[test]
    fn the_wide_table_adds_uuid_backend_reason_and_wish() {
        insta::assert_snapshot!(render(&some(), Width::Wide, false));
    }

    #[test]
    fn colour_changes_nothing_but_the_colour() {
        let mut plain = render(&some(), Width::Normal, true);
        for code in [RED, GREEN, YELLOW, DIM, PLAIN] {
            plain = plain.replace(code, "");
        }
        assert_eq!(plain, render(&some(), Width::Normal, false));
    }
}
