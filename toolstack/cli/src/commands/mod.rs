//! The verbs of `kxl`, one file each, and what they share.

mod alerts;
mod autostart;
mod completion;
mod console;
pub(crate) mod create;
mod define;
mod events;
mod gate;
pub(crate) mod host;
pub(crate) mod image;
mod import;
mod info;
mod list;
mod names;
mod profile;
mod recover;
mod release;
pub(crate) mod restore;
pub(crate) mod save;
mod service;
mod shell;
mod shutdown;
mod status;
mod wait;
mod why;

use std::ffi::OsString;
use std::time::Duration;

use clap::Parser;
use kxl_domain::{Failure, Kind, Verb};
use kxl_engine::{Conf, Host, Outcome};
use kxl_store::ListRow;

pub(crate) use console::console;
pub(crate) use list::{all as all_rows, config as config_of};
pub(crate) use service::{start, stop};

use crate::args::{Cli, Command, Image, Log};
use crate::gate::{behalf, client};
use crate::{out, report, vm};
use host::args::{HostArgs, HostCommand};

/// How long a command waits for the backend of a domain that it starts; the start goes on after
/// it. Firmware under emulation on a loaded host takes tens of seconds at most.
pub(crate) const START_DEADLINE: Duration = Duration::from_secs(60);

/// How long a verb that acts at once may take: the monitor's own deadlines are shorter.
pub(crate) const VERB_DEADLINE: Duration = Duration::from_secs(30);

/// How long `list` waits for domains that do not answer.
pub(crate) const LOOK_BUDGET: Duration = Duration::from_millis(250);

/// What a command returns: its exit status, or the failure that decides it.
pub(crate) type Exit = Result<u8, Failure>;

/// Runs `kxl` and returns its exit status: 0 when everything was done, else
/// [`Kind::exit_code`] of the failure; of several failures the highest.
///
/// `called` is what stands before the words: a program may be called by a name that is a verb.
pub(crate) fn main(called: &[&str]) -> u8 {
    let admitted = behalf::who().map_or(Ok(()), |who| behalf::admit(&who));
    let line = ["kxl"].iter().chain(called).map(OsString::from).chain(std::env::args_os().skip(1));
    let cli = match admitted.map(|()| Cli::try_parse_from(line)) {
        Ok(Ok(cli)) => cli,
        Ok(Err(error)) => return usage(&error),
        Err(failure) => return told(&failure),
    };
    let elsewhere = (cli.gate || client::is_asked_for()) && behalf::who().is_none();
    let done = match cli.command {
        // What belongs to the caller and not to the host.
        command @ (Command::Shell(_) | Command::Gate(_) | Command::Completion(_)) => run(command),
        _ if elsewhere => words(called).and_then(client::run),
        command => run(command),
    };
    done.unwrap_or_else(|failure| told(&failure))
}

fn told(failure: &Failure) -> u8 {
    report::failure(failure);
    failure.kind.exit_code()
}

/// The words of our command line, from the verb on.
fn words(called: &[&str]) -> Result<Vec<String>, Failure> {
    let own = std::env::args_os().skip(1).skip_while(|word| word == "--gate");
    let words: Result<Vec<String>, _> =
        called.iter().map(OsString::from).chain(own).map(|w| w.into_string()).collect();
    words.map_err(|_| Failure::new(Kind::Usage, "what goes through the gate has to be UTF-8"))
}

/// Carries out a command line that was put together by a command.
pub(crate) fn typed(words: &[&str]) -> Exit {
    match Cli::try_parse_from(["kxl"].iter().chain(words)) {
        Ok(cli) => run(cli.command),
        Err(error) => Ok(usage(&error)),
    }
}

/// Help goes to standard output with status 0, a wrong command line to standard error with 2.
fn usage(error: &clap::Error) -> u8 {
    let text = error.render().to_string();
    if error.use_stderr() {
        let text = text.strip_prefix("error: ").map(|rest| format!("kxl: {rest}")).unwrap_or(text);
        out::complain(&text);
        return Kind::Usage.exit_code();
    }
    match out::print(&text) {
        Ok(()) => 0,
        Err(failure) => {
            report::failure(&failure);
            failure.kind.exit_code()
        }
    }
}

