//! A domain's configuration in the shape of libxl's JSON.
//!
//! Only what differs from the default is printed, structs always. The key `"name"` appears once
//! in a domain and never as its last member, and the uuid follows it: scripts count on both.

use kxl_domain::config::cpulist::CpuList;
use kxl_domain::config::model::{
    Affinity, Disk, Display, DomainConfig, Firmware, GuestKind, Nic, Usb,
};
use kxl_domain::{Action, DomainUuid};

use super::yajl::{Map, Value};

/// What a live domain has now, where the configuration tells what it began with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// Memory in MiB.
    pub(crate) memory_mib: u64,
    /// Virtual CPUs on line.
    pub(crate) vcpus: u32,
}

/// The configuration, as `xl create -n` prints it and `xl list -l` holds it.
pub(crate) fn config(config: &DomainConfig, uuid: DomainUuid, now: Option<Now>) -> Map {
    let now = now.unwrap_or(Now { memory_mib: config.memory_mib, vcpus: config.vcpus });
    let mut out = Map::default();
    let mut c_info = Map::default();
    c_info
        .put("type", config.kind.as_str())
        .put("name", config.name.as_str())
        .put("uuid", uuid.to_string())
        .put("run_hotplug_scripts", "True");
    out.put("c_info", c_info).put("b_info", b_info(config, now));
    put_list(&mut out, "disks", config.disks.iter().map(disk));
    put_list(&mut out, "nics", config.nics.iter().enumerate().map(|(at, nic)| self::nic(at, nic)));
    for (key, action, default) in [
        ("on_poweroff", config.on_poweroff, Action::Destroy),
        ("on_reboot", config.on_reboot, Action::Destroy),
        ("on_watchdog", config.on_watchdog, Action::Destroy),
        ("on_crash", config.on_crash, Action::Destroy),
        ("on_soft_reset", config.on_soft_reset, Action::Destroy),
    ] {
        if action != default {
            out.put(key, action_word(action));
        }
    }
    out
}

/// Domain 0: the host, which has no configuration.
pub(crate) fn host(memory_mib: u64) -> Map {
    let mut c_info = Map::default();
    c_info.put("type", "pv").put("name", kxl_domain::DomainName::HOST);
    let mut b_info = Map::default();
    b_info
        .put("max_memkb", memory_mib * 1024)
        .put("target_memkb", memory_mib * 1024)
        .put("sched_params", Map::default())
        .put("type.pv", Map::default())
        .put("arch_arm", Map::default())
        .put("arch_x86", Map::default());
    let mut out = Map::default();
    out.put("c_info", c_info).put("b_info", b_info);
    out
}

fn b_info(config: &DomainConfig, now: Now) -> Map {
    let mut out = Map::default();
    out.put("max_vcpus", config.maxvcpus);
    out.put("avail_vcpus", (0..now.vcpus).map(Value::from).collect::<Vec<_>>());
    put_list(&mut out, "vcpu_hard_affinity", affinity(config).into_iter());
    out.put("max_memkb", config.maxmem_mib * 1024);
    out.put("target_memkb", now.memory_mib * 1024);
    out.put_some("video_memkb", config.display.videoram_mib.map(|mib| u64::from(mib) * 1024));
    if config.rtc_timeoffset_s != 0 {
        out.put("rtc_timeoffset", config.rtc_timeoffset_s);
    }
    put_bool(&mut out, "localtime", config.localtime, false);
    out.put_some("device_model", config.emulator.as_deref().map(path));
    put_list(&mut out, "extra", config.emulator_args.iter().map(|arg| arg.as_str().into()));
    let mut sched = Map::default();
    sched.put_some("weight", config.cpu_weight).put_some("cap", config.cap);
    out.put("sched_params", sched).put("claim_mode", "True");
    out.put_some("kernel", config.boot.kernel.as_deref().map(path));
    out.put_some("cmdline", config.boot.cmdline.as_deref());
    out.put_some("ramdisk", config.boot.ramdisk.as_deref().map(path));
    put_bool(&mut out, "acpi", config.acpi, true);
    match config.kind {
        GuestKind::Hvm => out.put("type.hvm", hvm(config)),
        GuestKind::Pv => out.put("type.pv", Map::default()),
        GuestKind::Pvh => out.put("type.pvh", Map::default()),
    };
    out.put("arch_arm", Map::default()).put("arch_x86", Map::default());
    out
}

fn hvm(config: &DomainConfig) -> Map {
    let mut out = Map::default();
    match &config.boot.firmware {
        Some(Firmware::Seabios) => drop(out.put("bios", "seabios")),
        Some(Firmware::Ovmf) => drop(out.put("bios", "ovmf")),
        Some(Firmware::Path(file)) => drop(out.put("system_firmware", path(file))),
        None => {}
    }
    put_bool(&mut out, "hpet", config.hpet, true);
    put_bool(&mut out, "nographic", config.display.nographic, false);
    display(&mut out, &config.display);
    match config.serial.as_slice() {
        [] => {}
        [one] => drop(out.put("serial", one.as_str())),
        _ => {}
    }
    out.put_some("boot", config.boot.order.as_deref());
    usb(&mut out, &config.usb);
    if config.serial.len() > 1 {
        put_list(&mut out, "serial_list", config.serial.iter().map(|one| one.as_str().into()));
    }
    out.put("rdm", Map::default());
    out
}

