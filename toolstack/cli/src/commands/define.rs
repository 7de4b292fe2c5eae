//! `kxl new` and `kxl delete`.

use kxl_domain::{Failure, ImageId, Kind};
use kxl_engine::Host;
use kxl_store::ListRow;
use serde_json::json;

use super::Exit;
use super::image::short;
use crate::args::{Delete, New};
use crate::charon::Beside;
use crate::commands::create;
use crate::{out, report, source, vm};

/// Registers a domain.
pub(crate) fn new(args: New) -> Exit {
    let mut words = create::words(args.source)?;
    let beside = Beside {
        emulator: args.emulator,
        description: args.description,
        autostart: args.autostart,
    };
    words.overrides.extend(beside.overrides()?);
    let parsed = source::load(&words)?;
    create::warn(&parsed);
    if args.dry_run {
        create::show(&parsed.config, args.json)?;
        return Ok(0);
    }
    let mut host = Host::open()?;
    let defined = host.define(parsed.config)?;
    if args.json {
        out::print_json(&json!({
            "name": defined.name.as_str(),
            "uuid": defined.uuid.to_string(),
            "replaced": defined.replaced,
        }))?;
    } else if !args.quiet {
        let how = if defined.replaced { "registered anew" } else { "registered" };
        out::print(&format!("{}: {how}, uuid {}\n", defined.name, defined.uuid))?;
    }
    Ok(0)
}

/// Removes registered domains.
pub(crate) fn delete(args: &Delete) -> Exit {
    let mut host = Host::open()?;
    let mut worst = 0;
    for name in &args.names {
        let deleted = match host.find(name) {
            Ok(row) => delete_one(&mut host, &row, args.with_image),
            Err(failure) => Err(told_of_images(&host, name, failure)),
        };
        if let Err(failure) = deleted {
            report::failure(&failure);
            worst = worst.max(failure.kind.exit_code());
        }
    }
    Ok(worst)
}

fn delete_one(host: &mut Host, row: &ListRow, with_image: bool) -> Result<(), Failure> {
    if !row.managed {
        let text = format!("cannot delete domain \"{}\": it is not registered", row.name);
        return Err(Failure::new(Kind::Denied, text)
            .hint(format!("it is gone when it ends; kxl destroy {} ends it", row.name)));
    }
    if with_image {
        host.delete_with_images(row)?;
        vm::forget(host, row.uuid);
        return Ok(());
    }
    host.delete(row)?;
    vm::forget(host, row.uuid);
    let left = host.images_made_of(&row.uuid.to_string())?;
    if !left.is_empty() {
        report::note(&format!("domain \"{}\" is deleted, and {}", row.name, how_to_remove(&left)));
    }
    Ok(())
}

/// A domain that is not there may have left images, under the name of then.
fn told_of_images(host: &Host, name: &str, failure: Failure) -> Failure {
    match host.images_made_of(name) {
        Ok(left) if !left.is_empty() && failure.kind == Kind::NoSuchDomain => {
            failure.hint(how_to_remove(&left))
        }
        _ => failure,
    }
}

fn how_to_remove(images: &[ImageId]) -> String {
    let ids: Vec<_> = images.iter().map(|id| short(*id)).collect();
    let (what, them) = match ids.len() {
        1 => ("an image of it stays".to_owned(), "it"),
        many => (format!("{many} images of it stay"), "them"),
    };
    format!("{what} in the store: kxl image rm {} removes {them}", ids.join(" "))
}
