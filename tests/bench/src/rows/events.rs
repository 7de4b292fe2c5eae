//! Events: how soon they are told, and what telling costs who records them.

mod guest;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use kxl_store::{Event, Severity};

use crate::error::BenchError;
use crate::figure::{Figure, Goal, Series, Unit};
use crate::host::{Host, Lab};
use crate::interrupt;
use crate::rows::live::MOCK;
use crate::table::Table;

/// How long a line may take to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// `kxl events -f`, and when each of its lines came.
struct Follower {
    child: Child,
    lines: Receiver<(Instant, String)>,
}

impl Follower {
    fn start(host: &Host) -> Result<Self, BenchError> {
        let mut command = host.command(["events", "--json", "-f", "--limit", "1"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(BenchError::io("start kxl events"))?;
        let stdout =
            child.stdout.take().ok_or_else(|| BenchError::wrong("kxl events has no output"))?;
        let (tell, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if tell.send((Instant::now(), line)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// When the line came that has this in it.
    fn seen(&self, what: &str) -> Result<Instant, BenchError> {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok((at, line)) = self.lines.recv_timeout(left) else {
                return Err(BenchError::wrong(format!("kxl events never told of {what}")));
            };
            if line.contains(what) {
                return Ok(at);
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The follower sleeps between events, as it does on a host.
pub(crate) fn measure(lab: &Lab, table: &mut Table) -> Result<(), BenchError> {
    let host = lab.host("events")?;
    let store = host.store()?;
    store.event(&Event::new(Severity::Info, "first"))?;
    let follower = Follower::start(&host)?;
    follower.seen("first")?;
    let [mut told, mut written] = std::array::from_fn(|_| Series::new(Unit::Ms));
    for round in 0..lab.rounds.of(200, 20) {
        interrupt::check()?;
        // Long enough for the follower to be asleep again.
        std::thread::sleep(Duration::from_millis(5));
        let what = format!("round-{round:04}");
        let began = Instant::now();
        store.event(&Event::new(Severity::Info, what.as_str()))?;
        written.push_time(began.elapsed());
        told.push_time(follower.seen(&what)?.saturating_duration_since(began));
    }
    drop(follower);
    table.add(Figure::new("an event written, by Store::event", written, Goal::Below(5.0)));
    let what = "  until kxl events -f has printed it";
    table.add(Figure::new(what, told, Goal::Below(50.0)));
    guest::measure(lab, table)?;
    hooks(lab, table)
}

/// What hooks cost a command whose monitor records an event: nothing there is to be told, a hook
/// that is told each time, and one that is at work all the time.
fn hooks(lab: &Lab, table: &mut Table) -> Result<(), BenchError> {
    let host = lab.host("events-hooks")?;
    let config = host.file("mock.cfg", MOCK)?;
    host.create_many(&config, "m", 1, &[])?;
    let rounds = lab.rounds.of(60, 10);
    let without = pauses(&host, rounds, Duration::ZERO)?;
    host.hook("quick", "#!/bin/sh\nexit 0\n")?;
    let quick = pauses(&host, rounds, Duration::from_millis(60))?;
    let told = host.store()?.hooks()?;
    if told.first().is_none_or(|hook| hook.told == 0) {
        return Err(BenchError::wrong(format!("the hook was told of nothing: {told:?}")));
    }
    host.hook("quick", "#!/bin/sh\nsleep 1\n")?;
    let busy = pauses(&host, rounds, Duration::ZERO)?;
    table.add(
        Figure::new("kxl pause/unpause with a hook", quick, Goal::Reported)
            .beside("no hook", &without),
    );
    let what = "  with one that is at work";
    table.add(Figure::new(what, busy, Goal::Reported).beside("no hook", &without));
    Ok(())
}

fn pauses(host: &Host, rounds: u32, gap: Duration) -> Result<Series, BenchError> {
    let mut wall = Series::new(Unit::Ms);
    for _ in 0..rounds {
        interrupt::check()?;
        for verb in ["pause", "unpause"] {
            wall.push_time(host.kxl([verb, "m1"])?.wall);
            std::thread::sleep(gap);
        }
    }
    Ok(wall)
}
