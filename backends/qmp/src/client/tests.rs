//! The client against a scripted server at the other end of a socket pair.

use std::io::{IoSliceMut, Read};
use std::os::fd::FromRawFd;

use nix::sys::socket::{ControlMessageOwned, recvmsg};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::LocalSet;

use super::*;

const SOON: Duration = Duration::from_secs(90);
const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}}}"#;

/// Runs `client` against `server`, both on one thread as in a monitor.
fn run<C, S>(server: impl FnOnce(Server) -> S, client: impl FnOnce(UnixStream) -> C)
where
    C: Future<Output = ()>,
    S: Future<Output = ()> + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let served = tokio::task::spawn_local(server(Server {
            stream: theirs,
            decoder: Decoder::default(),
            seen: VecDeque::new(),
        }));
        client(ours).await;
        served.await.unwrap();
    });
}

struct Server {
    stream: UnixStream,
    decoder: Decoder,
    seen: VecDeque<Value>,
}

impl Server {
    async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    async fn command(&mut self) -> Value {
        let mut buffer = [0; 512];
        loop {
            if let Some(value) = self.seen.pop_front() {
                return value;
            }
            let count = self.stream.read(&mut buffer).await.unwrap();
            assert!(count > 0, "the client hung up");
            for frame in self.decoder.feed(&buffer[..count]) {
                let Frame::Document(value) = frame else { panic!("junk from the client") };
                self.seen.push_back(value);
            }
        }
    }

    async fn welcome(&mut self) {
        self.say(GREETING).await;
        let command = self.command().await;
        assert_eq!(command["execute"], "qmp_capabilities");
        self.say(&json!({"return": {}, "id": command["id"]}).to_string()).await;
    }
}

async fn connect(stream: UnixStream) -> (Client, mpsc::UnboundedReceiver<Event>) {
    Client::connect(stream, SOON).await.unwrap()
}

#[test]
fn answers_find_their_command_whatever_comes_between() {
    run(
        |mut server| async move {
            server.welcome().await;
            let (a, b) = (server.command().await, server.command().await);
            assert_eq!((&a["execute"], &b["execute"]), (&json!("first"), &json!("second")));
            server.say("junk}}{\"event\": \"NOVELTY\", \"x\": 1}{\"return\": 9, \"id\": 77}").await;
            server.say(&json!({"return": 2, "id": b["id"]}).to_string()).await;
            server.say(&json!({"return": 1, "id": a["id"]}).to_string()).await;
        },
        |stream| async move {
            let (client, mut events) = connect(stream).await;
            assert_eq!(client.greeting().version, [7, 2, 0]);
            let (first, second) = tokio::join!(
                client.execute("first", None, SOON),
                client.execute("second", Some(json!({"y": 1})), SOON),
            );
            assert_eq!(second.unwrap(), json!(2));
            assert_eq!(first.unwrap(), json!(1));
            assert_eq!(events.recv().await.unwrap().name, "NOVELTY");
            assert!(events.recv().await.is_none(), "the server has hung up");
        },
    );
}

#[test]
fn answers_without_ids_are_taken_in_order_also_after_a_timeout() {
    run(
        |mut server| async move {
            server.welcome().await;
            for _ in 0..3 {
                server.command().await;
            }
            server.say("{\"return\": 1}{\"return\": 2}").await;
            server.say("{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no\"}}").await;
        },
        |stream| async move {
            let (client, _events) = connect(stream).await;
            let slow = client.execute("slow", None, Duration::from_millis(1)).await.unwrap_err();
            assert!(slow.is_timeout(), "{slow}");
            let (second, third) =
                tokio::join!(client.execute("b", None, SOON), client.execute("c", None, SOON));
            assert_eq!(second.unwrap(), json!(2), "1 belonged to the command given up");
            assert!(third.unwrap_err().is_unknown_command());
        },
    );
}

