//! The command line of `kxl`. One line of help each; the manual page has the prose.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use kxl_domain::State;

pub(crate) use self::events::{Alerts, AlertsVerb, Events, Goal, Log, Wait};
pub(crate) use self::import::Import;
pub(crate) use self::service::{Restart, Start, Status, Stop};
pub(crate) use self::shell::{Gate, GateVerb, Release, ShellArgs};
pub(crate) use self::state::{Clone, Disks, Image, Restore, Resume, Return, Save, Suspend};
pub(crate) use self::vm::{StopScriptVerb, Vm, VmCfg, VmConsole, VmList, VmStart, VmStop, VmVerb};
use crate::commands::host::args::{Autostart, HostArgs};
use crate::terminal::escape;

mod events;
mod import;
mod service;
mod shell;
mod state;
mod vm;

/// Manages domains over KVM, QEMU, SIMH and other emulators.
#[derive(Debug, Parser)]
#[command(
    name = "kxl",
    bin_name = "kxl",
    version,
    infer_subcommands = true,
    arg_required_else_help = true,
    disable_help_subcommand = false,
    after_help = "The manual page kxl(1) has the details. Called as xl, xm or xen it behaves as they do."
)]
pub(crate) struct Cli {
    /// Have the command carried out by the host's gate
    #[arg(long)]
    pub(crate) gate: bool,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Register a managed domain without starting it
    New(New),
    /// Remove managed domains from the register; their disks stay
    Delete(Delete),
    /// Start managed domains
    Start(Start),
    /// Ask domains to end, and take the power away from those that do not in time
    Stop(Stop),
    /// Stop managed domains and start them
    Restart(Restart),
    /// Print the state of domains in the words of Supervisor
    Status(Status),
    /// Start a domain that is gone when it ends
    Create(Create),
    /// List domains
    #[command(visible_alias = "ls")]
    List(List),
    /// Stop the virtual CPUs; memory stays resident
    Pause(Names),
    /// Let paused domains go on
    Unpause(Names),
    /// Put guests to sleep in memory, everything written on their disks
    Sleep(Names),
    /// Wake them
    Wake(Names),
    /// Ask guests to switch themselves off
    Shutdown(End),
    /// Ask guests to reboot
    Reboot(End),
    /// Restart domains in place, without asking
    Reset(Names),
    /// Take the power away
    Destroy(Names),
    /// Write a domain's state to a file; the domain ends unless told otherwise
    Save(Save),
    /// Make a domain from a saved state
    Restore(Restore),
    /// Put the state of managed domains into the store; they end
    Suspend(Suspend),
    /// Bring suspended domains back
    Resume(Resume),
    /// Look after saved states
    #[command(subcommand)]
    Image(Image),
    /// Attach to a domain's console, or print its log
    Console(Console),
    /// Print the number of a live domain
    Domid(Domid),
    /// Print the name of a live domain
    Domname(Domname),
    /// Print facts about the host
    Info(Info),
    /// Look after the profiles of emulators
    #[command(subcommand)]
    Profile(ProfileVerb),
    /// Print what happened
    Events(Events),
    /// Print what happened, in other words
    #[command(subcommand)]
    Log(Log),
    /// Print the alerts that nobody has acknowledged, or acknowledge some
    Alerts(Alerts),
    /// Wait until a domain has come to a state
    Wait(Wait),
    /// Tell why a domain is in its state
    Why(Why),
    /// Give live domains whose monitor died a new one
    Recover(Recover),
    /// Print a completion script for a shell
    Completion(Completion),
    /// Tell hooks of what they were not told of yet: kxl-hooks by its other name
    #[command(hide = true, name = kxl_engine::HOOKS_WORD)]
    RunHooks,
    /// Dump a guest's memory
    #[command(hide = true)]
    DumpCore(Rest),
    /// Change a domain's name
    #[command(hide = true)]
    Rename(Rest),
    /// Move a domain to another host
    #[command(hide = true)]
    Migrate(Rest),
    /// Save, restore or stop everything on this host
    Host(HostArgs),
    /// Set or tell which managed domains start with the host
    Autostart(Autostart),
    /// Register the programs of a supervisord.conf as domains
    Import(Import),
    /// Look after the emulators of this host; without a verb by a menu
    Vm(Vm),
    /// Look after the script that shuts the guests of emulators down
    #[command(subcommand)]
    StopScript(StopScriptVerb),
    /// Read commands at a prompt
    Shell(ShellArgs),
    /// End monitors; their domains run on and are adopted by the next command
    Release(Release),
    /// Let others than root control this host's domains
    Gate(Gate),
}

