//! Configurations of the guests that tests run, and what each of them says.

use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};

use super::host::programs;
use super::{Console, wait};

/// How many guests are emulated at a time; more would only time each other out.
const AT_ONCE: u32 = 2;

/// A mock domain whose guest counts; `words` are those of its script.
pub(crate) fn mock(name: &str, words: &str) -> String {
    mock_with(name, words, "")
}

/// The same with further lines.
pub(crate) fn mock_with(name: &str, words: &str, lines: &str) -> String {
    let script = if words.is_empty() { "tick=50".to_owned() } else { format!("tick=50 {words}") };
    format!(
        "name = \"{name}\"\nbackend = \"mock\"\nmemory = 64\nvcpus = 1\n\
         device_model_args = [ \"{script}\" ]\n{lines}\n"
    )
}

/// The tree of the sources.
pub(crate) fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A file of the test guest, in `KXL_GUEST_DIR` or where it is built.
pub(crate) fn built(name: &str) -> Result<PathBuf, String> {
    let dir = std::env::var_os("KXL_GUEST_DIR");
    let path = dir.map_or_else(|| top().join("target/guest"), PathBuf::from).join(name);
    if path.is_file() { Ok(path) } else { Err(format!("target/guest/{name} is not built")) }
}

/// A program of the host.
pub(crate) fn program(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| format!("{name} is not installed"))
}

/// The test guest on QEMU, `x86_64` or `aarch64`; `cmdline` goes to its init.
pub(crate) fn qemu(arch: &str, name: &str, cmdline: &str, lines: &str) -> Result<String, String> {
    program(&format!("qemu-system-{arch}"))?;
    let (dir, console) = match arch {
        "aarch64" => ("aarch64/", "ttyAMA0"),
        _ => ("", "ttyS0"),
    };
    let kernel = built(&format!("{dir}vmlinuz"))?;
    let ramdisk = built(&format!("{dir}initramfs.cpio.gz"))?;
    Ok(format!(
        "name = \"{name}\"\nbackend = \"qemu\"\narch = \"{arch}\"\ntype = \"pvh\"\n\
         kernel = \"{}\"\nramdisk = \"{}\"\ncmdline = \"console={console} quiet {cmdline}\"\n\
         memory = 160\nvcpus = 1\n{lines}\n",
        kernel.display(),
        ramdisk.display()
    ))
}

/// The counter of a PDP-11 or a VAX on SIMH.
pub(crate) fn simh(machine: &str, name: &str) -> Result<String, String> {
    program(machine)?;
    let ini = built(&format!("{machine}-counter.ini"))?;
    let start = if machine == "pdp11" { "1000" } else { "400" };
    Ok(format!(
        "name = \"{name}\"\nbackend = \"simh\"\nmachine = \"{machine}\"\nini = \"{}\"\n\
         start = \"{start}\"\nmemory = 4\n",
        ini.display()
    ))
}

/// A program that echoes what is typed, on the backend for any program.
pub(crate) fn any(name: &str) -> Result<String, String> {
    let cat = program("cat")?;
    Ok(format!("name = \"{name}\"\nbackend = \"any\"\nexec = \"{}\"\nmemory = 8\n", cat.display()))
}

/// A microVM on the stand-in for StratoVirt, whose guest counts; `cmdline` goes to it.
pub(crate) fn stratovirt(name: &str, cmdline: &str) -> String {
    let standin = programs().join("stratovirt-standin").display().to_string();
    // It looks whether its kernel is there, and no further.
    format!(
        "name = \"{name}\"\nbackend = \"stratovirt\"\nexec = \"{standin}\"\nmemory = 128\n\
         vcpus = 1\nkernel = \"{standin}\"\ncmdline = \"{cmdline}\"\n"
    )
}

/// How a guest shows that it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counter {
    /// Lines `C n seconds`.
    Linux,
    /// Lines `N=` and the count in octal.
    Pdp11,
    /// Lines of eight hexadecimal digits.
    Vax,
}

impl Counter {
    /// The highest count on a screen.
    pub(crate) fn last(self, screen: &str) -> Option<u64> {
        // The last line may not be whole.
        let whole = screen.rsplit_once('\n')?.0;
        whole.lines().rev().find_map(|line| self.read(line.trim()))
    }

    fn read(self, line: &str) -> Option<u64> {
        match self {
            Self::Linux => line.strip_prefix("C ")?.split(' ').next()?.parse().ok(),
            Self::Pdp11 => u64::from_str_radix(line.strip_prefix("N=")?, 8).ok(),
            Self::Vax => (line.len() == 8).then(|| u64::from_str_radix(line, 16).ok())?,
        }
    }

    /// Waits until the counter goes beyond `count`; the new count.
    pub(crate) fn beyond(self, console: &Console, count: u64) -> u64 {
        wait::until(&format!("the counter goes beyond {count}"), wait::BOOT, || {
            self.last(&console.text()).filter(|now| *now > count)
        })
    }

    /// Waits until the guest counts; the count.
    pub(crate) fn begins(self, console: &Console) -> u64 {
        wait::until("the guest counts", wait::BOOT, || self.last(&console.text()))
    }
}

/// The right to run an emulated guest; given back when dropped.
pub(crate) struct Slot(());

static TAKEN: Mutex<u32> = Mutex::new(0);
static GIVEN: Condvar = Condvar::new();

/// Waits for the right to run an emulated guest.
pub(crate) fn slot() -> Slot {
    let taken = TAKEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut taken = GIVEN
        .wait_while(taken, |taken| *taken >= AT_ONCE)
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    *taken += 1;
    Slot(())
}

impl Drop for Slot {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner) -= 1;
        GIVEN.notify_one();
    }
}
