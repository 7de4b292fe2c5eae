//! A scope of its own for a monitor and everything that it starts, where systemd runs the host.
//!
//! Without one they would belong to the session or service whose command has started them, and end
//! with it: at a logout, when an agent is stopped, or while the host goes down and its domains are
//! still being saved. A scope is ordered before kxl-domains.service, so that it is stopped only
//! after that service has saved what is in it.
//!
//! It is asked for at the manager's own socket, which needs no message bus. Best effort: a domain
//! starts wherever it is.

mod wire;

#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kxl_domain::DomainName;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, socket};
use nix::unistd::geteuid;
use thiserror::Error;

use wire::{Body, Kind, Message, read_line, read_message};

/// How long the manager may take: one that reads its units anew answers nobody meanwhile.
const DEADLINE: Duration = Duration::from_secs(5);

/// There where systemd is process 1.
const BOOTED: &str = "/run/systemd/system";

/// The service that saves domains when the host stops.
const SAVER: &str = "kxl-domains.service";

/// What has to be there for a domain until its scope is gone.
const GROUND: [&str; 3] = ["local-fs.target", "remote-fs.target", "network.target"];

/// The slice that systemd has for virtual machines.
const SLICE: &str = "machine.slice";

const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// Number of our one call.
const SERIAL: u32 = 1;

/// Why a process has no scope.
#[derive(Debug, Error)]
enum Unplaced {
    #[error("the service manager at {} cannot be reached", path.display())]
    Unreached { path: PathBuf, source: io::Error },
    #[error("the service manager did not answer as it should")]
    Answer(#[source] io::Error),
    #[error("the service manager does not let us in: {0:?}")]
    Shut(String),
    #[error("the service manager refuses {unit}: {error}: {text}")]
    Refused { unit: String, error: String, text: String },
    #[error("the service manager gave {unit} up: {result}")]
    GivenUp { unit: String, result: String },
}

/// Puts a process that is not yet at work into a scope of its own. Blocks, for 5 s at most.
pub(crate) fn place(pid: i32, name: &DomainName) {
    if !Path::new(BOOTED).is_dir() {
        return;
    }
    let Some(manager) = Manager::own() else { return };
    match manager.place(pid, name) {
        Ok(unit) => tracing::debug!(%name, unit, "the monitor has a scope"),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(%name, %error, cause, "the monitor stays where this command is");
        }
    }
}

/// A service manager: that of the host, or that of a user.
#[derive(Debug)]
struct Manager {
    socket: PathBuf,
    of_host: bool,
}

impl Manager {
    /// The one that we may ask; `None` where a user has none.
    fn own() -> Option<Self> {
        if geteuid().is_root() {
            return Some(Self { socket: "/run/systemd/private".into(), of_host: true });
        }
        let runtime = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
        let socket = runtime.join("systemd/private");
        socket.exists().then_some(Self { socket, of_host: false })
    }

    /// Makes the scope and waits until the process is in it. Gives its name.
    fn place(&self, pid: i32, name: &DomainName) -> Result<String, Unplaced> {
        let until = Instant::now() + DEADLINE;
        let unit = unit(name, pid);
        let unreached = |source| Unplaced::Unreached { path: self.socket.clone(), source };
        let mut stream = connect(&self.socket).map_err(unreached)?;
        stream.set_write_timeout(Some(DEADLINE)).map_err(unreached)?;
        stream.write_all(&self.request(&unit, pid, name)).map_err(unreached)?;
        let line = read_line(&mut stream, until).map_err(Unplaced::Answer)?;
        if !line.starts_with("OK ") {
            return Err(Unplaced::Shut(line));
        }
        // The manager tells of every job; ours is over when the process has moved.
        loop {
            let message = read_message(&mut stream, until).map_err(Unplaced::Answer)?;
            match message.kind {
                Kind::Error if message.answers(SERIAL) => {
                    let error = message.error.clone().unwrap_or_default();
                    let text = message.first_text().unwrap_or_default();
                    return Err(Unplaced::Refused { unit, error, text });
                }
                Kind::Signal if message.member.as_deref() == Some("JobRemoved") => {
                    match removed(&message) {
                        Some((other, _)) if other != unit => {}
                        Some((_, result)) if result == "done" => return Ok(unit),
                        Some((_, result)) => return Err(Unplaced::GivenUp { unit, result }),
                        None => {}
                    }
                }
                _ => {}
            }
        }
    }

    /// The greeting of a connection and the call in one.
    fn request(&self, unit: &str, pid: i32, name: &DomainName) -> Vec<u8> {
        let user: String =
            geteuid().to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
        let mut bytes = format!("\0AUTH EXTERNAL {user}\r\nBEGIN\r\n").into_bytes();
        let mut body = Body::default();
        body.text(unit);
        body.text("fail");
        body.array(8, |all| {
            all.property("Description", "s", |value| value.text(&format!("Domain {name}")));
            all.property("PIDs", "au", |value| {
                value.array(4, |pids| pids.number(pid.unsigned_abs()));
            });
            // Nothing is left of it when it is over, however that was.
            all.property("CollectMode", "s", |value| value.text("inactive-or-failed"));
            // An emulator that runs out of memory is the monitor's business: without this, later
            // versions stop the scope.
            all.property("DelegateControllers", "as", |value| value.array(4, |_| {}));
            if self.of_host {
                all.property("Slice", "s", |value| value.text(SLICE));
                all.property("Before", "as", |value| value.array(4, |units| units.text(SAVER)));
                all.property("After", "as", |value| {
                    value.array(4, |units| GROUND.iter().for_each(|unit| units.text(unit)));
                });
            }
        });
        // No units beside it.
        body.array(8, |_| {});
        let signature = "ssa(sv)a(sa(sv))";
        let path = "/org/freedesktop/systemd1";
        bytes.extend(wire::call(SERIAL, path, MANAGER, "StartTransientUnit", signature, &body));
        bytes
    }
}

/// A connection, at once or not at all: a manager that hangs takes none, and is not waited for.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// The unit and the result in the word that a job is over.
fn removed(message: &Message) -> Option<(String, String)> {
    let mut body = message.body();
    body.number().ok()?;
    body.text().ok()?;
    Some((body.text().ok()?, body.text().ok()?))
}

/// The scope's name. A monitor that takes a domain up has another one than its predecessor, in
/// whose scope the emulator still is.
fn unit(name: &DomainName, pid: i32) -> String {
    // The one character of names that units do not have.
    format!("kxl-{}-{pid}.scope", name.as_str().replace('+', "\\x2b"))
}
