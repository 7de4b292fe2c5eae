//! Viewers of a console that come by telnet: a port of 127.0.0.1 of the kind that an emulator of its
//! own would have opened. They see what the other viewers see.
//!
//! Whoever is on this host can connect, so that a connection alone is worth little: the past is
//! shown to our own user and to root, the keyboard is had by typing, and a viewer that only looks
//! makes room for the next one.

use std::cell::RefCell;
use std::io;
use std::net::TcpListener;
use std::rc::{Rc, Weak};
use std::time::Duration;

use kxl_control::Attach;
use kxl_control::frame::Frame;
use kxl_process::peer;
use kxl_process::telnet::Telnet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::{Hub, Viewer};

/// How many may be connected at once.
const MOST: usize = 16;

/// How long a viewer may take to accept what was said.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pause after a connection that could not be accepted: too many open files, for one.
const PAUSE: Duration = Duration::from_millis(500);

/// Those that are connected.
#[derive(Default)]
struct Connected(RefCell<Vec<Seat>>);

struct Seat {
    id: u64,
    /// Of our own user or root.
    ours: bool,
    /// Tells it to go.
    leave: oneshot::Sender<()>,
}

impl Connected {
    /// A seat for one more. Where there is none, somebody who only looks has to go: strangers
    /// first, and then whoever came first; but no stranger takes a seat from one of ours.
    fn sit_down(&self, hub: &Hub, id: u64, ours: bool) -> Option<oneshot::Receiver<()>> {
        let mut seats = self.0.borrow_mut();
        if seats.len() >= MOST {
            let idle = seats.iter().enumerate().filter(|(_, seat)| !hub.is_writer(seat.id));
            let (at, seat) = idle.min_by_key(|(_, seat)| (seat.ours, seat.id))?;
            if seat.ours && !ours {
                return None;
            }
            let _gone_already = seats.swap_remove(at).leave.send(());
        }
        let (leave, told) = oneshot::channel();
        seats.push(Seat { id, ours, leave });
        Some(told)
    }

    fn stand_up(&self, id: u64) {
        self.0.borrow_mut().retain(|seat| seat.id != id);
    }
}

/// Accepts viewers for as long as this is polled and the hub is there.
pub(super) async fn listen(listener: TcpListener, hub: Weak<Hub>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%error, "the console is not offered to telnet");
            return;
        }
    };
    let connected = Rc::new(Connected::default());
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::info!(%error, "a viewer by telnet was not accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let ours = stream.local_addr().is_ok_and(|local| peer::is_ours(peer, local));
        let Some(hub) = hub.upgrade() else { return };
        admit(&hub, &connected, stream, ours);
    }
}

/// Makes a viewer of a connection, where there is a seat.
fn admit(hub: &Rc<Hub>, connected: &Rc<Connected>, mut stream: TcpStream, ours: bool) {
    let viewer = hub.attach(Attach { replay: ours, write: false, steal: false, window: None });
    let id = viewer.id();
    let Some(told) = connected.sit_down(hub, id, ours) else {
        say(&stream, "too many viewers");
        return;
    };
    let connected = Rc::clone(connected);
    tokio::task::spawn_local(async move {
        tokio::select! {
            done = serve(viewer, &mut stream) => {
                if let Err(error) = done {
                    tracing::debug!(%error, "a viewer by telnet");
                }
            }
            Ok(()) = told => say(&stream, "detached: too many viewers"),
        }
        connected.stand_up(id);
    });
}

/// A last word, for as much of it as is taken at once.
fn say(stream: &TcpStream, text: &str) {
    let _not_taken = stream.try_write(format!("\r\n[kxl: {text}]\r\n").as_bytes());
}

/// Serves one viewer until either side hangs up or the domain ends.
async fn serve(mut viewer: Viewer, stream: &mut TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut telnet, proposals) = Telnet::server();
    put(stream, &proposals).await?;
    let (mut chunk, mut typed) = (vec![0; 1024], Vec::new());
    let mut refused = false;
    loop {
        let input = viewer.input().filter(|_| !typed.is_empty());
        if input.is_none() {
            // Typing by somebody who may only read goes nowhere.
            typed.clear();
        }
        tokio::select! {
            frame = viewer.next() => match frame {
                Some(Frame::Data(bytes)) => put(stream, &telnet.put(&bytes)).await?,
                Some(Frame::Notice(text)) => put(stream, &notice(&telnet, &text)).await?,
                Some(Frame::End(text)) => return put(stream, &notice(&telnet, &text)).await,
                Some(Frame::Window(..)) => {}
                None => {
                    let text = "detached: this viewer could not follow the output";
                    return put(stream, &notice(&telnet, text)).await;
                }
            },
            count = stream.read(&mut chunk), if typed.is_empty() => match count? {
                0 => return Ok(()),
                count => {
                    let mut reply = Vec::new();
                    telnet.take(&chunk[..count], &mut typed, &mut reply);
                    put(stream, &reply).await?;
                    let claimed = typed.is_empty() || viewer.claim();
                    if !claimed && !refused {
                        let text = "another viewer has the keyboard: you can only read now";
                        put(stream, &notice(&telnet, text)).await?;
                    }
                    refused = !claimed;
                }
            },
            room = super::viewer::room(input.as_ref()), if input.is_some() => match room {
                Some(room) => room.send(std::mem::take(&mut typed)),
                None => typed.clear(),
            },
        }
    }
}

