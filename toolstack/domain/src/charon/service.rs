//! A domain's state in the words of a service.

use crate::state::words;
use crate::supervision::{Record, Word};

words! {
    /// What a list of emulators says of each.
    pub enum ServiceState {
        /// It runs.
        Active = "ACTIVE",
        /// It is on its way up, or about to be tried again.
        Activating = "ACTIVATING",
        /// It is off, and that is well.
        Inactive = "INACTIVE",
        /// It is on its way down.
        Deactivating = "DEACTIVATING",
        /// It could not be started, ended by itself and should not have, or could not be stopped.
        Failed = "FAILED",
        /// Nobody can tell.
        Unknown = "UNKNOWN",
    }
}

/// The state of a domain: from Supervisor's word for it, from what is remembered of its last end,
/// and from whether its process is `lost` together with its monitor, so that the word is old.
#[must_use]
pub fn service_state(word: Word, record: &Record, lost: bool) -> ServiceState {
    let stop_failed = record.stop_failed.is_some();
    match word {
        _ if lost => ServiceState::Unknown,
        Word::Running => ServiceState::Active,
        Word::Starting | Word::Backoff => ServiceState::Activating,
        Word::Stopping => ServiceState::Deactivating,
        Word::Stopped if stop_failed => ServiceState::Failed,
        Word::Stopped => ServiceState::Inactive,
        Word::Exited => match record.last_exit {
            Some(last) if !last.expected => ServiceState::Failed,
            _ => ServiceState::Inactive,
        },
        Word::Fatal => ServiceState::Failed,
        Word::Unknown => ServiceState::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervision::LastExit;

    #[test]
    fn every_word_of_supervisor_has_one_state_of_a_service() {
        let plain = Record::default();
        for (word, want) in [
            (Word::Running, ServiceState::Active),
            (Word::Starting, ServiceState::Activating),
            (Word::Backoff, ServiceState::Activating),
            (Word::Stopping, ServiceState::Deactivating),
            (Word::Stopped, ServiceState::Inactive),
            (Word::Exited, ServiceState::Inactive),
            (Word::Fatal, ServiceState::Failed),
            (Word::Unknown, ServiceState::Unknown),
        ] {
            assert_eq!(service_state(word, &plain, false), want, "{word}");
            assert_eq!(service_state(word, &plain, true), ServiceState::Unknown, "{word}");
        }
    }

    #[test]
    fn an_end_that_was_not_expected_and_a_stop_that_failed_are_failures() {
        let exit = |expected| Record {
            last_exit: Some(LastExit { code: Some(3), signal: None, expected }),
            ..Record::default()
        };
        assert_eq!(service_state(Word::Exited, &exit(false), false), ServiceState::Failed);
        assert_eq!(service_state(Word::Exited, &exit(true), false), ServiceState::Inactive);
        let failed =
            Record { stop_failed: Some("its stop script failed".into()), ..Record::default() };
        assert_eq!(service_state(Word::Stopped, &failed, false), ServiceState::Failed);
        assert_eq!(service_state(Word::Running, &failed, false), ServiceState::Active);
    }
}
