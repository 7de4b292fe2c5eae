//! A machine as JSON, for programs that want to know what a description comes to.

use serde_json::{Value, json};

use super::args::Parsed;
use super::{Endpoint, Source, Tap, Template, Vhost};

/// The machine and what there is to say about it, in one object; the text of `-describe`.
#[must_use]
pub fn json(parsed: &Parsed) -> String {
    let config = &parsed.config;
    let disks: Vec<Value> = config
        .disks
        .iter()
        .map(|disk| {
            json!({"id": disk.id, "image": source(&disk.source), "readonly": disk.readonly,
                   "serial": disk.serial})
        })
        .collect();
    let nics: Vec<Value> = config
        .nics
        .iter()
        .map(|nic| {
            let mac = nic.mac.map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
            json!({"id": nic.id, "tap": tap(&nic.tap), "mac": mac, "vhost": vhost(nic.vhost)})
        })
        .collect();
    let boot = config.boot.as_ref();
    let memory = config.memory_file.as_ref();
    let machine = json!({
        "name": config.name,
        "uuid": config.uuid,
        "memory_mib": config.memory_mib,
        "vcpus": config.vcpus,
        "cpu": match config.cpu.template {
            Template::Host => "host",
            Template::Baseline => "baseline",
        },
        "masks": config.cpu.masks.len(),
        "kernel": boot.map(|boot| source(&boot.kernel)),
        "initrd": boot.and_then(|boot| boot.initrd.as_ref()).map(source),
        "cmdline": boot.map(|boot| boot.cmdline.as_str()),
        "disks": disks,
        "nics": nics,
        "serial": endpoint(&config.serial),
        "console": endpoint(&config.console),
        "channel": config.channel.as_ref().map(|channel| {
            json!({"name": channel.name, "end": endpoint(&channel.endpoint)})
        }),
        "rng": config.rng,
        "balloon": config.balloon,
        "memory_file": memory.map(|file| {
            json!({"file": source(&file.source), "shared": file.shared})
        }),
        "hotplug": {"nics": config.hotplug.nics, "disks": config.hotplug.disks,
                    "dirs": config.hotplug.dirs},
        "notes": parsed.notes,
    });
    format!("{machine:#}\n")
}

fn source(source: &Source) -> Value {
    match source {
        Source::Path(path) => json!({"path": path}),
        Source::Fd(fd) => json!({"fd": fd}),
    }
}

fn tap(tap: &Tap) -> Value {
    match tap {
        Tap::Name(name) => json!({"name": name}),
        Tap::Fd(fd) => json!({"fd": fd}),
    }
}

const fn vhost(vhost: Vhost) -> &'static str {
    match vhost {
        Vhost::Auto => "auto",
        Vhost::On => "on",
        Vhost::Off => "off",
    }
}

/// As it is written behind `-serial`.
fn endpoint(end: &Endpoint) -> String {
    match end {
        Endpoint::None => "none".to_owned(),
        Endpoint::Null => "null".to_owned(),
        Endpoint::Stdio => "stdio".to_owned(),
        Endpoint::File(path) => format!("file:{}", path.display()),
        Endpoint::Unix(path) => format!("unix:{}", path.display()),
        Endpoint::Fd(fd) => format!("fd:{fd}"),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::super::args::{Command, parse};
    use super::*;

    #[test]
    fn what_a_description_comes_to_is_told_and_not_run() {
        let line = "-describe -kernel /k -disk path=/d,serial=S -net tap=t,mac=52:54:00:00:00:01 \
                    -m 64 -serial unix:/s";
        let words = line.split_whitespace().map(OsString::from);
        let Ok(Command::Describe(parsed)) = parse(words, |_| Ok(String::new())) else {
            panic!("not described")
        };
        let told: Value = serde_json::from_str(&json(&parsed)).unwrap();
        assert_eq!(told["memory_mib"], 64);
        assert_eq!(told["kernel"]["path"], "/k");
        let disk =
            json!({"id": "disk0", "image": {"path": "/d"}, "readonly": false, "serial": "S"});
        assert_eq!(told["disks"], json!([disk]));
        assert_eq!(told["nics"][0]["mac"], "52:54:00:00:00:01");
        assert_eq!(told["serial"], "unix:/s");
        assert_eq!(told["notes"], json!([]));
    }
}
