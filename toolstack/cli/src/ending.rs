//! Asking guests to end: `shutdown` and `reboot` of any number of domains at once.
//!
//! All are asked before any is waited for, and the watch on each is set before it is asked, so
//! that a guest that obeys at once is not missed. Nothing here ever falls back to `destroy`.

use std::time::{Duration, Instant};

use kxl_control::{Answer, Call, Until};
use kxl_domain::{DomId, Failure, Kind, Reason, State, Verb};
use kxl_engine::{Host, Outcome};
use kxl_store::ListRow;

use crate::crowd::Crowd;

/// How long a monitor may take to pass the request on.
const ASK_DEADLINE: Duration = Duration::from_secs(30);

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    /// `Shutdown` or `Reboot`.
    pub(crate) verb: Verb,
    /// Whether to wait, and for what.
    pub(crate) wait: Option<Until>,
    /// How long to wait; `None` = as long as it takes.
    pub(crate) timeout: Option<Duration>,
}

/// What happens on the way, for the one who tells it.
#[derive(Debug)]
pub(crate) enum News<'a> {
    /// The domain is about to be asked.
    Asking(&'a ListRow),
    /// It was so already.
    Already(&'a ListRow),
    /// A domain could not be asked, or its monitor went away while it was waited for.
    Failed(&'a Failure),
    /// So many are waited for from now on.
    Waiting(usize),
    /// A domain has come to the point that was waited for.
    Ended {
        /// Why.
        reason: Option<Reason>,
        /// The number it had when it was asked.
        domid: DomId,
    },
    /// The time is up and it has not.
    Late(&'a ListRow),
}

/// Asks the domains of `rows`, waits if that is wanted, and tells `news`.
///
/// Interrupting the wait (Ctrl-C) leaves the guests asked: they go on shutting down.
pub(crate) fn ask(host: &mut Host, rows: &[ListRow], what: Ask, mut news: impl FnMut(News<'_>)) {
    let until = what.timeout.map(|wait| Instant::now() + wait);
    let mut asked = Crowd::new();
    let mut watched = Crowd::new();
    for (index, row) in rows.iter().enumerate() {
        news(News::Asking(row));
        match ask_one(host, row, index, what, &mut asked, &mut watched) {
            Ok(Outcome::Done) => {}
            Ok(Outcome::Already) => news(News::Already(row)),
            Err(failure) => {
                watched.forget(&index);
                news(News::Failed(&failure));
            }
        }
    }
    while let Some((index, outcome)) = asked.next(None) {
        match outcome {
            Ok(Answer::Already) => {
                watched.forget(&index);
                news(News::Already(&rows[index]));
            }
            Ok(_) => {}
            Err(failure) => {
                watched.forget(&index);
                news(News::Failed(&failure));
            }
        }
    }
    if watched.len() > 0 {
        news(News::Waiting(watched.len()));
    }
    while let Some((index, outcome)) = watched.next(until) {
        let row = &rows[index];
        match outcome {
            Ok(Answer::Ended { state, .. })
                if what.wait == Some(Until::Restarted)
                    && !matches!(state, State::Running | State::Paused) =>
            {
                let text = format!("domain \"{}\" ended and did not come back", row.name);
                let failure = Failure::new(Kind::Failed, text);
                news(News::Failed(&failure.hint(format!("kxl why {} tells why", row.name))));
            }
            Ok(Answer::Ended { reason, domid, .. }) => news(News::Ended { reason, domid }),
            Ok(_) => {
                let text =
                    format!("the monitor of domain \"{}\" did not say how it ended", row.name);
                news(News::Failed(&Failure::new(Kind::Internal, text)));
            }
            Err(failure) => news(News::Failed(&failure)),
        }
    }
    for index in watched.tags() {
        news(News::Late(&rows[*index]));
    }
}

fn ask_one(
    host: &mut Host,
    row: &ListRow,
    index: usize,
    what: Ask,
    asked: &mut Crowd<usize>,
    watched: &mut Crowd<usize>,
) -> Result<Outcome, Failure> {
    if row.domid.is_none() {
        return host.verb(row, what.verb, ASK_DEADLINE, |_| ());
    }
    if let Some(until) = what.wait {
        let client = host.connect(row)?;
        watched.ask(index, client, Call::Wait(until), None)?;
    }
    let client = host.connect(row)?;
    asked.ask(index, client, Call::Verb(what.verb), Some(ASK_DEADLINE))?;
    Ok(Outcome::Done)
}
