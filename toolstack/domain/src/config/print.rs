//! A configuration as text that reads back as the same configuration.

mod service;

use std::fmt::Write as _;
use std::path::Path;

use super::model::{Affinity, Arch, Display, DomainConfig, Firmware, GuestKind};
use super::print_items::{disk_text, nic_text, vfb_text};
use super::syntax::ValueKind;

/// A value in the notation of a configuration file.
pub(super) fn value_text(value: &ValueKind) -> String {
    match value {
        ValueKind::Atom(text) if is_plain_number(text) => text.clone(),
        ValueKind::Atom(text) => quote(text),
        ValueKind::List(items) => {
            let items: Vec<_> = items.iter().map(|item| value_text(&item.kind)).collect();
            format!("[{}]", items.join(", "))
        }
    }
}

fn is_plain_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// A string in quotes.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn list<'i>(items: impl IntoIterator<Item = &'i str>) -> String {
    let items: Vec<_> = items.into_iter().map(quote).collect();
    format!("[{}]", items.join(", "))
}

struct Printer(String);

impl Printer {
    fn raw(&mut self, key: &str, value: impl std::fmt::Display) {
        writeln!(self.0, "{key} = {value}").expect("writing to a string cannot fail");
    }

    fn text(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.raw(key, quote(value));
        }
    }

    fn path(&mut self, key: &str, value: Option<&Path>) {
        if let Some(value) = value {
            self.raw(key, quote(&value.to_string_lossy()));
        }
    }

    /// Negative numbers need quotes.
    fn number(&mut self, key: &str, value: Option<i64>) {
        match value {
            Some(value) if value < 0 => self.raw(key, quote(&value.to_string())),
            Some(value) => self.raw(key, value),
            None => {}
        }
    }

    fn flag(&mut self, key: &str, value: Option<bool>) {
        if let Some(value) = value {
            self.raw(key, u8::from(value));
        }
    }

    fn list(&mut self, key: &str, items: &[String]) {
        if !items.is_empty() {
            self.raw(key, list(items.iter().map(String::as_str)));
        }
    }
}

impl DomainConfig {
    /// This configuration in the notation of xl.cfg; parsing the text gives the same configuration
    /// again. Keys that hold their default are mostly left out.
    ///
    /// Paths are taken to be UTF-8, as everything that was parsed is.
    #[must_use]
    pub fn to_cfg(&self) -> String {
        let plain = Self::new(self.name.clone());
        let mut out = Printer(String::new());
        self.print_general(&mut out, &plain);
        self.print_boot(&mut out);
        self.print_devices(&mut out, &plain);
        self.print_display(&mut out);
        self.print_own(&mut out, &plain);
        for (key, value) in &self.kept {
            out.raw(key, value);
        }
        out.0
    }

    /// As [`to_cfg`](Self::to_cfg), without the keys that hold their default: for people.
    #[must_use]
    pub fn to_short_cfg(&self) -> String {
        let mut plain = Self::new(self.name.clone());
        plain.backend.clone_from(&self.backend);
        let defaults = plain.to_cfg();
        let needed = |line: &&str| {
            let named = ["name = ", "backend = "].iter().any(|key| line.starts_with(key));
            named || !defaults.lines().any(|default| default == *line)
        };
        let text = self.to_cfg();
        text.lines().filter(needed).map(|line| format!("{line}\n")).collect()
    }

    fn print_general(&self, out: &mut Printer, plain: &Self) {
        out.text("name", Some(self.name.as_str()));
        out.text("uuid", self.uuid.map(|uuid| uuid.to_string()).as_deref());
        out.text("type", Some(self.kind.as_str()));
        if self.backend != plain.backend {
            out.text("backend", Some(&self.backend));
        }
        out.text("arch", self.arch.map(Arch::as_str));
        out.text("machine", self.machine.as_deref());
        out.text("cpu_model", self.processor.model.as_deref());
        out.text("cpuid", self.processor.cpuid_text().as_deref());
        out.raw("memory", self.memory_mib);
        if self.maxmem_mib != self.memory_mib {
            out.raw("maxmem", self.maxmem_mib);
        }
        out.raw("vcpus", self.vcpus);
        if self.maxvcpus != self.vcpus {
            out.raw("maxvcpus", self.maxvcpus);
        }
        match &self.cpus {
            Affinity::Any => {}
            Affinity::All(cpus) => out.text("cpus", Some(cpus)),
            Affinity::Each(cpus) => out.list("cpus", cpus),
        }
        out.number("cpu_weight", self.cpu_weight.map(i64::from));
        out.number("cap", self.cap.map(i64::from));
        out.flag("localtime", self.localtime.then_some(true));
        out.number("rtc_timeoffset", Some(self.rtc_timeoffset_s).filter(|s| *s != 0));
        for (key, action, default) in [
            ("on_poweroff", self.on_poweroff, plain.on_poweroff),
            ("on_reboot", self.on_reboot, plain.on_reboot),
            ("on_crash", self.on_crash, plain.on_crash),
            ("on_watchdog", self.on_watchdog, plain.on_watchdog),
            ("on_soft_reset", self.on_soft_reset, plain.on_soft_reset),
        ] {
            if action != default {
                out.text(key, Some(action.as_str()));
            }
        }
    }

