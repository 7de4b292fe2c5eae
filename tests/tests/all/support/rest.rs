//! Whether an emulator is at rest.

use std::collections::HashMap;
use std::fmt::Debug;
use std::fs;
use std::time::Duration;

use super::process::Proc;

/// How many spans an emulator has in which to come to rest.
const SPANS: u32 = 5;

/// How often the threads of an emulator at rest may wake up in a span. After a return QEMU
/// announces the guest's addresses five times and gives memory back; a guest of ours that runs
/// sleeps and wakes dozens of times, or uses CPU time without end.
const FEW: u64 = 10;

/// What a process has used up.
struct Used {
    ticks: u64,
    wakes: HashMap<String, u64>,
}

impl Used {
    fn by(emulator: &Proc) -> Self {
        let tasks = fs::read_dir(format!("/proc/{}/task", emulator.pid())).unwrap();
        // A thread may end while it is looked at.
        let wakes = tasks.flatten().filter_map(|task| {
            let status = fs::read_to_string(task.path().join("status")).ok()?;
            let line = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"))?;
            Some((task.file_name().into_string().ok()?, line.trim().parse().ok()?))
        });
        Self { wakes: wakes.collect(), ticks: emulator.stat().cpu_ticks }
    }

    /// Ticks of CPU time and awakenings since `before`.
    fn since(&self, before: &Self) -> (u64, u64) {
        let new = |(thread, count): (&String, &u64)| {
            count.saturating_sub(before.wakes.get(thread).copied().unwrap_or(0))
        };
        (self.ticks - before.ticks, self.wakes.iter().map(new).sum())
    }
}

/// Asserts that an emulator comes to rest at once, what its guest has shown with it, and that it
/// stays so for a whole `span`; what is shown.
///
/// Not the very first span has to be the one: an emulator that was just stopped or brought back
/// has work of its own to end, a tick is counted for the few microseconds that reach its end, and
/// on a busy host a line may still be on its way to the viewer. One whose guest runs has no such
/// span at all.
///
/// # Panics
/// When it does not, with what it used and showed in each span.
pub(crate) fn stands_still<T: PartialEq + Debug>(
    emulator: &Proc,
    span: Duration,
    shown: impl Fn() -> T,
) -> T {
    let mut spans = Vec::new();
    for _ in 0..SPANS {
        let (seen, before) = (shown(), Used::by(emulator));
        // Nothing is waited for: that nothing happens is the point.
        std::thread::sleep(span);
        let (ticks, wakes) = Used::by(emulator).since(&before);
        let now = shown();
        if now == seen && ticks == 0 && wakes <= FEW {
            return now;
        }
        spans.push(format!("{ticks} ticks, {wakes} awakenings, {seen:?} to {now:?}"));
    }
    panic!("it does not stand still: in {span:?} each, {spans:#?}");
}
