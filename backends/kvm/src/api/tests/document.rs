//! The session of the StratoVirt document, byte by byte.

use std::io::Read;
use std::time::{SystemTime, UNIX_EPOCH};

use super::fake::Served;

/// Reads as many bytes as `shape` has; each `#` of it stands for a number, and these are returned.
fn read(client: &mut impl Read, shape: &str) -> Vec<u64> {
    let mut numbers = Vec::new();
    let mut byte = || {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        char::from(byte[0])
    };
    let mut ahead = None;
    for expected in shape.chars() {
        if expected == '#' {
            let mut number = String::new();
            ahead = loop {
                match byte() {
                    digit if digit.is_ascii_digit() => number.push(digit),
                    other => break Some(other),
                }
            };
            numbers.push(number.parse().unwrap());
        } else {
            assert_eq!(ahead.take().unwrap_or_else(&mut byte), expected, "in {shape}");
        }
    }
    numbers
}

fn is_now(stamp: &[u64]) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(stamp[0] <= now && now - stamp[0] < 60, "{stamp:?} at {now}");
    assert!(stamp[1] < 1_000_000, "{stamp:?}");
}

#[test]
fn the_session_of_the_document_is_answered_byte_by_byte() {
    let served = Served::new("document");
    let mut client = served.connect();
    let greeting = "{\"QMP\":{\"version\":{\"qemu\":{\"micro\":1,\"minor\":0,\"major\":4},\
                    \"package\":\"\"},\"capabilities\":[]}}\r\n";
    assert!(read(&mut client.socket, greeting).is_empty());

    let stamp = "\"timestamp\":{\"seconds\":#,\"microseconds\":#}}\r\n";
    let sessions = [
        ("{\"execute\":\"stop\"}\n", "{\"event\":\"STOP\",\"data\":{},"),
        ("{\"execute\":\"cont\"}\n", "{\"event\":\"RESUME\",\"data\":{},"),
        // The document's `ds` is a misprint for `seconds`.
        (
            "{\"execute\":\"quit\"}\n",
            "{\"event\":\"SHUTDOWN\",\"data\":{\"guest\":false,\"reason\":\"host-qmp-quit\"},",
        ),
    ];
    for (command, event) in sessions {
        client.say(command);
        is_now(&read(&mut client.socket, &format!("{event}{stamp}")));
        read(&mut client.socket, "{\"return\":{}}\r\n");
    }
    let mut rest = Vec::new();
    client.socket.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty(), "{rest:?}");
    assert_eq!(served.ended(), 0);
}

#[test]
fn a_stop_while_it_stands_still_and_a_cont_while_it_runs_have_no_events() {
    let served = Served::new("still");
    let mut client = served.connect();
    client.say(
        "{\"execute\":\"stop\"}{\"execute\":\"stop\"}{\"execute\":\"cont\"}{\"execute\":\"cont\"}",
    );
    assert!(client.next().get("QMP").is_some());
    let mut seen = Vec::new();
    for _ in 0..6 {
        let next = client.next();
        seen.push(next.get("event").map_or("answer".into(), ToString::to_string));
    }
    assert_eq!(seen, ["\"STOP\"", "answer", "answer", "\"RESUME\"", "answer", "answer"]);
    assert_eq!(served.end(), 9);
}
