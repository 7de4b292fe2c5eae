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
    let until = what.timeout.and_then(|wait| Instant::now().checked_add(wait));
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
    passed_on(&mut asked, &mut watched, rows, Instant::now().checked_add(ASK_DEADLINE), &mut news);
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

/// Hears from all that were asked whether the guest has been. A monitor that is stopped takes the
/// question and never answers: it is given up at `until`, and nothing of it is waited for.
fn passed_on(
    asked: &mut Crowd<usize>,
    watched: &mut Crowd<usize>,
    rows: &[ListRow],
    until: Option<Instant>,
    news: &mut impl FnMut(News<'_>),
) {
    while let Some((index, outcome)) = asked.next(until) {
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
    for index in asked.tags() {
        watched.forget(index);
        let name = &rows[*index].name;
        let text = format!("the monitor of domain \"{name}\" did not answer in time");
        let failure = Failure::new(Kind::TimedOut, text);
        news(News::Failed(&failure.hint(format!(
            "kxl list {name} shows whether it answers; kxl destroy {name} ends the domain"
        ))));
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use kxl_control::client::Client;
    use kxl_domain::supervision::Record;
    use kxl_domain::{State, Wanted};

    use super::*;

    fn row(name: &str) -> ListRow {
        ListRow {
            uuid: "00000001-0000-4000-8000-000000000000".parse().unwrap(),
            name: name.parse().unwrap(),
            domid: Some(DomId(1)),
            managed: true,
            backend: "mock".into(),
            memory_mib: 64,
            vcpus: 1,
            wanted: Wanted::Running,
            state: State::Running,
            reason: None,
            detail: String::new(),
            op: None,
            process: None,
            started_ms: None,
            supervision: Record::assumed(),
        }
    }

    #[test]
    fn a_monitor_that_never_answers_is_told_of_and_not_waited_for() {
        let rows = [row("stopped"), row("well")];
        let (mut asked, mut watched) = (Crowd::new(), Crowd::new());
        let mut ends: Vec<UnixStream> = Vec::new();
        for crowd in [&mut asked, &mut watched] {
            for index in 0..2 {
                let (ours, theirs) = UnixStream::pair().unwrap();
                crowd.ask(index, Client::new(ours), Call::Verb(Verb::Shutdown), None).unwrap();
                ends.push(theirs);
            }
        }
        ends[1].write_all(b"{\"id\":1,\"body\":{\"done\":\"ok\"}}\n").unwrap();
        let mut failures = Vec::new();
        let soon = Instant::now() + Duration::from_millis(50);
        passed_on(&mut asked, &mut watched, &rows, Some(soon), &mut |news| {
            if let News::Failed(failure) = news {
                failures.push((failure.kind, failure.to_string()));
            }
        });
        assert_eq!(failures.len(), 1);
        assert_eq!(failures[0].0, Kind::TimedOut);
        assert!(failures[0].1.contains("\"stopped\""), "{failures:?}");
        assert_eq!(watched.tags().copied().collect::<Vec<_>>(), [1]);
    }
}
