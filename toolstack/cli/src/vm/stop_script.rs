//! `kxl stop-script`: the script by which the guests of a host are shut down.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use kxl_backend::{plain, trusted};
use kxl_domain::charon::stop_script::{Case, StopScript, common_status, new_script, with_cases};
use kxl_domain::{DomainConfig, Failure, Kind};
use kxl_engine::{Host, stop_script};
use kxl_store::ListRow;
use serde_json::json;

use super::{cfg, config_of, own_file};
use crate::commands::{self, Exit};
use crate::text::add;
use crate::{out, report};

/// Says beforehand that a stop takes the power away from a guest. What cannot be told is no reason
/// not to stop.
pub(super) fn warn_of_power_off(host: &mut Host, row: &ListRow) {
    let config = match config_of(host, row) {
        Ok(config) => config,
        Err(failure) => {
            tracing::debug!(%failure, "whether a stop is a power-off is not known");
            return;
        }
    };
    // Other emulators have a power button.
    if config.emulator_config.is_none() || !config.maintenance.stop_command.is_empty() {
        return;
    }
    let (status, program) = stop_script(&host.paths, &config);
    let name = &row.name;
    if !status.is_ready() {
        report::warning(&format!(
            "domain \"{name}\" has no stop script ({status}): for its guest this is a power-off"
        ));
    } else if let Some(problem) = trusted::of_program(&program) {
        report::warning(&format!(
            "the stop script of domain \"{name}\" is not run, for its guest this is a power-off: \
             {problem}"
        ));
    }
}

/// A domain and its configuration.
type Registered = (ListRow, DomainConfig);

/// The domains that the script is for, each with its configuration; and a failure for each whose
/// configuration cannot be read.
fn domains(host: &mut Host) -> Result<(Vec<Registered>, Vec<Failure>), Failure> {
    let (mut found, mut unread) = (Vec::new(), Vec::new());
    for row in commands::all_rows(host)?.into_iter().filter(|row| row.managed) {
        match commands::config_of(host, row.uuid) {
            Ok(Some(config)) if config.emulator_config.is_some() => found.push((row, config)),
            Ok(_) => {}
            Err(failure) => {
                let attempt = format!("cannot tell about domain \"{}\"", row.name);
                unread.push(Failure::because(failure.kind, attempt, &failure));
            }
        }
    }
    found.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    Ok((found, unread))
}

/// Makes the script, or adds what is missing in it.
pub(super) fn create(quiet: bool) -> Exit {
    let mut host = Host::open()?;
    let (found, unread) = domains(&mut host)?;
    unread.iter().for_each(|failure| report::warning(&failure.to_string()));
    let cases: Vec<Case> = found
        .into_iter()
        .filter(|(_, config)| config.scripts.stop.is_none())
        .filter_map(|(row, config)| {
            let configuration = own_file(&config)?.display().to_string();
            Some(Case { domain: row.name.to_string(), configuration })
        })
        .collect();
    let path = host.paths.stop_script();
    let told = match plain::whole(&path, plain::MOST).and_then(text_of) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            write(&path, &new_script(&cases))?;
            format!("{}: made, with {}\n", path.display(), counted(cases.len()))
        }
        Err(error) => {
            let attempt = format!("cannot read {}", path.display());
            return Err(Failure::because(Kind::Failed, attempt, &error));
        }
        Ok(text) => {
            let missing = cases
                .iter()
                .filter(|case| common_status(&text, &case.configuration) == StopScript::CaseNotSet)
                .count();
            if missing > 0 {
                let more = with_cases(&text, &cases).ok_or_else(|| no_place(&path))?;
                write(&path, &more)?;
            }
            format!("{}: {} added\n", path.display(), counted(missing))
        }
    };
    if !quiet {
        out::print(&told)?;
        out::print("kxl stop-script edit lets you customize it\n")?;
    }
    Ok(0)
}

fn text_of(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

fn counted(cases: usize) -> String {
    if cases == 1 { "1 case".to_owned() } else { format!("{cases} cases") }
}

fn no_place(path: &Path) -> Failure {
    let text = format!("{} is not one that kxl has made: no place for new cases", path.display());
    Failure::new(Kind::Denied, text).hint("kxl stop-script edit lets you add them")
}

/// Puts a new script in the place of the old one, at once.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::because(Kind::Failed, format!("cannot write {}", path.display()), &error)
    };
    let mode = fs::metadata(path).map_or(0o700, |meta| meta.permissions().mode() & 0o777);
    if let Some(directory) = path.parent() {
        let mut builder = fs::DirBuilder::new();
        // A script in a directory that others may write is not run.
        builder.recursive(true).mode(0o755).create(directory).map_err(failed)?;
    }
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&new)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        drop(fs::remove_file(&new));
    }
    written.map_err(failed)
}

