//! What a program that has ended left running.

use std::fs;
use std::path::Path;

use kxl_backend::process::{Identity, RunState, Stat, boot_id};
use kxl_backend::{Attachments, Process, children};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getsid};

use super::lifeline::{self, LIFELINE_FD};
use super::{detached, freezer};

/// All processes of the host.
fn pids() -> impl Iterator<Item = i32> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|dir| dir.file_name().to_str()?.parse().ok())
}

/// The others of the session that a program leads.
pub(super) fn fellows(leader: i32) -> Vec<Process> {
    let session = |pid: i32| getsid(Some(Pid::from_raw(pid))).ok().map(Pid::as_raw);
    let of = |pid: &i32| *pid != leader && session(*pid) == Some(leader);
    pids().filter(of).filter_map(|pid| Identity::of(pid).and_then(Process::open).ok()).collect()
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

/// Everything alive in this control group.
fn members(group: &Path) -> Vec<Identity> {
    let list = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let pids = list.lines().filter_map(|line| line.trim().parse().ok());
    pids.filter_map(|pid| Identity::of(pid).ok().filter(Identity::alive)).collect()
}

/// Everything alive that has inherited this pipe, as far as we may look at it. The number of a pipe
/// is not used again, as that of a terminal is within a moment.
fn heirs(pipe: &str) -> Vec<Identity> {
    let pipe = format!("pipe:[{pipe}]");
    let has = |pid: &i32| {
        let inherited = fs::read_link(format!("/proc/{pid}/fd/{LIFELINE_FD}"));
        inherited.is_ok_and(|found| found.as_os_str() == pipe.as_str())
    };
    let living = |pid| Identity::of(pid).ok().filter(Identity::alive);
    pids().filter(has).filter_map(living).collect()
}

/// What the processes of a start are known by. None of it is lost with their parents; a program may
/// lose its environment and close what it inherits, and can hardly leave its group.
#[derive(Debug)]
pub(super) struct Traces<'a> {
    mark: &'a str,
    group: Option<&'a Path>,
    pipe: Option<&'a str>,
    /// What is older is of an earlier start.
    since: u64,
}

impl<'a> Traces<'a> {
    /// By what was written down; `None` for a program that stays its monitor's child.
    pub(super) fn of(attachments: &'a Attachments) -> Option<Self> {
        let note = |key: &str| attachments.notes.get(key).map(String::as_str);
        let (mark, group) = (note(detached::NOTE)?, note(freezer::NOTE).map(Path::new));
        let since = note(detached::FIRST).and_then(|first| first.split_once(' ')?.1.parse().ok());
        let since = since.unwrap_or_default();
        Some(Self { mark, group, pipe: note(lifeline::NOTE), since })
    }

    /// What lives of it.
    pub(super) fn living(&self) -> Vec<Identity> {
        let mut found = marked(self.mark);
        found.extend(self.group.map(members).unwrap_or_default());
        found.extend(self.pipe.map(heirs).unwrap_or_default());
        found.retain(|identity| identity.start_time >= self.since);
        found
    }

    /// What lives of it when its emulator has ended.
    pub(super) fn of_ended(mark: &'a str, group: Option<&'a Path>) -> Self {
        Self { mark, group, pipe: None, since: 0 }
    }
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
