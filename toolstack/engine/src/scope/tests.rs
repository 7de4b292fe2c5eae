//! A manager on a socket of the test's: it reads the call as systemd would, byte by byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;

use super::*;

/// A socket that is removed again.
struct Socket(PathBuf);

impl Socket {
    fn new(name: &str) -> (Self, UnixListener) {
        let file = format!("kxl-scope-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(file);
        let listener = UnixListener::bind(&path).unwrap();
        (Self(path), listener)
    }

    fn manager(&self) -> Manager {
        Manager { socket: self.0.clone(), of_host: true }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _leftover = std::fs::remove_file(&self.0);
    }
}

fn name(text: &str) -> DomainName {
    DomainName::new(text).unwrap()
}

/// Takes one connection, its greeting and its call; answers with what `answer` makes. Gives both.
fn serve(listener: UnixListener, answer: Vec<u8>) -> JoinHandle<(Vec<u8>, Vec<u8>)> {
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut greeting = Vec::new();
        for _ in 0..2 {
            reader.read_until(b'\n', &mut greeting).unwrap();
        }
        let mut call = vec![0; 16];
        reader.read_exact(&mut call).unwrap();
        let number = |at: usize| {
            usize::try_from(u32::from_ne_bytes(call[at..at + 4].try_into().unwrap())).unwrap()
        };
        let rest = number(12).next_multiple_of(8) + number(4);
        let mut more = vec![0; rest];
        reader.read_exact(&mut more).unwrap();
        call.extend(more);
        stream.write_all(b"OK 0123456789abcdef\r\n").unwrap();
        stream.write_all(&answer).unwrap();
        // Kept open until the other side has heard enough.
        let _gone = stream.read(&mut [0]);
        (greeting, call)
    })
}

/// A message with a header of these fields; texts, but for the numbered reply.
fn message(kind: u8, fields: &[(u8, &str)], reply: Option<u32>, body: &[u8]) -> Vec<u8> {
    let mut head = Vec::new();
    let pad = |bytes: &mut Vec<u8>, to: usize| bytes.resize(bytes.len().next_multiple_of(to), 0);
    for (code, text) in fields {
        pad(&mut head, 8);
        head.extend([*code, 1, b's', 0]);
        head.extend(u32::try_from(text.len()).unwrap().to_ne_bytes());
        head.extend(text.as_bytes());
        head.push(0);
    }
    if let Some(serial) = reply {
        pad(&mut head, 8);
        head.extend([5, 1, b'u', 0]);
        head.extend(serial.to_ne_bytes());
    }
    let order = if cfg!(target_endian = "little") { b'l' } else { b'B' };
    let mut bytes = vec![order, kind, 0, 1];
    for number in [body.len(), 7, head.len()] {
        bytes.extend(u32::try_from(number).unwrap().to_ne_bytes());
    }
    bytes.extend(&head);
    pad(&mut bytes, 8);
    bytes.extend(body);
    bytes
}

fn texts(texts: &[&str]) -> Vec<u8> {
    let mut body = Body::default();
    texts.iter().for_each(|text| body.text(text));
    bytes_of(&body)
}

/// The bytes of values, by way of a call around them.
fn bytes_of(body: &Body) -> Vec<u8> {
    let whole = wire::call(1, "/", "a.b", "c", "s", body);
    let empty = wire::call(1, "/", "a.b", "c", "s", &Body::default());
    whole[empty.len()..].to_vec()
}

/// The word that a job is over.
fn over(unit: &str, result: &str) -> Vec<u8> {
    let mut body = Body::default();
    body.number(77);
    body.text("/org/freedesktop/systemd1/job/77");
    body.text(unit);
    body.text(result);
    message(4, &[(3, "JobRemoved"), (1, "/org/freedesktop/systemd1")], None, &bytes_of(&body))
}

