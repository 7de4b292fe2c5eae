//! The commands: one row each.

#![allow(clippy::needless_pass_by_value, reason = "every handler owns its arguments")]

mod devices;
mod fds;
mod machine;
mod migration;
mod parts;
mod query;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use kxl_qmp::server::{CAPABILITIES, ErrorClass};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::control::{Control, Outcome, Refusal};
use fds::Fds;
pub(super) use migration::Migrations;
use parts::Parts;

/// What outlives a command, and the connection that gave it.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Descriptors with a name or a number.
    pub(super) named: Fds,
    /// Files and taps that devices can be made of.
    pub(super) parts: Parts,
    /// How saves are made.
    pub(super) migrations: Migrations,
}

/// What a command works on.
pub(super) struct Context<'a> {
    pub(super) control: &'a mut dyn Control,
    pub(super) state: &'a mut State,
    /// Descriptors that came along.
    pub(super) fds: &'a mut VecDeque<OwnedFd>,
}

/// Arguments as they came.
type Given = Map<String, Value>;

/// A row of the table.
pub(super) struct Command {
    name: &'static str,
    pub(super) run: fn(&mut Context<'_>, Given) -> Outcome<Value>,
}

/// A command whose arguments are `A`.
macro_rules! row {
    ($name:literal, $function:path) => {
        Command { name: $name, run: |context, given| $function(context, arguments(given)?) }
    };
}

/// Every command, by name. `qmp_capabilities` is the connection's own.
const TABLE: &[Command] = &[
    row!("add-fd", fds::add_fd),
    row!("balloon", machine::balloon),
    row!("blockdev-add", devices::blockdev_add),
    row!("blockdev-del", devices::blockdev_del),
    row!("closefd", fds::closefd),
    row!("cont", machine::cont),
    row!("device_add", devices::device_add),
    row!("device_del", devices::device_del),
    row!("getfd", fds::getfd),
    row!("migrate", migration::migrate),
    row!("migrate-continue", migration::migrate_continue),
    row!("migrate-incoming", migration::migrate_incoming),
    row!("migrate-set-capabilities", migration::set_capabilities),
    row!("migrate-set-parameters", migration::set_parameters),
    row!("migrate_cancel", migration::migrate_cancel),
    row!("netdev_add", devices::netdev_add),
    row!("netdev_del", devices::netdev_del),
    row!("query-balloon", query::balloon),
    row!("query-block", query::block),
    row!("query-commands", query::commands),
    row!("query-cpus-fast", query::cpus),
    row!("query-events", query::events),
    row!("query-fdsets", fds::query_fdsets),
    row!("query-hotpluggable-cpus", query::hotpluggable_cpus),
    row!("query-kvm", query::kvm),
    row!("query-memory-size-summary", query::memory_size),
    row!("query-migrate", migration::query),
    row!("query-migrate-capabilities", migration::query_capabilities),
    row!("query-migrate-parameters", migration::query_parameters),
    row!("query-name", query::name),
    row!("query-named-block-nodes", query::block_nodes),
    row!("query-status", query::status),
    row!("query-target", query::target),
    row!("query-uuid", query::uuid),
    row!("query-version", query::version),
    row!("quit", machine::quit),
    row!("remove-fd", fds::remove_fd),
    row!("set-action", machine::set_action),
    row!("stop", machine::stop),
    row!("system_powerdown", machine::powerdown),
    row!("system_reset", machine::reset),
];

/// The command of this name.
pub(super) fn find(name: &str) -> Option<&'static Command> {
    TABLE.iter().find(|command| command.name == name)
}

/// The refusal of a command that does not exist.
pub(super) fn unknown(name: &str) -> Refusal {
    let text = format!("there is no command '{name}'; query-commands lists those there are");
    Refusal { class: ErrorClass::CommandNotFound, text }
}

/// The names of all commands.
fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|command| command.name).chain([CAPABILITIES])
}

fn arguments<A: DeserializeOwned>(given: Given) -> Outcome<A> {
    serde_json::from_value(Value::Object(given)).map_err(|error| Refusal::new(error.to_string()))
}

/// For commands that take no arguments.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// What a command returns that has nothing to return.
fn done() -> Outcome<Value> {
    Ok(json!({}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_has_no_name_twice() {
        assert!(TABLE.is_sorted_by(|one, other| one.name < other.name));
    }
}
