//! A program on a terminal of its own, as a person has it: with a keyboard, a screen, and signals
//! from the keys.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::wait;

/// The key that interrupts.
pub(crate) const INTERRUPT: &str = "\u{3}";
/// The key that ends the input.
pub(crate) const END: &str = "\u{4}";
/// The key that completes.
pub(crate) const TAB: &str = "\t";
/// The key that brings the line before.
pub(crate) const UP: &str = "\u{1b}[A";
/// The key that enters a line.
pub(crate) const ENTER: &str = "\r";

/// A program on a terminal; it is ended when this is dropped.
pub(crate) struct Terminal {
    child: Child,
    keyboard: File,
    /// The program's side, kept so that its settings can be looked at.
    pub(crate) slave: OwnedFd,
    screen: Arc<Mutex<Vec<u8>>>,
    read: usize,
}

impl Terminal {
    /// Runs `command` in a session of its own whose terminal is a new one.
    pub(crate) fn run(command: &Command) -> Self {
        let pty = nix::pty::openpty(None, None).unwrap();
        let end = |fd: &OwnedFd| Stdio::from(fd.as_fd().try_clone_to_owned().unwrap());
        // setsid(1) makes the terminal the controlling one and becomes the program.
        let mut outer = Command::new("setsid");
        outer.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => outer.env(key, value),
                None => outer.env_remove(key),
            };
        }
        outer.env("TERM", "xterm");
        outer.stdin(end(&pty.slave)).stdout(end(&pty.slave)).stderr(end(&pty.slave));
        let child = outer.spawn().unwrap();
        drop(outer);
        let keyboard = File::from(pty.master.try_clone().unwrap());
        let screen = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&screen);
        let mut output = File::from(pty.master);
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut chunk) {
                shared.lock().unwrap().extend(&chunk[..count]);
            }
        });
        Self { child, keyboard, slave: pty.slave, screen, read: 0 }
    }

    /// Everything shown so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    /// Types.
    pub(crate) fn keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for `text` behind what was expected before; what is shown up to it.
    pub(crate) fn expect(&mut self, text: &str) -> String {
        let end = Instant::now() + wait::SOON;
        loop {
            {
                let screen = self.screen.lock().unwrap();
                let rest = &screen[self.read..];
                let at = rest.windows(text.len()).position(|shown| shown == text.as_bytes());
                if let Some(at) = at {
                    let before = String::from_utf8_lossy(&rest[..at]).into_owned();
                    self.read += at + text.len();
                    return before;
                }
            }
            assert!(Instant::now() < end, "{text:?} is not shown: {:?}", self.text());
            // The program brings it about, so there is nothing of ours to wait on.
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Waits until the program has ended; its exit status.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        wait::until("the program ends", wait::SOON, || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
