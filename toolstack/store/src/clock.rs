//! The time and the boot, as records carry them.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::error::StoreError;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The time as records carry it: milliseconds since 1970-01-01 UTC.
#[must_use]
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Milliseconds since the host's boot, the time that it slept included. What lives no longer than a
/// boot is timed by it: no setting of the clock moves it.
#[must_use]
pub fn boot_ms() -> i64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |now| {
        let (seconds, nanos) = (now.tv_sec(), now.tv_nsec());
        seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000)
    })
}

/// The id of this boot of the host; `KXL_BOOT_ID` stands in for it in tests.
///
/// # Errors
/// `Io` when `/proc` is not mounted.
pub fn boot_id() -> Result<String, StoreError> {
    if let Some(id) = std::env::var("KXL_BOOT_ID").ok().filter(|id| !id.is_empty()) {
        return Ok(id);
    }
    std::fs::read_to_string(BOOT_ID)
        .map(|text| text.trim().to_owned())
        .map_err(|error| StoreError::io("read the boot id", BOOT_ID, error))
}
