//! `shell`, `release` and `gate`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `shell`.
#[derive(Debug, Args)]
pub(crate) struct ShellArgs {
    /// Read the host's settings from this file instead of kxl.conf
    #[arg(short = 'c', long = "configuration", value_name = "FILE")]
    pub(crate) conf: Option<PathBuf>,
    /// Go through the host's gate with this password, or with -c have it compared with that file's;
    /// others on the host can see it
    #[arg(short, long, value_name = "PASSWORD")]
    pub(crate) password: Option<String>,
    /// The same with the first line of a file
    #[arg(long, value_name = "FILE", conflicts_with = "password")]
    pub(crate) password_file: Option<PathBuf>,
    /// Go through the host's gate; asks for a password if one is wanted
    #[arg(long = "gate", conflicts_with = "conf")]
    pub(crate) through: bool,
    /// An action and its arguments; without them the shell reads them from its standard input
    #[arg(value_name = "ACTION", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) words: Vec<String>,
}

/// `release`.
#[derive(Debug, Args)]
pub(crate) struct Release {
    /// Name, domid or uuid
    #[arg(value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
    pub(crate) names: Vec<String>,
    /// All live domains
    #[arg(short, long)]
    pub(crate) all: bool,
}

/// `gate`.
#[derive(Debug, Args)]
pub(crate) struct Gate {
    /// What to do
    #[command(subcommand)]
    pub(crate) verb: GateVerb,
}

/// What to do with the gate.
#[derive(Debug, Subcommand)]
pub(crate) enum GateVerb {
    /// Let others than root use some commands
    Serve {
        /// Stay in the foreground
        #[arg(long)]
        foreground: bool,
    },
    /// Read a new password and print its line for kxl.conf
    Password,
}
