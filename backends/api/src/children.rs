//! The children that this process has made itself, told from those that came to it as the reaper of
//! what others left.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::process::{Identity, Stat};

/// Pid and start time of each that still is there, or was when another one was made.
static MADE: Mutex<Vec<(i32, u64)>> = Mutex::new(Vec::new());

/// The list, held while a child is made: whoever sees the child finds it there.
pub(crate) struct Making(MutexGuard<'static, Vec<(i32, u64)>>);

impl Making {
    pub(crate) fn begin() -> Self {
        Self(MADE.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes a child down, and forgets those that are gone: their numbers will be others'.
    pub(crate) fn made(&mut self, identity: &Identity) {
        let is_there =
            |pid: i32, start_time| Stat::read(pid).is_ok_and(|stat| stat.start_time == start_time);
        self.0.retain(|(pid, start_time)| is_there(*pid, *start_time));
        self.0.push((identity.pid, identity.start_time));
    }
}

/// Takes a process for one of those from now on: an emulator that came to us and was recognised.
pub fn take_in(identity: &Identity) {
    Making::begin().made(identity);
}

/// Whether this process has made it, or taken it in.
#[must_use]
pub fn is_own(pid: i32, start_time: u64) -> bool {
    Making::begin().0.contains(&(pid, start_time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_our_own_by_its_number_and_its_start() {
        let us = Identity::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(!is_own(us.pid, us.start_time));
        take_in(&us);
        assert!(is_own(us.pid, us.start_time));
        assert!(!is_own(us.pid, us.start_time + 1), "a number that is used again");
        // One that is gone is forgotten when the next one is made.
        let gone = Identity { start_time: us.start_time + 1, ..us.clone() };
        take_in(&gone);
        take_in(&us);
        assert!(!is_own(gone.pid, gone.start_time));
    }
}
