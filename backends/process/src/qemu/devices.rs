//! Disks, network interfaces, screen, USB and the small devices, as QEMU's options.

use std::collections::BTreeSet;
use std::ffi::OsString;

use kxl_backend::{BackendError, LaunchSpec};
use kxl_domain::DomainConfig;
use kxl_domain::config::model::{Disk, DiskBus, DiskFormat, Nic};
use kxl_domain::guest::PORT;

use super::args::{Plan, has_vnc};
use super::options::Options;

/// An option without its dash, and its value.
pub(crate) type Item = (&'static str, OsString);

/// Every device of the configuration.
pub(crate) fn all(spec: &LaunchSpec, plan: &Plan) -> Result<Vec<Item>, BackendError> {
    let config = &spec.config;
    let mut items = Vec::new();
    if plan.is_pc() {
        device(&mut items, Options::new("pvpanic").with("id", "pvpanic0"));
    }
    let balloon = Options::new("virtio-balloon-pci").with("id", "balloon0");
    device(&mut items, balloon.switch("deflate-on-oom", true));
    let mut order = BootOrder::new(config);
    disks(&mut items, config, plan, &mut order)?;
    for (index, nic) in config.nics.iter().enumerate() {
        interface(&mut items, spec, plan, index, nic, &mut order)?;
    }
    serial(&mut items, config)?;
    screen(&mut items, config, plan)?;
    usb(&mut items, config, plan)?;
    // Last, so that the other devices keep their places whether it is there or not.
    if plan.channel.is_some() {
        channel(&mut items);
    }
    Ok(items)
}

/// The port by which the guest tells how it stands.
fn channel(items: &mut Vec<Item>) {
    device(items, Options::new("virtio-serial-pci").with("id", "serial0").number("max_ports", 2));
    let port = Options::new("virtserialport").with("bus", "serial0.0").number("nr", 1);
    let port = port.with("chardev", "guest").with("name", PORT).with("id", "guest0");
    device(items, port);
}

fn device(items: &mut Vec<Item>, options: Options) {
    items.push(("device", options.into()));
}

/// Deals boot indices out by the letters of `boot=`.
struct BootOrder {
    letters: String,
    used: BTreeSet<u32>,
}

impl BootOrder {
    fn new(config: &DomainConfig) -> Self {
        let letters = config.boot.order.clone().unwrap_or_else(|| "cda".into());
        Self { letters, used: BTreeSet::new() }
    }

    /// The next index for a device of this letter; `None` when it is not to be booted from. A
    /// hundred per letter, from 1: QEMU gives 0 to a directly started kernel.
    fn next(&mut self, letter: char) -> Option<u32> {
        let place = self.letters.chars().position(|other| other == letter)?;
        let first = u32::try_from(place).ok()? * 100 + 1;
        let index = (first..first + 100).find(|index| !self.used.contains(index))?;
        self.used.insert(index);
        Some(index)
    }
}

fn disks(
    items: &mut Vec<Item>,
    config: &DomainConfig,
    plan: &Plan,
    order: &mut BootOrder,
) -> Result<(), BackendError> {
    let scsi = |disk: &Disk| disk.bus == DiskBus::Scsi || disk.cdrom && disk.bus == DiskBus::Virtio;
    if config.disks.iter().any(scsi) {
        device(items, Options::new("virtio-scsi-pci").with("id", "scsi0"));
    }
    let mut names = BTreeSet::new();
    for disk in &config.disks {
        if !names.insert(&disk.vdev) {
            return Err(BackendError::config(
                "disk",
                format!("two disks are called {}", disk.vdev),
            ));
        }
        let id = node(&disk.vdev);
        let node = disk.target.as_ref().map(|target| {
            let node = Options::new("")
                .with("driver", driver(disk.format))
                .with("node-name", &id)
                .switch("read-only", !disk.readwrite || disk.cdrom)
                .maybe("discard", disk.discard.unwrap_or(disk.readwrite).then_some("unmap"))
                .maybe("cache.direct", disk.direct_io_safe.then_some("on"))
                .with("file.driver", if is_block(target) { "host_device" } else { "file" })
                .maybe("file.cache.direct", disk.direct_io_safe.then_some("on"))
                .with("file.filename", target);
            items.push(("blockdev", node.into()));
            id.as_str()
        });
        let boot = order.next(if disk.cdrom { 'd' } else { 'c' });
        let model = attach(disk, plan)?
            .with("id", format!("dev-{}", plain(&disk.vdev)))
            .maybe("drive", node)
            .maybe("bootindex", boot.map(|index| index.to_string()));
        device(items, model);
    }
    Ok(())
}

/// The device of a disk and its place on its bus.
fn attach(disk: &Disk, plan: &Plan) -> Result<Options, BackendError> {
    let (vdev, index) = (&disk.vdev, disk.index);
    let wrong = |why: String| BackendError::config("disk", format!("{vdev}: {why}"));
    if disk.format == DiskFormat::Empty && !disk.cdrom {
        return Err(wrong("only a CD-ROM drive can be empty".into()));
    }
    match (disk.bus, disk.cdrom) {
        (DiskBus::Virtio, false) => Ok(Options::new("virtio-blk-pci")),
        (DiskBus::Virtio | DiskBus::Scsi, _) if index > 255 => {
            Err(wrong("the SCSI bus has 256 places".into()))
        }
        // No removable drive exists for virtio-blk. Its places begin where those of sdX cannot
        // collide for the first 128 of each.
        (DiskBus::Virtio, true) => {
            Ok(Options::new("scsi-cd").with("bus", "scsi0.0").number("scsi-id", 255 - index))
        }
        (DiskBus::Scsi, cdrom) => Ok(Options::new(if cdrom { "scsi-cd" } else { "scsi-hd" })
            .with("bus", "scsi0.0")
            .number("scsi-id", index)),
        (DiskBus::Ide, _) if !plan.is_pc() => {
            let machine = &plan.machine;
            Err(wrong(format!("{machine} has no IDE bus; call it xvdX (virtio) or sdX (SCSI)")))
        }
        (DiskBus::Ide, cdrom) => {
            // Four places on the two channels of a PC, six ports on a Q35.
            let places = if plan.is_q35() { 6 } else { 4 };
            if index >= places {
                return Err(wrong(format!("the IDE bus of {} has {places} places", plan.machine)));
            }
            let (bus, unit) = if plan.is_q35() { (index, 0) } else { (index / 2, index % 2) };
            Ok(Options::new(if cdrom { "ide-cd" } else { "ide-hd" })
                .with("bus", format!("ide.{bus}"))
                .number("unit", unit))
        }
    }
}

fn is_block(path: &std::path::Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device())
}

