//! Viewers of a console that come by telnet: a port of 127.0.0.1 of the kind that an emulator of its
//! own would have opened. They see what the other viewers see; the first that may write does.

use std::io;
use std::net::TcpListener;
use std::rc::{Rc, Weak};
use std::time::Duration;

use kxl_control::Attach;
use kxl_control::frame::Frame;
use kxl_process::telnet::Telnet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Hub, Viewer};

/// How many may be connected at once.
const MOST: usize = 16;

/// How long a viewer may take to accept what was said.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pause after a connection that could not be accepted: too many open files, for one.
const PAUSE: Duration = Duration::from_millis(500);

/// Accepts viewers for as long as this is polled and the hub is there.
pub(super) async fn listen(listener: TcpListener, hub: Weak<Hub>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%error, "the console is not offered to telnet");
            return;
        }
    };
    let connected = Rc::new(());
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::info!(%error, "a viewer by telnet was not accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if Rc::strong_count(&connected) > MOST {
            continue;
        }
        let Some(hub) = hub.upgrade() else { return };
        let viewer = hub.attach(Attach { replay: true, write: true, steal: false, window: None });
        let count = Rc::clone(&connected);
        tokio::task::spawn_local(async move {
            if let Err(error) = serve(viewer, stream).await {
                tracing::debug!(%error, "a viewer by telnet");
            }
            drop(count);
        });
    }
}

/// Serves one viewer until either side hangs up or the domain ends.
async fn serve(mut viewer: Viewer, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut telnet, proposals) = Telnet::server();
    put(&mut stream, &proposals).await?;
    if !viewer.is_writer() {
        put(
            &mut stream,
            &notice(&telnet, "another viewer has the keyboard: you can only read now"),
        )
        .await?;
    }
    let (mut chunk, mut typed) = (vec![0; 1024], Vec::new());
    loop {
        let input = viewer.input().filter(|_| !typed.is_empty());
        if input.is_none() {
            // Typing by somebody who may only read goes nowhere.
            typed.clear();
        }
        tokio::select! {
            frame = viewer.next() => match frame {
                Some(Frame::Data(bytes)) => put(&mut stream, &telnet.put(&bytes)).await?,
                Some(Frame::Notice(text)) => put(&mut stream, &notice(&telnet, &text)).await?,
                Some(Frame::End(text)) => return put(&mut stream, &notice(&telnet, &text)).await,
                Some(Frame::Window(..)) => {}
                None => {
                    let text = "detached: this viewer could not follow the output";
                    return put(&mut stream, &notice(&telnet, text)).await;
                }
            },
            count = stream.read(&mut chunk), if typed.is_empty() => match count? {
                0 => return Ok(()),
                count => {
                    let mut reply = Vec::new();
                    telnet.take(&chunk[..count], &mut typed, &mut reply);
                    put(&mut stream, &reply).await?;
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
}
