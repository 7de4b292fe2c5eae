//! A processor and its thread.
//!
//! The thread either stands still and serves commands, or runs the guest until it is asked
//! something. It comes out of the guest only where an access to a device is complete: registers
//! that are read then are those of the next instruction.

use std::cell::OnceCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering, compiler_fence};
use std::sync::mpsc::{Receiver, RecvError, Sender, channel};
use std::thread::JoinHandle;

use kvm_bindings::CpuId;
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::signal::Killable;

use super::kick::{self, Kickable};
use super::state::{self, State, StateError};
use crate::bus::Bus;
use crate::devices::{End, Ending};
use crate::log::Bounded;
use crate::thread::{self, Kind};

/// What all processors of a machine share.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The ports.
    pub ports: Arc<Bus>,
    /// The memory-mapped registers.
    pub mmio: Arc<Bus>,
    /// Where ends are told.
    pub ending: Ending,
}

/// What a thread is asked while its processor stands still.
enum Command {
    Run,
    /// Answered when it is reached: the processor stands still.
    Stand(Sender<()>),
    Save(Arc<[u32]>, Sender<Result<State, StateError>>),
    End,
}

/// The owner's end of a processor.
#[derive(Debug)]
pub struct Vcpu {
    index: u8,
    commands: Sender<Command>,
    /// Commands that the thread has not read; it looks when it is out of the guest.
    waiting: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
    /// The kernel's number of the thread, which it tells when it begins. Nobody waits for that:
    /// threads confine themselves, all at once, while the machine is made.
    thread_id: OnceCell<u32>,
    told: Receiver<u32>,
}

/// The thread of a processor has ended, which it does not do by itself.
#[derive(Debug, thiserror::Error)]
#[error("the thread of processor {0} has ended")]
pub struct Gone(pub u8);

