//! The stand-in for an emulator: a process with a control socket, a console socket and a guest
//! that ends in every way a guest can. Started by the library in this crate, never by hand.
//!
//! It reads no files and waits in poll(2) without a timeout unless its script asked for one, so
//! that a thousand of them cost no CPU.

mod machine;
mod wire;

#[allow(unsafe_code, reason = "the numbers of inherited descriptors become owners once")]
mod inherited {
    use std::os::fd::OwnedFd;

    use kxl_mock::protocol::{CONSOLE_FD, CONTROL_FD};

    /// The control and the console listener. To be called once.
    pub(super) fn listeners() -> (OwnedFd, OwnedFd) {
        // SAFETY: the library starts this program with listeners under these two numbers, and
        // nothing else here has opened anything yet.
        unsafe {
            (kxl_backend::spawn::inherited(CONTROL_FD), kxl_backend::spawn::inherited(CONSOLE_FD))
        }
    }
}

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use kxl_mock::protocol::{CONSOLE_FD, CONTROL_FD, Request};
use nix::errno::Errno;
use nix::poll::{PollFlags, PollTimeout, poll};

use machine::{Machine, Output};
use wire::Wire;

fn main() -> ExitCode {
    match run() {
        Ok((status, why)) => {
            say(&why);
            ExitCode::from(status)
        }
        Err(error) => {
            say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) {
    // The log is all there is to complain to.
    let _lost = writeln!(std::io::stderr(), "kxl-mock: {text}");
}

fn run() -> std::io::Result<(u8, String)> {
    for fd in [CONTROL_FD, CONSOLE_FD] {
        let target = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
        if !target.to_string_lossy().starts_with("socket:") {
            let why = "started by kxl-monitor for domains with backend = \"mock\", not by hand";
            return Err(std::io::Error::other(why));
        }
    }
    let (control, console) = inherited::listeners();
    let mut emulator = Emulator {
        machine: Machine::new(),
        control: Wire::new(control)?,
        console: Wire::new(console)?,
        half_line: Vec::new(),
        last_words: None,
    };
    loop {
        emulator.turn()?;
        if let Some(last_words) = emulator.last_words {
            return Ok(last_words);
        }
    }
}

struct Emulator {
    machine: Machine,
    control: Wire,
    console: Wire,
    /// The beginning of a request whose end has not come yet.
    half_line: Vec<u8>,
    last_words: Option<(u8, String)>,
}

impl Emulator {
    /// Waits for one thing to happen and deals with it.
    fn turn(&mut self) -> std::io::Result<()> {
        let listens = self.machine.listens();
        let [a, b] = self.control.polled(true);
        let [c, d] = self.console.polled(listens);
        let mut polled = [a, b, c, d];
        match poll(&mut polled, timeout(self.machine.next_due())) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let seen = polled.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let hung_up = PollFlags::POLLHUP | PollFlags::POLLERR;
        if seen[1].intersects(PollFlags::POLLIN | hung_up) {
            let bytes = self.control.read();
            self.requests(&bytes)?;
        }
        if seen[3].intersects(PollFlags::POLLIN) && listens {
            let bytes = self.console.read();
            let out = self.machine.input(&bytes, Instant::now());
            self.put(out)?;
        } else if seen[3].intersects(hung_up) {
            // What was typed before stays unread: the guest stands still.
            self.console.drop_peer();
        }
        if seen[0].intersects(PollFlags::POLLIN) && self.control.accept() {
            self.half_line.clear();
        }
        if seen[2].intersects(PollFlags::POLLIN) {
            self.console.accept();
        }
        self.control.flush();
        self.console.flush();
        let out = self.machine.pass(Instant::now());
        self.put(out)
    }

    fn requests(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.half_line.extend_from_slice(bytes);
        while let Some(end) = self.half_line.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.half_line.drain(..=end).collect();
            match serde_json::from_slice::<Request>(&line) {
                Ok(request) => {
                    let out = self.machine.request(request, Instant::now());
                    self.put(out)?;
                }
                Err(error) => say(&format!("a request that is none: {error}")),
            }
        }
        Ok(())
    }

    fn put(&mut self, out: Output) -> std::io::Result<()> {
        self.console.send(&out.console);
        for message in out.messages {
            let mut line = serde_json::to_vec(&message)?;
            line.push(b'\n');
            self.control.send(&line);
        }
        if self.last_words.is_none() {
            self.last_words = out.exit;
        }
        Ok(())
    }
}

/// Rounded up to whole milliseconds, so that what was waited for is due.
fn timeout(due: Option<Instant>) -> PollTimeout {
    due.map_or(PollTimeout::NONE, |due| {
        let left = due.saturating_duration_since(Instant::now());
        let ms = left.as_micros().div_ceil(1000);
        i32::try_from(ms)
            .ok()
            .and_then(|ms| PollTimeout::try_from(ms).ok())
            .unwrap_or(PollTimeout::MAX)
    })
}
