//! The host's end of a network interface: a tap.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use thiserror::Error;

use super::offload;

/// Bytes before each packet: the header of virtio 1.0, which is of the same length with and
/// without mergeable buffers.
pub(super) const HEADER: usize = 12;

const SET_IFF: libc::Ioctl = 0x4004_54ca;
const SET_OFFLOAD: libc::Ioctl = 0x4004_54d0;
const GET_IFF: libc::Ioctl = 0x8004_54d2;
const SET_HEADER_SIZE: libc::Ioctl = 0x4004_54d8;

const TAP: libc::c_short = 0x0002;
const NO_PI: libc::c_short = 0x1000;
const VNET_HDR: libc::c_short = 0x4000;
const KIND: libc::c_short = TAP | NO_PI | VNET_HDR;

const OFFLOAD_CSUM: libc::c_ulong = 0x01;
const OFFLOAD_TSO4: libc::c_ulong = 0x02;
const OFFLOAD_TSO6: libc::c_ulong = 0x04;

/// Why there is no tap.
#[derive(Debug, Error)]
pub enum TapError {
    /// A name that no interface has.
    #[error("an interface cannot be called {0:?}: a name has 1 to 15 bytes and no slash or space")]
    Name(String),
    /// The device is missing or closed.
    #[error("cannot open /dev/net/tun for the tap {name}")]
    Open {
        /// The tap's name.
        name: String,
        /// The refusal.
        #[source]
        source: io::Error,
    },
    /// The system's refusal.
    #[error("cannot attach to the tap {name}")]
    Attach {
        /// The tap's name.
        name: String,
        /// The refusal.
        #[source]
        source: io::Error,
    },
    /// No tap, or one of another kind.
    #[error(
        "{name} is no tap as it is needed here: make it with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR"
    )]
    Kind {
        /// What it is called.
        name: String,
    },
}

/// An open tap. Packets have a header of 12 bytes.
#[derive(Debug)]
pub struct Tap {
    file: File,
}

/// A request that carries the name and the flags of an interface.
fn request(name: &[u8], flags: libc::c_short) -> libc::ifreq {
    let mut text = [0; libc::IFNAMSIZ];
    for (to, from) in text.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    libc::ifreq { ifr_name: text, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags } }
}

/// Opens a tap by name; where there is none of that name, it is made and goes with the process.
///
/// # Errors
/// Any [`TapError`].
pub fn open(name: &str) -> Result<Tap, TapError> {
    check_name(name)?;
    let file = device().map_err(|source| TapError::Open { name: name.to_owned(), source })?;
    attach(file, name)
}

fn check_name(name: &str) -> Result<(), TapError> {
    let fits = (1..libc::IFNAMSIZ).contains(&name.len());
    if !fits || name.bytes().any(|byte| byte == 0 || byte == b'/' || byte.is_ascii_whitespace()) {
        return Err(TapError::Name(name.to_owned()));
    }
    Ok(())
}

/// Opens the device that taps are attached through. What it is attached to is an interface of the
/// network that the process was in when it did this.
///
/// # Errors
/// The system's refusal.
pub fn device() -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")
}

/// Attaches a device that is open to a tap. A process without privileges can do this with a tap
/// that is there and belongs to it, or to nobody.
///
/// # Errors
/// Any [`TapError`] but that of opening.
pub fn attach(file: File, name: &str) -> Result<Tap, TapError> {
    check_name(name)?;
    let attach = |source| TapError::Attach { name: name.to_owned(), source };
    let mut wanted = request(name.as_bytes(), KIND);
    // SAFETY: the request reads and writes an ifreq, and `wanted` is one; the descriptor is open.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), SET_IFF, &raw mut wanted) };
    check(done).map_err(attach)?;
    set_header_size(&file).map_err(attach)?;
    Ok(Tap { file })
}

/// Takes a tap that the process was given; `name` is what it is called in errors.
///
/// # Errors
/// Any [`TapError`] but that of opening.
pub fn inherited(fd: OwnedFd, name: &str) -> Result<Tap, TapError> {
    let file = File::from(fd);
    let kind = || TapError::Kind { name: name.to_owned() };
    let attach = |source| TapError::Attach { name: name.to_owned(), source };
    let mut found = request(b"", 0);
    // SAFETY: the request writes an ifreq, and `found` is one; the descriptor is open.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), GET_IFF, &raw mut found) };
    check(done).map_err(|_no_tap_at_all| kind())?;
    // SAFETY: an ifreq is plain numbers, all of them set, and this request sets the flags.
    let flags = unsafe { found.ifr_ifru.ifru_flags };
    if flags & KIND != KIND {
        return Err(kind());
    }
    let mode = rustix::fs::fcntl_getfl(&file).map_err(|error| attach(error.into()))?;
    rustix::fs::fcntl_setfl(&file, mode | OFlags::NONBLOCK)
        .map_err(|error| attach(error.into()))?;
    set_header_size(&file).map_err(attach)?;
    Ok(Tap { file })
}

fn check(done: libc::c_int) -> io::Result<()> {
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn set_header_size(file: &File) -> io::Result<()> {
    let size: libc::c_int = 12;
    // SAFETY: the request reads an int, and `size` is one; the descriptor is open.
    check(unsafe { libc::ioctl(file.as_raw_fd(), SET_HEADER_SIZE, &raw const size) })
}

impl Tap {
    /// Has the host give the guest what it can take, and nothing else: large packets, packets
    /// without a checksum.
    ///
    /// # Errors
    /// The system's refusal.
    pub(super) fn set_offloads(&self, features: u64) -> io::Result<()> {
        let mut flags = 0;
        // The others need it.
        if features & offload::GUEST_CSUM != 0 {
            flags |= OFFLOAD_CSUM;
            let large = [(offload::GUEST_TSO4, OFFLOAD_TSO4), (offload::GUEST_TSO6, OFFLOAD_TSO6)];
            for (feature, flag) in large {
                if features & feature != 0 {
                    flags |= flag;
                }
            }
        }
        // SAFETY: the request takes a number; the descriptor is open.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), SET_OFFLOAD, flags) })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Something else that takes and gives packets, for tests.
    #[cfg(test)]
    pub(in crate::virtio) fn stand_in(fd: OwnedFd) -> Self {
        Self { file: File::from(fd) }
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_interface_has_are_refused() {
        for name in ["", "a name", "sixteen-bytes-xx", "a/b"] {
            assert!(matches!(open(name).unwrap_err(), TapError::Name(_)), "{name}");
        }
    }

    #[test]
    fn what_is_no_tap_is_refused() {
        let null = File::open("/dev/null").unwrap();
        let error = inherited(null.into(), "net0").unwrap_err();
        assert!(matches!(error, TapError::Kind { .. }), "{error}");
    }

    #[test]
    fn a_tap_that_was_opened_can_be_handed_on() {
        let name = format!("kxlt{}", std::process::id() % 1_000_000);
        let tap = match open(&name) {
            Ok(tap) => tap,
            Err(error) => return println!("skipped: {error}: no tap can be made here"),
        };
        let again = inherited(tap.file.try_clone().unwrap().into(), &name).unwrap();
        again.set_offloads(offload::GUEST_CSUM | offload::GUEST_TSO4).unwrap();
        again.set_offloads(0).unwrap();
    }
}
