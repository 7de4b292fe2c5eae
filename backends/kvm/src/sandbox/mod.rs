//! What the process and its threads are kept from doing.
//!
//! A guest that breaks out of the machine finds itself in a process that has no privileges, sees
//! no file, reaches no network and may make few system calls. [`confine_process`] does this in an
//! order that matters, once every file is open and before any thread exists:
//!
//! 1. `no_new_privs`, without which nobody but root may do the rest;
//! 2. an empty network namespace of its own, where landlock cannot close the host's network and the
//!    privileges allow one (it costs half a millisecond): taps and sockets stay those of the
//!    namespace they were opened in;
//! 3. limits of resources;
//! 4. a user of its own and no capabilities;
//! 5. landlock: no file but those below the directories for hot-plugged files, and the sockets'
//!    directories only to remove the sockets;
//! 6. seccomp, once for the process and once more, tighter, for every thread by its kind.
//!
//! The filters know the calls of glibc and of musl. What differs: glibc has `clone3` (refused as
//! unknown, as the flags behind its pointer cannot be looked at; it then takes `clone`), `rseq`,
//! `set_robust_list` and an allocator whose further arenas would read a file of the kernel's when
//! they shrink (there are none: see `system::single_arena`); musl opens files by `open` and has
//! further flags at `clone`, which are not among those that are looked at.

mod files;
mod filter;
mod ioctls;
mod rules;
#[allow(unsafe_code, reason = "prctl, capset, unshare and their like have no safe form")]
mod system;
#[allow(unsafe_code, reason = "a signal handler")]
mod trap;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::OnceLock;

use thiserror::Error;

use crate::config::{Config, RunAs};
use crate::thread::Kind;
use filter::Filters;

/// The landlock that closes TCP, since its fourth level, and abstract sockets and signals to what is
/// outside, since its sixth (Linux 6.12). No thread may make a socket in any case.
const CLOSES_NETWORK: i64 = 6;

/// Descriptors a process may have: every device that fits in, its event descriptors and the
/// clients of its sockets, twice over.
const FILES: u64 = 1024;

/// Why a process could not be confined. It must not run a guest then.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// The first step failed.
    #[error("cannot give up the gain of privileges")]
    NoNewPrivs(#[source] io::Error),
    /// No network of its own, for another reason than a lack of privileges.
    #[error("cannot leave the network of the host")]
    Network(#[source] io::Error),
    /// A limit was not accepted.
    #[error("cannot limit the {what} of the process")]
    Limit {
        /// Of what.
        what: &'static str,
        /// The system's refusal.
        #[source]
        source: io::Error,
    },
    /// Another user was asked for.
    #[error("cannot become user {uid} and group {gid}: only root can")]
    Become {
        /// The user.
        uid: u32,
        /// Its group.
        gid: u32,
        /// The system's refusal.
        #[source]
        source: io::Error,
    },
    /// Some capability stays.
    #[error("cannot drop the capabilities of the process")]
    Capabilities(#[source] io::Error),
    /// A directory that was named cannot be opened.
    #[error("cannot open the directory {} for the sandbox", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: landlock::PathFdError,
    },
    /// Landlock exists and refuses.
    #[error("cannot confine the process to its directories")]
    Landlock(#[source] landlock::RulesetError),
    /// A filter of system calls is not accepted.
    #[error("cannot filter the system calls of the process")]
    Install(#[source] seccompiler::Error),
    /// Nobody would learn which call a thread died of.
    #[error("cannot watch for forbidden system calls")]
    Trap(#[source] io::Error),
}

/// The filters of this process; none where it is not confined.
static FILTERS: OnceLock<Filters> = OnceLock::new();

/// Confines the process as its configuration says, and its main thread for good. Every file that
/// the configuration names has been opened, and no thread has been made.
///
/// The filter of the main thread holds for the whole process, as a thread inherits it: it allows
/// what any kind of thread needs.
///
/// # Errors
/// Any [`SandboxError`]; the process is then confined in part and must end.
pub fn confine_process(config: &Config) -> Result<(), SandboxError> {
    if !config.sandbox {
        say("THE SANDBOX IS OFF: a guest that breaks out has all rights of this process");
        return Ok(());
    }
    let directories = files::Directories::open(config)?;
    system::no_new_privs().map_err(SandboxError::NoNewPrivs)?;
    if system::landlock_level() < CLOSES_NETWORK {
        system::leave_network().map_err(SandboxError::Network)?;
    }
    limit()?;
    become_nobody(config.run_as)?;
    if let Some(lack) = directories.restrict()? {
        say(&format!("WARNING: {lack}"));
    }
    system::single_arena();
    trap::install().map_err(SandboxError::Trap)?;
    let filters = FILTERS.get_or_init(|| Filters::new(std::process::id()));
    seccompiler::apply_filter(&filters.main).map_err(SandboxError::Install)
}

/// Confines the calling thread to what its kind needs, in a process that is confined. A process
/// with a thread that cannot be confined ends.
pub(crate) fn confine_thread(kind: Kind) {
    let Some(filters) = FILTERS.get() else { return };
    let (thread, filter) = match kind {
        Kind::Vcpu => ("vcpu", &filters.vcpu),
        Kind::Device => ("device", &filters.device),
        Kind::Save => ("save", &filters.save),
    };
    if let Err(error) = seccompiler::apply_filter(filter) {
        say(&format!("cannot filter the system calls of a {thread} thread: {error}"));
        std::process::abort();
    }
}

/// Sizes of files are not limited, as they would be those of disks; nor is the number of
/// processes, which the kernel counts by user and not by machine: the filters allow none.
fn limit() -> Result<(), SandboxError> {
    let lower = |what, resource, most| {
        system::limit(resource, most).map_err(|source| SandboxError::Limit { what, source })
    };
    // Guest memory is nothing to be found in a core file.
    lower("core size", libc::RLIMIT_CORE, 0)?;
    lower("open files", libc::RLIMIT_NOFILE, FILES)
}

fn become_nobody(user: Option<RunAs>) -> Result<(), SandboxError> {
    // Needs a capability itself, so it comes before the others go.
    system::empty_bounding_set().map_err(SandboxError::Capabilities)?;
    if let Some(RunAs { uid, gid }) = user {
        system::become_user(uid, gid).map_err(|source| SandboxError::Become {
            uid,
            gid,
            source,
        })?;
    } else {
        system::clear_groups().map_err(SandboxError::Capabilities)?;
    }
    system::drop_capabilities().map_err(SandboxError::Capabilities)
}

/// A line for whoever reads the process's messages. Nobody there is no reason to stop.
fn say(line: &str) {
    drop(writeln!(io::stderr(), "kxl-vmm: {line}"));
}
