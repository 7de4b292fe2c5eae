//! What the keys add to a machine.

use super::table::{
    BALLOON, BOOT, CHANNEL, CONSOLE, DRIVE, Entry, HOTPLUG, IOTHREAD, MACHINE, NET, RNG, SERIAL,
    TOP,
};
use super::text::{Key, Mistake, Node, Value};
use crate::config::draft::Draft;
use crate::config::nearest::nearest;
use crate::config::values::{self, Wrong};
use crate::config::{
    Channel, Endpoint, MAX_DISKS, MAX_NICS, MAX_VCPUS, MemoryFile, Nic, Source, Tap, Vhost,
};

type Result<T> = std::result::Result<T, Mistake>;

fn mistake<T>(node: &Node, why: impl Into<String>) -> Result<T> {
    Err((node.at, why.into()))
}

fn not<T>(node: &Node, expected: &str) -> Result<T> {
    mistake(node, format!("{} stands here: expected {expected}", node.value.kind()))
}

/// The keys of an object by their first spelling. Null is the same as not there.
fn object<'a>(node: &'a Node, entries: &[Entry]) -> Result<Vec<(&'static str, &'a Node)>> {
    let Value::Object(pairs) = &node.value else {
        return not(node, "an object in braces");
    };
    let mut found: Vec<(&'static str, &'a Node)> = Vec::new();
    for (key, value) in pairs {
        let name = spelled(key, entries)?;
        if found.iter().any(|(old, _)| *old == name) {
            let why =
                format!("{:?} is another spelling of {name}, which is here already", key.name);
            return Err((key.at, why));
        }
        if value.value != Value::Null {
            found.push((name, value));
        }
    }
    Ok(found)
}

fn spelled(key: &Key, entries: &[Entry]) -> Result<&'static str> {
    let same = |spelling: &&'static str| spelling.replace('-', "_") == key.name.replace('-', "_");
    if let Some((spellings, _)) = entries.iter().find(|entry| entry.0.iter().any(&same)) {
        return Ok(spellings[0]);
    }
    let all = entries.iter().flat_map(|entry| entry.0.iter().copied());
    let hint = nearest(&key.name, all).map_or_else(
        || {
            let first: Vec<_> = entries.iter().map(|entry| entry.0[0]).collect();
            format!("expected one of {}", first.join(", "))
        },
        |near| format!("did you mean {near:?}?"),
    );
    let name: String = key.name.chars().take(60).collect();
    Err((key.at, format!("no key {name:?} belongs here: {hint}")))
}

/// What is written, where a text or a number will do: programs that fill templates quote both.
fn word(node: &Node) -> Result<&str> {
    match &node.value {
        Value::Text(text) | Value::Number(text) => Ok(text),
        _ => not(node, "a text or a number"),
    }
}

fn text(node: &Node) -> Result<&str> {
    match &node.value {
        Value::Text(text) => Ok(text),
        _ => not(node, "a text"),
    }
}

fn switch(node: &Node) -> Result<bool> {
    match &node.value {
        Value::Bool(on) => Ok(*on),
        Value::Text(text) => at(node, values::switch(text)),
        _ => not(node, "true or false"),
    }
}

/// A value's own complaint, with its place.
fn at<T>(node: &Node, value: values::Result<T>) -> Result<T> {
    value.map_err(|Wrong(why)| (node.at, why))
}

/// The parts of a list; one object stands for a list of one.
fn list(node: &Node) -> Result<Vec<&Node>> {
    match &node.value {
        Value::List(nodes) => Ok(nodes.iter().collect()),
        Value::Object(_) => Ok(vec![node]),
        _ => not(node, "a list in brackets"),
    }
}

/// Adds a whole file.
pub(super) fn machine(draft: &mut Draft, node: &Node) -> Result<()> {
    for (key, value) in object(node, TOP)? {
        match key {
            "machine-config" => machine_config(draft, value)?,
            "boot-source" => boot(draft, value)?,
            "kernel" if matches!(value.value, Value::Object(_)) => boot(draft, value)?,
            "kernel" => set(value, &mut draft.kernel, at(value, values::source(text(value)?))?)?,
            "initrd" => set(value, &mut draft.initrd, at(value, values::source(text(value)?))?)?,
            "boot_args" => set(value, &mut draft.cmdline, command_line(value)?)?,
            "drive" => list(value)?.into_iter().try_for_each(|node| drive(draft, node))?,
            "net" => list(value)?.into_iter().try_for_each(|node| net(draft, node))?,
            "console" => console(draft, value)?,
            "serial" => serial(draft, value)?,
            "channel" => channel(draft, value)?,
            "balloon" => balloon(draft, value)?,
            "rng" => rng(draft, value)?,
            "iothread" => iothreads(value)?,
            "hotplug" => hotplug(draft, value)?,
            "name" => set(value, &mut draft.config.name, at(value, values::name(text(value)?))?)?,
            "uuid" => draft.config.uuid = Some(at(value, values::uuid(text(value)?))?),
            "cpu" => draft.config.cpu = at(value, values::cpu(text(value)?))?,
            _ => {
                return mistake(
                    value,
                    "there is no vsock device: a program in the guest is talked to through \
                     channel, a virtio-serial port",
                );
            }
        }
    }
    Ok(())
}

