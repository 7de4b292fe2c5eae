//! Images that are checked, beside the speed of the checksum alone.

use std::time::{Duration, Instant};

use super::{Size, Subject, guest};
use crate::disk;
use crate::error::BenchError;
use crate::figure::{Figure, Goal, Series, Unit};
use crate::host::Lab;
use crate::table::Table;

/// Bytes that are hashed at a time by BLAKE3 alone: a chunk of an image.
const CHUNK: usize = 2 << 20;

/// An image of 1 GiB, in the page cache and not; BLAKE3 alone on as many bytes that are in the
/// processor's reach, by as many threads as there are cores.
pub(crate) fn measure(lab: &Lab, table: &mut Table) -> Result<(), BenchError> {
    let Some(guest) = guest(lab, table, "image verify")? else { return Ok(()) };
    let host = lab.host("verify")?;
    let subject = Subject::linux(&host, &guest, 1, Size::MIDDLE)?;
    let image = subject.suspend()?.image;
    let bytes = disk::taken(&image)?;
    let [mut cold, mut warm, mut alone] = std::array::from_fn(|_| Series::new(Unit::GibPerS));
    for _ in 0..lab.rounds.of(7, 2) {
        disk::cool(&image)?;
        for series in [&mut cold, &mut warm] {
            let run = host.kxl(["image", "verify", "-q", &subject.name])?;
            series.push(speed(bytes, run.wall));
        }
        alone.push(speed(bytes, hash(bytes)?));
    }
    let figure = |what: &str, series| Figure::new(what, series, Goal::AtLeast(1.0));
    table.add(figure("image verify, 1 GiB, cold", cold).beside("BLAKE3 in cache", &alone));
    table.add(
        figure("image verify, 1 GiB, in the page cache", warm).beside("BLAKE3 in cache", &alone),
    );
    subject.remove()
}

#[allow(clippy::cast_precision_loss, reason = "gibibytes with two digits")]
fn speed(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / f64::from(1 << 30) / time.as_secs_f64()
}

/// How long BLAKE3 takes for so many bytes.
fn hash(bytes: u64) -> Result<Duration, BenchError> {
    crate::interrupt::check()?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let each = usize::try_from(bytes).unwrap_or(usize::MAX) / CHUNK / threads;
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let fill = u8::try_from(thread % 256).unwrap_or_default();
                let chunk = vec![fill; CHUNK];
                for _ in 0..each {
                    std::hint::black_box(blake3::hash(std::hint::black_box(&chunk)));
                }
            });
        }
    });
    Ok(start.elapsed())
}