/// Edits the script, and checks it then.
pub(super) fn edit(quiet: bool) -> Exit {
    let host = Host::open()?;
    let path = host.paths.stop_script();
    if !path.exists() {
        let text = format!("there is no stop script {}", path.display());
        return Err(Failure::new(Kind::Failed, text).hint("kxl stop-script create makes one"));
    }
    cfg::edit(&path)?;
    drop(host);
    if quiet {
        let wrong = path_is_wrong(&path);
        wrong.map_or(Ok(0), Err)
    } else {
        check(false)
    }
}

/// Tells how far the script has got for each domain. The status is 1 where a guest would lose its
/// power.
pub(super) fn check(as_json: bool) -> Exit {
    let mut host = Host::open()?;
    let path = host.paths.stop_script();
    let exists = path.exists();
    let (found, mut wrong) = domains(&mut host)?;
    let rows: Vec<_> = found
        .into_iter()
        .map(|(row, config)| (row, stop_script(&host.paths, &config).0, config))
        .collect();
    let own = rows.iter().filter_map(|(_, _, config)| config.scripts.stop.as_deref());
    let scripts: BTreeSet<&Path> = own.chain(exists.then_some(path.as_path())).collect();
    wrong.extend(scripts.into_iter().filter_map(path_is_wrong));
    let ready = rows.iter().all(|(_, status, _)| status.is_ready()) && wrong.is_empty();
    if as_json {
        let domains: Vec<_> = rows
            .iter()
            .map(|(row, status, config)| {
                json!({
                    "name": row.name.as_str(),
                    "configuration_file": own_file(config),
                    "script": config.scripts.stop.as_ref().unwrap_or(&path),
                    "status": status.to_string(),
                    "ready": status.is_ready(),
                })
            })
            .collect();
        out::print_json(&json!({ "script": path, "exists": exists, "domains": domains }))?;
    } else {
        let mut text = String::new();
        let there = if exists { "" } else { ": not found" };
        add(&mut text, format_args!("{}{there}\n", path.display()));
        let width = rows.iter().map(|(row, ..)| row.name.as_str().len()).max().unwrap_or(0);
        for (row, status, config) in &rows {
            let file = own_file(config).map(|file| file.display().to_string()).unwrap_or_default();
            let own = config.scripts.stop.as_ref();
            let own = own.map_or(String::new(), |own| format!("  {}", own.display()));
            let name = &row.name;
            add(&mut text, format_args!("{name:<width$}  {status:<15}  {file}{own}\n"));
        }
        out::print(&text)?;
    }
    wrong.iter().for_each(report::failure);
    Ok(if ready { 0 } else { Kind::Failed.exit_code() })
}

/// What keeps a script from being run: its mode, who may write it, or a mistake that its own shell
/// finds.
fn path_is_wrong(path: &Path) -> Option<Failure> {
    let name = path.display();
    let mode = fs::metadata(path).ok()?.permissions().mode();
    if mode & 0o111 == 0 {
        return Some(
            Failure::new(Kind::Failed, format!("{name} is not executable"))
                .hint(format!("chmod 0700 {name}")),
        );
    }
    if let Some(problem) = trusted::of_program(path) {
        let mut failure = Failure::new(Kind::Failed, format!("{name} is not run"));
        failure.causes.push(problem);
        return Some(failure);
    }
    let bytes = plain::head(path, plain::MOST).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let shell = text.lines().next()?.strip_prefix("#!")?.split_whitespace().next()?;
    if !matches!(Path::new(shell).file_name()?.to_str()?, "sh" | "bash" | "dash" | "ksh") {
        return None;
    }
    let output = Command::new(shell).arg("-n").arg(path).stdin(Stdio::null()).output().ok()?;
    (!output.status.success()).then(|| {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Failure::new(Kind::Failed, format!("{name} cannot be run: {said}"))
            .hint("kxl stop-script edit")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_wrong_by_its_mode_its_writers_and_its_mistakes() {
        let dir = std::env::temp_dir().join(format!("kxl-wrong-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let script = dir.join("script");
        for (mode, text, want) in [
            (0o600, "#!/bin/sh\n", Some("is not executable")),
            (0o777, "#!/bin/sh\n", Some("can be written by others")),
            (0o700, "#!/bin/sh\nif\n", Some("cannot be run")),
            (0o700, "#!/bin/sh\ntrue\n", None),
        ] {
            fs::write(&script, text).unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(mode)).unwrap();
            let told = path_is_wrong(&script).map(|failure| failure.to_string());
            assert_eq!(told.is_some(), want.is_some(), "{told:?}");
            assert!(told.unwrap_or_default().contains(want.unwrap_or_default()), "{want:?}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
