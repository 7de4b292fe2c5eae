//! The host's end of a guest's port.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::time::Duration;

use kxl_domain::guest::Lines;
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::Ear;

/// Bytes that are read in a second; also as many at once. A guest that writes more waits.
pub(super) const RATE: u32 = 32 * 1024;

/// Bytes read at once.
const CHUNK: usize = 2048;

/// The port.
#[derive(Debug)]
pub(super) struct Port(UnixStream);

impl Port {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let stream = std::os::unix::net::UnixStream::from(fd);
        stream.set_nonblocking(true)?;
        UnixStream::from_std(stream).map(Self)
    }

    /// Answers, where there is room: a guest that asks and does not read gets no answer.
    pub(super) fn answer(&self, line: &str) {
        if let Err(error) = self.0.try_write(line.as_bytes()) {
            tracing::debug!(%error, "the guest does not read its answers");
        }
    }
}

/// Reads until the emulator's side is closed, and no faster than is good.
pub(super) async fn read(port: Rc<Port>, ear: Weak<Ear>) {
    let mut lines = Lines::default();
    let mut budget = Budget::new(Instant::now());
    let mut chunk = vec![0; CHUNK];
    loop {
        if port.0.readable().await.is_err() {
            return;
        }
        let count = match port.0.try_read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => {
                tracing::warn!(%error, "the guest's port cannot be read");
                return;
            }
        };
        let Some(ear) = ear.upgrade() else { return };
        lines.push(&chunk[..count], |piece| ear.hear(piece));
        drop(ear);
        if let Some(pause) = budget.spend(count, Instant::now()) {
            tokio::time::sleep(pause).await;
        }
    }
}

/// How much may be read.
struct Budget {
    left: f64,
    since: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self { left: f64::from(RATE), since: now }
    }

    /// Spends bytes; the pause that follows, if one does.
    fn spend(&mut self, count: usize, now: Instant) -> Option<Duration> {
        let earned = now.duration_since(self.since).as_secs_f64() * f64::from(RATE);
        self.since = now;
        let spent = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        self.left = (self.left + earned).min(f64::from(RATE)) - spent;
        // A pause worth waking up for.
        let debt = f64::from(RATE) / 8.0 - self.left;
        (self.left < 0.0).then(|| Duration::from_secs_f64(debt / f64::from(RATE)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_read_at_once_and_a_flood_at_its_rate() {
        let start = Instant::now();
        let (mut budget, mut now, mut read) = (Budget::new(start), start, 0u64);
        assert_eq!(budget.spend(CHUNK, now), None);
        while now.duration_since(start) < Duration::from_secs(100) {
            read += CHUNK as u64;
            if let Some(pause) = budget.spend(CHUNK, now) {
                now += pause;
            }
        }
        let most = u64::from(RATE) * 102;
        assert!(read <= most && read > u64::from(RATE) * 90, "{read}");
    }
}
