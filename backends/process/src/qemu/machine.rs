//! The machine that a domain's state belongs to.

use kxl_backend::{Attachments, BackendError, LaunchSpec, Result};
use kxl_domain::DomainConfig;
use kxl_domain::config::model::{Arch, DiskFormat};
use kxl_domain::image::{Machine, MemoryLayout};
use serde_json::{Value, json};
use std::os::fd::RawFd;

use super::args::{self, Plan};
use super::binary::{self, Accel};
use super::devices;
use super::family::Family;
use super::live;
use super::processor;

/// Name of the one memory block.
pub(super) const MEMORY: &str = "ram0";

/// Keys among [`Attachments::notes`].
const DEVICES: &str = "devices";
const ACCEL: &str = "accel";
const MEMORY_FD: &str = "memory-fd";
const MEMORY_OWN: &str = "memory-own";

/// A disk that can have a snapshot inside itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) vdev: String,
    /// QEMU's name of its node.
    pub(crate) node: String,
}

/// What a save needs to know of a machine.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// The machine; its features are asked for when they are needed.
    machine: Machine,
    /// The main memory block.
    pub(crate) memory: MemoryLayout,
    /// The device stream is never longer, where that is known.
    pub(crate) device_bound: Option<u64>,
    /// A second live pass may miss writes of the guest. Where QEMU before 9.0 translates, it forgets
    /// to tell the translated code, after it has collected dirty pages, that they are clean again:
    /// what that writes next is not noticed. Seen with 7.2.22: half of the migrations of a booting
    /// Linux held old pages. When a migration begins QEMU does tell it.
    pub(crate) one_pass: bool,
    /// Such a guest may go on while the state of one moment is streamed, if the host lets QEMU
    /// protect its memory from writing. (Of no use to others: they have as many passes as it takes,
    /// and are never slowed down by a disk.)
    pub(crate) background: bool,
    /// The guest may write to a disk.
    pub(crate) writes: bool,
    /// The disks that snapshots are taken of.
    pub(crate) disks: Vec<Disk>,
    /// QEMU's descriptor of the file that its memory was mapped from.
    pub(crate) memory_fd: Option<RawFd>,
    /// That file is the guest's own: what it writes is in there.
    pub(crate) memory_own: bool,
    /// Its memory may be read past QEMU while it runs: every write goes through QEMU's own mapping,
    /// where the kernel sees it. So it is with a guest that is translated and with the devices that
    /// we give it, but for disks past the page cache: for these the hardware writes, and what is on
    /// its way while the kernel is asked would be missed; and for USB devices of the host, which
    /// write also while the guest stands still. KVM was not tried.
    pub(crate) direct: bool,
    /// That a page has 4 KiB is part of the state.
    pub(crate) page_bits: bool,
}

impl Facts {
    /// The facts of a machine that was made with these attachments; `version` is what the running
    /// emulator says of itself.
    pub(crate) fn of(
        family: &dyn Family,
        backend: &str,
        config: &DomainConfig,
        attachments: &Attachments,
        version: [u64; 3],
    ) -> Self {
        let note = |key: &str| attachments.notes.get(key).cloned().unwrap_or_default();
        let [major, ..] = version;
        let one_pass = note(ACCEL) == Accel::Tcg.as_str() && major < 9;
        let machine = Machine {
            backend: backend.to_owned(),
            emulator: family.name().into(),
            version: family.version(version, attachments),
            machine: attachments.machine.clone().unwrap_or_default(),
            cpu: attachments.cpu.clone().unwrap_or_default(),
            features: Vec::new(),
            accel: note(ACCEL),
            devices: serde_json::from_str(&note(DEVICES)).unwrap_or_default(),
            notes: std::collections::BTreeMap::new(),
        };
        Self {
            machine,
            one_pass,
            background: one_pass && major >= 6,
            writes: config.disks.iter().any(|disk| disk.readwrite && !disk.cdrom),
            memory: layout(config),
            device_bound: family.device_bound(),
            disks: disks(config),
            memory_fd: note(MEMORY_FD).parse().ok(),
            memory_own: !note(MEMORY_OWN).is_empty(),
            direct: note(ACCEL) == Accel::Tcg.as_str()
                && config.emulator_args.is_empty()
                && !config.usb.devices.iter().any(|device| device.starts_with("host"))
                && !config.disks.iter().any(|disk| disk.direct_io_safe),
            page_bits: binary::arch(config).is_ok_and(|arch| arch == Arch::Aarch64),
        }
    }
}

/// Writes what [`Facts::of`] wants back.
pub(super) fn note(
    family: &dyn Family,
    attachments: &mut Attachments,
    spec: &LaunchSpec,
    plan: &Plan,
) -> Result<(), BackendError> {
    let devices = json!(family.parts(spec, plan)?).to_string();
    attachments.notes.insert(DEVICES.into(), devices);
    attachments.notes.insert(ACCEL.into(), plan.accel.as_str().into());
    if let Some(memory) = &plan.memory {
        attachments.notes.insert(MEMORY_FD.into(), memory.number.to_string());
        if memory.own {
            attachments.notes.insert(MEMORY_OWN.into(), "yes".into());
        }
    }
    Ok(())
}

/// The memory of a domain, all of it: the balloon takes back what it does not have at the moment.
pub(super) fn layout(config: &DomainConfig) -> MemoryLayout {
    MemoryLayout { id: MEMORY.into(), size: config.maxmem_mib << 20 }
}

