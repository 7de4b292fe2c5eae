//! Failures that the engine words itself.

use kxl_domain::{Capability, Denied, DomainName, Failure, Kind, Verb};

/// A refusal by the lifecycle table.
#[must_use]
pub fn denied(name: &DomainName, denied: Denied) -> Failure {
    let (verb, kind) = match denied {
        Denied::State { verb, .. } | Denied::Busy { verb, .. } => (verb, Kind::Denied),
        Denied::NotBuilt { verb } => (verb, Kind::Failed),
    };
    let mut failure = Failure::new(kind, format!("cannot {verb} domain \"{name}\": {denied}"));
    failure.hint = denied.hint().map(|hint| hint.replace("NAME", name.as_str()));
    failure
}

/// A refusal because the backend cannot do it.
#[must_use]
pub(crate) fn unsupported(
    verb: Verb,
    name: &DomainName,
    backend: &str,
    need: Capability,
) -> Failure {
    let mut failure = Failure::new(
        Kind::Unsupported,
        format!("cannot {verb} domain \"{name}\": backend \"{backend}\" does not offer {need}"),
    );
    failure.hint = Some(match verb {
        Verb::Shutdown | Verb::Reboot => {
            format!(
                "shut the guest down from its console, or take the power away: kxl destroy {name}"
            )
        }
        _ => "kxl info --backends shows what each backend offers".to_owned(),
    });
    failure
}
