//! `kxl save`, `kxl suspend` and `kxl image checkpoint`.

use std::path::Path;

use kxl_control::{After, Save, Saved};
use kxl_domain::image::{ImagePlace, Purpose};
use kxl_domain::{DomainConfig, Failure, Kind, State, Verb};
use kxl_engine::Host;
use kxl_store::ListRow;
use serde_json::{Value, json};

use super::{Exit, each, list};
use crate::view::size;
use crate::{args, moving, out, report};

/// Writes a domain's state to a file.
pub(crate) fn save(args: &args::Save) -> Exit {
    let mut host = Host::open()?;
    let row = host.find(&args.name)?;
    let path = moving::new_file(&args.file, args.force)?;
    let running = running(&mut host, &row)?;
    let other = args.config.as_deref().map(|file| moving::in_place_of(file, &running));
    let other = other.transpose()?;
    let after = match (args.leave_running, args.leave_paused) {
        (true, _) => After::GoOn,
        (false, true) => After::Pause,
        (false, false) => After::End,
    };
    let order = moving::into_file(path.clone(), after, other.as_ref().unwrap_or(&running));
    let order = Save {
        live: args.live || (order.live && !args.still),
        keep_domid: args.keep_domid,
        replace: args.force,
        config: other.map(Box::new),
        ..order
    };
    let quiet = args.quiet || args.json;
    // Only a resting domain can have the state already, and none that rests is "saved".
    let saved = moving::save(&mut host, &row, order, quiet)?.ok_or_else(|| {
        Failure::new(Kind::Internal, format!("domain \"{}\" was not saved", row.name))
    })?;
    if args.json {
        out::print_json(&told(&row, &saved, after, Verb::Save, Some(&path)))?;
    } else if !args.quiet {
        let how = format!("saved to {}", args.file.display());
        out::print(&said(&row, &saved, after, &how))?;
    }
    Ok(0)
}

/// The configuration that a live domain runs with.
///
/// # Errors
/// [`Kind::Denied`] when it is not live.
pub(crate) fn running(host: &mut Host, row: &ListRow) -> Result<DomainConfig, Failure> {
    list::config(host, row.uuid)?.ok_or_else(|| {
        let text = format!("domain \"{}\" has ended meanwhile", row.name);
        Failure::new(Kind::NoSuchDomain, text)
    })
}

/// Puts the state of domains into the store; they end.
pub(crate) fn suspend(args: &args::Suspend) -> Exit {
    let order = Save {
        verb: Verb::Suspend,
        purpose: Purpose::Suspend,
        after: After::End,
        live: !args.still,
        ..into_store()
    };
    keep(&args.names, &order, args.quiet, args.json)
}

/// Keeps the state of domains in the store and lets them go on.
pub(crate) fn checkpoint(names: &[String], quiet: bool, json: bool) -> Exit {
    keep(names, &into_store(), quiet, json)
}

/// An order for a checkpoint in the store.
fn into_store() -> Save {
    Save {
        verb: Verb::Checkpoint,
        place: ImagePlace::Store,
        purpose: Purpose::Checkpoint,
        after: After::GoOn,
        live: true,
        config: None,
        header: None,
        keep_domid: false,
        snapshot: true,
        replace: false,
    }
}

fn keep(names: &[String], order: &Save, quiet: bool, json: bool) -> Exit {
    let mut host = Host::open()?;
    let order = Save { snapshot: order.after == After::GoOn, ..order.clone() };
    let mut values = Vec::new();
    let status = each(&mut host, names, |host, row| {
        match moving::save(host, row, order.clone(), quiet || json)? {
            Some(saved) if json => values.push(told(row, &saved, order.after, order.verb, None)),
            Some(_) if quiet => {}
            Some(saved) => {
                let how = match order.after {
                    After::End => "suspended".to_owned(),
                    After::GoOn | After::Pause => format!("kept as image {}", saved.image),
                };
                out::print(&said(row, &saved, order.after, &how))?;
            }
            None => report::note(&format!("domain \"{}\" is suspended already", row.name)),
        }
        Ok(())
    });
    if json {
        out::print_json(&values)?;
    }
    Ok(status)
}

/// What a person wants to know of an image that was made: how big it is, how long it took, for
/// how long the service was away, and what became of the domain.
fn said(row: &ListRow, saved: &Saved, after: After, how: &str) -> String {
    let size = size::bytes(saved.bytes);
    let (took, still) = (size::time(saved.took_ms), size::time(saved.still_ms));
    let end = match after {
        After::End if row.managed => "",
        After::End => "; the domain has ended",
        After::GoOn => "; it goes on",
        After::Pause => "; it is paused",
    };
    format!("{}: {how}, {size} in {took}; the guest stood still for {still}{end}\n", row.name)
}

fn told(row: &ListRow, saved: &Saved, after: After, verb: Verb, file: Option<&Path>) -> Value {
    let state = match after {
        After::End if verb == Verb::Suspend => State::Suspended,
        After::End if row.managed => State::Halted,
        After::End => State::Absent,
        // A paused domain stays paused.
        After::GoOn => row.state,
        After::Pause => State::Paused,
    };
    json!({
        "name": row.name.as_str(),
        "uuid": row.uuid.to_string(),
        "state": state.as_str(),
        "image": saved.image.to_string(),
        "file": file,
        "bytes": saved.bytes,
        "still_ms": saved.still_ms,
        "took_ms": saved.took_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::table::tests::seen;

    #[test]
    fn one_line_tells_size_time_stand_still_and_what_became_of_the_domain() {
        let row = seen("web", 3, State::Running).row;
        let saved = Saved {
            image: kxl_domain::ImageId::random(),
            bytes: 88_290_099,
            still_ms: 31,
            took_ms: 420,
        };
        assert_eq!(
            said(&row, &saved, After::GoOn, "saved to web.img"),
            "web: saved to web.img, 84.2 MiB in 420 ms; the guest stood still for 31 ms; it goes on\n"
        );
        let value = told(&row, &saved, After::End, Verb::Suspend, None);
        assert_eq!((&value["state"], &value["still_ms"]), (&json!("suspended"), &json!(31)));
        assert_eq!(told(&row, &saved, After::End, Verb::Save, None)["state"], "halted");
    }
}
