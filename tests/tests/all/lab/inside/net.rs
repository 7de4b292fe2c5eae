//! Packets between a guest and the lab, over a tap.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::thread::JoinHandle;

use super::machine::Machine;

/// Bytes that go each way.
const SIZE: usize = 4 << 20;

/// Gives the lab's end of a tap an address.
pub(super) fn address(tap: &str, address: &str) {
    for args in [["addr", "add", address, "dev", tap].as_slice(), &["link", "set", tap, "up"]] {
        let done = Command::new("ip").args(args).status().unwrap();
        assert!(done.success(), "ip {args:?}");
    }
}

/// Gives the guest's interface an address, from its shell.
pub(super) fn configure(machine: &mut Machine, interface: &str, address: &str) {
    drop(machine.shell(&format!("ip addr add {address} dev {interface}")));
    drop(machine.shell(&format!("ip link set {interface} up")));
}

/// Pings the lab from the guest's shell; not one packet may be lost.
pub(super) fn ping(machine: &mut Machine, address: &str) {
    let said = machine.shell(&format!("busybox ping -c 4 -i 0.2 -W 10 {address}"));
    assert!(said.contains(" 0% packet loss"), "{said}");
}

/// Serves one client: writes `send` to it, and reads as much from it.
fn serve(at: &str, send: Vec<u8>, receive: usize) -> JoinHandle<Vec<u8>> {
    let listener = TcpListener::bind(at).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&send).unwrap();
        let mut received = vec![0; receive];
        stream.read_exact(&mut received).unwrap();
        received
    })
}

fn noise() -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let words = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    });
    words.take(SIZE / 8).flat_map(u64::to_le_bytes).collect()
}

/// What both ends make of the same bytes.
fn sum_of(bytes: &[u8]) -> String {
    fs::write("/tmp/sum", bytes).unwrap();
    let output = Command::new("md5sum").arg("/tmp/sum").output().unwrap();
    fs::remove_file("/tmp/sum").unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

fn transfer(vhost: &str) {
    let bytes = noise();
    let sum = sum_of(&bytes);
    let net = format!("tap=lab0,id=net0,vhost={vhost}");
    let mut machine = Machine::ready("net", "", &["-net", &net]);
    address("lab0", "10.9.0.1/24");
    machine.enter();
    configure(&mut machine, "eth0", "10.9.0.2/24");
    ping(&mut machine, "10.9.0.1");
    let down = serve("10.9.0.1:8001", bytes.clone(), 0);
    drop(machine.shell("busybox nc 10.9.0.1 8001 </dev/null >/tmp/file"));
    drop(down.join().unwrap());
    assert!(machine.shell("busybox md5sum /tmp/file").starts_with(&sum), "{vhost}");
    let up = serve("10.9.0.1:8002", Vec::new(), SIZE);
    drop(machine.shell("busybox nc 10.9.0.1 8002 </tmp/file"));
    assert_eq!(sum_of(&up.join().unwrap()), sum, "{vhost}");
    // A guest that stands still answers no ping and answers again afterwards.
    let mut qmp = machine.qmp();
    drop(qmp.say("stop"));
    drop(qmp.say("cont"));
    ping(&mut machine, "10.9.0.1");
}

pub(in crate::lab) fn packets_cross_a_tap_through_the_process() {
    transfer("off");
}

pub(in crate::lab) fn packets_cross_a_tap_through_the_kernel() {
    transfer("on");
}
