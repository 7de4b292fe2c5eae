//! `kxl host save` and `kxl host shutdown`.

use std::path::PathBuf;
use std::time::Instant;

use kxl_domain::{Failure, Kind};
use kxl_engine::Host;
use kxl_engine::maintenance::{
    MaintenanceLock, Member, Order, Plan, Request, Scope, Stopping, Way, abilities, desk, disk,
    plan,
};

use super::args::{Common, Save, Shutdown};
use super::progress::{Progress, event};
use super::{interrupts, summary};
use crate::commands::Exit;
use crate::systemd::Manager;
use crate::{out, report};

/// Guests of which so many wait for each other's disk at once gain nothing.
const ONE: usize = 1;

/// Saves all, or what the policy allows instead.
pub(crate) fn save(args: Save) -> Exit {
    let to = match args.to {
        Some(directory) => Some(std::path::absolute(&directory).map_err(|error| {
            Failure::because(Kind::Failed, "there is no current directory", &error)
        })?),
        None => None,
    };
    let jobs = usize::try_from(args.jobs).unwrap_or(ONE);
    empty(&args.common, to, args.policy.0, jobs)
}

/// Shuts all down.
pub(crate) fn shutdown(args: &Shutdown) -> Exit {
    let mut policy = vec![Way::Shutdown];
    if args.destroy {
        policy.push(Way::Destroy);
    }
    empty(&args.common, None, policy, ONE)
}

/// Empties the host, or what `args` names of it.
///
/// # Errors
/// When nothing was begun.
pub(crate) fn empty(args: &Common, to: Option<PathBuf>, policy: Vec<Way>, jobs: usize) -> Exit {
    let began = Instant::now();
    let mut host = Host::open()?;
    // Held from before the look at the host to the end: two of these would plan for one space.
    let _lock = if args.dry_run { None } else { Some(MaintenanceLock::take(&host.paths)?) };
    if !args.dry_run {
        settle(&mut host)?;
    }
    let (members, plan) = planned(&mut host, args, to.as_ref(), policy, began)?;
    if args.dry_run {
        show(&plan, &args.order, args.json)?;
        return Ok(u8::from(plan.tasks.iter().any(|task| task.stuck)));
    }
    if args.json {
        event(&summary::plan_json(&plan));
    } else if !args.quiet && plan.bytes > 0 {
        report::note(&format!(
            "saving about {} takes about {:.0} s",
            kxl_engine::maintenance::mib(plan.bytes),
            plan.seconds.ceil()
        ));
    }
    let how = Stopping {
        to,
        jobs,
        patience: args.patience,
        until: args.deadline.and_then(|deadline| began.checked_add(deadline)),
        header: crate::moving::header_of,
    };
    let names: Vec<_> = members.iter().map(|member| member.name.to_string()).collect();
    let (desk, remote) = desk();
    interrupts(remote);
    let mut progress = Progress::new(names.clone(), plan.bytes, args.quiet, args.json);
    let scripts = members.iter().filter_map(|member| member.script_time).max();
    let mut manager = Manager::new(args.patience.max(scripts.unwrap_or_default()));
    let courses = host.empty(&members, &plan, &how, &desk, &mut |news| {
        if let Some(manager) = &mut manager {
            manager.tell(&news);
        }
        progress.tell(&news);
    });
    progress.close();
    let courses = courses?;
    if args.json {
        event(&summary::table_json(&names, &courses, &plan.tasks));
    } else if !args.quiet {
        out::print(&summary::table(&names, &courses, &plan.tasks))?;
    }
    Ok(u8::from(summary::attention(&courses, &plan.tasks) > 0))
}

/// Domains whose monitor has died are adopted or settled first: what an interrupted host save has
/// left is then what the records say.
fn settle(host: &mut Host) -> Result<(), Failure> {
    for one in host.recover()? {
        if let Err(failure) = one.outcome {
            report::failure(&failure);
        }
    }
    Ok(())
}

fn planned(
    host: &mut Host,
    args: &Common,
    to: Option<&PathBuf>,
    policy: Vec<Way>,
    began: Instant,
) -> Result<(Vec<Member>, Plan), Failure> {
    let scope = match (args.managed, args.names.is_empty()) {
        (true, _) => Scope::Managed,
        (false, true) => Scope::All,
        (false, false) => Scope::Named(&args.names),
    };
    let members = host.members(scope, &abilities()?)?;
    let store = host.paths.image_store();
    let saves = policy.contains(&Way::Save) && !members.is_empty();
    let place = to.unwrap_or(&store);
    let disk = if saves { disk(place)? } else { kxl_engine::maintenance::Disk::unused(place) };
    let request = Request {
        policy,
        deadline: args.deadline.map(|deadline| deadline.saturating_sub(began.elapsed())),
        patience: args.patience,
        order: args.order.clone(),
    };
    let plan = plan(&members, disk, &request).map_err(|circle| {
        Failure::because(Kind::Usage, "there is no order for these domains", &circle)
            .hint("change after= of one of them, or use --order none")
    })?;
    Ok((members, plan))
}

fn show(plan: &Plan, order: &Order, as_json: bool) -> Result<(), Failure> {
    if as_json {
        out::print_json(&summary::plan_json(plan))
    } else {
        out::print(&summary::plan(plan, order))
    }
}