const fn driver(format: DiskFormat) -> &'static str {
    match format {
        DiskFormat::Raw | DiskFormat::Empty => "raw",
        DiskFormat::Qcow => "qcow",
        DiskFormat::Qcow2 => "qcow2",
        DiskFormat::Vhd => "vpc",
        DiskFormat::Qed => "qed",
    }
}

/// QEMU's name of a disk's node.
pub(super) fn node(vdev: &str) -> String {
    format!("disk-{}", plain(vdev))
}

/// Letters and digits only: what may stand in an id.
fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).collect()
}

/// The device for an interface's model, by xl's names.
pub(crate) fn model(nic: &Nic) -> Result<&'static str, BackendError> {
    const KNOWN: &[(&str, &str)] = &[
        ("virtio", "virtio-net-pci"),
        ("virtio-net", "virtio-net-pci"),
        ("rtl8139", "rtl8139"),
        ("e1000", "e1000"),
        ("e1000e", "e1000e"),
        ("ne2k_pci", "ne2k_pci"),
        ("pcnet", "pcnet"),
        ("vmxnet3", "vmxnet3"),
    ];
    let asked = match (nic.emulated, &nic.model) {
        (Some(false), _) | (None, None) => "virtio",
        (_, Some(model)) => model,
        // What xl emulates when told no more.
        (Some(true), None) => "rtl8139",
    };
    KNOWN.iter().find(|(name, _)| *name == asked).map(|(_, device)| *device).ok_or_else(|| {
        let names: Vec<_> = KNOWN.iter().map(|(name, _)| *name).collect();
        let names = names.join(", ");
        BackendError::config("vif", format!("no model {asked:?}; expected one of {names}"))
    })
}

fn interface(
    items: &mut Vec<Item>,
    spec: &LaunchSpec,
    plan: &Plan,
    index: usize,
    nic: &Nic,
    order: &mut BootOrder,
) -> Result<(), BackendError> {
    let id = format!("net{index}");
    let backend = match plan.taps.get(index).copied().flatten() {
        Some(fd) => Options::new("tap").with("id", &id).number("fd", fd),
        None => Options::new("user").with("id", &id),
    };
    items.push(("netdev", backend.into()));
    let number =
        u8::try_from(index).map_err(|_| BackendError::config("vif", "at most 256 interfaces"))?;
    let mac = nic.mac.unwrap_or_else(|| spec.uuid.mac(number));
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    let model = model(nic)?;
    let boot = order.next('n');
    let mut options = Options::new(model).with("netdev", &id).with("id", format!("nic{index}"));
    options = options.with("mac", mac);
    if model == "virtio-net-pci" {
        options = options.maybe("host_mtu", nic.mtu.map(|mtu| mtu.to_string()));
    }
    options = match boot {
        Some(index) => options.number("bootindex", index),
        // Without its boot ROM a machine that does not boot from it starts sooner.
        None => options.with("romfile", ""),
    };
    device(items, options);
    Ok(())
}

