//! `kxl restore` and `kxl resume`.

use std::path::{Path, PathBuf};

use kxl_domain::{Failure, Kind, State};
use kxl_engine::{Host, RestoreOpts, Started};
use kxl_store::image::Image;
use serde_json::json;

use super::image::Named;
use super::{Exit, START_DEADLINE, console, create, each};
use crate::args::{self, Return};
use crate::{moving, out, report};

/// Makes a domain from a saved state.
pub(crate) fn restore(args: &args::Restore) -> Exit {
    let mut host = Host::open()?;
    let (config, word) = match args.words.as_slice() {
        [file] => (None, file),
        [config, file] => (Some(config), file),
        _ => return Err(Failure::new(Kind::Usage, "restore takes a file, and a configuration")),
    };
    let source = Source::of(&host, word)?;
    let mut opts = RestoreOpts { preserve: args.preserve, ..opts(args.how) };
    if config.is_some() || args.debug {
        let image = source.open(&host)?;
        let saved = &image.facts().config;
        opts.config = config.map(|file| moving::in_place_of(file, saved)).transpose()?;
        if args.debug {
            out::complain(&crate::view::config::render(opts.config.as_ref().unwrap_or(saved)));
        }
    }
    let what = format!("restore {}", word.display());
    let started =
        moving::bring_back(&what, args.how.quiet || args.how.json, |moved| match &source {
            Source::File(path) => host.restore(path, &opts, moved),
            Source::Store(id) => host.restore_image(*id, &opts, moved),
        })?;
    tell(&mut host, &started, args.how)?;
    if args.console {
        console::after_start(&mut host, &started)?;
    }
    if args.foreground {
        create::wait_until_gone(&mut host, &started)?;
    }
    Ok(0)
}

/// What is restored.
enum Source {
    File(PathBuf),
    Store(kxl_domain::ImageId),
}

impl Source {
    /// A file where there is one, else an image in the store.
    fn of(host: &Host, word: &Path) -> Result<Self, Failure> {
        let id = word.to_str().and_then(|text| text.parse().ok());
        match id {
            Some(id) if !word.exists() => {
                // A checkpoint can be come back from again; what a suspended domain is stays its own.
                let _known = super::image::open(host, &Named::Store(id))?;
                Ok(Self::Store(id))
            }
            _ => Ok(Self::File(moving::absolute(word)?)),
        }
    }

    fn open(&self, host: &Host) -> Result<Image, Failure> {
        super::image::open(
            host,
            &match self {
                Self::File(path) => Named::File(path.clone()),
                Self::Store(id) => Named::Store(*id),
            },
        )
    }
}

/// Brings suspended domains back.
pub(crate) fn resume(args: &args::Resume) -> Exit {
    let mut host = Host::open()?;
    Ok(each(&mut host, &args.names, |host, row| {
        let what = format!("resume {}", row.name);
        let started = moving::bring_back(&what, args.how.quiet || args.how.json, |moved| {
            host.resume(row, &opts(args.how), moved)
        })?;
        tell(host, &started, args.how)
    }))
}

/// The engine's words for the options.
pub(crate) fn opts(how: Return) -> RestoreOpts {
    RestoreOpts {
        paused: how.paused,
        eager: how.eager,
        force_disks: how.force_disks,
        deadline: START_DEADLINE,
        ..RestoreOpts::default()
    }
}

/// Tells that a domain came back; paused, if it was paused when it was saved.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn tell(host: &mut Host, started: &Started, how: Return) -> Result<(), Failure> {
    if how.quiet && !how.json {
        return Ok(());
    }
    let state = match host.find(&started.uuid.to_string()) {
        Ok(row) => row.state,
        Err(failure) if failure.kind == Kind::NoSuchDomain => {
            report::note(&format!("domain \"{}\" has ended already", started.name));
            State::Absent
        }
        Err(failure) => return Err(failure),
    };
    if how.json {
        return out::print_json(&json!({
            "name": started.name.as_str(),
            "uuid": started.uuid.to_string(),
            "domid": started.domid.0,
            "state": state.as_str(),
        }));
    }
    out::print(&format!("{}: {state}, domid {}\n", started.name, started.domid))
}