#[test]
fn a_process_is_placed_when_its_own_job_is_done() {
    let (socket, listener) = Socket::new("done");
    let mut answer = message(4, &[(3, "UnitNew")], None, &texts(&["x"]));
    answer.extend(over("other.scope", "failed"));
    answer.extend(message(2, &[], Some(1), &texts(&["/org/freedesktop/systemd1/job/77"])));
    answer.extend(over("kxl-web-4711.scope", "done"));
    let served = serve(listener, answer);
    assert_eq!(socket.manager().place(4711, &name("web")).unwrap(), "kxl-web-4711.scope");
    let (greeting, call) = served.join().unwrap();
    let user: String = geteuid().to_string().bytes().map(|b| format!("{b:02x}")).collect();
    assert_eq!(
        String::from_utf8(greeting).unwrap(),
        format!("\0AUTH EXTERNAL {user}\r\nBEGIN\r\n")
    );
    let text = String::from_utf8_lossy(&call);
    for part in ["StartTransientUnit", "ssa(sv)a(sa(sv))", "Domain web", "kxl-domains.service"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let pid = 4711_u32.to_ne_bytes();
    assert!(call.windows(4).any(|four| four == pid), "the process is named");
}

#[test]
fn an_array_counts_its_elements_and_not_the_space_before_them() {
    let mut body = Body::default();
    body.array(8, |all| all.property("a", "s", |value| value.text("b")));
    let number = |value: u32| value.to_ne_bytes().to_vec();
    let wanted = [
        number(18),
        vec![0; 4],
        number(1),
        b"a\0".to_vec(),
        b"\x01s\0".to_vec(),
        vec![0; 3],
        number(1),
        b"b\0".to_vec(),
    ];
    assert_eq!(bytes_of(&body), wanted.concat());
}

#[test]
fn what_a_manager_refuses_is_told_with_its_words() {
    let (socket, listener) = Socket::new("refused");
    let error = (4, "org.freedesktop.systemd1.UnitExists");
    let served = serve(listener, message(3, &[error], Some(1), &texts(&["it is there"])));
    let failure = socket.manager().place(1, &name("a+b")).unwrap_err().to_string();
    served.join().unwrap();
    assert!(failure.contains("kxl-a\\x2b" /* a plus */), "{failure}");
    assert!(failure.ends_with("systemd1.UnitExists: it is there"), "{failure}");
}

#[test]
fn a_job_that_came_to_nothing_is_no_place() {
    let (socket, listener) = Socket::new("canceled");
    let served = serve(listener, over("kxl-a-5.scope", "canceled"));
    let failure = socket.manager().place(5, &name("a")).unwrap_err();
    served.join().unwrap();
    assert!(matches!(&failure, Unplaced::GivenUp { result, .. } if result == "canceled"));
}

#[test]
fn a_manager_that_talks_nonsense_or_is_not_there_costs_nothing_but_the_scope() {
    let mut long = message(4, &[(3, "JobRemoved")], None, &[]);
    long[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
    let mut cut = over("kxl-a-5.scope", "done");
    cut.truncate(40);
    // The length of a field that reaches beyond its header.
    let mut field = over("kxl-a-5.scope", "done");
    field[20..24].copy_from_slice(&9999_u32.to_ne_bytes());
    for (at, answer) in [long, field, b"HTTP/1.1 400 Bad Request".to_vec()].into_iter().enumerate()
    {
        let (socket, listener) = Socket::new(&format!("nonsense{at}"));
        let served = serve(listener, answer);
        let failure = socket.manager().place(5, &name("a")).unwrap_err();
        served.join().unwrap();
        assert!(matches!(failure, Unplaced::Answer(_)), "{at}: {failure}");
    }
    let (socket, listener) = Socket::new("gone");
    let served = std::thread::spawn(move || {
        let (mut stream, _): (UnixStream, _) = listener.accept().unwrap();
        stream.write_all(b"OK x\r\n").unwrap();
        stream.write_all(&cut).unwrap();
    });
    let failure = socket.manager().place(5, &name("a")).unwrap_err();
    served.join().unwrap();
    assert!(matches!(failure, Unplaced::Answer(_) | Unplaced::Unreached { .. }), "{failure}");
    let nobody = Manager { socket: "/nonexistent/private".into(), of_host: true };
    let failure = nobody.place(5, &name("a")).unwrap_err();
    assert!(matches!(failure, Unplaced::Unreached { .. }), "{failure}");
}
