//! Each command of the shell is a process of its own: what fails, panics or is interrupted in one
//! is over with it.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use kxl_domain::{Failure, Kind};
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};

/// How the shell's commands are run.
#[derive(Debug)]
pub(crate) struct Runner {
    program: PathBuf,
    env: Vec<(&'static str, OsString)>,
    /// A terminal is read: commands may read it too, and it is put right after them.
    terminal: bool,
}

impl Runner {
    /// Runs this very program, with `env` in addition to what is there.
    ///
    /// # Errors
    /// When the program cannot be told.
    pub(crate) fn new(env: Vec<(&'static str, OsString)>, terminal: bool) -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(|e| {
            Failure::because(Kind::Internal, "cannot tell which program this is", &e)
        })?;
        Ok(Self { program, env, terminal })
    }

    fn command(&self, words: &[String]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg0("kxl").args(words);
        for (key, value) in &self.env {
            command.env(key, value);
        }
        if !self.terminal {
            // What stands there are the shell's next lines.
            command.stdin(Stdio::null());
        }
        command
    }

    /// Runs one command to its end; its exit status, as a shell tells it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn run(&self, words: &[String]) -> Result<u8, Failure> {
        let terminal = if self.terminal { tcgetattr(io::stdin().as_fd()).ok() } else { None };
        let status = self.command(words).status();
        put_right(terminal.as_ref());
        status.map(code).map_err(|e| failed(&e))
    }

    /// Runs one command and takes what it prints; `None` when it fails.
    pub(crate) fn capture(&self, words: &[String], quiet: bool) -> Result<Option<String>, Failure> {
        let mut command = self.command(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(if quiet { Stdio::null() } else { Stdio::inherit() });
        let output = command.spawn().and_then(|child| child.wait_with_output());
        let output = output.map_err(|e| failed(&e))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(output.status.success().then_some(text))
    }
}

fn failed(error: &io::Error) -> Failure {
    Failure::because(Kind::Failed, "cannot run the command", error)
}

/// The status as a shell has it: 128 and the number of the signal that ended it.
fn code(status: ExitStatus) -> u8 {
    let number = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    number.and_then(|number| u8::try_from(number).ok()).unwrap_or(Kind::Internal.exit_code())
}

/// A command that was killed may have left the terminal raw.
fn put_right(before: Option<&Termios>) {
    if let Some(before) = before {
        // A terminal that has hung up needs no restoring.
        let _ = tcsetattr(io::stdin().as_fd(), SetArg::TCSADRAIN, before);
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::Signal;

    use super::*;

    #[test]
    fn a_status_is_told_as_a_shell_tells_it() {
        assert_eq!(code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(code(ExitStatus::from_raw(Signal::SIGINT as i32)), 130);
    }
}
