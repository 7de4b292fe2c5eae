//! The table of options.

use super::{Add, Command, Opt};
use crate::config::draft::Draft;
use crate::config::values::{self, Item, Result, Wrong};
use crate::config::{
    AfterEnd, AfterReboot, Channel, Endpoint, MAX_DISKS, MAX_NICS, MAX_VCPUS, Nic, Source, Tap,
    Vhost,
};

/// A size without a unit is in MiB, as with QEMU.
const MIB: u64 = 1 << 20;

const fn once(
    name: &'static str,
    value: &'static str,
    help: &'static str,
    add: fn(&mut Draft, &str) -> Result<()>,
) -> Opt {
    Opt { name, value, help, repeats: false, add: Add::Draft(add) }
}

const fn many(
    name: &'static str,
    value: &'static str,
    help: &'static str,
    add: fn(&mut Draft, &str) -> Result<()>,
) -> Opt {
    Opt { name, value, help, repeats: true, add: Add::Draft(add) }
}

const fn instead(name: &'static str, help: &'static str, command: fn() -> Command) -> Opt {
    Opt { name, value: "", help, repeats: false, add: Add::Instead(command) }
}

/// Every option, in the order of the help text.
pub const OPTIONS: &[Opt] = &[
    once("name", "NAME", "what query-name answers", |draft, text| {
        draft.config.name = Some(values::name(text)?);
        Ok(())
    }),
    once("uuid", "UUID", "what query-uuid answers", |draft, text| {
        draft.config.uuid = Some(values::uuid(text)?);
        Ok(())
    }),
    Opt {
        name: "config",
        value: "FILE",
        help: "a machine in StratoVirt's JSON keys; other options replace or add",
        repeats: false,
        add: Add::File,
    },
    once("kernel", "FILE|fd:N", "a bzImage or an ELF vmlinux", |draft, text| {
        draft.kernel = Some(values::source(text)?);
        Ok(())
    }),
    once("initrd", "FILE|fd:N", "its initial RAM disk", |draft, text| {
        draft.initrd = Some(values::source(text)?);
        Ok(())
    }),
    once("append", "TEXT", "its command line", |draft, text| {
        draft.cmdline = Some(values::command_line(text)?);
        Ok(())
    }),
    once("m", "SIZE[M|G]", "memory, in MiB without a unit (128)", |draft, text| {
        draft.config.memory_mib = values::memory(text.strip_prefix("size=").unwrap_or(text), MIB)?;
        Ok(())
    }),
    once("smp", "N", "processors, 1 to 64 (1)", |draft, text| {
        let text = text.strip_prefix("cpus=").unwrap_or(text);
        draft.config.vcpus = values::count(text, "number of processors", &(1..=MAX_VCPUS))?;
        Ok(())
    }),
    once(
        "cpu",
        "host|baseline[,MASK...]",
        "what they show (host); a mask is +LEAF[.SUBLEAF]:REGISTER.BIT or the same with -",
        |draft, text| {
            draft.config.cpu = values::cpu(text)?;
            Ok(())
        },
    ),
    many(
        "disk",
        "path=FILE|fd=N[,id=ID][,readonly=on][,serial=TEXT]",
        "a raw image or a block device: vda, vdb, ...",
        disk,
    ),
    many(
        "net",
        "tap=NAME|fd=N[,id=ID][,mac=MAC][,vhost=auto|on|off]",
        "a network interface on a tap: eth0, eth1, ...",
        net,
    ),
    once("serial", "none|null|stdio|file:FILE|unix:PATH|fd:N", "COM1 (none)", |draft, text| {
        draft.config.serial = values::endpoint(text)?;
        Ok(())
    }),
    once("console", "none|null|stdio|file:FILE|unix:PATH|fd:N", "hvc0 (none)", |draft, text| {
        draft.config.console = values::endpoint(text)?;
        Ok(())
    }),
    once(
        "channel",
        "name=NAME,unix:PATH|fd:N",
        "a virtio-serial port between a program in the guest and the host",
        channel,
    ),
    once("rng", "", "a source of random numbers for the guest", |draft, _| {
        draft.config.rng = true;
        Ok(())
    }),
    once("balloon", "", "a device that takes memory back from the guest", |draft, _| {
        draft.config.balloon = true;
        Ok(())
    }),
    many("qmp", "unix:PATH|fd:N", "listen for QMP", listen),
    many("api-channel", "unix:PATH|fd:N", "the same as -qmp", listen),
    once("S", "", "do not run before cont", |draft, _| {
        draft.config.paused = true;
        Ok(())
    }),
    once(
        "action",
        "shutdown=poweroff|pause,reboot=reset|shutdown,panic=exit|shutdown|pause",
        "what follows when the guest ends (the first of each)",
        action,
    ),
    once("incoming", "fd:N|file:FILE|defer", "come back from a state", |draft, text| {
        draft.config.incoming = Some(values::incoming(text)?);
        Ok(())
    }),
    once(
        "mem-file",
        "FILE|fd:N[,shared=on]",
        "memory is mapped from this file: privately, unless shared",
        |draft, text| {
            draft.config.memory_file = Some(values::memory_file(text)?);
            Ok(())
        },
    ),
    once("hotplug", "nics=N,disks=N", "devices in all, for those that come later", hotplug),
    many("hotplug-dir", "DIR", "later files may be opened here", |draft, text| {
        draft.config.hotplug.dirs.push(values::path(text)?);
        Ok(())
    }),
    once("runas", "UID:GID", "who to be when root starts the process", |draft, text| {
        draft.config.run_as = Some(values::run_as(text)?);
        Ok(())
    }),
    once("no-sandbox", "", "do not confine the process: for debugging only", |draft, _| {
        draft.config.sandbox = false;
        Ok(())
    }),
    Opt {
        name: "describe",
        value: "",
        help: "print the machine as JSON instead of running it; nothing is opened",
        repeats: false,
        add: Add::Describe,
    },
    instead("version", "print the version", || Command::Version),
    instead("help", "print this", || Command::Help),
];

