//! What `vmlist --json` prints. Members are added, never renamed or removed.

use serde_json::{Value, json};

use super::guest_status::Response;
use super::roster::Entry;
use super::{block, console_log};
use crate::facts::HostFacts;
use crate::view::when;
use kxl_domain::charon::{NicFinding, ServiceState};

/// The whole screen.
pub(super) fn screen(
    server: &HostFacts,
    entries: &[Entry],
    responses: &[Option<Response>],
) -> Value {
    let now = i64::try_from(crate::facts::now_ms()).unwrap_or(i64::MAX);
    let domains: Vec<_> =
        entries.iter().zip(responses).map(|(one, response)| entry(one, response, now)).collect();
    json!({
        "server": {
            "host": server.host,
            "booted": when::moment(server.booted.saturating_mul(1000)),
            "uptime_seconds": server.uptime_seconds,
            "cpus": server.cpus,
            "memory_mib": server.memory_mib,
            "memory_free_mib": server.available_mib,
        },
        "domains": domains,
    })
}

fn entry(entry: &Entry, response: &Option<Response>, now_ms: i64) -> Value {
    let row = &entry.seen.row;
    let log = entry.log();
    let active = entry.state == ServiceState::Active;
    let licence = log.as_deref().filter(|_| active).map(console_log::licence).unwrap_or_default();
    let nics: Vec<_> = entry
        .nics
        .iter()
        .map(|nic| {
            let numbers: Vec<u8> = nic.findings.iter().map(|f| NicFinding::number(*f)).collect();
            json!({ "interface": nic.name, "findings": numbers, "also_of": nic.also })
        })
        .collect();
    let prestart = entry
        .config
        .scripts
        .prestart
        .as_ref()
        .map(|script| json!({ "path": script, "first_lines": block::first_lines(script) }));
    json!({
        "name": row.name.as_str(),
        "uuid": row.uuid.to_string(),
        "is_default": entry.is_default,
        "emulator": entry.emulator(),
        "configuration_file": entry.file(),
        "cpus": entry.cpus(),
        "memory_mib": entry.memory_mib(),
        "state": entry.state.as_str(),
        "unreadable": entry.unread,
        "uptime_seconds": row.started_ms.filter(|_| active).map(|since| (now_ms - since).max(0) / 1000),
        "model": entry.model(),
        "description": entry.config.description,
        "start_on_boot": entry.autostart,
        "stop_script": entry.stop_script(),
        "prestart_script": prestart,
        "started": row.started_ms.filter(|_| entry.seen.domid.is_some()).map(when::moment),
        "stopped": row.supervision.ended_ms.filter(|_| entry.seen.domid.is_none()).map(when::moment),
        "oom_score_adj": entry.oom_score(),
        "guest_os_response": response.as_ref().map(ToString::to_string),
        "console_port": entry.console_port(),
        "log_file": log,
        "licence": licence,
        "network_interfaces": nics,
    })
}