fn display(out: &mut Map, display: &Display) {
    let mut vga = Map::default();
    vga.put_some(
        "kind",
        display.vga.as_deref().map(|kind| match kind {
            "stdvga" => "std",
            other => other,
        }),
    );
    let mut vnc = Map::default();
    vnc.put_some("enable", display.vnc.map(defbool))
        .put_some("listen", display.vnclisten.as_deref())
        .put_some("passwd", display.vncpasswd.as_deref())
        .put_some("display", display.vncdisplay.filter(|number| *number != 0))
        .put_some("findunused", display.vncunused.map(defbool));
    let mut sdl = Map::default();
    put_bool(&mut sdl, "enable", display.sdl, false);
    out.put("vga", vga).put("vnc", vnc);
    out.put_some("keymap", display.keymap.as_deref());
    out.put("sdl", sdl).put("spice", Map::default());
}

fn usb(out: &mut Map, usb: &Usb) {
    put_bool(out, "usb", usb.enabled, false);
    match usb.devices.as_slice() {
        [] => {}
        [one] => drop(out.put("usbdevice", one.as_str())),
        more => put_list(out, "usbdevice_list", more.iter().map(|one| one.as_str().into())),
    }
}

/// One disk.
pub(crate) fn disk(disk: &Disk) -> Value {
    let mut out = Map::default();
    out.put_some("pdev_path", disk.target.as_deref().map(path));
    out.put("vdev", disk.vdev.as_str());
    out.put_some("backend", disk.backendtype.as_deref());
    out.put("format", disk.format.as_str());
    out.put_some("script", disk.script.as_deref());
    for (key, yes) in
        [("removable", disk.cdrom), ("readwrite", disk.readwrite), ("is_cdrom", disk.cdrom)]
    {
        if yes {
            out.put(key, 1u32);
        }
    }
    if disk.direct_io_safe {
        out.put("direct_io_safe", true);
    }
    out.put("discard_enable", defbool(disk.discard.unwrap_or(disk.readwrite)));
    out.into()
}

/// One network interface, at this place in the list.
pub(crate) fn nic(at: usize, nic: &Nic) -> Value {
    let mut out = Map::default();
    out.put("devid", nic.devid.map_or(Value::Number(i64::try_from(at).unwrap_or(0)), Value::from));
    out.put_some("mtu", nic.mtu);
    out.put_some("model", nic.model.as_deref());
    out.put_some("mac", nic.mac.map(mac));
    out.put_some("ip", nic.ip.as_deref());
    out.put_some("bridge", nic.bridge.as_deref());
    out.put_some("ifname", nic.vifname.as_deref());
    out.put_some("script", nic.script.as_deref());
    out.put_some("nictype", nic.emulated.map(|yes| if yes { "vif_ioemu" } else { "vif" }));
    if let Some(rate) = nic.rate {
        out.put("rate_bytes_per_interval", rate.bytes_per_interval);
        out.put("rate_interval_usecs", rate.interval_us);
    }
    out.into()
}

/// A MAC address in lower case.
pub(crate) fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// libxl's word for an action: underscores, not the configuration's spelling.
fn action_word(action: Action) -> &'static str {
    match action {
        Action::Destroy => "destroy",
        Action::Restart => "restart",
        Action::RenameRestart => "restart_rename",
        Action::Preserve => "preserve",
        Action::CoredumpDestroy => "coredump_destroy",
        Action::CoredumpRestart => "coredump_restart",
        Action::SoftReset => "soft_reset",
    }
}

/// The affinity of each virtual CPU as lists of CPU numbers; empty when there is none to show.
fn affinity(config: &DomainConfig) -> Vec<Value> {
    let host = crate::facts::online_cpus();
    let bits = |text: &str| -> Value {
        let list = text.parse::<CpuList>();
        let set = list.map(|list| list.evaluate(host, crate::facts::node_cpus)).unwrap_or_default();
        set.into_iter().map(Value::from).collect::<Vec<_>>().into()
    };
    match &config.cpus {
        Affinity::Any => Vec::new(),
        Affinity::All(text) => (0..config.maxvcpus).map(|_| bits(text)).collect(),
        Affinity::Each(items) => items.iter().map(|text| bits(text)).collect(),
    }
}

fn defbool(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

fn put_bool(out: &mut Map, key: &str, value: bool, default: bool) {
    if value != default {
        out.put(key, defbool(value));
    }
}

fn put_list(out: &mut Map, key: &str, items: impl Iterator<Item = Value>) {
    let items: Vec<Value> = items.collect();
    if !items.is_empty() {
        out.put(key, items);
    }
}

fn path(path: &std::path::Path) -> String {
    path.to_string_lossy().into_owned()
}
