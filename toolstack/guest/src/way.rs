//! The ways to the host: the port of its own, or the console.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::arguments::Options;
use crate::trouble::Trouble;

/// Name of the port.
const PORT: &str = "org.kxl.event.0";
const CONSOLE: &str = "/dev/console";
/// How long a port may take to appear where its device is there.
const APPEARS: Duration = Duration::from_secs(2);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// A way, not yet open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Port(PathBuf),
    Console(PathBuf),
}

/// An open way.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) fd: OwnedFd,
    /// The host answers here.
    pub(crate) answers: bool,
}

/// Where the system keeps what a way is found by.
#[derive(Debug)]
pub(crate) struct Places<'a> {
    pub(crate) dev: &'a Path,
    pub(crate) sys: &'a Path,
}

/// Chooses a way: the one that is named, else the port, else the console.
pub(crate) fn choose(options: &Options, deadline: Instant) -> Result<Way, Trouble> {
    if let Some(path) = &options.port {
        return Ok(Way::Port(path.clone()));
    }
    if let Some(path) = &options.console {
        return Ok(Way::Console(path.clone()));
    }
    find(&Places { dev: Path::new("/dev"), sys: Path::new("/sys") }, deadline)
}

fn find(places: &Places<'_>, deadline: Instant) -> Result<Way, Trouble> {
    let until = deadline.min(Instant::now() + APPEARS);
    loop {
        if let Some(path) = port(places) {
            return Ok(Way::Port(path));
        }
        // A guest that has just begun to boot may be quicker than its driver.
        if !device_is_there(places) || Instant::now() >= until {
            break;
        }
        sleep(PAUSE);
    }
    let console = places.dev.join("console");
    if fs::metadata(&console).is_ok() {
        return Ok(Way::Console(console));
    }
    let text = format!("there is neither a virtio port {PORT} nor {CONSOLE}");
    Err(Trouble::NoWay(text))
}

/// The port by the name that udev gives it, else by the kernel's own list.
fn port(places: &Places<'_>) -> Option<PathBuf> {
    let named = places.dev.join("virtio-ports").join(PORT);
    if fs::metadata(&named).is_ok() {
        return Some(named);
    }
    let ports = fs::read_dir(places.sys.join("class/virtio-ports")).ok()?;
    ports.flatten().find_map(|port| {
        let name = fs::read_to_string(port.path().join("name")).ok()?;
        let path = places.dev.join(port.file_name());
        (name.trim_end() == PORT && fs::metadata(&path).is_ok()).then_some(path)
    })
}

/// Whether there is a virtio device that has ports.
fn device_is_there(places: &Places<'_>) -> bool {
    let Ok(devices) = fs::read_dir(places.sys.join("bus/virtio/devices")) else { return false };
    devices.flatten().any(|device| {
        let id = fs::read_to_string(device.path().join("device")).unwrap_or_default();
        // Virtio's number of a console.
        u32::from_str_radix(id.trim().trim_start_matches("0x"), 16) == Ok(3)
    })
}

impl Way {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Port(path) | Self::Console(path) => path,
        }
    }

    /// Opens it for this program alone, waiting for others to be done with it.
    pub(crate) fn open(&self, deadline: Instant) -> Result<Line, Trouble> {
        loop {
            let error = match self.attempt() {
                Ok(line) => return Ok(line),
                Err(error) => error,
            };
            let path = self.path().display();
            match error.kind() {
                // The kernel gives a port to one program at a time; so do we with everything else.
                ErrorKind::ResourceBusy | ErrorKind::WouldBlock if Instant::now() < deadline => {
                    sleep(PAUSE);
                }
                ErrorKind::ResourceBusy | ErrorKind::WouldBlock => {
                    return Err(Trouble::Busy(path.to_string()));
                }
                ErrorKind::NotFound => return Err(Trouble::NoWay(format!("there is no {path}"))),
                _ if is_no_device(&error) => {
                    return Err(Trouble::NoWay(format!("there is no device behind {path}")));
                }
                _ => return Err(Trouble::io(format!("cannot open {path}"), error)),
            }
        }
    }

    fn attempt(&self) -> io::Result<Line> {
        let (path, is_port) = match self {
            Self::Port(path) => (path, true),
            Self::Console(path) => (path, false),
        };
        let kind = fs::metadata(path)?.file_type();
        if kind.is_socket() {
            let stream = UnixStream::connect(path)?;
            stream.set_nonblocking(true)?;
            return Ok(Line { fd: stream.into(), answers: is_port });
        }
        let answers = is_port && kind.is_char_device();
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::options()
            .read(answers)
            .write(true)
            .append(kind.is_file())
            .custom_flags(flags.bits().cast_signed())
            .open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Line { fd: file.into(), answers }),
            Err(TryLockError::WouldBlock) => Err(ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

fn is_no_device(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    [Errno::NXIO, Errno::NODEV].iter().any(|errno| number == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("kxl-event-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&path));
        fs::create_dir_all(path.join("dev/virtio-ports")).unwrap();
        fs::create_dir_all(path.join("sys/class/virtio-ports/vport3p1")).unwrap();
        path
    }

    #[test]
    fn the_port_comes_before_the_console_and_is_known_by_its_name() {
        let root = scratch("ways");
        let (dev, sys) = (root.join("dev"), root.join("sys"));
        let places = Places { dev: &dev, sys: &sys };
        let found = || find(&places, Instant::now());
        assert!(matches!(found(), Err(Trouble::NoWay(_))));
        fs::write(dev.join("console"), "").unwrap();
        assert_eq!(found().unwrap(), Way::Console(dev.join("console")));
        let name = sys.join("class/virtio-ports/vport3p1/name");
        fs::write(dev.join("vport3p1"), "").unwrap();
        fs::write(&name, "org.qemu.guest_agent.0\n").unwrap();
        assert_eq!(found().unwrap(), Way::Console(dev.join("console")));
        fs::write(&name, format!("{PORT}\n")).unwrap();
        assert_eq!(found().unwrap(), Way::Port(dev.join("vport3p1")));
        fs::write(dev.join("virtio-ports").join(PORT), "").unwrap();
        assert_eq!(found().unwrap(), Way::Port(dev.join("virtio-ports").join(PORT)));
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_way_that_somebody_holds_is_waited_for_and_then_given_up() {
        let root = scratch("busy");
        let way = Way::Port(root.join("port"));
        assert!(matches!(way.open(Instant::now()), Err(Trouble::NoWay(_))));
        fs::write(way.path(), "").unwrap();
        let held = way.open(Instant::now()).unwrap();
        assert!(matches!(way.open(Instant::now() + PAUSE), Err(Trouble::Busy(_))));
        drop(held);
        assert!(!way.open(Instant::now()).unwrap().answers);
        fs::remove_dir_all(&root).unwrap();
    }
}
