//! kxl-vmm, the native virtual machine monitor: its program, what it has and has not, and its
//! command line.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use kxl_backend::{Attachments, BackendError, LaunchSpec, Result, RunAs};
use kxl_domain::DomainConfig;
use kxl_domain::config::model::{Arch, Disk, DiskBus, DiskFormat, Nic};
use kxl_domain::guest::PORT;

use super::args::{Memory, Plan, has_vnc};
use super::binary::{self, Accel, Emulator, Machines};
use super::devices;
use super::family::{Choice, Family};
use super::options::Options;
use super::processor;
use crate::program;

/// The program's name.
const NAME: &str = "kxl-vmm";

/// Names the program, before every other place.
const OVERRIDE: &str = "KXL_VMM";

/// What it has places for.
const MAX_VCPUS: u32 = 64;
const MAX_DISKS: usize = 8;
const MAX_NICS: usize = 4;

/// Bytes of a kernel's command line that it takes.
const MAX_CMDLINE: usize = 2047;

/// The state of 64 processors, each with tens of kilobytes, and of every device.
const DEVICE_BOUND: u64 = 8 << 20;

/// The family of kxl-vmm.
#[derive(Debug)]
pub(crate) struct Kvm;

impl Family for Kvm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn title(&self) -> &'static str {
        NAME
    }

    fn choose(&self, spec: &LaunchSpec) -> Result<(Emulator, Choice)> {
        let config = &spec.config;
        if let Some(Lack { key, why }) = lack(config) {
            return Err(BackendError::config(key, why));
        }
        let path = match &config.emulator {
            Some(own) => program::find(own).ok_or_else(|| {
                BackendError::file("device_model_override", own, "no executable file of that name")
            })?,
            None => installed()?,
        };
        binary::kvm_opens().map_err(|error| no_kvm(&error))?;
        let emulator = offered(&path, &spec.cachedir)?;
        let saved = spec.image.as_ref().map(|image| &image.machine);
        let machine = match saved {
            Some(saved) => saved.machine.clone(),
            None => emulator.newest().to_owned(),
        };
        let cpu = match saved {
            Some(saved) => saved.cpu.clone(),
            None => processor::of_kxl_vmm(config),
        };
        let choice = Choice { arch: Arch::X86_64, accel: Accel::Kvm, machine, cpu, flash: None };
        Ok((emulator, choice))
    }

    fn arguments(&self, spec: &LaunchSpec, plan: &Plan) -> Result<Vec<OsString>> {
        let mut args = Args::default();
        args.machine(spec, plan);
        args.boot(spec);
        for disk in &spec.config.disks {
            args.disk(disk);
        }
        for (index, nic) in spec.config.nics.iter().enumerate() {
            args.nic(spec, plan, index, nic)?;
        }
        args.serial(&spec.config, plan)?;
        if let Some(fd) = plan.channel {
            args.push("channel", format!("name={PORT},fd:{fd}"));
        }
        args.flag("balloon");
        args.flag("rng");
        args.state(plan);
        if let Some(RunAs { uid, gid }) = plan.run_as {
            args.push("runas", format!("{uid}:{gid}"));
        }
        args.0.extend(spec.config.emulator_args.iter().map(OsString::from));
        Ok(args.0)
    }

    fn parts(&self, spec: &LaunchSpec, plan: &Plan) -> Result<Vec<String>> {
        let config = &spec.config;
        let mut parts = vec![format!("machine {}", plan.machine), format!("smp {}", config.vcpus)];
        parts.push(format!("serial {}", if plan.console.is_some() { "fd" } else { "null" }));
        parts.extend(config.disks.iter().map(|disk| format!("disk {}", disk.vdev)));
        parts.extend((0..config.nics.len()).map(|index| format!("net {index}")));
        parts.extend(plan.channel.map(|_| format!("channel {PORT}")));
        parts.extend(config.emulator_args.iter().map(|arg| format!("argument {arg}")));
        Ok(parts)
    }

    fn accelerator(&self, _arch: Arch) -> Accel {
        Accel::Kvm
    }

    fn version(&self, _greeting: [u64; 3], attachments: &Attachments) -> String {
        // Its greeting is that of the protocol it speaks, which its clients compare.
        attachments.emulator.rsplit(' ').next().unwrap_or_default().to_owned()
    }

    fn screen(&self, _config: &DomainConfig) -> bool {
        false
    }

    fn device_bound(&self) -> Option<u64> {
        Some(DEVICE_BOUND)
    }

    fn tells_of_writes(&self) -> bool {
        false
    }
}

