//! Standard output: whole texts, written at once.

use std::io::{self, IsTerminal, Write};

use kxl_domain::{Failure, Kind};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, raise, sigprocmask};

/// Writes `text` to standard output.
///
/// A reader that has gone away (`kxl list | head -1`) ends the process the way it ends every
/// other Unix program: by SIGPIPE, without a word. The signal stays ignored until then, so that
/// writing to a monitor that has hung up is an error and not a death.
///
/// # Errors
/// [`Kind::Failed`] when the text cannot be written, for example on a full disk.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// The same for bytes that need not be text.
///
/// # Errors
/// As [`print`].
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            die_of_a_broken_pipe();
            Err(Failure::because(Kind::Failed, "cannot write the output", &error))
        }
        Err(error) => Err(Failure::because(Kind::Failed, "cannot write the output", &error)),
    }
}

/// Prints a JSON document and a newline.
///
/// # Errors
/// As [`print`].
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::because(Kind::Internal, "cannot write JSON", &error))?;
    text.push('\n');
    print(&text)
}

/// Writes `text` to standard error; what cannot be said there cannot be said at all.
pub(crate) fn complain(text: &str) {
    drop(io::stderr().lock().write_all(text.as_bytes()));
}

/// Whether standard output is a terminal that wants colour (<https://no-color.org>).
pub(crate) fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Ends the process as a write that nobody reads does.
pub(crate) fn die_of_a_broken_pipe() {
    if crate::signals::restore_default(Signal::SIGPIPE).is_ok() {
        let mut set = SigSet::empty();
        set.add(Signal::SIGPIPE);
        // Should any of this fail, the caller reports the failed write instead.
        let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&set), None);
        let _ = raise(Signal::SIGPIPE);
    }
}
