//! The processes of one `KXL_ROOT`, as `/proc` shows them.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use kxl_backend::Identity;
use kxl_backend::process::{Process, RunState, Stat};
use nix::sys::signal::Signal;

/// What a process is in a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// `kxl` and its other names.
    Command,
    /// `kxl-monitor`.
    Monitor,
    /// Whatever runs a guest.
    Emulator,
}

/// A process that lives.
#[derive(Clone, Debug)]
pub(crate) struct Proc {
    pub(crate) role: Role,
    pub(crate) identity: Identity,
    pub(crate) args: Vec<String>,
}

impl Proc {
    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.identity.pid
    }

    /// Sends a signal; a process that is gone already is none to worry about.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Ok(process) = Process::open(self.identity.clone()) {
            drop(process.signal(signal));
        }
    }

    /// Kills it and waits until it is gone.
    pub(crate) fn kill(&self) {
        self.signal(Signal::SIGKILL);
        super::wait::eventually("a killed process goes", || !self.alive());
    }

    /// Whether it lives.
    pub(crate) fn alive(&self) -> bool {
        self.identity.alive()
    }

    /// What `/proc/PID/stat` tells.
    pub(crate) fn stat(&self) -> Stat {
        Stat::read(self.pid()).unwrap()
    }

    /// What its descriptors point at: number and target.
    pub(crate) fn fds(&self) -> Vec<(i32, String)> {
        let dir = fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap();
        let mut fds: Vec<_> = dir
            .flatten()
            .filter_map(|entry| {
                let number = entry.file_name().to_str()?.parse().ok()?;
                let target = fs::read_link(entry.path()).ok()?;
                Some((number, target.to_string_lossy().into_owned()))
            })
            .collect();
        fds.sort();
        fds
    }
}

/// Every living process of the host at `root`, but for this one: its environment names the root,
/// its command line does, it holds a file below it, or its parent is such a monitor. Of emulators
/// that show none of this and have lost their monitor, `known` tells.
pub(crate) fn of_root(root: &Path, known: &[Identity]) -> Vec<Proc> {
    let own = i32::try_from(std::process::id()).unwrap();
    let this = fs::read_link("/proc/self/exe").unwrap();
    let mut found: Vec<Proc> = Vec::new();
    let mut others = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // A command of another test that has not come to its exec: it still holds copies of the
        // descriptors of every test, and is none of this host's.
        if pid == own || fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe == this) {
            continue;
        }
        if belongs(&entry.path(), root) {
            found.extend(look(pid));
        } else {
            others.push(pid);
        }
    }
    let monitors: Vec<i32> =
        found.iter().filter(|one| one.role == Role::Monitor).map(Proc::pid).collect();
    let ours = |pid: &i32| {
        known.iter().any(|one| one.pid == *pid && one.alive())
            || Stat::read(*pid).is_ok_and(|stat| monitors.contains(&stat.ppid))
    };
    found.extend(others.into_iter().filter(ours).filter_map(look));
    for process in &mut found {
        // A program that is to start paused stands stopped before its exec, and looks like its
        // parent; a monitor that another one has started does not stand.
        let waits = Stat::read(process.pid())
            .is_ok_and(|stat| stat.state == RunState::Stopped && monitors.contains(&stat.ppid));
        if waits {
            process.role = Role::Emulator;
        }
    }
    found
}

fn look(pid: i32) -> Option<Proc> {
    let identity = Identity::of(pid).ok()?;
    if Stat::read(pid).ok()?.state == RunState::Dead {
        return None;
    }
    let args: Vec<String> = fs::read(format!("/proc/{pid}/cmdline"))
        .ok()?
        .split(|byte| *byte == 0)
        .map(|arg| String::from_utf8_lossy(arg).into_owned())
        .collect();
    let program = Path::new(args.first()?).file_name()?.to_string_lossy().into_owned();
    let role = match program.as_str() {
        "kxl" | "xl" | "xm" | "xen" => Role::Command,
        "kxl-monitor" => Role::Monitor,
        _ => Role::Emulator,
    };
    Some(Proc { role, identity, args })
}

fn belongs(proc: &Path, root: &Path) -> bool {
    let below = [root.as_os_str().as_bytes(), b"/"].concat();
    let exact = [b"KXL_ROOT=", root.as_os_str().as_bytes()].concat();
    let environ = fs::read(proc.join("environ")).unwrap_or_default();
    let cmdline = fs::read(proc.join("cmdline")).unwrap_or_default();
    environ.split(|byte| *byte == 0).any(|entry| entry == exact)
        || cmdline.split(|byte| *byte == 0).any(|arg| arg.starts_with(&below))
        || holds(proc, root)
}

fn holds(proc: &Path, root: &Path) -> bool {
    let Ok(fds) = fs::read_dir(proc.join("fd")) else { return false };
    fds.flatten().any(|fd| {
        fs::read_link(fd.path()).is_ok_and(|target| {
            // A removed file keeps its path, with a word behind it.
            let bytes = target.into_os_string().into_vec();
            PathBuf::from(OsString::from_vec(bytes)).starts_with(root)
        })
    })
}
