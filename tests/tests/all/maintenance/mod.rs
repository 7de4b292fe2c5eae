//! Emptying and filling a host, through the real binaries.

mod fault;
mod qemu;
mod save;
mod start;
mod systemd;
mod xendomains;

use serde_json::Value;

use crate::support::Output;

/// The events that a command told with `--json`.
fn events(output: &Output) -> Vec<Value> {
    output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The names of the domains that were begun, in that order.
fn begun(output: &Output) -> Vec<String> {
    let begin = |event: &Value| (event["event"] == "begin").then(|| event["name"].to_string());
    events(output).iter().filter_map(begin).map(|name| name.replace('"', "")).collect()
}

/// What the summary says became of a domain.
fn outcome(output: &Output, name: &str) -> Value {
    let events = events(output);
    let summary = events.last().unwrap_or_else(|| panic!("{output}"));
    assert_eq!(summary["event"], "summary", "{output}");
    let domains = summary["domains"].as_array().unwrap();
    domains.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("{output}")).clone()
}
