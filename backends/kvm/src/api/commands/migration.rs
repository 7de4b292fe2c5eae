//! Saving a state, and loading one. By QEMU's words, which call both migration.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Context, Nothing, done};
use crate::api::control::{Migrate, Migration, MigrationStatus, Outcome, Place, Refusal};
use crate::memory::PAGE;

/// The longest time that a guest may be told to stand still, in milliseconds; QEMU's.
const MOST_DOWNTIME: u64 = 2_000_000;

/// How saves are made.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::api) struct Migrations {
    /// Tell of them by events.
    pub(in crate::api) events: bool,
    /// Wait for `migrate-continue` when the guest stands still.
    pub(in crate::api) pause: bool,
}

impl Migrations {
    fn list(self) -> [(&'static str, bool); 2] {
        [("events", self.events), ("pause-before-switchover", self.pause)]
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Order {
    uri: String,
    /// Nobody waits for the end either way.
    #[serde(rename = "detach")]
    _detach: Option<bool>,
    #[serde(default)]
    blk: bool,
    #[serde(default)]
    inc: bool,
    #[serde(default)]
    resume: bool,
}

pub(super) fn migrate(context: &mut Context<'_>, order: Order) -> Outcome<Value> {
    if order.blk || order.inc || order.resume {
        return Err(Refusal::new("'blk', 'inc' and 'resume': disks are no part of a state"));
    }
    if !context.control.migration().status.over() {
        return Err(Refusal::new("a save is in flight; migrate_cancel gives it up"));
    }
    let (to, offset) = place(context, &order.uri, true)?;
    let pause_before_switchover = context.state.migrations.pause;
    context.control.migrate(Migrate { to, offset, pause_before_switchover })?;
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct From {
    uri: String,
}

pub(super) fn migrate_incoming(context: &mut Context<'_>, from: From) -> Outcome<Value> {
    let (place, offset) = place(context, &from.uri, false)?;
    context.control.incoming(place, offset)?;
    done()
}

/// What a uri names: `fd:NAME`, or `file:PATH` with or without `,offset=BYTES`.
fn place(context: &mut Context<'_>, uri: &str, write: bool) -> Outcome<(Place, u64)> {
    if let Some(name) = uri.strip_prefix("fd:") {
        return Ok((Place::Fd(context.state.named.take(name)?), 0));
    }
    let Some(file) = uri.strip_prefix("file:") else {
        return Err(Refusal::new(format!("'{uri}': a state is at file:PATH or fd:NAME")));
    };
    let (path, offset) = match file.rsplit_once(",offset=") {
        None => (file, 0),
        Some((path, text)) => (path, bytes(text)?),
    };
    if path.is_empty() {
        return Err(Refusal::new("file: names no file"));
    }
    Ok((context.state.named.open(path, write)?, offset))
}

fn bytes(text: &str) -> Outcome<u64> {
    let number = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    number.map_err(|_| Refusal::new(format!("offset '{text}' is no number of bytes")))
}

pub(super) fn migrate_cancel(context: &mut Context<'_>, _: Nothing) -> Outcome<Value> {
    context.control.cancel_migration();
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Continue {
    state: String,
}

pub(super) fn migrate_continue(context: &mut Context<'_>, from: Continue) -> Outcome<Value> {
    let waits = context.control.migration().status.as_str();
    if from.state != waits || from.state != MigrationStatus::PreSwitchover.as_str() {
        let text = format!("the save does not wait at '{}', it is at '{waits}'", from.state);
        return Err(Refusal::new(text));
    }
    context.control.continue_migration()?;
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Capabilities {
    capabilities: Vec<Capability>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Capability {
    capability: String,
    state: bool,
}

pub(super) fn set_capabilities(context: &mut Context<'_>, wanted: Capabilities) -> Outcome<Value> {
    let mut migrations = context.state.migrations;
    for Capability { capability, state } in wanted.capabilities {
        match (capability.as_str(), state) {
            ("events", _) => migrations.events = state,
            ("pause-before-switchover", _) => migrations.pause = state,
            // It is off.
            ("background-snapshot", false) => {}
            _ => {
                let text = format!("capability '{capability}' is not to be had here");
                return Err(Refusal::new(text));
            }
        }
    }
    if !context.control.migration().status.over() {
        return Err(Refusal::new("a save is in flight; its capabilities stay as they are"));
    }
    context.state.migrations = migrations;
    done()
}

pub(super) fn query_capabilities(context: &mut Context<'_>, _: Nothing) -> Outcome<Value> {
    let list = context.state.migrations.list();
    let capability = |(name, state)| json!({"capability": name, "state": state});
    Ok(list.into_iter().map(capability).collect())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Parameters {
    downtime_limit: Option<u64>,
    max_bandwidth: Option<u64>,
}

pub(super) fn set_parameters(context: &mut Context<'_>, wanted: Parameters) -> Outcome<Value> {
    let mut limits = context.control.limits();
    if let Some(downtime) = wanted.downtime_limit {
        if downtime > MOST_DOWNTIME {
            let text = format!("'downtime-limit' is at most {MOST_DOWNTIME} milliseconds");
            return Err(Refusal::new(text));
        }
        limits.downtime_ms = downtime;
    }
    limits.bandwidth = wanted.max_bandwidth.unwrap_or(limits.bandwidth);
    context.control.limit_migration(limits);
    done()
}

pub(super) fn query_parameters(context: &mut Context<'_>, _: Nothing) -> Outcome<Value> {
    let limits = context.control.limits();
    Ok(json!({"downtime-limit": limits.downtime_ms, "max-bandwidth": limits.bandwidth}))
}

pub(super) fn query(context: &mut Context<'_>, _: Nothing) -> Outcome<Value> {
    let migration = context.control.migration();
    let mut answer = json!({"status": migration.status.as_str()});
    if let Some(error) = &migration.error {
        answer["error-desc"] = error.as_str().into();
    }
    if migration.status != MigrationStatus::None {
        answer["total-time"] = migration.total_ms.into();
        answer["ram"] = ram(&migration);
    }
    if let Some(downtime) = migration.downtime_ms {
        answer["downtime"] = downtime.into();
    }
    Ok(answer)
}

fn ram(migration: &Migration) -> Value {
    json!({
        "total": migration.total,
        "transferred": migration.transferred,
        "remaining": migration.remaining,
        "duplicate": migration.zero_pages,
        "normal": migration.normal_pages,
        "normal-bytes": migration.normal_pages.saturating_mul(PAGE as u64),
        "skipped": 0,
        "dirty-sync-count": migration.passes,
        "page-size": PAGE,
    })
}
