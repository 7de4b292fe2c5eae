//! What `--json` prints about a domain. Members are added, never renamed or removed.

use kxl_domain::DomainConfig;
use kxl_engine::{Answering, Seen};
use serde::Serialize;

/// A domain.
#[derive(Debug, Serialize)]
pub(crate) struct Domain<'a> {
    name: &'a str,
    uuid: String,
    domid: Option<u32>,
    managed: bool,
    /// Resting state.
    state: &'static str,
    /// Operation in flight.
    operation: Option<&'static str>,
    reason: Option<&'static str>,
    detail: Option<&'a str>,
    wanted: &'static str,
    backend: &'a str,
    memory_mib: u64,
    vcpus: u32,
    /// Whether monitor and emulator answer; null for a resting domain.
    answering: Option<bool>,
    /// Why not.
    silent_because: Option<&'static str>,
    cpu_seconds: Option<f64>,
    started_ms: Option<i64>,
    pid: Option<i32>,
    monitor_pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<&'a DomainConfig>,
}

/// The domain for JSON; with its configuration where that is wanted.
pub(crate) fn domain<'a>(seen: &'a Seen, config: Option<&'a DomainConfig>) -> Domain<'a> {
    let live = seen.domid.is_some();
    let (answering, silent_because) = match seen.answering {
        Answering::Resting => (None, None),
        Answering::Yes => (Some(true), None),
        Answering::No(why) => (Some(false), Some(why)),
        Answering::NoMonitor => (Some(false), Some("it has no monitor")),
        Answering::Lost => (Some(false), Some("its monitor and its emulator are gone")),
    };
    Domain {
        name: seen.row.name.as_str(),
        uuid: seen.row.uuid.to_string(),
        domid: seen.domid.map(|domid| domid.0),
        managed: seen.row.managed,
        state: seen.status.state.as_str(),
        operation: seen.status.op.map(kxl_domain::Op::as_str),
        reason: seen.reason.map(kxl_domain::Reason::as_str),
        detail: Some(seen.row.detail.as_str()).filter(|text| !text.is_empty()),
        wanted: seen.row.wanted.as_str(),
        backend: &seen.row.backend,
        memory_mib: seen.memory_mib,
        vcpus: seen.vcpus,
        answering,
        silent_because,
        cpu_seconds: live.then_some(seen.cpu_seconds),
        started_ms: seen.row.started_ms,
        pid: seen.row.process.as_ref().map(|process| process.pid),
        monitor_pid: seen.monitor,
        config,
    }
}

#[cfg(test)]
mod tests {
    use kxl_domain::State;

    use super::*;
    use crate::view::table::tests::seen;

    #[test]
    fn a_domain_in_json_keeps_its_members() {
        let mut hung = seen("hung", 2, State::Running);
        hung.answering = Answering::No("its emulator is stopped by a signal");
        hung.monitor = Some(4712);
        insta::assert_snapshot!(serde_json::to_string_pretty(&domain(&hung, None)).unwrap());
    }

    #[test]
    fn a_resting_domain_has_neither_number_nor_time() {
        let value = serde_json::to_value(domain(&seen("off", 0, State::Halted), None)).unwrap();
        for key in ["domid", "answering", "cpu_seconds", "pid"] {
            assert!(value[key].is_null(), "{key}");
        }
    }
}
