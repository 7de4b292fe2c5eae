//! A monitor that somebody starts by hand or from a service manager, and that stays: it starts its
//! domain or takes it over, logs to standard error, and ends with the domain.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use kxl_domain::supervision::{LastExit, Word, word};
use kxl_domain::{Failure, Kind, Reason};
use kxl_engine::Host;
use kxl_store::{ListRow, LiveRow};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::driver::{self, End};
use crate::ready::ReadyPipe;
use crate::{PATIENCE, logging};

/// What a stop may take beyond `stopwaitsecs`: the end of an emulator that does not hear, and turns
/// at the databases.
const MARGIN: Duration = Duration::from_secs(60);

/// What is over although the domain did not end as it should, where no status of a program tells.
const FAILED: u8 = 1;

/// How a domain came to rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rest {
    /// Supervision's word for it.
    word: Word,
    /// Why.
    reason: Option<Reason>,
    /// How its last run ended, where that was seen.
    last_exit: Option<LastExit>,
}

impl Rest {
    /// As its last record has it.
    pub(crate) fn of(row: &LiveRow) -> Self {
        let word = word(row.state, row.op, row.reason, &row.supervision);
        Self { word, reason: row.reason, last_exit: row.supervision.last_exit }
    }
}

/// When a monitor leaves its domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// On SIGTERM. A hang-up or an interrupt is meant for the command that started it.
    Silently,
    /// On any of the three.
    Foreground,
    /// On a hang-up only; the others stop the domain, and the monitor ends with that.
    Stopping,
}

