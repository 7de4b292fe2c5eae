//! Starting a monitor and handing it the domain's lock.
//!
//! The monitor gets a session of its own, `/dev/null` for its standard streams and exactly two
//! further descriptors: the locked lock file on [`LOCK_FD`] (the same open file description, so
//! the lock never drops) and the write end of a ready pipe on [`READY_FD`]. Nothing of the
//! caller's is kept open: `out=$(kxl create …)` returns.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kxl_backend::Process;
use kxl_backend::spawn::{Command, spawn};
use kxl_control::{Moved, Ready, Word};
use kxl_domain::{DomainName, DomainUuid, Failure, Kind};
use kxl_store::DomainLock;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::scope;

/// Number of the inherited lock in the monitor.
pub const LOCK_FD: i32 = 3;

/// Number of the ready pipe in the monitor.
pub const READY_FD: i32 = 4;

/// Environment that a monitor inherits: where things are, how much it logs, what tests ask for.
pub(crate) const ENV: &[&str] = &[
    "KXL_ROOT",
    "KXL_CONF",
    "KXL_LOG",
    "KXL_FAULT",
    "KXL_BOOT_ID",
    "KXL_LIBEXEC",
    "HOME",
    "XDG_CONFIG_HOME",
    "XDG_STATE_HOME",
    "XDG_CACHE_HOME",
    "XDG_RUNTIME_DIR",
    "PATH",
];

/// What a new monitor does first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mission {
    /// Launch the emulator of a claimed row.
    Launch,
    /// Take up what an earlier monitor left.
    Adopt,
}

impl Mission {
    /// The monitor's command line word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Launch => "--launch",
            Self::Adopt => "--adopt",
        }
    }
}

/// The monitor program: `$KXL_LIBEXEC`, beside this program, or `../libexec/kxl` from it.
///
/// # Errors
/// [`Kind::Internal`] naming the places that were tried.
pub fn monitor_program() -> Result<PathBuf, Failure> {
    const NAME: &str = "kxl-monitor";
    let mut tried = Vec::new();
    if let Some(dir) = std::env::var_os("KXL_LIBEXEC") {
        tried.push(PathBuf::from(dir).join(NAME));
    }
    let exe = std::env::current_exe().ok().and_then(|exe| exe.canonicalize().ok());
    if let Some(dir) = exe.as_deref().and_then(std::path::Path::parent) {
        tried.push(dir.join(NAME));
        tried.push(dir.join("../libexec/kxl").join(NAME));
    }
    tried.iter().find(|path| path.is_file()).cloned().ok_or_else(|| {
        let places: Vec<_> = tried.iter().map(|path| path.display().to_string()).collect();
        Failure::new(Kind::Internal, format!("{NAME} is not in {}", places.join(", ")))
            .hint("reinstall kxl, or set KXL_LIBEXEC to the directory that holds it")
    })
}

/// A monitor on its way up.
#[derive(Debug)]
pub(crate) struct Rising {
    ready: OwnedFd,
    process: Process,
    name: DomainName,
}

/// Starts a monitor that owns `lock` from now on.
///
/// # Errors
/// When the program is missing or cannot be started; the lock is released then.
pub(crate) fn start_monitor(
    lock: DomainLock,
    uuid: DomainUuid,
    name: &DomainName,
    mission: Mission,
) -> Result<Rising, Failure> {
    let program = monitor_program()?;
    let failed = |error: &std::io::Error| {
        Failure::because(Kind::Failed, format!("cannot start {}", program.display()), error)
    };
    let build = || -> std::io::Result<(OwnedFd, Process)> {
        let (ready, theirs) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let null: OwnedFd = File::options().read(true).write(true).open("/dev/null")?.into();
        let mut command = Command::new(&program)?;
        command.arg(mission.as_str())?.arg(uuid.to_string())?.arg(name.as_str())?;
        command.fd(null.try_clone()?, 0).fd(null.try_clone()?, 1).fd(null, 2);
        command.fd(lock.into(), LOCK_FD).fd(theirs, READY_FD);
        command.clear_env();
        for key in ENV {
            if let Some(value) = std::env::var_os(key) {
                let mut entry = std::ffi::OsString::from(key);
                entry.push("=");
                entry.push(value);
                command.env(entry)?;
            }
        }
        // Recorded by its own hand: the row names the emulator, the lock stands for the monitor.
        let gated = spawn(command)?;
        scope::place(gated.identity().pid, name);
        Ok((ready, gated.open()?))
    };
    let (ready, process) = build().map_err(|error| failed(&error))?;
    Ok(Rising { ready, process, name: name.clone() })
}

impl Rising {
    /// The monitor itself, for a parent that stays and has to reap it.
    pub(crate) fn into_process(self) -> Process {
        self.process
    }

    /// Waits for the monitor's last word; `moved` hears what it says before.
    ///
    /// The monitor goes on when the wait ends early: a start is not undone by a client that left.
    ///
    /// # Errors
    /// [`Kind::TimedOut`] after `deadline` without a word, [`Kind::Failed`] when the monitor died.
    pub(crate) fn wait(
        self,
        deadline: Duration,
        mut moved: impl FnMut(Moved),
    ) -> Result<Ready, Failure> {
        let mut until = Instant::now().checked_add(deadline);
        let mut pipe = File::from(self.ready);
        let mut heard = Vec::new();
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            // Rounded up: the last millisecond is waited for, not cut off.
            let timeout = left.map_or(PollTimeout::NONE, |left| {
                PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX)
            });
            let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) if left.is_some_and(|left| left.is_zero()) => {
                    return Err(self::late(&self.name, deadline));
                }
                Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
                Ok(_) => {}
                Err(error) => {
                    return Err(Failure::because(Kind::Internal, "cannot wait", &error));
                }
            }
            let mut chunk = [0u8; 4096];
            match pipe.read(&mut chunk) {
                Ok(0) => return Err(died(&self.name)),
                Ok(n) => heard.extend(&chunk[..n]),
                Err(error) => return Err(Failure::because(Kind::Internal, "cannot read", &error)),
            }
            while let Some(end) = heard.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = heard.drain(..=end).collect();
                match word(&line)? {
                    Word::Ready(ready) => return Ok(ready),
                    Word::Moved(step) => {
                        // It is at work: the time runs from its last word.
                        until = Instant::now().checked_add(deadline);
                        moved(step);
                    }
                }
            }
        }
    }
}

fn word(line: &[u8]) -> Result<Word, Failure> {
    serde_json::from_slice(line)
        .map_err(|error| Failure::because(Kind::Internal, "a monitor's first word", &error))
}

fn died(name: &DomainName) -> Failure {
    let text = format!("the monitor of domain \"{name}\" died during its start");
    Failure::new(Kind::Failed, text)
        .hint(format!("kxl why {name}; kxl recover settles what it left"))
}

fn late(name: &DomainName, deadline: Duration) -> Failure {
    let text = format!("domain \"{name}\" is not up after {} s", deadline.as_secs());
    Failure::new(Kind::TimedOut, text)
        .hint(format!("it goes on starting: kxl list {name}; kxl destroy {name} ends it"))
}
