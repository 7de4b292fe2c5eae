//! Any executable as a backend, by profile.
//!
//! A [`profile`] says how a program is started, steered and understood. Two drivers carry profiles
//! out: one for emulators with a QMP channel (QEMU), one for programs on a terminal of their own
//! (SIMH and any other). The engine knows neither: it asks [`backend`] for a name.

pub mod kill;
pub mod listing;
pub mod profile;
pub mod program;

mod ending;
mod files;
mod qemu;
mod sockets;
#[allow(unsafe_code, reason = "ioctls on interfaces")]
mod tap;
mod template;
mod terminal;
#[cfg(test)]
mod testing;

use std::path::Path;

use kxl_backend::{Backend, BackendError};
use kxl_domain::DomainConfig;

pub use listing::profiles;
use profile::{ControlKind, Profile};
/// QEMU's migration stream, taken apart; public for the fuzzer.
pub use qemu::split::{SplitError, Splitter};

/// The driver for `backend=name`: `auto`, `qemu`, `simh`, `any`, or a profile in `profiledir`.
///
/// # Errors
/// [`BackendError::Config`] for the key `backend`: no such profile, a mistake in it with file and
/// line, or a backend that is not built yet.
pub fn backend(
    name: &str,
    config: &DomainConfig,
    profiledir: &Path,
) -> Result<Box<dyn Backend>, BackendError> {
    let profile = Profile::load(choose(name, config)?, profiledir)?;
    match profile.control.kind {
        ControlKind::Qmp => Ok(Box::new(qemu::Driver::new(profile))),
        ControlKind::Prompt | ControlKind::Signal => Ok(Box::new(terminal::Driver::new(profile))),
    }
}

/// The profile that a value of `backend=` stands for. Pure: the accelerator is looked for only when
/// the emulator is started.
///
/// # Errors
/// [`BackendError::Config`] for `kvm`, the native VMM, which does not exist yet. `auto` is therefore
/// always QEMU, with the best accelerator of the host.
pub fn choose<'a>(name: &'a str, _config: &DomainConfig) -> Result<&'a str, BackendError> {
    match name {
        "auto" => Ok("qemu"),
        "kvm" => {
            let why = "backend \"kvm\" is not built yet; \"qemu\" uses KVM where the host has it";
            Err(BackendError::config("backend", why))
        }
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;

    #[test]
    fn auto_is_qemu_and_the_native_machine_says_that_it_is_not_there() {
        let spec = Scratch::new("choice").spec();
        let name = |name: &str| {
            backend(name, &spec.config, &spec.profiledir).map(|backend| backend.name().to_owned())
        };
        assert_eq!(name("auto").unwrap(), "qemu");
        assert_eq!(name("simh").unwrap(), "simh");
        let error = name("kvm").unwrap_err().to_string();
        assert!(error.contains("backend \"kvm\" is not built yet"), "{error}");
        name("vmware").unwrap_err();
    }
}
