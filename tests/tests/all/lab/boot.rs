//! Booting the lab, and finding out what became of the jobs.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::contents;
use super::emulator::{Emulator, End};
use crate::support::guest::{self, program};
use crate::support::skip::skip;

/// What one boot has shown.
struct Outcome {
    log: String,
    end: End,
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
            panic!("the lab did not come to {job} ({}):\n{}", self.end, self.tail());
        };
        let Some((said, rest)) = rest.split_once(&end) else {
            panic!("the lab did not end {job} ({}):\n{}", self.end, self.tail());
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

    fn tail(&self) -> &str {
        let mut start = self.log.len().saturating_sub(6000);
        while !self.log.is_char_boundary(start) {
            start += 1;
        }
        &self.log[start..]
    }
}

/// Boots the lab for these jobs and waits for its end. The error is a reason to skip them.
fn boot(jobs: &[String]) -> Result<Outcome, String> {
    let qemu = program("qemu-system-x86_64")?;
    let kernel = contents::kernel()?;
    // One lab at a time, whoever boots it: to the other tests it is one guest more. Its parts are
    // made in files that all groups of this process share.
    let lock = File::create(std::env::temp_dir().join("kxl-lab.lock")).unwrap();
    lock.lock().unwrap();
    let _slot = guest::slot();
    let ramdisk = contents::ramdisk(jobs)?;
    let file = Ramdisk::new(&ramdisk);
    drop(ramdisk);
    let (log, end) = Emulator::start(&qemu, &kernel, &file.0).listen();
    Ok(Outcome { log, end })
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
