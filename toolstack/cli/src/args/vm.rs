//! `vm` and `stop-script`.

use clap::{Args, Subcommand};

use crate::terminal::escape;

/// `vm`: without a verb it is a menu.
#[derive(Debug, Args)]
pub(crate) struct Vm {
    /// What to do; nothing shows a menu
    #[command(subcommand)]
    pub(crate) verb: Option<VmVerb>,
}

/// What to do with the emulators of a host; each is a command of its own, too.
#[derive(Debug, Subcommand)]
pub(crate) enum VmVerb {
    /// List the emulators of this host (vmlist)
    List(VmList),
    /// Start one, and let the other commands mean it (vmstart)
    Start(VmStart),
    /// Shut guests down, and take the power away where that fails (vmstop)
    Stop(VmStop),
    /// Edit the emulator's configuration, or print it (vmcfg)
    Cfg(VmCfg),
    /// Attach to the console (vmconsole)
    Console(VmConsole),
}

/// `vm list`.
#[derive(Debug, Args)]
pub(crate) struct VmList {
    /// Names of domains, all about which is told; none for the table of all
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Tell all about every one
    #[arg(short, long)]
    pub(crate) long: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `vm start`.
#[derive(Debug, Args)]
pub(crate) struct VmStart {
    /// Names of domains; a single one is the one that the other commands mean from then on
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Attach to the console (one domain only)
    #[arg(short, long)]
    pub(crate) console: bool,
    /// Print nothing on success
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// `vm stop`.
#[derive(Debug, Args)]
pub(crate) struct VmStop {
    /// Names of domains; none for the one of vmstart
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Print nothing on success
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// `vm cfg`.
#[derive(Debug, Args)]
pub(crate) struct VmCfg {
    /// Name of a domain; none for the one of vmstart
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Print the configuration instead of editing it
    #[arg(long)]
    pub(crate) show: bool,
}

/// `vm console`.
#[derive(Debug, Args)]
pub(crate) struct VmConsole {
    /// Name of a domain; none for the one of vmstart
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Character that leaves: one character, or ^ and one
    #[arg(short, long, value_name = "CHAR", default_value = "^]", value_parser = escape::parse)]
    pub(crate) escape: u8,
    /// Take over from the console that is writing
    #[arg(long)]
    pub(crate) steal: bool,
}

/// `stop-script`: the common one of the host.
#[derive(Debug, Subcommand)]
pub(crate) enum StopScriptVerb {
    /// Make it, or add a case for each domain that has none
    Create(StopScriptArgs),
    /// Edit it, and check it then
    Edit(StopScriptArgs),
    /// Tell how far it has got for each domain
    Check(StopScriptCheck),
}

/// `stop-script create` and `edit`.
#[derive(Debug, Args)]
pub(crate) struct StopScriptArgs {
    /// Print nothing on success
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// `stop-script check`.
#[derive(Debug, Args)]
pub(crate) struct StopScriptCheck {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
