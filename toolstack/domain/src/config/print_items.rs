//! Disks, interfaces and screens as the strings of their lists.

use super::model::{Disk, DiskFormat, Display, Nic};
use super::vif::mac_text;

/// A disk by named parameters; the target comes last, where it may hold anything.
pub(super) fn disk_text(disk: &Disk) -> String {
    let mut words = vec![format!("vdev={}", disk.vdev)];
    if disk.format != DiskFormat::Empty {
        words.push(format!("format={}", disk.format));
    }
    if disk.cdrom {
        words.push("cdrom".into());
    } else {
        words.push(format!("access={}", if disk.readwrite { "rw" } else { "ro" }));
    }
    match disk.discard {
        Some(true) => words.push("discard".into()),
        Some(false) => words.push("no-discard".into()),
        None => {}
    }
    if disk.direct_io_safe {
        words.push("direct-io-safe".into());
    }
    if let Some(kind) = &disk.backendtype {
        words.push(format!("backendtype={kind}"));
    }
    if let Some(script) = &disk.script {
        words.push(format!("script={script}"));
    }
    if let Some(target) = &disk.target {
        // One comma at the end of a target is cut off.
        let target = target.to_string_lossy();
        let comma = if target.ends_with(',') { "," } else { "" };
        words.push(format!("target={target}{comma}"));
    }
    words.join(",")
}

/// An interface by keys.
pub(super) fn nic_text(nic: &Nic) -> String {
    let mut words: Vec<String> = Vec::new();
    if nic.user {
        words.push("user".into());
    }
    let kind = nic.emulated.map(|emulated| if emulated { "ioemu" } else { "vif" }.to_owned());
    for (key, value) in [
        ("mac", nic.mac.map(mac_text)),
        ("bridge", nic.bridge.clone()),
        ("type", kind),
        ("model", nic.model.clone()),
        ("vifname", nic.vifname.clone()),
        ("script", nic.script.clone()),
        ("ip", nic.ip.clone()),
        ("gatewaydev", nic.gatewaydev.clone()),
        ("vlan", nic.vlan.clone()),
        ("mtu", nic.mtu.map(|mtu| mtu.to_string())),
        ("rate", nic.rate.map(|rate| rate.to_string())),
        ("devid", nic.devid.map(|devid| devid.to_string())),
    ] {
        if let Some(value) = value {
            words.push(format!("{key}={value}"));
        }
    }
    words.join(",")
}

/// A screen as an item of `vfb=`.
pub(super) fn vfb_text(display: &Display) -> String {
    let flag = |on: bool| u8::from(on).to_string();
    let mut words: Vec<String> = Vec::new();
    for (key, value) in [
        ("vnc", display.vnc.map(flag)),
        ("vnclisten", display.vnclisten.clone()),
        ("vncdisplay", display.vncdisplay.map(|number| number.to_string())),
        ("vncunused", display.vncunused.map(flag)),
        ("vncpasswd", display.vncpasswd.clone()),
        ("keymap", display.keymap.clone()),
        ("sdl", display.sdl.then(|| flag(true))),
    ] {
        if let Some(value) = value {
            words.push(format!("{key}={value}"));
        }
    }
    words.join(",")
}
