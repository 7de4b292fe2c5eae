//! The files that a confined process may still open: those below the directories for hot-plugged
//! files. The directories of its sockets it may only remove something from.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};

use super::SandboxError;
use crate::config::{Config, Endpoint};

/// What landlock could do when it learned the last thing asked of it here.
const LEVEL: ABI = ABI::V6;

/// Directories, opened while the process may still open them.
pub(super) struct Directories {
    /// Everything in them can be read, written, made and removed.
    hotplug: Vec<PathFd>,
    /// Sockets in them can be removed.
    sockets: Vec<PathFd>,
}

impl Directories {
    /// Opens those of a configuration.
    pub(super) fn open(config: &Config) -> Result<Self, SandboxError> {
        let open = |path: &Path| {
            PathFd::new(path)
                .map_err(|source| SandboxError::Directory { path: path.to_owned(), source })
        };
        let hotplug =
            config.hotplug.dirs.iter().map(|path| open(path)).collect::<Result<_, _>>()?;
        let sockets = sockets(config).iter().map(|path| open(path)).collect::<Result<_, _>>()?;
        Ok(Self { hotplug, sockets })
    }

    /// Confines the process to them. The answer says what this kernel cannot do of it.
    pub(super) fn restrict(self) -> Result<Option<&'static str>, SandboxError> {
        let status = self.rules().map_err(SandboxError::Landlock)?;
        Ok(match status {
            RulesetStatus::FullyEnforced => None,
            RulesetStatus::PartiallyEnforced => {
                Some("this kernel's landlock is old: files are closed to the process, but not all")
            }
            RulesetStatus::NotEnforced => Some(
                "this kernel has no landlock: nothing but the filter of system calls and the \
                 process's user keeps it from files",
            ),
        })
    }

    fn rules(self) -> Result<RulesetStatus, landlock::RulesetError> {
        let mut rules = Ruleset::default()
            .handle_access(AccessFs::from_all(LEVEL))?
            .handle_access(AccessNet::from_all(LEVEL))?
            .scope(Scope::from_all(LEVEL))?
            .create()?;
        let use_files: BitFlags<AccessFs> = AccessFs::ReadFile
            | AccessFs::WriteFile
            | AccessFs::ReadDir
            | AccessFs::Truncate
            | AccessFs::MakeReg
            // A state that came to nothing.
            | AccessFs::RemoveFile
            // A block device is asked for its size.
            | AccessFs::IoctlDev;
        for directory in self.hotplug {
            rules = rules.add_rule(PathBeneath::new(directory, use_files))?;
        }
        for directory in self.sockets {
            rules = rules.add_rule(PathBeneath::new(directory, AccessFs::RemoveFile))?;
        }
        Ok(rules.restrict_self()?.ruleset)
    }
}

/// The directories of the sockets that the process removes when it ends.
fn sockets(config: &Config) -> Vec<PathBuf> {
    let channel = config.channel.iter().map(|channel| &channel.endpoint);
    let endpoints = [&config.serial, &config.console].into_iter().chain(&config.qmp).chain(channel);
    let mut found: Vec<PathBuf> = endpoints
        .filter_map(|endpoint| match endpoint {
            Endpoint::Unix(path) => path.parent(),
            _ => None,
        })
        .map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
        .map(Path::to_owned)
        .collect();
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_socket_can_be_removed_by_its_directory_once() {
        let config = Config {
            qmp: vec![Endpoint::Unix("/run/vm/qmp".into()), Endpoint::Unix("near".into())],
            serial: Endpoint::Unix("/run/vm/serial".into()),
            console: Endpoint::File("/var/log/vm".into()),
            ..Config::default()
        };
        assert_eq!(sockets(&config), [PathBuf::from("/run/vm"), PathBuf::from(".")]);
    }

    #[test]
    fn a_missing_directory_for_files_is_named() {
        let mut config = Config::default();
        config.hotplug.dirs.push("/nowhere/at/all".into());
        let error = Directories::open(&config).err().unwrap();
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    }
}
