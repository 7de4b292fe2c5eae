use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::driver::Buffer::{self, In, Out};
use crate::virtio::driver::{DATA, Driver, driven};
use crate::virtio::{EVENT_IDX, signal};

const MAC_ADDRESS: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

/// An interface whose tap is one end of a pair of sockets: they keep packets apart as well.
fn wire() -> (Tap, UnixDatagram) {
    let (near, far) = UnixDatagram::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    far.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    (Tap::stand_in(OwnedFd::from(near)), far)
}

fn interface(without: u64) -> (Driver<Net>, UnixDatagram) {
    let (tap, far) = wire();
    (driven(Net::new(MAC_ADDRESS, Some(tap), None), without), far)
}

fn packet(length: usize, mark: u8) -> Vec<u8> {
    let mut packet = vec![mark; length];
    packet[..12].fill(0);
    packet
}

#[test]
fn what_the_guest_sends_goes_out_with_its_header() {
    for without in [0, EVENT_IDX] {
        let (mut driver, far) = interface(without);
        driver.put(DATA, &packet(12, 0));
        driver.put(DATA + 0x1000, &[3; 700]);
        for _ in 0..40 {
            driver.request(TX, &[In(DATA, 12), In(DATA + 0x1000, 500), In(DATA + 0x1100, 200)]);
            let mut got = [0; 2000];
            let count = far.recv(&mut got).unwrap();
            assert_eq!(count, 712);
            assert!(got[..12] == [0; 12] && got[12..712] == [3; 700]);
        }
    }
}

#[test]
fn what_comes_in_is_merged_into_as_many_buffers_as_it_needs() {
    let (mut driver, far) = interface(0);
    for at in 0..6u64 {
        driver.offer(RX, &[Out(DATA + at * 0x1000, 1000)]);
    }
    driver.ring(RX);
    far.send(&packet(2500, 1)).unwrap();
    let lengths: Vec<_> = (0..3).map(|_| driver.wait(RX).1).collect();
    assert_eq!(lengths, [1000, 1000, 500]);
    assert_eq!(driver.get(DATA, 13), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 1]);
    assert_eq!(driver.get(DATA + 0x2000, 500), [1; 500]);
    far.send(&packet(100, 2)).unwrap();
    assert_eq!(driver.wait(RX).1, 100);
    assert_eq!(driver.get(DATA + 0x3000, 13), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2]);
}

#[test]
fn a_packet_waits_for_buffers_and_is_not_lost() {
    let (mut driver, far) = interface(0);
    far.send(&packet(2500, 9)).unwrap();
    driver.offer(RX, &[Out(DATA, 1000)]);
    driver.ring(RX);
    driver.handle.call(|_, _| ()).unwrap();
    assert_eq!(driver.used(RX), None);
    driver.offer(RX, &[Out(DATA + 0x1000, 1000)]);
    driver.ring(RX);
    driver.offer(RX, &[Out(DATA + 0x2000, 1000)]);
    driver.ring(RX);
    let lengths: Vec<_> = (0..3).map(|_| driver.wait(RX).1).collect();
    assert_eq!(lengths, [1000, 1000, 500]);
}

#[test]
fn a_packet_that_will_never_fit_is_dropped_and_the_next_one_comes() {
    let (mut driver, far) = interface(MRG_RXBUF);
    driver.offer(RX, &[Out(DATA, 1000)]);
    driver.ring(RX);
    far.send(&packet(1001, 1)).unwrap();
    far.send(&packet(1000, 2)).unwrap();
    assert_eq!(driver.wait(RX).1, 1000);
    assert_eq!(driver.get(DATA + 10, 3), [1, 0, 2], "in one buffer");
    assert_eq!(driver.handle.dropped().unwrap(), 1);
    // A whole ring of buffers that hold too little.
    let (mut driver, far) = interface(0);
    for at in 0..16u64 {
        driver.offer(RX, &[Out(DATA + at * 64, 64)]);
    }
    driver.ring(RX);
    far.send(&packet(1025, 1)).unwrap();
    far.send(&packet(1024, 2)).unwrap();
    for _ in 0..16 {
        assert_eq!(driver.wait(RX).1, 64);
    }
    assert_eq!(driver.handle.dropped().unwrap(), 1);
}

#[test]
fn thousands_of_packets_come_through_in_order() {
    let (mut driver, far) = interface(0);
    let mut buffers = std::collections::VecDeque::new();
    for at in 0..16u64 {
        driver.offer(RX, &[Out(DATA + at * 0x1000, 1536)]);
        buffers.push_back(DATA + at * 0x1000);
    }
    driver.ring(RX);
    let sender = std::thread::spawn(move || {
        for number in 0..3000u32 {
            let mut bytes = packet(64, 0);
            bytes[12..16].copy_from_slice(&number.to_le_bytes());
            far.send(&bytes).unwrap();
        }
        far
    });
    for number in 0..3000u32 {
        assert_eq!(driver.wait(RX).1, 64);
        let at = buffers.pop_front().unwrap();
        assert_eq!(driver.get(at + 12, 4), number.to_le_bytes());
        driver.offer(RX, &[Out(at, 1536)]);
        driver.ring(RX);
        buffers.push_back(at);
    }
    drop(sender.join().unwrap());
}

