//! The composition root: the one place that knows concrete backends by name.

use kxl_backend::{
    Attachments, Backend, BackendError, Identity, LaunchSpec, Live, Local, Recorder,
};
use kxl_domain::{CapabilitySet, DomainConfig, Failure, Kind};
use kxl_process::profile::Profile;
use kxl_store::Paths;
use serde_json::json;

/// The backend of a configuration. One that cannot be had (a profile that was removed) still gives
/// a backend, which refuses everything with the reason: a domain that was started with it can be
/// settled and destroyed.
pub(crate) fn choose(paths: &Paths, config: &DomainConfig) -> Box<dyn Backend> {
    let mock = kxl_mock::backend();
    if config.backend == mock.name() {
        return Box::new(mock);
    }
    kxl_process::backend(&config.backend, config, &paths.profile_dir()).unwrap_or_else(|error| {
        let why = match error {
            BackendError::Config { why, .. } => why,
            other => other.to_string(),
        };
        let why = format!("{why}; kxl info --backends shows what this host offers");
        Box::new(Absent { name: config.backend.clone(), why })
    })
}

/// A backend that cannot be had.
struct Absent {
    name: String,
    why: String,
}

impl Absent {
    fn refusal(&self) -> BackendError {
        BackendError::config("backend", self.why.clone())
    }
}

impl Backend for Absent {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self, _config: &DomainConfig) -> CapabilitySet {
        CapabilitySet::default()
    }

    fn check(&self, _spec: &LaunchSpec) -> Result<(), BackendError> {
        Err(self.refusal())
    }

    fn launch<'a>(
        &'a self,
        _spec: &'a LaunchSpec,
        _recorder: &'a mut dyn Recorder,
    ) -> Local<'a, Result<Box<dyn Live>, BackendError>> {
        Box::pin(async { Err(self.refusal()) })
    }

    fn adopt<'a>(
        &'a self,
        _spec: &'a LaunchSpec,
        _identity: Identity,
        _attachments: &'a Attachments,
    ) -> Local<'a, Result<Box<dyn Live>, BackendError>> {
        Box::pin(async { Err(self.refusal()) })
    }
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
    let offered: Vec<_> = kxl_mock::OFFERED.iter().map(|capability| capability.as_str()).collect();
    let mock = json!({
        "name": kxl_mock::backend().name(),
        "description": "A stand-in without a guest, for trying kxl and for its tests",
        "capabilities": offered,
        "programs": [],
        "missing": [],
    });
    crate::say(&mock.to_string());
    Ok(())
}

/// Prints what the profile of a file comes to, in one JSON object, or explains what is wrong with it.
pub(crate) fn check_profile(file: &std::path::Path) -> Result<(), Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::because(Kind::Failed, format!("cannot read {}", file.display()), &error)
    })?;
    // A profile is found by its file's name.
    let is_toml = file.extension().is_some_and(|extension| extension == "toml");
    let name = file.file_stem().filter(|_| is_toml).map(|stem| stem.to_string_lossy());
    let profile = Profile::examine(&text, name.as_deref(), file)
        .map_err(|mistake| Failure::new(Kind::Usage, mistake.shown().trim_end().to_owned()))?;
    if Profile::is_built_in(&profile.name) {
        let why = format!("{}: the built-in profile cannot be replaced", profile.name);
        return Err(Failure::new(Kind::Usage, why).hint("give it, and its file, another name"));
    }
    let offers: Vec<_> = profile.capabilities().iter().map(|item| item.as_str()).collect();
    let (name, description) = (profile.name, profile.description);
    crate::say(
        &json!({"name": name, "description": description, "capabilities": offers}).to_string(),
    );
    Ok(())
}

/// Prints a file in StratoVirt's JSON keys as a configuration, with notes, in one JSON object. Here,
/// because only this program links the backends.
pub(crate) fn translate(file: &std::path::Path) -> Result<(), Failure> {
    let translated = kxl_process::stratovirt::translate(file).map_err(|error| match error {
        // What is wrong with the file, in the reader's own words.
        BackendError::Launch { why, .. } => Failure::new(Kind::Usage, why),
        other => Failure::because(Kind::Failed, format!("cannot read {}", file.display()), &other),
    })?;
    let (text, notes) = (translated.config.to_cfg(), translated.notes);
    crate::say(&json!({"config": text, "notes": notes}).to_string());
    Ok(())
}
