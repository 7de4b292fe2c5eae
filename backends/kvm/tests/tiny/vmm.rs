//! A `kxl-vmm` with a tiny guest, and what is said to both.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Longest wait for anything. A test that waits so long has failed.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// A directory that is removed when dropped.
pub(crate) struct Place(pub(crate) PathBuf);

impl Place {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("kxl-vmm-tiny-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// A path in it.
    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// A file in it.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.0.join(name), bytes).unwrap();
        self.path(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A process with its serial line on standard input and output.
pub(crate) struct Vmm {
    child: Child,
    keys: ChildStdin,
    lines: Receiver<String>,
    errors: PathBuf,
    socket: PathBuf,
}

impl Vmm {
    /// Starts one; its files and sockets are in `place` under `name`.
    pub(crate) fn start(place: &Place, name: &str, args: &[&str]) -> Self {
        let socket = place.0.join(format!("{name}.qmp"));
        let errors = place.0.join(format!("{name}.err"));
        let mut child = Command::new(env!("CARGO_BIN_EXE_kxl-vmm"))
            .args(["-name", name, "-serial", "stdio", "-hotplug-dir"])
            .arg(&place.0)
            .arg("-qmp")
            .arg(format!("unix:{}", socket.display()))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors).unwrap())
            .spawn()
            .unwrap();
        let keys = child.stdin.take().unwrap();
        let (sender, lines) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, keys, lines, errors, socket }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it had to say.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.errors).unwrap_or_default()
    }

    /// Types a command to the guest.
    pub(crate) fn send(&mut self, byte: char) {
        self.keys.write_all(&[byte as u8]).unwrap();
        self.keys.flush().unwrap();
    }

    /// The guest's next line.
    pub(crate) fn line(&self) -> String {
        self.lines
            .recv_timeout(LONG)
            .unwrap_or_else(|error| panic!("the guest says nothing ({error}): {}", self.said()))
    }

    /// Types a command; the guest's answer.
    pub(crate) fn ask(&mut self, byte: char) -> String {
        self.send(byte);
        self.line()
    }

    /// Fails unless the guest's next line is this.
    pub(crate) fn expect(&self, line: &str) {
        assert_eq!(self.line(), line, "{}", self.said());
    }

    /// The guest's ticks.
    pub(crate) fn ticks(&mut self) -> u32 {
        u32::from_str_radix(&self.ask('n'), 16).unwrap()
    }

    /// Whether the guest has said something that nobody has read.
    pub(crate) fn silent(&self) -> bool {
        self.lines.try_recv().is_err()
    }

    /// A new client of its api-channel.
    pub(crate) fn qmp(&self) -> Qmp {
        Qmp::connect(&self.socket).unwrap_or_else(|error| panic!("{error}: {}", self.said()))
    }

    /// Waits for its end; the status, or the negative number of a signal.
    pub(crate) fn ended(mut self) -> i32 {
        let end = Instant::now() + LONG;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                let signal = status.signal().map(|signal| -signal);
                return status.code().or(signal).unwrap();
            }
            assert!(Instant::now() < end, "it does not end: {}", self.said());
            // Another process ends, of which nothing is to be heard here.
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A client of an api-channel.
pub(crate) struct Qmp {
    stream: UnixStream,
    input: BufReader<UnixStream>,
    /// Events that came before an answer.
    events: Vec<Value>,
}

impl Qmp {
    /// Connects, waiting for the socket to appear, and leaves the greeting behind.
    fn connect(path: &Path) -> std::io::Result<Self> {
        let end = Instant::now() + LONG;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > end => return Err(error),
                // Another process makes it.
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        stream.set_read_timeout(Some(LONG))?;
        let input = BufReader::new(stream.try_clone()?);
        let mut qmp = Self { stream, input, events: Vec::new() };
        let greeting = qmp.message();
        assert!(greeting["QMP"].is_object(), "{greeting}");
        qmp.ok("qmp_capabilities", &json!({}));
        Ok(qmp)
    }

    fn message(&mut self) -> Value {
        let mut values = serde_json::Deserializer::from_reader(ByteByByte(&mut self.input));
        serde::Deserialize::deserialize(&mut values).unwrap_or_else(|error| panic!("qmp: {error}"))
    }

    /// A command; the whole answer.
    pub(crate) fn ask(&mut self, command: &str, arguments: &Value) -> Value {
        let message = json!({"execute": command, "arguments": arguments});
        self.stream.write_all(message.to_string().as_bytes()).unwrap();
        loop {
            let answer = self.message();
            if answer.get("event").is_none() {
                return answer;
            }
            self.events.push(answer);
        }
    }

    /// A command that has to succeed; what it returns.
    pub(crate) fn ok(&mut self, command: &str, arguments: &Value) -> Value {
        let answer = self.ask(command, arguments);
        assert!(answer.get("return").is_some(), "{command}: {answer}");
        answer["return"].clone()
    }

    /// Waits for an event; what it carries.
    pub(crate) fn event(&mut self, name: &str) -> Value {
        loop {
            if let Some(at) = self.events.iter().position(|event| event["event"] == name) {
                return self.events.remove(at)["data"].clone();
            }
            let message = self.message();
            assert!(message.get("event").is_some(), "{message}");
            self.events.push(message);
        }
    }

    /// What `query-status` says.
    pub(crate) fn status(&mut self) -> String {
        self.ok("query-status", &json!({}))["status"].as_str().unwrap().to_owned()
    }
}

/// Reads no further than it has to: a parser of a stream would keep what it has read too much.
struct ByteByByte<'a>(&'a mut BufReader<UnixStream>);

impl Read for ByteByByte<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let take = buffer.len().min(1);
        self.0.read(&mut buffer[..take])
    }
}
