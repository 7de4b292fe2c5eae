//! Whether the host has the interfaces that a Charon takes.

use std::collections::BTreeSet;
use std::path::Path;

use kxl_backend::{BackendError, LaunchSpec, Result};
use kxl_domain::charon::{HostNics, Nic, NicFinding, facts};

/// The names of the interfaces that a configuration takes; none where it cannot be read.
fn interfaces(file: &Path) -> BTreeSet<String> {
    let configuration = kxl_backend::charon::read(file).ok();
    let facts = configuration.as_ref().map(facts);
    facts.into_iter().flat_map(|facts| facts.nics).map(|nic| nic.interface).collect()
}

/// Looks at them on this host; gives what is only worth a warning.
///
/// # Errors
/// [`BackendError::Config`] with every one that cannot be had.
pub(super) fn check(nics: &[Nic], spec: &LaunchSpec) -> Result<Vec<String>> {
    let cannot = |error| BackendError::io("the interfaces of the host cannot be told", error);
    let mut host = kxl_backend::nics::host_nics(&spec.host.nics_file).map_err(cannot)?;
    for (name, file) in &spec.host.other_charons {
        let by = format!("domain \"{name}\"");
        host.used.extend(interfaces(file).into_iter().map(|nic| (nic, by.clone())));
    }
    judge(nics, &host)
}

fn judge(nics: &[Nic], host: &HostNics) -> Result<Vec<String>> {
    let (mut refusals, mut warnings) = (Vec::new(), Vec::new());
    for (index, nic) in nics.iter().enumerate() {
        let name = &nic.interface;
        for finding in host.findings(nic) {
            let by = match finding {
                NicFinding::Used => host.used.get(name).map(|by| format!(" by {by}")),
                _ => None,
            };
            let number = finding.number();
            let text = format!("{name} {finding}{} ({number})", by.unwrap_or_default());
            let list = if finding.refuses() { &mut refusals } else { &mut warnings };
            list.push(text);
        }
        if nics[..index].iter().any(|other| other.interface == *name) {
            let number = NicFinding::Used.number();
            refusals.push(format!("{name} is already used by another port of it ({number})"));
        }
    }
    if refusals.is_empty() {
        return Ok(warnings);
    }
    let why = format!("its network interfaces cannot be had: {}", refusals.join(", "));
    Err(BackendError::config("emulator_config", why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nics(names: &[&str]) -> Vec<Nic> {
        let mut text = "set session hw_model=AlphaServer_DS20\n".to_owned();
        for (index, name) in names.iter().enumerate() {
            text.push_str(&format!("load packet_port P{index} interface=\"{name}\"\n"));
        }
        facts(&kxl_domain::charon::parse(&text, |_| None).unwrap()).nics
    }

    #[test]
    fn what_cannot_be_had_is_refused_at_once_and_the_rest_is_told() {
        let address = vec!["192.0.2.1".parse().unwrap()];
        let present = [("eth0", address), ("eth1", vec![]), ("eth2", vec![])];
        let host = HostNics {
            present: present.map(|(name, list)| (name.to_owned(), list)).into(),
            managed: ["eth1".to_owned(), "eth2".to_owned()].into(),
            used: [("eth2".to_owned(), "domain \"es40\"".to_owned())].into(),
        };
        assert_eq!(judge(&nics(&["eth1"]), &host).unwrap(), [""; 0]);
        assert_eq!(
            judge(&nics(&["eth0"]), &host).unwrap(),
            ["eth0 is not managed (2)", "eth0 has an IP address (4)"]
        );
        let error = judge(&nics(&["eth2", "eth9", "connection:x", "eth1", "eth1"]), &host);
        assert_eq!(
            error.unwrap_err().to_string(),
            "emulator_config: its network interfaces cannot be had: eth2 is already used by domain \
             \"es40\" (3), eth9 does not exist (1), connection:x is written as on Windows (5), eth1 \
             is already used by another port of it (3)"
        );
    }
}
