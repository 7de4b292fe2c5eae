//! The command of a program on a terminal.

use std::fs::File;
use std::os::fd::{OwnedFd, RawFd};

use kxl_backend::spawn::{self, Attributes};
use kxl_backend::{BackendError, LaunchSpec, Result};

use super::lifeline::Lifeline;
use super::own::Own;
use super::streams::{self, Streams};
use super::{MASTER_FD, Plan, detached, pty};
use crate::profile::{ConsoleKind, Profile};
use crate::template::SOCKETS_FD;

/// Puts the command together and opens what the program inherits.
///
/// # Errors
/// [`BackendError::Config`] for a user, directory or file that cannot be had.
pub(super) fn command(
    spec: &LaunchSpec,
    profile: &Profile,
    plan: &Plan,
    own: &Own,
    master: &OwnedFd,
    slave: &OwnedFd,
) -> Result<(spawn::Command, Streams, Lifeline)> {
    let program = plan.program.display().to_string();
    let failed = |error: std::io::Error| BackendError::not_started(&program, &error);
    let mut command = spawn::Command::new(&plan.program).map_err(failed)?;
    for arg in &plan.args {
        command.arg(arg).map_err(failed)?;
    }
    if let Some(directory) = &plan.directory {
        command.dir(directory).map_err(failed)?;
    }
    let attributes = Attributes::of(&spec.config)?;
    if let Some(user) = &attributes.user {
        for (name, value) in [("USER", &user.name), ("LOGNAME", &user.name)] {
            command.env(format!("{name}={value}")).map_err(failed)?;
        }
        command.env(format!("HOME={}", user.home.display())).map_err(failed)?;
        if profile.console.kind != ConsoleKind::Stdio {
            pty::give(slave, user.uid).map_err(failed)?;
        }
    }
    for entry in &plan.env {
        command.env(entry).map_err(failed)?;
    }
    for entry in &spec.config.process.environment {
        command.env(entry).map_err(failed)?;
    }
    if let Some(mark) = &own.mark {
        command.env(detached::entry(mark)).map_err(failed)?;
    }
    let standard = streams::open(spec, &profile.console, slave)?;
    for (fd, number) in standard.fds {
        command.fd(fd, number);
    }
    if profile.templates().any(|template| template.contains("{sockets}")) {
        let directory = File::open(&spec.rundir).map_err(failed)?;
        command.fd(directory.into(), SOCKETS_FD);
    }
    let copy = master.try_clone().map_err(failed)?;
    command.fd(copy, MASTER_FD);
    // What goes into the background is known by it.
    let known = own.mark.is_some() || profile.console.kind.is_own() || standard.streams.any();
    let lifeline =
        if known { Lifeline::make(&mut command).map_err(failed)? } else { Lifeline::None };
    // A program that leaves for the background would take a hang-up with it: the end of whoever
    // leads a terminal's session is one for all in it.
    let leads = profile.console.kind != ConsoleKind::Stdio && own.mark.is_none();
    if let Some(number) = standard.terminal.filter(|_| leads) {
        let number: RawFd = number;
        command.controlling_tty(number);
    }
    command.nofile(spec.config.limits.nofile);
    command.attributes(attributes);
    if let Some(freezer) = &own.freezer {
        command.cgroup(freezer.dir()).map_err(failed)?;
    }
    for group in &spec.cgroups {
        command.cgroup(group).map_err(failed)?;
    }
    Ok((command, standard.streams, lifeline))
}
