//! A parsed configuration as `kxl create -n` shows it: one fact a line, defaults left out where
//! they say nothing.

use kxl_domain::config::model::{Affinity, Disk, DomainConfig, Firmware, Nic};

use crate::text::add;

/// The lines.
pub(crate) fn render(config: &DomainConfig) -> String {
    let mut out = String::new();
    let mut put = |key: &str, value: &str| add(&mut out, format_args!("{key:<14} {value}\n"));
    put("name", config.name.as_str());
    put("uuid", &config.uuid.map_or_else(|| "made at the start".into(), |uuid| uuid.to_string()));
    put("type", config.kind.as_str());
    put("backend", &config.backend);
    put_some(&mut put, "arch", config.arch.map(kxl_domain::config::model::Arch::as_str));
    put_some(&mut put, "machine", config.machine.as_deref());
    put("memory", &range(config.memory_mib, config.maxmem_mib, " MiB"));
    put("vcpus", &range(config.vcpus.into(), config.maxvcpus.into(), ""));
    match &config.cpus {
        Affinity::Any => {}
        Affinity::All(list) => put("cpus", list),
        Affinity::Each(lists) => put("cpus", &lists.join(" | ")),
    }
    put_some(&mut put, "cpu_model", config.processor.model.as_deref());
    put_some(&mut put, "cpuid", config.processor.cpuid_text().as_deref());
    put_some(&mut put, "kernel", config.boot.kernel.as_deref().map(path).as_deref());
    put_some(&mut put, "ramdisk", config.boot.ramdisk.as_deref().map(path).as_deref());
    put_some(&mut put, "cmdline", config.boot.cmdline.as_deref());
    put_some(&mut put, "boot", config.boot.order.as_deref());
    match &config.boot.firmware {
        None => {}
        Some(Firmware::Seabios) => put("firmware", "seabios"),
        Some(Firmware::Ovmf) => put("firmware", "ovmf"),
        Some(Firmware::Path(file)) => put("firmware", &path(file)),
    }
    config.disks.iter().for_each(|one| put("disk", &disk(one)));
    config.nics.iter().for_each(|one| put("vif", &nic(one)));
    put_some(&mut put, "description", config.description.as_deref());
    for (key, file) in [
        ("emulator_config", &config.emulator_config),
        ("prestart", &config.scripts.prestart),
        ("stop_script", &config.scripts.stop),
        ("guest_status_script", &config.scripts.guest_status),
    ] {
        put_some(&mut put, key, file.as_deref().map(path).as_deref());
    }
    put_some(&mut put, "ini", config.ini.as_deref().map(path).as_deref());
    put_some(&mut put, "start", config.start.as_deref());
    put_some(&mut put, "emulator", config.emulator.as_deref().map(path).as_deref());
    if config.display.vnc == Some(true) {
        put("vnc", config.display.vnclisten.as_deref().unwrap_or("127.0.0.1"));
    }
    for (key, action) in [
        ("on_poweroff", config.on_poweroff),
        ("on_reboot", config.on_reboot),
        ("on_crash", config.on_crash),
        ("on_watchdog", config.on_watchdog),
    ] {
        put(key, action.as_str());
    }
    put_some(
        &mut put,
        "limit_memory",
        config.limits.memory_mib.map(|n| format!("{n} MiB")).as_deref(),
    );
    put_some(&mut put, "limit_pids", config.limits.pids.map(|n| n.to_string()).as_deref());
    put_some(&mut put, "limit_nofile", config.limits.nofile.map(|n| n.to_string()).as_deref());
    maintenance(&mut put, config);
    for line in config.service_cfg().lines() {
        if let Some((key, value)) = line.split_once(" = ") {
            put(key, value.trim_matches('"'));
        }
    }
    for (key, value) in &config.kept {
        put(key, &format!("{value} (kept, without effect)"));
    }
    out
}

fn maintenance(put: &mut impl FnMut(&str, &str), config: &DomainConfig) {
    let own = &config.maintenance;
    put_some(put, "autostart", own.autostart.map(|on| if on { "on" } else { "off" }));
    if *own != kxl_domain::config::model::Maintenance::default() {
        put("priority", &own.priority.to_string());
    }
    if !own.after.is_empty() {
        let names: Vec<_> = own.after.iter().map(|name| name.as_str()).collect();
        put("after", &names.join(" "));
    }
    if !own.requires.is_empty() {
        let names: Vec<_> = own.requires.iter().map(|name| name.as_str()).collect();
        put("requires", &names.join(" "));
    }
    if !own.stop_command.is_empty() {
        put("stop_command", &own.stop_command.join(" "));
    }
}

fn put_some(put: &mut impl FnMut(&str, &str), key: &str, value: Option<&str>) {
    if let Some(value) = value {
        put(key, value);
    }
}

fn range(now: u64, most: u64, unit: &str) -> String {
    if most > now { format!("{now}{unit}, at most {most}{unit}") } else { format!("{now}{unit}") }
}

fn disk(disk: &Disk) -> String {
    let target = disk.target.as_deref().map_or_else(|| "no medium".into(), path);
    let access = match (disk.cdrom, disk.readwrite) {
        (true, _) => ", cdrom",
        (false, true) => "",
        (false, false) => ", read-only",
    };
    format!("{} on {}: {target} ({}{access})", disk.vdev, disk.bus, disk.format)
}

fn nic(nic: &Nic) -> String {
    let to = match (&nic.bridge, nic.user) {
        (_, true) => "user networking".to_owned(),
        (Some(bridge), _) => format!("bridge {bridge}"),
        (None, _) => "the default bridge".to_owned(),
    };
    let mac = nic.mac.map_or_else(String::new, |mac| {
        format!(", {}", mac.map(|byte| format!("{byte:02x}")).join(":"))
    });
    let model = nic.model.as_deref().map_or_else(String::new, |model| format!(", {model}"));
    format!("{to}{mac}{model}")
}

fn path(path: &std::path::Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_configuration_means_is_shown_in_lines() {
        let text = "name = 'web'\nkernel = '/boot/vmlinuz'\nmemory = 256\nmaxmem = 512\n\
                    vcpus = 2\ncmdline = 'console=ttyS0'\ncpus = '0-1'\n\
                    disk = ['/srv/web.qcow2,qcow2,xvda,w', ',raw,hdc,cdrom']\n\
                    vif = ['mac=00:16:3E:01:02:03,bridge=br0', 'user']\n\
                    on_crash = 'preserve'\nlimit_pids = 64\n";
        let config = kxl_domain::config::parse("web.cfg", text, &[]).unwrap().config;
        insta::assert_snapshot!(render(&config));
    }
}
