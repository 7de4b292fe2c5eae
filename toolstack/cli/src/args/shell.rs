//! `shell` and `release`.

use std::path::PathBuf;

use clap::Args;

/// `shell`.
#[derive(Debug, Args)]
pub(crate) struct ShellArgs {
    /// Read the host's settings from this file instead of kxl.conf
    #[arg(short = 'c', long = "configuration", value_name = "FILE")]
    pub(crate) conf: Option<PathBuf>,
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
