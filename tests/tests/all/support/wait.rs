//! Waiting for what another process does.

use std::time::{Duration, Instant};

/// Longest wait for what takes milliseconds on an idle host. Generous, because a test that waits
/// this long has failed anyway.
pub(crate) const SOON: Duration = Duration::from_secs(90);

/// Longest wait for a guest that boots under emulation, beside others that do.
pub(crate) const BOOT: Duration = Duration::from_secs(400);

/// Longest wait for what `within` allows, asking again and again.
///
/// # Panics
/// When the time is up, with what was waited for.
pub(crate) fn until<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + within;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited {within:?} in vain: {what}");
        // Other processes bring it about, so there is nothing of ours to wait on.
        std::thread::sleep(Duration::from_millis(15));
    }
}

/// Waits until `look` is true.
pub(crate) fn eventually(what: &str, mut look: impl FnMut() -> bool) {
    until(what, SOON, || look().then_some(()));
}
