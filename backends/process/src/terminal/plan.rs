//! What is run for a domain, by its profile.

use std::ffi::OsString;
use std::path::PathBuf;

use kxl_backend::{BackendError, LaunchSpec, Result};
use kxl_domain::DomainConfig;

use super::{Driver, RESTORE_INI, restore, snapshot, write};
use crate::files::{self, Kind};
use crate::profile::StateWay;
use crate::program;
use crate::template::Values;

/// What is run.
pub(super) struct Plan {
    pub(super) program: PathBuf,
    pub(super) args: Vec<OsString>,
    pub(super) env: Vec<OsString>,
    pub(super) files: Vec<(PathBuf, Vec<u8>)>,
    /// Where it is started, unless the domain says another place.
    pub(super) directory: Option<PathBuf>,
}

/// Whether an argument is an option that goes with the value behind it: without the value it is left
/// out as well.
fn is_option_alone(before: Option<&String>) -> bool {
    before.is_some_and(|text| text.starts_with('-') && !text.contains(['{', '=']))
}

impl Plan {
    /// Writes the files that the program reads.
    ///
    /// # Errors
    /// [`BackendError::Io`].
    pub(super) fn prepare(&self) -> Result<()> {
        for (path, text) in &self.files {
            write(path, text).map_err(|error| {
                BackendError::io(format!("cannot write {}", path.display()), error)
            })?;
        }
        Ok(())
    }
}

impl Driver {
    /// Puts it together; writes nothing.
    ///
    /// # Errors
    /// [`BackendError::Config`], [`BackendError::Missing`].
    pub(super) fn plan(&self, spec: &LaunchSpec, mut values: Values) -> Result<Plan> {
        let config = &spec.config;
        let start = &self.profile.start;
        let program = self.program(config, &values)?;
        if let Some(ini) = &config.ini {
            files::check("ini", ini, Kind::Regular, false)?;
        }
        if let Some(kernel) = &config.boot.kernel {
            files::check("kernel", kernel, Kind::Regular, false)?;
        }
        let mut args = Vec::new();
        for (index, template) in start.argv.iter().enumerate() {
            match values.argument(template)? {
                Some(arg) => args.push(arg),
                None if is_option_alone(start.argv.get(index.wrapping_sub(1))) => {
                    args.pop();
                }
                None => {}
            }
        }
        if snapshot::begins_with_a_state(&self.profile, spec) {
            values = snapshot::with_file(&self.profile, values)?;
            for template in &self.profile.restore.argv {
                args.extend(values.argument(template)?);
            }
        }
        args.extend(config.emulator_args.iter().map(OsString::from));
        let mut env = Vec::new();
        for (name, template) in &start.env {
            if let Some(entry) = values.argument(&format!("{name}={template}"))? {
                env.push(entry);
            }
        }
        let mut files = Vec::new();
        let restores = spec.image.is_some();
        if let (true, Some(path)) = (restores, &config.ini) {
            let ours = spec.rundir.join(RESTORE_INI);
            files.push((ours.clone(), restore::ini(&self.profile, path)?));
            values = values.with("ini", ours);
        }
        let others = &self.profile.restore.start;
        let instead =
            restores && (self.profile.restore.kind == StateWay::Script || !others.is_empty());
        let texts = if instead { others } else { &start.file };
        for file in texts {
            let path = values.argument(&file.path)?.map(PathBuf::from).unwrap_or_default();
            if path.parent() != Some(spec.rundir.as_path()) {
                let why =
                    format!("profile {}: {} is not in {{rundir}}", self.profile.name, file.path);
                return Err(BackendError::config("backend", why));
            }
            files.push((path, values.text(&file.text)?));
        }
        Ok(Plan { program, args, env, files, directory: None })
    }

    fn program(&self, config: &DomainConfig, values: &Values) -> Result<PathBuf> {
        if let Some(own) = &config.emulator {
            return program::find(own)
                .ok_or_else(|| BackendError::file("exec", own, "no executable file of that name"));
        }
        let name = PathBuf::from(values.argument(&self.profile.start.exec)?.unwrap_or_default());
        if !name.is_absolute() && name.components().count() != 1 {
            let why = format!("{}: expected a plain name or an absolute path", name.display());
            return Err(BackendError::config("machine", why));
        }
        program::find(&name).ok_or_else(|| BackendError::Missing {
            what: name.display().to_string(),
            hint: self.profile.package.as_ref().map_or_else(
                || "no executable file of that name in PATH".to_owned(),
                |package| format!("install the package {package}"),
            ),
        })
    }
}
