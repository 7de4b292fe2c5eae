//! Which domain a user means who names none: the one that vmstart started last for that user.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

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

/// A domain that a user means from now on, and the one that was meant before.
pub(super) struct Meant {
    uuid: DomainUuid,
    before: Option<DomainUuid>,
}

impl Meant {
    /// The start has failed: the user means the one of before again. Not where the domain runs all
    /// the same, and not where another is meant by now.
    pub(super) fn take_back(self) {
        let taken_back = Host::open().and_then(|mut host| {
            let runs = host.row(self.uuid)?.is_some_and(|row| row.domid.is_some());
            let now = get(&mut host).map(|row| row.uuid);
            if runs || now != Some(self.uuid) || self.before == now {
                return Ok(());
            }
            match self.before {
                Some(before) => write(&host, before),
                // The user's own file only: others may mean the domain all the same.
                None => fs::remove_file(file(&host)).map_err(|error| {
                    let attempt = format!("cannot remove {}", file(&host).display());
                    Failure::because(Kind::Failed, attempt, &error)
                }),
            }
        });
        if let Err(failure) = taken_back {
            report::warning(&format!("the other commands will need a name: {failure}"));
        }
    }
}

/// Lets this user mean a domain.
///
/// # Errors
/// When that cannot be written down.
pub(super) fn set(host: &mut Host, uuid: DomainUuid) -> Result<Meant, Failure> {
    let before = get(host).map(|row| row.uuid);
    write(host, uuid)?;
    Ok(Meant { uuid, before })
}

fn write(host: &Host, uuid: DomainUuid) -> Result<(), Failure> {
    let file = file(host);
    host.paths
        .prepare()
        .map_err(|error| Failure::because(Kind::Failed, "cannot use this host's places", &error))?;
    put(&host.paths.default_domains(), &file, &format!("{uuid}\n")).map_err(|error| {
        Failure::because(Kind::Failed, format!("cannot write {}", file.display()), &error)
    })
}

/// Puts a file into a directory that nobody else may look into, as one that nobody else may read.
fn put(directory: &Path, file: &Path, text: &str) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        // One of an earlier version may be open to others.
        _ => fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?,
    }
    let new = file.with_extension(std::process::id().to_string());
    let options =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
    let written = options
        .and_then(|mut opened| opened.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&new, file));
    if written.is_err() {
        drop(fs::remove_file(&new));
    }
    written
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_means_is_for_nobody_else_to_read() {
        let top = std::env::temp_dir().join(format!("kxl-default-{}", std::process::id()));
        let directory = top.join("default-domains");
        fs::create_dir_all(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        let file = directory.join("0");
        for text in ["one\n", "two\n"] {
            put(&directory, &file, text).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&file)), (0o700, 0o600));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::remove_dir_all(&top).unwrap();
    }
}
