//! The command's own log: to standard error, and only when `KXL_LOG` asks for it.

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging as `KXL_LOG` says (`level` or `target=level,…`). Without it nothing is set up
/// and a log statement costs one load.
pub(crate) fn start() {
    let Some(text) = std::env::var("KXL_LOG").ok().filter(|text| !text.is_empty()) else { return };
    match text.parse::<Targets>() {
        Ok(filter) => {
            let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
            tracing_subscriber::registry().with(filter).with(lines).init();
        }
        Err(error) => crate::report::warning(&format!("KXL_LOG: {error}")),
    }
}
