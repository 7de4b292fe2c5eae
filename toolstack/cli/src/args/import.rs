//! `import`.

use std::path::PathBuf;

use clap::Args;

/// `import`.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// A supervisord.conf
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Show the domains it would make and touch nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Start those with autostart, too
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) start: bool,
    /// Register domains anew that are there already
    #[arg(long)]
    pub(crate) replace: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
