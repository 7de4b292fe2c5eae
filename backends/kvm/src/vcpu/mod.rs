//! Virtual processors: what they show, how they run, what is saved of them.

pub mod cpuid;
#[allow(unsafe_code, reason = "a signal handler marks the processor it interrupts")]
mod kick;
pub mod run;
pub mod state;

pub use kick::prepare;
pub use run::Vcpu;
pub use state::State;
