//! A console attached through `kxl console`, with pipes for keyboard and screen.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::Host;
use super::wait;

/// The byte that leaves a console.
const ESCAPE: u8 = 0x1d;

/// An attached console; the command is ended when it is dropped.
pub(crate) struct Console {
    child: Child,
    screen: Arc<Mutex<Vec<u8>>>,
    read: usize,
}

impl Console {
    /// Attaches to the console of a domain.
    pub(crate) fn attach(host: &Host, name: &str) -> Self {
        let mut command = host.command("kxl", ["console", name]);
        let errors = OpenOptions::new().create(true).append(true).open(host.complaints()).unwrap();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        let mut child = command.spawn().unwrap();
        let screen = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&screen);
        let mut stdout = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut chunk) {
                shared.lock().unwrap().extend(&chunk[..count]);
            }
        });
        Self { child, screen, read: 0 }
    }

    /// Everything seen so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    /// Types.
    pub(crate) fn send(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    /// Waits for `text` after what was expected before.
    pub(crate) fn expect(&mut self, text: &str) {
        self.expect_within(text, wait::BOOT);
    }

    /// The same with a deadline of its own.
    pub(crate) fn expect_within(&mut self, text: &str, within: Duration) {
        let end = std::time::Instant::now() + within;
        loop {
            {
                let screen = self.screen.lock().unwrap();
                let rest = &screen[self.read..];
                if let Some(at) = find(rest, text.as_bytes()) {
                    self.read += at + text.len();
                    return;
                }
            }
            assert!(
                std::time::Instant::now() < end,
                "{text:?} is not on the console within {within:?}: {:?}",
                self.text()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Runs a command in the guest's shell, which has been entered; its output.
    pub(crate) fn shell(&mut self, command: &str) -> String {
        // What is echoed has quotes in it, what is printed has not. A number of its own: what a
        // viewer is shown of the past has such marks as well.
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        self.send(&format!("echo BEG''IN{number}; {command}; echo EN''D{number}\n"));
        self.expect(&format!("BEGIN{number}\r\n"));
        let from = self.read;
        let end = format!("END{number}\r\n");
        self.expect(&end);
        let to = self.read;
        self.expect("guest# ");
        let said = self.screen.lock().unwrap()[from..to].to_vec();
        let said = String::from_utf8_lossy(&said).replace('\r', "");
        said.trim_end_matches(&end.replace('\r', "")).to_owned()
    }

    /// Enters the shell of the Linux guest.
    pub(crate) fn enter(&mut self) {
        self.expect("READY");
        self.send("s");
        self.expect("guest# ");
    }

    /// Passes over everything seen so far.
    pub(crate) fn skip(&mut self) {
        self.read = self.screen.lock().unwrap().len();
    }

    /// Whether the command still runs.
    pub(crate) fn attached(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until the command has ended by itself; its exit status.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        wait::until("the console ends", wait::SOON, || self.child.try_wait().unwrap()).code()
    }

    /// Leaves by the escape character; the exit status.
    pub(crate) fn leave(mut self) -> Option<i32> {
        self.child.stdin.as_mut().unwrap().write_all(&[ESCAPE]).unwrap();
        self.ended()
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

impl Drop for Console {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
