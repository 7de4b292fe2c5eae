//! The first two parts of the screen: the server, and the table of its emulators.

use kxl_domain::charon::ServiceState;

use super::roster::Entry;
use crate::facts::{self, HostFacts};
use crate::text::add;
use crate::view::{tame, when};

/// What the server is, in lines.
pub(super) fn server(facts: &HostFacts) -> String {
    let booted = when::moment(facts.booted.saturating_mul(1000));
    let mut out = String::new();
    add(&mut out, format_args!("Server       {}\n", facts.host));
    let up = when::span(facts.uptime_seconds);
    add(&mut out, format_args!("Booted       {booted} (up {up})\n"));
    add(&mut out, format_args!("CPUs         {}\n", facts.cpus));
    let (free, all) = (facts.available_mib, facts.memory_mib);
    add(&mut out, format_args!("Memory       {free} MiB free of {all} MiB\n"));
    out
}

/// The state, with how long it has been active.
pub(super) fn state(entry: &Entry, now_ms: i64) -> String {
    let since = entry.seen.row.started_ms.filter(|_| entry.state == ServiceState::Active);
    match since {
        Some(since) => {
            let seconds = u64::try_from((now_ms - since) / 1000).unwrap_or(0);
            format!("{} ({})", entry.state, when::span(seconds))
        }
        None => entry.state.to_string(),
    }
}

/// What is told in columns of an entry.
fn cells(entry: &Entry, now_ms: i64) -> [String; 7] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        if entry.is_default { "*" } else { " " }.to_owned(),
        entry.seen.row.name.to_string(),
        entry.emulator(),
        or_dash(entry.file().map(|file| file.display().to_string())),
        or_dash(entry.cpus().map(|count| count.to_string())),
        or_dash(entry.memory_mib().map(|size| size.to_string())),
        state(entry, now_ms),
    ]
    .map(|cell| tame::line(&cell))
}

const HEADS: [&str; 7] = [" ", "NAME", "EMULATOR", "CONFIGURATION FILE", "CPU", "MEMORY", "STATE"];

/// The columns of numbers, which stand at the right.
const RIGHT: [usize; 2] = [4, 5];

/// The table; as wide as the longest path in it.
pub(super) fn table(entries: &[Entry], now_ms: i64) -> String {
    if entries.is_empty() {
        return "No emulator is registered: kxl new registers one.\n".to_owned();
    }
    let rows: Vec<[String; 7]> = entries.iter().map(|entry| cells(entry, now_ms)).collect();
    lines(&rows)
}

fn lines(rows: &[[String; 7]]) -> String {
    let heads = HEADS.map(str::to_owned);
    let width = |column: usize| {
        let all = std::iter::once(&heads).chain(rows);
        all.map(|row| row[column].chars().count()).max().unwrap_or(0)
    };
    let widths: [usize; 7] = std::array::from_fn(width);
    let mut out = String::new();
    for row in std::iter::once(&heads).chain(rows) {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let gap = if column < 2 { " " } else { "  " };
            let gap = if column == 0 { "" } else { gap };
            if RIGHT.contains(&column) {
                add(&mut line, format_args!("{gap}{cell:>width$}"));
            } else {
                add(&mut line, format_args!("{gap}{cell:<width$}"));
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Now, in the unit of records.
pub(super) fn now_ms() -> i64 {
    i64::try_from(facts::now_ms()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_as_wide_as_its_paths_and_numbers_stand_at_the_right() {
        let row = |cells: [&str; 7]| cells.map(str::to_owned);
        let rows = [
            row([
                "*",
                "es40",
                "/opt/charon/es40",
                "/srv/charon/es40.cfg",
                "4",
                "4096",
                "ACTIVE (3 d 4 h)",
            ]),
            row([" ", "v", "simh", "-", "-", "-", "INACTIVE"]),
        ];
        insta::assert_snapshot!(lines(&rows));
    }

    #[test]
    fn the_server_tells_its_boot_processors_and_memory() {
        let facts = HostFacts {
            host: "alpha1".into(),
            cpus: 8,
            memory_mib: 32_000,
            available_mib: 12_000,
            uptime_seconds: 90_000,
            booted: 1_785_000_000,
            ..HostFacts::default()
        };
        let text = server(&facts);
        assert!(text.contains(&when::moment(1_785_000_000_000)), "{text}");
        assert!(text.contains("(up 1 d 1 h)") && text.contains("CPUs         8\n"), "{text}");
        assert!(text.ends_with("12000 MiB free of 32000 MiB\n"), "{text}");
    }
}
