//! `kxl-monitor`: one process beside each live domain. It owns the domain's emulator, console and
//! policy; `kxl` starts it and talks to it over `control.sock`.
//!
//! Its death costs nothing: the emulator goes on, and the next command about the domain starts a
//! new monitor that adopts it. SIGTERM makes it leave in the same way.

mod backends;
mod checking;
mod console;
mod driver;
mod foreground;
mod guest;
mod jobs;
mod listening;
mod logging;
mod progress;
mod ready;
mod server;
mod timing;

use std::process::ExitCode;
use std::time::Duration;

use kxl_domain::{DomainName, DomainUuid, Failure, Kind};
use kxl_engine::{Host, LOCK_FD, Mission, READY_FD, steps};
use kxl_store::DomainLock;

use crate::foreground::Leaving;
use crate::ready::ReadyPipe;

const USAGE: &str = "usage: kxl-monitor --launch|--adopt UUID NAME   (started by kxl)
       kxl-monitor --foreground [--stop] NAME
       kxl-monitor --list-backends
       kxl-monitor --check-image ID | --check-image-file FILE
       kxl-monitor --check-profile FILE
       kxl-monitor --translate FILE
       kxl-monitor --version";

/// How long a monitor waits for its turn at a database: a command that is stopped in the middle of
/// a write must not keep it from its domain.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    steps::arm(steps::Role::Monitor);
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    if let ["--foreground", rest @ ..] = words.as_slice() {
        return foreground::main(rest).unwrap_or_else(|failure| failed(&failure));
    }
    let result = match words.as_slice() {
        ["--launch", uuid, name] => attend(Mission::Launch, uuid, name),
        ["--adopt", uuid, name] => attend(Mission::Adopt, uuid, name),
        ["--list-backends"] => backends::list(),
        ["--check-image", id] => checking::stored(id),
        ["--check-image-file", path] => checking::file(path.as_ref()),
        ["--check-profile", path] => backends::check_profile(path.as_ref()),
        ["--translate", path] => backends::translate(path.as_ref()),
        ["--version"] => {
            say(&format!("kxl-monitor {}", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
        _ => {
            complain(USAGE);
            return ExitCode::from(Kind::Usage.exit_code());
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failed(&failure),
    }
}

fn failed(failure: &Failure) -> ExitCode {
    complain(&format!("kxl-monitor: {failure}"));
    ExitCode::from(failure.kind.exit_code())
}

/// Takes over the inherited lock and ready pipe and attends the domain to its end.
fn attend(mission: Mission, uuid: &str, name: &str) -> Result<(), Failure> {
    let usage = |error| Failure::because(Kind::Usage, "cannot attend a domain", &error);
    let uuid: DomainUuid = uuid.parse().map_err(usage)?;
    let name: DomainName = name.parse().map_err(usage)?;
    let (lock, ready) = ready::inherited(LOCK_FD, READY_FD)?;
    let ready = ReadyPipe::new(ready);
    let opened = Host::open().and_then(|host| match (mission, &host.conf.mistake) {
        (Mission::Launch, Some(mistake)) => Err(mistake.clone()),
        _ => Ok(host),
    });
    let host = match opened {
        Ok(host) => host,
        Err(failure) => {
            ready.failed(&failure);
            return Err(failure);
        }
    };
    logging::to_file(&host.paths.monitor_log(&name));
    if let Err(error) = host.store.set_patience(PATIENCE) {
        tracing::warn!(%error, "waits for the databases are longer than they should be");
    }
    let lock = match DomainLock::inherit(&host.paths, uuid, lock) {
        Ok(lock) => lock,
        Err(error) => {
            let failure = Failure::because(Kind::Internal, "the inherited lock", &error);
            ready.failed(&failure);
            return Err(failure);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because(Kind::Internal, "cannot start", &error))?;
    let local = tokio::task::LocalSet::new();
    let leaving = Leaving::Silently;
    local.block_on(&runtime, driver::attend(host, lock, uuid, mission, ready, leaving)).map(drop)
}

#[allow(clippy::print_stdout, reason = "the answer to a command line option")]
fn say(text: &str) {
    println!("{text}");
}

#[allow(clippy::print_stderr, reason = "nobody but the person who started it by hand reads this")]
fn complain(text: &str) {
    eprintln!("{text}");
}
