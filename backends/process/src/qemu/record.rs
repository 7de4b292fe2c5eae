//! What a later monitor has to know of an emulator.

use std::net::TcpListener;

use kxl_backend::{Attachments, LaunchSpec, Result};

use super::args::Plan;
use super::binary::Emulator;
use super::family::Family;
use super::{machine, wanted_taps};

/// Key of the log's length at the start among [`Attachments::notes`].
pub(super) const LOG_OFFSET: &str = "log-offset";

/// What is written down of an emulator at its start.
pub(super) fn attachments(
    family: &dyn Family,
    spec: &LaunchSpec,
    emulator: &Emulator,
    plan: &Plan,
    log_offset: u64,
) -> Result<Attachments> {
    let taps = wanted_taps(spec).unwrap_or_default();
    let mut attachments = Attachments {
        emulator: format!("{} {} {}", family.name(), emulator.path.display(), emulator.version),
        machine: Some(plan.machine.clone()),
        cpu: Some(plan.cpu.clone()),
        pty_fd: None,
        taps: taps.into_iter().map(|tap| tap.name).collect(),
        vnc: family.screen(&spec.config).then(|| likely_display(spec)),
        notes: std::collections::BTreeMap::new(),
    };
    attachments.notes.insert(LOG_OFFSET.into(), log_offset.to_string());
    machine::note(family, &mut attachments, spec, plan)?;
    Ok(attachments)
}

/// The display that QEMU is going to find free, for the record that is written before it looks.
/// Should another program be faster, a note tells the right one.
fn likely_display(spec: &LaunchSpec) -> String {
    let display = &spec.config.display;
    let listen = display.vnclisten.as_deref().unwrap_or("127.0.0.1");
    let first = display.vncdisplay.unwrap_or(0);
    let last = if display.vncunused.unwrap_or(true) { first.saturating_add(99) } else { first };
    let free = (first..=last).find(|number| {
        let port = u16::try_from(number.saturating_add(5900)).unwrap_or(u16::MAX);
        TcpListener::bind((listen, port)).is_ok()
    });
    format!("{listen}:{}", free.unwrap_or(first))
}
