//! UEFI: its code, shared by all domains, and its variables, one copy for each.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use kxl_backend::{BackendError, LaunchSpec};
use kxl_domain::config::model::{Arch, Firmware};

/// Where distributions put code and the template of the variables.
const PLACES: &[(Arch, &str, &str)] = &[
    (Arch::X86_64, "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    (Arch::X86_64, "/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    (Arch::X86_64, "/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    (Arch::Aarch64, "/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
];

fn place(arch: Arch) -> Option<(&'static Path, &'static Path)> {
    PLACES
        .iter()
        .filter(|(of, ..)| *of == arch)
        .map(|(_, code, variables)| (Path::new(*code), Path::new(*variables)))
        .find(|(code, variables)| code.is_file() && variables.is_file())
}

/// The two flash chips of a domain that wants UEFI; its variables lie in its runtime directory.
pub(super) fn flash(
    spec: &LaunchSpec,
    arch: Arch,
) -> Result<Option<(PathBuf, PathBuf)>, BackendError> {
    if spec.config.boot.firmware != Some(Firmware::Ovmf) {
        return Ok(None);
    }
    let package = match arch {
        Arch::X86_64 => "ovmf",
        Arch::Aarch64 => "qemu-efi-aarch64",
    };
    let (code, _) = place(arch).ok_or_else(|| BackendError::Missing {
        what: "UEFI firmware".into(),
        hint: format!("install the package {package}"),
    })?;
    Ok(Some((code.to_owned(), spec.rundir.join("uefi-vars.fd"))))
}

/// Makes the domain's copy of the variables, if it has none yet.
pub(super) fn prepare(spec: &LaunchSpec, arch: Arch, to: &Path) -> Result<(), BackendError> {
    let failed = |error| BackendError::io(format!("cannot write {}", to.display()), error);
    let Some((_, template)) = place(arch) else { return Ok(()) };
    if to.is_file() {
        return Ok(());
    }
    // Complete or not there at all: a half written flash chip would stop the machine for good.
    let half = spec.rundir.join("uefi-vars.new");
    let mut from = fs::File::open(template).map_err(failed)?;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&half)
        .map_err(failed)?;
    io::copy(&mut from, &mut file).map_err(failed)?;
    fs::rename(&half, to).map_err(failed)
}
