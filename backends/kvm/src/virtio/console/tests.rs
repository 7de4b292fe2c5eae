use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use super::*;
use crate::endpoint::Unheard;
use crate::virtio::driver::Buffer::{In, Out};
use crate::virtio::driver::{DATA, Driver, driven};

const RX: usize = 0;
const TX: usize = 1;
const CHANNEL_RX: usize = 4;
const CHANNEL_TX: usize = 5;

struct Socket(PathBuf);

impl Socket {
    fn new(name: &str, unheard: Unheard) -> (Self, Endpoint) {
        let path = std::env::temp_dir().join(format!("kxl-console-{}-{name}", std::process::id()));
        drop(std::fs::remove_file(&path));
        let listener = UnixListener::bind(&path).unwrap();
        (Self(path), Endpoint::socket(listener, unheard).unwrap())
    }

    fn connect(&self) -> UnixStream {
        let client = UnixStream::connect(&self.0).unwrap();
        client.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        client
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

struct Setting {
    driver: Driver<Console>,
    console: Socket,
    channel: Socket,
    /// Where the next message of the device is put.
    next: u64,
}

/// Both ports, with a driver that has not said anything yet.
fn setting(name: &str, without: u64) -> Setting {
    let (console, first) = Socket::new(&format!("{name}-0"), Unheard::Keep);
    let (channel, second) = Socket::new(&format!("{name}-1"), Unheard::Drop);
    let device = Console::new(Some(first), Some(("org.kxl.test".to_owned(), second)));
    Setting { driver: driven(device, without), console, channel, next: DATA + 0x4_0000 }
}

impl Setting {
    fn say(&mut self, id: u32, event: u16, value: u16) {
        let bytes = [&id.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes()].concat();
        self.driver.put(DATA, &bytes);
        self.driver.request(CONTROL_TX, &[In(DATA, 8)]);
    }

    fn hear(&mut self) -> (u32, u16, u16, String) {
        let at = self.next;
        self.next += 0x100;
        let length = self.driver.request(CONTROL_RX, &[Out(at, 64)]) as usize;
        let bytes = self.driver.get(at, length);
        let text = String::from_utf8(bytes[8..].to_vec()).unwrap();
        let message = Message::decode(&bytes).unwrap();
        (message.id, message.event, message.value, text)
    }

    /// What a driver does that knows ports.
    fn set_up(&mut self) {
        self.say(0, control::DEVICE_READY, 1);
        assert_eq!(self.hear(), (0, control::PORT_ADD, 1, String::new()));
        assert_eq!(self.hear(), (1, control::PORT_ADD, 1, String::new()));
        self.say(0, control::PORT_READY, 1);
        assert_eq!(self.hear(), (0, control::CONSOLE_PORT, 1, String::new()));
        assert_eq!(self.hear(), (0, control::PORT_OPEN, 1, String::new()));
        self.say(1, control::PORT_READY, 1);
        assert_eq!(self.hear(), (1, control::PORT_NAME, 1, "org.kxl.test".to_owned()));
    }
}

#[test]
fn a_driver_that_knows_no_ports_has_a_console() {
    let mut setting = setting("plain", MULTIPORT);
    let driver = &mut setting.driver;
    driver.put(DATA, b"hello");
    driver.request(TX, &[In(DATA, 3), In(DATA + 3, 2)]);
    let mut client = setting.console.connect();
    let mut got = [0; 5];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello");
    client.write_all(b"typed").unwrap();
    assert_eq!(driver.request(RX, &[Out(DATA, 64)]), 5);
    assert_eq!(driver.get(DATA, 5), b"typed");
}

#[test]
fn a_driver_learns_of_the_ports_and_of_who_is_there() {
    let mut setting = setting("ports", 0);
    assert_eq!(u32::from_le_bytes(setting.driver.config(4)), 2);
    setting.set_up();
    let client = setting.channel.connect();
    assert_eq!(setting.hear(), (1, control::PORT_OPEN, 1, String::new()));
    drop(client);
    assert_eq!(setting.hear(), (1, control::PORT_OPEN, 0, String::new()));
}

#[test]
fn a_channel_carries_bytes_when_both_ends_are_open() {
    let mut setting = setting("channel", 0);
    setting.set_up();
    let mut client = setting.channel.connect();
    setting.hear();
    client.write_all(b"question").unwrap();
    setting.driver.offer(CHANNEL_RX, &[Out(DATA + 0x1000, 64)]);
    setting.driver.ring(CHANNEL_RX);
    setting.driver.handle.call(|_, _| ()).unwrap();
    assert_eq!(setting.driver.used(CHANNEL_RX), None, "no program would get it");
    setting.say(1, control::PORT_OPEN, 1);
    assert_eq!(setting.driver.wait(CHANNEL_RX).1, 8);
    assert_eq!(setting.driver.get(DATA + 0x1000, 8), b"question");
    setting.driver.put(DATA, b"answer");
    setting.driver.request(CHANNEL_TX, &[In(DATA, 6)]);
    let mut got = [0; 6];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"answer");
}

#[test]
fn a_lot_of_input_comes_through_whole_however_slow_the_guest_is() {
    let mut setting = setting("bulk", MULTIPORT);
    let mut client = setting.console.connect();
    let sent: Vec<u8> = (0..200_000u32).map(|number| u8::try_from(number % 251).unwrap()).collect();
    let copy = sent.clone();
    let writer = std::thread::spawn(move || {
        client.write_all(&copy).unwrap();
        client
    });
    let mut got = Vec::new();
    while got.len() < sent.len() {
        let length = setting.driver.request(RX, &[Out(DATA, 3000)]) as usize;
        assert!(length > 0);
        got.extend(setting.driver.get(DATA, length));
    }
    assert!(got == sent);
    drop(writer.join().unwrap());
}

#[test]
fn a_client_that_does_not_read_stops_no_guest() {
    let mut setting = setting("deaf", MULTIPORT);
    let _client = setting.console.connect();
    setting.driver.put(DATA, &[b'x'; 0x8000]);
    for _ in 0..100 {
        setting.driver.request(TX, &[In(DATA, 0x8000)]);
    }
    let dropped = setting.driver.handle.call(|console, _| console.dropped()).unwrap();
    assert!(dropped[0] > 1 << 20, "{dropped:?}");
}

#[test]
fn messages_that_make_no_sense_are_counted() {
    let mut setting = setting("nonsense", 0);
    setting.set_up();
    setting.say(2, control::PORT_READY, 1);
    setting.say(u32::MAX, control::PORT_OPEN, 1);
    setting.driver.request(CONTROL_TX, &[In(DATA, 7)]);
    setting.driver.request(CONTROL_TX, &[Out(DATA, 8)]);
    assert_eq!(setting.driver.handle.errors(), 4);
    for _ in 0..200 {
        setting.say(0, control::DEVICE_READY, 1);
    }
    let waiting = setting.driver.handle.call(|console, _| console.messages.len()).unwrap();
    assert_eq!(waiting, MESSAGES);
}

#[test]
fn a_console_goes_on_in_another_process_and_says_who_is_there_now() {
    let mut setting = setting("move", 0);
    setting.set_up();
    setting.say(1, control::PORT_OPEN, 1);
    let _gone = setting.channel.connect();
    assert_eq!(setting.hear(), (1, control::PORT_OPEN, 1, String::new()));
    let (console, first) = Socket::new("moved-0", Unheard::Keep);
    let (channel, second) = Socket::new("moved-1", Unheard::Drop);
    let device = Console::new(Some(first), Some(("org.kxl.test".to_owned(), second)));
    let driver = setting.driver.moved(device);
    let mut setting = Setting { driver, console, channel, next: setting.next };
    assert_eq!(setting.hear(), (1, control::PORT_OPEN, 0, String::new()));
    let mut client = setting.channel.connect();
    assert_eq!(setting.hear(), (1, control::PORT_OPEN, 1, String::new()));
    client.write_all(b"more").unwrap();
    assert_eq!(setting.driver.request(CHANNEL_RX, &[Out(DATA, 64)]), 4);
    setting.driver.put(DATA, b"shown");
    setting.driver.request(TX, &[In(DATA, 5)]);
    let mut viewer = setting.console.connect();
    let mut got = [0; 5];
    viewer.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"shown");
}
