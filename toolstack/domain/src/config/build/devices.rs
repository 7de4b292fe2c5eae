//! Disks, network interfaces, serial ports, USB.

use super::own::starts_kernels;
use super::reader::Reader;
use crate::config::disk;
use crate::config::error::{ErrorKind, WarningKind};
use crate::config::model::{Disk, DiskBus, DomainConfig, GuestKind, Nic};
use crate::config::vif::{self, VifError};

pub(super) fn read(reader: &mut Reader<'_>, config: &mut DomainConfig) {
    config.disks = disks(reader);
    config.nics = nics(reader);
    if config.kind == GuestKind::Hvm || !starts_kernels(config) {
        config.serial = reader.one_or_items("serial").map_or_else(Vec::new, |s| s.into_strings());
        usb(reader, config);
    }
}

fn disks(reader: &mut Reader<'_>) -> Vec<Disk> {
    let mut disks: Vec<Disk> = Vec::new();
    for item in reader.items("disk") {
        match disk::parse(&[&item.value]) {
            Ok(disk) if disks.iter().any(|other| other.vdev_number == disk.vdev_number) => {
                reader.error(ErrorKind::SameDisk(disk.vdev), &item.span).done();
            }
            Ok(disk) => {
                if disk.script.is_some() {
                    let key = "script of a disk";
                    let why = "block scripts are not run";
                    reader.warn(WarningKind::NoEffect { key, why }, Some(&item.span), None, None);
                }
                disks.push(disk);
            }
            Err(errors) => {
                for error in errors {
                    let by_parser = error.what.found_by_xl_parser();
                    let line = format!(
                        "{}: config parsing error in disk specification: {error}",
                        reader.source_name()
                    );
                    let expected = error.what.expected();
                    let mut mistake = reader.error(error.into(), &item.span);
                    if let Some(expected) = expected {
                        mistake = mistake.expected(expected);
                    }
                    if by_parser { mistake.xl(line).done() } else { mistake.done() }
                }
            }
        }
    }
    spread(&mut disks);
    disks
}

/// Gives disks that share a place on their bus, as `xvda1` and `xvda2` do, places of their own:
/// they are different disks here, not partitions of one.
fn spread(disks: &mut [Disk]) {
    for at in 1..disks.len() {
        let (before, rest) = disks.split_at_mut(at);
        let disk = &mut rest[0];
        let taken =
            |bus: DiskBus, index: u32| before.iter().any(|d| (d.bus, d.index) == (bus, index));
        if taken(disk.bus, disk.index) {
            let free = (0..).find(|index| !taken(disk.bus, *index));
            disk.index = free.expect("a finite list leaves an index free");
        }
    }
}

fn nics(reader: &mut Reader<'_>) -> Vec<Nic> {
    let mut nics = Vec::new();
    for item in reader.items("vif") {
        let (nic, errors) = vif::parse(&item.value);
        for error in errors {
            let xl = error.xl_text(reader.source_name());
            let hint = match &error {
                VifError::Unrecognized { nearest: Some(known), .. } => {
                    Some(format!("the nearest key is {known}"))
                }
                _ => None,
            };
            let ends_xl = error.ends_xl();
            let rate = matches!(error, VifError::Rate(_));
            let known_to_xl = xl.is_some();
            let mut mistake = reader.error(error.into(), &item.span);
            if let Some(hint) = hint {
                mistake = mistake.hint(hint);
            }
            if rate {
                mistake = mistake.expected("a rate such as 10Mb/s, 2MB/s or 1GB/s@20ms");
            }
            match xl {
                Some(line) if ends_xl => mistake.xl(line).done(),
                _ if known_to_xl => mistake.passed_over(xl),
                _ => mistake.done(),
            }
        }
        nics.push(nic);
    }
    nics
}

fn usb(reader: &mut Reader<'_>, config: &mut DomainConfig) {
    let given = reader.flag("usb");
    config.usb.devices =
        reader.one_or_items("usbdevice").map_or_else(Vec::new, |d| d.into_strings());
    config.usb.devices.retain(|device| !device.is_empty());
    // A device needs a controller to be plugged into, whatever usb= says; so xl does.
    config.usb.enabled = given == Some(true) || !config.usb.devices.is_empty();
    if config.usb.enabled && reader.has("usbversion") {
        let what = "usbversion excludes usb and usbdevice";
        reader.error_at(ErrorKind::Contradiction(what), "usbversion").done();
    }
}
