//! Saving an emulator that writes its state into a file when told so at its prompt.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kxl_backend::{
    BackendError, Live, OpenFile, Result, SaveOrder, SavedState, StateSink, StateSize, Watch,
};
use kxl_domain::Capability;
use kxl_domain::image::{Machine, Moment};
use nix::sys::signal::Signal;

use super::dialogue::Before;
use super::hold::Note;
use super::identify::Nature;
use super::keeper::Phase;
use super::live::Terminal;
use super::room;
use crate::profile::StateWay;

/// Bytes given to the sink at once.
const PORTION: usize = 256 << 10;

/// What the file's system must have left when the file is written: the emulator does not tell
/// whether the last bytes of it found room.
const ROOM: u64 = 64 << 10;

impl Terminal {
    /// [`kxl_backend::Live::state_size`].
    pub(super) fn size(&self) -> Result<StateSize> {
        self.can_save()?;
        if self.shared.profile.save.kind == StateWay::Qmp {
            return self.snapshot_size();
        }
        let growth = self.shared.profile.save.growth;
        let device = room::bound(&self.process, growth).ok_or_else(|| self.gone())?;
        Ok(StateSize { memory: None, touched: 0, device })
    }

    fn can_save(&self) -> Result<()> {
        let none = self.shared.profile.save.kind == StateWay::None;
        if none { Err(self.lacks(Capability::SaveState)) } else { Ok(()) }
    }

    /// [`kxl_backend::Live::save_state`]. There is no saving while the guest runs.
    pub(super) async fn save(
        &mut self,
        order: SaveOrder,
        sink: Box<dyn StateSink>,
    ) -> Result<SavedState> {
        self.can_save()?;
        if self.shared.profile.save.kind == StateWay::Qmp {
            return self.snapshot(&order.watch, sink).await;
        }
        if self.shared.profile.save.kind == StateWay::SignalThenExit {
            return self.save_by_end(&order, sink).await;
        }
        let saved = match self.bring_to_prompt().await {
            Ok(()) => self.put(&order.watch, sink).await,
            Err(error) => Err(error),
        };
        remove(&self.shared.state_files.save);
        if saved.is_err()
            && let Err(error) = self.as_before().await
        {
            tracing::warn!(%error, "the guest stands still after a failed save");
        }
        saved
    }

    /// Puts the state of a machine at its prompt into the sink.
    async fn put(&mut self, watch: &Arc<Watch>, sink: Box<dyn StateSink>) -> Result<SavedState> {
        let running = self.before == Some(Before::Running);
        let moment = Moment { stopped_ms: now_ms(), running };
        let machine = self.machine().await?;
        let save = self.shared.profile.save.clone();
        let (deadline, path) =
            (Duration::from_millis(save.timeout_ms), self.shared.state_files.save.clone());
        remove(&path);
        self.go_through(&save.step, &path, deadline).await?;
        let whole = open_whole(&path, save.end.as_bytes())
            .map_err(|error| BackendError::io(format!("{} is not whole", path.display()), error))?;
        if self.shared.buffers() {
            self.flush().await?;
        }
        if watch.is_cancelled() {
            return Err(BackendError::Cancelled);
        }
        let files = files(self.process.identity().pid, &self.rundir);
        self.hand_over(whole, files.clone(), sink, watch).await?;
        if watch.is_cancelled() {
            return Err(BackendError::Cancelled);
        }
        Ok(SavedState { machine, moment, went_on_ms: None, snapshots: Vec::new(), files })
    }

    /// Has disks written that the emulator keeps in its memory. They are detached for that, and the
    /// state that was just saved attaches them again; a guest whose disks did not come back must
    /// not go on.
    async fn flush(&mut self) -> Result<()> {
        let command = "save";
        let sockets = fs::read_dir(format!("/proc/{}/fd", self.process.identity().pid))
            .map(|fds| fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok()))
            .is_ok_and(|mut fds| {
                fds.any(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:"))
            });
        if sockets {
            let why = "a disk is kept in the emulator's memory and could only be written by taking \
                       its network down: detach one of them at its prompt first";
            return Err(BackendError::Control { command: command.into(), why: why.into() });
        }
        let save = &self.shared.profile.save;
        let path = &self.shared.state_files.save;
        let deadline = Duration::from_millis(save.timeout_ms);
        let flushed = self.go_through(&save.flush, path, deadline).await;
        flushed.map_err(|error| {
            self.before = Some(Before::Paused);
            let why = format!(
                "{error}; the guest is left standing still, as it may have lost its disks: destroy \
                 it or go back to an earlier image"
            );
            BackendError::Control { command: command.into(), why }
        })
    }

    /// What it says it is, asked once.
    async fn machine(&mut self) -> Result<Machine> {
        let profile = &self.shared.profile;
        let Some(identify) = profile.identify.clone() else {
            return Err(self.lacks(Capability::SaveState));
        };
        if self.nature.is_none() {
            let deadline = Duration::from_millis(profile.save.timeout_ms);
            let version = self.ask(&identify.version, deadline).await?;
            let devices = match &identify.devices {
                Some(command) => self.ask(command, deadline).await?,
                None => String::new(),
            };
            self.nature = Nature::read(&identify, &version, &devices);
            if self.nature.is_none() {
                let why = format!("an answer that its profile does not expect: {version:?}");
                return Err(BackendError::Control { command: identify.version, why });
            }
        }
        let nature = self.nature.clone();
        let Nature { kind, version, devices } = nature.ok_or_else(|| self.gone())?;
        Ok(Machine {
            backend: self.shared.profile.name.clone(),
            emulator: self.emulator.clone(),
            version,
            machine: kind,
            devices,
            ..Machine::default()
        })
    }

