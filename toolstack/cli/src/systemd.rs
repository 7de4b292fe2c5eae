//! Telling the service manager that work goes on, where one asks for it: by `NOTIFY_SOCKET`.

use std::time::{Duration, Instant};

use kxl_engine::maintenance::{News, Way};
use sd_notify::NotifyState;

/// How much time each sign of work buys.
const STEP: Duration = Duration::from_secs(30);

/// How often it is told at most.
const PACE: Duration = Duration::from_secs(1);

/// Tells the service manager.
#[derive(Debug)]
pub(crate) struct Manager {
    patience: Duration,
    told: Option<Instant>,
    over: usize,
}

impl Manager {
    /// For work in which a guest is waited for up to `patience`; `None` where nobody asks.
    pub(crate) fn new(patience: Duration) -> Option<Self> {
        std::env::var_os("NOTIFY_SOCKET").is_some().then_some(Self {
            patience,
            told: None,
            over: 0,
        })
    }

    /// Work goes on: the time-out moves. A save that stands still buys no time.
    pub(crate) fn tell(&mut self, news: &News<'_>) {
        let (at_once, more) = match news {
            News::Begun(_, Way::Shutdown) => (true, self.patience + STEP),
            News::Ended(..) => {
                self.over += 1;
                (true, STEP)
            }
            _ => (false, STEP),
        };
        if !at_once && self.told.is_some_and(|told| told.elapsed() < PACE) {
            return;
        }
        self.told = Some(Instant::now());
        // Spelt out: the crate's own word for it ends at 71 minutes.
        let longer = format!("EXTEND_TIMEOUT_USEC={}", more.as_micros());
        let status = format!("{} domains done", self.over);
        let states = [NotifyState::Custom(&longer), NotifyState::Status(&status)];
        if let Err(error) = sd_notify::notify(&states) {
            tracing::debug!(%error, "the service manager was not told");
        }
    }
}
