//! A domain's configuration as typed, checked values: what the parser makes and what backends,
//! records and renderers read.

mod process;
mod processor;
mod supervision;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ids::{DomainName, DomainUuid};
use crate::image::ClockPolicy;
use crate::policy::{Action, GuestEvent, default_action};
use crate::state::words;

pub use process::{Input, Output, OutputTo, Privilege, ProcessRules, Rlimit, RlimitName};
pub use processor::{Feature, Processor};
pub use supervision::{Autorestart, GuestEvents, Stop, StopSignal, Supervision};

words! {
    /// xl's `type=`.
    pub enum GuestKind {
        /// A machine with firmware, or a kernel started directly on a full machine.
        Hvm = "hvm",
        /// A kernel started directly; on KVM and QEMU the same as [`Self::Pvh`].
        Pv = "pv",
        /// A kernel started directly, virtio devices only.
        Pvh = "pvh",
    }
}

words! {
    /// The guest's processor architecture for `backend = "qemu"`.
    pub enum Arch {
        /// AMD64.
        X86_64 = "x86_64",
        /// 64-bit Arm.
        Aarch64 = "aarch64",
    }
}

/// A domain's configuration. Every field is checked; paths are not yet looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainConfig {
    /// `name=`.
    pub name: DomainName,
    /// `uuid=`; made once and stored when absent.
    pub uuid: Option<DomainUuid>,
    /// `type=`/`builder=`.
    pub kind: GuestKind,
    /// `backend=`: `auto`, `qemu`, `kvm`, `mock` or a profile's name.
    pub backend: String,
    /// `arch=`; the host's own when absent.
    pub arch: Option<Arch>,
    /// `machine=`: QEMU's machine type or a simulator's program name.
    pub machine: Option<String>,
    /// `memory=` in MiB.
    pub memory_mib: u64,
    /// `maxmem=` in MiB, never below `memory_mib`.
    pub maxmem_mib: u64,
    /// `vcpus=`.
    pub vcpus: u32,
    /// `maxvcpus=`, never below `vcpus`.
    pub maxvcpus: u32,
    /// `cpus=`: which host CPUs each virtual CPU may use.
    pub cpus: Affinity,
    /// `cpu_weight=`, Xen's 1..65535 with 256 as the middle.
    pub cpu_weight: Option<u32>,
    /// `cap=` in percent of one CPU; `None` = no cap.
    pub cap: Option<u32>,
    /// Kernel, firmware and boot order.
    pub boot: Boot,
    /// `disk=`.
    pub disks: Vec<Disk>,
    /// `vif=`.
    pub nics: Vec<Nic>,
    /// `serial=`: at most one character device each, `pty` the usual.
    pub serial: Vec<String>,
    /// Screen and keyboard.
    pub display: Display,
    /// `usb=` and `usbdevice=`.
    pub usb: Usb,
    /// `localtime=`: the guest's clock shows local time instead of UTC.
    pub localtime: bool,
    /// `rtc_timeoffset=` in seconds.
    pub rtc_timeoffset_s: i64,
    /// `acpi=`.
    pub acpi: bool,
    /// `hpet=`.
    pub hpet: bool,
    /// `on_poweroff=`.
    pub on_poweroff: Action,
    /// `on_reboot=`.
    pub on_reboot: Action,
    /// `on_crash=`.
    pub on_crash: Action,
    /// `on_watchdog=`.
    pub on_watchdog: Action,
    /// `on_soft_reset=`: kept; QEMU never raises the event.
    pub on_soft_reset: Action,
    /// `device_model_override=` or `exec=`: the emulator to run instead of the profile's.
    pub emulator: Option<PathBuf>,
    /// `device_model_args=` and `_hvm`: arguments passed on as they are, after all others.
    pub emulator_args: Vec<String>,
    /// `description=`: one line for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `emulator_config=`: the emulator's own configuration file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emulator_config: Option<PathBuf>,
    /// `prestart=`, `stop_script=` and `guest_status_script=`.
    #[serde(default, skip_serializing_if = "Scripts::is_empty")]
    pub scripts: Scripts,
    /// `ini=`: for SIMH, the command file that sets the machine up, ending before `go`.
    pub ini: Option<PathBuf>,
    /// `start=`: for SIMH, what follows `go` (an address in the simulator's radix).
    pub start: Option<String>,
    /// Limits on the emulator process.
    pub limits: Limits,
    /// Console behaviour.
    pub console: Console,
    /// What becomes of it when its host starts, stops or is emptied.
    #[serde(default)]
    pub maintenance: Maintenance,
    /// `clock_after_restore=`.
    #[serde(default)]
    pub clock_after_restore: ClockPolicy,
    /// Supervisor's rules; `None` = Xen's `on_*` alone decide what follows an end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervision: Option<Supervision>,
    /// How it is stopped.
    #[serde(default)]
    pub stop: Stop,
    /// `guest_events=`.
    #[serde(default = "DomainConfig::no_guest_events")]
    pub guest_events: GuestEvents,
    /// What its program runs with.
    #[serde(default, skip_serializing_if = "ProcessRules::is_default")]
    pub process: ProcessRules,
    /// What its processors show.
    #[serde(default, skip_serializing_if = "Processor::is_default")]
    pub processor: Processor,
    /// Keys that are understood and kept but that this build does not act on: key to value, the
    /// value written as in a configuration file (`"text"`, `["a", "b"]`).
    pub kept: BTreeMap<String, String>,
}

