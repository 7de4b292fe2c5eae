//! A terminal in raw mode, and its way back in every case.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::Mutex;

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// The settings to go back to, where a panic finds them as well: a release build aborts without
/// running destructors.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Standard input in raw mode, until this is dropped.
#[derive(Debug)]
pub(crate) struct Raw(());

impl Raw {
    /// Changes standard input to raw mode; `None` when it is no terminal.
    ///
    /// # Errors
    /// When the terminal refuses.
    pub(crate) fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(stdin.as_fd())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        if let Ok(mut slot) = BEFORE.lock() {
            *slot = Some(before);
        }
        let default_hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            default_hook(info);
        }));
        // What was typed ahead, by a script for one, is for the console.
        tcsetattr(stdin.as_fd(), SetArg::TCSADRAIN, &raw)?;
        Ok(Some(Self(())))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back as it was found; does nothing when it is.
fn restore() {
    if let Some(before) = BEFORE.try_lock().ok().and_then(|mut slot| slot.take()) {
        // A terminal that has hung up needs no restoring.
        let _ = tcsetattr(io::stdin().as_fd(), SetArg::TCSADRAIN, &before);
    }
}