#[test]
fn packets_that_make_no_sense_go_nowhere() {
    let (mut driver, far) = interface(0);
    driver.put(DATA, &packet(100, 5));
    let long = [In(DATA, 40_000), In(DATA, 40_000)];
    let bad: [&[Buffer]; 4] = [&[In(DATA, 5)], &[In(DATA, 12)], &[Out(DATA, 100)], &long];
    for buffers in bad {
        assert_eq!(driver.request(TX, buffers), 0);
    }
    assert_eq!(driver.handle.dropped().unwrap(), 4);
    driver.request(TX, &[In(DATA, 100)]);
    let mut got = [0; 200];
    assert_eq!(far.recv(&mut got).unwrap(), 100, "the first that came out");
}

#[test]
fn a_packet_in_more_buffers_than_a_tap_takes_is_dropped_whole() {
    let (mut driver, far) = interface(0);
    driver.put(DATA, &packet(2000, 5));
    for (count, dropped) in [(257u32, 1), (200, 1)] {
        let buffers: Vec<_> = (0..u64::from(count)).map(|at| In(DATA + at, 1)).collect();
        driver.offer_indirect(TX, DATA + 0x1000, &buffers);
        driver.ring(TX);
        driver.wait(TX);
        assert_eq!(driver.handle.dropped().unwrap(), dropped, "{count}");
    }
    assert_eq!(far.recv(&mut [0; 2000]).unwrap(), 200, "the first that came out");
}

#[test]
fn a_buffer_for_packets_without_room_is_the_end_of_the_queue() {
    let (mut driver, far) = interface(0);
    let before = driver.handle.errors();
    driver.offer(RX, &[In(DATA, 1000)]);
    driver.ring(RX);
    far.send(&packet(100, 1)).unwrap();
    driver.wait_changed();
    assert_ne!(driver.read(0x70) & crate::virtio::transport::status::NEEDS_RESET, 0);
    assert_eq!(driver.handle.errors() - before, 1);
}

#[test]
fn a_packet_is_not_spread_over_thousands_of_buffers() {
    let (mut driver, far) = interface(0);
    // Two bytes of room in the first four, and enough in the fifth.
    let mut buffers = vec![In(DATA, 1); 510];
    buffers.extend([Out(DATA, 1), Out(DATA, 1)]);
    for at in 0..4u64 {
        driver.offer_indirect(RX, DATA + 0x1_0000 + at * 0x4000, &buffers);
    }
    driver.offer(RX, &[Out(DATA + 0x1000, 1000)]);
    driver.ring(RX);
    far.send(&packet(100, 1)).unwrap();
    while driver.handle.dropped().unwrap() == 0 {
        assert_eq!(driver.used(RX), None);
        std::thread::yield_now();
    }
}

#[test]
fn a_slot_has_no_link_until_a_tap_is_plugged_in() {
    let mut driver = driven(Net::new(MAC_ADDRESS, None, None), 0);
    assert_eq!(driver.config::<6>(0), MAC_ADDRESS);
    assert_eq!(driver.config::<2>(6), [0, 0]);
    driver.put(DATA, &packet(100, 5));
    driver.request(TX, &[In(DATA, 100)]);
    driver.offer(RX, &[Out(DATA + 0x1000, 1536)]);
    driver.ring(RX);
    let (tap, far) = wire();
    far.send(&packet(80, 7)).unwrap();
    driver.handle.plug(tap, None).unwrap();
    driver.wait_changed();
    assert_eq!(driver.config::<2>(6), [1, 0]);
    assert_eq!(driver.wait(RX).1, 80, "what was there already");
    driver.request(TX, &[In(DATA, 100)]);
    assert_eq!(far.recv(&mut [0; 200]).unwrap(), 100);
    driver.handle.unplug().unwrap();
    driver.wait_changed();
    assert_eq!(driver.config::<2>(6), [0, 0]);
    driver.request(TX, &[In(DATA, 100)]);
    assert_eq!(driver.handle.dropped().unwrap(), 2);
    assert!(far.send(&packet(80, 7)).is_err(), "the tap is closed");
}

#[test]
fn a_cable_is_pulled_and_plugged() {
    let (mut driver, far) = interface(0);
    driver.offer(RX, &[Out(DATA, 1536)]);
    driver.ring(RX);
    driver.handle.set_link(false).unwrap();
    driver.wait_changed();
    assert!(!driver.handle.is_up().unwrap());
    far.send(&packet(50, 1)).unwrap();
    driver.handle.call(|_, _| ()).unwrap();
    assert_eq!(driver.used(RX), None);
    driver.handle.set_link(true).unwrap();
    assert_eq!(driver.wait(RX).1, 50);
}

