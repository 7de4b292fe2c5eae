//! What comes before a program is started: the administrator's script, and what a Charon needs.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use kxl_backend::{BackendError, LaunchSpec, Result, trusted};

use crate::charon::Charon;
use crate::charon::offload::{self, SwitchedOff};
use crate::errand::Errand;
use crate::profile::{Configured, Profile};
use crate::program;

/// How long the script before a start may take.
const PRESTART: Duration = Duration::from_secs(60);

/// What was found out and done.
pub(super) struct Before {
    pub(super) charon: Option<Charon>,
    /// Interfaces that are given back when the launch comes to nothing.
    pub(super) off: Option<SwitchedOff>,
    /// What is worth an event, and keeps nothing from starting.
    pub(super) warnings: Vec<String>,
}

/// What a script of the administrator's finds in its environment.
pub(super) fn environment(spec: &LaunchSpec) -> Vec<OsString> {
    let of_domain = [
        format!("KXL_DOMAIN={}", spec.name),
        format!("KXL_DOMID={}", spec.domid),
        format!("KXL_UUID={}", spec.uuid),
    ];
    // A host of a test's own: kxl itself is what such scripts call.
    let root = std::env::var_os("KXL_ROOT").map(|root| {
        let mut entry = OsString::from("KXL_ROOT=");
        entry.push(root);
        entry
    });
    of_domain.map(OsString::from).into_iter().chain(root).collect()
}

/// The configuration, where the profile says that its kind is known. Looks only.
///
/// # Errors
/// [`BackendError::Config`].
pub(super) fn charon(profile: &Profile, spec: &LaunchSpec) -> Result<Option<Charon>> {
    match profile.start.configuration {
        Some(Configured::Charon) => Charon::of(spec).map(Some),
        None => Ok(None),
    }
}

/// Whether the script before the start is there, and nobody else has a say in it.
///
/// # Errors
/// [`BackendError::Config`].
pub(super) fn check_script(spec: &LaunchSpec) -> Result<()> {
    match &spec.config.scripts.prestart {
        Some(script) => match program::find(script) {
            None => Err(BackendError::file("prestart", script, "no executable file of that name")),
            Some(found) => match trusted::of_program(&found) {
                Some(problem) => Err(BackendError::config("prestart", problem)),
                None => Ok(()),
            },
        },
        None => Ok(()),
    }
}

/// Does all of it.
///
/// # Errors
/// [`BackendError::Control`] for a script that failed, [`BackendError::Config`] for what a Charon
/// cannot have.
pub(super) async fn prepare(profile: &Profile, spec: &LaunchSpec) -> Result<Before> {
    check_script(spec)?;
    if let Some(script) = &spec.config.scripts.prestart {
        let config = spec.config.emulator_config.iter().map(|file| file.clone().into_os_string());
        let errand = Errand {
            program: script.clone().into_os_string(),
            args: config.collect(),
            env: environment(spec),
        };
        let failed = |why| BackendError::Control { command: "prestart".to_owned(), why };
        errand.run(PRESTART).await.map_err(failed)?;
    }
    let charon = charon(profile, spec)?;
    let Some(found) = &charon else {
        return Ok(Before { charon, off: None, warnings: Vec::new() });
    };
    let mut warnings = found.check_nics(spec)?;
    let cannot = |error| BackendError::io("cannot note the offloads of the interfaces", error);
    let (off, stayed) = offload::switch_off(&spec.rundir, found.nics()).map_err(cannot)?;
    warnings.extend(stayed);
    Ok(Before { charon, off: Some(off), warnings })
}

impl Before {
    /// The file that the emulator reads in the place of its own, with the console at `port`.
    ///
    /// # Errors
    /// [`BackendError::Config`].
    pub(super) fn copy(&self, port: Option<u16>) -> Result<Option<(PathBuf, Vec<u8>)>> {
        match (&self.charon, port) {
            (Some(charon), Some(port)) => Ok(Some((charon.copy.clone(), charon.text(port)?))),
            _ => Ok(None),
        }
    }
}
