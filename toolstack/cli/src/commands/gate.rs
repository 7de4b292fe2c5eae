//! `kxl gate`.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;

use kxl_backend::spawn::{Command, spawn};
use kxl_domain::{Failure, Kind};
use kxl_engine::Host;

use super::Exit;
use crate::args::{Gate, GateVerb};
use crate::gate::{password, server};
use crate::{out, report};

/// Environment that a gate in the background keeps.
const ENV: &[&str] =
    &["KXL_ROOT", "KXL_CONF", "KXL_LIBEXEC", "KXL_BOOT_ID", "KXL_VMM", "HOME", "PATH"];

/// Lets others than root use some of kxl's commands.
pub(crate) fn gate(args: &Gate) -> Exit {
    match &args.verb {
        GateVerb::Serve { foreground } => serve(*foreground),
        GateVerb::Password => {
            let hash = password::hash(&password::new()?)?;
            out::print(&format!("control_password_hash = \"{hash}\"\n"))?;
            Ok(0)
        }
    }
}

fn serve(foreground: bool) -> Exit {
    let host = Host::open()?;
    host.paths
        .prepare()
        .map_err(|error| Failure::because(Kind::Failed, "cannot use this host's places", &error))?;
    if let Some(listener) = server::inherited() {
        server::serve(&listener, host.paths)?;
        return Ok(0);
    }
    let listener = server::listen(&host.paths)?;
    let path = host.paths.gate_socket();
    if !foreground {
        let pid = in_background(&host, listener).map_err(|error| {
            Failure::because(Kind::Failed, "cannot leave the gate in the background", &error)
        })?;
        report::note(&format!("process {pid} serves the gate {}", path.display()));
        return Ok(0);
    }
    let served = server::serve(&listener, host.paths);
    // While it is still ours: the next gate may listen from the moment on that we do not.
    let _gone = std::fs::remove_file(&path);
    served.map(|()| 0)
}

/// Starts the gate anew in a session of its own, with the socket for its standard input.
fn in_background(host: &Host, listener: UnixListener) -> std::io::Result<i32> {
    let null: OwnedFd = File::options().read(true).write(true).open("/dev/null")?.into();
    let log = host.paths.log_dir().join("gate.log");
    let log: OwnedFd = File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(log)?
        .into();
    let mut command = Command::new(&std::env::current_exe()?)?;
    command.arg("gate")?.arg("serve")?;
    command.fd(listener.into(), 0).fd(null, 1).fd(log, 2).clear_env();
    for key in ENV {
        if let Some(value) = std::env::var_os(key) {
            let mut entry = std::ffi::OsString::from(key);
            entry.push("=");
            entry.push(value);
            command.env(entry)?;
        }
    }
    let process = spawn(command)?.open()?;
    Ok(process.identity().pid)
}
