//! Booting the lab, and finding out what became of the jobs.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::contents;
use crate::support::guest::{self, program};
use crate::support::skip::skip;

/// Longest time for a boot of the lab with all jobs of a group.
const DEADLINE: Duration = Duration::from_secs(450);

/// What one boot has shown.
struct Outcome {
    log: String,
    late: bool,
}

type Once = Arc<OnceLock<Result<Outcome, String>>>;

/// The boots of this process, by group.
static BOOTS: Mutex<Option<HashMap<String, Once>>> = Mutex::new(None);

/// Fails unless the job did what it promises. `module` is the path of the group's module, whose
/// jobs are booted together when the first of them is asked for.
pub(super) fn expect(module: &str, jobs: &[&str], job: &str) {
    let group = module.rsplit("::").next().unwrap();
    if group == "speed" && std::env::var_os("KXL_LAB_SPEED").is_none() {
        skip(&format!("speed {job}"), "KXL_LAB_SPEED=1 measures");
        return;
    }
    let once = {
        let mut boots = BOOTS.lock().unwrap_or_else(PoisonError::into_inner);
        let boots = boots.get_or_insert_default();
        Arc::clone(boots.entry(group.to_owned()).or_default())
    };
    let full = |job: &str| {
        // The first part is the name of the program, which is none of the test's name.
        let (_, path) = module.split_once("::").unwrap();
        format!("{path}::{job}")
    };
    // A runner that gives every test a process of its own gets a boot for every job.
    let alone = std::env::var_os("NEXTEST").is_some();
    let only = std::env::var("KXL_LAB_ONLY").unwrap_or_default();
    if !job.contains(&only) {
        skip(&format!("lab {job}"), "KXL_LAB_ONLY leaves it out");
        return;
    }
    let wanted = |other: &&&str| if alone { **other == job } else { other.contains(&only) };
    let outcome = once.get_or_init(|| {
        let jobs: Vec<String> = jobs.iter().filter(wanted).map(|job| full(job)).collect();
        let outcome = boot(&jobs)?;
        if !outcome.host_died() {
            return Ok(outcome);
        }
        // Not a word from its kernel: QEMU's emulation of SVM loses a whole host once in a long
        // while. Said in the summary, and not forgiven twice.
        let last = outcome.log.lines().rev().find(|line| line.starts_with("LAB BEGIN "));
        let last = last.unwrap_or("its boot").trim_start_matches("LAB BEGIN ");
        skip("lab-host", &format!("the emulated host died in {last} and was booted once more"));
        eprintln!("the lab's host died:\n{}", outcome.tail());
        boot(&jobs)
    });
    match outcome {
        Err(reason) => skip(&format!("lab {job}"), reason),
        Ok(outcome) => outcome.judge(&full(job)),
    }
}

impl Outcome {
    /// Fails with what the job said, or with the end of the log where it was never done.
    fn judge(&self, job: &str) {
        let begin = format!("LAB BEGIN {job}\n");
        let end = format!("LAB END {job} ");
        let Some((_, rest)) = self.log.split_once(&begin) else {
            panic!("the lab did not come to {job} ({}):\n{}", self.fate(), self.tail());
        };
        let Some((said, rest)) = rest.split_once(&end) else {
            panic!("the lab did not end {job} ({}):\n{}", self.fate(), self.tail());
        };
        let status = rest.lines().next().unwrap_or_default();
        for line in said.lines() {
            if let Some((name, reason)) =
                line.strip_prefix("SKIP ").and_then(|l| l.split_once(": "))
            {
                skip(name, reason);
            } else if line.starts_with("FIGURE ") {
                eprintln!("{line}");
            }
        }
        assert_eq!(status, "0", "{job} in the lab:\n{said}");
        // A name that fits no test is none that has passed.
        assert!(said.contains("1 passed"), "{job} in the lab:\n{said}");
    }

    /// The lab ended, or stood still, without a farewell and without a panic of its kernel's.
    fn host_died(&self) -> bool {
        let panicked = self.log.contains("Kernel panic") || self.log.contains("BUG:");
        !panicked && !self.log.contains("LAB DOWN")
    }

    fn fate(&self) -> &'static str {
        if self.late { "its time was up" } else { "it has ended" }
    }

    fn tail(&self) -> &str {
        let mut start = self.log.len().saturating_sub(6000);
        while !self.log.is_char_boundary(start) {
            start += 1;
        }
        &self.log[start..]
    }
}

/// QEMU; killed when dropped, if it still runs.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Boots the lab for these jobs and waits for its end. The error is a reason to skip them.
fn boot(jobs: &[String]) -> Result<Outcome, String> {
    let qemu = program("qemu-system-x86_64")?;
    let kernel = contents::kernel()?;
    let ramdisk = contents::ramdisk(jobs)?;
    // One lab at a time, whoever boots it, and nothing else emulated beside it: it has use for
    // both processors of a small host.
    let lock = File::create(std::env::temp_dir().join("kxl-lab.lock")).unwrap();
    lock.lock().unwrap();
    let _slots = [guest::slot(), guest::slot()];
    let file = Ramdisk::new(&ramdisk);
    drop(ramdisk);
    let mut command = Command::new(qemu);
    command
        .args(["-accel", "tcg,thread=multi", "-cpu", "max,+svm,-xsave", "-smp", "2"])
        .args(["-m", "2560", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
        .args(["-append", "console=ttyS0 quiet panic=-1", "-serial", "stdio"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(&file.0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let mut machine = Machine(command.spawn().unwrap());
    let (log, late) = listen(&mut machine);
    Ok(Outcome { log, late })
}

/// Everything on the console until the machine ends or its time is up.
fn listen(machine: &mut Machine) -> (String, bool) {
    let mut stdout = machine.0.stdout.take().unwrap();
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
    let end = Instant::now() + DEADLINE;
    let mut log = Vec::new();
    let late = loop {
        match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(bytes) => {
                if let Some(copy) = &mut copy {
                    copy.write_all(&bytes).unwrap();
                }
                log.extend(bytes);
            }
            Err(RecvTimeoutError::Disconnected) => break false,
            Err(RecvTimeoutError::Timeout) => break true,
        }
    };
    (String::from_utf8_lossy(&log).replace('\r', ""), late)
}

/// The RAM disk as a file, removed when dropped.
struct Ramdisk(PathBuf);

impl Ramdisk {
    fn new(bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("kxl-lab-{}.cpio", std::process::id()));
        fs::write(&path, bytes).unwrap();
        Self(path)
    }
}

impl Drop for Ramdisk {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}
