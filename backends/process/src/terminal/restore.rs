//! Starting an emulator with a saved state.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kxl_backend::{BackendError, LaunchSpec, Result, StateSource};
use kxl_domain::Capability;

use super::hold::Note;
use super::identify::Nature;
use super::keeper::Phase;
use super::live::{Restarts, Terminal};
use super::save::remove;
use super::snapshot;
use crate::profile::{Meaning, Profile, StateWay};

/// Refuses a state that does not belong to the simulator of this path.
///
/// # Errors
/// [`BackendError::Foreign`], [`BackendError::Unsupported`].
pub(super) fn fits(profile: &Profile, spec: &LaunchSpec, program: &Path) -> Result<()> {
    let Some(source) = &spec.image else { return Ok(()) };
    if profile.restore.kind == StateWay::None {
        let (backend, capability) = (profile.name.clone(), Capability::SaveState);
        return Err(BackendError::Unsupported { backend, capability });
    }
    let foreign = |why: String| Err(BackendError::Foreign { why });
    let (then, here) = (&source.machine, emulator(program));
    if then.backend != profile.name {
        return foreign(format!(
            "saved by backend \"{}\", this is backend \"{}\"",
            then.backend, profile.name
        ));
    }
    if then.emulator != here {
        return foreign(format!("saved by {}, this is {here}", then.emulator));
    }
    if source.memory.is_some() {
        return foreign("it has a memory block of its own".to_owned());
    }
    if let Some(why) = snapshot::misshapen(then, &spec.config) {
        return foreign(why);
    }
    let nature = Nature::of(program, profile, &spec.cachedir)?;
    nature.and_then(|nature| nature.misfit(then)).map_or(Ok(()), foreign)
}

/// Kind of emulator, by the program's name.
pub(super) fn emulator(program: &Path) -> String {
    program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned()
}

/// An administrator's command file without what would start the machine, end the program or change
/// a disk.
fn without(text: &str, profile: &Profile) -> String {
    let out = |line: &&str| {
        !begins(line, &profile.start.runs) && !begins(line, &profile.restore.leave_out)
    };
    let mut left: String = text.lines().filter(out).collect::<Vec<_>>().join("\n");
    left.push('\n');
    left
}

/// What follows when the machine is brought to a stop: where the administrator's command file starts
/// it, the one of the profile goes on then.
pub(super) fn restarts(profile: &Profile, spec: &LaunchSpec) -> Restarts {
    let starts_itself = |path: &PathBuf| {
        let text = fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().any(|line| begins(line, &profile.start.runs))
    };
    let itself = spec.image.is_none() && spec.config.ini.as_ref().is_some_and(starts_itself);
    match (&spec.config.start, itself) {
        (_, false) => Restarts::Never,
        (None, true) => Restarts::GoesOn,
        (Some(_), true) => Restarts::Anew,
    }
}

/// Whether a line begins with a command of the table, or an abbreviation of it; an entry with a
/// switch means the command with that switch.
fn begins(line: &str, table: &BTreeMap<String, usize>) -> bool {
    let line = line.trim().to_ascii_lowercase();
    let mut words = line.split_whitespace();
    let Some(command) = words.next() else { return false };
    table.iter().any(|(entry, shortest)| {
        let (whole, switch) = match entry.split_once(" -") {
            Some((whole, switch)) => (whole, Some(switch)),
            None => (entry.as_str(), None),
        };
        let switched =
            |switch: &str| words.clone().any(|word| word.starts_with('-') && word.contains(switch));
        command.len() >= *shortest && whole.starts_with(command) && switch.is_none_or(switched)
    })
}

