//! Work that waits for the disk, away from the monitor's one thread.

use std::io;

use kxl_backend::Local;
use tokio::sync::oneshot;

/// Starts `work` on a thread of its own at once; the future gives what it gives. Dropping the
/// future leaves the thread to its end; nobody hears of it then.
pub(crate) fn apart<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Local<'static, io::Result<T>> {
    let (tell, told) = oneshot::channel();
    let thread = std::thread::Builder::new().name(name.to_owned());
    let started = thread.spawn(move || {
        let _nobody_waits = tell.send(work());
    });
    Box::pin(async move {
        started?;
        told.await.map_err(|_| io::Error::other("its thread has panicked"))
    })
}
