//! Taps: the host's end of a domain's network interface.
//!
//! A tap is made non-persistent: it exists as long as somebody holds its descriptor, and the only
//! one to hold it is the emulator. However the emulator ends, the kernel takes the tap away; the
//! death of a monitor changes nothing.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use kxl_backend::BackendError;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Longest name of an interface, in bytes.
const NAME_MAX: usize = libc::IFNAMSIZ - 1;

/// From linux/sockios.h; libc has it for other systems only.
const SIOCBRADDIF: libc::c_ulong = 0x89a2;

/// IFF_TAP, IFF_NO_PI and IFF_VNET_HDR of linux/if_tun.h in the width of the request's field.
const TAP_FLAGS: libc::c_short = 0x0002 | 0x1000 | 0x4000;

/// IFF_UP in the width of the request's field.
const IFF_UP: libc::c_short = 0x1;

/// A tap that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) name: String,
    pub(crate) bridge: String,
    pub(crate) mtu: Option<u32>,
}

/// Checks names and that the bridge is there.
///
/// # Errors
/// [`BackendError::Config`] for `vif`.
pub(crate) fn check(wanted: &Wanted) -> Result<(), BackendError> {
    for (what, name) in [("vifname", &wanted.name), ("bridge", &wanted.bridge)] {
        let fine = !name.is_empty()
            && name.len() <= NAME_MAX
            && name != "."
            && name != ".."
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !fine {
            let why =
                format!("{what}={name}: an interface's name has 1 to {NAME_MAX} plain letters");
            return Err(BackendError::config("vif", why));
        }
    }
    if !Path::new("/sys/class/net").join(&wanted.bridge).join("bridge").is_dir()
        && index(&wanted.bridge).is_err()
    {
        let why = format!("there is no bridge {} on this host", wanted.bridge);
        return Err(BackendError::config("vif", why));
    }
    Ok(())
}

/// Makes the tap, up and in its bridge.
///
/// # Errors
/// [`BackendError::Missing`] without the tun driver, [`BackendError::Io`] for what the system
/// refuses, with the interface's name. Nothing is left behind.
pub(crate) fn make(wanted: &Wanted) -> Result<OwnedFd, BackendError> {
    let tun =
        OpenOptions::new().read(true).write(true).open("/dev/net/tun").map_err(
            |error| match error.kind() {
                io::ErrorKind::NotFound => BackendError::Missing {
                    what: "/dev/net/tun".into(),
                    hint: "load the module tun".into(),
                },
                _ => BackendError::io("cannot open /dev/net/tun", error),
            },
        )?;
    let failed = |what: &str, error: io::Error| {
        BackendError::io(format!("interface {}: cannot {what}", wanted.name), error)
    };
    let mut request = named(&wanted.name);
    request.ifr_ifru.ifru_flags = TAP_FLAGS;
    call(tun.as_raw_fd(), libc::TUNSETIFF, &mut request)
        .map_err(|error| failed("be made a tap", error))?;

    let control = control().map_err(|error| failed("be configured", error))?;
    let control = control.as_raw_fd();
    if let Some(mtu) = wanted.mtu {
        request.ifr_ifru.ifru_mtu = libc::c_int::try_from(mtu).unwrap_or(libc::c_int::MAX);
        call(control, libc::SIOCSIFMTU, &mut request)
            .map_err(|error| failed(&format!("have the mtu {mtu}"), error))?;
    }
    enslave(control, wanted).map_err(|error| failed(&format!("join {}", wanted.bridge), error))?;
    request.ifr_ifru.ifru_flags = IFF_UP;
    call(control, libc::SIOCSIFFLAGS, &mut request).map_err(|error| failed("be set up", error))?;
    Ok(File::into(tun))
}

fn enslave(control: RawFd, wanted: &Wanted) -> io::Result<()> {
    let mut request = named(&wanted.bridge);
    request.ifr_ifru.ifru_ifindex = index(&wanted.name)?;
    call(control, SIOCBRADDIF, &mut request)
}