#[test]
fn an_interface_goes_on_in_another_process_with_the_packet_it_held() {
    let (driver, far) = interface(0);
    let mut driver = driver;
    driver.offer(RX, &[Out(DATA, 100)]);
    driver.ring(RX);
    far.send(&packet(300, 4)).unwrap();
    // It is taken from the tap as soon as the thread sees it; the guest has no room.
    while far.as_fd().try_clone_to_owned().is_ok()
        && driver.handle.call(|net, _| net.received.packet().is_empty()).unwrap()
    {
        std::thread::yield_now();
    }
    let (tap, far) = wire();
    let mut driver = driver.moved(Net::new(MAC_ADDRESS, Some(tap), None));
    driver.offer(RX, &[Out(DATA + 0x1000, 1000)]);
    driver.ring(RX);
    assert_eq!([driver.wait(RX).1, driver.wait(RX).1], [100, 200]);
    driver.put(DATA, &packet(100, 5));
    driver.request(TX, &[In(DATA, 100)]);
    assert_eq!(far.recv(&mut [0; 200]).unwrap(), 100);
}

#[test]
fn nothing_is_written_into_memory_during_a_pause() {
    let (mut driver, far) = interface(0);
    driver.offer(RX, &[Out(DATA, 1536)]);
    driver.ring(RX);
    driver.transport.pause().unwrap();
    for _ in 0..10 {
        far.send(&packet(60, 8)).unwrap();
    }
    driver.handle.call(|_, _| ()).unwrap();
    assert_eq!(driver.used(RX), None);
    assert_eq!(driver.memory.read_obj::<u8>(GuestAddress(DATA + 12)).unwrap(), 0);
    driver.transport.resume().unwrap();
    assert_eq!(driver.wait(RX).1, 60);
    assert_eq!(driver.read(0x60) & !(signal::USED), 0);
}

#[test]
fn a_kernel_that_keeps_the_queues_is_closed_and_packets_go_on() {
    let (mut driver, far) = interface(0);
    for at in 0..4u64 {
        driver.offer(RX, &[Out(DATA + at * 0x1000, 1536)]);
    }
    driver.ring(RX);
    far.send(&packet(60, 1)).unwrap();
    assert_eq!(driver.wait(RX).1, 60);
    let closed = driver.handle.call(|net, env| {
        // It refuses everything.
        let null = std::fs::File::open("/dev/null").unwrap();
        net.disconnect(env);
        (net.vhost, net.in_kernel) = (Some(Vhost::new(null).unwrap()), true);
        let before = env.errors.count();
        net.disconnect(env);
        assert_eq!(env.errors.count() - before, 2, "both queues are asked for");
        let closed = net.vhost.is_none() && !net.in_kernel;
        net.connect(env);
        closed
    });
    assert!(closed.unwrap());
    far.send(&packet(70, 2)).unwrap();
    assert_eq!(driver.wait(RX).1, 70, "where the used ring says");
    driver.put(DATA, &packet(100, 5));
    driver.request(TX, &[In(DATA, 100)]);
    assert_eq!(far.recv(&mut [0; 200]).unwrap(), 100);
}

#[test]
fn a_kernel_that_refuses_the_queues_leaves_them_here_with_the_packet_that_waits() {
    let (mut driver, far) = interface(0);
    far.send(&packet(300, 4)).unwrap();
    while driver.handle.call(|net, _| net.received.packet().is_empty()).unwrap() {
        std::thread::yield_now();
    }
    driver
        .handle
        .call(|net, env| {
            let null = std::fs::File::open("/dev/null").unwrap();
            net.change(env, |net| net.vhost = Some(Vhost::new(null).unwrap()));
        })
        .unwrap();
    driver.offer(RX, &[Out(DATA, 1536)]);
    driver.ring(RX);
    assert_eq!(driver.wait(RX).1, 300);
    assert_eq!(driver.handle.dropped().unwrap(), 0);
}

#[test]
fn a_real_tap_carries_packets_both_ways() {
    let name = format!("kxln{}", std::process::id() % 1_000_000);
    let tap = match tap::open(&name) {
        Ok(tap) => tap,
        Err(error) => return println!("skipped: {error}: no tap can be made here"),
    };
    let mut driver = driven(Net::new(MAC_ADDRESS, Some(tap), None), 0);
    assert_eq!(driver.handle.errors(), 0, "offloads are taken");
    driver.put(DATA, &packet(72, 0xff));
    // The interface is down: what is sent is lost on the host's side, and that is no error of
    // the guest.
    driver.request(TX, &[In(DATA, 72)]);
    assert_eq!(driver.handle.errors(), 0);
    assert_eq!(driver.handle.dropped().unwrap(), 1);
}
