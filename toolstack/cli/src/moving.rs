//! States on their way out and back, for both personalities: the bar, the interruptions, the
//! places of files.

use std::path::{Path, PathBuf};
use std::{fs, io};

use kxl_control::{After, Moved, Save, Saved};
use kxl_domain::{DomainConfig, Failure, Kind, Verb};
use kxl_engine::Host;
use kxl_store::ListRow;

use crate::report;
use crate::terminal::interrupt::{self, First, Guard};
use crate::terminal::progress::Bar;
use crate::{source, xl};

/// Saves a live domain's state. `None`: it was so already.
///
/// A signal before the commit gives the save up; the domain goes on, and the process ends by that
/// signal when the command has told so. One that comes later is too late.
///
/// # Errors
/// As [`Host::save`].
pub(crate) fn save(
    host: &mut Host,
    row: &ListRow,
    save: Save,
    quiet: bool,
) -> Result<Option<Saved>, Failure> {
    let verb = save.verb;
    interrupted(verb, row)?;
    let bar = Bar::new(quiet, format!("{verb} {}", row.name));
    let mut guard = Guard::new(First::Tells, bar.clone()).map_err(|e| uncaught(&e))?;
    let outcome = host.save(row, save, guard.sign(), |moved| bar.moved(moved));
    bar.clear();
    match (outcome, guard.came()) {
        (Err(failure), Some(signal)) => {
            interrupt::end_at_last_by(signal);
            Err(given_up(verb, row, &failure))
        }
        (Ok(saved), Some(_)) => {
            report::note("interrupted too late: the image was complete already");
            Ok(saved)
        }
        (outcome, None) => outcome,
    }
}

/// Refuses to begin in a command that was interrupted before.
fn interrupted(verb: Verb, row: &ListRow) -> Result<(), Failure> {
    if interrupt::ends_by().is_none() {
        return Ok(());
    }
    let text = format!("the {verb} of domain \"{}\" was not begun: interrupted", row.name);
    Err(Failure::new(Kind::Failed, text))
}

fn given_up(verb: Verb, row: &ListRow, failure: &Failure) -> Failure {
    tracing::debug!(%failure, "after the interruption");
    let name = &row.name;
    let text = format!("the {verb} of domain \"{name}\" was given up: interrupted");
    let told = Failure::new(Kind::Failed, text);
    match failure.kind {
        // Nobody said what became of it.
        Kind::TimedOut => told.hint(format!("kxl list {name} shows what became of it")),
        _ => told.hint(format!("nothing was kept; domain \"{name}\" goes on as before")),
    }
}

/// Brings a state back by `work`, with a bar. A signal takes the bar away, says that the domain
/// comes back without this command, and ends it.
///
/// # Errors
/// As `work`.
pub(crate) fn bring_back<T>(
    what: &str,
    quiet: bool,
    work: impl FnOnce(&mut dyn FnMut(Moved)) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let bar = Bar::new(quiet, what.to_owned());
    let farewell = format!(
        "interrupted: what has begun of {what} goes on without this command; kxl list shows it"
    );
    let guard = Guard::new(First::Ends(farewell), bar.clone()).map_err(|e| uncaught(&e))?;
    let outcome = work(&mut |moved| bar.moved(moved));
    bar.clear();
    drop(guard);
    outcome
}

/// Moves bytes by `work` in this process, with a bar. `work` is told to end by `false` after a
/// signal; the process ends by it when the command has told so.
///
/// # Errors
/// As `work`, and when it was interrupted.
pub(crate) fn here<T>(
    what: &str,
    total: u64,
    quiet: bool,
    work: impl FnOnce(&mut dyn FnMut(u64) -> bool) -> Result<T, Failure>,
) -> Result<T, Failure> {
    here_of(what, quiet, |moved| {
        let mut done = 0;
        work(&mut |more| {
            done += more;
            moved(Moved { done, total })
        })
    })
}

/// The same for work that knows itself how much there is to move.
///
/// # Errors
/// As [`here`].
pub(crate) fn here_of<T>(
    what: &str,
    quiet: bool,
    work: impl FnOnce(&mut dyn FnMut(Moved) -> bool) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let bar = Bar::new(quiet, what.to_owned());
    let guard = Guard::new(First::Tells, bar.clone()).map_err(|e| uncaught(&e))?;
    let outcome = work(&mut |moved| {
        bar.moved(moved);
        guard.came().is_none()
    });
    bar.clear();
    match (outcome, guard.came()) {
        (Err(failure), Some(signal)) => {
            tracing::debug!(%failure, "after the interruption");
            interrupt::end_at_last_by(signal);
            Err(Failure::new(Kind::Failed, format!("{what}: interrupted, nothing was kept")))
        }
        (outcome, _) => outcome,
    }
}

fn uncaught(error: &io::Error) -> Failure {
    Failure::because(Kind::Failed, "cannot catch signals", error)
}

