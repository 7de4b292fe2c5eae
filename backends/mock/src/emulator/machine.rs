//! The emulated machine: pure, its clock handed in.
//!
//! Ended, it stands still until it is reset or its process is killed, as the other emulators do,
//! so that the way a guest ended outlives the monitor.

mod alarm;

use std::time::{Duration, Instant};

use kxl_domain::{GuestEvent, State};
use kxl_mock::protocol::{Machine as Shape, Message, Notice, Request, Saved, Status, With};
use kxl_mock::script::{Guest, Outcome, Step};

use alarm::Alarm;

/// Longest line of input that is kept; what is longer is cut.
const LINE: usize = 4096;

/// What the outside has to do after a call.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Output {
    /// For the console.
    pub(crate) console: Vec<u8>,
    /// For the control connection.
    pub(crate) messages: Vec<Message>,
    /// The process ends with this status, for this reason.
    pub(crate) exit: Option<(u8, String)>,
}

impl Output {
    fn tell(&mut self, notice: Notice) {
        self.messages.push(Message::Event(notice));
    }
}

/// The machine and its guest.
#[derive(Debug)]
pub(crate) struct Machine {
    shape: Shape,
    /// Absent until launched, then Running, Paused or Shutdown.
    state: State,
    ended: Option<GuestEvent>,
    guest: Guest,
    /// The power button was pressed while the guest stood still.
    pressed: bool,
    /// When the guest executed its first instruction.
    booted: Option<Instant>,
    count: u64,
    /// Pages that the guest has written since its boot.
    writes: u64,
    line: Vec<u8>,
    tick: Option<Alarm>,
    end: Option<Alarm>,
    exit: Option<Instant>,
    delayed: Vec<(Instant, Request)>,
}

impl Machine {
    /// A machine that waits for its launch.
    pub(crate) fn new() -> Self {
        Self {
            shape: Shape { paused: true, memory_mib: 0, vcpus: 0, seed: 0 },
            state: State::Absent,
            ended: None,
            guest: Guest::default(),
            pressed: false,
            booted: None,
            count: 0,
            writes: 0,
            line: Vec::new(),
            tick: None,
            end: None,
            exit: None,
            delayed: Vec::new(),
        }
    }

    /// Whether the guest reads its console.
    pub(crate) fn listens(&self) -> bool {
        self.state == State::Running
    }

