//! A `kxl-vmm` with a tiny guest, and what is said to both.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use kxl_tests::qmp::Qmp;

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
    /// What is typed; none where the input is somebody else's.
    keys: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: PathBuf,
    socket: PathBuf,
}

impl Vmm {
    /// Starts one; its files and sockets are in `place` under `name`.
    pub(crate) fn start(place: &Place, name: &str, args: &[&str]) -> Self {
        Self::fed(place, name, args, Stdio::piped())
    }

    /// The same with this as its standard input.
    pub(crate) fn fed(place: &Place, name: &str, args: &[&str], input: Stdio) -> Self {
        let socket = place.0.join(format!("{name}.qmp"));
        let errors = place.0.join(format!("{name}.err"));
        let mut child = Command::new(env!("CARGO_BIN_EXE_kxl-vmm"))
            .args(["-name", name, "-serial", "stdio", "-hotplug-dir"])
            .arg(&place.0)
            .arg("-qmp")
            .arg(format!("unix:{}", socket.display()))
            .args(args)
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(File::create(&errors).unwrap())
            .spawn()
            .unwrap();
        let keys = child.stdin.take();
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
        let keys = self.keys.as_mut().unwrap();
        keys.write_all(&[byte as u8]).unwrap();
        keys.flush().unwrap();
    }

    /// The guest's next line.
    pub(crate) fn line(&self) -> String {
        self.lines
            .recv_timeout(LONG)
            .unwrap_or_else(|error| panic!("the guest says nothing ({error}): {}", self.said()))
    }

    /// What the guest says until it is heard no more.
    pub(crate) fn rest(&self) -> Vec<String> {
        self.lines.iter().collect()
    }

    /// Types a command; the guest's answer.
    pub(crate) fn ask(&mut self, byte: char) -> String {
        self.send(byte);
        self.line()
    }

    /// Types a command; the guest's answer, or none where the process ends instead.
    pub(crate) fn ask_or_end(&mut self, byte: char) -> Option<String> {
        // A process that has ended takes no command.
        if let Some(keys) = &mut self.keys {
            drop(keys.write_all(&[byte as u8]));
        }
        match self.lines.recv_timeout(LONG) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("neither an answer nor an end"),
        }
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
        Qmp::connect(&self.socket, LONG).unwrap_or_else(|error| panic!("{error}: {}", self.said()))
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

    /// Kills it.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