fn notice(telnet: &Telnet, text: &str) -> Vec<u8> {
    telnet.put(format!("\r\n[kxl: {text}]\r\n").as_bytes())
}

async fn put(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    tokio::time::timeout(PATIENCE, stream.write_all(bytes)).await.map_err(late)?
}

#[cfg(test)]
mod tests {
    use kxl_domain::config::model::Console;

    use super::*;

    #[test]
    fn a_viewer_by_telnet_sees_what_was_said_and_types_with_its_line_ends_made_plain() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let log = std::env::temp_dir().join(format!("kxl-telnet-{}", std::process::id()));
            let hub = Rc::new(Hub::new(log.clone(), &Console::default(), None));
            let (emulator, monitor) = tokio::net::UnixStream::pair().unwrap();
            let monitor = monitor.into_std().unwrap();
            let end = kxl_backend::ConsoleEnd::Socket { stream: monitor.into(), pace: None };
            hub.connect(end, "start");
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            let place = listener.local_addr().unwrap();
            hub.publish(listener);
            let (mut from, mut to) = emulator.into_split();
            to.write_all(b"a\xffb").await.unwrap();
            let mut viewer = TcpStream::connect(place).await.unwrap();
            let mut said = vec![0; 12 + 4];
            viewer.read_exact(&mut said).await.unwrap();
            assert!(said.ends_with(b"a\xff\xffb"), "{said:?}");
            viewer.write_all(b"\xff\xfd\x01yes\r\0").await.unwrap();
            let mut typed = vec![0; 4];
            from.read_exact(&mut typed).await.unwrap();
            assert_eq!(typed, b"yes\r");
            // The emulator's end closes the door, and those inside stay for the next one.
            drop((from, to));
            while TcpStream::connect(place).await.is_ok() {
                tokio::task::yield_now().await;
            }
            hub.end("the domain has ended");
            let mut rest = Vec::new();
            viewer.read_to_end(&mut rest).await.unwrap();
            assert!(String::from_utf8_lossy(&rest).contains("[kxl: the domain has ended]"));
            let _log = std::fs::remove_file(log);
        });
    }

    fn hub(name: &str) -> (Rc<Hub>, std::path::PathBuf) {
        let name = format!("kxl-telnet-{name}-{}", std::process::id());
        let log = std::env::temp_dir().join(name);
        (Rc::new(Hub::new(log.clone(), &Console::default(), None)), log)
    }

    async fn connection() -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[test]
    fn a_stranger_sees_what_is_said_from_now_on_and_nothing_of_the_past() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let (hub, log) = hub("past");
            hub.output(b"secret");
            let connected = Rc::new(Connected::default());
            for (ours, expected) in [(false, "later"), (true, "secretlaterlater")] {
                let (mut client, stream) = connection().await;
                admit(&hub, &connected, stream, ours);
                let (_, proposals) = Telnet::server();
                let mut said = vec![0; proposals.len()];
                client.read_exact(&mut said).await.unwrap();
                hub.output(b"later");
                let mut said = vec![0; expected.len()];
                client.read_exact(&mut said).await.unwrap();
                assert_eq!(String::from_utf8(said).unwrap(), expected);
            }
            let _log = std::fs::remove_file(log);
        });
    }

    #[test]
    fn those_who_only_look_lock_nobody_out() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let (hub, log) = hub("seats");
            let connected = Rc::new(Connected::default());
            let mut idle = Vec::new();
            for _ in 0..MOST + 4 {
                let (client, stream) = connection().await;
                admit(&hub, &connected, stream, false);
                idle.push(client);
            }
            let operator = Attach { replay: true, write: true, steal: false, window: None };
            let operator = hub.attach(operator);
            assert!(operator.is_writer(), "nobody has typed");
            let (mut client, stream) = connection().await;
            admit(&hub, &connected, stream, true);
            hub.output(b"hello");
            let mut said = Vec::new();
            while !said.ends_with(b"hello") {
                assert!(client.read_buf(&mut said).await.unwrap() > 0, "{said:?}");
            }
            // The first of them had to go, and was told why.
            let mut first = Vec::new();
            idle[0].read_to_end(&mut first).await.unwrap();
            assert!(String::from_utf8_lossy(&first).contains("too many viewers"), "{first:?}");
            let _log = std::fs::remove_file(log);
        });
    }

    #[test]
    fn a_stranger_takes_no_seat_from_an_operator_and_nobody_from_one_who_types() {
        let (hub, log) = hub("strangers");
        let attach =
            || hub.attach(Attach { replay: false, write: false, steal: false, window: None });
        let connected = Connected::default();
        let ours: Vec<_> = (0..MOST).map(|_| attach()).collect();
        assert!(ours[0].claim());
        let mut told: Vec<_> = ours
            .iter()
            .map(|viewer| connected.sit_down(&hub, viewer.id(), true).unwrap())
            .collect();
        let stranger = attach();
        assert!(connected.sit_down(&hub, stranger.id(), false).is_none());
        let operator = attach();
        assert!(connected.sit_down(&hub, operator.id(), true).is_some());
        told[0].try_recv().expect_err("who types stays");
        told[1].try_recv().expect("who came next and only looks makes room");
        let _log = std::fs::remove_file(log);
    }
}
