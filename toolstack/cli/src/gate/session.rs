//! One caller: who it is, what it wants, the command that does it, its end.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kxl_domain::{Failure, Kind};
use kxl_engine::Conf;
use kxl_store::{Event, Paths, Severity, Store};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};
use nix::sys::statfs::fstatfs;
use rustix::net::{RecvFlags, recv};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::auth::{Failures, Rules, Wants};
use super::peer::Peer;
use super::{Reply, Request, VERSION, allowed, behalf, password, wire};
use crate::report;

/// How long a caller may take to say who it is and what it wants.
const HURRY: Duration = Duration::from_secs(10);

/// How long the answer to a wrong password is held back.
const SULK: Duration = Duration::from_secs(1);

/// How long a command whose caller has gone may take to end by itself.
const GRACE: Duration = Duration::from_secs(15);

/// How long a caller may take to hear its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most words of a command line, and the longest of them.
const MOST_WORDS: usize = 256;
const LONGEST_WORD: usize = 4096;

/// Environment of the gate that its commands have too: where things are.
const PLACES: &[&str] = &[
    "KXL_ROOT",
    "KXL_CONF",
    "KXL_LIBEXEC",
    "KXL_BOOT_ID",
    "KXL_VMM",
    "HOME",
    "XDG_CONFIG_HOME",
    "XDG_STATE_HOME",
    "XDG_CACHE_HOME",
    "XDG_RUNTIME_DIR",
    "PATH",
];

/// File systems of the kernel's own: what is written there is an order to the kernel, and it may look
/// at who writes instead of who has opened. No stream of a caller's is taken from there.
const KERNEL_FILES: &[u32] = &[
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xf97c_ff8c, // selinuxfs
    0xcafe_4a11, // bpf
    0x6265_6570, // configfs
    0xde5e_81e4, // efivarfs
    0x6165_676c, // pstore
];

/// What all callers share.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) paths: Paths,
    /// Our own user, who needs no gate.
    pub(super) own: u32,
    /// The program that does the work, by its path: an upgrade is found there.
    pub(super) program: PathBuf,
    pub(super) failures: Mutex<Failures>,
    /// Connections, by user.
    pub(super) open: Mutex<HashMap<u32, usize>>,
}

impl Gate {
    /// Deals with one caller to its end.
    pub(super) fn attend(&self, stream: &UnixStream, peer: &Peer) {
        let answer = self.serve(stream, peer).unwrap_or_else(Reply::Refused);
        wire::reply(stream, &answer, PATIENCE);
    }

    fn serve(&self, stream: &UnixStream, peer: &Peer) -> Result<Reply, Failure> {
        let received = wire::take(stream, Instant::now() + HURRY).map_err(|error| {
            Failure::because(Kind::Usage, "the gate does not take this request", &error)
        })?;
        let wire::Received { request, streams, early } = received;
        if request.v != VERSION {
            let text = format!("the gate speaks version {VERSION}, not {}", request.v);
            return Err(Failure::new(Kind::Internal, text).hint("use the kxl of this host"));
        }
        if !self.lets_in(peer, request.password.as_deref())? {
            return Ok(Reply::Password);
        }
        let long = request.words.iter().any(|word| word.len() > LONGEST_WORD);
        if long || request.words.len() > MOST_WORDS {
            return Err(Failure::new(Kind::Usage, "the command line is too long"));
        }
        allowed::check(&request.words)?;
        for stream in &streams {
            fit(stream.as_fd())?;
        }
        let child = self.start(&request, streams, peer).map_err(|error| {
            Failure::because(Kind::Internal, "the gate cannot run the command", &error)
        })?;
        let ended = accompany(child, stream, &early).map_err(|error| {
            Failure::because(Kind::Internal, "the gate has lost the command", &error)
        })?;
        Ok(told(ended))
    }

