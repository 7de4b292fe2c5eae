//! A failure as it crosses a process border: what kind it is, the chain of texts, the next step.
//!
//! Inside a crate errors are typed enums; between monitor and command they travel as this.

use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::state::words;

words! {
    /// The kind of a failure; decides the exit status of `kxl`.
    pub enum Kind {
        /// It was tried and did not work.
        Failed = "failed",
        /// The command line or a configuration is wrong.
        Usage = "usage",
        /// There is no such domain.
        NoSuchDomain = "no-such-domain",
        /// The domain's state does not allow it.
        Denied = "denied",
        /// The backend lacks the capability.
        Unsupported = "unsupported",
        /// A deadline passed.
        TimedOut = "timed-out",
        /// A fault of kxl itself.
        Internal = "internal",
    }
}

impl Kind {
    /// Exit status of the `kxl` personality.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NoSuchDomain => 3,
            Self::Denied => 4,
            Self::Unsupported => 5,
            Self::TimedOut => 6,
            Self::Internal => 70,
        }
    }
}

/// What went wrong, ready to be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its kind.
    pub kind: Kind,
    /// What was attempted, on what.
    pub text: String,
    /// Why, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Failure {
    /// A failure with neither cause nor hint.
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), causes: Vec::new(), hint: None }
    }

    /// The failure of `attempt` because of `error` and its sources.
    pub fn because(kind: Kind, attempt: impl Into<String>, error: &dyn Error) -> Self {
        let mut causes = vec![error.to_string()];
        let mut source = error.source();
        while let Some(error) = source {
            causes.push(error.to_string());
            source = error.source();
        }
        Self { kind, text: attempt.into(), causes, hint: None }
    }

    /// The same with a next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        self.causes.iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

impl Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_of_sources_becomes_the_list_of_causes() {
        let inner = std::fmt::Error;
        let failure = Failure::because(Kind::Failed, "cannot write", &inner);
        assert_eq!(failure.causes.len(), 1);
        assert!(failure.to_string().starts_with("cannot write: "));
    }

    #[test]
    fn exit_codes_are_distinct() {
        let mut codes: Vec<_> = Kind::ALL.iter().map(|kind| kind.exit_code()).collect();
        codes.dedup();
        assert_eq!(codes.len(), Kind::ALL.len());
    }
}
