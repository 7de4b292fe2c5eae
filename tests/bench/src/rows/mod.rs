//! The figures, one file each.

mod create;
mod events;
mod list;
mod live;
mod monitor;
mod state;
mod stopped;
mod supervise;
mod version;
mod vmm;
mod writers;

use crate::error::BenchError;
use crate::host::Lab;
use crate::table::Table;

/// One thing that is measured.
#[derive(Debug)]
pub(crate) struct Row {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// What it is, in a line.
    pub(crate) about: &'static str,
    /// Measures it and adds its lines to the table, or why there are none.
    pub(crate) measure: fn(&Lab, &mut Table) -> Result<(), BenchError>,
}

/// All of them, the cheap ones first.
pub(crate) const ALL: &[Row] = &[
    Row { name: "version", about: "kxl --version beside /bin/true", measure: version::measure },
    Row {
        name: "vmm",
        about: "kxl-vmm alone: start, pause and size with a guest of a few bytes",
        measure: vmm::measure,
    },
    Row {
        name: "vmm-state",
        about: "kxl-vmm alone: restore, live save and clones with a guest of a few bytes",
        measure: vmm::state,
    },
    Row {
        name: "create",
        about: "kxl create beside raw QEMU and virsh start",
        measure: create::measure,
    },
    Row {
        name: "list",
        about: "kxl list of 1,000 and 10,000 managed domains beside virsh list --all",
        measure: list::measure,
    },
    Row { name: "live", about: "kxl list of 1,000 live mock domains", measure: live::measure },
    Row {
        name: "stopped",
        about: "one stopped emulator among 20 live domains",
        measure: stopped::measure,
    },
    Row {
        name: "events",
        about: "from an event to kxl events -f, and what hooks cost",
        measure: events::measure,
    },
    Row {
        name: "supervise",
        about: "1,000 idle supervised programs: start, idle cost, status, restart latency",
        measure: supervise::measure,
    },
    Row {
        name: "monitor",
        about: "memory and wake-ups of the monitor of an idle domain",
        measure: monitor::measure,
    },
    Row {
        name: "suspend",
        about: "suspend and resume of 256 MiB to 2 GiB beside virsh save and restore and the disk",
        measure: state::away,
    },
    Row {
        name: "still",
        about: "stand-still of save -c beside virsh snapshot-create-as --live",
        measure: state::still,
    },
    Row {
        name: "host-save",
        about: "host save of eight domains beside eight suspends",
        measure: state::hosts,
    },
    Row {
        name: "save-mem",
        about: "memory of command and monitor while 2 GiB are saved",
        measure: state::memory,
    },
    Row { name: "verify", about: "image verify beside BLAKE3 alone", measure: state::verify },
    Row { name: "simh", about: "save and restore of old machines", measure: state::simh },
    Row {
        name: "writers",
        about: "1,000 processes that write lifecycle rows at once",
        measure: writers::measure,
    },
];
