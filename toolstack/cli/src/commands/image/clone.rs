//! `kxl image clone`.

use kxl_domain::{DomainName, Failure, Kind};
use kxl_engine::{CloneOpts, Disks, Host, How};
use serde_json::json;

use super::short;
use crate::args;
use crate::commands::{Exit, restore};
use crate::{moving, out, report};

/// Starts a new domain from an image in the store.
pub(super) fn clone(args: &args::Clone) -> Exit {
    let mut host = Host::open()?;
    let name = DomainName::new(args.name.as_str())
        .map_err(|error| Failure::because(Kind::Usage, "cannot clone", &error))?;
    let id = host.image_id(&args.image)?;
    let into = args.into.as_deref().map(moving::absolute).transpose()?;
    let opts = CloneOpts {
        name: name.clone(),
        managed: args.managed,
        disks: match args.disks {
            args::Disks::Auto => Disks::Auto,
            args::Disks::Overlay => Disks::Only(How::Overlay),
            args::Disks::Reflink => Disks::Only(How::Reflink),
            args::Disks::Copy => Disks::Only(How::Copy),
        },
        into,
        force_disks: args.how.force_disks,
    };
    let quiet = args.how.quiet || args.how.json;
    let what = format!("copy the disks of {}", short(id));
    let cloned = moving::here_of(&what, quiet, |moved| host.prepare_clone(id, &opts, moved))?;
    let made: Vec<_> = cloned.disks.clone();
    // Also where little is to be said: two that write to it ruin it.
    for path in &cloned.shared {
        report::note(&format!(
            "\"{name}\" writes to {} like every other machine of this image: let only one of them run",
            path.display()
        ));
    }
    if !quiet {
        for disk in &made {
            report::note(&format!(
                "disk {} is {} ({})",
                disk.vdev,
                disk.path.display(),
                how(disk.how)
            ));
        }
        if !cloned.config.nics.is_empty() {
            report::note(
                "its guest goes on with the MAC and IP addresses in its memory; change them in it \
                 before the other one is on the same network",
            );
        }
    }
    let what = format!("clone {}", short(id));
    let started = moving::bring_back(&what, quiet, |moved| {
        host.start_clone(cloned, &restore::opts(args.how), moved)
    })?;
    if args.how.json {
        let disks: Vec<_> = made
            .iter()
            .map(
                |disk| json!({ "vdev": disk.vdev, "path": disk.path, "how": disk.how.to_string() }),
            )
            .collect();
        out::print_json(&json!({
            "name": started.name.as_str(),
            "uuid": started.uuid.to_string(),
            "domid": started.domid.0,
            "image": id.to_string(),
            "disks": disks,
        }))?;
        return Ok(0);
    }
    restore::tell(&mut host, &started, args.how)?;
    Ok(0)
}

/// How a disk was made, and what follows from it.
const fn how(how: How) -> &'static str {
    match how {
        How::Reflink => "reflink: it shares its blocks with the old one",
        How::Overlay => "overlay: the old one must never be written again",
        How::Copy => "copy",
    }
}
