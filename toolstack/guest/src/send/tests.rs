use super::*;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::thread;

fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("kxl-event-{name}-{}", std::process::id()));
    drop(fs::remove_file(&path));
    path
}

fn to(path: &std::path::Path, patience: Duration) -> Options {
    Options { port: Some(path.to_owned()), patience, ..Options::default() }
}

const LONG: Duration = Duration::from_secs(60);

/// A host that answers each message by what `answer` makes of its reference.
fn host(path: &std::path::Path, answer: fn(&str) -> String) -> thread::JoinHandle<String> {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let line = lines.find(|line| line.as_ref().is_ok_and(|line| !line.is_empty()));
        let line = line.unwrap().unwrap();
        let (message, reference) = line.split_once(" ref=").unwrap();
        (&stream).write_all(answer(reference).as_bytes()).unwrap();
        message.to_owned()
    })
}

#[test]
fn a_message_counts_when_the_host_has_taken_it() {
    let path = scratch("taken");
    let host = host(&path, |reference| format!("ok other\nok {reference}\n"));
    send(&Message::new("log").text("a b"), &to(&path, LONG)).unwrap();
    assert_eq!(host.join().unwrap(), "id=log text=\"a b\"");
    fs::remove_file(&path).unwrap();
}

#[test]
fn a_message_that_the_host_refuses_is_a_failure() {
    let path = scratch("refused");
    let host = host(&path, |reference| format!("no {reference} not this one\n"));
    let trouble = send(&Message::new("started"), &to(&path, LONG)).unwrap_err();
    assert_eq!(trouble.code(), 6);
    assert_eq!(trouble.to_string(), "the host refuses the message: not this one");
    host.join().unwrap();
    fs::remove_file(&path).unwrap();
}

#[test]
fn a_host_that_says_nothing_is_waited_for_no_longer_than_asked() {
    let path = scratch("silent");
    let listener = UnixListener::bind(&path).unwrap();
    let patience = Duration::from_millis(200);
    let trouble = send(&Message::new("started"), &to(&path, patience)).unwrap_err();
    assert_eq!(trouble.code(), 4);
    drop(listener);
    fs::remove_file(&path).unwrap();
}

#[test]
fn a_console_gets_a_marked_line_of_its_own() {
    let path = scratch("console");
    fs::write(&path, "login: ").unwrap();
    let options = Options { console: Some(path.clone()), ..Options::default() };
    send(&Message::new("started"), &options).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "login: \n@@kxl-event id=started\n");
    fs::remove_file(&path).unwrap();
}

#[test]
fn lines_of_many_writers_never_mix() {
    let path = scratch("many");
    fs::write(&path, "").unwrap();
    let text = "x".repeat(400);
    thread::scope(|scope| {
        for n in 0..8 {
            let (options, text) = (to(&path, LONG), &text);
            scope.spawn(move || {
                let message = Message::new("log").with("n", &n.to_string()).text(text);
                (0..5).for_each(|_| send(&message, &options).unwrap());
            });
        }
    });
    let all = fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = all.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines.len(), 40);
    for line in lines {
        assert!(line.starts_with("id=log n=") && line.ends_with(&text), "{line}");
    }
    fs::remove_file(&path).unwrap();
}

#[test]
fn references_are_letters_and_digits_and_differ() {
    let (one, other) = (reference(), reference());
    assert_ne!(one, other);
    assert!(one.len() == 16 && one.bytes().all(|b| b.is_ascii_alphanumeric()));
}
