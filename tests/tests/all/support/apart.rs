//! A network and mounts of a test's own: whatever it starts has them as well.

use std::panic::resume_unwind;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::skip;

/// Runs a test apart, with nothing but a loopback interface; skips it where that is refused.
pub(crate) fn apart(name: &str, test: impl FnOnce() + Send + 'static) {
    let own = name.to_owned();
    let thread = std::thread::Builder::new().name(own.clone()).spawn(move || match leave() {
        Ok(()) => test(),
        Err(reason) => skip::skip(&own, &reason),
    });
    if let Err(panic) = thread.unwrap().join() {
        resume_unwind(panic);
    }
}

/// A thread has a network and mounts of its own when it asks for them.
fn leave() -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .map_err(|errno| format!("no network of our own: {errno}"))?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(|errno| format!("no mounts of our own: {errno}"))?;
    // The one of before shows the interfaces of the network of before.
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>)
        .map_err(|errno| format!("no /sys of our own: {errno}"))?;
    ip(&["link", "set", "lo", "up"])
}

/// Runs ip(8).
pub(crate) fn ip(words: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(words).output().map_err(|error| format!("ip: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("ip {words:?}: {said}")) }
}

/// Shows one file in the place of another to this test and what it starts.
pub(crate) fn show_at(file: &Path, place: &str) {
    mount(Some(file), place, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .unwrap_or_else(|errno| panic!("{place}: {errno}"));
}
