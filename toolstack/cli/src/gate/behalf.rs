//! The child of the gate: kxl at work for somebody who came through it.

use std::env;

use kxl_domain::Failure;
use kxl_engine::Host;
use kxl_store::{Event, Severity};
use nix::sys::signal::SigSet;
use rustix::process::{Signal, set_parent_process_death_signal};

use super::allowed;

/// Says for whom; the gate sets it.
pub(super) const VARIABLE: &str = "KXL_ON_BEHALF";

/// Whether, and for whom, this process works for somebody else.
pub(crate) fn who() -> Option<String> {
    env::var_os(VARIABLE).map(|who| who.to_string_lossy().into_owned())
}

/// Makes sure that this process may do what its command line says, and writes down who asked for
/// it. The gate has looked at the words as well; what counts is what this very program makes of
/// them.
///
/// # Errors
/// A refusal.
pub(crate) fn admit(who: &str) -> Result<(), Failure> {
    // The gate reads its own signals from a descriptor, and what it blocks for that is inherited.
    // None of this is what keeps a caller out: where it cannot be had, it is done without.
    let _ = SigSet::empty().thread_set_mask();
    let _ = set_parent_process_death_signal(Some(Signal::INT));
    let words: Vec<String> =
        env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let passed = allowed::check(&words)?;
    if !passed.looks {
        note(who, &words, &passed.names);
    }
    Ok(())
}

/// An event for each domain that is named, or one of the host. A full disk keeps nobody from a
/// domain.
fn note(who: &str, words: &[String], names: &[String]) {
    let Ok(host) = Host::open() else { return };
    let text = format!("{who}: {}", words.join(" "));
    let event = || Event::new(Severity::Info, "gate-command").text(text.clone());
    let mut events = Vec::new();
    for name in names {
        if let Ok(Some(row)) = host.store.find(name) {
            events.push(event().of(row.uuid, &row.name, row.domid));
        }
    }
    if events.is_empty() {
        events.push(event());
    }
    for event in events {
        if let Err(error) = host.store.event(&event) {
            tracing::warn!(%error, "event not recorded");
        }
    }
}