/// Serial ports after the first, which is the console.
fn serial(items: &mut Vec<Item>, config: &DomainConfig) -> Result<(), BackendError> {
    for (port, what) in config.serial.iter().enumerate() {
        match (port, what.as_str()) {
            (0, "pty" | "stdio") => {}
            (0, "none" | "null") | (_, "null") => items.push(("serial", "null".into())),
            (_, "none") => items.push(("serial", "none".into())),
            (0, other) => {
                let why = format!("{other:?} cannot be the console; expected pty or none");
                return Err(BackendError::config("serial", why));
            }
            (_, other) => {
                let why = format!(
                    "{other:?}: ports after the first take null or none; others go through \
                     device_model_args"
                );
                return Err(BackendError::config("serial", why));
            }
        }
    }
    Ok(())
}

/// Whether the first serial port is the console.
pub(crate) fn has_console(config: &DomainConfig) -> bool {
    config.serial.first().is_none_or(|what| matches!(what.as_str(), "pty" | "stdio"))
}

fn screen(items: &mut Vec<Item>, config: &DomainConfig, plan: &Plan) -> Result<(), BackendError> {
    let display = &config.display;
    if display.sdl {
        return Err(BackendError::config(
            "sdl",
            "a domain has no desktop to open a window on; use vnc",
        ));
    }
    let vnc = has_vnc(config);
    let card = match display.vga.as_deref() {
        Some("none") => None,
        Some("std" | "stdvga") => Some("VGA"),
        Some("cirrus") => Some("cirrus-vga"),
        Some("qxl") => Some("qxl-vga"),
        Some("virtio") => Some("virtio-gpu-pci"),
        Some(other) => {
            let why = format!("no card {other:?}; expected stdvga, cirrus, qxl, virtio or none");
            return Err(BackendError::config("vga", why));
        }
        None if !vnc => None,
        None if plan.is_pc() => Some("VGA"),
        None => Some("virtio-gpu-pci"),
    };
    if let Some(card) = card {
        let mut options = Options::new(card).with("id", "video0");
        if card == "VGA"
            && let Some(mib) = display.videoram_mib
        {
            options = options.number("vgamem_mb", mib.clamp(1, 256).next_power_of_two());
        }
        device(items, options);
    }
    if !vnc {
        return Ok(());
    }
    let listen = display.vnclisten.as_deref().unwrap_or("127.0.0.1");
    let address = |byte: u8| byte.is_ascii_alphanumeric() || b".:-%".contains(&byte);
    if listen.is_empty() || !listen.bytes().all(address) || listen.starts_with('-') {
        return Err(BackendError::config("vnclisten", format!("{listen:?} is no address")));
    }
    let listen = if listen.contains(':') { format!("[{listen}]") } else { listen.to_owned() };
    let first = display.vncdisplay.unwrap_or(0);
    let mut vnc = Options::new(&format!("{listen}:{first}"));
    if display.vncunused.unwrap_or(true) {
        // The last display that is tried.
        vnc = vnc.number("to", first.saturating_add(99));
    }
    if display.vncpasswd.as_deref().is_some_and(|password| !password.is_empty()) {
        vnc = vnc.switch("password", true);
    }
    items.push(("vnc", vnc.into()));
    if let Some(keymap) = &display.keymap {
        if !keymap.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            || keymap.starts_with('-')
        {
            return Err(BackendError::config("keymap", format!("{keymap:?} is no keymap's name")));
        }
        items.push(("k", keymap.into()));
    }
    Ok(())
}

fn usb(items: &mut Vec<Item>, config: &DomainConfig, plan: &Plan) -> Result<(), BackendError> {
    let mut wanted: Vec<&str> = config.usb.devices.iter().map(String::as_str).collect();
    if !plan.is_pc() && has_vnc(config) && wanted.is_empty() {
        // A machine without PS/2 ports: a screen alone would be of little use.
        wanted = vec!["keyboard", "tablet"];
    }
    if !config.usb.enabled && wanted.is_empty() {
        return Ok(());
    }
    device(items, Options::new("qemu-xhci").with("id", "usb"));
    for (index, what) in wanted.into_iter().enumerate() {
        let options = match what {
            "tablet" => Options::new("usb-tablet"),
            "mouse" => Options::new("usb-mouse"),
            "keyboard" => Options::new("usb-kbd"),
            other => {
                let hex = |text: &str| u16::from_str_radix(text, 16).ok();
                let numbers = other
                    .strip_prefix("host:")
                    .and_then(|rest| rest.split_once(':'))
                    .and_then(|(vendor, product)| Some((hex(vendor)?, hex(product)?)));
                let Some((vendor, product)) = numbers else {
                    let why = format!(
                        "no device {other:?}; expected tablet, mouse, keyboard or host:VVVV:PPPP"
                    );
                    return Err(BackendError::config("usbdevice", why));
                };
                Options::new("usb-host")
                    .with("vendorid", format!("{vendor:#06x}"))
                    .with("productid", format!("{product:#06x}"))
            }
        };
        device(items, options.with("bus", "usb.0").with("id", format!("usb-{index}")));
    }
    Ok(())
}
