//! The verbs of supervision.

use clap::Args;

/// `start`.
#[derive(Debug, Args)]
pub(crate) struct Start {
    /// Names or uuids of managed domains, or "all"
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Leave them paused
    #[arg(short, long)]
    pub(crate) paused: bool,
    /// Attach to the console (one domain only)
    #[arg(short, long)]
    pub(crate) console: bool,
    /// Do not wait until supervised domains are RUNNING
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Print nothing on success
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `stop`.
#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// Names, domids or uuids, or "all": every managed domain
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Print nothing on success
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// `restart`.
#[derive(Debug, Args)]
pub(crate) struct Restart {
    /// Names or uuids of managed domains, or "all"
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Do not wait until supervised domains are RUNNING
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Print nothing on success
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// `status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Names, domids or uuids, or "all": every managed domain
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
