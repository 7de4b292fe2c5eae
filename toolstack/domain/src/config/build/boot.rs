//! Kernel, firmware and boot order.

use std::path::PathBuf;

use super::general::unknown_word;
use super::own::{path, starts_kernels};
use super::reader::Reader;
use crate::config::error::{ErrorKind, WarningKind};
use crate::config::model::{DomainConfig, Firmware, GuestKind};

const HVMLOADER: &str = "WARNING: you seem to be using \"kernel\" directive to override HVM guest \
    firmware. Ignore that. Use \"firmware_override\" instead if you really want a non-default \
    firmware";

/// Keys that xl reads for hvm domains only, and passes over for the others.
const HVM_ONLY: &[&str] = &[
    "boot",
    "bios",
    "bios_path_override",
    "hpet",
    "vga",
    "stdvga",
    "nographic",
    "usb",
    "usbdevice",
    "serial",
];

pub(super) fn read(reader: &mut Reader<'_>, config: &mut DomainConfig) {
    config.boot.kernel = path(reader, "kernel");
    config.boot.ramdisk = path(reader, "ramdisk");
    config.boot.cmdline = cmdline(reader);
    let arm = config.arch == Some(crate::config::model::Arch::Aarch64);
    config.acpi = reader.flag("acpi").unwrap_or(!arm);
    if config.kind == GuestKind::Hvm {
        hvm(reader, config);
    } else {
        direct(reader, config);
    }
}

/// `cmdline=`, or `root=` and `extra=` put together.
fn cmdline(reader: &mut Reader<'_>) -> Option<String> {
    let [cmdline, root, extra] = ["cmdline", "root", "extra"].map(|key| reader.string(key));
    if cmdline.is_some() {
        let key = if root.is_some() { "root" } else { "extra" };
        if root.is_some() || extra.is_some() {
            let why = "cmdline is given as well";
            let xl = "Warning: ignoring root= and extra= in favour of cmdline=";
            reader.warn_at(WarningKind::NoEffect { key, why }, key, Some(xl.into()));
        }
        return cmdline;
    }
    match (root, extra) {
        (Some(root), Some(extra)) => Some(format!("root={root} {extra}")),
        (Some(root), None) => Some(format!("root={root}")),
        (None, extra) => extra,
    }
}

fn hvm(reader: &mut Reader<'_>, config: &mut DomainConfig) {
    let is_loader = |kernel: &PathBuf| kernel.file_name() == Some("hvmloader".as_ref());
    if config.boot.kernel.take_if(|kernel| is_loader(kernel)).is_some() {
        let why = "hvmloader is Xen's own firmware loader";
        let kind = WarningKind::NoEffect { key: "kernel", why };
        reader.warn_at(kind, "kernel", Some(HVMLOADER.into()));
    }
    config.hpet = reader.flag("hpet").unwrap_or(true);
    config.boot.order = reader.text("boot").and_then(|text| {
        let good = text.value.bytes().enumerate().all(|(index, letter)| {
            b"acdn".contains(&letter) && !text.value.as_bytes()[..index].contains(&letter)
        });
        if good {
            return Some(text.value).filter(|order| !order.is_empty());
        }
        unknown_word(reader, "boot", text, "letters of a c d n, each at most once").done();
        None
    });
    config.boot.firmware = firmware(reader);
}

/// `bios=`, `bios_path_override=` and `firmware=`, each overruling the one before.
fn firmware(reader: &mut Reader<'_>) -> Option<Firmware> {
    let override_path = path(reader, "bios_path_override");
    let bios = match reader.text("bios") {
        Some(text) => match text.value.as_str() {
            "seabios" => Some(Firmware::Seabios),
            "ovmf" => Some(Firmware::Ovmf),
            "rombios" => {
                rombios(reader, "bios");
                None
            }
            _ => {
                let line = format!("ERROR: invalid value \"{}\" for \"bios\"", text.value);
                unknown_word(reader, "bios", text, "seabios or ovmf").xl(line).done();
                None
            }
        },
        None => {
            if override_path.is_some() {
                let line = "WARNING: bios_path_override given without specific bios name";
                reader.warn_at(
                    WarningKind::Remark(line),
                    "bios_path_override",
                    Some(line.to_owned()),
                );
            }
            None
        }
    };
    let older = override_path.map(Firmware::Path).or(bios);
    let Some(text) = reader.text("firmware") else { return older };
    match text.value.as_str() {
        "seabios" => Some(Firmware::Seabios),
        "ovmf" => Some(Firmware::Ovmf),
        "rombios" => {
            rombios(reader, "firmware");
            None
        }
        // Compared with as many letters as were given, uefi first; so xl does.
        word if "uefi".starts_with(word) => Some(Firmware::Ovmf),
        word if "bios".starts_with(word) => older,
        file => Some(Firmware::Path(PathBuf::from(file))),
    }
}

fn rombios(reader: &mut Reader<'_>, key: &'static str) {
    let why = "rombios belongs to an emulator that Xen no longer has";
    reader.error_at(ErrorKind::Refused { key, why }, key).expected("seabios or ovmf").done();
}

/// A domain that starts its kernel directly.
fn direct(reader: &mut Reader<'_>, config: &DomainConfig) {
    if !starts_kernels(config) {
        return;
    }
    for key in HVM_ONLY.iter().filter(|key| reader.has(key)).collect::<Vec<_>>() {
        let why = "only domains with type=\"hvm\" have it";
        reader.warn_at(WarningKind::NoEffect { key, why }, key, None);
        reader.mark_used(key);
    }
    let bootloader = reader.has("bootloader");
    if let Some(text) = reader.text("firmware") {
        let grub = ["pvgrub32", "pvgrub64"].iter().any(|word| word.starts_with(&text.value));
        if config.boot.kernel.is_some() {
            reader
                .error(ErrorKind::Contradiction("both kernel and firmware are given"), &text.span)
                .xl("ERROR: both kernel and firmware specified")
                .done();
        } else if grub {
            let why = "pvgrub runs under Xen only";
            reader
                .error(ErrorKind::Refused { key: "firmware", why }, &text.span)
                .hint("use type=\"hvm\", or kernel= and ramdisk=")
                .done();
        } else {
            unknown_word(reader, "firmware", text, "a domain with type=\"hvm\"")
                .xl("ERROR: only pvgrub{32|64} supported as firmware options")
                .done();
        }
    } else if config.boot.kernel.is_none() && !bootloader {
        reader
            .missing(ErrorKind::NoKernel)
            .expected("kernel = \"PATH\"; or type = \"hvm\" for a machine with firmware")
            .xl("Neither kernel nor bootloader specified")
            .done();
    }
}