/// The program of this installation: what the environment names, beside kxl's own programs, or
/// anywhere in `PATH`.
pub(crate) fn installed() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(OVERRIDE).filter(|name| !name.is_empty()) {
        let named = PathBuf::from(named);
        return program::find(&named).ok_or_else(|| BackendError::Missing {
            what: named.display().to_string(),
            hint: format!("{OVERRIDE} names it; unset that, or name the program's path"),
        });
    }
    let exe = std::env::current_exe().ok();
    let beside = neighbours(std::env::var_os("KXL_LIBEXEC"), exe.as_deref());
    beside
        .iter()
        .find_map(|dir| program::find(&dir.join(NAME)))
        .or_else(|| program::find(Path::new(NAME)))
        .ok_or_else(|| BackendError::Missing {
            what: NAME.into(),
            hint: format!("reinstall kxl, or name the program by {OVERRIDE}"),
        })
}

/// Directories of kxl's own programs. Test programs lie in a directory `deps` below them.
fn neighbours(libexec: Option<OsString>, exe: Option<&Path>) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> =
        libexec.filter(|dir| !dir.is_empty()).map(PathBuf::from).into_iter().collect();
    if let Some(dir) = exe.and_then(Path::parent) {
        dirs.push(dir.to_owned());
        let parent = dir.parent().unwrap_or(dir);
        if dir.file_name().is_some_and(|name| name == "deps") {
            dirs.push(parent.to_owned());
        }
        dirs.push(parent.join("libexec/kxl"));
        // Where the monitor is in PREFIX/libexec/kxl.
        if let Some(prefix) = parent.parent() {
            dirs.push(prefix.join("bin"));
        }
    }
    dirs
}

/// What the program says of itself.
pub(crate) fn offered(path: &Path, cachedir: &Path) -> Result<Emulator> {
    Emulator::known(path, cachedir, |path| Ok(told(&program::output(path, &["-version"])?)))
}

/// `kxl-vmm VERSION`, and `machine NAME` behind it.
fn told(text: &str) -> (String, Machines) {
    let words = |prefix: &'static str| {
        let rest = text.lines().filter_map(move |line| line.strip_prefix(prefix));
        rest.map(|rest| rest.trim().to_owned())
    };
    let version = words("kxl-vmm ").next().unwrap_or_default();
    (version, words("machine ").map(|name| (name, None)).collect())
}

fn no_kvm(error: &std::io::Error) -> BackendError {
    let hint = match error.kind() {
        std::io::ErrorKind::NotFound => "load the module kvm_amd or kvm_intel",
        std::io::ErrorKind::PermissionDenied => "join the group kvm, or start it as root",
        _ => "kxl info --backends tells more",
    };
    BackendError::Missing { what: format!("/dev/kvm ({error})"), hint: hint.into() }
}

/// Why Linux guests should not be run here, where they should not; `None` where they run.
pub(crate) fn unfit() -> Option<String> {
    if std::env::consts::ARCH != Arch::X86_64.as_str() {
        return Some("kxl-vmm makes machines of x86_64 only".into());
    }
    if let Err(error) = binary::kvm_opens() {
        return Some(no_kvm(&error).to_string());
    }
    (!binary::processor_virtualises()).then(|| {
        "the processor shows neither svm nor vmx: /dev/kvm answers but is an emulating nested KVM; \
         Linux guests would take hours"
            .to_owned()
    })
}

