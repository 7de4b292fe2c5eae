//! What the guest does, by the clock of the test.

use super::*;
use kxl_mock::script::Fault;

fn request(step: Step, guest: Guest) -> Request {
    let machine = Shape { paused: false, memory_mib: 64, vcpus: 2, seed: 5 };
    Request { id: 7, step, fault: Fault::default(), guest, with: With::Machine(machine) }
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
    launch.with = With::Machine(Shape { paused: true, memory_mib: 64, vcpus: 1, seed: 5 });
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
