//! Launching a Charon: an emulator that is set up by a file of its own, goes into the background
//! and listens for its console at a TCP port.
//!
//! The monitor takes the port that the file names, so that telnet, putty and `kxl console` see one
//! console; the emulator gets a port of its own in a copy of the file. The interfaces that the file
//! takes are checked, and what they do for the host's network stack is switched off for as long as
//! the emulator lives.

mod nics;
#[allow(unsafe_code, reason = "ioctls on interfaces")]
pub(crate) mod offload;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use kxl_backend::{BackendError, LaunchSpec, Result};
use kxl_domain::charon::{Configuration, ConsoleLine, Facts, facts};

const KEY: &str = "emulator_config";

/// Where the emulator finds its copy of a configuration.
pub(crate) fn copy_of(file: &Path, spec: &LaunchSpec) -> PathBuf {
    spec.rundir.join(file.file_name().unwrap_or(OsStr::new("emulator.cfg")))
}

/// The ports that configurations name for their consoles; none where one cannot be read.
pub(crate) fn configured_ports(files: &[PathBuf]) -> Vec<u16> {
    let port = |file: &PathBuf| match facts(&kxl_backend::charon::read(file).ok()?).console {
        ConsoleLine::Port(port) => Some(port),
        ConsoleLine::Physical(_) | ConsoleLine::None => None,
    };
    files.iter().filter_map(port).collect()
}

/// A configuration that can be launched.
#[derive(Clone, Debug)]
pub(crate) struct Charon {
    configuration: Configuration,
    facts: Facts,
    /// The port that the configuration names for the console.
    pub(crate) console_port: u16,
    /// Where the emulator is started: what the configuration says without a directory is there.
    pub(crate) directory: PathBuf,
    /// The copy that the emulator reads.
    pub(crate) copy: PathBuf,
}

impl Charon {
    /// Reads the configuration of a domain.
    ///
    /// # Errors
    /// [`BackendError::Config`]: a file that cannot be understood, or a console that an emulator in
    /// the background cannot have.
    pub(crate) fn of(spec: &LaunchSpec) -> Result<Self> {
        let Some(file) = &spec.config.emulator_config else {
            let why = "expected the full path of the emulator's configuration";
            return Err(BackendError::config(KEY, why));
        };
        if spec.config.process.user.is_some() {
            let why = "a charon runs as the user who starts it: its configuration is copied to \
                       where nobody else can read";
            return Err(BackendError::config("user", why));
        }
        let configuration = kxl_backend::charon::read(file)
            .map_err(|error| BackendError::file(KEY, file, error))?;
        let facts = facts(&configuration);
        let console_port = match &facts.console {
            ConsoleLine::Port(port) => *port,
            ConsoleLine::Physical(line) => {
                let why = format!(
                    "its console is the serial line {line}, which an emulator in the background \
                     does not serve: give the console a port instead"
                );
                return Err(BackendError::file(KEY, file, why));
            }
            ConsoleLine::None => {
                let why = "its console has no port: say one, such as port=10003, for OPA0";
                return Err(BackendError::file(KEY, file, why));
            }
        };
        Ok(Self {
            configuration,
            facts,
            console_port,
            directory: file.parent().unwrap_or(Path::new("/")).to_owned(),
            copy: copy_of(file, spec),
        })
    }

    /// The text of the copy, with the console at another port.
    ///
    /// # Errors
    /// [`BackendError::Config`]; never, as there is a port.
    pub(crate) fn text(&self, port: u16) -> Result<Vec<u8>> {
        let text = self.configuration.with_console_port(port);
        let text = text.ok_or_else(|| BackendError::config(KEY, "its console has no port"))?;
        Ok(text.into_bytes())
    }

    /// Looks at the interfaces that it takes; gives what is only worth a warning.
    ///
    /// # Errors
    /// [`BackendError::Config`] with every interface that cannot be had.
    pub(crate) fn check_nics(&self, spec: &LaunchSpec) -> Result<Vec<String>> {
        nics::check(&self.facts.nics, spec)
    }

    /// The interfaces whose offloads are switched off.
    pub(crate) fn nics(&self) -> impl Iterator<Item = &str> {
        self.facts.nics.iter().map(|nic| nic.interface.as_str())
    }
}
