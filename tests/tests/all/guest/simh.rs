//! Machines that know nothing but a console: a PDP-11 and a VAX that print marked lines.

use std::fmt::Write as _;

use crate::support::event::{expect, record, texts};
use crate::support::guest::{simh, slot};
use crate::support::skip::skipped;
use crate::support::{Console, Host, wait};

/// What both say, between line ends, as such machines do.
const TEXT: &str = "\r\n@@KXL-EVENT ID=LOG TEXT=\"THE SYSTEM IS UP\"\r\n @@KXL-EVENT ID=STARTED\r\n\
                    @@KXL-EVENT ID=ALERT TEXT=\"TAPE FULL\" UNIT=MTA0\r\n";

/// The bytes of the text, with a NUL behind it, in groups of `size`.
fn groups(size: usize) -> Vec<Vec<u8>> {
    let mut bytes = TEXT.as_bytes().to_vec();
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(size), 0);
    bytes.chunks(size).map(<[u8]>::to_vec).collect()
}

/// A program for a PDP-11 that prints the text and halts at the first key.
fn pdp11() -> String {
    // R1 goes through the text; each byte waits for the printer (177564, 177566); then the keyboard
    // (177560) is waited for.
    const CODE: [u16; 14] = [
        0o012_701, 0o001_040, 0o112_100, 0o001_406, 0o105_737, 0o177_564, 0o100_375, 0o110_037,
        0o177_566, 0o000_770, 0o105_737, 0o177_560, 0o100_375, 0o000_000,
    ];
    let mut ini = String::from("set cpu 11/73\n");
    for (at, word) in (0o1000..).step_by(2).zip(CODE) {
        writeln!(ini, "dep {at:o} {word:06o}").unwrap();
    }
    for (at, pair) in (0o1040..).step_by(2).zip(groups(2)) {
        writeln!(ini, "dep {at:o} {:06o}", u16::from_le_bytes([pair[0], pair[1]])).unwrap();
    }
    ini
}

/// The same for a VAX-11/780.
fn vax780() -> String {
    // Bit 7 of TXCS (22): the printer is ready; of RXCS (20): there is a key. TXDB is 23.
    const CODE: [(u32, &str); 12] = [
        (0x400, "MOVL #500,R1"),
        (0x407, "MOVZBL (R1)+,R0"),
        (0x40a, "BEQL 418"),
        (0x40c, "MFPR #22,R3"),
        (0x40f, "TSTB R3"),
        (0x411, "BGEQ 40C"),
        (0x413, "MTPR R0,#23"),
        (0x416, "BRB 407"),
        (0x418, "MFPR #20,R3"),
        (0x41b, "TSTB R3"),
        (0x41d, "BGEQ 418"),
        (0x41f, "HALT"),
    ];
    let mut ini = String::new();
    for (at, line) in CODE {
        writeln!(ini, "dep -m {at:X} {line}").unwrap();
    }
    for (at, four) in (0x500..).step_by(4).zip(groups(4)) {
        let long = u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
        writeln!(ini, "dep {at:X} {long:X}").unwrap();
    }
    ini
}

/// The machine comes up and says so, raises an alert, halts, and is started and says so again.
fn tells(test: &str, machine: &str, program: &str) {
    let host = Host::new();
    let config = simh(machine, "it");
    if skipped(test, &config) {
        return;
    }
    let _slot = slot();
    let ini = host.file("up.ini", program);
    let config = config.unwrap();
    let old = config.lines().find(|line| line.starts_with("ini = ")).unwrap();
    let config = config.replace(old, &format!("ini = \"{}\"", ini.display()));
    host.define("it", &format!("{config}managed_start = 1\nautorestart = \"always\"\n"));
    host.ok(["start", "it"]);
    assert!(record(&host, "it").ready, "a start is over when the machine says so");
    let before = host.domain("it").domid();
    expect(&host, "it", "guest-log", "THE SYSTEM IS UP");
    expect(&host, "it", "guest-alert", "TAPE FULL unit=MTA0");

    let mut console = Console::attach(&host, "it");
    console.send("x");
    wait::until("it is started anew and up", wait::BOOT, || {
        let again = host.find("it")?.domid() != before && texts(&host, "it", "running").len() == 2;
        again.then_some(())
    });
    wait::eventually("it says all again", || texts(&host, "it", "guest-alert").len() == 2);
    let alerts = host.ok(["alerts"]);
    assert_eq!(alerts.matches("TAPE FULL").count(), 1, "one to look at: {alerts}");
}

#[test]
fn a_pdp_11_tells_that_it_is_up_and_again_after_it_has_halted() {
    tells("a_pdp_11_tells_that_it_is_up_and_again_after_it_has_halted", "pdp11", &pdp11());
}

#[test]
fn a_vax_tells_that_it_is_up_and_again_after_it_has_halted() {
    tells("a_vax_tells_that_it_is_up_and_again_after_it_has_halted", "vax780", &vax780());
}