    /// Moves the file into the sink and the attached files to the disk, on a thread that may wait
    /// for them.
    async fn hand_over(
        &self,
        file: File,
        attached: Vec<OpenFile>,
        mut sink: Box<dyn StateSink>,
        watch: &Arc<Watch>,
    ) -> Result<()> {
        let dropped = Tether(Arc::default());
        let (watch, gone) = (Arc::clone(watch), Arc::clone(&dropped.0));
        let moving = tokio::task::spawn_blocking(move || {
            let ended = || watch.is_cancelled() || gone.load(Ordering::Relaxed);
            watch.expect(file.metadata().map_or(0, |meta| meta.len()));
            let mut buffer = vec![0; PORTION];
            let mut file = file;
            loop {
                if ended() {
                    return Err(BackendError::Cancelled);
                }
                let count = file
                    .read(&mut buffer)
                    .map_err(|error| BackendError::io("cannot read the state back", error))?;
                if count == 0 {
                    break;
                }
                sink.device(&buffer[..count]).map_err(BackendError::Sink)?;
                watch.moved(count as u64);
            }
            for disk in attached.iter().filter(|disk| disk.writable) {
                File::open(&disk.path).and_then(|file| file.sync_all()).map_err(|error| {
                    BackendError::io(format!("cannot flush {}", disk.path.display()), error)
                })?;
            }
            Ok(())
        });
        moving.await.unwrap_or_else(|error| Err(BackendError::Sink(io::Error::other(error))))
    }

    /// After a save that failed: the guest as it was.
    async fn as_before(&mut self) -> Result<()> {
        match self.before {
            Some(Before::Running) => self.bring_back(true).await,
            Some(Before::Paused) => self.bring_back(false).await,
            Some(Before::Prompt) => {
                let heard = self.shared.hold.heard(<[u8]>::len);
                self.shared.hold.give_back(heard);
                self.before = None;
                Ok(())
            }
            // It ended, or nothing was done to it.
            None => Ok(()),
        }
    }

    /// [`kxl_backend::Live::go_on`].
    pub(super) async fn bring_back(&mut self, run: bool) -> Result<()> {
        let hold = &self.shared.hold;
        if hold.held() {
            // Also one that was told to stop and has not done so yet: the signal takes that back.
            self.signal_and_see(Signal::SIGCONT, false).await?;
        }
        if self.interrupted {
            // A save that was dropped, or an emulator that took its time.
            self.at_prompt().await?;
        }
        if !matches!(self.shared.phase.get(), Phase::AtPrompt(_)) {
            if self.shared.hold.held() {
                self.shared.hold.give_back(0);
            }
            return self.stop_or_go(!run).await;
        }
        if !run {
            // At a prompt that nobody can type at, a machine stands still.
            if self.before != Some(Before::Prompt) {
                self.shared.hold.take(Note::Still);
                return Ok(());
            }
            return self.as_before_prompt();
        }
        self.stop_or_go(false).await
    }

    fn as_before_prompt(&mut self) -> Result<()> {
        let heard = self.shared.hold.heard(<[u8]>::len);
        self.shared.hold.give_back(heard);
        self.before = None;
        Ok(())
    }
}

/// Ends the thread's work where the save is dropped.
pub(super) struct Tether(pub(super) Arc<AtomicBool>);

impl Drop for Tether {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Removes a file that may not be there.
pub(super) fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "cannot remove");
        }
        Ok(()) | Err(_) => {}
    }
}

/// Opens a file that was written to its end.
pub(super) fn open_whole(path: &Path, end: &[u8]) -> io::Result<File> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let from = length.checked_sub(end.len() as u64);
    let mut last = Vec::new();
    if let Some(from) = from {
        file.seek(SeekFrom::Start(from))?;
        (&file).read_to_end(&mut last)?;
    }
    let room = nix::sys::statvfs::fstatvfs(file.as_fd())
        .map(|stat| stat.blocks_available() * stat.fragment_size())?;
    if length == 0 || last != end || room < ROOM {
        let why = format!("{length} bytes, and {room} free beside it");
        return Err(io::Error::new(io::ErrorKind::StorageFull, why));
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// The files that a simulator has open for its guest: it attaches them by its own commands.
pub(super) fn files(pid: i32, rundir: &Path) -> Vec<OpenFile> {
    let open = |fd: fs::DirEntry| {
        let number = fd.file_name();
        let meta = fs::metadata(fd.path()).ok().filter(fs::Metadata::is_file)?;
        let path = fs::read_link(fd.path()).ok()?;
        // A file that was removed has no identity to come back to.
        let there = fs::metadata(&path).is_ok_and(|there| same(&there, &meta));
        let info = fs::read_to_string(PathBuf::from(format!("/proc/{pid}/fdinfo")).join(&number));
        let flags = info
            .ok()?
            .lines()
            .find_map(|line| i32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok())?;
        let writable = flags & libc::O_ACCMODE != libc::O_RDONLY;
        (there && !path.starts_with(rundir)).then_some(OpenFile { path, writable })
    };
    let mut files: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
        .map(|fds| fds.flatten().filter_map(open).collect())
        .unwrap_or_default();
    files.sort_by(|a, b| a.path.cmp(&b.path).then(b.writable.cmp(&a.writable)));
    files.dedup_by(|a, b| a.path == b.path);
    files
}

fn same(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
