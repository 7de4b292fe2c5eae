//! The composition root: the one place that knows concrete backends by name.

use kxl_backend::Backend;
use kxl_domain::{DomainConfig, Failure, Kind};
use kxl_store::Paths;

/// The backend of a configuration.
pub(crate) fn choose(paths: &Paths, config: &DomainConfig) -> Result<Box<dyn Backend>, Failure> {
    let mock = kxl_mock::backend();
    if config.backend == mock.name() {
        return Ok(Box::new(mock));
    }
    kxl_process::backend(&config.backend, config, &paths.profile_dir()).map_err(|error| {
        let attempt = format!("cannot use backend \"{}\"", config.backend);
        Failure::because(Kind::Failed, attempt, &error)
            .hint("kxl info --backends shows what this host offers")
    })
}

/// Prints one JSON line for each backend and profile (`kxl info --backends` renders them).
pub(crate) fn list() -> Result<(), Failure> {
    let paths = Paths::from_env()
        .map_err(|error| Failure::because(Kind::Failed, "cannot use this host's places", &error))?;
    for profile in kxl_process::profiles(&paths.profile_dir(), &paths.cache_dir()) {
        let line = serde_json::to_string(&profile)
            .map_err(|error| Failure::because(Kind::Internal, "cannot write JSON", &error))?;
        crate::say(&line);
    }
    Ok(())
}
