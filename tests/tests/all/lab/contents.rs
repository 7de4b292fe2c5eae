//! What the lab consists of: the kernel and its modules, the programs under test with the
//! libraries that they need, the guests, and the names of the jobs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kxl_tests::archive::Archive;

use super::vmlinux;
use crate::support::event;
use crate::support::guest::{built, program};
use crate::support::host::programs;

/// Longest time for one job. The next one has its turn then.
pub(super) const JOB: Duration = Duration::from_secs(600);

/// After this time a job has to show where it stands, before any wait in it is given up.
const LATE: Duration = Duration::from_secs(150);

/// Programs of this workspace that are in the lab, in /lab/bin.
const PROGRAMS: &[&str] = &["kxl", "kxl-monitor", "kxl-mock", "kxl-vmm"];

/// The first process of the lab. `stand` says what each thread of the programs under test is at.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o size=1400m tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for module in /modules/*; do insmod "$module" || echo "LAB: cannot load $module"; done
ip link set lo up
dmesg -n 1
export KXL_LAB=1 KXL_BIN_DIR=/lab/bin KXL_GUEST_DIR=/guest RUST_BACKTRACE=0 TMPDIR=/tmp
stand() {
	echo "LATE: up $(cat /proc/uptime), load $(cat /proc/loadavg)"
	for thread in /proc/[0-9]*/task/*; do
		case "$(readlink "${thread%/task/*}/exe")" in /lab/*) ;; *) continue ;; esac
		times=$(sed 's/.*) //' "$thread/stat" | cut -d ' ' -f 1,12,13)
		echo "LATE: ${thread#/proc/} $(cat "$thread/comm") $times in $(cat "$thread/syscall")"
		sed 's/^/LATE:     /' "$thread/stack"
	done
	dmesg | tail -n 8 | sed 's/^/LATE: /'
}
echo "LAB UP"
for job in $(cat /jobs); do
	echo "LAB BEGIN $job"
	(sleep LATE; stand; sleep 20; stand) </dev/null 2>&1 &
	late=$!
	timeout -s KILL JOB /lab/tests --exact "$job" --nocapture --test-threads=1 </dev/null 2>&1
	status=$?
	kill $late 2>/dev/null
	echo "LAB END $job $status"
done
echo "LAB DOWN"
poweroff -f
"#;

/// The kernel of the lab, which is the guests' kernel as well.
pub(super) fn kernel() -> Result<PathBuf, String> {
    built("vmlinuz")
}

/// The lab's initial RAM disk with these jobs.
pub(super) fn ramdisk(jobs: &[String]) -> Result<Vec<u8>, String> {
    let mut archive = Archive::default();
    for directory in ["/proc", "/sys", "/dev", "/tmp", "/run", "/etc"] {
        archive.directory(directory);
    }
    archive.device("/dev/console", (5, 1));
    let init = INIT.replace("sleep LATE", &format!("sleep {}", LATE.as_secs()));
    let init = init.replace("KILL JOB", &format!("KILL {}", JOB.as_secs()));
    archive.file("/init", init.as_bytes());
    archive.file("/jobs", jobs.join("\n").as_bytes());
    archive.file("/bin/busybox", &read(&built("lab/busybox")?));
    add_modules(&mut archive)?;
    for name in ["vmlinuz", "initramfs.cpio.gz"] {
        archive.file(&format!("/guest/{name}"), &read(&built(name)?));
    }
    if jobs.iter().any(|job| job.contains("over_its_port")) {
        archive.file("/guest/telling.cpio.gz", &event::ramdisk("x86_64", &[])?);
    }
    let image = read(&kernel()?);
    let unpacked = vmlinux::of(&image).ok_or("the test guest's kernel is not packed by LZ4")?;
    archive.file("/guest/vmlinux", &unpacked);
    add_programs(&mut archive)?;
    if jobs.iter().any(|job| job.contains("::speed::")) {
        add_qemu(&mut archive)?;
    }
    Ok(archive.finish())
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn add_modules(archive: &mut Archive) -> Result<(), String> {
    let first = built("lab/modules/000-irqbypass.ko")?;
    let mut names: Vec<_> =
        fs::read_dir(first.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    for path in names {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        archive.file(&format!("/modules/{name}"), &read(&path));
    }
    Ok(())
}

fn add_programs(archive: &mut Archive) -> Result<(), String> {
    let dir = programs();
    let mut libraries = BTreeSet::new();
    let mut add = |from: &Path, to: &str| -> Result<(), String> {
        archive.file(to, &stripped(from)?);
        libraries.extend(needed(from)?);
        Ok(())
    };
    for name in PROGRAMS {
        add(&dir.join(name), &format!("/lab/bin/{name}"))?;
    }
    add(&std::env::current_exe().unwrap(), "/lab/tests")?;
    for library in libraries {
        archive.file(&library, &read(Path::new(&library)));
    }
    Ok(())
}

/// QEMU for the lab, to be compared with: the program, its libraries and its firmware.
fn add_qemu(archive: &mut Archive) -> Result<(), String> {
    let qemu = program("qemu-system-x86_64")?;
    archive.file("/lab/bin/qemu-system-x86_64", &read(&qemu));
    for library in needed(&qemu)? {
        archive.file(&library, &read(Path::new(&library)));
    }
    for name in ["bios-microvm.bin", "linuxboot_dma.bin", "pvh.bin", "kvmvapic.bin"] {
        let found = ["/usr/share/seabios", "/usr/share/qemu"]
            .iter()
            .map(|dir| Path::new(dir).join(name))
            .find(|path| path.is_file());
        let path = found.ok_or_else(|| format!("QEMU's {name} is not installed"))?;
        archive.file(&format!("/lab/qemu/{name}"), &read(&path));
    }
    Ok(())
}

/// A program without its symbols: what the lab has to unpack is memory and time.
pub(crate) fn stripped(path: &Path) -> Result<Vec<u8>, String> {
    let to = std::env::temp_dir().join(format!(
        "kxl-lab-{}-{:?}.stripped",
        std::process::id(),
        std::thread::current().id()
    ));
    let mut strip = Command::new(program("strip")?);
    let done = strip.arg("-o").arg(&to).arg(path).status().unwrap();
    assert!(done.success(), "strip {}: {done}", path.display());
    let bytes = read(&to);
    fs::remove_file(&to).unwrap();
    Ok(bytes)
}

/// The libraries that a program loads, the loader itself included, by their paths.
pub(crate) fn needed(path: &Path) -> Result<Vec<String>, String> {
    let output = Command::new(program("ldd")?).arg(path).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let paths = text.lines().filter_map(|line| {
        line.split_whitespace().find(|word| word.starts_with('/')).map(str::to_owned)
    });
    Ok(paths.collect())
}
