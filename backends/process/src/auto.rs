//! `backend="auto"`: the native virtual machine monitor where it fits, else QEMU.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use kxl_backend::{
    Attachments, Backend, BackendError, Identity, LaunchSpec, Live, Local, Recorder, Result,
};
use kxl_domain::{CapabilitySet, DomainConfig};

use crate::profile::Profile;
use crate::qemu;

/// Names of the two.
const KVM: &str = "kvm";
const QEMU: &str = "qemu";

/// The profile for a configuration on this host: `kvm` where Linux guests run on its KVM, the program
/// is there and the configuration needs nothing that it lacks; else `qemu`.
pub(crate) fn choose(config: &DomainConfig) -> &'static str {
    let named = config.emulator.is_some() || !config.emulator_args.is_empty();
    let fits = !named
        && qemu::kvm::lack(config).is_none()
        && qemu::kvm::unfit().is_none()
        && qemu::kvm::installed().is_ok();
    if fits { KVM } else { QEMU }
}

/// Both, and which of them has the domain. A domain that runs, and a state, stay with the one that
/// made them, whatever the host would be chosen for today.
#[derive(Debug)]
pub(crate) struct Auto {
    kvm: qemu::Driver,
    qemu: qemu::Driver,
    is_kvm: Cell<bool>,
}

impl Auto {
    pub(crate) fn new(config: &DomainConfig, profiledir: &Path) -> Result<Self, BackendError> {
        let driver = |name| Profile::load(name, profiledir).map(qemu::Driver::new);
        let is_kvm = Cell::new(choose(config) == KVM);
        Ok(Self { kvm: driver(KVM)?, qemu: driver(QEMU)?, is_kvm })
    }

    fn driver(&self) -> &qemu::Driver {
        if self.is_kvm.get() { &self.kvm } else { &self.qemu }
    }

    /// The one for a start, or for the state that it begins with.
    fn settle(&self, spec: &LaunchSpec) -> &qemu::Driver {
        let name = match &spec.image {
            Some(image) => image.machine.backend.as_str(),
            None => choose(&spec.config),
        };
        self.is_kvm.set(name == KVM);
        self.driver()
    }
}

impl Backend for Auto {
    fn name(&self) -> &str {
        self.driver().name()
    }

    fn capabilities(&self, config: &DomainConfig) -> CapabilitySet {
        self.driver().capabilities(config)
    }

    fn check(&self, spec: &LaunchSpec) -> Result<()> {
        self.settle(spec).check(spec)
    }

    fn launch<'a>(
        &'a self,
        spec: &'a LaunchSpec,
        recorder: &'a mut dyn Recorder,
    ) -> Local<'a, Result<Box<dyn Live>>> {
        self.settle(spec).launch(spec, recorder)
    }

    fn adopt<'a>(
        &'a self,
        spec: &'a LaunchSpec,
        identity: Identity,
        attachments: &'a Attachments,
    ) -> Local<'a, Result<Box<dyn Live>>> {
        self.is_kvm.set(self.kvm.made(attachments));
        self.driver().adopt(spec, identity, attachments)
    }
}

/// What keeps the native virtual machine monitor from being used on this host, and where it is.
pub(crate) fn offer(cachedir: &Path) -> (Option<(PathBuf, String)>, Vec<String>) {
    let found = qemu::kvm::installed().and_then(|path| {
        let emulator = qemu::kvm::offered(&path, cachedir)?;
        Ok((emulator.path, emulator.version))
    });
    let (found, mut missing) = match found {
        Ok(found) => (Some(found), Vec::new()),
        Err(error) => (None, vec![error.to_string()]),
    };
    missing.extend(qemu::kvm::unfit());
    (found, missing)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs::File;
    use std::sync::Arc;

    use kxl_backend::StateSource;
    use kxl_domain::image::Machine;

    use super::*;
    use crate::testing::Scratch;

    fn state_of(backend: &str) -> StateSource {
        let machine = Machine {
            backend: backend.into(),
            emulator: String::new(),
            version: String::new(),
            machine: String::new(),
            cpu: String::new(),
            features: Vec::new(),
            accel: String::new(),
            devices: Vec::new(),
            notes: BTreeMap::new(),
        };
        let device = Arc::new(File::open("/dev/null").unwrap().into());
        StateSource { machine, device, memory: None }
    }

    #[test]
    fn a_state_and_a_living_domain_stay_with_the_one_that_made_them() {
        let scratch = Scratch::new("auto");
        let mut spec = scratch.spec();
        let auto = Auto::new(&spec.config, &spec.profiledir).unwrap();
        assert_eq!(auto.name(), "qemu", "without a kernel there is only one");
        for name in ["kvm", "qemu", "kvm"] {
            spec.image = Some(state_of(name));
            assert_eq!(auto.settle(&spec).name(), name);
            assert_eq!(auto.name(), name, "and it is that one from now on");
        }
        spec.image = None;
        assert_eq!(auto.settle(&spec).name(), "qemu");
        let made = |emulator: &str| {
            let emulator = emulator.to_owned();
            auto.kvm.made(&Attachments { emulator, ..Attachments::default() })
        };
        assert!(made("kxl-vmm /usr/bin/kxl-vmm 0.1.0"));
        assert!(!made("qemu /usr/bin/qemu-system-x86_64 7.2.22"));
        assert!(!made(""), "an older record");
    }

    #[test]
    fn what_the_configuration_names_for_one_program_is_not_given_to_another() {
        let mut config = Scratch::new("auto").spec().config;
        config.boot.kernel = Some("/k".into());
        config.emulator_args = vec!["-device".into(), "x".into()];
        assert_eq!(choose(&config), QEMU);
        config.emulator_args.clear();
        config.emulator = Some("/usr/bin/qemu".into());
        assert_eq!(choose(&config), QEMU);
    }
}
