//! The emulator that is the lab's hardware: its command line, its console and its monitor.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::contents::JOB;

/// Longest silence of the lab: it ends each job in time and says so.
const SILENCE: Duration = JOB.saturating_add(Duration::from_secs(60));

/// After how long a silence the lab's processor is given an interrupt, and after each as long again.
const NUDGE: Duration = Duration::from_secs(1);

/// How the lab came to its end.
#[derive(Clone, Copy)]
pub(super) enum End {
    /// The emulator ended.
    Ended(ExitStatus),
    /// The lab was silent for longer than any job may take.
    Late,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(status) => write!(f, "its emulator has ended: {status}"),
            Self::Late => write!(f, "it was silent for {} s", SILENCE.as_secs()),
        }
    }
}

/// QEMU; killed when dropped, if it still runs.
pub(super) struct Emulator {
    child: Child,
    monitor: PathBuf,
}

impl Drop for Emulator {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_file(&self.monitor));
    }
}

impl Emulator {
    /// Starts the lab.
    ///
    /// It has one processor. A second one that QEMU emulates in a thread of its own sometimes keeps
    /// translated code that the first has changed meanwhile: it read the instruction, the first wrote
    /// over it and found nothing translated that were to be dropped, and only then the second one
    /// filed what it had made of the old bytes. A kernel that changes itself while it runs, as Linux
    /// does at the first and at the last machine of KVM's (in the scheduler), then takes a
    /// breakpoint for ever that is no longer in memory, on both processors. Two processors in one
    /// thread are no way out: each interrupt between them may wait for a tenth of a second.
    pub(super) fn start(qemu: &Path, kernel: &Path, ramdisk: &Path) -> Self {
        let monitor = std::env::temp_dir().join(format!("kxl-lab-{}.mon", std::process::id()));
        let mut socket = std::ffi::OsString::from("unix:");
        socket.push(&monitor);
        socket.push(",server=on,wait=off");
        let mut command = Command::new(qemu);
        command
            .args(["-accel", "tcg", "-cpu", "max,+svm,-xsave", "-smp", "1", "-m", "2560"])
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            // The addresses that the monitor tells of are those of the kernel's file; and its clock
            // may be late on a busy host without being taken for one that is not connected.
            .args(["-append", "console=ttyS0 quiet panic=-1 nokaslr no_timer_check"])
            .args(["-serial", "stdio", "-monitor"])
            .arg(socket)
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(ramdisk)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        Self { child: command.spawn().unwrap(), monitor }
    }

    /// Everything on the console until the lab ends or is silent for too long, and then where its
    /// processor was.
    pub(super) fn listen(mut self) -> (String, End) {
        let mut stdout = self.child.stdout.take().unwrap();
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut chunk) {
                if sender.send(chunk[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let mut copy = std::env::var_os("KXL_LAB_LOG")
            .map(|path| File::options().create(true).append(true).open(path).unwrap());
        let mut log = Vec::new();
        let (mut silent, mut keyboard) = (Duration::ZERO, None);
        let end = loop {
            match receiver.recv_timeout(NUDGE) {
                Ok(bytes) => {
                    silent = Duration::ZERO;
                    if let Some(copy) = &mut copy {
                        copy.write_all(&bytes).unwrap();
                    }
                    log.extend(bytes);
                }
                Err(RecvTimeoutError::Disconnected) => {
                    break End::Ended(self.child.wait().unwrap());
                }
                Err(RecvTimeoutError::Timeout) if silent >= SILENCE => break End::Late,
                Err(RecvTimeoutError::Timeout) => {
                    silent += NUDGE;
                    if self.nudge(&mut keyboard).is_err() {
                        keyboard = None;
                    }
                }
            }
        };
        drop(keyboard);
        let mut log = String::from_utf8_lossy(&log).replace('\r', "");
        if matches!(end, End::Late) {
            let stands = self.stands().unwrap_or_else(|error| format!("not known: {error}\n"));
            log.push_str("\nLATE: the lab's processor, once a second:\n");
            log.push_str(&stands);
        }
        (log, end)
    }

    /// Presses a key. QEMU's emulation of SVM loses an interrupt now and then: it stays pending in
    /// the local APIC of a processor that halts with interrupts enabled, for ever where that was the
    /// timer. The next interrupt, whatever it is, brings both.
    fn nudge(&self, keyboard: &mut Option<UnixStream>) -> io::Result<()> {
        if keyboard.is_none() {
            let monitor = UnixStream::connect(&self.monitor)?;
            monitor.set_nonblocking(true)?;
            *keyboard = Some(monitor);
        }
        let Some(monitor) = keyboard else { return Ok(()) };
        // What it answers is of no interest, but must not fill the socket.
        let mut chunk = [0; 4096];
        while matches!(monitor.read(&mut chunk), Ok(1..)) {}
        monitor.write_all(b"sendkey shift\n")
    }

    /// Where the processor is, several times: at one place, in a circle, or busy.
    fn stands(&self) -> io::Result<String> {
        let mut monitor = UnixStream::connect(&self.monitor)?;
        monitor.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut said = Vec::new();
        for _ in 0..8 {
            monitor.write_all(b"info registers\n")?;
            let mut chunk = [0; 4096];
            // An answer has come when nothing comes any more.
            while let Ok(count @ 1..) = monitor.read(&mut chunk) {
                said.extend(&chunk[..count]);
            }
        }
        let said = String::from_utf8_lossy(&said).replace('\r', "");
        let places = said.lines().filter(|line| line.starts_with("RIP="));
        Ok(places.map(|line| format!("{line}\n")).collect())
    }
}