/// Puts a value where two keys may put one.
fn set<T>(node: &Node, place: &mut Option<T>, value: T) -> Result<()> {
    if place.replace(value).is_some() {
        return mistake(node, "this is said a second time in the file");
    }
    Ok(())
}

fn machine_config(draft: &mut Draft, node: &Node) -> Result<()> {
    let (mut file, mut shared, mut size) = (None, None, None);
    for (key, value) in object(node, MACHINE)? {
        match key {
            "type" => {
                let kind = text(value)?;
                if !["microvm", "micro_vm"].contains(&kind.to_ascii_lowercase().as_str()) {
                    let wrong = values::wrong(kind, "machine type that is built here", "MicroVm");
                    at(value, wrong)?;
                }
            }
            "name" => set(value, &mut draft.config.name, at(value, values::name(text(value)?))?)?,
            "vcpu_count" => {
                let count = values::count(word(value)?, "number of processors", &(1..=MAX_VCPUS));
                draft.config.vcpus = at(value, count)?;
            }
            "mem_size" => set(value, &mut size, at(value, values::memory(word(value)?, 1))?)?,
            "mem_size_mib" => {
                set(value, &mut size, at(value, values::memory(word(value)?, 1 << 20))?)?;
            }
            "mem_path" => file = Some(at(value, values::path(text(value)?))?),
            "mem_share" => shared = switch(value)?.then_some(value),
            _ => drop(switch(value)?),
        }
    }
    draft.config.memory_mib = size.unwrap_or(draft.config.memory_mib);
    match (file, shared) {
        (Some(path), shared) => {
            let source = Source::Path(path);
            draft.config.memory_file = Some(MemoryFile { source, shared: shared.is_some() });
            Ok(())
        }
        (None, Some(value)) => mistake(value, "memory is shared through a file: name it, mem_path"),
        (None, None) => Ok(()),
    }
}

fn command_line(node: &Node) -> Result<String> {
    at(node, values::command_line(text(node)?))
}

fn boot(draft: &mut Draft, node: &Node) -> Result<()> {
    for (key, value) in object(node, BOOT)? {
        match key {
            "boot_args" => set(value, &mut draft.cmdline, command_line(value)?)?,
            "kernel_image_path" => {
                set(value, &mut draft.kernel, at(value, values::source(text(value)?))?)?;
            }
            _ => set(value, &mut draft.initrd, at(value, values::source(text(value)?))?)?,
        }
    }
    Ok(())
}

fn drive(draft: &mut Draft, node: &Node) -> Result<()> {
    let (mut id, mut source, mut readonly, mut serial) = (None, None, false, None);
    let mut direct = false;
    for (key, value) in object(node, DRIVE)? {
        match key {
            "drive_id" => id = Some(at(value, values::id(text(value)?))?),
            "path_on_host" => source = Some(Source::Path(at(value, values::path(text(value)?))?)),
            "read_only" => readonly = switch(value)?,
            "serial_num" => serial = Some(at(value, values::serial_number(word(value)?))?),
            "direct" => direct = switch(value)?,
            "iothread" => drop(at(value, values::id(text(value)?))?),
            "format" if text(value)? == "raw" => {}
            "format" => return mistake(value, values::not_raw(text(value)?)),
            _ => {
                return mistake(
                    value,
                    "nothing limits a disk here: leave iops away, or limit the process by a \
                     control group",
                );
            }
        }
    }
    let Some(source) = source else {
        return mistake(node, "a drive without path_on_host");
    };
    at(node, draft.disk(id, source, readonly, serial))?;
    if direct && let Some(disk) = draft.config.disks.last() {
        draft.notes.push(format!("drive {:?}: direct is not done, the host caches it", disk.id));
    }
    Ok(())
}

