//! The machine: processors, memory and devices, and what can be done to them as a whole.
//!
//! It belongs to the main thread. What happens on other threads is left in an [`Ending`] (the guest
//! ends) or in a save's report, and [`Control::attend`](crate::api::Control::attend) makes the consequences of it.

pub mod board;
mod control;
pub mod engine;
#[allow(unsafe_code, reason = "inherited descriptors become owned")]
pub mod files;
mod made;
mod plugging;
pub mod resources;
mod saving;
pub mod slots;
pub mod vm;

use std::fs::File;
use std::sync::{Arc, Mutex};

use kvm_bindings::kvm_cpuid_entry2;
use kvm_ioctls::Kvm;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress};

use self::board::{Board, BoardError};
use self::engine::{Engine, EngineError, Shell};
use self::made::Made;
pub use self::resources::{ResourceError, Resources};
use crate::api::Notices;
use crate::api::control::{Limits, Migration, RunState};
use crate::api::notices::{Cause, PanicAction, What};
use crate::boot::{self, Payload};
use crate::config::{Actions, AfterEnd, AfterReboot, Config};
use crate::devices::{End, Ending};
use crate::memory::{self, Backing, Memory, MemoryError};
use crate::snapshot::dirty::Origin;
use crate::snapshot::load::LoadError;
use crate::snapshot::save::Saver;
use crate::vcpu::cpuid::{self, Lacking};
use crate::virtio::{Observer, Told};
use crate::{acpi, layout, thread};

