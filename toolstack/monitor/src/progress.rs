//! How far the moving of a state is, told a few times a second for as long as it moves.

use std::time::Duration;

use kxl_backend::Watch;
use kxl_control::Moved;

/// How often a person wants to hear of it.
const PERIOD: Duration = Duration::from_millis(100);

/// The next time that something has moved. Cancel-safe.
pub(crate) async fn next_progress(watch: &Watch) -> Moved {
    let before = watch.progress();
    loop {
        tokio::time::sleep(PERIOD).await;
        let (done, total) = watch.progress();
        if (done, total) != before {
            return Moved { done, total };
        }
    }
}

/// Tells of every move; never returns.
pub(crate) async fn tell_progress<T>(watch: &Watch, mut tell: impl FnMut(Moved)) -> T {
    loop {
        tell(next_progress(watch).await);
    }
}
