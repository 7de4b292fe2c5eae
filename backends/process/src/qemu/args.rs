//! QEMU's command line: a pure function of a configuration and of what was resolved and opened for
//! it.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;

use kxl_backend::{BackendError, LaunchSpec, RunAs};
use kxl_domain::DomainConfig;
use kxl_domain::config::model::{Arch, Firmware, GuestKind};

use super::binary::Accel;
use super::devices;
use super::machine::MEMORY;
use super::options::Options;

/// What the configuration does not say: resolved names, numbers of descriptors in the child.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) arch: Arch,
    pub(crate) accel: Accel,
    /// Versioned machine type.
    pub(crate) machine: String,
    pub(crate) cpu: String,
    /// The listening control socket.
    pub(crate) control: RawFd,
    /// The listening console socket.
    pub(crate) console: Option<RawFd>,
    /// One per interface; `None` for user networking.
    pub(crate) taps: Vec<Option<RawFd>>,
    /// UEFI code and variables.
    pub(crate) flash: Option<(PathBuf, PathBuf)>,
    /// Only where root starts the emulator.
    pub(crate) run_as: Option<RunAs>,
    /// `-rtc base=`.
    pub(crate) clock: String,
    /// Where the memory comes from, for a state that comes back.
    pub(crate) memory: Option<Memory>,
    /// The device stream of a state that comes back.
    pub(crate) state: Option<RawFd>,
    /// The listening socket of the guest's port.
    pub(crate) channel: Option<RawFd>,
}

/// A file that memory is mapped from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Its descriptor in the child.
    pub(crate) number: RawFd,
    /// It may be written: it is mapped shared instead of privately.
    pub(crate) own: bool,
}

impl Plan {
    /// PCs have an ISA bus, IDE and ACPI hot keys; Arm's `virt` has none of the first two.
    pub(crate) const fn is_pc(&self) -> bool {
        matches!(self.arch, Arch::X86_64)
    }

    pub(crate) fn is_q35(&self) -> bool {
        self.machine.contains("q35")
    }
}