impl Terminal {
    /// Waits until the guest has started, or until it is ready to go on from its state.
    ///
    /// # Errors
    /// [`BackendError::Launch`] with what the emulator said, [`BackendError::TimedOut`].
    pub(super) async fn begin(
        &mut self,
        image: Option<&StateSource>,
        program: &str,
        port: Option<u16>,
    ) -> Result<()> {
        let Some(image) = image else { return self.ready(program, port).await };
        let device = Arc::clone(&image.device);
        if snapshot::reads_by_itself(&self.shared.profile) {
            let path = self.shared.state_files.restore.clone();
            return snapshot::lay_out(device, path).await;
        }
        self.load(device, program).await
    }

    /// Loads the state into an emulator that comes to its prompt, and leaves it there.
    ///
    /// # Errors
    /// [`BackendError::Launch`] with what the emulator said.
    pub(super) async fn load(&mut self, device: Arc<OwnedFd>, program: &str) -> Result<()> {
        let failed = |why: String| BackendError::Launch { program: program.to_owned(), why };
        let profile = self.shared.profile.clone();
        let ready = Duration::from_millis(profile.ready.timeout_ms);
        if !self.comes_to_prompt(ready).await? {
            return Err(failed("its ini file starts the machine: a state cannot come back".into()));
        }
        let path = self.shared.state_files.restore.clone();
        let loaded = {
            let to = path.clone();
            let copied = tokio::task::spawn_blocking(move || copy(&device, &to)).await;
            copied.map_err(io::Error::other).and_then(|copied| copied).map_err(|error| {
                BackendError::io(format!("cannot write {}", path.display()), error)
            })?;
            let deadline = Duration::from_millis(profile.restore.timeout_ms);
            self.go_through(&profile.restore.step, &path, deadline).await
        };
        remove(&path);
        loaded.map_err(|error| match error {
            BackendError::Control { command, why } => failed(format!("{command}: {why}")),
            other => other,
        })?;
        self.shared.hold.note(Note::Still);
        self.shared.phase.set(Phase::AtPrompt(Some(Meaning::Stopped)));
        Ok(())
    }
}

/// Copies a file to where the emulator finds it.
fn copy(from: &Arc<OwnedFd>, to: &Path) -> io::Result<()> {
    // Read by offset: others may hold the same open file.
    let from = File::from(from.try_clone()?);
    remove(to);
    let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let (mut buffer, mut at) = (vec![0; 256 << 10], 0);
    loop {
        match from.read_at(&mut buffer, at)? {
            0 => return Ok(()),
            count => {
                to.write_all(&buffer[..count])?;
                at += count as u64;
            }
        }
    }
}

/// The command file of a restore: the administrator's without what would start the machine.
pub(super) fn ini(profile: &Profile, path: &Path) -> Result<Vec<u8>> {
    let text = fs::read(path).map_err(|error| BackendError::file("ini", path, error))?;
    let text = String::from_utf8_lossy(&text);
    Ok(without(&text, profile).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_starts_a_machine_or_makes_a_disk_is_left_out_of_its_command_file() {
        let profile = Profile::load("simh", Path::new("/nonexistent")).unwrap();
        let kept = |line: &str| without(line, &profile).trim() == line.trim();
        for line in [
            "boot rq0",
            "B RL0",
            " bo cpu",
            "run 1000",
            "ru",
            "go",
            "G 400",
            "cont",
            "c",
            "step",
            "s 10",
            "quit",
            "q",
            "exit",
            "exi",
            "bye",
            "do other.ini",
            "attach -n rk0 x.img",
            "att -qn rk0 x.img",
            "at -N rk x",
        ] {
            assert!(!kept(line), "{line:?}");
        }
        for line in [
            "set cpu 11/73",
            "attach rk0 /disks/new.img",
            "attach -r rk0 x",
            "reset",
            "restore x",
            "break 1000",
            "dep 1000 5",
            "de 1000 5",
            "get x",
            "assert x",
            "examine 10",
            "; go",
            "",
            "show cpu",
            "load boot.bin",
            "echo go",
            "contrive",
        ] {
            assert!(kept(line), "{line:?}");
        }
    }
}