fn net(draft: &mut Draft, node: &Node) -> Result<()> {
    let (mut id, mut tap, mut mac, mut vhost) = (None, None, None, Vhost::Auto);
    for (key, value) in object(node, NET)? {
        match key {
            "iface_id" => id = Some(at(value, values::id(text(value)?))?),
            "host_dev_name" => {
                let name = at(value, values::interface(text(value)?))?;
                set(value, &mut tap, Tap::Name(name))?;
            }
            "tap_fd" => {
                let fd = at(value, values::descriptor(word(value)?))?;
                set(value, &mut tap, Tap::Fd(fd))?;
            }
            "mac" => mac = Some(at(value, values::mac(text(value)?))?),
            "vhost_type" => {
                vhost = match &value.value {
                    Value::Bool(true) => Vhost::On,
                    Value::Bool(false) => Vhost::Off,
                    _ => match text(value)? {
                        "vhost-kernel" | "on" => Vhost::On,
                        "auto" => Vhost::Auto,
                        "off" => Vhost::Off,
                        other => {
                            let expected = "vhost-kernel, auto, on or off";
                            return at(value, values::wrong(other, "vhost", expected));
                        }
                    },
                };
            }
            "iothread" => drop(at(value, values::id(text(value)?))?),
            _ => return mistake(value, "kxl-vmm opens /dev/vhost-net itself: leave it away"),
        }
    }
    let Some(tap) = tap else {
        return mistake(node, "a network interface without host_dev_name");
    };
    at(node, draft.nic(id, Nic { id: String::new(), tap, mac, vhost }))
}

fn socket(node: &Node) -> Result<Endpoint> {
    Ok(Endpoint::Unix(at(node, values::socket(text(node)?))?))
}

fn console(draft: &mut Draft, node: &Node) -> Result<()> {
    let consoles = list(node)?;
    if let Some(second) = consoles.get(1) {
        return mistake(second, "a machine has one console");
    }
    for node in consoles {
        let mut end = None;
        for (key, value) in object(node, CONSOLE)? {
            match key {
                "socket_path" => end = Some(socket(value)?),
                _ => drop(at(value, values::id(text(value)?))?),
            }
        }
        let Some(end) = end else {
            return mistake(node, "a console without socket_path");
        };
        draft.config.console = end;
    }
    Ok(())
}

fn serial(draft: &mut Draft, node: &Node) -> Result<()> {
    if let Value::Text(text) = &node.value {
        draft.config.serial = at(node, values::endpoint(text))?;
        return Ok(());
    }
    let mut end = None;
    for (key, value) in object(node, SERIAL)? {
        match key {
            "stdio" if switch(value)? => set(value, &mut end, Endpoint::Stdio)?,
            "stdio" => {}
            _ => set(value, &mut end, socket(value)?)?,
        }
    }
    // StratoVirt's serial port is there in any case; what it writes may go nowhere.
    draft.config.serial = end.unwrap_or(Endpoint::Null);
    Ok(())
}

fn channel(draft: &mut Draft, node: &Node) -> Result<()> {
    let (mut name, mut end) = (None, None);
    for (key, value) in object(node, CHANNEL)? {
        match key {
            "name" => name = Some(at(value, values::id(text(value)?))?),
            _ => end = Some(socket(value)?),
        }
    }
    let (Some(name), Some(endpoint)) = (name, end) else {
        return mistake(node, "a channel has name and socket_path");
    };
    draft.config.channel = Some(Channel { name, endpoint });
    Ok(())
}

fn balloon(draft: &mut Draft, node: &Node) -> Result<()> {
    if let Value::Bool(on) = node.value {
        draft.config.balloon = on;
        return Ok(());
    }
    for (_, value) in object(node, BALLOON)? {
        if !switch(value)? {
            return mistake(
                value,
                "a balloon always gives way to a guest short of memory: say true",
            );
        }
    }
    draft.config.balloon = true;
    Ok(())
}

fn rng(draft: &mut Draft, node: &Node) -> Result<()> {
    if let Value::Bool(on) = node.value {
        draft.config.rng = on;
        return Ok(());
    }
    for (key, value) in object(node, RNG)? {
        match (key, word(value)?) {
            ("random_file", "/dev/urandom" | "/dev/random") => {}
            ("random_file", other) => {
                let expected = "/dev/urandom or /dev/random";
                return at(value, values::wrong(other, "source of random numbers", expected));
            }
            _ => return mistake(value, "nothing limits the random numbers: leave it away"),
        }
    }
    draft.config.rng = true;
    Ok(())
}

fn iothreads(node: &Node) -> Result<()> {
    for node in list(node)? {
        for (_, value) in object(node, IOTHREAD)? {
            at(value, values::id(text(value)?))?;
        }
    }
    Ok(())
}

fn hotplug(draft: &mut Draft, node: &Node) -> Result<()> {
    for (key, value) in object(node, HOTPLUG)? {
        let hotplug = &mut draft.config.hotplug;
        match key {
            "nics" => {
                let count =
                    values::count(word(value)?, "number of network interfaces", &(0..=MAX_NICS));
                hotplug.nics = at(value, count)?;
            }
            "disks" => {
                let count = values::count(word(value)?, "number of disks", &(0..=MAX_DISKS));
                hotplug.disks = at(value, count)?;
            }
            _ => {
                let Value::List(dirs) = &value.value else {
                    return not(value, "a list in brackets");
                };
                for dir in dirs {
                    hotplug.dirs.push(at(dir, values::path(text(dir)?))?);
                }
            }
        }
    }
    Ok(())
}
