//! The monitor's own log.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Logs to the end of `path`, as much as `KXL_LOG` asks for (`info` when it is not set; the syntax
/// is `level` or `target=level,…`). A log that cannot be opened keeps nobody from running a domain.
pub(crate) fn to_file(path: &Path) {
    let filter = std::env::var("KXL_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = filter.unwrap_or_else(|| Targets::new().with_default(tracing::Level::INFO));
    let Ok(file) = File::options().create(true).append(true).mode(0o600).open(path) else { return };
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Mutex::new(file));
    tracing_subscriber::registry().with(filter).with(lines).init();
}
