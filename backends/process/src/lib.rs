//! Any executable as a backend, by profile.
//!
//! A [`profile`] says how a program is started, steered and understood. Two drivers carry profiles
//! out: one for emulators with a QMP channel (QEMU), one for programs on a terminal of their own
//! (SIMH and any other). The engine knows neither: it asks [`backend`] for a name.

pub mod kill;
pub mod listing;
pub mod peer;
pub mod profile;
pub mod program;
pub mod stratovirt;
pub mod telnet;

mod auto;
mod charon;
mod ending;
mod errand;
mod files;
mod ports;
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

/// The driver for `backend=name`: `auto`, `qemu`, `kvm`, `simh`, `any`, or a profile in
/// `profiledir`. With `auto`, `kvm` where it fits the host and the configuration, else `qemu`.
///
/// # Errors
/// [`BackendError::Config`] for the key `backend`: no such profile, or a mistake in it with file and
/// line.
pub fn backend(
    name: &str,
    config: &DomainConfig,
    profiledir: &Path,
) -> Result<Box<dyn Backend>, BackendError> {
    if name == "auto" {
        return Ok(Box::new(auto::Auto::new(config, profiledir)?));
    }
    let profile = Profile::load(name, profiledir)?;
    match profile.control.kind {
        ControlKind::Qmp if profile.start.arguments.is_some() => {
            Ok(Box::new(qemu::Driver::new(profile)))
        }
        _ => Ok(Box::new(terminal::Driver::new(profile))),
    }
}

#[cfg(test)]
mod tests {
    use kxl_domain::config::model::Firmware;

    use super::*;
    use crate::testing::Scratch;

    #[test]
    fn each_name_has_its_driver_and_auto_is_one_of_two() {
        let mut spec = Scratch::new("choice").spec();
        let name = |name: &str, config: &DomainConfig| {
            backend(name, config, &spec.profiledir).map(|backend| backend.name().to_owned())
        };
        assert_eq!(name("simh", &spec.config).unwrap(), "simh");
        assert_eq!(name("kvm", &spec.config).unwrap(), "kvm");
        name("vmware", &spec.config).unwrap_err();
        let fits = qemu::kvm::unfit().is_none() && qemu::kvm::installed().is_ok();
        let mut config = spec.config.clone();
        config.boot.kernel = Some("/boot/vmlinuz".into());
        assert_eq!(name("auto", &config).unwrap(), if fits { "kvm" } else { "qemu" });
        config.boot.firmware = Some(Firmware::Ovmf);
        assert_eq!(name("auto", &config).unwrap(), "qemu", "needs what only QEMU has");
        spec.config = config;
    }
}
