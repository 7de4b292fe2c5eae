//! What is to be executed, and how.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{Attributes, filter};
use crate::process::Process;
use crate::tracking;

/// The name by which `ps -o comm` shows a process that only keeps descriptors.
const HOLDER: &str = "kxl-holder";

/// Where such a process has the pidfd of the one that it ends with.
const UNTIL_FD: RawFd = 3;

/// A process to be made.
#[derive(Debug)]
pub struct Command {
    pub(super) program: CString,
    pub(super) args: Vec<CString>,
    pub(super) env: Vec<CString>,
    /// (our descriptor, its number in the child), in order.
    pub(super) fds: Vec<(OwnedFd, RawFd)>,
    pub(super) controlling_tty: Option<RawFd>,
    pub(super) nofile: Option<u64>,
    pub(super) attributes: Attributes,
    pub(super) dir: CString,
    pub(super) cgroups: Vec<CString>,
    pub(super) filter: Option<filter::Filter>,
    pub(super) track_writes: bool,
    /// Instead of executing a program: the number of the pidfd whose end it waits for.
    pub(super) holds_until: Option<RawFd>,
}

impl Command {
    /// A command running `program` (a path; no search, no shell) in directory `/`, with an
    /// environment of `PATH` only.
    ///
    /// # Errors
    /// `InvalidInput` when the path holds a NUL.
    pub fn new(program: &Path) -> io::Result<Self> {
        let program = c(program.as_os_str())?;
        Ok(Self {
            args: vec![program.clone()],
            program,
            env: vec![c"PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
            fds: Vec::new(),
            controlling_tty: None,
            nofile: None,
            attributes: Attributes::default(),
            dir: c"/".to_owned(),
            cgroups: Vec::new(),
            filter: None,
            track_writes: false,
            holds_until: None,
        })
    }

    /// A process that executes nothing: it keeps the descriptors that are passed on to it, and ends
    /// with `process`. It shares the memory of its maker until that writes to it or ends.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn holder(process: &Process) -> io::Result<Self> {
        let mut command = Self::new(Path::new(HOLDER))?;
        command.fd(process.pidfd().try_clone_to_owned()?, UNTIL_FD);
        command.holds_until = Some(UNTIL_FD);
        Ok(command)
    }

    /// Adds one argument.
    ///
    /// # Errors
    /// `InvalidInput` when it holds a NUL.
    pub fn arg(&mut self, arg: impl AsRef<OsStr>) -> io::Result<&mut Self> {
        self.args.push(c(arg.as_ref())?);
        Ok(self)
    }

    /// Adds one environment entry, `NAME=value`, in the place of one of that name.
    ///
    /// # Errors
    /// `InvalidInput` when it holds a NUL.
    pub fn env(&mut self, entry: impl AsRef<OsStr>) -> io::Result<&mut Self> {
        let entry = c(entry.as_ref())?;
        let name =
            |entry: &CString| entry.as_bytes().split(|b| *b == b'=').next().map(<[u8]>::to_vec);
        self.env.retain(|other| name(other) != name(&entry));
        self.env.push(entry);
        Ok(self)
    }

    /// Drops every environment entry, `PATH` too.
    pub fn clear_env(&mut self) -> &mut Self {
        self.env.clear();
        self
    }

    /// The arguments as text, for logs.
    #[must_use]
    pub fn line(&self) -> String {
        self.args.iter().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    /// Passes a descriptor on under `number`; the parent's copy is closed after the fork.
    /// Everything not passed on is closed in the child.
    pub fn fd(&mut self, fd: OwnedFd, number: RawFd) -> &mut Self {
        self.fds.push((fd, number));
        self
    }

    /// Makes the descriptor passed on as `number` the controlling terminal.
    pub fn controlling_tty(&mut self, number: RawFd) -> &mut Self {
        self.controlling_tty = Some(number);
        self
    }

    /// Limits open files.
    pub fn nofile(&mut self, limit: Option<u64>) -> &mut Self {
        self.nofile = limit;
        self
    }

    /// What the program runs with, taken on just before exec.
    pub fn attributes(&mut self, attributes: Attributes) -> &mut Self {
        self.attributes = attributes;
        self
    }

    /// Keeps the program from punching holes into files, as long as it lives: for one that maps a
    /// file which must not change, but insists on opening it for writing.
    ///
    /// # Errors
    /// `Unsupported` for a processor for which no filter is written.
    pub fn no_holes(&mut self) -> io::Result<&mut Self> {
        let filter = filter::no_holes().ok_or(io::ErrorKind::Unsupported)?;
        self.filter = Some(filter);
        Ok(self)
    }

    /// Has the kernel ready to tell which pages of its memory the program writes; see
    /// [`crate::tracking`]. Best effort: what the host does not let us have is done without. So is
    /// a program whose file gives it rights, which it would not get while it is traced.
    pub fn track_writes(&mut self) -> &mut Self {
        self.track_writes = tracking::CAN_LEND && !gives_rights(&self.program);
        self
    }

    /// Working directory.
    ///
    /// # Errors
    /// `InvalidInput` when the path holds a NUL.
    pub fn dir(&mut self, dir: &Path) -> io::Result<&mut Self> {
        self.dir = c(dir.as_os_str())?;
        Ok(self)
    }

    /// Enters this control group before exec, best effort; may be given several times.
    ///
    /// # Errors
    /// `InvalidInput` when the path holds a NUL.
    pub fn cgroup(&mut self, dir: &Path) -> io::Result<&mut Self> {
        self.cgroups.push(c(dir.join("cgroup.procs").as_os_str())?);
        Ok(self)
    }
}

/// Whether a program's file gives it another user, another group or capabilities.
pub(super) fn gives_rights(program: &CString) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let path = Path::new(OsStr::from_bytes(program.as_bytes()));
    let mode = std::fs::metadata(path).map_or(0, |meta| meta.permissions().mode());
    // SAFETY: two strings; nothing is written.
    let length = unsafe {
        libc::getxattr(program.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0)
    };
    mode & (libc::S_ISUID | libc::S_ISGID) != 0 || length > 0
}

fn c(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a NUL in an argument"))
}