    /// When [`Self::pass`] has to be called next; `None` = never, the machine is idle.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let alarms = [&self.tick, &self.end].into_iter().filter_map(|alarm| alarm.as_ref()?.due);
        alarms.chain(self.delayed.iter().map(|(due, _)| *due)).chain(self.exit).min()
    }

    /// Takes a request; one with a delay is carried out by a later [`Self::pass`].
    pub(crate) fn request(&mut self, request: Request, now: Instant) -> Output {
        let mut out = Output::default();
        if request.fault.delay_ms > 0 {
            self.delayed.push((now + Duration::from_millis(request.fault.delay_ms), request));
        } else {
            self.carry_out(&request, now, &mut out);
        }
        out
    }

    /// Lets time pass: delayed requests, counter lines and scripted ends that are due.
    pub(crate) fn pass(&mut self, now: Instant) -> Output {
        let mut out = Output::default();
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.delayed).into_iter().partition(|(due, _)| *due <= now);
        self.delayed = later;
        for (_, request) in due {
            self.carry_out(&request, now, &mut out);
        }
        if self.tick.as_ref().is_some_and(|alarm| alarm.rang(now)) {
            self.count_up(now, &mut out);
        }
        if self.end.as_ref().is_some_and(|alarm| alarm.rang(now)) {
            self.end = None;
            let event = self.guest.end.map_or(GuestEvent::Poweroff, |(event, _)| event);
            self.finish(event, now, &mut out);
        }
        if self.exit.is_some_and(|due| due <= now) {
            let status = self.guest.exit.map_or(0, |(status, _)| status);
            out.exit = Some((status, "exiting as its script says".to_owned()));
        }
        out
    }

    /// Bytes typed on the console. At the start of a line `p`, `r`, `k` and `W` act at once.
    pub(crate) fn input(&mut self, bytes: &[u8], now: Instant) -> Output {
        let mut out = Output::default();
        for byte in bytes.iter().copied() {
            let event = match byte {
                b'p' => Some(GuestEvent::Poweroff),
                b'r' => Some(GuestEvent::Reboot),
                b'k' => Some(GuestEvent::Crash),
                b'W' => Some(GuestEvent::Watchdog),
                _ => None,
            };
            match (byte, event) {
                _ if self.state != State::Running => break,
                (_, Some(event)) if self.line.is_empty() => self.finish(event, now, &mut out),
                (b'\r' | b'\n', _) => self.enter(&mut out),
                _ if self.line.len() < LINE => self.line.push(byte),
                _ => {}
            }
        }
        out
    }

    fn enter(&mut self, out: &mut Output) {
        let line = std::mem::take(&mut self.line);
        let number = line.strip_prefix(b"x ").and_then(|text| std::str::from_utf8(text).ok());
        if let Some(status) = number.and_then(|text| text.trim().parse().ok()) {
            out.exit = Some((status, "exiting as its console says".to_owned()));
        } else if !line.is_empty() {
            out.console.extend_from_slice(&line);
            out.console.extend_from_slice(b"\r\n");
        }
    }

    fn carry_out(&mut self, request: &Request, now: Instant, out: &mut Output) {
        let mut after = Output::default();
        let mut saved = None;
        let refused = match request.fault.outcome {
            Outcome::Hang => return,
            Outcome::Die => {
                let why = format!("dying at {} as its script says", request.step.as_str());
                out.exit = Some((1, why));
                return;
            }
            Outcome::Refuse => Some("refused as the script says".to_owned()),
            Outcome::Ignore => None,
            Outcome::Obey => {
                self.script(request.guest, now);
                let refused = self.step(request, now, &mut after).err();
                if request.step == Step::SaveStop && refused.is_none() {
                    saved = Some(Box::new(self.saved(now)));
                }
                refused
            }
        };
        // The answer goes first: an event tells what follows from the command.
        let status = Status { saved, ..self.status() };
        out.messages.push(Message::Reply { id: request.id, refused, status });
        out.messages.append(&mut after.messages);
        out.console.append(&mut after.console);
    }

    fn step(&mut self, request: &Request, now: Instant, out: &mut Output) -> Result<(), String> {
        match request.step {
            Step::Launch => {
                let With::Machine(shape) = request.with else {
                    return Err("a launch without a machine".to_owned());
                };
                self.shape = shape;
                self.boot(now);
                if !self.shape.paused {
                    self.run(now, out);
                }
            }
            Step::Adopt => {
                if let Some(event) = self.ended {
                    out.tell(Notice::Ended(event));
                }
            }
            Step::Pause | Step::Sleep | Step::SaveStop if self.state == State::Running => {
                self.stand(State::Paused, now);
                out.tell(Notice::Stopped);
            }
            Step::Save | Step::SaveStop | Step::GoOn if self.state == State::Shutdown => {
                return Err("the guest has ended".to_owned());
            }
            Step::SavePass if self.state == State::Running => self.writes += self.guest.dirty,
            Step::GoOn => return self.go_on(&request.with, now, out),
            Step::Restore => {
                let With::State(saved) = &request.with else {
                    return Err("a restore without a state".to_owned());
                };
                self.load(saved, now);
            }
            Step::SetClock => out.console.extend_from_slice(b"CLOCK SET\r\n"),
            Step::Unpause | Step::Wake if self.state == State::Paused => {
                out.tell(Notice::Resumed);
                self.run(now, out);
            }
            Step::Unpause | Step::Wake if self.state == State::Shutdown => {
                return Err("the guest has ended: reset it first".to_owned());
            }
            Step::Powerdown if self.state == State::Running => {
                self.finish(GuestEvent::Poweroff, now, out);
            }
            Step::Powerdown => self.pressed = self.state == State::Paused,
            Step::Reset => {
                out.tell(Notice::Reset);
                self.shape.seed = self.shape.seed.wrapping_add(1);
                if self.state != State::Running {
                    out.tell(Notice::Resumed);
                }
                self.boot(now);
                self.run(now, out);
            }
            Step::Destroy | Step::Pause | Step::Unpause | Step::Status => {}
            Step::Sleep | Step::Wake => {}
            Step::Save | Step::SavePass | Step::SaveStop | Step::SaveEnd => {}
        }
        Ok(())
    }

    fn go_on(&mut self, with: &With, now: Instant, out: &mut Output) -> Result<(), String> {
        match (with, self.state) {
            (With::Run(true), State::Paused) => {
                out.tell(Notice::Resumed);
                self.run(now, out);
            }
            (With::Run(false), State::Running) => {
                self.stand(State::Paused, now);
                out.tell(Notice::Stopped);
            }
            (With::Run(_), _) => {}
            _ => return Err("to go on, or to stand still?".to_owned()),
        }
        Ok(())
    }

    /// The state of a guest that stands still.
    fn saved(&self, now: Instant) -> Saved {
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Saved {
            count: self.count,
            uptime_ms: self.booted.map(|then| ms(now - then)),
            line: self.line.clone(),
            pressed: self.pressed,
            guest: self.guest,
            tick_left_ms: self.tick.as_ref().map(|alarm| alarm.left_ms(now)),
            end_left_ms: self.end.as_ref().map(|alarm| alarm.left_ms(now)),
            seed: self.shape.seed,
            writes: self.writes,
        }
    }

    /// Becomes the guest of a saved state, standing still. Where the script is another one now, its
    /// alarms begin anew.
    fn load(&mut self, saved: &Saved, now: Instant) {
        self.boot(now);
        (self.count, self.writes, self.pressed) = (saved.count, saved.writes, saved.pressed);
        self.line.clone_from(&saved.line);
        self.shape.seed = saved.seed;
        // A host that has been up for less than the guest shows it a shorter time.
        let booted = |ms| now.checked_sub(Duration::from_millis(ms)).unwrap_or(now);
        self.booted = saved.uptime_ms.map(booted);
        if saved.guest.tick_ms == self.guest.tick_ms {
            self.tick = saved.tick_left_ms.map(Alarm::new);
        }
        if saved.guest.end == self.guest.end {
            self.end = saved.end_left_ms.map(Alarm::new);
        }
    }

    /// The guest is set to its beginning and stands there.
    fn boot(&mut self, now: Instant) {
        self.state = State::Paused;
        (self.ended, self.pressed, self.booted) = (None, false, None);
        (self.count, self.writes) = (0, 0);
        self.line.clear();
        let guest = std::mem::take(&mut self.guest);
        (self.tick, self.end, self.exit) = (None, None, None);
        self.script(guest, now);
    }

    fn run(&mut self, now: Instant, out: &mut Output) {
        self.state = State::Running;
        for alarm in [&mut self.tick, &mut self.end].into_iter().flatten() {
            alarm.go(now);
        }
        if self.booted.is_none() {
            self.booted = Some(now);
            out.console.extend_from_slice(b"READY\r\n");
        }
        if std::mem::take(&mut self.pressed) {
            self.finish(GuestEvent::Poweroff, now, out);
        }
    }

    fn stand(&mut self, state: State, now: Instant) {
        self.state = state;
        for alarm in [&mut self.tick, &mut self.end].into_iter().flatten() {
            alarm.stop(now);
        }
    }

    /// Arms what differs from before; the rest goes on undisturbed.
    fn script(&mut self, guest: Guest, now: Instant) {
        let before = std::mem::replace(&mut self.guest, guest);
        if before.tick_ms != guest.tick_ms {
            self.tick = guest.tick_ms.map(Alarm::new);
        }
        if before.end != guest.end {
            self.end = guest.end.map(|(_, ms)| Alarm::new(ms));
        }
        if before.exit != guest.exit {
            self.exit = guest.exit.map(|(_, ms)| now + Duration::from_millis(ms));
        }
        if self.state == State::Running {
            for alarm in [&mut self.tick, &mut self.end].into_iter().flatten() {
                alarm.go(now);
            }
        }
    }

    fn count_up(&mut self, now: Instant, out: &mut Output) {
        self.count += 1;
        self.writes += 1;
        let up = self.booted.map_or(Duration::ZERO, |then| now - then);
        let line = format!("C {} {}.{:03}\r\n", self.count, up.as_secs(), up.subsec_millis());
        out.console.extend_from_slice(line.as_bytes());
        // Missed ticks are dropped, never caught up in a burst.
        self.tick = self.guest.tick_ms.map(Alarm::new);
        if let Some(alarm) = &mut self.tick {
            alarm.go(now);
        }
    }

    fn finish(&mut self, event: GuestEvent, now: Instant, out: &mut Output) {
        if self.state == State::Running {
            self.stand(State::Shutdown, now);
            self.ended = Some(event);
            out.tell(Notice::Ended(event));
        }
    }

    fn status(&self) -> Status {
        let (state, ended, writes) = (self.state, self.ended, self.writes);
        Status { pid: std::process::id(), state, ended, machine: self.shape, writes, saved: None }
    }
}

#[cfg(test)]
mod tests;
