//! The network interfaces of the host, for emulators that take whole ones.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::Path;

use kxl_domain::charon::{HostNics, managed_nics};
use nix::ifaddrs::getifaddrs;

/// Where the kernel shows them.
const CLASS_NET: &str = "/sys/class/net";

/// What the host knows of its interfaces; `managed` is the list of those for emulators, and a
/// missing list has none. Of those that are used already it knows the ones in bridges; which ones other
/// domains take is for the caller to add.
///
/// # Errors
/// When the kernel does not tell, or the list cannot be read.
pub fn host_nics(managed: &Path) -> io::Result<HostNics> {
    let mut nics = HostNics::default();
    for entry in fs::read_dir(CLASS_NET)? {
        let entry = entry?;
        // Beside the links to interfaces there can be files of the bonding driver.
        if fs::metadata(entry.path()).is_ok_and(|meta| meta.is_dir()) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(bridge) = bridge_of(&entry.path()) {
                nics.used.insert(name.clone(), format!("bridge {bridge}"));
            }
            nics.present.entry(name).or_default();
        }
    }
    for one in getifaddrs()? {
        let Some(address) = one.address else { continue };
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        let v6 = address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip()));
        let addresses = nics.present.get_mut(&one.interface_name);
        if let (Some(address), Some(addresses)) = (v4.or(v6), addresses) {
            addresses.push(address);
        }
    }
    nics.managed = match fs::read_to_string(managed) {
        Ok(text) => managed_nics(&text),
        Err(error) if error.kind() == ErrorKind::NotFound => Default::default(),
        Err(error) => return Err(error),
    };
    Ok(nics)
}

/// The bridge that has an interface of the host for its own. A tap is made for an emulator, and the
/// bridge that it is in is the emulator's way out.
fn bridge_of(interface: &Path) -> Option<String> {
    if interface.join("tun_flags").exists() {
        return None;
    }
    let master = fs::canonicalize(interface.join("master")).ok()?;
    let bridge = master.join("bridge").is_dir().then_some(master)?;
    Some(bridge.file_name()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_in_a_bridge_is_the_bridges_and_a_tap_in_one_is_not() {
        let dir = std::env::temp_dir().join(format!("kxl-nics-{}", std::process::id()));
        for name in ["br0/bridge", "bond0", "eth0", "eth1", "eth2", "tap0"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        for (name, master) in [("eth0", "br0"), ("eth1", "bond0"), ("tap0", "br0")] {
            let link = dir.join(name).join("master");
            std::os::unix::fs::symlink(Path::new("..").join(master), link).unwrap();
        }
        fs::write(dir.join("tap0/tun_flags"), "0x1002\n").unwrap();
        let bridges = ["eth0", "eth1", "eth2", "tap0"].map(|name| bridge_of(&dir.join(name)));
        assert_eq!(bridges, [Some("br0".to_owned()), None, None, None]);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_loopback_interface_is_there_with_its_address_and_not_managed() {
        let nics = host_nics(Path::new("/nonexistent/nics")).unwrap();
        let addresses = &nics.present["lo"];
        assert!(addresses.contains(&"127.0.0.1".parse().unwrap()), "{addresses:?}");
        assert!(nics.managed.is_empty() && !nics.used.contains_key("lo"));
    }
}
