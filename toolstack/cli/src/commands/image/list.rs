//! `kxl image list`.

use kxl_engine::{Host, Images, Owner, StoredImage};
use serde_json::{Value, json};

use super::short;
use crate::commands::Exit;
use crate::text::add;
use crate::view::{size, when};
use crate::{out, report};

/// Lists the images in the store.
pub(super) fn list(as_json: bool) -> Exit {
    let host = Host::open()?;
    let images = host.images()?;
    if as_json {
        out::print_json(&values(&images))?;
    } else {
        out::print(&table(&images))?;
        for (name, bytes) in &images.pinned {
            let size = size::bytes(*bytes);
            report::note(&format!(
                "{size} stay taken until the emulator of domain \"{name}\" ends: it came from an \
                 image that is removed"
            ));
        }
    }
    let mut status = 0;
    for (id, failure) in &images.damaged {
        let mut failure = failure.clone();
        failure.text = format!("image {id}: {}", failure.text);
        report::failure(&failure);
        status = status.max(failure.kind.exit_code());
    }
    Ok(status)
}

fn table(images: &Images) -> String {
    let names = images.images.iter().map(|image| image.listed.facts.name.as_str().len());
    let width = names.max().unwrap_or(0).max(20);
    let mut out = String::new();
    add(
        &mut out,
        format_args!(
            "{:<8}  {:<width$}  {:<11}  {:>10}  {:<19}  {}\n",
            "IMAGE", "DOMAIN", "PURPOSE", "SIZE", "SAVED", "NEEDED BY"
        ),
    );
    for image in &images.images {
        let facts = &image.listed.facts;
        add(
            &mut out,
            format_args!(
                "{:<8}  {:<width$}  {:<11}  {:>10}  {:<19}  {}\n",
                short(facts.id),
                facts.name.as_str(),
                facts.purpose.as_str(),
                size::bytes(image.listed.bytes),
                when::moment(facts.moment.stopped_ms),
                needed(image),
            ),
        );
    }
    out
}

/// Who needs an image, or whether it is an old state.
fn needed(image: &StoredImage) -> String {
    match &image.owner {
        Owner::Suspended(name) => format!("suspended domain \"{name}\""),
        Owner::Live(name) => format!("domain \"{name}\", which runs from it"),
        Owner::Nobody if image.listed.spent.is_some() => {
            "nobody; a guest went on from it (spent)".to_owned()
        }
        Owner::Nobody => "-".to_owned(),
    }
}

fn values(images: &Images) -> Vec<Value> {
    let whole = images.images.iter().map(|image| {
        let facts = &image.listed.facts;
        let (need, by) = match &image.owner {
            Owner::Suspended(name) => (Some("suspended"), Some(name.as_str())),
            Owner::Live(name) => (Some("live"), Some(name.as_str())),
            Owner::Nobody => (None, None),
        };
        json!({
            "image": facts.id.to_string(),
            "name": facts.name.as_str(),
            "uuid": facts.uuid.to_string(),
            "purpose": facts.purpose.as_str(),
            "bytes": image.listed.bytes,
            "stopped_ms": facts.moment.stopped_ms,
            "running": facts.moment.running,
            "spent_ms": image.listed.spent,
            "need": need,
            "needed_by": by,
        })
    });
    let damaged = images
        .damaged
        .iter()
        .map(|(id, failure)| json!({ "image": id.to_string(), "error": failure.to_string() }));
    whole.chain(damaged).collect()
}
