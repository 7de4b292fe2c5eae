//! `kxl host restore` and `kxl host start`.

use std::path::PathBuf;
use std::time::Duration;

use kxl_domain::{Failure, Kind};
use kxl_engine::Host;
use kxl_engine::maintenance::{Auto, Item, MaintenanceLock, Settings, desk, waves};
use serde_json::json;

use super::args::{Back, Restore, Start};
use super::progress::{Progress, event};
use super::{interrupts, summary};
use crate::commands::Exit;
use crate::systemd::Manager;
use crate::text::add;
use crate::{out, report};

/// How long the service manager waits for one that comes back slowly.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to fill the host with.
#[derive(Clone, Debug, Default)]
pub(crate) struct What {
    /// Only these.
    pub(crate) names: Vec<String>,
    /// Bring back what maintenance took away.
    pub(crate) restoring: bool,
    /// Start what starts with the host.
    pub(crate) starting: bool,
    /// Also what was started in this boot before.
    pub(crate) again: bool,
    /// Where the configurations are that start with the host.
    pub(crate) auto: Auto,
    /// Look for images here as well.
    pub(crate) from: Option<PathBuf>,
    /// How many at once.
    pub(crate) jobs: u32,
    /// Verify images first.
    pub(crate) eager: bool,
    /// Only tell.
    pub(crate) dry_run: bool,
    /// Print nothing but failures.
    pub(crate) quiet: bool,
    /// Print JSON.
    pub(crate) json: bool,
}

impl What {
    fn of(args: &Back) -> Self {
        Self {
            restoring: true,
            from: args.from.clone(),
            jobs: args.jobs,
            eager: args.eager,
            dry_run: args.dry_run,
            quiet: args.quiet,
            json: args.json,
            ..Self::default()
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            names: self.names.clone(),
            from: self.from.clone(),
            restoring: self.restoring,
            starting: self.starting,
            again: self.again,
            auto: self.auto.clone(),
            eager: self.eager,
            jobs: usize::try_from(self.jobs).unwrap_or(1),
        }
    }
}

/// Brings back what maintenance took away.
pub(crate) fn restore(args: &Restore) -> Exit {
    fill(&What { names: args.names.clone(), ..What::of(&args.back) })
}

/// The same, and then what starts with the host.
pub(crate) fn start(args: &Start) -> Exit {
    fill(&What { starting: true, ..What::of(&args.back) })
}

/// Fills the host.
///
/// # Errors
/// When nothing was begun.
pub(crate) fn fill(what: &What) -> Exit {
    let mut host = Host::open()?;
    let _lock = if what.dry_run { None } else { Some(MaintenanceLock::take(&host.paths)?) };
    let mut failed = 0;
    if !what.dry_run {
        for one in host.recover()? {
            if let Err(failure) = one.outcome {
                report::failure(&failure);
                failed += 1;
            }
        }
    }
    let settings = what.settings();
    let (items, failures) = host.left(&settings)?;
    for failure in &failures {
        report::failure(failure);
        failed += 1;
    }
    let waves = in_waves(&items);
    if what.dry_run {
        show(&items, &waves, what.json)?;
        return Ok(u8::from(failed > 0));
    }
    if items.is_empty() && !what.json && !what.quiet {
        report::note("there is nothing to bring back");
    }
    let names: Vec<_> = items.iter().map(|item| item.name.to_string()).collect();
    let (desk, remote) = desk();
    interrupts(remote);
    let mut progress = Progress::new(names.clone(), 0, what.quiet, what.json);
    let mut manager = Manager::new(PATIENCE);
    let courses = host.fill(&items, &waves, &settings, &desk, &mut |news| {
        if let Some(manager) = &mut manager {
            manager.tell(&news);
        }
        progress.tell(&news);
    });
    progress.close();
    let courses = courses?;
    if what.json {
        event(&summary::table_json(&names, &courses, &[]));
    } else if !what.quiet && !items.is_empty() {
        out::print(&summary::table(&names, &courses, &[]))?;
    }
    Ok(u8::from(failed + summary::attention(&courses, &[]) > 0))
}

/// Tells what is not there that should be; status 1 if anything is.
///
/// # Errors
/// When the records cannot be read.
pub(crate) fn waiting(what: &What) -> Exit {
    let mut host = Host::open()?;
    let (items, failures) = host.left(&what.settings())?;
    for failure in &failures {
        report::failure(failure);
    }
    if !items.is_empty() {
        show(&items, &in_waves(&items), false)?;
    }
    Ok(u8::from(!items.is_empty() || !failures.is_empty()))
}

fn in_waves(items: &[Item]) -> Vec<Vec<usize>> {
    let ranks: Vec<_> = items.iter().map(Item::rank).collect();
    match waves(&ranks) {
        Ok(waves) => waves,
        // A host that comes up must not stay empty for that.
        Err(circle) => {
            let failure =
                Failure::because(Kind::Usage, "there is no order for these domains", &circle);
            report::warning(&format!("{failure}; they come back without one"));
            vec![(0..items.len()).collect()]
        }
    }
}

fn show(items: &[Item], waves: &[Vec<usize>], as_json: bool) -> Result<(), Failure> {
    let listed = || {
        waves.iter().enumerate().flat_map(|(at, wave)| wave.iter().map(move |i| (at, &items[*i])))
    };
    if as_json {
        let values: Vec<_> = listed()
            .map(|(wave, item)| {
                json!({
                    "name": item.name.as_str(),
                    "way": item.way().as_str(),
                    "from": item.from,
                    "paused": item.paused,
                    "wave": wave,
                })
            })
            .collect();
        return out::print_json(&values);
    }
    let mut text = format!("{:<20} {:<10} {}\n", "NAME", "PLAN", "FROM");
    for (_, item) in listed() {
        let paused = if item.paused { " (paused)" } else { "" };
        add(
            &mut text,
            format_args!("{:<20} {:<10} {}{paused}\n", item.name, item.way(), item.from),
        );
    }
    out::print(&text)
}
