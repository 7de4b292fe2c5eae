//! `kxl host`: emptying this host for maintenance and filling it again.

pub(crate) mod args;
pub(crate) mod empty;
pub(crate) mod fill;
mod progress;
mod status;
mod summary;

use kxl_engine::maintenance::Remote;
use nix::sys::signal::{SigSet, Signal};

use super::Exit;
use args::{HostArgs, HostCommand};

/// Runs `kxl host`.
pub(crate) fn host(args: HostArgs) -> Exit {
    match args.command {
        HostCommand::Save(args) => empty::save(args),
        HostCommand::Shutdown(args) => empty::shutdown(&args),
        HostCommand::Restore(args) => fill::restore(&args),
        HostCommand::Start(args) => fill::start(&args),
        HostCommand::Status(args) => status::status(&args),
    }
}

/// Makes Ctrl-C, a hang-up and a polite kill interrupt the run instead of this process. Programs
/// that are started from here get their signals back.
fn interrupts(remote: Remote) {
    let set: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    if let Err(error) = set.thread_block() {
        tracing::warn!(%error, "an interruption ends this command at once");
        return;
    }
    // Waits for signals for as long as this process lives.
    std::thread::spawn(move || {
        while set.wait().is_ok() {
            remote.interrupt();
        }
    });
}
