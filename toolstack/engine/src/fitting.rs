//! Whether this host could bring an image back, without trying it.

use std::sync::Arc;

use kxl_backend::{Backend, HostFacts, LaunchSpec, MemorySource, RunAs, StateSource};
use kxl_domain::image::MemoryLayout;
use kxl_domain::{DomId, Failure, Kind};
use kxl_store::image::Image;
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::host::{Host, stored};
use crate::restoring::compare_disks;

impl Host {
    /// Compares what an image asks for (emulator, machine, devices, disks) with what is here, as a
    /// restore does before it makes a process. Nothing is started or changed.
    ///
    /// # Errors
    /// What does not fit.
    pub fn fits(&self, image: &Image, backend: &dyn Backend) -> Result<(), Failure> {
        let attempt = "this host cannot restore it";
        let facts = image.facts();
        compare_disks(&facts.disks, &facts.config)?;
        let device = Arc::new(image.device().map_err(|e| stored(attempt, &e))?);
        let memory = image.memory().map(empty_memory).transpose()?;
        let spec = LaunchSpec {
            name: facts.name.clone(),
            uuid: facts.uuid,
            domid: facts.domid.unwrap_or(DomId(1)),
            config: facts.config.clone(),
            rundir: self.paths.rundir(facts.uuid),
            emulator_log: self.paths.emulator_log(&facts.name),
            cachedir: self.paths.cache_dir(),
            profiledir: self.paths.profile_dir(),
            run_as: self.conf.run_as.map(|(uid, gid)| RunAs { uid, gid }),
            default_bridge: self.conf.default_bridge.clone(),
            cgroups: Vec::new(),
            host: HostFacts::default(),
            paused: true,
            image: Some(StateSource { machine: facts.machine.clone(), device, memory }),
        };
        backend.check(&spec).map_err(|error| Failure::because(Kind::Failed, attempt, &error))
    }
}

/// Memory of the right size that takes no room: what is in it is looked at by no check.
fn empty_memory(layout: MemoryLayout) -> Result<MemorySource, Failure> {
    let made = memfd_create(c"kxl-memory", MFdFlags::MFD_CLOEXEC).and_then(|file| {
        nix::unistd::ftruncate(&file, i64::try_from(layout.size).unwrap_or(i64::MAX))?;
        Ok(file)
    });
    let file = made.map_err(|error| {
        Failure::because(Kind::Failed, "cannot make memory for the check", &error)
    })?;
    Ok(MemorySource { layout, file: Arc::new(file), own: true })
}
