//! Charon's way of working, on the stand-in for its emulator (`tests/src/bin/charon-standin`):
//! the product itself is not at hand.

mod crash;
mod launch;
mod nics;
mod reboot;
mod steps;
mod stop_scripts;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::support::Host;
use crate::support::host::programs;
use crate::support::wait;

/// A configuration and the domain of it, not started yet.
struct Guest {
    name: &'static str,
    port: u16,
    file: PathBuf,
}

/// A port that is free for now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn standin() -> String {
    programs().join("charon-standin").display().to_string()
}

/// A configuration for the emulator.
fn configuration(host: &Host, name: &str, port: u16, more: &str) -> PathBuf {
    let text = format!(
        "set session hw_model = AlphaServer_DS20\nset session configuration_name = \"{name}\"\n\
         set COM1 alias=OPA0\nset OPA0 port={port} stop_on=\"F6\"\n{more}"
    );
    host.file(&format!("{name}.charon"), &text)
}

impl Guest {
    /// `more` are lines of the emulator's configuration, `keys` of the domain's.
    fn new(host: &Host, name: &'static str, more: &str, keys: &str) -> Self {
        let port = free_port();
        Self::at(host, name, port, more, keys)
    }

    fn at(host: &Host, name: &'static str, port: u16, more: &str, keys: &str) -> Self {
        Self::of(host, name, port, configuration(host, name, port, more), keys)
    }

    fn of(host: &Host, name: &'static str, port: u16, file: PathBuf, keys: &str) -> Self {
        Self::with_program(host, name, port, file, &standin(), keys)
    }

    fn with_program(
        host: &Host,
        name: &'static str,
        port: u16,
        file: PathBuf,
        program: &str,
        keys: &str,
    ) -> Self {
        let config = format!(
            "name = \"{name}\"\nbackend = \"charon\"\nexec = \"{program}\"\n\
             emulator_config = \"{}\"\n{keys}",
            file.display()
        );
        host.define(name, &config);
        Self { name, port, file }
    }

    fn start(&self, host: &Host) {
        host.ok(["start", self.name]);
    }

    /// An operator's telnet at the configured port.
    fn telnet(&self) -> Telnet {
        let stream = wait::until("the console's port is open", wait::SOON, || {
            TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        Telnet { stream, seen: Vec::new() }
    }
}

/// A client that negotiates nothing, as some do.
struct Telnet {
    stream: TcpStream,
    seen: Vec<u8>,
}

impl Telnet {
    fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    /// Waits for a text after what was expected before.
    fn expect(&mut self, text: &str) {
        let end = Instant::now() + wait::SOON;
        loop {
            let found = self.seen.windows(text.len()).position(|part| part == text.as_bytes());
            if let Some(at) = found {
                self.seen.drain(..at + text.len());
                return;
            }
            let shown = String::from_utf8_lossy(&self.seen).into_owned();
            assert!(Instant::now() < end, "{text:?} does not come, but {shown:?}");
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => panic!("hung up before {text:?}: {shown:?}"),
                Ok(count) => self.seen.extend(&chunk[..count]),
                Err(_) => {}
            }
        }
    }
}
