//! `kxl vm`, and the programs `vmlist`, `vmstart`, `vmstop`, `vmcfg` and `vmconsole`: how an
//! operator of VAX, Alpha and PDP-11 emulators looks after them.
//!
//! They act on the managed domains of the host, whatever their backend. `vmstart` of one domain
//! makes it the one that the others mean when no name is given.

mod block;
mod cfg;
mod console_log;
mod default;
mod guest_status;
mod json;
mod list;
mod menu;
mod roster;
mod screen;
mod stop_script;

use kxl_domain::{DomainConfig, Failure, Kind, State};
use kxl_engine::Host;
use kxl_store::ListRow;

use crate::args::{self, StopScriptVerb, Vm, VmStart, VmStop, VmVerb};
use crate::commands::{self, Exit};
use crate::report;

pub(crate) use default::forget;

/// The programs, and the verb of `kxl vm` that each is.
const PROGRAMS: [(&str, &str); 5] = [
    ("vmlist", "list"),
    ("vmstart", "start"),
    ("vmstop", "stop"),
    ("vmcfg", "cfg"),
    ("vmconsole", "console"),
];

/// The verb that a program's name stands for.
pub(crate) fn verb_of(program: &str) -> Option<&'static str> {
    PROGRAMS.iter().find(|(name, _)| *name == program).map(|(_, verb)| *verb)
}

/// Runs `kxl vm`.
pub(crate) fn vm(args: Vm) -> Exit {
    match args.verb {
        None => menu::menu(),
        Some(VmVerb::List(args)) => list::list(&args),
        Some(VmVerb::Start(args)) => start(args),
        Some(VmVerb::Stop(args)) => stop(&args),
        Some(VmVerb::Cfg(args)) => cfg::cfg(&args),
        Some(VmVerb::Console(args)) => console(args),
    }
}

/// Runs `kxl stop-script`.
pub(crate) fn stop_script(verb: &StopScriptVerb) -> Exit {
    match verb {
        StopScriptVerb::Create(args) => stop_script::create(args.quiet),
        StopScriptVerb::Edit(args) => stop_script::edit(args.quiet),
        StopScriptVerb::Check(args) => stop_script::check(args.json),
    }
}

fn start(args: VmStart) -> Exit {
    let one = match &args.names[..] {
        [name] => Some(name.clone()),
        _ => None,
    };
    // Before the start: a console that is attached with it may last for days.
    let meant = match one {
        Some(name) => mean(&name)?,
        None => None,
    };
    let args::VmStart { names, console, quiet } = args;
    let started = commands::start(&args::Start {
        names,
        paused: false,
        console,
        no_wait: false,
        quiet,
        json: false,
    });
    if let (Some(meant), false) = (meant, matches!(started, Ok(0))) {
        meant.take_back();
    }
    started
}

/// Lets the user mean a registered domain by naming none.
fn mean(name: &str) -> Result<Option<default::Meant>, Failure> {
    let mut host = Host::open()?;
    let row = host.find(name)?;
    if !row.managed {
        return Ok(None);
    }
    Ok(default::set(&mut host, row.uuid)
        .inspect_err(|failure| {
            report::warning(&format!("the other commands will need a name: {failure}"));
        })
        .ok())
}

fn stop(args: &VmStop) -> Exit {
    let mut host = Host::open()?;
    let names = if args.names.is_empty() {
        vec![default::named(&mut host)?.name.to_string()]
    } else {
        args.names.clone()
    };
    for name in &names {
        // What is wrong with a name is told by the stop itself.
        let Ok(row) = host.find(name) else { continue };
        if row.domid.is_some() {
            stop_script::warn_of_power_off(&mut host, &row);
        }
    }
    drop(host);
    commands::stop(&args::Stop { names, quiet: args.quiet })
}

fn console(args: args::VmConsole) -> Exit {
    let name = match args.name {
        Some(name) => name,
        None => default::named(&mut Host::open()?)?.name.to_string(),
    };
    let args::VmConsole { escape, steal, .. } = args;
    commands::console(&args::Console {
        name,
        escape,
        log: false,
        since: None,
        follow: false,
        read_only: false,
        steal,
        no_replay: false,
    })
}

/// The domain that is named, or the one of vmstart.
fn chosen(host: &mut Host, name: Option<&str>) -> Result<ListRow, Failure> {
    match name {
        Some(name) => host.find(name),
        None => default::named(host),
    }
}

/// The file that a domain's emulator is set up by.
fn own_file(config: &DomainConfig) -> Option<&std::path::Path> {
    config.emulator_config.as_deref().or(config.ini.as_deref())
}

/// The configuration of a managed domain.
fn config_of(host: &mut Host, row: &ListRow) -> Result<DomainConfig, Failure> {
    commands::config_of(host, row.uuid)?.ok_or_else(|| {
        Failure::new(Kind::NoSuchDomain, format!("there is no domain \"{}\" any more", row.name))
    })
}

/// Whether a domain rests and can be started.
fn rests(row: &ListRow) -> bool {
    row.domid.is_none() && row.state != State::Suspended
}
