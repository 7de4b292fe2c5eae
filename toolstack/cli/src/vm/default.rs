//! Which domain a user means who names none: the one that vmstart started last for that user.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use kxl_domain::{DomainUuid, Failure, Kind};
use kxl_engine::Host;
use kxl_store::ListRow;

use crate::report;

/// The user who sits there: under sudo(8) the one who called it.
fn user() -> u32 {
    let own = nix::unistd::getuid().as_raw();
    let behind = std::env::var("SUDO_UID").ok().and_then(|text| text.parse().ok());
    behind.filter(|_| own == 0).unwrap_or(own)
}

fn file(host: &Host) -> PathBuf {
    host.paths.default_domains().join(user().to_string())
}

/// The domain of this user, if there is one and it still exists.
pub(super) fn get(host: &mut Host) -> Option<ListRow> {
    let text = fs::read_to_string(file(host)).ok()?;
    let uuid: DomainUuid = text.trim().parse().ok()?;
    host.find(&uuid.to_string()).ok().filter(|row| row.managed)
}

/// The domain of this user, and says which one it is.
///
/// # Errors
/// [`Kind::Usage`] where there is none.
pub(super) fn named(host: &mut Host) -> Result<ListRow, Failure> {
    let Some(row) = get(host) else {
        return Err(Failure::new(Kind::Usage, "no domain is named, and vmstart has not set one")
            .hint("name one, or start it by: vmstart NAME"));
    };
    report::note(&format!("domain \"{}\", the one of vmstart", row.name));
    Ok(row)
}

/// Lets this user mean a domain.
///
/// # Errors
/// When that cannot be written down.
pub(super) fn set(host: &Host, uuid: DomainUuid) -> Result<(), Failure> {
    let file = file(host);
    let new = file.with_extension(std::process::id().to_string());
    host.paths
        .prepare()
        .map_err(|error| Failure::because(Kind::Failed, "cannot use this host's places", &error))?;
    fs::create_dir_all(host.paths.default_domains())
        .and_then(|()| fs::write(&new, format!("{uuid}\n")))
        .and_then(|()| fs::rename(&new, &file))
        .map_err(|error| {
            drop(fs::remove_file(&new));
            Failure::because(Kind::Failed, format!("cannot write {}", file.display()), &error)
        })
}

/// Nobody means this domain any more: it is deleted.
pub(crate) fn forget(host: &Host, uuid: DomainUuid) {
    let directory = match fs::read_dir(host.paths.default_domains()) {
        Ok(directory) => directory,
        Err(error) => {
            if error.kind() != ErrorKind::NotFound {
                tracing::debug!(%error, "default domains stay");
            }
            return;
        }
    };
    for entry in directory.flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        if text.trim() == uuid.to_string()
            && let Err(error) = fs::remove_file(entry.path())
        {
            tracing::debug!(%error, "a default domain stays");
        }
    }
}
