//! What a save costs in memory.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use super::{Size, Subject, guest};
use crate::error::BenchError;
use crate::figure::{Figure, Goal, Series, Unit};
use crate::host::Lab;
use crate::table::Table;

/// The kernel keeps the peak; it is read until the process is gone.
const GLANCE: Duration = Duration::from_millis(2);

/// Peak resident memory of the command and of the monitor during a suspend of 2 GiB.
pub(crate) fn measure(lab: &Lab, table: &mut Table) -> Result<(), BenchError> {
    let Some(guest) = guest(lab, table, "memory of a save")? else { return Ok(()) };
    let host = lab.host("memory")?;
    let subject = Subject::linux(&host, &guest, 1, Size::LARGE)?;
    let [mut command, mut monitor, mut private, mut sum] =
        std::array::from_fn(|_| Series::new(Unit::Mib));
    for _ in 0..lab.rounds.of(3, 1) {
        subject.counts()?;
        let pid = subject.monitor()?;
        // From here on the monitor's peak is counted anew.
        let file = format!("/proc/{pid}/clear_refs");
        fs::write(&file, "5").map_err(BenchError::io(format!("write {file}")))?;
        let mut suspend = host.command(["suspend", "-q", &subject.name]);
        let child = suspend.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let mut child = child.map_err(BenchError::io("run kxl suspend"))?;
        let own = child.id().cast_signed();
        let (mut peaks, mut dirty) = ([0.0_f64; 2], 0.0_f64);
        let status = loop {
            for (peak, pid) in peaks.iter_mut().zip([own, pid]) {
                *peak = peak.max(field(pid, "status", "VmHWM:").unwrap_or_default());
            }
            dirty = dirty.max(field(pid, "status", "RssAnon:").unwrap_or_default());
            if let Some(status) = child.try_wait().map_err(BenchError::io("wait for kxl"))? {
                break status;
            }
            std::thread::sleep(GLANCE);
        };
        if !status.success() {
            return Err(BenchError::wrong(format!("kxl suspend: {status}")));
        }
        command.push(peaks[0]);
        monitor.push(peaks[1]);
        private.push(dirty);
        sum.push(peaks[0] + peaks[1]);
        host.kxl(["resume", "-q", &subject.name])?;
        subject.alone()?;
    }
    let what = format!("peak memory of a suspend, {}", Size::LARGE.name());
    table.add(Figure::new(what, sum, Goal::Below(64.0)));
    table.add(Figure::new("  the monitor", monitor, Goal::Reported));
    table.add(Figure::new("  of it private", private, Goal::Reported));
    table.add(Figure::new("  the command", command, Goal::Reported));
    subject.remove()
}

/// A number of kibibytes in a file of `/proc/PID`, in mebibytes; `None` when the process is gone.
fn field(pid: i32, file: &str, name: &str) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}
