//! `kxl host status`.

use kxl_domain::Failure;
use kxl_engine::Host;
use kxl_engine::maintenance::{MaintenanceLock, Member, Scope, Settings, UsedFile, abilities, mib};
use serde_json::json;

use super::args::Status;
use crate::commands::Exit;
use crate::out;
use crate::text::add;

/// Tells what would be saved, what waits to come back, and what starts with the host.
pub(crate) fn status(args: &Status) -> Exit {
    let mut host = Host::open()?;
    let busy = MaintenanceLock::holder(&host.paths);
    let members = host.members(Scope::All, &abilities()?)?;
    let settings = Settings { restoring: true, starting: true, ..Settings::default() };
    let (items, failures) = host.left(&settings)?;
    let used = host.used_files()?;
    let bytes: u64 = members.iter().filter(|one| one.can_save).map(|one| one.touched).sum();
    if args.json {
        out::print_json(&json!({
            "busy": busy.as_ref().map(ToString::to_string),
            "live": members.iter().map(live_json).collect::<Vec<_>>(),
            "bytes": bytes,
            "back": items
                .iter()
                .map(|item| json!({
                    "name": item.name.as_str(), "way": item.way().as_str(), "from": item.from,
                    "paused": item.paused,
                }))
                .collect::<Vec<_>>(),
            "used": used
                .iter()
                .map(|used| json!({
                    "name": used.name.as_str(), "image": used.image.to_string(), "file": used.file,
                }))
                .collect::<Vec<_>>(),
            "failures": failures.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }))?;
        return Ok(u8::from(!failures.is_empty()));
    }
    let mut text = String::new();
    if let Some(failure) = &busy {
        add(&mut text, format_args!("{failure}\n\n"));
    }
    put_live(&mut text, &members, bytes);
    add(&mut text, format_args!("\n{:<20} {:<10} {}\n", "WAITS", "BY", "FROM"));
    for item in &items {
        add(&mut text, format_args!("{:<20} {:<10} {}\n", item.name, item.way(), item.from));
    }
    if items.is_empty() {
        text.push_str("-\n");
    }
    put_used(&mut text, &used);
    out::print(&text)?;
    tell(&failures);
    Ok(u8::from(!failures.is_empty()))
}

fn put_live(text: &mut String, members: &[Member], bytes: u64) {
    add(
        text,
        format_args!(
            "{:<20} {:<8} {:>8} {:>10}  {}\n",
            "LIVE", "STATE", "PRIORITY", "TO SAVE", "AFTER"
        ),
    );
    for one in members {
        let after: Vec<_> = one.after.iter().map(|name| name.as_str()).collect();
        let size = if one.can_save { mib(one.touched) } else { "cannot".into() };
        let line = format!(
            "{:<20} {:<8} {:>8} {size:>10}  {}",
            one.name,
            one.state,
            one.priority,
            after.join(" ")
        );
        add(text, format_args!("{}\n", line.trim_end()));
    }
    if members.is_empty() {
        text.push_str("-\n");
    } else {
        add(text, format_args!("{} in all to save, at most\n", mib(bytes)));
    }
}

/// Files that were brought back from stay until somebody removes them.
fn put_used(text: &mut String, used: &[UsedFile]) {
    if used.is_empty() {
        return;
    }
    add(text, format_args!("\n{:<20} {}\n", "USED UP", "FILE"));
    for one in used {
        add(text, format_args!("{:<20} {}\n", one.name, one.file.display()));
    }
    text.push_str("kxl removes no files: rm them, or the next host save --to writes over them\n");
}

fn live_json(one: &Member) -> serde_json::Value {
    json!({
        "name": one.name.as_str(),
        "state": one.state.as_str(),
        "managed": one.managed,
        "priority": one.priority,
        "after": one.after.iter().map(|name| name.as_str()).collect::<Vec<_>>(),
        "can_save": one.can_save,
        "bytes": one.touched,
    })
}

fn tell(failures: &[Failure]) {
    for failure in failures {
        crate::report::failure(failure);
    }
}
