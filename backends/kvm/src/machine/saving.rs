//! Saves and states that come in, as far as they are the machine's.

use std::fs::File;
use std::sync::{Arc, PoisonError};

use super::engine::{EngineError, Shell};
use super::made::Made;
use super::{Machine, MachineError};
use crate::api::control::{
    Limits, Migrate, Migration, MigrationStatus, Outcome, Place, Refusal, RunState,
};
use crate::api::notices::What;
use crate::memory;
use crate::snapshot::dirty::Tracker;
use crate::snapshot::load::{self, LoadError};
use crate::snapshot::records::{self, RecordError, Saved};
use crate::snapshot::save::{Job, Saver, Target, Wish};
use crate::vcpu::State as VcpuState;
use crate::vcpu::cpuid;

impl Machine {
    /// Begins a save.
    pub(super) fn save(&mut self, order: Migrate) -> Outcome {
        self.not_while_saved()?;
        if self.ended.is_some() {
            return Err(MachineError::Ended.into());
        }
        let engine = self.engine.as_ref().ok_or(MachineError::NoState)?;
        // Before the first look at memory: what is written from here on comes again.
        let tracker = Tracker::begin(engine.vm().fd(), &self.memory)?;
        let (file, made) = match order.to {
            Place::Fd(fd) => (File::from(fd), None),
            Place::Path(path) => {
                // A state that is there may be mapped by a machine that runs.
                let (file, made) = Made::new(path)?;
                (file, Some(made))
            }
        };
        let target = Target::new(file, order.offset)?;
        self.board.slots().note_writes(true)?;
        self.made = made;
        let job = Job {
            memory: self.memory.clone(),
            origin: self.origin.take(),
            pagemap: self.pagemap.take(),
            tracker,
            live: self.state == RunState::Running,
            target,
            wait: order.pause_before_switchover,
        };
        self.ran = false;
        match Saver::begin(job, &self.limits, &self.notices) {
            Ok(saver) => self.saver = Some(saver),
            Err(error) => {
                // The job is lost with the thread that was to have it: all pages are looked at by a
                // later save, which costs time only.
                self.made = None;
                self.board.slots().note_writes(false)?;
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Does what a save in flight wants.
    pub(super) fn serve_save(&mut self) {
        match self.saver.as_ref().and_then(Saver::wish) {
            None => {}
            // One that was given up is not heard any more, and hears that by the silence.
            Some(Wish::State(_)) if self.saver.as_ref().is_none_or(Saver::is_cancelled) => {}
            Some(Wish::State(say)) => {
                let state = self.stand_for_save();
                let _given_up = say.send(state.map_err(|error| crate::log::chain(&error)));
            }
            Some(Wish::Over(ended)) => self.end_of_save(*ended),
        }
    }

    /// Has the machine stand still for the last pass; its devices' state.
    fn stand_for_save(&mut self) -> Result<Vec<u8>, MachineError> {
        if self.state == RunState::Running {
            self.stand()?;
            if let Some(end) = self.ending.how() {
                self.end(end)?;
                return Err(MachineError::Ended);
            }
            self.ran = true;
            self.notices.post(What::Stop);
        }
        if self.ended.is_some() {
            return Err(MachineError::Ended);
        }
        self.state = RunState::FinishMigrate;
        Ok(records::encode(&self.saved()?))
    }

    fn saved(&self) -> Result<Saved, MachineError> {
        let engine = self.engine.as_ref().ok_or(MachineError::NoState)?;
        let indices = self.kvm.get_msr_index_list();
        let indices = indices.map_err(|error| EngineError::Setup("list of registers", error))?;
        // KVM has the memory types as well, and does not say so.
        let types =
            [0x250, 0x258, 0x259, 0x2ff].into_iter().chain(0x268..0x270).chain(0x200..0x210);
        let indices: Arc<[u32]> = indices.as_slice().iter().copied().chain(types).collect();
        Ok(Saved {
            memory: memory::size(&self.memory),
            engine: engine.state(&indices)?,
            board: self.board.state()?,
        })
    }

    /// The save is over, one way or the other.
    fn end_of_save(&mut self, ended: Migration) {
        let Some(mut saver) = self.saver.take() else { return };
        // Of memory that was cleared meanwhile its file is the origin no longer.
        let cleared = std::mem::take(&mut self.cleared);
        if let Some(job) = saver.job() {
            self.pagemap = job.pagemap;
            self.origin = job.origin.filter(|_| !cleared);
        }
        if let Err(error) = self.board.slots().note_writes(false) {
            crate::log::line(&format!("packets go on through this process: {error}"));
        }
        let whole = ended.status == MigrationStatus::Completed;
        if let Some(made) = self.made.take().filter(|_| whole) {
            made.keep();
        }
        if self.state == RunState::FinishMigrate {
            self.state = if whole { RunState::Postmigrate } else { RunState::Paused };
            if !whole && self.ran {
                self.go_on_after_save();
            }
        }
        self.notices.post(What::Migration(ended.status));
        self.last = ended;
    }

    fn go_on_after_save(&mut self) {
        if let Err(error) = self.go() {
            let text = crate::log::chain(&error);
            crate::log::line(&format!("the guest does not go on after a save that failed: {text}"));
        }
    }

    /// Gives a save in flight up, for what makes it useless. It tells when it is over, as always: it
    /// may wait for whoever reads it.
    pub(super) fn give_save_up(&self) {
        if let Some(saver) = &self.saver {
            saver.cancel();
        }
    }

    /// Refuses what would change the machine under a save.
    pub(super) fn not_while_saved(&self) -> Outcome {
        match self.saver {
            Some(_) => Err(Refusal::new("a save is in flight: wait for it, or say migrate_cancel")),
            None => Ok(()),
        }
    }

    pub(super) fn continue_save(&self) -> Outcome {
        let waits = self.saver.as_ref().is_some_and(Saver::go_on);
        if waits { Ok(()) } else { Err(Refusal::new("no save waits to be continued")) }
    }

    pub(super) fn save_progress(&self) -> Migration {
        self.saver.as_ref().map_or_else(|| self.last.clone(), Saver::progress)
    }

    pub(super) fn set_limits(&self, limits: Limits) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    pub(super) fn save_limits(&self) -> Limits {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the machine back from a state, or leaves it as it was: waiting for one.
    pub(super) fn bring_in(&mut self, from: File, offset: u64) -> Result<(), MachineError> {
        let done = self.load(from, offset, None);
        if done.is_err() {
            self.engine = None;
            self.board.reset()?;
            self.memory_as_given().map_err(MachineError::Clear)?;
        }
        done
    }

    /// Memory as it was before a state came in. What is mapped shared is its only copy, and stays.
    fn memory_as_given(&self) -> std::io::Result<()> {
        match (&self.origin, self.shared) {
            (_, true) => Ok(()),
            (None, false) => memory::clear(&self.memory),
            (Some(origin), false) => memory::map_again(&self.memory, &origin.file, origin.at),
        }
    }

    /// Brings the machine back from a state, in this VM if there is one already: it stands still
    /// afterwards.
    pub(super) fn load(
        &mut self,
        from: File,
        offset: u64,
        shell: Option<Shell>,
    ) -> Result<(), MachineError> {
        let given = self.config.memory_file.is_some();
        let (saved, origin) = load::load(from, offset, &self.memory, given)?;
        let want = memory::size(&self.memory);
        if saved.memory != want {
            return Err(LoadError::Memory { have: saved.memory, want }.into());
        }
        self.compare_processors(&saved.engine.vcpus)?;
        let shell = shell.map_or_else(|| self.shell(), Ok)?;
        shell.vm.restore(&saved.engine.vm).map_err(EngineError::from)?;
        self.board.restore(saved.board)?;
        // Interrupts that a device raises while it is put back reach controllers that have theirs.
        self.board.connect(&shell.vm)?;
        self.board.settle();
        self.engine = Some(shell.resume(&saved.engine, self.board.around())?);
        if origin.is_some() {
            self.origin = origin;
        }
        self.state = RunState::Paused;
        Ok(())
    }

    /// Refuses a state whose processors show what this host's do not have.
    fn compare_processors(&self, vcpus: &[VcpuState]) -> Result<(), MachineError> {
        let damaged = || LoadError::Records(RecordError::Damaged(records::VCPU));
        let first = vcpus.first().ok_or_else(damaged)?;
        let leaves = first.leaves().map_err(|_| damaged())?;
        match cpuid::lacking(&leaves, &self.offered) {
            Some(lacking) => Err(MachineError::Lacking(lacking)),
            None => Ok(()),
        }
    }
}
