//! The emulated machine: pure, its clock handed in.
//!
//! Ended, it stands still until it is reset or its process is killed, as the other emulators do,
//! so that the way a guest ended outlives the monitor.

use std::time::{Duration, Instant};

use kxl_domain::{GuestEvent, State};
use kxl_mock::protocol::{Machine as Shape, Message, Notice, Request, Status};
use kxl_mock::script::{Guest, Outcome, Step};

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

/// A deadline in the guest's own time: it stands still while the guest does.
#[derive(Debug)]
struct Alarm {
    left: Duration,
    due: Option<Instant>,
}

impl Alarm {
    fn new(ms: u64) -> Self {
        Self { left: Duration::from_millis(ms), due: None }
    }

    fn go(&mut self, now: Instant) {
        self.due.get_or_insert(now + self.left);
    }

    fn stop(&mut self, now: Instant) {
        if let Some(due) = self.due.take() {
            self.left = due.saturating_duration_since(now);
        }
    }

    fn rang(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
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
            shape: Shape { paused: true, memory_mib: 0, vcpus: 0 },
            state: State::Absent,
            ended: None,
            guest: Guest::default(),
            pressed: false,
            booted: None,
            count: 0,
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
                self.step(request, now, &mut after).err()
            }
        };
        // The answer goes first: an event tells what follows from the command.
        out.messages.push(Message::Reply { id: request.id, refused, status: self.status() });
        out.messages.append(&mut after.messages);
        out.console.append(&mut after.console);
    }

    fn step(&mut self, request: &Request, now: Instant, out: &mut Output) -> Result<(), String> {
        match request.step {
            Step::Launch => {
                self.shape = request.machine.ok_or("a launch without a machine")?;
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
            Step::Pause if self.state == State::Running => {
                self.stand(State::Paused, now);
                out.tell(Notice::Stopped);
            }
            Step::Unpause if self.state == State::Paused => {
                out.tell(Notice::Resumed);
                self.run(now, out);
            }
            Step::Unpause if self.state == State::Shutdown => {
                return Err("the guest has ended: reset it first".to_owned());
            }
            Step::Powerdown if self.state == State::Running => {
                self.finish(GuestEvent::Poweroff, now, out);
            }
            Step::Powerdown => self.pressed = self.state == State::Paused,
            Step::Reset => {
                out.tell(Notice::Reset);
                if self.state != State::Running {
                    out.tell(Notice::Resumed);
                }
                self.boot(now);
                self.run(now, out);
            }
            Step::Destroy | Step::Pause | Step::Unpause | Step::Status => {}
        }
        Ok(())
    }

    /// The guest is set to its beginning and stands there.
    fn boot(&mut self, now: Instant) {
        self.state = State::Paused;
        (self.ended, self.pressed, self.booted, self.count) = (None, false, None, 0);
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
        let (state, ended) = (self.state, self.ended);
        Status { pid: std::process::id(), state, ended, machine: self.shape }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kxl_mock::script::Fault;

    fn request(step: Step, guest: Guest) -> Request {
        let machine = Shape { paused: false, memory_mib: 64, vcpus: 2 };
        Request { id: 7, step, fault: Fault::default(), guest, machine: Some(machine) }
    }

    fn launched(guest: Guest, now: Instant) -> Machine {
        let mut machine = Machine::new();
        let out = machine.request(request(Step::Launch, guest), now);
        assert_eq!(out.console, b"READY\r\n");
        machine
    }

    fn notices(out: &Output) -> Vec<Notice> {
        let notice = |message: &Message| match message {
            Message::Event(notice) => Some(*notice),
            Message::Reply { .. } => None,
        };
        out.messages.iter().filter_map(notice).collect()
    }

    fn after(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_guest_that_was_asked_for_nothing_never_wakes_up() {
        let now = Instant::now();
        let mut machine = launched(Guest::default(), now);
        assert_eq!(machine.next_due(), None);
        machine.request(request(Step::Pause, Guest::default()), now);
        assert_eq!(machine.next_due(), None);
    }

    #[test]
    fn the_counter_stands_still_while_paused_and_goes_on_where_it_was() {
        let now = Instant::now();
        let guest = Guest { tick_ms: Some(100), ..Guest::default() };
        let mut machine = launched(guest, now);
        assert_eq!(machine.pass(now + after(100)).console, b"C 1 0.100\r\n");
        machine.request(request(Step::Pause, guest), now + after(160));
        assert_eq!(machine.next_due(), None);
        assert_eq!(machine.pass(now + after(5000)).console, b"");
        machine.request(request(Step::Unpause, guest), now + after(5000));
        assert_eq!(machine.next_due(), Some(now + after(5040)), "40 ms of the tick were left");
        assert_eq!(machine.pass(now + after(5040)).console, b"C 2 5.040\r\n");
    }

    #[test]
    fn keys_end_the_guest_and_it_then_stands_still() {
        for (key, event) in [
            (b'p', GuestEvent::Poweroff),
            (b'r', GuestEvent::Reboot),
            (b'k', GuestEvent::Crash),
            (b'W', GuestEvent::Watchdog),
        ] {
            let now = Instant::now();
            let mut machine = launched(Guest { tick_ms: Some(1), ..Guest::default() }, now);
            let out = machine.input(&[key, b'p', b'\n'], now);
            assert_eq!(notices(&out), [Notice::Ended(event)]);
            assert_eq!(
                (machine.status().state, machine.status().ended),
                (State::Shutdown, Some(event))
            );
            assert_eq!(machine.next_due(), None);
        }
    }

    #[test]
    fn other_lines_come_back_and_x_exits() {
        let now = Instant::now();
        let mut machine = launched(Guest::default(), now);
        assert_eq!(machine.input(b"hello p", now), Output::default());
        assert_eq!(machine.input(b"erk\r\n", now).console, b"hello perk\r\n");
        assert_eq!(machine.input(b"x 300\r", now).console, b"x 300\r\n");
        assert_eq!(machine.input(b"x 3\r", now).exit.map(|(status, _)| status), Some(3));
    }

    #[test]
    fn a_button_pressed_while_paused_is_obeyed_when_the_guest_goes_on() {
        let now = Instant::now();
        let mut machine = launched(Guest::default(), now);
        machine.request(request(Step::Pause, Guest::default()), now);
        let out = machine.request(request(Step::Powerdown, Guest::default()), now);
        assert_eq!(notices(&out), []);
        let out = machine.request(request(Step::Unpause, Guest::default()), now);
        assert_eq!(notices(&out), [Notice::Resumed, Notice::Ended(GuestEvent::Poweroff)]);
    }

    #[test]
    fn a_reset_boots_again_after_an_end_and_arms_the_script_anew() {
        let now = Instant::now();
        let guest = Guest { end: Some((GuestEvent::Crash, 50)), ..Guest::default() };
        let mut machine = launched(guest, now);
        assert_eq!(notices(&machine.pass(now + after(50))), [Notice::Ended(GuestEvent::Crash)]);
        let out = machine.request(request(Step::Unpause, guest), now + after(60));
        assert!(matches!(&out.messages[..], [Message::Reply { refused: Some(_), .. }]));
        let out = machine.request(request(Step::Reset, guest), now + after(70));
        assert_eq!(notices(&out), [Notice::Reset, Notice::Resumed]);
        assert_eq!(out.console, b"READY\r\n");
        assert_eq!(machine.next_due(), Some(now + after(120)));
    }

    #[test]
    fn a_guest_launched_paused_says_nothing_before_it_is_let_go() {
        let now = Instant::now();
        let mut machine = Machine::new();
        let mut launch = request(Step::Launch, Guest::default());
        launch.machine = Some(Shape { paused: true, memory_mib: 64, vcpus: 1 });
        assert_eq!(machine.request(launch, now).console, b"");
        let out = machine.request(request(Step::Unpause, Guest::default()), now);
        assert_eq!(out.console, b"READY\r\n");
    }

    #[test]
    fn a_delayed_request_is_answered_late_and_the_others_meanwhile() {
        let now = Instant::now();
        let mut machine = launched(Guest::default(), now);
        let mut late = request(Step::Pause, Guest::default());
        late.fault.delay_ms = 200;
        assert_eq!(machine.request(late, now), Output::default());
        let out = machine.request(request(Step::Status, Guest::default()), now);
        assert_eq!(out.messages.len(), 1);
        assert_eq!(machine.next_due(), Some(now + after(200)));
        assert_eq!(notices(&machine.pass(now + after(200))), [Notice::Stopped]);
    }
}
