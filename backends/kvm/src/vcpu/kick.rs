//! Getting a processor out of the guest.
//!
//! A signal to its thread is enough while it runs the guest. Between its last look at what it is
//! asked and its next entry a signal would be lost; so the handler also marks the processor, and
//! KVM then comes back at once.

use std::cell::Cell;
use std::sync::Once;

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::register_signal_handler;

/// The first real-time signal that the C library leaves to programs.
pub(super) fn signal() -> i32 {
    libc::SIGRTMIN()
}

thread_local! {
    /// The page that this thread's processor shares with KVM; null on other threads.
    static RUN: Cell<*mut kvm_run> = const { Cell::new(std::ptr::null_mut()) };
}

extern "C" fn handler(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    RUN.with(|run| {
        let run = run.get();
        if !run.is_null() {
            // SAFETY: set by `Kickable` to the mapping of a processor that this thread owns for as
            // long as the guard lives; a volatile write of one byte is safe in a handler.
            unsafe { std::ptr::write_volatile(&raw mut (*run).immediate_exit, 1) };
        }
    });
}

/// Installs the handler; to be called before the first processor's thread is made.
///
/// # Errors
/// The system's refusal.
pub fn prepare() -> std::io::Result<()> {
    static ONCE: Once = Once::new();
    let mut done = Ok(());
    ONCE.call_once(|| {
        done = register_signal_handler(signal(), handler)
            .map_err(|error| std::io::Error::from_raw_os_error(error.errno()));
    });
    done
}

/// While it lives, a signal to this thread takes its processor out of the guest.
pub(super) struct Kickable(());

impl Kickable {
    pub(super) fn new(vcpu: &mut VcpuFd) -> Self {
        let run: *mut kvm_run = vcpu.get_kvm_run();
        RUN.set(run);
        Self(())
    }
}

impl Drop for Kickable {
    fn drop(&mut self) {
        RUN.set(std::ptr::null_mut());
    }
}
