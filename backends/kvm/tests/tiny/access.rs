//! A machine that is stopped in the middle of an access to a device.

use std::io::Write;
use std::process::Stdio;

use serde_json::json;

use crate::guest;
use crate::no_kvm;
use crate::vmm::{Place, Vmm};

/// What is said over and over, a line at a time. Its length has nothing to do with the serial
/// port's, which is 64 bytes.
const LINE: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// A state that is taken between an access and the registers that follow from it has the access
/// made twice: a byte that was read is lost, one that was written is there again.
#[test]
fn no_byte_is_lost_or_repeated_wherever_a_state_is_taken() {
    if no_kvm("no_byte_is_lost_or_repeated_wherever_a_state_is_taken") {
        return;
    }
    let place = Place::new();
    let kernel = place.file("echo", &guest::echo());
    for round in 0..25_usize {
        let (input, mut typist) = std::io::pipe().unwrap();
        typist.write_all(format!("{LINE}\n").repeat(400).as_bytes()).unwrap();
        let first = Stdio::from(input.try_clone().unwrap());
        let vmm = Vmm::fed(&place, "first", &["-kernel", &kernel], first);
        let mut said: Vec<String> = (0..1 + round % 7).map(|_| vmm.line()).collect();
        let mut qmp = vmm.qmp();
        let state = format!("file:{}", place.path(&format!("state{round}")));
        let events = json!({"capabilities": [{"capability": "events", "state": true}]});
        qmp.ok("migrate-set-capabilities", &events);
        qmp.ok("stop", &json!({}));
        qmp.ok("migrate", &json!({"uri": state}));
        while qmp.event("MIGRATION") != json!({"status": "completed"}) {}
        qmp.ok("quit", &json!({}));
        said.extend(vmm.rest());
        drop(vmm);

        let vmm = Vmm::fed(&place, "second", &["-incoming", &state], Stdio::from(input));
        said.extend((0..3).map(|_| vmm.line()));
        // Cut where the one ended and the other began.
        let text = said.concat();
        let expected = LINE.repeat(text.len() / LINE.len() + 1);
        assert_eq!(text, expected[..text.len()], "round {round}");
    }
}