/// An item that the option does not know.
fn unexpected<T>(item: &Item, known: &[&str]) -> Result<T> {
    let (word, kind) = match &item.key {
        Some(key) => (key.as_str(), "key"),
        None => (item.value.as_str(), "word"),
    };
    let near = crate::config::nearest::nearest(word, known.iter().copied());
    let hint = near.map_or_else(String::new, |near| format!(", perhaps {near}"));
    let known = known.join(", ");
    values::wrong(word, kind, format_args!("one of {known}{hint}"))
}

/// Puts a value into a place that is still empty.
fn fill<T>(place: &mut Option<T>, key: &str, value: T) -> Result<()> {
    if place.replace(value).is_some() {
        return Err(Wrong(format!("{key} is said twice")));
    }
    Ok(())
}

fn disk(draft: &mut Draft, text: &str) -> Result<()> {
    let (mut source, mut id, mut readonly, mut serial) = (None, None, None, None);
    for item in values::items(text) {
        let value = item.value.as_str();
        match item.key.as_deref() {
            None if source.is_none() => source = Some(values::source(value)?),
            Some("path" | "file") => {
                fill(&mut source, "the image", Source::Path(values::path(value)?))?;
            }
            Some("fd") => fill(&mut source, "the image", Source::Fd(values::descriptor(value)?))?,
            Some("id") => fill(&mut id, "id", values::id(value)?)?,
            Some("readonly" | "ro") => fill(&mut readonly, "readonly", values::switch(value)?)?,
            Some("serial") => fill(&mut serial, "serial", values::serial_number(value)?)?,
            Some("format") if value == "raw" => {}
            Some("format") => return Err(Wrong(values::not_raw(value))),
            _ => return unexpected(&item, &["path", "fd", "id", "readonly", "serial", "format"]),
        }
    }
    let source = source.ok_or_else(|| Wrong("no image: say path=FILE or fd=N".to_owned()))?;
    draft.disk(id, source, readonly.unwrap_or(false), serial)
}

