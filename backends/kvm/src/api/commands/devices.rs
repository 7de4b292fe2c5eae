//! Devices that come and go. The arguments are those of StratoVirt's documents and of QEMU's.

use serde::Deserialize;
use serde_json::Value;

use super::parts::{Kept, Netdev, Node};
use super::{Context, done};
use crate::api::control::{NewDisk, NewNic, Outcome, Place, Refusal};
use crate::config::Vhost;

/// Characters of an id.
const MOST_CHARS: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct BlockdevAdd {
    node_name: String,
    driver: Option<String>,
    file: Option<NodeFile>,
    /// For `driver` file.
    filename: Option<String>,
    read_only: Option<bool>,
    cache: Option<Cache>,
    /// How QEMU would do its input and output.
    #[serde(rename = "aio")]
    _aio: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct NodeFile {
    driver: Option<String>,
    filename: String,
    read_only: Option<bool>,
    #[serde(rename = "aio")]
    _aio: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Cache {
    /// A hint: what a guest has flushed is on the disk either way.
    #[serde(rename = "direct")]
    _direct: Option<bool>,
    no_flush: Option<bool>,
}

pub(super) fn blockdev_add(context: &mut Context<'_>, add: BlockdevAdd) -> Outcome<Value> {
    id(&add.node_name)?;
    let format = add.driver.as_deref().unwrap_or("raw");
    let outer_is_file = matches!(format, "file" | "host_device");
    if format != "raw" && !outer_is_file {
        let text = format!(
            "driver '{format}': disks are raw here; convert the image with qemu-img convert -O raw"
        );
        return Err(Refusal::new(text));
    }
    let (filename, inner) = match (add.file, add.filename) {
        (Some(file), None) if !outer_is_file => {
            if !matches!(file.driver.as_deref(), None | Some("file" | "host_device")) {
                return Err(Refusal::new("a file's driver is 'file' or 'host_device'"));
            }
            (file.filename, file.read_only)
        }
        (None, Some(filename)) if outer_is_file => (filename, None),
        _ => {
            let text =
                "needs \"file\":{\"filename\":PATH}, or \"driver\":\"file\" and \"filename\"";
            return Err(Refusal::new(text));
        }
    };
    if add.cache.and_then(|cache| cache.no_flush) == Some(true) {
        return Err(Refusal::new("'no-flush': flushes are never ignored here"));
    }
    let readonly = add.read_only.or(inner).unwrap_or(false);
    let source = match context.state.named.open(&filename, !readonly)? {
        Place::Path(_) => Kept::Name(filename),
        Place::Fd(fd) => Kept::Fd(fd),
    };
    context.state.parts.nodes.add(add.node_name, Node { source, readonly })?;
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct BlockdevDel {
    node_name: String,
}

pub(super) fn blockdev_del(context: &mut Context<'_>, del: BlockdevDel) -> Outcome<Value> {
    context.state.parts.nodes.remove(&del.node_name)?;
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NetdevAdd {
    #[serde(rename = "type")]
    kind: Option<String>,
    id: String,
    ifname: Option<String>,
    fd: Option<String>,
    /// StratoVirt's word for `fd`.
    fds: Option<String>,
    vhost: Option<bool>,
    script: Option<String>,
    downscript: Option<String>,
}

pub(super) fn netdev_add(context: &mut Context<'_>, add: NetdevAdd) -> Outcome<Value> {
    id(&add.id)?;
    if !matches!(add.kind.as_deref(), None | Some("tap")) {
        return Err(Refusal::new("'type': interfaces are taps here"));
    }
    if [&add.script, &add.downscript].into_iter().flatten().any(|script| script != "no") {
        return Err(Refusal::new("no scripts are run; set the tap up before"));
    }
    // A name in use must not cost the descriptor.
    context.state.parts.netdevs.room(&add.id)?;
    let tap = match (add.ifname, add.fd.or(add.fds)) {
        (Some(name), None) => {
            interface(&name)?;
            Kept::Name(name)
        }
        (None, Some(name)) => Kept::Fd(context.state.named.take(&name)?),
        _ => return Err(Refusal::new("needs 'ifname', or 'fd' with a name given by getfd")),
    };
    let vhost = match add.vhost {
        None => Vhost::Auto,
        Some(true) => Vhost::On,
        Some(false) => Vhost::Off,
    };
    context.state.parts.netdevs.add(add.id, Netdev { tap, vhost })?;
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Id {
    id: String,
}

pub(super) fn netdev_del(context: &mut Context<'_>, del: Id) -> Outcome<Value> {
    context.state.parts.netdevs.remove(&del.id)?;
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeviceAdd {
    driver: String,
    id: String,
    /// The part that it is made of; where it is not named, the part of the device's own id.
    netdev: Option<String>,
    drive: Option<String>,
    mac: Option<String>,
    /// The slot among those of its kind.
    addr: Option<String>,
}

pub(super) fn device_add(context: &mut Context<'_>, add: DeviceAdd) -> Outcome<Value> {
    id(&add.id)?;
    let slot = add.addr.as_deref().map(slot).transpose()?;
    match add.driver.as_str() {
        "virtio-net-mmio" | "virtio-net-device" => {
            only(&add.drive, "drive")?;
            let part = add.netdev.as_deref().unwrap_or(&add.id);
            let mac = add.mac.as_deref().map(mac).transpose()?;
            let netdevs = &mut context.state.parts.netdevs;
            let netdev = netdevs.free(part)?;
            let (tap, vhost) = (netdev.tap.tap()?, netdev.vhost);
            context.control.plug_nic(NewNic { id: add.id.clone(), slot, tap, mac, vhost })?;
            netdevs.used(part, &add.id);
        }
        "virtio-blk-mmio" | "virtio-blk-device" => {
            only(&add.netdev, "netdev")?;
            only(&add.mac, "mac")?;
            let part = add.drive.as_deref().unwrap_or(&add.id);
            let nodes = &mut context.state.parts.nodes;
            let node = nodes.free(part)?;
            let (source, readonly) = (node.source.place()?, node.readonly);
            context.control.plug_disk(NewDisk { id: add.id.clone(), slot, source, readonly })?;
            nodes.used(part, &add.id);
        }
        other => {
            let text =
                format!("no driver '{other}': there are virtio-net-mmio and virtio-blk-mmio");
            return Err(Refusal::new(text));
        }
    }
    done()
}

pub(super) fn device_del(context: &mut Context<'_>, del: Id) -> Outcome<Value> {
    context.control.unplug(&del.id)?;
    done()
}

fn only(argument: &Option<String>, name: &str) -> Outcome {
    match argument {
        Some(_) => Err(Refusal::new(format!("'{name}' means nothing to this driver"))),
        None => Ok(()),
    }
}

/// An id as QEMU has them.
fn id(id: &str) -> Outcome {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let good = id.starts_with(|first: char| first.is_ascii_alphabetic())
        && id.len() <= MOST_CHARS
        && id.chars().all(plain);
    if good {
        return Ok(());
    }
    let text = "an id begins with a letter and has letters, digits, '-', '.' and '_', at most 64";
    Err(Refusal::new(text))
}

/// The kernel's rule for names of interfaces.
fn interface(name: &str) -> Outcome {
    let bad = |c: char| c == '/' || c == ':' || c.is_ascii_whitespace() || c.is_ascii_control();
    if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.contains(bad) {
        return Err(Refusal::new(format!("'{name}' is no name of an interface")));
    }
    Ok(())
}

/// A slot's number, `0x1` or `1`.
fn slot(addr: &str) -> Outcome<usize> {
    let number = match addr.strip_prefix("0x") {
        Some(hex) => usize::from_str_radix(hex, 16),
        None => addr.parse(),
    };
    number.map_err(|_| Refusal::new(format!("addr '{addr}' is no number of a slot")))
}

/// An address that one interface can have.
fn mac(text: &str) -> Outcome<[u8; 6]> {
    let refused = || Refusal::new(format!("'{text}' is no address of an interface"));
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2).ok_or_else(refused)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| refused())?;
    }
    if parts.next().is_some() || mac == [0; 6] || mac[0] & 1 == 1 {
        return Err(refused());
    }
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_slots_are_read_as_people_write_them() {
        assert_eq!(mac("00:16:3E:00:00:0f").unwrap(), [0, 0x16, 0x3e, 0, 0, 0xf]);
        for bad in [
            "",
            "0:16:3e:0:0:1",
            "01:00:00:00:00:00",
            "00:00:00:00:00:00",
            "+1:02:03:04:05:06",
            "00:16:3e:00:00:01:02",
            "äb:00:00:00:00:00",
        ] {
            mac(bad).unwrap_err();
        }
        assert_eq!(["0x1", "3", "0x0a"].map(|addr| slot(addr).unwrap()), [1, 3, 10]);
        for bad in ["", "0x", "-1", "eth0", "0x1ffffffffffffffff"] {
            slot(bad).unwrap_err();
        }
    }

    #[test]
    fn names_that_could_be_something_else_are_refused() {
        for bad in ["", "1net", "a b", "a/b", &"x".repeat(65)] {
            id(bad).unwrap_err();
        }
        id("net-0.a_B").unwrap();
        for bad in ["", "..", "a/b", "sixteen-letters-", "a:b", "a b"] {
            interface(bad).unwrap_err();
        }
        interface("vif12.0").unwrap();
    }
}