    /// Whether the caller may pass; `false` when a password is wanted.
    fn lets_in(&self, peer: &Peer, given: Option<&str>) -> Result<bool, Failure> {
        // Read anew each time: who is taken out of the settings is out.
        let rules = Rules::of(&Conf::read(&self.paths)?)?;
        match (rules.wants(peer, self.own, given.is_some()), given, &rules.hash) {
            (Wants::Nothing, ..) => Ok(true),
            (Wants::Password, ..) => Ok(false),
            (Wants::Right, Some(given), Some(hash)) => self.is_right(peer, given, hash),
            _ => {
                let text = format!("{} may not come through the gate", peer.name);
                Err(Failure::new(Kind::Failed, text)
                    .hint("the members of control_group in kxl.conf may"))
            }
        }
    }

    fn is_right(&self, peer: &Peer, given: &str, hash: &str) -> Result<bool, Failure> {
        let count = {
            // One at a time: a hash takes memory and a processor, and a second try at the same
            // moment shall find that the first was wrong.
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(wait) = failures.wait(peer.uid, Instant::now()) {
                let text = format!(
                    "wrong passwords of late: try again in {} s",
                    wait.as_secs_f64().ceil()
                );
                return Err(Failure::new(Kind::Failed, text));
            }
            if password::is_right(given, hash) {
                failures.right(peer.uid);
                return Ok(true);
            }
            failures.wrong(peer.uid, Instant::now())
        };
        self.note(peer, count);
        std::thread::sleep(SULK);
        Err(Failure::new(Kind::Failed, "the password is wrong"))
    }

    /// Writes a wrong password down. Those who are kept out are not noted, so that there is no
    /// flood.
    fn note(&self, peer: &Peer, count: u32) {
        let text = format!("{peer}: wrong password, {count} in a row");
        report::note(&text);
        let event = Event::new(Severity::Warning, "gate-refused").text(text);
        let noted = Store::open(&self.paths).and_then(|store| store.event(&event));
        if let Err(error) = noted {
            report::note(&format!("the event is not recorded: {error}"));
        }
    }

    fn start(&self, request: &Request, streams: [OwnedFd; 3], peer: &Peer) -> io::Result<Child> {
        let [stdin, stdout, stderr] = streams;
        let mut command = Command::new(&self.program);
        command.arg0("kxl").args(&request.words).env_clear().current_dir("/");
        let places = PLACES.iter().filter_map(|key| Some((key, std::env::var_os(key)?)));
        command.envs(places.collect::<Vec<(_, OsString)>>());
        command.env(behalf::VARIABLE, peer.to_string());
        if let Some(term) = request.term.as_deref().filter(|term| is_plain(term)) {
            command.env("TERM", term);
        }
        if request.plain {
            command.env("NO_COLOR", "1");
        }
        // Every other descriptor of ours is closed by exec.
        command.stdin(stdin).stdout(stdout).stderr(stderr).process_group(0);
        command.spawn()
    }
}

/// Whether a text is the name of a terminal type and nothing else.
fn is_plain(term: &str) -> bool {
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"+._-".contains(&b);
    !term.is_empty() && term.len() <= 64 && term.bytes().all(letter)
}

/// Whether a descriptor of a caller's is something that a command of root's may read and write.
///
/// # Errors
/// A refusal.
fn fit(stream: BorrowedFd<'_>) -> Result<(), Failure> {
    let failed = |error: Errno| {
        Failure::because(Kind::Usage, "the gate cannot look at a stream", &io::Error::from(error))
    };
    let flags = fcntl(stream, FcntlArg::F_GETFL).map_err(failed)?;
    let stat = fstat(stream).map_err(failed)?;
    let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
    let null = stat.st_rdev == nix::sys::stat::makedev(1, 3);
    let good = match kind {
        _ if OFlag::from_bits_truncate(flags).contains(OFlag::O_PATH) => false,
        SFlag::S_IFIFO | SFlag::S_IFSOCK => true,
        SFlag::S_IFCHR => null || nix::unistd::isatty(stream).unwrap_or(false),
        // Written by root, a file would keep rights that it loses when its user writes.
        SFlag::S_IFREG if stat.st_mode & 0o6000 == 0 => {
            let system = fstatfs(stream).map_err(failed)?.filesystem_type();
            !KERNEL_FILES.iter().any(|number| is_number(system.0, *number))
        }
        _ => false,
    };
    if good {
        return Ok(());
    }
    Err(Failure::new(Kind::Usage, "the gate takes terminals, pipes and plain files as streams"))
}

