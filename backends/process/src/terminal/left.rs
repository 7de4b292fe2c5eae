//! What a program that has ended left running.

use std::fs;

use kxl_backend::children;
use kxl_backend::process::{Identity, RunState, Stat, boot_id};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getsid};

use super::detached;

/// All processes of the host.
fn pids() -> impl Iterator<Item = i32> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|dir| dir.file_name().to_str()?.parse().ok())
}

/// The values of the mark in the environment of a process, as far as we may look at it.
fn marks(pid: i32) -> Vec<Vec<u8>> {
    let name = format!("{}=", detached::ENTRY).into_bytes();
    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let entries = environ.split(|byte| *byte == 0);
    entries.filter_map(|entry| Some(entry.strip_prefix(name.as_slice())?.to_vec())).collect()
}

/// Everything alive that has this mark.
pub(super) fn marked(mark: &str) -> Vec<Identity> {
    let has = |pid: &i32| marks(*pid).iter().any(|own| own == mark.as_bytes());
    let living = |pid| Identity::of(pid).ok().filter(Identity::alive);
    pids().filter(has).filter_map(living).collect()
}

/// A child that came to us when its parent ended.
#[derive(Debug)]
pub(super) struct Orphan {
    pub(super) identity: Identity,
    /// It has ended and waits to be reaped.
    pub(super) dead: bool,
}

impl Orphan {
    /// Reaps one that has ended; nothing else.
    pub(super) fn reap(&self) {
        if self.dead {
            let pid = Pid::from_raw(self.identity.pid);
            let _reaped_by_somebody_else = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        }
    }
}

/// Children of ours that we have not made, no older than `first` and of no other start: what it has
/// left, whatever that has done to its environment.
pub(super) fn orphans(first: &Identity, mark: &str) -> Vec<Orphan> {
    let us = i32::try_from(std::process::id()).unwrap_or_default();
    let (Ok(session), Ok(boot)) = (getsid(None), boot_id()) else { return Vec::new() };
    let of = |pid: i32| {
        let Stat { ppid, start_time, state, .. } = Stat::read(pid).ok()?;
        let came = ppid == us
            && pid != first.pid
            && start_time >= first.start_time
            && !children::is_own(pid, start_time)
            // An emulator is started in a session of its own; what helps ourselves stays in ours.
            && getsid(Some(Pid::from_raw(pid))).is_ok_and(|own| own != session)
            && marks(pid).iter().all(|own| own == mark.as_bytes());
        let identity = Identity { pid, start_time, boot_id: boot.to_owned() };
        came.then_some(Orphan { identity, dead: state == RunState::Dead })
    };
    pids().filter_map(of).collect()
}