/// The verb's order to save `config` as it runs, into the file at `path`.
pub(crate) fn into_file(path: PathBuf, after: After, header: &DomainConfig) -> Save {
    let purpose = match after {
        After::End => kxl_domain::image::Purpose::Save,
        After::GoOn | After::Pause => kxl_domain::image::Purpose::Checkpoint,
    };
    Save {
        verb: Verb::Save,
        place: kxl_domain::image::ImagePlace::File(path),
        purpose,
        after,
        live: after == After::GoOn,
        config: None,
        header: Some(header_of(header)),
        keep_domid: false,
        // A domain that ends leaves its disks as they are; one that goes on writes them.
        snapshot: after == After::GoOn,
        replace: false,
    }
}

/// The configuration block of a file: what `xl list -l` shows of the domain.
pub(crate) fn header_of(config: &DomainConfig) -> String {
    xl::config_json(config, config.uuid.unwrap_or_else(kxl_domain::DomainUuid::random))
}

/// Where an image is going to be written: an absolute path, through symbolic links. What is there
/// already is refused unless `replace` is set and it is a plain file.
///
/// # Errors
/// [`Kind::Failed`] naming the path and what to do.
pub(crate) fn new_file(path: &Path, replace: bool) -> Result<PathBuf, Failure> {
    let shown = path.display();
    let refused = |text: String| Failure::new(Kind::Failed, text);
    if path.to_str().is_none() {
        return Err(Failure::new(Kind::Usage, format!("{shown}: the name of a file is UTF-8")));
    }
    let found = match fs::metadata(path) {
        Ok(found) => Some(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            return Err(Failure::because(Kind::Failed, format!("cannot use {shown}"), &error));
        }
    };
    match found {
        None => absolute(path),
        Some(found) if found.is_dir() => Err(refused(format!("{shown} is a directory"))),
        Some(found) if !found.is_file() => Err(refused(format!("{shown} is no plain file"))),
        Some(_) if !replace => Err(refused(format!("{shown} exists already"))
            .hint("choose another name, or replace it with --force")),
        Some(_) => fs::canonicalize(path)
            .map_err(|error| Failure::because(Kind::Failed, format!("cannot use {shown}"), &error)),
    }
}

/// A path from the root, for a process with another current directory.
///
/// # Errors
/// When the current directory is gone.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| {
        Failure::because(Kind::Failed, format!("cannot use {}", path.display()), &error)
    })
}

/// The configuration in `file` in the place of the one that a state was saved with: what the file
/// leaves open and the guest has seen (uuid, MAC addresses) stays as it was.
///
/// # Errors
/// When it cannot be read, or is wrong.
pub(crate) fn in_place_of(file: &Path, saved: &DomainConfig) -> Result<DomainConfig, Failure> {
    let words = source::Words { file: Some(file.to_owned()), ..source::Words::default() };
    let parsed = source::load(&words)?;
    crate::commands::create::warn(&parsed);
    Ok(keep_identity(parsed.config, saved))
}

/// The same for a configuration that was read already.
pub(crate) fn keep_identity(mut config: DomainConfig, saved: &DomainConfig) -> DomainConfig {
    config.uuid = config.uuid.or(saved.uuid);
    for (nic, before) in config.nics.iter_mut().zip(&saved.nics) {
        nic.mac = nic.mac.or(before.mac);
    }
    config
}

#[cfg(test)]
mod tests {
    use kxl_domain::DomainName;
    use kxl_domain::config::model::Nic;

    use super::*;

    #[test]
    fn a_file_that_exists_is_replaced_only_when_that_is_said() {
        let dir = std::env::temp_dir().join(format!("kxl-moving-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let (file, link) = (dir.join("file"), dir.join("link"));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(new_file(&dir.join("new"), false).unwrap(), dir.join("new"));
        assert!(new_file(&file, false).unwrap_err().text.ends_with("exists already"));
        assert_eq!(new_file(&link, true).unwrap(), fs::canonicalize(&file).unwrap());
        assert!(new_file(&dir, true).unwrap_err().text.ends_with("is a directory"));
        assert!(new_file(Path::new("/dev/null"), true).unwrap_err().text.contains("no plain file"));
        new_file(&file.join("below"), true).unwrap_err();
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn another_configuration_keeps_what_the_guest_has_seen() {
        let uuid = kxl_domain::DomainUuid::random();
        let mut saved = DomainConfig::new(DomainName::new("web").unwrap());
        saved.uuid = Some(uuid);
        saved.nics = vec![Nic { mac: Some([2; 6]), ..Nic::default() }];
        let mut other = DomainConfig::new(DomainName::new("web2").unwrap());
        other.nics = vec![Nic::default(), Nic::default()];
        let config = keep_identity(other, &saved);
        assert_eq!(config.uuid, Some(uuid));
        assert_eq!((config.nics[0].mac, config.nics[1].mac), (Some([2; 6]), None));
        assert_eq!(config.name.as_str(), "web2");
    }
}
