//! `block-list` and `network-list`, from the configuration a domain runs with.

use kxl_domain::DomainConfig;

use super::names::run;
use super::{FAILURE, Session, Target, fail, getopt, libxl_json, print};
use crate::{commands, out};

/// Lists the disks of domains; unknown ones are told and passed over.
pub(crate) fn block_list(session: &mut Session, args: &[String]) -> u8 {
    run(|| {
        let line = session.parse(getopt::NONE, args, 1)?;
        let mut text = format!(
            "{:<5} {:<3} {:<6} {:<5} {:<6} {:<8} {:<30}\n",
            "Vdev", "BE", "handle", "state", "evt-ch", "ring-ref", "BE-path"
        );
        for arg in &line.operands {
            match config(session, arg)? {
                Some((domid, config)) => text.push_str(&disks(domid, &config)),
                None => out::complain(&format!("{arg} is an invalid domain identifier\n")),
            }
        }
        Ok(print(&text))
    })
}

/// Lists the network interfaces of domains; an unknown one ends it.
pub(crate) fn network_list(session: &mut Session, args: &[String]) -> u8 {
    run(|| {
        let line = session.parse(getopt::NONE, args, 1)?;
        let mut text = format!(
            "{:<3} {:<2} {:<17} {:<6} {:<5} {:<6} {:>5}/{:<5} {:<30}\n",
            "Idx", "BE", "Mac Addr.", "handle", "state", "evt-ch", "tx-", "rx-ring-ref", "BE-path"
        );
        for arg in &line.operands {
            let Some((domid, config)) = config(session, arg)? else {
                out::complain(&format!("{arg} is an invalid domain identifier\n"));
                return Err(FAILURE);
            };
            text.push_str(&nics(domid, &config));
        }
        Ok(print(&text))
    })
}

/// Number and configuration of a live domain; the host has no devices of a guest.
fn config(session: &mut Session, arg: &str) -> Result<Option<(u32, DomainConfig)>, u8> {
    // An unknown name is told by each command in its own manner.
    let Some(Target::Live(row)) = session.quiet_target(arg)? else { return Ok(None) };
    let config =
        commands::config_of(session.host()?, row.uuid).map_err(|failure| fail(&failure))?;
    Ok(config.map(|config| (row.domid.map_or(0, |domid| domid.0), config)))
}

fn disks(domid: u32, config: &DomainConfig) -> String {
    let line = |disk: &kxl_domain::config::model::Disk| {
        let vdev = disk.vdev_number;
        let path = format!("/local/domain/0/backend/vbd/{domid}/{vdev}");
        format!("{vdev:<5} {:<3} {domid:<6} {:<5} {:<6} {:<8} {path:<30}\n", 0, 4, 0, 0)
    };
    config.disks.iter().map(line).collect()
}

fn nics(domid: u32, config: &DomainConfig) -> String {
    let line = |(at, nic): (usize, &kxl_domain::config::model::Nic)| {
        let index = nic.devid.map_or_else(|| at.to_string(), |devid| devid.to_string());
        let mac = libxl_json::mac(nic.mac.unwrap_or_default());
        let path = format!("/local/domain/0/backend/vif/{domid}/{index}");
        format!(
            "{index:<3} {:<2} {mac}{:>6} {:>5} {:>6} {:>5}/{:<11} {path:<30}\n",
            0, 0, 4, 0, 0, 0
        )
    };
    config.nics.iter().enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> DomainConfig {
        let text = "name = 'web'\nkernel = '/k'\ndisk = ['/d.img,raw,xvdb,w']\n\
                    vif = ['mac=00:16:3E:01:02:03,bridge=br0']\n";
        kxl_domain::config::parse("test", text, &[]).unwrap().config
    }

    #[test]
    fn disks_have_decimal_numbers_and_a_path() {
        assert_eq!(
            disks(3, &sample()),
            "51728 0   3      4     0      0        /local/domain/0/backend/vbd/3/51728\n"
        );
    }

    #[test]
    fn nothing_parts_the_mac_address_from_the_handle() {
        assert_eq!(
            nics(3, &sample()),
            "0   0  00:16:3e:01:02:03     0     4      0     0/0           \
             /local/domain/0/backend/vif/3/0\n"
        );
    }
}