fn disks(config: &DomainConfig) -> Vec<Disk> {
    let able = config.disks.iter().filter(|disk| {
        disk.readwrite && !disk.cdrom && disk.target.is_some() && disk.format == DiskFormat::Qcow2
    });
    able.map(|disk| Disk { vdev: disk.vdev.clone(), node: devices::node(&disk.vdev) }).collect()
}

/// The machine as the guest sees it, part for part: options of the machine, processors, devices.
/// Without what may differ between two hosts or two lives of a domain: files, addresses of
/// interfaces, boot order.
pub(super) fn list(spec: &LaunchSpec, plan: &Plan) -> Result<Vec<String>, BackendError> {
    let mut list = vec![
        format!("machine {}", args::machine_options(&spec.config, plan)),
        format!("smp {}", args::processors(&spec.config)),
    ];
    for (option, value) in devices::all(spec, plan)? {
        let value = value.to_string_lossy();
        match option {
            "device" => list.push(format!("device {}", seen(&value))),
            "serial" => list.push(format!("serial {value}")),
            _ => {}
        }
    }
    list.extend(spec.config.emulator_args.iter().map(|arg| format!("argument {arg}")));
    Ok(list)
}

/// A device's options without those that its state does not depend on.
fn seen(options: &str) -> String {
    const APART: &[&str] = &["drive", "netdev", "mac", "bootindex"];
    let parts = options
        .split(',')
        .filter(|part| part.split_once('=').is_none_or(|(key, _)| !APART.contains(&key)));
    parts.collect::<Vec<_>>().join(",")
}

impl live::Qemu {
    /// The machine with the processor features that QEMU tells.
    pub(super) async fn machine_now(&self) -> Result<Machine> {
        let mut machine = self.facts.machine.clone();
        let model = processor::expansion(&machine.cpu);
        match self.command("query-cpu-model-expansion", Some(model)).await {
            Ok(answer) => machine.features = features(&answer),
            Err(BackendError::Control { why, .. }) => {
                tracing::debug!(why, "the processor's features are not told");
            }
            Err(error) => return Err(error),
        }
        Ok(machine)
    }
}

/// The features that are on, by the expansion of a model; sorted.
pub(super) fn features(answer: &Value) -> Vec<String> {
    // Properties of the model in QEMU that are no features of a processor.
    const APART: &[&str] = &[
        "check",
        "enforce",
        "fill-mtrr-mask",
        "full-cpuid-auto-level",
        "host-cache-info",
        "kvm",
        "l3-cache",
        "legacy-cache",
        "migratable",
        "tcg-cpuid",
        "vmware-cpuid-freq",
    ];
    let props = answer.get("model").and_then(|model| model.get("props")).and_then(Value::as_object);
    let mut names: Vec<String> = props
        .into_iter()
        .flatten()
        .filter(|(name, value)| {
            // Another spelling of a name that is there as well has one of these two characters.
            value.as_bool() == Some(true)
                && !name.contains(['_', '.'])
                && !name.starts_with("x-")
                && !APART.contains(&name.as_str())
        })
        .map(|(name, _)| name.clone())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use kxl_domain::config::model::{self, DiskBus};

    use super::super::family::Qemu;
    use super::*;

    fn past_the_cache() -> model::Disk {
        model::Disk {
            target: Some("/dev/sda".into()),
            format: DiskFormat::Raw,
            vdev: "xvda".into(),
            bus: DiskBus::Virtio,
            index: 0,
            vdev_number: 0,
            readwrite: true,
            cdrom: false,
            discard: None,
            direct_io_safe: true,
            backendtype: None,
            script: None,
        }
    }

    #[test]
    fn memory_is_read_past_qemu_only_where_every_write_is_seen() {
        let facts = |accel: &str, config: &DomainConfig| {
            let mut attachments = Attachments::default();
            attachments.notes.insert(ACCEL.into(), accel.into());
            Facts::of(&Qemu, "qemu", config, &attachments, [7, 2, 22]).direct
        };
        let plain = DomainConfig::new("guest".parse().unwrap());
        assert!(facts("tcg", &plain));
        assert!(!facts("kvm", &plain));
        let mut own = plain.clone();
        own.emulator_args = vec!["-device".into(), "x".into()];
        assert!(!facts("tcg", &own), "what it does is not known");
        let mut disk = plain;
        disk.disks = vec![past_the_cache()];
        assert!(!facts("tcg", &disk), "the hardware writes");
        disk.disks.clear();
        disk.usb.devices = vec!["tablet".into(), "host:1.2".into()];
        assert!(!facts("tcg", &disk), "it writes while the guest stands still");
    }

    #[test]
    fn features_are_sorted_and_named_once() {
        let answer = json!({"model": {"name": "x", "props": {
            "sse4.1": true, "sse4-1": true, "sse4_1": true, "apic": true, "check": true,
            "avx": false, "level": 3, "x-vendor": true}}});
        assert_eq!(features(&answer), ["apic", "sse4-1"]);
        assert!(features(&json!({})).is_empty());
    }

    #[test]
    fn what_may_differ_is_not_part_of_a_device() {
        let options = "virtio-net-pci,netdev=net0,id=nic0,mac=00:16:3e:00:00:01,bootindex=1";
        assert_eq!(seen(options), "virtio-net-pci,id=nic0");
    }
}