/// Why there is no machine.
#[derive(Debug, Error)]
pub enum MachineError {
    /// No memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// No devices.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// No processors.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// No descriptor for what threads have to say.
    #[error("cannot make an event for the machine's own threads")]
    Event(#[source] std::io::Error),
    /// The system refuses a thread.
    #[error("cannot start a thread that makes the machine")]
    Thread(#[source] std::io::Error),
    /// The system refuses to forget what was in memory.
    #[error("cannot clear guest memory for a reset")]
    Clear(#[source] std::io::Error),
    /// There is nothing to boot: its state came without a kernel.
    #[error("there is no kernel to boot: name one beside the state when the machine is started")]
    NoKernel,
    /// The state does not come in.
    #[error("cannot bring the machine back")]
    Load(#[from] LoadError),
    /// This host's processors have less than the state's.
    #[error("the state needs features that this host's processors lack: {0}")]
    Lacking(Lacking),
    /// It waits for a state.
    #[error("the machine waits for its state: say migrate-incoming first")]
    NoState,
    /// Its guest has ended.
    #[error("the guest has ended: system_reset starts it again")]
    Ended,
}

/// The machine.
#[derive(Debug)]
pub struct Machine {
    config: Config,
    kvm: Kvm,
    memory: Memory,
    payload: Option<Payload>,
    /// What the processors show, without what differs between them.
    leaves: Vec<kvm_cpuid_entry2>,
    board: Board,
    /// None while a state is waited for.
    engine: Option<Engine>,
    state: RunState,
    /// How the guest ended, while it stands ended.
    ended: Option<Cause>,
    actions: Actions,
    notices: Notices,
    ending: Ending,
    /// What KVM offers on this host.
    offered: Vec<kvm_cpuid_entry2>,
    /// The process's own pagemap, where it could be opened.
    pagemap: Option<File>,
    /// What memory was mapped from.
    origin: Option<Origin>,
    limits: Arc<Mutex<Limits>>,
    saver: Option<Saver>,
    /// What a save found: the machine ran.
    ran: bool,
    /// Memory was cleared under the save in flight.
    cleared: bool,
    /// Memory is mapped shared: its file is the only copy.
    shared: bool,
    /// The file that the save in flight was given.
    made: Option<Made>,
    /// The last save.
    last: Migration,
}

/// Has what devices tell become notices.
fn observer(memory: &Memory, notices: &Notices) -> Observer {
    let (size, notices) = (memory::size(memory), notices.clone());
    Observer::new(move |told| {
        notices.post(match told {
            Told::Given(bytes) => What::BalloonChange(size.saturating_sub(bytes)),
            Told::DiskError { disk, write, reason } => {
                What::BlockIoError { device: disk, write, reason }
            }
        });
    })
}

impl Machine {
    /// Makes the machine that a configuration describes out of what was opened for it. It stands
    /// still; [`begin`](Self::begin) lets it run.
    ///
    /// # Errors
    /// Any [`MachineError`].
    pub fn create(
        config: Config,
        resources: Resources,
        notices: &Notices,
    ) -> Result<Self, MachineError> {
        let Resources { kvm, payload, backing, parts, incoming, pagemap, .. } = resources;
        let memory = memory::map(config.memory_mib, &backing)?;
        let shared = matches!(backing, Backing::Shared(..));
        let origin = match backing {
            Backing::Anonymous => None,
            Backing::Private(file, at) | Backing::Shared(file, at) => Some(Origin { file, at }),
        };
        let waker = notices.clone();
        let ending = Ending::new(Arc::new(move || waker.wake()));
        let waits = config.incoming.is_some() && incoming.is_none();
        let rest = || -> Result<_, MachineError> {
            let offered = cpuid::offered(&kvm).map_err(EngineError::from)?;
            let leaves = cpuid::common(&offered, &config.cpu).map_err(EngineError::from)?;
            let observer = observer(&memory, notices);
            let board = Board::new(&config, &memory, &ending, parts, &observer)?;
            Ok((offered, leaves, board))
        };
        // To make a VM KVM mostly waits, for whoever may read what it changes: the rest is done
        // meanwhile.
        let (shell, rest) = if waits {
            (None, rest())
        } else {
            let shell = || Shell::create(&kvm, &memory, config.vcpus);
            let (shell, rest) = thread::beside(shell, rest).map_err(MachineError::Thread)?;
            (Some(shell?), rest)
        };
        let (offered, leaves, board) = rest?;
        let mut machine = Self {
            actions: config.actions,
            config,
            kvm,
            memory,
            payload,
            leaves,
            board,
            engine: None,
            state: RunState::Prelaunch,
            ended: None,
            notices: notices.clone(),
            ending,
            offered,
            pagemap,
            origin,
            limits: Arc::default(),
            saver: None,
            ran: false,
            cleared: false,
            shared,
            made: None,
            last: Migration::default(),
        };
        match (shell, incoming) {
            (Some(shell), Some(state)) => machine.load(state, 0, Some(shell))?,
            (Some(shell), None) => machine.engine = Some(machine.boot(shell)?),
            (None, _) => machine.state = RunState::Inmigrate,
        }
        Ok(machine)
    }

    /// Leaves the machine as it is, for a process that ends: the threads of devices are not waited
    /// for, as a disk that does not answer would keep them.
    pub fn leave(mut self) {
        self.give_save_up();
        // A state that is not whole goes.
        self.made = None;
        std::mem::forget(self);
    }

    /// Lets it run, unless the configuration has it stand still or it waits for a state.
    ///
    /// # Errors
    /// Any [`MachineError`].
    pub fn begin(&mut self) -> Result<(), MachineError> {
        if self.config.paused || self.engine.is_none() {
            return Ok(());
        }
        self.go()
    }

    /// A VM around memory, without devices.
    fn shell(&self) -> Result<Shell, MachineError> {
        Ok(Shell::create(&self.kvm, &self.memory, self.config.vcpus)?)
    }

    /// A new engine that begins with the kernel.
    fn boot(&mut self, shell: Shell) -> Result<Engine, MachineError> {
        let payload = self.payload.as_mut().ok_or(MachineError::NoKernel)?;
        self.board.connect(&shell.vm)?;
        let tables = acpi::tables(self.config.vcpus, &self.board.slots().numbers());
        let memory = &self.memory;
        memory
            .write_slice(&tables, GuestAddress(layout::ACPI))
            .map_err(|_| EngineError::Boot(boot::BootError::Memory))?;
        let entry = boot::load(memory, payload, layout::ACPI).map_err(EngineError::from)?;
        let first = boot::of_entry(memory, entry, shell.fresh()?).map_err(EngineError::from)?;
        Ok(shell.boot(&self.leaves, &first, self.board.around())?)
    }

    /// Lets devices and processors go on.
    fn go(&mut self) -> Result<(), MachineError> {
        let engine = self.engine.as_mut().ok_or(MachineError::NoState)?;
        self.board.resume()?;
        engine.run()?;
        self.state = RunState::Running;
        self.notices.post(What::Resume);
        Ok(())
    }

    /// Has processors and devices stand still.
    fn stand(&mut self) -> Result<(), MachineError> {
        if let Some(engine) = &mut self.engine {
            engine.stand()?;
            self.board.pause()?;
        }
        Ok(())
    }

    /// Makes the consequences of what other threads have left.
    ///
    /// # Errors
    /// Of a machine that cannot go on; the process has to end.
    fn look(&mut self) -> Result<(), MachineError> {
        if self.state == RunState::Running
            && let Some(end) = self.ending.how()
        {
            self.end(end)?;
        }
        self.serve_save();
        Ok(())
    }

    /// The guest has ended in this way.
    fn end(&mut self, end: End) -> Result<(), MachineError> {
        self.stand()?;
        self.give_save_up();
        match end {
            End::Poweroff => self.over(Cause::GuestShutdown),
            // One that came back from a state may have been given no kernel to begin with again.
            End::Reset | End::TripleFault
                if self.actions.reboot == AfterReboot::Reset && self.payload.is_some() =>
            {
                self.rebuild()?;
                self.notices.post(What::Reset(cause_of_reset(end)));
                self.board.resume()?;
                if let Some(engine) = &mut self.engine {
                    engine.run()?;
                }
            }
            End::Reset | End::TripleFault => self.over(cause_of_reset(end)),
            End::Panic => {
                self.ended = Some(Cause::GuestPanic);
                self.state = RunState::GuestPanicked;
                if self.actions.panic == AfterEnd::Pause {
                    self.notices.post(What::Panicked(PanicAction::Pause));
                    self.notices.post(What::Stop);
                } else {
                    self.notices.post(What::Panicked(PanicAction::Poweroff));
                    self.notices.post(What::Shutdown(Cause::GuestPanic));
                    self.notices.post(What::Exit(0));
                }
            }
            End::Broken => {
                self.ended = Some(Cause::HostError);
                self.state = RunState::InternalError;
                self.notices.post(What::Stop);
            }
        }
        Ok(())
    }

    /// The guest has come to an end by itself.
    fn over(&mut self, cause: Cause) {
        self.ended = Some(cause);
        self.state = RunState::Shutdown;
        self.notices.post(What::Shutdown(cause));
        self.notices.post(match self.actions.shutdown {
            AfterEnd::Pause => What::Stop,
            AfterEnd::Exit => What::Exit(0),
        });
    }

    /// Makes the machine anew around memory that was cleared. It stands still.
    fn rebuild(&mut self) -> Result<(), MachineError> {
        if self.payload.is_none() {
            return Err(MachineError::NoKernel);
        }
        self.give_save_up();
        self.engine = None;
        self.board.reset()?;
        memory::clear(&self.memory).map_err(MachineError::Clear)?;
        if !self.shared {
            self.origin = None;
            self.cleared = self.saver.is_some();
        }
        self.ending.forget();
        self.ended = None;
        self.engine = Some(self.boot(self.shell()?)?);
        Ok(())
    }
}

const fn cause_of_reset(end: End) -> Cause {
    match end {
        End::TripleFault => Cause::GuestTripleFault,
        _ => Cause::GuestReset,
    }
}
