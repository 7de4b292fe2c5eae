//! The command line of `kxl host` and `kxl autostart`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use kxl_engine::maintenance::{Order, Way};

/// `host`.
#[derive(Debug, Args)]
pub(crate) struct HostArgs {
    /// What to do with the host's domains.
    #[command(subcommand)]
    pub(crate) command: HostCommand,
}

/// The verbs of `host`.
#[derive(Debug, Subcommand)]
pub(crate) enum HostCommand {
    /// Put the state of all live domains into images, for a reboot of the host
    Save(Save),
    /// Bring back what host save and host shutdown took away
    Restore(Restore),
    /// Shut all live domains down
    Shutdown(Shutdown),
    /// Bring back what was there, then start what starts with the host
    Start(Start),
    /// Tell what would be saved, what waits to come back, what starts with the host
    Status(Status),
}

/// What emptying by saves and by shutdowns have in common.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Only these domains
    #[arg(value_name = "NAME", conflicts_with = "managed")]
    pub(crate) names: Vec<String>,
    /// Only managed domains
    #[arg(long)]
    pub(crate) managed: bool,
    /// When all has to be over: seconds, or 90s, 5m, 1h
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) deadline: Option<Duration>,
    /// How long a guest may take to switch itself off
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "60s")]
    pub(crate) patience: Duration,
    /// In which order: priority, none, or the names to begin with
    #[arg(long, value_name = "ORDER", value_parser = order, default_value = "priority")]
    pub(crate) order: Order,
    /// Tell what would be done and touch nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Print nothing but failures
    #[arg(short, long, conflicts_with = "json")]
    pub(crate) quiet: bool,
    /// Print JSON, one event a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// `host save`.
#[derive(Debug, Args)]
pub(crate) struct Save {
    /// Which, when and how.
    #[command(flatten)]
    pub(crate) common: Common,
    /// Write the images to files in this directory instead of the store
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Option<PathBuf>,
    /// What is tried for each domain, in this order: save, shutdown, destroy
    #[arg(long, value_name = "WAYS", value_parser = policy, default_value = "save,shutdown")]
    pub(crate) policy: Policy,
    /// How many saves go on at once
    #[arg(long, value_name = "N", value_parser = jobs, default_value_t = SAVES)]
    pub(crate) jobs: u32,
}

/// `host shutdown`.
#[derive(Debug, Args)]
pub(crate) struct Shutdown {
    /// Which, when and how.
    #[command(flatten)]
    pub(crate) common: Common,
    /// Take the power away from what does not obey
    #[arg(long)]
    pub(crate) destroy: bool,
}

/// What bringing back and starting have in common.
#[derive(Debug, Args)]
pub(crate) struct Back {
    /// Look for image files in this directory as well
    #[arg(long, value_name = "DIR")]
    pub(crate) from: Option<PathBuf>,
    /// How many domains come back at once
    #[arg(long, value_name = "N", value_parser = jobs, default_value_t = STARTS)]
    pub(crate) jobs: u32,
    /// Verify all of each image before its guest runs
    #[arg(long)]
    pub(crate) eager: bool,
    /// Tell what would be done and touch nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Print nothing but failures
    #[arg(short, long, conflicts_with = "json")]
    pub(crate) quiet: bool,
    /// Print JSON, one event a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// `host restore`.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// Only these domains
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// How.
    #[command(flatten)]
    pub(crate) back: Back,
}

/// `host start`.
#[derive(Debug, Args)]
pub(crate) struct Start {
    /// How.
    #[command(flatten)]
    pub(crate) back: Back,
}

/// `host status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `autostart`.
#[derive(Debug, Args)]
pub(crate) struct Autostart {
    /// Name or uuid of a managed domain; none lists them all
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Whether it starts with the host; without it, tell
    pub(crate) switch: Option<Switch>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// It is started with the host
    On,
    /// It is not
    Off,
}

/// Saves at once where nobody says otherwise; measured, see toolstack/decisions.md.
pub(crate) const SAVES: u32 = 3;

/// Domains that come back at once where nobody says otherwise.
pub(crate) const STARTS: u32 = 4;

/// The ways of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy(pub(crate) Vec<Way>);

fn policy(text: &str) -> Result<Policy, String> {
    let mut ways = Vec::new();
    for word in text.split(',') {
        let way = Way::POLICY.iter().find(|way| way.as_str() == word.trim());
        let way = way.ok_or_else(|| format!("\"{word}\" is none of save, shutdown, destroy"))?;
        if ways.last().is_some_and(|last: &Way| *last as u8 >= *way as u8) {
            return Err("the ways come in the order save, shutdown, destroy".to_owned());
        }
        ways.push(*way);
    }
    Ok(Policy(ways))
}

fn order(text: &str) -> Result<Order, String> {
    match text {
        "priority" => Ok(Order::Priority),
        "none" => Ok(Order::None),
        names => {
            let names: Result<Vec<_>, _> =
                names.split(',').map(|name| name.trim().parse()).collect();
            names.map(Order::First).map_err(|error| error.to_string())
        }
    }
}

fn jobs(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|n| (1..=64).contains(n)).ok_or_else(|| "1 to 64".to_owned())
}

/// A length of time: seconds, or a number with s, m or h.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let wrong = || "a number of seconds, or 90s, 5m, 1h".to_owned();
    let (number, unit) = match text.char_indices().next_back() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3600),
        _ => (text, 1),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number
        .checked_mul(unit)
        .filter(|s| (1..=86_400 * 365).contains(s))
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_bounds() {
        assert_eq!(time("90"), Ok(Duration::from_secs(90)));
        assert_eq!(time("2m"), Ok(Duration::from_secs(120)));
        for text in ["", "s", "-1", "0", "1.5s", "5d", "99999999999h"] {
            time(text).unwrap_err();
        }
    }

    #[test]
    fn a_policy_goes_from_gentle_to_harsh() {
        assert_eq!(policy("save, destroy"), Ok(Policy(vec![Way::Save, Way::Destroy])));
        for text in ["", "destroy,save", "save,save", "restore"] {
            policy(text).unwrap_err();
        }
    }

    #[test]
    fn an_order_is_a_word_or_names() {
        assert_eq!(order("none"), Ok(Order::None));
        assert!(matches!(order("db,web"), Ok(Order::First(names)) if names.len() == 2));
        order("a b").unwrap_err();
    }
}
