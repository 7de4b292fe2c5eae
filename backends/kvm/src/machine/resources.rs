//! Everything that a machine needs open, opened while the process still may.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use kvm_ioctls::Kvm;
use thiserror::Error;

use super::board::Parts;
use super::files::{self, For, OpenError};
use crate::api::{ListenError, Listener};
use crate::boot::Payload;
use crate::config::{self, Config, Incoming, Source};
use crate::endpoint::{Endpoint, Unheard};
use crate::log;
use crate::memory::Backing;
use crate::virtio::block::{Disk, DiskError};
use crate::virtio::net::tap::{self, Tap, TapError};
use crate::virtio::net::vhost::{self, Vhost};

/// Why a machine cannot be prepared.
#[derive(Debug, Error)]
pub enum ResourceError {
    /// No KVM.
    #[error("cannot open /dev/kvm: load kvm_intel or kvm_amd, and see that this user may open it")]
    Kvm(#[source] kvm_ioctls::Error),
    /// A file.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The api-channel.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A tap.
    #[error("interface {id}")]
    Tap {
        /// The interface.
        id: String,
        /// Why not.
        #[source]
        source: TapError,
    },
    /// The kernel's device.
    #[error("interface {id}: cannot open /dev/vhost-net (load vhost_net, or say vhost=off)")]
    Vhost {
        /// The interface.
        id: String,
        /// The system's refusal.
        #[source]
        source: io::Error,
    },
    /// A serial line.
    #[error("cannot open the {what}")]
    Endpoint {
        /// Which line.
        what: &'static str,
        /// The system's refusal.
        #[source]
        source: io::Error,
    },
    /// An endpoint of the api-channel that is no socket.
    #[error("the api-channel is a unix socket: say unix:PATH")]
    Channel,
}

/// How often an interface can be plugged into a reserved slot by the name of its tap. By a
/// descriptor it can always be.
const TAPS: usize = 8;

/// What was opened.
#[derive(Debug)]
pub struct Resources {
    /// KVM.
    pub kvm: Kvm,
    /// What is booted.
    pub payload: Option<Payload>,
    /// The state that comes in.
    pub incoming: Option<File>,
    /// Where guest memory comes from.
    pub backing: Backing,
    /// The process's own pagemap, where it can be had: a save skips what was never touched.
    pub pagemap: Option<File>,
    /// For the devices.
    pub parts: Parts,
    /// The sockets of serial lines that have a file: it goes with these.
    pub sockets: Vec<Listener>,
    /// The api-channel.
    pub listeners: Vec<Listener>,
}

impl Resources {
    /// Opens what the configuration names.
    ///
    /// # Errors
    /// Any [`ResourceError`].
    pub fn open(config: &Config) -> Result<Self, ResourceError> {
        // First of all the channel: whoever started the process waits for it.
        let listeners = config.qmp.iter().map(listener).collect::<Result<_, _>>()?;
        let kvm = Kvm::new().map_err(ResourceError::Kvm)?;
        let payload = match config.boot.as_ref().map(payload) {
            // A state does not need it, but for a reset.
            Some(Err(error)) if config.incoming.is_some() => {
                log::line(&format!("{}: a reset will be refused", log::chain(&error)));
                None
            }
            payload => payload.transpose()?,
        };
        let incoming = match &config.incoming {
            Some(Incoming::From(source)) => Some(files::open("state", source, For::Reading)?),
            Some(Incoming::Defer) | None => None,
        };
        let backing = match &config.memory_file {
            None => Backing::Anonymous,
            Some(file) if file.shared => {
                Backing::Shared(files::open("memory file", &file.source, For::Writing)?, 0)
            }
            Some(file) => {
                Backing::Private(files::open("memory file", &file.source, For::Reading)?, 0)
            }
        };
        let mut sockets = Vec::new();
        let parts = Parts {
            serial: endpoint("serial line", &config.serial, Unheard::Keep, &mut sockets)?,
            disks: config.disks.iter().map(disk).collect::<Result<_, _>>()?,
            nics: config.nics.iter().map(nic).collect::<Result<_, _>>()?,
            spares: (config.nics.len()..config.hotplug.nics)
                .map_while(|_| vhost::open().ok())
                .collect(),
            taps: (0..config.hotplug.nics * TAPS).map_while(|_| tap::device().ok()).collect(),
            console: endpoint("console", &config.console, Unheard::Keep, &mut sockets)?,
            channel: match &config.channel {
                Some(channel) => {
                    endpoint("channel", &channel.endpoint, Unheard::Drop, &mut sockets)?
                        .map(|end| (channel.name.clone(), end))
                }
                None => None,
            },
        };
        let pagemap = File::open("/proc/self/pagemap").ok();
        Ok(Self { kvm, payload, incoming, backing, pagemap, parts, sockets, listeners })
    }
}

fn payload(boot: &config::Boot) -> Result<Payload, OpenError> {
    let initrd = boot.initrd.as_ref();
    Ok(Payload {
        kernel: files::open("kernel", &boot.kernel, For::Reading)?,
        initrd: initrd.map(|file| files::open("initrd", file, For::Reading)).transpose()?,
        cmdline: boot.cmdline.clone(),
    })
}

/// A disk that is open.
#[derive(Debug)]
pub struct OpenDisk {
    /// Its id.
    pub id: String,
    /// Its name on the host, where it has one.
    pub path: Option<PathBuf>,
    /// What the guest reads as its serial number, where the configuration says.
    pub serial: Option<String>,
    /// Itself.
    pub disk: Disk,
}

fn disk(disk: &config::Disk) -> Result<OpenDisk, ResourceError> {
    let purpose = if disk.readonly { For::Reading } else { For::Writing };
    let file = files::open("disk", &disk.source, purpose)?;
    let (path, name) = match &disk.source {
        Source::Path(path) => (Some(path.clone()), path.display().to_string()),
        Source::Fd(fd) => (None, format!("of descriptor {fd}")),
    };
    let open = Disk::new(file, &name, disk.readonly)?.with_id(&disk.id);
    Ok(OpenDisk { id: disk.id.clone(), path, serial: disk.serial.clone(), disk: open })
}

/// A network interface whose tap is open.
#[derive(Debug)]
pub struct OpenNic {
    /// Its id.
    pub id: String,
    /// The address that the configuration gives it.
    pub mac: Option<[u8; 6]>,
    /// The host's end.
    pub tap: Tap,
    /// The kernel's device, where packets go through it.
    pub vhost: Option<Vhost>,
}

fn nic(nic: &config::Nic) -> Result<OpenNic, ResourceError> {
    let id = || nic.id.clone();
    let tap = match &nic.tap {
        config::Tap::Name(name) => tap::open(name),
        config::Tap::Fd(fd) => {
            tap::inherited(files::inherited("tap", *fd)?, &format!("of descriptor {fd}"))
        }
    };
    let tap = tap.map_err(|source| ResourceError::Tap { id: id(), source })?;
    let vhost = match nic.vhost {
        config::Vhost::Auto => vhost::open().ok(),
        config::Vhost::On => {
            Some(vhost::open().map_err(|source| ResourceError::Vhost { id: id(), source })?)
        }
        config::Vhost::Off => None,
    };
    Ok(OpenNic { id: id(), mac: nic.mac, tap, vhost })
}

/// Opens the host's end of a line; `None` where the device does not exist.
fn endpoint(
    what: &'static str,
    end: &config::Endpoint,
    unheard: Unheard,
    sockets: &mut Vec<Listener>,
) -> Result<Option<Endpoint>, ResourceError> {
    let failed = |source| ResourceError::Endpoint { what, source };
    let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(failed);
    let open = match end {
        config::Endpoint::None => return Ok(None),
        config::Endpoint::Null => Endpoint::null(),
        config::Endpoint::Stdio => {
            Endpoint::stdio(copy(io::stdin().as_fd())?, copy(io::stdout().as_fd())?)
        }
        config::Endpoint::File(path) => {
            let named = |source| OpenError::File { what, path: path.clone(), source };
            // A FIFO without a reader would be waited for here, and by processors later on.
            let mut options = File::options();
            options.append(true).create(true).custom_flags(libc::O_NONBLOCK);
            let file = options.open(path).map_err(named)?;
            if !file.metadata().map_err(named)?.is_file() {
                let text = "it is no regular file: use a socket, or stdio";
                return Err(named(io::Error::other(text)).into());
            }
            Endpoint::file(file)
        }
        config::Endpoint::Unix(path) => {
            let listener = Listener::bind(path)?;
            let socket = UnixListener::from(copy(listener.as_fd())?);
            sockets.push(listener);
            Endpoint::socket(socket, unheard)
        }
        config::Endpoint::Fd(fd) => {
            Endpoint::socket(UnixListener::from(files::inherited(what, *fd)?), unheard)
        }
    };
    open.map(Some).map_err(failed)
}

fn listener(endpoint: &config::Endpoint) -> Result<Listener, ResourceError> {
    match endpoint {
        config::Endpoint::Unix(path) => Ok(Listener::bind(path)?),
        config::Endpoint::Fd(fd) => Ok(Listener::inherited(files::inherited("api-channel", *fd)?)?),
        _ => Err(ResourceError::Channel),
    }
}