impl Leaving {
    /// Begins to catch the signals.
    ///
    /// # Errors
    /// When they cannot be caught.
    pub(crate) fn listen(self) -> io::Result<Signals> {
        Ok(Signals {
            leaving: self,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

/// The signals that a monitor catches, whatever they mean to it.
#[derive(Debug)]
pub(crate) struct Signals {
    leaving: Leaving,
    terminate: Signal,
    hangup: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Comes when the monitor is to leave.
    pub(crate) async fn asked(&mut self) {
        let (all, hangup) = match self.leaving {
            Leaving::Silently => (false, false),
            Leaving::Foreground => (true, true),
            Leaving::Stopping => (false, true),
        };
        tokio::select! {
            _ = self.terminate.recv(), if self.leaving != Leaving::Stopping => {}
            _ = self.interrupt.recv(), if all => {}
            _ = self.hangup.recv(), if hangup => {}
        }
    }
}

/// `--foreground [--stop] NAME`; the exit status of the monitor.
///
/// # Errors
/// When it cannot take charge of the domain.
pub(crate) fn main(words: &[&str]) -> Result<ExitCode, Failure> {
    let (stop, who) = match words {
        ["--stop", who] | [who, "--stop"] => (true, *who),
        [who] => (false, *who),
        _ => {
            return Err(Failure::new(Kind::Usage, "one domain is to be named")
                .hint("kxl-monitor --foreground [--stop] NAME"));
        }
    };
    logging::to_stderr();
    let internal = |error: &io::Error| Failure::because(Kind::Internal, "cannot start", error);
    // A monitor stays for long: it holds no file system.
    std::env::set_current_dir("/").map_err(|error| internal(&error))?;
    let mut host = Host::open()?;
    if let Err(error) = host.store.set_patience(PATIENCE) {
        tracing::warn!(%error, "waits for the databases are longer than they should be");
    }
    let charge = host.take_charge(who)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| internal(&error))?;
    let local = tokio::task::LocalSet::new();
    let leaving = if stop { Leaving::Stopping } else { Leaving::Foreground };
    let (name, uuid) = (charge.name.clone(), charge.uuid);
    if stop {
        local.spawn_local(async move {
            if let Err(failure) = stop_when_told(uuid.to_string()).await {
                tracing::error!(%failure, "the domain is not stopped");
            }
        });
    }
    let ready = ReadyPipe::aloud();
    let attended = driver::attend(host, charge.lock, uuid, charge.mission, ready, leaving);
    match local.block_on(&runtime, attended)? {
        End::Released => {
            tracing::info!(%name, "the domain goes on without this monitor");
            Ok(ExitCode::SUCCESS)
        }
        End::Over(rest) => {
            let (word, reason) = (rest.word, rest.reason);
            tracing::info!(%name, %word, ?reason, "the domain is at rest");
            Ok(ExitCode::from(status(&rest)))
        }
    }
}

/// Stops the domain as kxl stop does, each time a signal asks for it: a second one finds it on its
/// way, or tries again where the first has failed.
async fn stop_when_told(uuid: String) -> Result<(), Failure> {
    let failed =
        |error: io::Error| Failure::because(Kind::Internal, "cannot catch signals", &error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("told to stop the domain");
        let who = uuid.clone();
        // A command like any other, that speaks with us through the socket: on a thread of its own,
        // because this one has to answer.
        std::thread::spawn(move || {
            let stopped = Host::open().and_then(|mut host| {
                let row = host.find(&who)?;
                tell_how_long(&host, &row);
                host.stop(&row)
            });
            match stopped {
                Ok(how) => tracing::info!(?how, "the domain was stopped"),
                Err(failure) => tracing::error!(%failure, "the domain is not stopped"),
            }
        });
    }
}

/// Tells a service manager how long it is to wait for the domain: a monitor that it kills before has
/// stopped nothing.
fn tell_how_long(host: &Host, row: &ListRow) {
    let Ok(Some(live)) = host.store.live(row.uuid) else { return };
    let time = Duration::from_secs(u64::from(live.config.stop.wait_secs)) + MARGIN;
    // Spelt out: the crate's own word for it ends at 71 minutes.
    let longer = format!("EXTEND_TIMEOUT_USEC={}", time.as_micros());
    let states = [NotifyState::Stopping, NotifyState::Custom(&longer)];
    if let Err(error) = sd_notify::notify(&states) {
        tracing::debug!(%error, "no service manager was told");
    }
}

/// 0 for an end that was wanted or expected; else that of the program that ran, or of its signal as
/// a shell tells it, or 1.
fn status(rest: &Rest) -> u8 {
    let exit = rest.last_exit.as_ref();
    let failed = match rest.word {
        Word::Stopped => false,
        Word::Exited => match exit {
            Some(exit) => !exit.expected,
            None => !matches!(rest.reason, Some(Reason::Poweroff)),
        },
        _ => true,
    };
    if !failed {
        return 0;
    }
    let code = exit
        .filter(|exit| !exit.expected)
        .and_then(|exit| exit.code.or_else(|| exit.signal.map(|signal| 128 + signal)));
    code.and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0).unwrap_or(FAILED)
}

#[cfg(test)]
mod tests {
    use kxl_domain::supervision::LastExit;

    use super::*;

    fn rest(word: Word, exit: Option<(Option<i32>, Option<i32>, bool)>) -> Rest {
        let exit = exit.map(|(code, signal, expected)| LastExit { code, signal, expected });
        Rest { word, reason: None, last_exit: exit }
    }

    #[test]
    fn the_status_tells_how_the_domain_has_ended() {
        for (word, exit, wanted) in [
            (Word::Stopped, None, 0),
            (Word::Stopped, Some((None, Some(9), false)), 0),
            (Word::Exited, Some((Some(0), None, true)), 0),
            (Word::Exited, Some((Some(3), None, true)), 0),
            (Word::Exited, Some((Some(3), None, false)), 3),
            (Word::Exited, Some((None, Some(11), false)), 139),
            (Word::Fatal, Some((Some(0), None, false)), 1),
            (Word::Fatal, None, 1),
            (Word::Unknown, None, 1),
        ] {
            assert_eq!(status(&rest(word, exit)), wanted, "{word} {exit:?}");
        }
    }
}
