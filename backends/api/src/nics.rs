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
/// missing list has none. Which ones other domains take is for the caller to add.
///
/// # Errors
/// When the kernel does not tell, or the list cannot be read.
pub fn host_nics(managed: &Path) -> io::Result<HostNics> {
    let mut nics = HostNics::default();
    for entry in fs::read_dir(CLASS_NET)? {
        let entry = entry?;
        // Beside the links to interfaces there can be files of the bonding driver.
        if fs::metadata(entry.path()).is_ok_and(|meta| meta.is_dir()) {
            nics.present.entry(entry.file_name().to_string_lossy().into_owned()).or_default();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_there_with_its_address_and_not_managed() {
        let nics = host_nics(Path::new("/nonexistent/nics")).unwrap();
        let addresses = &nics.present["lo"];
        assert!(addresses.contains(&"127.0.0.1".parse().unwrap()), "{addresses:?}");
        assert!(nics.managed.is_empty() && nics.used.is_empty());
    }
}
