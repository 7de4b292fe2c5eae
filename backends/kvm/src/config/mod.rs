//! What a machine is made of: the one description that the command line, the JSON file and the
//! tests arrive at. Nothing is opened here.

pub mod args;
pub mod describe;
mod draft;
pub mod json;
mod nearest;
mod values;

use std::os::fd::RawFd;
use std::path::PathBuf;

/// The machine that guests see: its addresses, its interrupts, its devices' places. A state names
/// the machine that it is of, and only that one takes it; a machine laid out in another way has
/// another name.
pub const MACHINE: &str = "kxl-vmm-1";

/// Virtual processors a machine may have; bounded by what the tables and the slots are sized for.
pub const MAX_VCPUS: u8 = 64;

/// Network interfaces a machine may have, plugged or reserved.
pub const MAX_NICS: usize = 4;

/// Disks a machine may have, plugged or reserved.
pub const MAX_DISKS: usize = 8;

/// Bytes of a disk's serial number, as virtio has them.
pub const MAX_SERIAL: usize = 20;

/// A whole machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `query-name`, and the process's name in its messages.
    pub name: Option<String>,
    /// `query-uuid`, as it was written.
    pub uuid: Option<String>,
    /// Guest memory in MiB.
    pub memory_mib: u64,
    /// Virtual processors.
    pub vcpus: u8,
    /// What they show of the host's processor.
    pub cpu: Cpu,
    /// What is booted, and at a reset again; `None` only where a state comes in.
    pub boot: Option<Boot>,
    /// In the order of their slots: `vda`, `vdb`, …
    pub disks: Vec<Disk>,
    /// In the order of their slots: `eth0`, `eth1`, …
    pub nics: Vec<Nic>,
    /// The 16550 at COM1.
    pub serial: Endpoint,
    /// A virtio console (`hvc0`).
    pub console: Endpoint,
    /// A virtio-serial port that a program in the guest talks to the host through.
    pub channel: Option<Channel>,
    /// A virtio random source.
    pub rng: bool,
    /// A virtio balloon.
    pub balloon: bool,
    /// The api-channel: where QMP is listened for.
    pub qmp: Vec<Endpoint>,
    /// What is reserved for devices that come later.
    pub hotplug: Hotplug,
    /// The guest runs no instruction before `cont`.
    pub paused: bool,
    /// What follows when the guest ends.
    pub actions: Actions,
    /// A state to come back from.
    pub incoming: Option<Incoming>,
    /// Where the memory of that state is, when it is no part of the stream.
    pub memory_file: Option<MemoryFile>,
    /// Who to be when root starts the process; `None` keeps.
    pub run_as: Option<RunAs>,
    /// Confine the process. Off for debugging only.
    pub sandbox: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: None,
            uuid: None,
            memory_mib: 128,
            vcpus: 1,
            cpu: Cpu::default(),
            boot: None,
            disks: Vec::new(),
            nics: Vec::new(),
            serial: Endpoint::None,
            console: Endpoint::None,
            channel: None,
            rng: false,
            balloon: false,
            qmp: Vec::new(),
            hotplug: Hotplug::default(),
            paused: false,
            actions: Actions::default(),
            incoming: None,
            memory_file: None,
            run_as: None,
            sandbox: true,
        }
    }
}

/// What the virtual processors show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Where the features come from.
    pub template: Template,
    /// Bits of CPUID leaves that are set or cleared after the template.
    pub masks: Vec<CpuidMask>,
}

/// A set of processor features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Template {
    /// Everything that KVM offers on this host.
    #[default]
    Host,
    /// A conservative set that x86-64 servers of the last ten years have: images move between them.
    Baseline,
}

/// Changes of one CPUID leaf: `(value & keep) | set` for each register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidMask {
    /// EAX of the query.
    pub leaf: u32,
    /// ECX of the query; `None` = every subleaf.
    pub subleaf: Option<u32>,
    /// Bits kept, in the order EAX, EBX, ECX, EDX.
    pub keep: [u32; 4],
    /// Bits set, in the same order.
    pub set: [u32; 4],
}

/// A kernel and what it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// A bzImage or an ELF vmlinux.
    pub kernel: Source,
    /// Initial RAM disk.
    pub initrd: Option<Source>,
    /// The kernel's command line.
    pub cmdline: String,
}

/// A file, by name or by a descriptor that the process inherited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A path.
    Path(PathBuf),
    /// An inherited descriptor.
    Fd(RawFd),
}

/// A block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its name in `query-block` and `device_del`; unique.
    pub id: String,
    /// A raw image or a block device.
    pub source: Source,
    /// Refuses writes.
    pub readonly: bool,
    /// What the guest reads as its serial number, at most [`MAX_SERIAL`] bytes; `None` = its id,
    /// as far as it fits.
    pub serial: Option<String>,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Its name in `device_del`; unique.
    pub id: String,
    /// The host's end.
    pub tap: Tap,
    /// Address that the guest is given; `None` = one is derived from the slot.
    pub mac: Option<[u8; 6]>,
    /// Whether packets go through the kernel's vhost.
    pub vhost: Vhost,
}

/// The host's end of a network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tap {
    /// A tap of this name, opened (and made, if it does not exist) by the process.
    Name(String),
    /// An inherited descriptor of a tap with `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`.
    Fd(RawFd),
}

/// Whether packets go through the kernel's vhost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Vhost {
    /// Where /dev/vhost-net can be opened.
    #[default]
    Auto,
    /// Or fail.
    On,
    /// Never.
    Off,
}

/// Where bytes come from and go to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Endpoint {
    /// The device does not exist (QMP: not listened).
    #[default]
    None,
    /// It exists; what it writes is dropped.
    Null,
    /// The process's own stdin and stdout.
    Stdio,
    /// Output is appended to a file; there is no input.
    File(PathBuf),
    /// A unix socket to listen on; one client at a time.
    Unix(PathBuf),
    /// An inherited listening unix socket.
    Fd(RawFd),
}

/// A virtio-serial port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// The port's name: `/dev/virtio-ports/NAME` in a guest with udev.
    pub name: String,
    /// The host's end.
    pub endpoint: Endpoint,
}

/// What is reserved for devices that come later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hotplug {
    /// Network interfaces in all, those of the configuration included; the guest sees them all.
    pub nics: usize,
    /// Disks in all, those of the configuration included.
    pub disks: usize,
    /// Directories that later files may be opened in.
    pub dirs: Vec<PathBuf>,
}

/// What follows when the guest ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Actions {
    /// It switched itself off.
    pub shutdown: AfterEnd,
    /// It asked for a reboot.
    pub reboot: AfterReboot,
    /// It panicked.
    pub panic: AfterEnd,
}

/// What follows when the guest has come to an end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfterEnd {
    /// The process ends.
    #[default]
    Exit,
    /// It stands still and can be asked.
    Pause,
}

/// What follows when the guest asks for a reboot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfterReboot {
    /// The machine is reset in place.
    #[default]
    Reset,
    /// It counts as an end, with the reason `guest-reset`: [`Actions::shutdown`] applies.
    Shutdown,
}

/// A state to come back from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A stream, or a file made by `migrate file:`.
    From(Source),
    /// `migrate-incoming` will say.
    Defer,
}

/// Memory to come back from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryFile {
    /// A file that holds the memory and nothing else.
    pub source: Source,
    /// Mapped shared and written; otherwise privately, and the file never changes.
    pub shared: bool,
}

/// A user to run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunAs {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}
