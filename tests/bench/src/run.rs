//! Running commands and taking their time.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use crate::error::BenchError;
use crate::interrupt;

/// One command that succeeded.
#[derive(Debug)]
pub(crate) struct Run {
    /// From before the fork to after the wait, output read.
    pub(crate) wall: Duration,
    /// User and system time of the command and of what it waited for. Not meaningful while another
    /// thread runs commands.
    pub(crate) cpu: Duration,
    /// Its standard output.
    pub(crate) stdout: String,
}

/// Runs a command to its end with nothing to read.
///
/// # Errors
/// When it cannot be started or does not succeed, or somebody wants the measuring to end.
pub(crate) fn timed(command: &mut Command) -> Result<Run, BenchError> {
    interrupt::check()?;
    unchecked(command)
}

/// The same while everything is being ended.
///
/// # Errors
/// When it cannot be started or does not succeed.
pub(crate) fn unchecked(command: &mut Command) -> Result<Run, BenchError> {
    command.stdin(Stdio::null());
    let failed = |attempt: String, source| BenchError::Io { attempt, source };
    let before = cpu_of_children()?;
    let start = Instant::now();
    let output = command
        .output()
        .map_err(|error| failed(format!("run {}", command.get_program().display()), error))?;
    let wall = start.elapsed();
    let cpu = cpu_of_children()?.saturating_sub(before);
    if !output.status.success() {
        return Err(BenchError::Command {
            line: line(command),
            status: output.status.to_string(),
            text: String::from_utf8_lossy(&output.stderr).trim_end().to_owned(),
        });
    }
    Ok(Run { wall, cpu, stdout: String::from_utf8_lossy(&output.stdout).into_owned() })
}

/// The command line for people, without what makes it endless.
fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().take(4).map(|arg| arg.to_string_lossy().into_owned()));
    if command.get_args().len() > 4 {
        words.push("...".into());
    }
    words.join(" ")
}

fn cpu_of_children() -> Result<Duration, BenchError> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).map_err(BenchError::os("ask for CPU time"))?;
    Ok(duration(usage.user_time()) + duration(usage.system_time()))
}

fn duration(time: TimeVal) -> Duration {
    let part = |number: i64| u64::try_from(number).unwrap_or(0);
    Duration::from_secs(part(time.tv_sec())) + Duration::from_micros(part(time.tv_usec()))
}
