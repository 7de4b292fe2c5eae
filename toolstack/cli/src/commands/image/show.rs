//! `kxl image show`.

use kxl_domain::Failure;
use kxl_domain::image::DiskIdentity;
use kxl_engine::Host;
use kxl_store::image::{self, Image};
use serde_json::{Value, json};

use super::{Named, bytes, named, open};
use crate::commands::Exit;
use crate::out;
use crate::text::add;
use crate::view::{size, when};

/// Shows what an image holds.
pub(super) fn show(word: &str, as_json: bool) -> Exit {
    let mut host = Host::open()?;
    let which = named(&mut host, word)?;
    let image = open(&host, &which)?;
    let spent = spent(&host, &which, &image)?;
    let bytes = bytes(&image)?;
    if as_json {
        out::print_json(&value(&image, &which, bytes, spent))?;
    } else {
        out::print(&lines(&image, &which, bytes, spent))?;
    }
    Ok(0)
}

/// When a guest went on from it; milliseconds since 1970. Of a file the register knows that.
pub(crate) fn spent(host: &Host, which: &Named, image: &Image) -> Result<Option<i64>, Failure> {
    let spent = match which {
        Named::Store(_) => image.spent(),
        Named::File(_) => host.store.file_spent(image.facts().id),
    };
    spent.map_err(|error| {
        Failure::because(error.kind(), "cannot tell whether a guest went on from it", &error)
    })
}

fn lines(image: &Image, which: &Named, bytes: u64, spent: Option<i64>) -> String {
    let facts = image.facts();
    let mut out = String::new();
    let mut put = |label: &str, text: &str| add(&mut out, format_args!("{label:<12} {text}\n"));
    put("image", &facts.id.to_string());
    if let Named::File(path) = which {
        put("file", &path.display().to_string());
    }
    put("domain", &format!("{} ({})", facts.name, facts.uuid));
    put("purpose", facts.purpose.as_str());
    let state = if facts.moment.running { "running" } else { "paused" };
    put("saved", &format!("{}, {state}", when::moment(facts.moment.stopped_ms)));
    put("size", &size::bytes(bytes));
    if let Some(memory) = image.memory() {
        put("memory", &size::bytes(memory.size));
    }
    let machine = &facts.machine;
    let version = format!("{} {}", machine.emulator, machine.version);
    let parts = [version.trim(), &machine.machine, &machine.cpu, &machine.accel];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    put("machine", &parts.join(", "));
    put("backend", &machine.backend);
    for disk in &facts.disks {
        let change = match image::changed(disk) {
            Ok(None) => "as it was".to_owned(),
            Ok(Some(change)) => change,
            Err(error) => error.to_string(),
        };
        put(&format!("disk {}", disk.vdev), &format!("{} ({change})", disk.path.display()));
        if let Some(snapshot) = &disk.snapshot {
            put("", &format!("snapshot {snapshot}"));
        }
    }
    if let Some(ms) = spent {
        put("spent", &format!("a guest went on from it on {}", when::moment(ms)));
    }
    out
}

fn value(image: &Image, which: &Named, bytes: u64, spent: Option<i64>) -> Value {
    let facts = image.facts();
    let file = match which {
        Named::File(path) => Some(path),
        Named::Store(_) => None,
    };
    json!({
        "image": facts.id.to_string(),
        "file": file,
        "name": facts.name.as_str(),
        "uuid": facts.uuid.to_string(),
        "purpose": facts.purpose.as_str(),
        "created_ms": facts.created_ms,
        "stopped_ms": facts.moment.stopped_ms,
        "running": facts.moment.running,
        "bytes": bytes,
        "memory_bytes": image.memory().map(|memory| memory.size),
        "machine": facts.machine,
        "disks": facts.disks.iter().map(disk).collect::<Vec<_>>(),
        "config": facts.config,
        "spent_ms": spent,
    })
}

fn disk(disk: &DiskIdentity) -> Value {
    let changed = image::changed(disk).unwrap_or_else(|error| Some(error.to_string()));
    json!({
        "vdev": disk.vdev,
        "path": disk.path,
        "format": disk.format.as_str(),
        "writable": disk.writable,
        "size": disk.size,
        "snapshot": disk.snapshot,
        "changed": changed,
    })
}
