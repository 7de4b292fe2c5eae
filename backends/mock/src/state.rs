//! A saved state: what it says of its machine, and its device stream.
//!
//! The stream is one line of JSON, then as many bytes of padding as the script asked for.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use kxl_backend::{BackendError, LaunchSpec, Result, StateSource};
use kxl_domain::DomainConfig;
use kxl_domain::image::Machine;
use serde::{Deserialize, Serialize};

use crate::backend::NAME;
use crate::memory::Memory;
use crate::protocol::Saved;
use crate::script::Script;

/// The only machine type there is.
const MACHINE: &str = "mock-1";

/// Longest line of JSON: that of a guest with a full line of input.
pub(crate) const LONGEST: u64 = 64 << 10;

/// The line at the beginning of the device stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    saved: Saved,
    padding: u64,
}

/// The parts of a version.
pub(crate) fn version(text: &str) -> Option<Vec<u64>> {
    text.split('.').map(|part| part.parse().ok()).collect()
}

/// The machine that a configuration makes.
pub(crate) fn machine(config: &DomainConfig, script: &Script) -> Machine {
    let mut devices =
        vec![format!("cpus {}", config.vcpus), format!("memory {} MiB", config.memory_mib)];
    devices.extend(script.saving.memory.map(|bytes| format!("block {bytes}")));
    devices.extend(config.disks.iter().map(|disk| format!("disk {}", disk.vdev)));
    devices.extend((0..config.nics.len()).map(|number| format!("nic {number}")));
    Machine {
        backend: NAME.to_owned(),
        emulator: NAME.to_owned(),
        version: script.saving.version.clone(),
        machine: MACHINE.to_owned(),
        devices,
        ..Machine::default()
    }
}

/// Refuses a state that does not belong to the machine of this configuration.
///
/// # Errors
/// [`BackendError::Foreign`].
pub(crate) fn fits(spec: &LaunchSpec, script: &Script) -> Result<()> {
    let Some(source) = &spec.image else { return Ok(()) };
    let foreign = |why: String| Err(BackendError::Foreign { why });
    let (here, then) = (machine(&spec.config, script), &source.machine);
    if let Some(why) = &script.saving.foreign {
        return foreign(why.clone());
    }
    if (&then.backend, &then.emulator) != (&here.backend, &here.emulator) {
        return foreign(format!(
            "saved by {} of backend \"{}\", this is backend \"{NAME}\"",
            then.emulator, then.backend
        ));
    }
    if version(&then.version) > version(&here.version) {
        let (then, here) = (&then.version, &here.version);
        return foreign(format!("saved by {NAME} {then}, this host has {here}"));
    }
    if then.machine != here.machine {
        return foreign(format!("machine type {}, this host has {MACHINE}", then.machine));
    }
    if then.devices != here.devices {
        let (then, here) = (then.devices.join(", "), here.devices.join(", "));
        return foreign(format!("saved with {then}; the configuration makes {here}"));
    }
    let size = source.memory.as_ref().map(|memory| memory.layout.size);
    if size != script.saving.memory {
        let shown = |size: Option<u64>| size.map_or("none".to_owned(), |size| size.to_string());
        let (then, here) = (shown(size), shown(script.saving.memory));
        return foreign(format!("a memory block of {then} bytes, the configuration makes {here}"));
    }
    Ok(())
}

/// The device stream of a state.
///
/// # Errors
/// None in practice: a state is always representable.
pub(crate) fn stream(saved: Saved, padding: u64) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(&Head { saved, padding })?;
    bytes.push(b'\n');
    bytes.extend((0..padding).map(padding_byte));
    Ok(bytes)
}

const fn padding_byte(at: u64) -> u8 {
    (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

/// Reads a state back and compares its memory with what it must be.
///
/// # Errors
/// What is wrong with it.
pub(crate) async fn read(source: StateSource, script: Script) -> Result<Saved, String> {
    let reading = tokio::task::spawn_blocking(move || {
        let saved = head(&source.device)?;
        let (Some(from), Some(bytes)) = (source.memory, script.saving.memory) else {
            return Ok(saved);
        };
        if script.saving.verify {
            let memory = Memory::new(bytes, script.saving.touched, saved.seed);
            let differs = owned(&from.file).and_then(|file| memory.differs(saved.writes, &file));
            match differs {
                Ok(None) => {}
                Ok(Some(at)) => return Err(format!("its memory is not what was saved at {at:#x}")),
                Err(error) => return Err(format!("its memory cannot be read: {error}")),
            }
        }
        Ok(saved)
    });
    reading.await.map_err(|error| error.to_string())?
}

fn head(device: &Arc<OwnedFd>) -> Result<Saved, String> {
    let bytes = owned(device).and_then(|file| {
        let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, 0).map(|()| bytes)
    });
    let bytes = bytes.map_err(|error| format!("its device stream cannot be read: {error}"))?;
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or("its device stream is cut off")?;
    let head: Head = serde_json::from_slice(&bytes[..end])
        .map_err(|error| format!("its device stream is none of the mock's: {error}"))?;
    let padding = &bytes[end + 1..];
    if padding.len() as u64 != head.padding
        || padding.iter().zip(0..).any(|(byte, at)| *byte != padding_byte(at))
    {
        return Err("the padding of its device stream is not what was saved".to_owned());
    }
    Ok(head.saved)
}

/// The same open file, read by offset only.
fn owned(fd: &Arc<OwnedFd>) -> io::Result<File> {
    fd.try_clone().map(File::from)
}