/// Something that a configuration asks for and kxl-vmm has not.
#[derive(Debug)]
pub(crate) struct Lack {
    pub(crate) key: &'static str,
    pub(crate) why: String,
}

/// The first thing that a configuration asks for and kxl-vmm has not.
pub(crate) fn lack(config: &DomainConfig) -> Option<Lack> {
    let lacks = |key, why: &str| Some(Lack { key, why: format!("{why}; backend=\"qemu\" has it") });
    let boot = &config.boot;
    if config.arch.is_some_and(|arch| arch != Arch::X86_64) {
        return lacks("arch", "kxl-vmm makes machines of x86_64");
    }
    if config.machine.is_some() {
        return lacks("machine", "kxl-vmm makes one machine, which needs no name");
    }
    let model = config.processor.model.as_deref();
    if model.is_some_and(|model| !processor::OF_KXL_VMM.contains(&model)) {
        return lacks("cpu_model", "kxl-vmm shows the host's processor, or baseline");
    }
    if boot.firmware.is_some() {
        return lacks("firmware", "kxl-vmm has no firmware");
    }
    if boot.kernel.is_none() {
        return lacks("kernel", "kxl-vmm starts a kernel and has no firmware to boot from a disk");
    }
    if boot.cmdline.as_ref().is_some_and(|text| text.len() > MAX_CMDLINE) {
        let why = format!("a kernel takes a command line of {MAX_CMDLINE} bytes");
        return Some(Lack { key: "cmdline", why });
    }
    if config.vcpus > MAX_VCPUS || config.maxvcpus > config.vcpus {
        return lacks(
            "vcpus",
            "kxl-vmm has at most 64 processors, and they are there from the start",
        );
    }
    if !config.acpi || config.localtime || config.rtc_timeoffset_s != 0 {
        let key = if config.acpi { "localtime" } else { "acpi" };
        return lacks(key, "kxl-vmm's machine has ACPI, and a clock in UTC");
    }
    let display = &config.display;
    if has_vnc(config) || display.sdl || display.vga.as_deref().is_some_and(|card| card != "none") {
        return lacks("vnc", "kxl-vmm has no screen");
    }
    if config.usb.enabled || !config.usb.devices.is_empty() {
        return lacks("usb", "kxl-vmm has no USB");
    }
    if config.serial.len() > 1 {
        return lacks("serial", "kxl-vmm has one serial port");
    }
    config
        .disks
        .iter()
        .find_map(disk)
        .or_else(|| counted(config))
        .or_else(|| config.nics.iter().find_map(interface))
}

fn counted(config: &DomainConfig) -> Option<Lack> {
    let (disks, nics) = (config.disks.len(), config.nics.len());
    if disks > MAX_DISKS {
        let why = format!("kxl-vmm has places for {MAX_DISKS} disks, not {disks}");
        return Some(Lack { key: "disk", why });
    }
    if nics > MAX_NICS {
        let why = format!("kxl-vmm has places for {MAX_NICS} interfaces, not {nics}");
        return Some(Lack { key: "vif", why });
    }
    None
}

/// What of a disk it has not.
fn disk(disk: &Disk) -> Option<Lack> {
    let vdev = &disk.vdev;
    let lacks = |why: String| Some(Lack { key: "disk", why: format!("{vdev}: {why}") });
    if disk.cdrom || disk.target.is_none() {
        return lacks("kxl-vmm has no CD-ROM drives; backend=\"qemu\" has them".into());
    }
    if disk.bus != DiskBus::Virtio {
        return lacks("kxl-vmm has virtio disks only: call it xvdX".into());
    }
    if disk.format != DiskFormat::Raw {
        let format = disk.format;
        return lacks(format!(
            "kxl-vmm reads raw disks, not {format}: convert it with qemu-img convert -O raw, or say \
             backend=\"qemu\""
        ));
    }
    None
}