impl DomainConfig {
    const fn no_guest_events() -> GuestEvents {
        GuestEvents::None
    }

    /// Keeps the domain however it ends: nothing follows from any event, and nobody supervises it.
    pub fn preserve_always(&mut self) {
        self.supervision = None;
        self.on_poweroff = Action::Preserve;
        self.on_reboot = Action::Preserve;
        self.on_crash = Action::Preserve;
        self.on_watchdog = Action::Preserve;
        self.on_soft_reset = Action::Preserve;
    }

    /// The smallest configuration: this name, every default of the reference.
    #[must_use]
    pub fn new(name: DomainName) -> Self {
        Self {
            name,
            uuid: None,
            kind: GuestKind::Pv,
            backend: "auto".into(),
            arch: None,
            machine: None,
            memory_mib: 32,
            maxmem_mib: 32,
            vcpus: 1,
            maxvcpus: 1,
            cpus: Affinity::Any,
            cpu_weight: None,
            cap: None,
            boot: Boot::default(),
            disks: Vec::new(),
            nics: Vec::new(),
            serial: Vec::new(),
            display: Display::default(),
            usb: Usb::default(),
            localtime: false,
            rtc_timeoffset_s: 0,
            acpi: true,
            hpet: true,
            on_poweroff: default_action(GuestEvent::Poweroff),
            on_reboot: default_action(GuestEvent::Reboot),
            on_crash: default_action(GuestEvent::Crash),
            on_watchdog: default_action(GuestEvent::Watchdog),
            on_soft_reset: Action::SoftReset,
            emulator: None,
            description: None,
            emulator_config: None,
            scripts: Scripts::default(),
            emulator_args: Vec::new(),
            ini: None,
            start: None,
            limits: Limits::default(),
            console: Console::default(),
            maintenance: Maintenance::default(),
            clock_after_restore: ClockPolicy::default(),
            supervision: None,
            stop: Stop::default(),
            guest_events: GuestEvents::None,
            process: ProcessRules::default(),
            processor: Processor::default(),
            kept: BTreeMap::new(),
        }
    }

    /// The configured action for an event.
    #[must_use]
    pub const fn action(&self, event: GuestEvent) -> Action {
        match event {
            GuestEvent::Poweroff => self.on_poweroff,
            GuestEvent::Reboot => self.on_reboot,
            GuestEvent::Crash => self.on_crash,
            GuestEvent::Watchdog => self.on_watchdog,
        }
    }
}