/// Whatever follows a verb that is not built yet.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Rest {
    /// Anything.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) words: Vec<String>,
}

/// One or more domains.
#[derive(Debug, Args)]
pub(crate) struct Names {
    /// Name, domid or uuid
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
}

/// `delete`.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Name or uuid of a managed domain
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Throw the image of a suspended one away as well
    #[arg(long)]
    pub(crate) with_image: bool,
}

/// A configuration: a file and words that override it.
#[derive(Debug, Args)]
pub(crate) struct Source {
    /// Configuration file, and KEY=VALUE words that override it
    #[arg(value_name = "CFG | KEY=VALUE")]
    pub(crate) words: Vec<String>,
    /// Configuration file
    #[arg(short = 'f', long, value_name = "FILE")]
    pub(crate) defconfig: Option<PathBuf>,
}

/// `new`.
#[derive(Debug, Args)]
pub(crate) struct New {
    /// What to register.
    #[command(flatten)]
    pub(crate) source: Source,
    /// The program that runs it; a configuration of Charon needs it
    #[arg(long, value_name = "PATH")]
    pub(crate) emulator: Option<PathBuf>,
    /// One line for people
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// Start it with the host
    #[arg(long)]
    pub(crate) autostart: bool,
    /// Show what would be registered and touch nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Print nothing on success
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `create`.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// What to start.
    #[command(flatten)]
    pub(crate) source: Source,
    /// Leave it paused
    #[arg(short, long)]
    pub(crate) paused: bool,
    /// Attach to the console
    #[arg(short, long)]
    pub(crate) console: bool,
    /// Show the parsed domain and touch nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Print nothing on success
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Return when the domain is gone
    #[arg(short = 'F', long)]
    pub(crate) foreground: bool,
    /// Keep the domain however it ends (every on_* is preserve)
    #[arg(short = 'e', long)]
    pub(crate) preserve: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Name, domid or uuid; none for all
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Print everything there is to know, as JSON
    #[arg(short, long)]
    pub(crate) long: bool,
    /// Add uuid, backend, reason and wish
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Only domains in this state
    #[arg(long, value_name = "STATE", value_parser = state)]
    pub(crate) state: Option<State>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `shutdown` and `reboot`.
#[derive(Debug, Args)]
pub(crate) struct End {
    /// Name, domid or uuid
    #[arg(value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
    pub(crate) names: Vec<String>,
    /// All running domains
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Wait until they have ended (reboot: run again); twice: until the old emulator is gone
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(crate) wait: u8,
    /// Give up waiting after so many seconds (exit status 6)
    #[arg(long, value_name = "SECONDS", requires = "wait")]
    pub(crate) timeout: Option<u64>,
    /// Accepted as in xl: the power button is what is pressed anyway
    #[arg(short = 'F')]
    pub(crate) fallback: bool,
}

/// `console`.
#[derive(Debug, Args)]
pub(crate) struct Console {
    /// Name, domid or uuid
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Character that leaves: one character, or ^ and one
    #[arg(short, long, value_name = "CHAR", default_value = "^]", value_parser = escape::parse)]
    pub(crate) escape: u8,
    /// Print the console's log instead of attaching
    #[arg(long)]
    pub(crate) log: bool,
    /// With --log: only from this start of the guest on: "start", a time (HH:MM, date and time) or an age (10m, 2h, 3d)
    #[arg(long, value_name = "WHEN", requires = "log")]
    pub(crate) since: Option<String>,
    /// With --log: go on printing what is added
    #[arg(long, requires = "log")]
    pub(crate) follow: bool,
    /// Only look
    #[arg(long, conflicts_with_all = ["steal", "log"])]
    pub(crate) read_only: bool,
    /// Take over from the console that is writing
    #[arg(long, conflicts_with = "log")]
    pub(crate) steal: bool,
    /// Show only what is said from now on
    #[arg(long, conflicts_with = "log")]
    pub(crate) no_replay: bool,
}

/// `domid`.
#[derive(Debug, Args)]
pub(crate) struct Domid {
    /// Name or uuid of a live domain
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `domname`.
#[derive(Debug, Args)]
pub(crate) struct Domname {
    /// Number of a live domain
    #[arg(value_name = "DOMID")]
    pub(crate) domid: u32,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `info`.
#[derive(Debug, Args)]
pub(crate) struct Info {
    /// Print only the value of this line
    #[arg(value_name = "KEY", conflicts_with = "backends")]
    pub(crate) key: Option<String>,
    /// Print the backends and what each offers
    #[arg(long)]
    pub(crate) backends: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `profile`.
#[derive(Debug, Subcommand)]
pub(crate) enum ProfileVerb {
    /// Print the profiles and what each offers
    List(ProfileList),
    /// Explain what is wrong with a profile's file
    Check(ProfileCheck),
}

/// `profile list`.
#[derive(Debug, Args)]
pub(crate) struct ProfileList {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `profile check`.
#[derive(Debug, Args)]
pub(crate) struct ProfileCheck {
    /// The file, NAME.toml
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `why`.
#[derive(Debug, Args)]
pub(crate) struct Why {
    /// Name, domid or uuid
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `recover`.
#[derive(Debug, Args)]
pub(crate) struct Recover {
    /// Print nothing about domains that needed nothing
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `completion`.
#[derive(Debug, Args)]
pub(crate) struct Completion {
    /// The shell
    pub(crate) shell: Shell,
}

/// Shells that a completion script can be made for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Shell {
    /// Bash
    Bash,
    /// Zsh
    Zsh,
    /// Fish
    Fish,
    /// Elvish
    Elvish,
}

fn state(text: &str) -> Result<State, String> {
    let found = State::ALL.iter().find(|state| state.as_str().eq_ignore_ascii_case(text));
    found.copied().filter(|state| *state != State::Absent).ok_or_else(|| {
        let states = State::ALL.iter().filter(|state| **state != State::Absent);
        let words: Vec<_> = states.map(|state| state.as_str()).collect();
        format!("the states are {}", words.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    fn refused(line: &str) -> bool {
        parse(line).is_err_and(|error| error.use_stderr())
    }

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn verbs_may_be_cut_short_while_only_one_fits() {
        assert!(
            matches!(parse("kxl unp a b").unwrap().command, Command::Unpause(n) if n.names.len() == 2)
        );
        assert!(refused("kxl s a"), "shutdown, start, save and others begin so");
    }

    #[test]
    fn shutdown_wants_names_or_all_and_never_both() {
        assert!(refused("kxl shutdown"));
        assert!(refused("kxl shutdown -a web"));
        assert!(refused("kxl shutdown --timeout 5 web"), "there is nothing to time");
        let Command::Shutdown(end) = parse("kxl shutdown -ww web").unwrap().command else {
            panic!("another verb");
        };
        assert_eq!((end.wait, end.names.len()), (2, 1));
    }

    #[test]
    fn states_are_named_in_any_case_and_no_other() {
        assert!(!refused("kxl list --state Running"));
        assert!(refused("kxl list --state absent"));
        assert!(refused("kxl list --state dancing"));
    }
}
