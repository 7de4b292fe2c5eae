//! What differs between the emulators that this driver steers. They speak one protocol and save one
//! kind of stream; how a machine is chosen, described and called is each one's own.

use std::ffi::OsString;
use std::fmt::Debug;
use std::path::PathBuf;

use kxl_backend::{Attachments, LaunchSpec, Result};
use kxl_domain::DomainConfig;
use kxl_domain::config::model::Arch;

use super::args::{self, Plan};
use super::binary::{self, Accel, Emulator};
use super::kvm::Kvm;
use super::{firmware, foreign, machine, processor};
use crate::profile::Builder;

/// What an emulator is asked to make.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    pub(crate) arch: Arch,
    pub(crate) accel: Accel,
    /// The machine's name; never an alias.
    pub(crate) machine: String,
    /// The processor model.
    pub(crate) cpu: String,
    /// UEFI code and variables.
    pub(crate) flash: Option<(PathBuf, PathBuf)>,
}

/// One of them.
pub(crate) trait Family: Debug + Sync {
    /// Its name in images and in the records of live domains.
    fn name(&self) -> &'static str;

    /// Its name for people.
    fn title(&self) -> &'static str;

    /// The program for a domain, and what it is to make.
    ///
    /// # Errors
    /// Where it is missing, or cannot make what the configuration asks for.
    fn choose(&self, spec: &LaunchSpec) -> Result<(Emulator, Choice)>;

    /// The arguments after the program's name.
    ///
    /// # Errors
    /// For what this machine cannot have.
    fn arguments(&self, spec: &LaunchSpec, plan: &Plan) -> Result<Vec<OsString>>;

    /// The machine as its guest sees it, part for part: a state fits a machine of the same parts.
    ///
    /// # Errors
    /// As [`arguments`](Self::arguments).
    fn parts(&self, spec: &LaunchSpec, plan: &Plan) -> Result<Vec<String>>;

    /// What runs a guest's instructions on this host.
    fn accelerator(&self, arch: Arch) -> Accel;

    /// The running emulator's version, by its greeting or by what was written down at its start.
    fn version(&self, greeting: [u64; 3], attachments: &Attachments) -> String;

    /// Whether there is a screen to look at.
    fn screen(&self, config: &DomainConfig) -> bool;

    /// The length of the longest device stream, where that is known beforehand.
    fn device_bound(&self) -> Option<u64>;

    /// Whether every write to the guest's memory can be seen by the kernel.
    fn tells_of_writes(&self) -> bool;
}

/// The family of a profile.
pub(crate) fn of(builder: Option<Builder>) -> &'static dyn Family {
    match builder {
        Some(Builder::Kvm) => &Kvm,
        Some(Builder::Qemu) | None => &Qemu,
    }
}

/// QEMU itself.
#[derive(Debug)]
pub(crate) struct Qemu;

impl Family for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn title(&self) -> &'static str {
        "QEMU"
    }

    fn choose(&self, spec: &LaunchSpec) -> Result<(Emulator, Choice)> {
        let config = &spec.config;
        let arch = binary::arch(config)?;
        let emulator = Emulator::of(&binary::path(config, arch)?, &spec.cachedir)?;
        let saved = spec.image.as_ref().map(|image| &image.machine);
        let best = self.accelerator(arch);
        let accel = saved.and_then(|saved| foreign::accel(&saved.accel)).unwrap_or(best);
        let choice = Choice {
            arch,
            accel,
            // Those of a state are taken as they are: it belongs to no others.
            machine: match saved {
                Some(saved) => saved.machine.clone(),
                None => emulator.machine(config, arch)?,
            },
            cpu: match saved {
                Some(saved) => saved.cpu.clone(),
                None => processor::of_qemu(config, binary::cpu(arch, accel))?,
            },
            flash: firmware::flash(spec, arch)?,
        };
        Ok((emulator, choice))
    }

    fn arguments(&self, spec: &LaunchSpec, plan: &Plan) -> Result<Vec<OsString>> {
        args::arguments(spec, plan)
    }

    fn parts(&self, spec: &LaunchSpec, plan: &Plan) -> Result<Vec<String>> {
        machine::list(spec, plan)
    }

    fn accelerator(&self, arch: Arch) -> Accel {
        binary::accelerator(arch)
    }

    fn version(&self, [major, minor, micro]: [u64; 3], _attachments: &Attachments) -> String {
        format!("{major}.{minor}.{micro}")
    }

    fn screen(&self, config: &DomainConfig) -> bool {
        args::has_vnc(config)
    }

    fn device_bound(&self) -> Option<u64> {
        None
    }

    fn tells_of_writes(&self) -> bool {
        true
    }
}