/// Scripts of an operator that belong to one domain; each is run without a shell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scripts {
    /// `prestart=`: run before each start; where it fails there is no start.
    pub prestart: Option<PathBuf>,
    /// `stop_script=`: shuts the guest down; `None` = the common one of the host, if there is one.
    pub stop: Option<PathBuf>,
    /// `guest_status_script=`: says whether the guest's system is up.
    pub guest_status: Option<PathBuf>,
}

impl Scripts {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Which host CPUs virtual CPUs may use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Affinity {
    /// Every one, everywhere.
    #[default]
    Any,
    /// All virtual CPUs on the host CPUs of this list text (xl-cpu-list syntax, checked).
    All(String),
    /// Virtual CPU i on the host CPUs of item i.
    Each(Vec<String>),
}

/// What the machine starts from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// `kernel=`.
    pub kernel: Option<PathBuf>,
    /// `ramdisk=`.
    pub ramdisk: Option<PathBuf>,
    /// `cmdline=`, or `root=` and `extra=` put together.
    pub cmdline: Option<String>,
    /// `boot=`: letters of a c d n, in order of trial; `None` = the default `cda`.
    pub order: Option<String>,
    /// `firmware=`/`bios=` where it is not the default: `ovmf`, or a path.
    pub firmware: Option<Firmware>,
}

/// The firmware of an HVM domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Firmware {
    /// SeaBIOS, QEMU's default.
    Seabios,
    /// UEFI.
    Ovmf,
    /// A file.
    Path(PathBuf),
}

words! {
    /// The format of a disk's contents.
    pub enum DiskFormat {
        /// Plain.
        Raw = "raw",
        /// QEMU copy on write, version 1.
        Qcow = "qcow",
        /// QEMU copy on write, version 2 and 3.
        Qcow2 = "qcow2",
        /// Microsoft's VHD (QEMU's driver `vpc`).
        Vhd = "vhd",
        /// QEMU enhanced disk.
        Qed = "qed",
        /// A tray without a medium.
        Empty = "empty",
    }
}

words! {
    /// The bus that a virtual device name asks for.
    pub enum DiskBus {
        /// `xvdX`, `dNpM`, plain numbers: virtio.
        Virtio = "virtio",
        /// `hdX`.
        Ide = "ide",
        /// `sdX`.
        Scsi = "scsi",
    }
}

/// One disk (xl-disk-configuration(5)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Path of the file or block device; `None` = empty tray.
    pub target: Option<PathBuf>,
    /// Format.
    pub format: DiskFormat,
    /// The name as written: `xvda`, `hdc`, `sdb2`, …
    pub vdev: String,
    /// The bus that name asks for.
    pub bus: DiskBus,
    /// Index of the disk on its bus, from 0; no two disks of a domain share bus and index (where
    /// names would, as `xvda1` and `xvda2` do, the later one is given the next free index).
    pub index: u32,
    /// Xen's number of the virtual device (`xl block-list`).
    pub vdev_number: u32,
    /// Whether the guest may write.
    pub readwrite: bool,
    /// A CD-ROM drive; always read-only and removable.
    pub cdrom: bool,
    /// `discard`/`no-discard`; `None` = follows `readwrite`.
    pub discard: Option<bool>,
    /// `direct-io-safe`.
    pub direct_io_safe: bool,
    /// `backendtype=` as written; kept, all are the same here.
    pub backendtype: Option<String>,
    /// `script=`, or the helper of a deprecated prefix such as `iscsi:`.
    pub script: Option<String>,
}

/// One network interface (xl-network-configuration(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// `mac=`; derived from the uuid when absent.
    pub mac: Option<[u8; 6]>,
    /// `bridge=`.
    pub bridge: Option<String>,
    /// `type=`: `ioemu` (an emulated model) or `vif` (virtio).
    pub emulated: Option<bool>,
    /// `model=` for emulated interfaces.
    pub model: Option<String>,
    /// `vifname=`: name of the tap on the host.
    pub vifname: Option<String>,
    /// `script=`; kept.
    pub script: Option<String>,
    /// `ip=`; kept.
    pub ip: Option<String>,
    /// `mtu=`.
    pub mtu: Option<u32>,
    /// `rate=`.
    pub rate: Option<Rate>,
    /// `vlan=`; kept.
    pub vlan: Option<String>,
    /// `gatewaydev=`; kept.
    pub gatewaydev: Option<String>,
    /// `devid=`; its place in the list when absent.
    pub devid: Option<u32>,
    /// kxl's own flag `user`: QEMU's user networking, an explicit choice that needs no bridge.
    pub user: bool,
}