fn run(command: Command) -> Exit {
    look_at_conf(&command)?;
    match command {
        Command::New(args) => define::new(args),
        Command::Delete(args) => define::delete(&args),
        Command::Start(args) => service::start(&args),
        Command::Stop(args) => service::stop(&args),
        Command::Restart(args) => service::restart(&args),
        Command::Status(args) => status::status(&args),
        Command::Create(args) => create::create(args),
        Command::List(args) => list::list(&args),
        Command::Pause(args) => verb(&args.names, Verb::Pause),
        Command::Unpause(args) => verb(&args.names, Verb::Unpause),
        Command::Shutdown(args) => shutdown::end(&args, Verb::Shutdown),
        Command::Reboot(args) => shutdown::end(&args, Verb::Reboot),
        Command::Reset(args) => verb(&args.names, Verb::Reset),
        Command::Destroy(args) => verb(&args.names, Verb::Destroy),
        Command::Save(args) => save::save(&args),
        Command::Restore(args) => restore::restore(&args),
        Command::Suspend(args) => save::suspend(&args),
        Command::Resume(args) => restore::resume(&args),
        Command::Image(args) => image::image(args),
        Command::Console(args) => console::console(&args),
        Command::Domid(args) => names::domid(&args),
        Command::Domname(args) => names::domname(&args),
        Command::Info(args) => info::info(&args),
        Command::Profile(verb) => profile::profile(&verb),
        Command::Events(args) => events::events(&args),
        Command::Log(Log::List(args)) => events::events(&args),
        Command::Alerts(args) => alerts::alerts(&args),
        Command::Wait(args) => wait::wait(&args),
        Command::Why(args) => why::why(&args),
        Command::Recover(args) => recover::recover(&args),
        Command::Completion(args) => completion::completion(args.shell),
        Command::Sleep(args) => verb(&args.names, Verb::Sleep),
        Command::Wake(args) => verb(&args.names, Verb::Wake),
        Command::RunHooks => Ok(crate::hooks::main()),
        Command::DumpCore(_) => not_built("dump-core"),
        Command::Rename(_) => not_built("rename"),
        Command::Migrate(_) => not_built("migrate"),
        Command::Host(args) => host::host(args),
        Command::Autostart(args) => autostart::autostart(&args),
        Command::Import(args) => import::import(&args),
        Command::Vm(args) => vm::vm(args),
        Command::StopScript(verb) => vm::stop_script(&verb),
        Command::Shell(args) => shell::shell(&args),
        Command::Release(args) => release::release(&args),
        Command::Gate(args) => gate::gate(&args),
    }
}

/// A mistake in kxl.conf refuses what makes or starts domains, which would not be what was meant;
/// everything else goes on without it.
fn look_at_conf(command: &Command) -> Result<(), Failure> {
    let Err(failure) = Conf::of_this_host() else { return Ok(()) };
    match command {
        Command::New(_)
        | Command::Create(_)
        | Command::Start(_)
        | Command::Restart(_)
        | Command::Restore(_)
        | Command::Resume(_)
        | Command::Import(_)
        | Command::Host(HostArgs {
            command: HostCommand::Start(_) | HostCommand::Restore(_),
            ..
        })
        | Command::Image(Image::Clone(_)) => return Err(failure),
        // They read it themselves, or need none.
        Command::Gate(_) | Command::Shell(_) | Command::Completion(_) => {}
        _ => report::warning(&format!("{}; nothing in kxl.conf counts until then", failure.text)),
    }
    Ok(())
}

/// The refusal of a command that belongs to the plan and not to this build.
fn not_built(verb: &str) -> Exit {
    Err(Failure::new(Kind::Failed, format!("\"{verb}\" is not built yet")))
}

/// Does something with each named domain; tells each failure and goes on with the others.
/// The status is the worst.
pub(crate) fn each(
    host: &mut Host,
    names: &[String],
    mut act: impl FnMut(&mut Host, &ListRow) -> Result<(), Failure>,
) -> u8 {
    let mut worst = 0;
    for name in names {
        let outcome = host.find(name).and_then(|row| act(host, &row));
        if let Err(failure) = outcome {
            report::failure(&failure);
            worst = worst.max(failure.kind.exit_code());
        }
    }
    worst
}

/// A verb that acts at once, on each of the named domains.
pub(crate) fn verb(names: &[String], verb: Verb) -> Exit {
    let mut host = Host::open()?;
    Ok(each(&mut host, names, |host, row| {
        let outcome = host.verb(row, verb, VERB_DEADLINE, report::note)?;
        already(outcome, row, verb);
        Ok(())
    }))
}

/// Says that nothing was to be done, where that is so.
pub(crate) fn already(outcome: Outcome, row: &ListRow, verb: Verb) {
    if outcome == Outcome::Already {
        let so = match verb {
            Verb::Pause => "paused",
            Verb::Unpause | Verb::Wake => "running",
            Verb::Sleep => "asleep",
            _ => "off",
        };
        report::note(&format!("domain \"{}\" is {so} already", row.name));
    }
}
