//! Clients as they come: several, slow, broken, gone.

use std::io::{Read, Write};
use std::net::Shutdown;

use serde_json::{Value, json};

use super::fake::{Client, Dir, Fake, Served};
use crate::api::notices::What;
use crate::api::{Api, Listener};

#[test]
fn the_next_client_waits_and_has_a_greeting_and_a_negotiation_of_its_own() {
    let served = Served::new("next");
    let capabilities = json!({"execute": "qmp_capabilities"});
    let mut first = served.greeted();
    let mut second = served.connect();
    second.say("{\"execute\":\"query-name\",\"id\":2}");
    first.returned(&capabilities);
    assert_eq!(first.refused(&capabilities).0, "CommandNotFound");
    // Not a word to the second before the first has gone.
    second.socket.set_nonblocking(true).unwrap();
    second.socket.read(&mut [0]).unwrap_err();
    second.socket.set_nonblocking(false).unwrap();
    drop(first);
    assert!(second.next().get("QMP").is_some());
    assert_eq!(second.next(), json!({"return": {"name": "fake"}, "id": 2}));
    second.returned(&capabilities);
    drop(second);
    served.greeted().returned(&capabilities);
    assert_eq!(served.end(), 9);
}

#[test]
fn each_socket_has_a_client_and_both_hear_what_happens() {
    let dir = Dir::new("two");
    let paths = [dir.path().join("a"), dir.path().join("b")];
    let listeners = paths.iter().map(|path| Listener::bind(path).unwrap()).collect();
    let mut fake = Fake::new();
    let notices = fake.notices.clone();
    let thread = std::thread::spawn(move || Api::open(listeners).serve(&mut fake).unwrap());
    let [mut one, mut other] = paths.map(|path| Client::new(&path));
    assert!(one.next().get("QMP").is_some() && other.next().get("QMP").is_some());
    let (events, _) = one.run(&json!({"execute": "stop"}));
    assert_eq!(events[0]["event"], "STOP");
    assert_eq!(other.next(), events[0]);
    notices.post(What::Exit(3));
    assert_eq!((one.maybe(), other.maybe()), (None, None));
    assert_eq!(thread.join().unwrap(), 3);
}

#[test]
fn a_client_that_sends_its_commands_and_closes_its_half_has_all_answers() {
    let served = Served::new("half");
    let mut client = served.connect();
    client.say("{\"execute\":\"stop\"}\n{\"execute\":\"query-status\"}");
    client.socket.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    client.socket.read_to_string(&mut text).unwrap();
    let lines: Vec<&str> = text.split_terminator("\r\n").collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines[3].contains("\"paused\""), "{text}");
    assert_eq!(served.end(), 9);
}

#[test]
fn what_a_client_asked_for_before_it_went_is_done() {
    let served = Served::new("gone");
    let mut client = served.connect();
    client.say("{\"execute\":\"stop\"}{\"execute\":\"quit\"}");
    drop(client);
    assert_eq!(served.ended(), 0);
}

#[test]
fn a_command_in_single_bytes_is_a_command_and_half_of_one_is_nothing() {
    let served = Served::new("bytes");
    let mut client = served.greeted();
    for byte in "{\"execute\":\"query-name\"}".bytes() {
        client.socket.write_all(&[byte]).unwrap();
    }
    assert_eq!(client.next(), json!({"return": {"name": "fake"}}));
    client.say("{\"execute\":\"qu");
    drop(client);
    assert_eq!(served.greeted().returned(&json!({"execute": "query-name"}))["name"], "fake");
    assert_eq!(served.end(), 9);
}

#[test]
fn broken_input_is_answered_and_survived() {
    let served = Served::new("broken");
    let mut client = served.greeted();
    client.say("stop\n");
    assert_eq!(client.next()["error"]["class"], "GenericError");
    client.say("\u{0}\u{1}{{{{]]]\"\n{\"execute\": \"query-name\", \"id\": [1.5, null]}");
    let mut refused = 0;
    let answer = loop {
        let next = client.next();
        if next.get("return").is_some() {
            break next;
        }
        assert_eq!(next["error"]["class"], "GenericError");
        refused += 1;
    };
    assert!(refused > 0);
    assert_eq!(answer["id"], json!([1.5, null]));
    assert_eq!(served.end(), 9);
}

#[test]
fn a_thousand_commands_at_once_are_answered_in_order() {
    let served = Served::new("flood");
    let mut client = served.greeted();
    let mut writer = client.socket.try_clone().unwrap();
    let asking = std::thread::spawn(move || {
        for id in 0..1000 {
            let name = if id % 2 == 0 { "query-commands" } else { "no-such-command" };
            writer.write_all(json!({"execute": name, "id": id}).to_string().as_bytes()).unwrap();
        }
    });
    for id in 0..1000 {
        let answer = client.next();
        assert_eq!(answer["id"], id);
        assert_eq!(answer.get("return").is_some(), id % 2 == 0);
    }
    asking.join().unwrap();
    assert_eq!(served.end(), 9);
}

#[test]
fn a_client_that_never_reads_stops_itself_and_keeps_nobody_from_ending() {
    let served = Served::new("deaf");
    let mut deaf = served.connect();
    deaf.socket.set_nonblocking(true).unwrap();
    // Until neither side takes any more.
    let mut sent = 0;
    while let Ok(count) = deaf.socket.write(b"{\"execute\":\"query-commands\"}") {
        sent += count;
        if count < 28 {
            break;
        }
    }
    assert!(sent > 0);
    // The machine goes on and is heard of elsewhere; its end is not held up.
    served.notices.post(What::Stop);
    assert_eq!(served.end(), 9);
}

#[test]
fn a_client_that_lets_events_pile_up_is_let_go() {
    let served = Served::new("pile");
    let deaf = served.connect();
    let mut next = served.connect();
    // No pause is needed: what is not taken at once has a bound of its own.
    let told = std::thread::spawn({
        let notices = served.notices.clone();
        move || {
            for _ in 0..60_000 {
                notices.post(What::Stop);
            }
        }
    });
    let mut first: Option<Value> = None;
    while first.as_ref().is_none_or(|value| value.get("QMP").is_none()) {
        first = Some(next.next());
    }
    told.join().unwrap();
    drop(deaf);
    assert_eq!(served.end(), 9);
}

#[test]
fn who_waits_already_is_greeted_before_there_is_a_machine() {
    let dir = Dir::new("early");
    let listener = Listener::bind(&dir.socket()).unwrap();
    let mut client = Client::new(&dir.socket());
    let api = Api::open(vec![listener]);
    assert!(client.next().get("QMP").is_some());
    client.say("{\"execute\":\"query-name\"}");
    let mut fake = Fake::new();
    // That it runs from the beginning on is not told; everything else is.
    fake.notices.post(What::Resume);
    fake.notices.post(What::Powerdown);
    let notices = fake.notices.clone();
    let thread = std::thread::spawn(move || api.serve(&mut fake).unwrap());
    assert_eq!(client.next()["event"], "POWERDOWN");
    assert_eq!(client.next(), json!({"return": {"name": "fake"}}));
    notices.post(What::Resume);
    assert_eq!(client.next()["event"], "RESUME");
    notices.post(What::Exit(0));
    assert_eq!(thread.join().unwrap(), 0);
}
