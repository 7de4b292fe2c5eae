//! A `kxl-vmm` with the Linux test guest in it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kxl_tests::qmp::Qmp;

use crate::support::guest::{Counter, built};
use crate::support::host::programs;

/// Longest wait for anything in the lab, where everything is emulated twice.
pub(super) const LONG: Duration = Duration::from_secs(300);

/// A machine; killed when dropped.
pub(super) struct Machine {
    child: Child,
    keys: ChildStdin,
    screen: Arc<Mutex<Vec<u8>>>,
    read: usize,
    name: String,
}

/// The path of something that belongs to a machine.
pub(super) fn path(name: &str) -> PathBuf {
    PathBuf::from("/tmp").join(name)
}

impl Machine {
    /// Starts one with these arguments only, and its serial port here.
    pub(super) fn start(name: &str, args: &[&str]) -> Self {
        let mut command = Command::new(programs().join("kxl-vmm"));
        command
            .args(["-name", name, "-serial", "stdio", "-hotplug-dir", "/tmp", "-qmp"])
            .arg(format!("unix:/tmp/{name}.qmp"))
            .args(args);
        Self::of(name, &mut command)
    }

    /// A machine that is run by any program, with its serial port on standard input and output.
    pub(super) fn of(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(path(&format!("{name}.err"))).unwrap())
            .spawn()
            .unwrap();
        let keys = child.stdin.take().unwrap();
        let screen = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&screen);
        let mut stdout = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut chunk) {
                shared.lock().unwrap().extend(&chunk[..count]);
            }
        });
        Self { child, keys, screen, read: 0, name: name.to_owned() }
    }

    /// Boots the test guest; `words` are those of its command line. The kernel is the one that
    /// need not unpack itself.
    pub(super) fn boot(name: &str, words: &str, args: &[&str]) -> Self {
        Self::boot_kernel("vmlinux", name, words, args)
    }

    /// Boots the test guest with this form of its kernel.
    pub(super) fn boot_kernel(kernel: &str, name: &str, words: &str, args: &[&str]) -> Self {
        let kernel = built(kernel).unwrap();
        let initrd = built("initramfs.cpio.gz").unwrap();
        let append = format!("console=ttyS0 quiet panic=-1 tick=100 {words}");
        let mut all = vec!["-kernel", kernel.to_str().unwrap(), "-append", &append];
        all.extend(["-initrd", initrd.to_str().unwrap()]);
        all.extend(args);
        Self::start(name, &all)
    }

    /// The same, once its init is ready.
    pub(super) fn ready(name: &str, words: &str, args: &[&str]) -> Self {
        let mut machine = Self::boot(name, words, args);
        machine.expect("READY");
        machine
    }

    /// Everything on its screen.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    /// What the process had to say.
    pub(super) fn said(&self) -> String {
        std::fs::read_to_string(path(&format!("{}.err", self.name))).unwrap_or_default()
    }

    /// Types.
    pub(super) fn send(&mut self, text: &str) {
        self.keys.write_all(text.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Waits for `text` after what was expected before; the rest of its line as far as it is there.
    pub(super) fn expect(&mut self, text: &str) {
        let wanted = text.as_bytes();
        self.until(&format!("{text:?} on the screen"), |machine| {
            let screen = machine.screen.lock().unwrap();
            let rest = &screen[machine.read..];
            let at = rest.windows(wanted.len()).position(|window| window == wanted)?;
            Some(machine.read + at + wanted.len())
        })
        .map_or_else(|()| unreachable!("until fails by itself"), |read| self.read = read);
    }

    /// Types `text` and waits for the whole line that begins with `start`.
    pub(super) fn ask(&mut self, text: &str, start: &str) -> String {
        self.send(text);
        let line = self.until(&format!("a line {start:?}"), |machine| {
            let screen = machine.screen.lock().unwrap();
            let rest = String::from_utf8_lossy(&screen[machine.read..]).into_owned();
            let (whole, _) = rest.rsplit_once('\n')?;
            whole.lines().map(str::trim_end).find(|line| line.starts_with(start)).map(str::to_owned)
        });
        let line = line.unwrap_or_default();
        self.expect(&line);
        line
    }

    /// Runs a command in the guest's shell, which has been entered; its output.
    pub(super) fn shell(&mut self, command: &str) -> String {
        // What is echoed has quotes in it, what is printed has not.
        self.send(&format!("echo BEG''IN; {command}; echo EN''D $?\n"));
        self.expect("BEGIN\r\n");
        let from = self.read;
        self.expect("END ");
        let to = self.read;
        self.expect("guest# ");
        let screen = self.screen.lock().unwrap();
        let said = String::from_utf8_lossy(&screen[from..to]).replace('\r', "");
        let status = String::from_utf8_lossy(&screen[to..self.read]).into_owned();
        assert!(status.starts_with('0'), "{command}: {said}{status}");
        said.trim_end_matches("END ").to_owned()
    }

    /// Enters the guest's shell.
    pub(super) fn enter(&mut self) {
        self.send("s");
        self.expect("guest# ");
    }

    /// The last count on the screen.
    pub(super) fn count(&self) -> u64 {
        Counter::Linux.last(&self.text()).unwrap_or(0)
    }

    /// Waits until the counter is beyond `count`.
    pub(super) fn counts_beyond(&mut self, count: u64) -> u64 {
        let what = format!("a count beyond {count}");
        self.until(&what, |machine| Some(machine.count()).filter(|now| *now > count)).unwrap()
    }

    /// Asks again and again.
    fn until<T>(&mut self, what: &str, look: impl Fn(&Self) -> Option<T>) -> Result<T, ()> {
        let end = Instant::now() + LONG;
        loop {
            if let Some(found) = look(self) {
                return Ok(found);
            }
            let gone = self.child.try_wait().unwrap();
            assert!(
                gone.is_none() && Instant::now() < end,
                "no {what} ({gone:?}); it said: {}\nand its guest:\n{}",
                self.said(),
                self.text()
            );
            // Another process brings it about.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A client of its api-channel.
    pub(super) fn qmp(&self) -> Qmp {
        Qmp::connect(&path(&format!("{}.qmp", self.name)), LONG)
            .unwrap_or_else(|error| panic!("{error}: {}", self.said()))
    }

    /// Waits for its end; the status, or the negative number of a signal.
    pub(super) fn ended(mut self) -> i32 {
        let end = Instant::now() + LONG;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().or(status.signal().map(|signal| -signal)).unwrap();
            }
            assert!(Instant::now() < end, "it does not end: {}\n{}", self.said(), self.text());
            // Another process ends, of which nothing is to be heard here.
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
