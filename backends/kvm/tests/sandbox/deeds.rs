//! What a confined thread tries. A deed answers 0 where it was done, else the system's errno.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use kxl_vmm::thread::{self, Kind};

/// What was opened before the process was confined, and what it knows the names of.
pub(crate) struct World {
    place: PathBuf,
    file: File,
}

impl World {
    pub(crate) fn new(place: &Path) -> Self {
        let path = place.join("elsewhere/file");
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        Self { place: place.to_owned(), file }
    }
}

pub(crate) type Deed = fn(&World) -> u8;

/// Deeds that end a process in any thread.
pub(crate) const FORBIDDEN: &[(&str, Deed)] = &[
    ("socket", |_| raw(libc::SYS_socket, [2, 1, 0, 0])),
    ("unix socket", |_| raw(libc::SYS_socket, [1, 1, 0, 0])),
    ("execve", |_| raw(libc::SYS_execve, [c"/bin/true".as_ptr() as i64, 0, 0, 0])),
    ("ptrace", |_| raw(libc::SYS_ptrace, [libc::PTRACE_TRACEME.into(), 0, 0, 0])),
    ("fork", |_| raw(libc::SYS_fork, [0; 4])),
    ("a new process", |_| raw(libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0, 0])),
    ("memory to execute", |_| {
        raw(libc::SYS_mmap, [0, 4096, i64::from(libc::PROT_READ | libc::PROT_EXEC), 0x22])
    }),
    ("memory made executable", |_| raw(libc::SYS_mprotect, [0, 0, libc::PROT_EXEC.into(), 0])),
    ("an unknown ioctl", |_| raw(libc::SYS_ioctl, [0, 0x5412, 0, 0])),
    ("setuid", |_| raw(libc::SYS_setuid, [0; 4])),
    ("kill", |_| raw(libc::SYS_kill, [1, 0, 0, 0])),
    ("kill a thread of another", |_| raw(libc::SYS_tgkill, [1, 1, 0, 0])),
    ("unshare", |_| raw(libc::SYS_unshare, [0; 4])),
    ("mount", |_| raw(libc::SYS_mount, [0; 4])),
    ("chdir", |_| raw(libc::SYS_chdir, [c"/".as_ptr() as i64, 0, 0, 0])),
    ("be traceable", |_| raw(libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1, 0, 0])),
    ("a call of another mode", |_| raw(0x4000_0000 | libc::SYS_getpid, [0; 4])),
];

/// Deeds that end a process in every thread but the main one.
pub(crate) const FOR_MAIN: &[(&str, Deed)] = &[
    ("open", |world| opened(File::open(world.place.join("hotplug/file")))),
    ("unlink", |world| opened(std::fs::remove_file(world.place.join("sockets/file")))),
    ("another thread", |_| opened(thread::spawn(Kind::Device, "extra", || ()))),
    ("another filter", |_| raw(libc::SYS_seccomp, [0; 4])),
    ("a signal handler", |_| raw(libc::SYS_rt_sigaction, [0; 4])),
    ("a machine's clock", |_| raw(libc::SYS_ioctl, [-1, 0x8030_ae7c, 0, 0])),
];

/// Deeds that end a process in one thread and mean nothing in another.
pub(crate) const OF_ONE: &[(&str, Deed)] = &[
    ("run a processor", |_| raw(libc::SYS_ioctl, [-1, 0xae80, 0, 0])),
    ("attach a tap", |_| raw(libc::SYS_ioctl, [-1, 0x4004_54ca, 0, 0])),
    ("read the dirty log", |_| raw(libc::SYS_ioctl, [-1, 0x4010_ae42, 0, 0])),
    ("read a file", |world| opened(world.file.read_at(&mut [0; 4], 2))),
    ("accept a client", |_| raw(libc::SYS_accept4, [-1, 0, 0, 0])),
];

/// Deeds that succeed or are refused without a death.
const OTHERS: &[(&str, Deed)] = &[
    ("wait", |_| {
        println!();
        std::io::stdout().flush().unwrap();
        drop(std::io::stdin().read(&mut [0]));
        0
    }),
    ("work", work),
    ("serve", serve),
    ("open elsewhere", |world| opened(File::open(world.place.join("elsewhere/file")))),
    ("open memory of its own", |_| opened(File::open("/proc/self/mem"))),
    ("open beside a socket", |world| opened(File::open(world.place.join("sockets/file")))),
    ("make beside a socket", |world| opened(File::create(world.place.join("sockets/new")))),
    ("unlink elsewhere", |world| opened(std::fs::remove_file(world.place.join("elsewhere/file")))),
    ("make a file", |world| opened(std::fs::write(world.place.join("hotplug/new"), "new"))),
];

/// The deed of a name.
pub(crate) fn by_name(name: &str) -> Deed {
    let all = [FORBIDDEN, FOR_MAIN, OF_ONE, OTHERS];
    let found = all.iter().flat_map(|list| *list).find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("no deed {name:?}")).1
}

fn raw(call: i64, arguments: [i64; 4]) -> u8 {
    let [a, b, c, d] = arguments;
    // SAFETY: Every call here is refused by the sandbox, or by the kernel for its arguments; none
    // of them hands over memory of this process to be written.
    let result = unsafe { libc::syscall(call, a, b, c, d, -1_i64, 0_i64) };
    opened(if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) })
}

fn opened<T>(result: std::io::Result<T>) -> u8 {
    result.map_or_else(|error| u8::try_from(error.raw_os_error().unwrap_or(97)).unwrap(), |_| 0)
}

/// What every thread does all day.
fn work(_world: &World) -> u8 {
    // More than an allocator keeps, taken and given back again and again.
    for size in [1 << 10, 1 << 16, 1 << 20, 8 << 20] {
        for _ in 0..4 {
            let block = vec![1_u8; size];
            assert!(block.iter().all(|byte| *byte == 1));
        }
    }
    let map: HashMap<u32, String> = (0..1000).map(|key| (key, key.to_string())).collect();
    assert_eq!(map.len(), 1000);
    let pair = Arc::new((Mutex::new(0), Condvar::new()));
    let (lock, bell) = &*pair;
    let guard = lock.lock().unwrap();
    let (guard, over) = bell.wait_timeout(guard, Duration::from_millis(1)).unwrap();
    assert!(over.timed_out() && *guard == 0);
    drop(guard);
    std::thread::sleep(Duration::from_millis(1));
    assert!(std::time::Instant::now().elapsed() < Duration::from_secs(60));
    assert!(std::time::SystemTime::now() > std::time::UNIX_EPOCH);
    eprintln!("written by {:?}", std::thread::current().name());
    println!("and printed");
    0
}

/// What a device's thread does besides.
fn serve(world: &World) -> u8 {
    let mut bytes = [0; 4];
    world.file.read_exact_at(&mut bytes, 2).unwrap();
    assert_eq!(&bytes, b"2345");
    world.file.write_all_at(b"ab", 0).unwrap();
    world.file.sync_all().unwrap();
    assert_eq!(world.file.metadata().unwrap().len(), 10);
    // SAFETY: A descriptor that was just made is nobody else's.
    let event = unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC)) };
    let mut event = File::from(event);
    event.write_all(&1_u64.to_ne_bytes()).unwrap();
    let mut count = [0; 8];
    event.read_exact(&mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 1);
    let copy = event.try_clone().unwrap();
    drop(copy);
    0
}
