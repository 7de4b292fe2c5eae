//! `events`, `log list`, `alerts` and `wait`.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};
use kxl_store::Severity;

/// `events`.
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Name, domid or uuid; none for all
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Go on printing what happens
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Not before: the number of an event, 10m, 2h, 3d, HH:MM, or a date
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<String>,
    /// Not after; written in the same ways
    #[arg(long, value_name = "WHEN", conflicts_with = "follow")]
    pub(crate) until: Option<String>,
    /// What matters at least so much: info, warning, alert
    #[arg(long, value_name = "LEVEL", value_parser = severities())]
    pub(crate) severity: Option<Severity>,
    /// Events of this kind only; may be given several times
    #[arg(long, value_name = "WORD")]
    pub(crate) what: Vec<String>,
    /// The newest so many; 0 for all
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) limit: u32,
    /// Print JSON, one event a line
    #[arg(long)]
    pub(crate) json: bool,
}

fn severities() -> impl TypedValueParser<Value = Severity> {
    PossibleValuesParser::new(Severity::ALL.map(Severity::as_str))
        .map(|word| Severity::parse(&word).unwrap_or(Severity::Info))
}

/// `log`.
#[derive(Debug, Subcommand)]
pub(crate) enum Log {
    /// Print what happened: the same as kxl events
    List(Events),
}

/// `alerts`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Alerts {
    /// Name, domid or uuid; none for all
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Those that somebody has acknowledged, too
    #[arg(long)]
    pub(crate) all: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// What to do with them.
    #[command(subcommand)]
    pub(crate) verb: Option<AlertsVerb>,
}

/// What can be done with alerts.
#[derive(Debug, Subcommand)]
pub(crate) enum AlertsVerb {
    /// Acknowledge alerts: they are open no more
    Ack {
        /// Their numbers, or all
        #[arg(value_name = "ID", required = true)]
        ids: Vec<String>,
    },
}

/// `wait`.
#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// Name, domid or uuid
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// What to wait for
    #[arg(value_name = "STATE")]
    pub(crate) goal: Goal,
    /// Give up after so many seconds, with status 6
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
    /// Wait for a domain that does not exist yet, too
    #[arg(long)]
    pub(crate) create: bool,
}

/// What can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Goal {
    /// It counts as started: by its guest's word or by time, where it is supervised
    Started,
    /// Its guest runs
    Running,
    /// Its processors stand still
    Paused,
    /// Nothing of it runs
    Stopped,
    /// It does not exist
    Gone,
}

impl Goal {
    /// Whether it is one of a domain that runs.
    pub(crate) const fn is_up(self) -> bool {
        matches!(self, Self::Started | Self::Running | Self::Paused)
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Gone => "gone",
        }
    }
}