/// What of an interface it has not.
fn interface(nic: &Nic) -> Option<Lack> {
    let lacks =
        |why: &str| Some(Lack { key: "vif", why: format!("{why}; backend=\"qemu\" has it") });
    if nic.user {
        return lacks("kxl-vmm has no user networking");
    }
    if devices::model(nic).is_ok_and(|model| model != "virtio-net-pci") {
        return lacks("kxl-vmm has virtio interfaces only");
    }
    if nic.mtu.is_some() {
        return lacks("kxl-vmm does not tell a guest its mtu");
    }
    None
}

#[derive(Default)]
struct Args(Vec<OsString>);

impl Args {
    fn push(&mut self, option: &str, value: impl Into<OsString>) {
        self.0.push(format!("-{option}").into());
        self.0.push(value.into());
    }

    fn flag(&mut self, option: &str) {
        self.0.push(format!("-{option}").into());
    }

    fn machine(&mut self, spec: &LaunchSpec, plan: &Plan) {
        self.push("name", spec.name.as_str());
        self.push("uuid", spec.uuid.to_string());
        // Standing still until the monitor has recorded everything and says `cont`.
        self.flag("S");
        self.push("action", "shutdown=pause,reboot=shutdown,panic=pause");
        // The whole of maxmem is there from the start; the balloon takes the rest back.
        self.push("m", format!("{}M", spec.config.maxmem_mib));
        self.push("smp", spec.config.vcpus.to_string());
        self.push("cpu", plan.cpu.as_str());
        self.push("qmp", format!("fd:{}", plan.control));
    }

    /// A state has its kernel in it; the file is for the day of a reset.
    fn boot(&mut self, spec: &LaunchSpec) {
        let boot = &spec.config.boot;
        let Some(kernel) = &boot.kernel else { return };
        self.push("kernel", kernel.as_os_str());
        if let Some(ramdisk) = &boot.ramdisk {
            self.push("initrd", ramdisk.as_os_str());
        }
        if let Some(cmdline) = &boot.cmdline {
            // In one word: whatever it begins with, it is no option.
            self.0.push(format!("-append={cmdline}").into());
        }
    }

    fn disk(&mut self, disk: &Disk) {
        let target = disk.target.as_ref().map_or(OsStr::new(""), |path| path.as_os_str());
        let options = Options::new("")
            .with("path", target)
            .with("id", &disk.vdev)
            .switch("readonly", !disk.readwrite);
        self.push("disk", options);
    }

    fn nic(&mut self, spec: &LaunchSpec, plan: &Plan, index: usize, nic: &Nic) -> Result<()> {
        let (Some(fd), Ok(number)) = (plan.taps.get(index).copied().flatten(), u8::try_from(index))
        else {
            return Err(BackendError::config("vif", "kxl-vmm has no user networking"));
        };
        let mac = nic.mac.unwrap_or_else(|| spec.uuid.mac(number));
        let options = Options::new("")
            .number("fd", fd)
            .with("id", format!("net{index}"))
            .with("mac", mac.map(|byte| format!("{byte:02x}")).join(":"));
        self.push("net", options);
        Ok(())
    }

    fn serial(&mut self, config: &DomainConfig, plan: &Plan) -> Result<()> {
        let first = config.serial.first().map(String::as_str);
        match (plan.console, first) {
            (Some(fd), _) => self.push("serial", format!("fd:{fd}")),
            // A port without an end: the guest's driver finds what it would find with QEMU.
            (None, Some("none" | "null")) => self.push("serial", "null"),
            (None, other) => {
                let other = other.unwrap_or_default();
                let why = format!("{other:?} cannot be the console; expected pty or none");
                return Err(BackendError::config("serial", why));
            }
        }
        Ok(())
    }

    fn state(&mut self, plan: &Plan) {
        if let Some(Memory { number, own }) = plan.memory {
            let shared = if own { ",shared=on" } else { "" };
            self.push("mem-file", format!("fd:{number}{shared}"));
        }
        if let Some(number) = plan.state {
            self.push("incoming", format!("fd:{number}"));
        }
    }
}

#[cfg(test)]
mod tests;