/// The arguments after the program's name.
///
/// # Errors
/// [`BackendError::Config`] for what this machine cannot have.
pub(crate) fn arguments(spec: &LaunchSpec, plan: &Plan) -> Result<Vec<OsString>, BackendError> {
    let config = &spec.config;
    let mut args = Args::default();
    args.name(spec);
    args.machine(config, plan);
    args.boot(config, plan);
    args.control(plan);
    for (option, value) in devices::all(spec, plan)? {
        args.push(option, value);
    }
    args.confine(plan);
    args.0.extend(config.emulator_args.iter().map(OsString::from));
    Ok(args.0)
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

    fn name(&mut self, spec: &LaunchSpec) {
        let name = Options::new("").with("guest", spec.name.as_str()).switch("debug-threads", true);
        self.push("name", name);
        self.push("uuid", spec.uuid.to_string());
        self.flag("nodefaults");
        self.flag("no-user-config");
        // Standing still until the monitor has recorded everything and says `cont`.
        self.flag("S");
        self.push("action", "shutdown=pause,reboot=shutdown,panic=pause,watchdog=pause");
        // The run state tells a later monitor that the guest ended, not how. These two lines in the
        // log do: see `cause`.
        self.push("trace", "runstate_set");
        self.push("trace", "qemu_system_shutdown_request");
    }

    fn machine(&mut self, config: &DomainConfig, plan: &Plan) {
        let machine = machine_options(config, plan).with("accel", plan.accel.as_str());
        if let Some((code, variables)) = &plan.flash {
            for (node, path, read_only) in
                [("flash-code", code, true), ("flash-vars", variables, false)]
            {
                let flash = Options::new("")
                    .with("driver", "raw")
                    .with("node-name", node)
                    .switch("read-only", read_only)
                    .with("file.driver", "file")
                    .with("file.filename", path);
                self.push("blockdev", flash);
            }
        }
        self.push("machine", machine);
        self.push("cpu", plan.cpu.as_str());
        // The whole of maxmem is there from the start; the balloon takes the rest back.
        let size = format!("{}M", config.maxmem_mib);
        self.push("m", Options::new("").with("size", &size));
        let kind = if plan.memory.is_some() { "memory-backend-file" } else { "memory-backend-ram" };
        let mut ram = Options::new(kind).with("id", MEMORY).with("size", &size);
        if let Some(Memory { number, own }) = plan.memory {
            // Opened anew by QEMU, which wants to write also what it maps privately.
            let path = format!("/proc/self/fd/{number}");
            ram = ram.with("mem-path", path).switch("share", own);
        }
        if let Some(number) = plan.state {
            // Loaded as soon as the machine is made, without a word on the control channel, which
            // QEMU reads byte by byte.
            self.push("incoming", format!("fd:{number}"));
        }
        self.push("object", ram);
        self.push("smp", processors(config));
        self.push("rtc", Options::new("").with("base", &plan.clock).with("clock", "host"));
    }

    fn boot(&mut self, config: &DomainConfig, plan: &Plan) {
        let boot = &config.boot;
        if let Some(Firmware::Path(path)) = &boot.firmware
            && plan.flash.is_none()
        {
            self.push("bios", path.as_os_str());
        }
        if let Some(kernel) = &boot.kernel {
            self.push("kernel", kernel.as_os_str());
            if let Some(ramdisk) = &boot.ramdisk {
                self.push("initrd", ramdisk.as_os_str());
            }
            if let Some(cmdline) = &boot.cmdline {
                self.push("append", cmdline.as_str());
            }
        } else if boot.order.is_some() {
            // Only what the order names, instead of everything after it.
            self.push("boot", "strict=on");
        }
    }

    fn control(&mut self, plan: &Plan) {
        let socket = |id: &str, fd: RawFd| {
            Options::new("socket")
                .with("id", id)
                .number("fd", fd)
                .switch("server", true)
                .switch("wait", false)
        };
        self.push("chardev", socket("control", plan.control));
        self.push("mon", Options::new("").with("chardev", "control").with("mode", "control"));
        if let Some(fd) = plan.console {
            self.push("chardev", socket("console", fd));
            self.push("serial", "chardev:console");
        }
        if let Some(fd) = plan.channel {
            self.push("chardev", socket("guest", fd));
        }
        self.push("display", "none");
    }

    fn confine(&mut self, plan: &Plan) {
        // elevateprivileges=deny would forbid -runas its own setuid.
        self.push("sandbox", "on,obsolete=deny,spawn=deny,resourcecontrol=deny");
        if let Some(RunAs { uid, gid }) = plan.run_as {
            self.push("runas", format!("{uid}:{gid}"));
        }
    }
}

/// The machine and the properties of it that its guest sees.
pub(super) fn machine_options(config: &DomainConfig, plan: &Plan) -> Options {
    let mut machine = Options::new(&plan.machine).with("memory-backend", MEMORY);
    if !config.acpi {
        machine = machine.switch("acpi", false);
    }
    if plan.is_pc() && !config.hpet {
        machine = machine.switch("hpet", false);
    }
    if plan.machine.starts_with("virt") {
        machine = machine.with(
            "gic-version",
            match plan.accel {
                Accel::Kvm => "host",
                Accel::Tcg => "3",
            },
        );
    }
    if plan.flash.is_some() {
        machine = machine.with("pflash0", "flash-code").with("pflash1", "flash-vars");
    }
    machine
}

/// The processors.
pub(super) fn processors(config: &DomainConfig) -> Options {
    Options::new("").number("cpus", config.vcpus).number("maxcpus", config.maxvcpus)
}

/// Whether a domain has a screen: as it says, else as its kind has by default.
pub(crate) fn has_vnc(config: &DomainConfig) -> bool {
    !config.display.nographic
        && config
            .display
            .vnc
            .unwrap_or(config.kind == GuestKind::Hvm && config.boot.kernel.is_none())
}

#[cfg(test)]
mod tests;
