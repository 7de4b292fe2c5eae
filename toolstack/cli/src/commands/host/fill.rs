//! `kxl host restore` and `kxl host start`.

use kxl_domain::{Failure, Kind};
use kxl_engine::Host;
use kxl_engine::maintenance::{Item, MaintenanceLock, Settings, desk, waves};
use serde_json::json;

use super::args::{Back, Restore, Start};
use super::progress::{Progress, event};
use super::{interrupts, summary};
use crate::commands::Exit;
use crate::text::add;
use crate::{out, report};

/// Brings back what maintenance took away.
pub(crate) fn restore(args: &Restore) -> Exit {
    fill(&args.back, args.names.clone(), false)
}

/// The same, and then what starts with the host.
pub(crate) fn start(args: &Start) -> Exit {
    fill(&args.back, Vec::new(), true)
}

fn fill(args: &Back, names: Vec<String>, starting: bool) -> Exit {
    let mut host = Host::open()?;
    let _lock = if args.dry_run { None } else { Some(MaintenanceLock::take(&host.paths)?) };
    let mut failed = 0;
    if !args.dry_run {
        for one in host.recover()? {
            if let Err(failure) = one.outcome {
                report::failure(&failure);
                failed += 1;
            }
        }
    }
    let settings = Settings {
        names,
        from: args.from.clone(),
        starting,
        eager: args.eager,
        jobs: usize::try_from(args.jobs).unwrap_or(1),
    };
    let (items, failures) = host.left(&settings)?;
    for failure in &failures {
        report::failure(failure);
        failed += 1;
    }
    let waves = in_waves(&items)?;
    if args.dry_run {
        show(&items, &waves, args.json)?;
        return Ok(u8::from(failed > 0));
    }
    if items.is_empty() && !args.json && !args.quiet {
        report::note("there is nothing to bring back");
    }
    let names: Vec<_> = items.iter().map(|item| item.name.to_string()).collect();
    let (desk, remote) = desk();
    interrupts(remote);
    let mut progress = Progress::new(names.clone(), 0, args.quiet, args.json);
    let courses = host.fill(&items, &waves, &settings, &desk, &mut |news| progress.tell(&news));
    progress.close();
    let courses = courses?;
    if args.json {
        event(&summary::table_json(&names, &courses, &[]));
    } else if !args.quiet && !items.is_empty() {
        out::print(&summary::table(&names, &courses, &[]))?;
    }
    Ok(u8::from(failed + summary::attention(&courses, &[]) > 0))
}

fn in_waves(items: &[Item]) -> Result<Vec<Vec<usize>>, Failure> {
    let ranks: Vec<_> = items.iter().map(Item::rank).collect();
    match waves(&ranks) {
        Ok(waves) => Ok(waves),
        // A host that comes up must not stay empty for that.
        Err(circle) => {
            let failure =
                Failure::because(Kind::Usage, "there is no order for these domains", &circle);
            report::warning(&format!("{failure}; they come back without one"));
            Ok(vec![(0..items.len()).collect()])
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