#[test]
fn a_lost_connection_is_a_typed_error_for_what_is_outstanding_and_what_follows() {
    run(
        |mut server| async move {
            server.welcome().await;
            server.command().await;
        },
        |stream| async move {
            let (client, _events) = connect(stream).await;
            let error = client.execute("cont", None, SOON).await.unwrap_err();
            assert!(matches!(&error, QmpError::Closed { command } if command == "cont"), "{error}");
            let error = client.execute("stop", None, SOON).await.unwrap_err();
            assert!(matches!(&error, QmpError::Closed { command } if command == "stop"), "{error}");
        },
    );
}

#[test]
fn a_server_that_never_negotiates_is_accepted() {
    run(
        |mut server| async move {
            server.say(GREETING).await;
            let id = server.command().await["id"].clone();
            let error = json!({"error": {"class": "CommandNotFound", "desc": "unknown"}, "id": id});
            server.say(&error.to_string()).await;
        },
        |stream| async move {
            connect(stream).await;
        },
    );
}

#[test]
fn a_silent_or_absent_server_ends_in_an_error() {
    run(
        |_server| async {},
        |stream| async move {
            let error = Client::connect(stream, SOON).await.unwrap_err();
            assert!(matches!(error, QmpError::Closed { .. }), "{error}");
            let (silent, _other) = UnixStream::pair().unwrap();
            let error = Client::connect(silent, Duration::from_millis(1)).await.unwrap_err();
            assert!(error.is_timeout(), "{error}");
        },
    );
}

#[test]
fn a_server_that_does_not_read_blocks_nobody_and_pins_little_memory() {
    let (enough, until) = oneshot::channel::<()>();
    run(
        |mut server| async move {
            server.welcome().await;
            // Kept open and unread until the client has had enough.
            let _enough = until.await;
        },
        |stream| async move {
            let (client, _events) = connect(stream).await;
            let long = Some(json!("x".repeat(64 << 10)));
            let mut errors = Vec::new();
            for _ in 0..20 {
                let deadline = Duration::from_millis(1);
                errors.push(client.execute("blob", long.clone(), deadline).await.unwrap_err());
            }
            assert!(errors.iter().any(|error| matches!(error, QmpError::Blocked { .. })));
            assert!(errors.iter().all(QmpError::is_timeout), "{errors:?}");
            drop(enough);
        },
    );
}

#[test]
fn a_descriptor_travels_with_its_command() {
    run(
        |mut server| async move {
            server.welcome().await;
            server.stream.readable().await.unwrap();
            let mut bytes = [0; 512];
            let mut space = nix::cmsg_space!([i32; 1]);
            let mut iov = [IoSliceMut::new(&mut bytes)];
            let message = server
                .stream
                .try_io(Interest::READABLE, || {
                    let raw = server.stream.as_raw_fd();
                    Ok(recvmsg::<()>(raw, &mut iov, Some(&mut space), MsgFlags::empty())?)
                })
                .unwrap();
            let Some(ControlMessageOwned::ScmRights(fds)) = message.cmsgs().unwrap().next() else {
                panic!("no descriptor")
            };
            let count = message.bytes;
            // SAFETY: recvmsg has just made it for us.
            #[allow(unsafe_code, reason = "taking over a received descriptor")]
            let mut file = unsafe { std::fs::File::from_raw_fd(fds[0]) };
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            let Frame::Document(command) = Decoder::default().feed(&bytes[..count]).remove(0)
            else {
                panic!("no command")
            };
            server.say(&json!({"return": text, "id": command["id"]}).to_string()).await;
        },
        |stream| async move {
            let (client, _events) = connect(stream).await;
            let (read, write) = nix::unistd::pipe().unwrap();
            nix::unistd::write(&write, b"hello").unwrap();
            drop(write);
            let name = Some(json!({"fdname": "x"}));
            let answer = client.execute_with_fd("getfd", name, read, SOON).await.unwrap();
            assert_eq!(answer, json!("hello"));
        },
    );
}
