//! `create`.

use std::path::PathBuf;

use kxl_domain::config::{Parsed, Rules, parse_with};
use kxl_domain::{DomainConfig, DomainUuid, Kind};
use kxl_engine::{Conf, StartOpts, Started};

use super::getopt::{Line, Options};
use super::names::run;
use super::{FAILURE, Session, USAGE, console, fail, libxl_json, print, rc, yajl};
use crate::commands::{START_DEADLINE, create as shared};
use crate::terminal::escape;
use crate::{out, source};

const OPTIONS: Options = Options {
    short: "Fnqf:pcdeVAi",
    long: &[
        ("dryrun", false, 'n'),
        ("quiet", false, 'q'),
        ("defconfig", true, 'f'),
        ("vncviewer", false, 'V'),
        ("vncviewer-autopass", false, 'A'),
        ("ignore-global-affinity-masks", false, 'i'),
    ],
};

/// Starts a domain.
pub(crate) fn create(session: &mut Session, args: &[String]) -> u8 {
    run(|| {
        let line = session.parse(OPTIONS, args, 0)?;
        let mut config = config(session, &line)?;
        if line.has('e') {
            config.preserve_always();
        }
        let uuid = config.uuid.unwrap_or_else(DomainUuid::random);
        config.uuid = Some(uuid);
        if line.has('n') || session.dry_run {
            return Ok(print(&json(&config, uuid)));
        }
        if line.has('d') {
            out::complain(&json(&config, uuid));
        }
        if line.has('V') || line.has('A') {
            out::complain("xl: a VNC viewer is not started yet\n");
        }
        let started = start(session, config, line.has('p'))?;
        let host = session.host()?;
        if line.has('c') {
            let attached = host
                .find(&started.uuid.to_string())
                .and_then(|row| console::show(host, &row, escape::DEFAULT));
            if let Err(failure) = attached {
                fail(&failure);
                out::complain("Unable to attach console\n");
            }
        }
        if line.has('F') {
            shared::wait_until_gone(host, &started).map_err(|failure| fail(&failure))?;
        }
        Ok(0)
    })
}

/// Reads the configuration that a command line names.
///
/// The error is the exit status; what is wrong has been told. The option `f` names the file, `q`
/// keeps quiet.
pub(crate) fn config(session: &Session, line: &Line) -> Result<DomainConfig, u8> {
    let words = source::sort(&line.operands, line.value('f').map(PathBuf::from));
    if words.extra.is_some() {
        session.usage();
        return Err(USAGE);
    }
    let Some(file) = &words.file else {
        out::complain("Config file not specified and none in save file\n");
        return Err(status(rc::INVAL));
    };
    let name = file.display().to_string();
    let text = source::read(file).map_err(|error| {
        out::complain(&format!("Failed to read config file: {name}: {}\n", plain(&error)));
        status(rc::FAIL)
    })?;
    if !line.has('q') {
        out::complain(&format!("Parsing config from {name}\n"));
    }
    let defaults = Conf::domain_defaults().map_err(|failure| fail(&failure))?;
    let parsed = parse_with(&defaults, Rules::Xl, &name, &text, &words.overrides);
    let mut parsed = parsed.map_err(|errors| {
        out::complain(&errors.xl_text());
        errors.xl_exit_code()
    })?;
    warn(&parsed);
    source::resolve(&mut parsed).map_err(|failure| fail(&failure))?;
    Ok(parsed.config)
}

fn warn(parsed: &Parsed) {
    for text in parsed.warnings.iter().filter_map(|warning| warning.xl_text()) {
        out::complain(&format!("{text}\n"));
    }
}

/// The text of an error without Rust's number behind it.
pub(crate) fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// `create` exits with the library's code, its sign turned.
pub(crate) fn status(code: i32) -> u8 {
    u8::try_from(code.unsigned_abs()).unwrap_or(FAILURE)
}

/// The configuration as `-n` prints it.
pub(crate) fn json(config: &DomainConfig, uuid: DomainUuid) -> String {
    yajl::render(&libxl_json::config(config, uuid, None).into())
}

fn start(session: &mut Session, config: DomainConfig, paused: bool) -> Result<Started, u8> {
    let name = config.name.clone();
    let uuid = config.uuid;
    let host = session.host()?;
    // The engine refuses a taken name as well; xl has a line of its own for it.
    let owner =
        host.find(name.as_str()).ok().filter(|row| row.name == name && Some(row.uuid) != uuid);
    if owner.is_some_and(|row| row.domid.is_some()) {
        out::complain(&format!("Domain with name \"{name}\" already exists.\n"));
        return Err(status(rc::FAIL));
    }
    host.create(config, StartOpts { paused, deadline: START_DEADLINE }).map_err(|failure| {
        fail(&failure);
        status(if failure.kind == Kind::Usage { rc::INVAL } else { rc::FAIL })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_code_becomes_the_exit_status() {
        assert_eq!(status(rc::FAIL), 3);
        assert_eq!(status(rc::INVAL), 6);
    }

    #[test]
    fn a_missing_file_is_told_without_the_number_of_the_error() {
        let error = std::io::Error::from_raw_os_error(2);
        assert_eq!(plain(&error), "No such file or directory");
    }
}