/// A rate limit, as libxl keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Bytes that may be sent in one interval.
    pub bytes_per_interval: u64,
    /// Length of the interval in microseconds.
    pub interval_us: u32,
}

/// Screen, keyboard, pointer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Display {
    /// `vnc=`; `None` = the default of the guest kind (HVM 1, else 0).
    pub vnc: Option<bool>,
    /// `vnclisten=`; default 127.0.0.1.
    pub vnclisten: Option<String>,
    /// `vncdisplay=`; the port is 5900 + this.
    pub vncdisplay: Option<u32>,
    /// `vncunused=`; `None` = 1: search a free display.
    pub vncunused: Option<bool>,
    /// `vncpasswd=`.
    pub vncpasswd: Option<String>,
    /// `keymap=`.
    pub keymap: Option<String>,
    /// `sdl=`.
    pub sdl: bool,
    /// `nographic=`.
    pub nographic: bool,
    /// `vga=`/`stdvga=`: stdvga, cirrus, none, qxl.
    pub vga: Option<String>,
    /// `videoram=` in MiB.
    pub videoram_mib: Option<u32>,
}

/// USB.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usb {
    /// `usb=`.
    pub enabled: bool,
    /// `usbdevice=`: tablet, mouse, keyboard, `host:VVVV:PPPP`.
    pub devices: Vec<String>,
}

/// Limits on the emulator process; `None` = none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// `limit_memory=`: memory of the emulator process in MiB (cgroup).
    pub memory_mib: Option<u64>,
    /// `limit_pids=`: its threads and processes (cgroup).
    pub pids: Option<u32>,
    /// `limit_nofile=`: its open files (rlimit).
    pub nofile: Option<u64>,
}

/// What becomes of a domain when its host starts, stops or is emptied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maintenance {
    /// `autostart=`; `None` = as it was registered before, and off for a new domain.
    #[serde(default)]
    pub autostart: Option<bool>,
    /// `priority=`, 0 to 1000: lower ones are started first and stopped last.
    #[serde(default = "Maintenance::middle")]
    pub priority: u32,
    /// `after=`: started before this domain and stopped after it. They need not exist.
    #[serde(default)]
    pub after: Vec<DomainName>,
    /// `requires=`: as `after`, and where one of them did not come up this domain is not started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<DomainName>,
    /// `stop_command=`: the absolute path of a program and its arguments; empty = none.
    #[serde(default)]
    pub stop_command: Vec<String>,
}

impl Maintenance {
    const fn middle() -> u32 {
        500
    }

    /// The domains that are started before this one and stopped after it: those of `after=` and
    /// those of `requires=`.
    pub fn predecessors(&self) -> impl Iterator<Item = &DomainName> {
        let required = self.requires.iter().filter(|name| !self.after.contains(name));
        self.after.iter().chain(required)
    }
}

impl Default for Maintenance {
    fn default() -> Self {
        Self {
            autostart: None,
            priority: Self::middle(),
            after: Vec::new(),
            requires: Vec::new(),
            stop_command: Vec::new(),
        }
    }
}

/// Console behaviour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Console {
    /// `console_log=`: size in KiB at which a log file is rotated.
    pub log_kib: u32,
    /// `console_keep=`: how many rotated files are kept.
    pub keep: u32,
    /// `console_pace=`: milliseconds between two bytes of input; `None` = the profile's.
    pub pace_ms: Option<u32>,
}

impl Default for Console {
    fn default() -> Self {
        Self { log_kib: 1024, keep: 4, pace_ms: None }
    }
}
