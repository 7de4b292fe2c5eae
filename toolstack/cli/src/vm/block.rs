//! All about one emulator.

use std::path::Path;

use kxl_backend::plain;
use kxl_domain::charon::{ConsoleLine, NicFinding, ServiceState};

use super::guest_status::Response;
use super::roster::{Entry, Interface};
use super::{console_log, screen};
use crate::text::add;
use crate::view::{tame, when};

/// How much of a pre-start script is shown, and how much is read for that.
const LINES: usize = 3;
const MOST: u64 = 4096;

/// The lines about an entry, with what its guest has answered.
pub(super) fn render(entry: &Entry, response: Option<&Response>, now_ms: i64) -> String {
    let mut out = String::new();
    let star = if entry.is_default { " *" } else { "" };
    add(&mut out, format_args!("\n{}{star}\n", entry.seen.row.name));
    // Much of it are words of the emulator's own configuration, which others may write.
    let mut put = |key: &str, value: &str| {
        let value = tame::line(value);
        add(&mut out, format_args!("{}\n", format!("  {key:<22} {value}").trim_end()));
    };
    let number = |n: Option<u64>| n.map_or("-".to_owned(), |n| n.to_string());
    put("Emulator", &entry.emulator());
    put("Configuration file", &path(entry.file()));
    put("CPU", &number(entry.cpus().map(u64::from)));
    put("Memory (MiB)", &number(entry.memory_mib()));
    put("State", &screen::state(entry, now_ms));
    if let Some(why) = why(entry) {
        put("Because", &why);
    }
    put("Model", entry.model().unwrap_or("-"));
    put("Description", entry.config.description.as_deref().unwrap_or("-"));
    put("Start on boot", if entry.autostart { "YES" } else { "NO" });
    put("Stop script", &entry.stop_script());
    if let Some(script) = &entry.config.scripts.prestart {
        put("Pre-start script", &script.display().to_string());
        for line in first_lines(script) {
            put("", &format!("| {line}"));
        }
    }
    if let Some((key, moment)) = moments(entry) {
        put(key, &when::moment(moment));
    }
    put("OOM protection", &oom(entry.oom_score()));
    if entry.config.scripts.guest_status.is_some() {
        let told = response.map_or("-".to_owned(), ToString::to_string);
        put("Guest OS response", &told);
    }
    put("Console port", &console(entry));
    let log = entry.log();
    put("Log file", &path(log.as_deref()));
    if let Some(log) = log.filter(|_| entry.state == ServiceState::Active) {
        for (at, line) in console_log::licence(&log).iter().enumerate() {
            put(if at == 0 { "Licence" } else { "" }, line);
        }
    }
    let nics: Vec<String> = entry.nics.iter().map(nic).collect();
    put("Network interfaces", &if nics.is_empty() { "-".to_owned() } else { nics.join(", ") });
    out
}

fn path(path: Option<&Path>) -> String {
    path.map_or("-".to_owned(), |path| path.display().to_string())
}

/// Why a failed one has failed, or why nothing is known of one.
fn why(entry: &Entry) -> Option<String> {
    if let Some(why) = &entry.unread {
        return Some(why.clone());
    }
    if entry.state != ServiceState::Failed {
        return None;
    }
    let record = &entry.seen.row.supervision;
    let detail = Some(entry.seen.row.detail.clone());
    let why = record.stop_failed.clone().or_else(|| record.why.clone()).or(detail);
    why.filter(|why| !why.is_empty())
}

/// When it was started, or when it ended.
pub(super) fn moments(entry: &Entry) -> Option<(&'static str, i64)> {
    if entry.seen.domid.is_some() {
        return entry.seen.row.started_ms.map(|ms| ("Started", ms));
    }
    entry.seen.row.supervision.ended_ms.map(|ms| ("Stopped", ms))
}

fn oom(score: i32) -> String {
    match score {
        -1000 => "YES (never picked)".to_owned(),
        score if score < 0 => format!("YES ({score})"),
        _ => "NO".to_owned(),
    }
}

fn console(entry: &Entry) -> String {
    match entry.facts.as_ref().map(|facts| &facts.console) {
        Some(ConsoleLine::Port(port)) => port.to_string(),
        Some(ConsoleLine::Physical(device)) => format!("- (serial line {device})"),
        Some(ConsoleLine::None) | None => "-".to_owned(),
    }
}

fn nic(nic: &Interface) -> String {
    let numbers: String = nic.findings.iter().map(|f| format!(" ({})", f.number())).collect();
    let other = nic.also.as_ref().map(|name| format!(", also that of {name}, which is off"));
    format!("{}{numbers}{}", nic.name, other.unwrap_or_default())
}

/// What the numbers behind interfaces mean, where there are any.
pub(super) fn legend(entries: &[Entry]) -> Option<String> {
    let found = |finding: &NicFinding| {
        entries.iter().flat_map(|entry| &entry.nics).any(|nic| nic.findings.contains(finding))
    };
    let told: Vec<String> = NicFinding::ALL
        .into_iter()
        .filter(found)
        .map(|finding| format!("({}) {finding}", finding.number()))
        .collect();
    (!told.is_empty()).then(|| format!("\nNetwork interfaces: {}\n", told.join(", ")))
}

/// The first lines of a script, without what starts its interpreter being anything special.
pub(super) fn first_lines(script: &Path) -> Vec<String> {
    let bytes = match plain::head(script, MOST) {
        Ok(bytes) => bytes,
        Err(error) => return vec![format!("(it cannot be read: {error})")],
    };
    let text = String::from_utf8_lossy(&bytes);
    text.lines().take(LINES).map(|line| tame::line(line).trim_end().to_owned()).collect()
}