impl Vcpu {
    /// Starts the thread of a processor that was described by `cpuid`; it stands still.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn start(
        index: u8,
        fd: VcpuFd,
        cpuid: CpuId,
        around: Surroundings,
    ) -> std::io::Result<Self> {
        let (commands, received) = channel();
        let (say, told) = channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&waiting);
        let thread = thread::spawn(Kind::Vcpu, &format!("vcpu{index}"), move || {
            // The owner may have given up.
            let _gone = say.send(thread_id());
            Running { index, fd, cpuid, around, commands: received, waiting: seen }.live();
        })?;
        let thread_id = OnceCell::new();
        Ok(Self { index, commands, waiting, thread: Some(thread), thread_id, told })
    }

    /// Its number.
    #[must_use]
    pub const fn index(&self) -> u8 {
        self.index
    }

    /// The kernel's number of its thread; 0 = it has ended without a word.
    #[must_use]
    pub fn thread_id(&self) -> u32 {
        *self.thread_id.get_or_init(|| self.told.recv().unwrap_or(0))
    }

    /// Lets it run.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn run(&self) -> Result<(), Gone> {
        self.ask(Command::Run)
    }

    /// Asks it to stand still; what comes back is readable when it does.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn stand(&self) -> Result<Receiver<()>, Gone> {
        let (say, said) = channel();
        self.ask(Command::Stand(say))?;
        Ok(said)
    }

    /// Its state, with these model-specific registers. It has to stand still.
    ///
    /// # Errors
    /// [`Gone`], or what KVM refused.
    pub fn save(&self, msrs: &Arc<[u32]>) -> Result<Receiver<Result<State, StateError>>, Gone> {
        let (say, said) = channel();
        self.ask(Command::Save(Arc::clone(msrs), say))?;
        Ok(said)
    }

    fn ask(&self, command: Command) -> Result<(), Gone> {
        // Counted before it can be read, or the thread would count below nothing.
        self.waiting.fetch_add(1, Ordering::AcqRel);
        self.commands.send(command).map_err(|_| Gone(self.index))?;
        let thread = self.thread.as_ref().ok_or(Gone(self.index))?;
        // The only refusal is a thread that is no more, and the next answer shows that.
        let _gone = thread.kill(kick::signal());
        Ok(())
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        let _gone = self.ask(Command::End);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

fn thread_id() -> u32 {
    crate::sys::thread_id()
}

/// The thread's end.
struct Running {
    index: u8,
    fd: VcpuFd,
    cpuid: CpuId,
    around: Surroundings,
    commands: Receiver<Command>,
    waiting: Arc<AtomicUsize>,
}

impl Running {
    fn live(mut self) {
        let _kickable = Kickable::new(&mut self.fd);
        loop {
            let command = self.commands.recv();
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            match command {
                // After an end it stands still as well; whoever hears of it decides what follows.
                Ok(Command::Run) => self.run(),
                // Whoever asked may have given up.
                Ok(Command::Stand(reply)) => drop(reply.send(())),
                Ok(Command::Save(msrs, reply)) => {
                    drop(reply.send(state::save(&self.fd, &msrs, &self.cpuid)));
                }
                Ok(Command::End) | Err(RecvError) => return,
            }
        }
    }

    /// Runs the guest until something is asked or it ends. What is asked is looked for only where
    /// KVM says that it was interrupted: after an access to a device it still has to be entered, or
    /// the guest's registers would be those from before the access.
    fn run(&mut self) {
        if self.waiting.load(Ordering::Acquire) > 0 {
            return;
        }
        loop {
            match self.fd.run() {
                Ok(exit) => {
                    if let Some(end) = handled(exit, &self.around, self.index) {
                        self.around.ending.tell(end);
                    }
                    if self.around.ending.is_over() {
                        // The access is completed at the next entry, which comes back at once.
                        self.fd.set_kvm_immediate_exit(1);
                    }
                }
                Err(error) => match error.errno() {
                    libc::EINTR => {
                        // Before the look: whoever asks counts first and sends its signal then, so
                        // that a mark that is taken back here belongs to something seen below.
                        self.fd.set_kvm_immediate_exit(0);
                        compiler_fence(Ordering::SeqCst);
                        if self.waiting.load(Ordering::Acquire) > 0 || self.around.ending.is_over()
                        {
                            return;
                        }
                    }
                    // A processor that waits for its start-up message.
                    libc::EAGAIN => {}
                    _ => {
                        let text = format!("processor {} cannot run: {error}", self.index);
                        crate::log::line(&text);
                        self.around.ending.tell(End::Broken);
                        return;
                    }
                },
            }
        }
    }
}

/// Carries out what the guest left for; how it ended, if it did.
fn handled(exit: VcpuExit<'_>, around: &Surroundings, index: u8) -> Option<End> {
    static STRANGE: Bounded = Bounded::new();
    match exit {
        VcpuExit::IoIn(port, data) => around.ports.read(u64::from(port), data),
        VcpuExit::IoOut(port, data) => around.ports.write(u64::from(port), data),
        VcpuExit::MmioRead(address, data) => around.mmio.read(address, data),
        VcpuExit::MmioWrite(address, data) => around.mmio.write(address, data),
        VcpuExit::Shutdown => return Some(End::TripleFault),
        VcpuExit::SystemEvent(kind, _) => return Some(system_event(kind)),
        VcpuExit::InternalError => {
            crate::log::line(&format!("KVM cannot go on with processor {index} (internal error)"));
            return Some(End::Broken);
        }
        VcpuExit::FailEntry(reason, _) => {
            let text = format!("processor {index} cannot enter the guest (reason {reason:#x})");
            crate::log::line(&text);
            return Some(End::Broken);
        }
        // Interrupts and spurious wake-ups; a halt is KVM's own business here.
        VcpuExit::Intr | VcpuExit::Hlt | VcpuExit::IrqWindowOpen => {}
        other => STRANGE.line(&format!("processor {index} left the guest for {other:?}")),
    }
    None
}

const fn system_event(kind: u32) -> End {
    match kind {
        kvm_bindings::KVM_SYSTEM_EVENT_SHUTDOWN => End::Poweroff,
        kvm_bindings::KVM_SYSTEM_EVENT_RESET => End::Reset,
        kvm_bindings::KVM_SYSTEM_EVENT_CRASH => End::Panic,
        _ => End::Broken,
    }
}