fn net(draft: &mut Draft, text: &str) -> Result<()> {
    let (mut tap, mut id, mut mac, mut vhost) = (None, None, None, None);
    for item in values::items(text) {
        let value = item.value.as_str();
        match item.key.as_deref() {
            Some("tap" | "ifname") => {
                fill(&mut tap, "the tap", Tap::Name(values::interface(value)?))?;
            }
            Some("fd") => fill(&mut tap, "the tap", Tap::Fd(values::descriptor(value)?))?,
            Some("id") => fill(&mut id, "id", values::id(value)?)?,
            Some("mac") => fill(&mut mac, "mac", values::mac(value)?)?,
            Some("vhost") => fill(
                &mut vhost,
                "vhost",
                match value {
                    "auto" => Vhost::Auto,
                    "on" => Vhost::On,
                    "off" => Vhost::Off,
                    _ => return values::wrong(value, "choice for vhost", "auto, on or off"),
                },
            )?,
            _ => return unexpected(&item, &["tap", "fd", "id", "mac", "vhost"]),
        }
    }
    let tap = tap.ok_or_else(|| Wrong("no tap: say tap=NAME or fd=N".to_owned()))?;
    let nic = Nic { id: String::new(), tap, mac, vhost: vhost.unwrap_or_default() };
    draft.nic(id, nic)
}

fn channel(draft: &mut Draft, text: &str) -> Result<()> {
    let (mut name, mut end) = (None, None);
    for item in values::items(text) {
        match item.key.as_deref() {
            Some("name") => fill(&mut name, "name", values::id(&item.value)?)?,
            None => fill(&mut end, "the socket", values::socket_end(&item.value)?)?,
            _ => return unexpected(&item, &["name", "unix:PATH", "fd:N"]),
        }
    }
    let (Some(name), Some(endpoint)) = (name, end) else {
        return values::wrong(text, "channel", "name=NAME and unix:PATH or fd:N");
    };
    draft.config.channel = Some(Channel { name, endpoint });
    Ok(())
}

fn listen(draft: &mut Draft, text: &str) -> Result<()> {
    let end: Endpoint = values::listener(text)?;
    draft.config.qmp.push(end);
    Ok(())
}

fn action(draft: &mut Draft, text: &str) -> Result<()> {
    let actions = &mut draft.config.actions;
    for item in values::items(text) {
        let value = item.value.as_str();
        match item.key.as_deref() {
            Some("shutdown") => {
                actions.shutdown = match value {
                    "poweroff" | "exit" => AfterEnd::Exit,
                    "pause" => AfterEnd::Pause,
                    _ => return values::wrong(value, "action", "poweroff or pause"),
                };
            }
            Some("reboot") => {
                actions.reboot = match value {
                    "reset" => AfterReboot::Reset,
                    "shutdown" => AfterReboot::Shutdown,
                    _ => return values::wrong(value, "action", "reset or shutdown"),
                };
            }
            Some("panic") => {
                actions.panic = match value {
                    "exit" | "shutdown" => AfterEnd::Exit,
                    "pause" => AfterEnd::Pause,
                    _ => return values::wrong(value, "action", "exit, shutdown or pause"),
                };
            }
            _ => return unexpected(&item, &["shutdown", "reboot", "panic"]),
        }
    }
    Ok(())
}

fn hotplug(draft: &mut Draft, text: &str) -> Result<()> {
    for item in values::items(text) {
        let value = item.value.as_str();
        match item.key.as_deref() {
            Some("nics") => {
                draft.config.hotplug.nics =
                    values::count(value, "number of network interfaces", &(0..=MAX_NICS))?;
            }
            Some("disks") => {
                draft.config.hotplug.disks =
                    values::count(value, "number of disks", &(0..=MAX_DISKS))?;
            }
            _ => return unexpected(&item, &["nics", "disks"]),
        }
    }
    Ok(())
}