/// Whether this is the number of that file system: 32 bits, whatever the type that holds them.
fn is_number(found: impl Into<i128>, number: u32) -> bool {
    found.into() & 0xffff_ffff == i128::from(number)
}

/// Passes the caller's signals on until the command has ended. A caller that goes interrupts it.
fn accompany(mut child: Child, stream: &UnixStream, early: &[u8]) -> io::Result<ExitStatus> {
    let pidfd = match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(error) => {
            drop(child.kill());
            drop(child.wait());
            return Err(error.into());
        }
    };
    pass_on(&pidfd, early);
    let mut kill_at = None;
    loop {
        let left = kill_at.map(|at: Instant| at.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            // It holds on to a stream that nobody reads, say.
            let _gone = pidfd_send_signal(&pidfd, Signal::KILL);
            kill_at = Some(Instant::now() + GRACE);
        }
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        if kill_at.is_none() {
            fds.push(PollFd::new(stream.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if fds[0].any().unwrap_or(true) {
            return child.wait();
        }
        if fds.get(1).is_some_and(|fd| fd.any().unwrap_or(true)) {
            let mut chunk = [0u8; 64];
            match recv(stream, &mut chunk, RecvFlags::DONTWAIT) {
                Ok((1.., n)) => pass_on(&pidfd, &chunk[..n]),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Ok(_) | Err(_) => {
                    let _gone = pidfd_send_signal(&pidfd, Signal::INT);
                    kill_at = Some(Instant::now() + GRACE);
                }
            }
        }
    }
}

/// The letters by which a caller passes signals on.
pub(super) const SIGNALS: &[(u8, i32)] = &[
    (b'I', libc::SIGINT),
    (b'Q', libc::SIGQUIT),
    (b'T', libc::SIGTERM),
    (b'H', libc::SIGHUP),
    (b'W', libc::SIGWINCH),
];

fn pass_on(pidfd: &OwnedFd, letters: &[u8]) {
    for letter in letters {
        let signal = match letter {
            b'I' => Signal::INT,
            b'Q' => Signal::QUIT,
            b'T' => Signal::TERM,
            b'H' => Signal::HUP,
            b'W' => Signal::WINCH,
            _ => continue,
        };
        // It may have ended at this moment.
        let _gone = pidfd_send_signal(pidfd, signal);
    }
}

fn told(status: ExitStatus) -> Reply {
    match (status.code(), status.signal()) {
        (Some(code), _) => Reply::Ended(code),
        (None, signal) => Reply::Killed(signal.unwrap_or(libc::SIGKILL)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

    use super::*;

    fn fits(file: &impl AsFd) -> bool {
        fit(file.as_fd()).is_ok()
    }

    #[test]
    fn streams_are_terminals_pipes_sockets_and_plain_files_only() {
        let pty = nix::pty::openpty(None, None).unwrap();
        let (read, write) = nix::unistd::pipe().unwrap();
        let (socket, _other) = UnixStream::pair().unwrap();
        assert!(fits(&pty.slave) && fits(&read) && fits(&write) && fits(&socket));
        assert!(fits(&File::open("/dev/null").unwrap()));
        assert!(fits(&File::open("/etc/passwd").unwrap()));
        assert!(!fits(&File::open("/").unwrap()), "a directory");
        assert!(!fits(&File::open("/dev/zero").unwrap()), "a device");
        assert!(!fits(&File::open("/proc/self/status").unwrap()), "an order to the kernel");
        let path = File::options().read(true).custom_flags(libc::O_PATH).open("/etc/passwd");
        assert!(!fits(&path.unwrap()), "a mere path");
    }

    #[test]
    fn a_file_that_gives_rights_is_no_stream() {
        let path = std::env::temp_dir().join(format!("kxl-gate-suid-{}", std::process::id()));
        let file = File::create(&path).unwrap();
        assert!(fits(&file));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).unwrap();
        assert!(!fits(&file));
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_terminal_type_is_a_word() {
        assert!(is_plain("xterm-256color") && is_plain("screen.linux"));
        for bad in ["", "a b", "../x", "x\n", "%n", &"x".repeat(65)] {
            assert!(!is_plain(bad), "{bad}");
        }
    }
}