    fn print_boot(&self, out: &mut Printer) {
        let boot = &self.boot;
        out.path("kernel", boot.kernel.as_deref());
        out.path("ramdisk", boot.ramdisk.as_deref());
        out.text("cmdline", boot.cmdline.as_deref());
        out.text("boot", boot.order.as_deref());
        match &boot.firmware {
            None => {}
            Some(Firmware::Seabios) => out.text("bios", Some("seabios")),
            Some(Firmware::Ovmf) => out.text("bios", Some("ovmf")),
            Some(Firmware::Path(path)) => {
                // firmware= would take some paths for words; xl wants bios= named beside the path.
                out.text("bios", Some("seabios"));
                out.path("bios_path_override", Some(path));
            }
        }
        out.flag("acpi", Some(self.acpi));
        out.flag("hpet", (!self.hpet).then_some(false));
    }

    fn print_devices(&self, out: &mut Printer, plain: &Self) {
        let disks: Vec<_> = self.disks.iter().map(disk_text).collect();
        out.list("disk", &disks);
        let nics: Vec<_> = self.nics.iter().map(nic_text).collect();
        out.list("vif", &nics);
        out.list("serial", &self.serial);
        out.flag("usb", (self.usb != plain.usb).then_some(self.usb.enabled));
        out.list("usbdevice", &self.usb.devices);
    }

    fn print_display(&self, out: &mut Printer) {
        let display = &self.display;
        let bare = Display { vnc: display.vnc, ..Default::default() };
        let without_card =
            Display { vga: None, videoram_mib: None, nographic: false, ..display.clone() };
        if self.kind == GuestKind::Hvm || display.vnc == Some(true) || without_card == bare {
            out.flag("vnc", display.vnc);
            out.text("vnclisten", display.vnclisten.as_deref());
            out.number("vncdisplay", display.vncdisplay.map(i64::from));
            out.flag("vncunused", display.vncunused);
            out.text("vncpasswd", display.vncpasswd.as_deref());
            out.text("keymap", display.keymap.as_deref());
            out.flag("sdl", display.sdl.then_some(true));
        } else {
            // Without vnc=1 only this way of writing it keeps the rest for pv and pvh.
            out.list("vfb", &[vfb_text(display)]);
        }
        out.flag("nographic", display.nographic.then_some(true));
        out.text("vga", display.vga.as_deref());
        out.number("videoram", display.videoram_mib.map(i64::from));
    }

    fn print_own(&self, out: &mut Printer, plain: &Self) {
        out.path("exec", self.emulator.as_deref());
        out.list("device_model_args", &self.emulator_args);
        out.text("description", self.description.as_deref());
        out.path("emulator_config", self.emulator_config.as_deref());
        out.path("prestart", self.scripts.prestart.as_deref());
        out.path("stop_script", self.scripts.stop.as_deref());
        out.path("guest_status_script", self.scripts.guest_status.as_deref());
        out.path("ini", self.ini.as_deref());
        out.text("start", self.start.as_deref());
        out.number("limit_memory", self.limits.memory_mib.and_then(|n| i64::try_from(n).ok()));
        out.number("limit_pids", self.limits.pids.map(i64::from));
        out.number("limit_nofile", self.limits.nofile.and_then(|n| i64::try_from(n).ok()));
        if self.console.log_kib != plain.console.log_kib {
            out.raw("console_log", self.console.log_kib);
        }
        if self.console.keep != plain.console.keep {
            out.raw("console_keep", self.console.keep);
        }
        out.number("console_pace", self.console.pace_ms.map(i64::from));
        self.print_maintenance(out, plain);
        self.print_supervision(out, plain);
        self.print_process(out, plain);
    }

    fn print_maintenance(&self, out: &mut Printer, plain: &Self) {
        let own = &self.maintenance;
        out.flag("autostart", own.autostart);
        if own.priority != plain.maintenance.priority {
            out.raw("priority", own.priority);
        }
        let after: Vec<String> = own.after.iter().map(|name| name.as_str().to_owned()).collect();
        out.list("after", &after);
        let requires: Vec<String> = own.requires.iter().map(ToString::to_string).collect();
        out.list("requires", &requires);
        out.list("stop_command", &own.stop_command);
        if self.clock_after_restore != plain.clock_after_restore {
            out.text("clock_after_restore", Some(self.clock_after_restore.as_str()));
        }
    }
}

#[cfg(test)]
#[path = "print_tests.rs"]
mod tests;