/// Index of an interface, from the caller's network namespace.
fn index(name: &str) -> io::Result<libc::c_int> {
    let control = control()?;
    let mut request = named(name);
    call(control.as_raw_fd(), libc::SIOCGIFINDEX, &mut request)?;
    // SAFETY: the kernel has filled in this member.
    Ok(unsafe { request.ifr_ifru.ifru_ifindex })
}

fn control() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?)
}

fn named(name: &str) -> libc::ifreq {
    // SAFETY: a structure of integers and arrays for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(NAME_MAX)) {
        *to = from.cast_signed();
    }
    request
}

fn call(fd: RawFd, number: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: every request used here takes a struct ifreq.
    let rc = unsafe { libc::ioctl(fd, number as _, std::ptr::from_mut(request)) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A network to try things in.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Runs a test in a thread, and what that starts, with a network of its own and one bridge in
    /// it, so that the host's stays as it is.
    pub(crate) fn beside(bridge_name: &'static str, test: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(move || {
            if bridge(bridge_name) {
                test();
            }
        });
        thread.join().unwrap();
    }

    /// Says what is missing where that cannot be done.
    fn bridge(name: &str) -> bool {
        // SAFETY: affects this thread only.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
            crate::testing::skip(&format!("no network namespace: {}", io::Error::last_os_error()));
            return false;
        }
        let control = control().unwrap();
        let mut bytes = [0u8; libc::IFNAMSIZ];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        // SAFETY: SIOCBRADDBR of linux/sockios.h takes a name of IFNAMSIZ bytes.
        let rc = unsafe { libc::ioctl(control.as_raw_fd(), 0x89a0 as _, bytes.as_ptr()) };
        if rc < 0 || !Path::new("/dev/net/tun").exists() {
            crate::testing::skip(&format!("no bridge or no tun: {}", io::Error::last_os_error()));
            return false;
        }
        true
    }

    /// Whether an interface is there.
    pub(crate) fn exists(name: &str) -> bool {
        index(name).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str, bridge: &str) -> Wanted {
        Wanted { name: name.into(), bridge: bridge.into(), mtu: Some(1400) }
    }

    #[test]
    fn names_that_are_none_and_bridges_that_are_not_there_are_refused() {
        for (name, bridge) in [("a/b", "br"), ("sixteen-letters-", "br"), ("", "br"), ("a", "..")] {
            let error = check(&wanted(name, bridge)).unwrap_err().to_string();
            assert!(error.starts_with("vif: "), "{error}");
        }
        let error = check(&wanted("vif1.0", "no-such-br0")).unwrap_err().to_string();
        assert_eq!(error, "vif: there is no bridge no-such-br0 on this host");
    }

    #[test]
    fn a_tap_is_in_its_bridge_and_gone_with_its_descriptor() {
        testing::beside("kxb0", tap_comes_and_goes);
    }

    fn tap_comes_and_goes() {
        let control = control().unwrap();
        let wanted = wanted("vif7.0", "kxb0");
        check(&wanted).unwrap();
        let tap = make(&wanted).unwrap();
        let mut request = named("vif7.0");
        call(control.as_raw_fd(), libc::SIOCGIFMTU, &mut request).unwrap();
        // SAFETY: filled in by the call above.
        assert_eq!(unsafe { request.ifr_ifru.ifru_mtu }, 1400);
        call(control.as_raw_fd(), libc::SIOCGIFFLAGS, &mut request).unwrap();
        // SAFETY: as above.
        let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
        assert_ne!(flags & libc::IFF_UP, 0);
        let error = make(&wanted).unwrap_err().to_string();
        assert!(error.contains("vif7.0"), "the name is taken: {error}");
        drop(tap);
        assert!(index("vif7.0").is_err(), "the kernel takes it away");
    }
}
