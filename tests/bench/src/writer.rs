//! One of many writers: this program started again. It waits for the others, writes the whole
//! record of its domains' lives and tells how long each write took.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use kxl_domain::supervision::Record;
use kxl_domain::{DomainConfig, DomainName, Op, Reason, State, Wanted};
use kxl_store::{Claim, LiveChange, Paths, ProcessRow, Settle, Store};

use crate::args::Turn;
use crate::error::BenchError;
use crate::host::uuid;

/// The times of one life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    /// The name taken.
    pub(crate) claim: Duration,
    /// The state changed.
    pub(crate) change: Duration,
    /// The end recorded.
    pub(crate) settle: Duration,
}

impl Life {
    fn line(self) -> String {
        let [claim, change, settle] =
            [self.claim, self.change, self.settle].map(|time| time.as_micros());
        format!("{claim} {change} {settle}\n")
    }

    /// The life that a writer told of.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut times = line.split(' ').map(|word| word.parse().map(Duration::from_micros));
        let mut next = || times.next()?.ok();
        Some(Self { claim: next()?, change: next()?, settle: next()? })
    }
}

/// The configuration of a domain that exists on paper only.
pub(crate) fn config(number: u32) -> Result<DomainConfig, BenchError> {
    let name = DomainName::new(format!("d{number}"))
        .map_err(|error| BenchError::wrong(error.to_string()))?;
    let mut config = DomainConfig::new(name);
    config.uuid = Some(uuid(number));
    config.backend = "mock".into();
    Ok(config)
}

/// What is recorded at the end of a life, to be found again.
pub(crate) fn epitaph(number: u32) -> String {
    format!("life {number}")
}

/// Does a writer's work.
///
/// # Errors
/// When a write fails: then a life is lost.
pub(crate) fn write(turn: &Turn) -> Result<(), BenchError> {
    let store = Store::open(&Paths::under(&turn.root))?;
    // All begin when the last one is there: the end of standard input tells.
    std::io::stdin().read_to_end(&mut Vec::new()).map_err(BenchError::io("wait for the start"))?;
    for number in turn.first..turn.first + turn.count {
        let life = live(&store, number)?;
        // One write: the lines of a thousand writers to one file do not mix.
        std::io::stdout()
            .write_all(life.line().as_bytes())
            .and_then(|()| std::io::stdout().flush())
            .map_err(BenchError::io("tell the times"))?;
    }
    Ok(())
}

fn live(store: &Store, number: u32) -> Result<Life, BenchError> {
    let config = config(number)?;
    let id = uuid(number);
    let claim = Claim {
        uuid: id,
        name: config.name.clone(),
        managed: true,
        backend: config.backend.clone(),
        config,
        wanted: Wanted::Running,
        op: Op::Starting,
        image: None,
        domid: None,
        supervision: Record::default(),
    };
    let process = ProcessRow { pid: 1, start_time: 1, boot_id: store.boot_id().to_owned() };
    let running = LiveChange {
        state: Some(State::Running),
        op: Some(None),
        process: Some(Some(process)),
        ..LiveChange::default()
    };
    let end = Settle {
        state: State::Halted,
        reason: Some(Reason::Poweroff),
        detail: epitaph(number),
        wanted: None,
        image: None,
        supervision: Record::default(),
    };
    let begin = Instant::now();
    store.claim(&claim)?;
    let claimed = Instant::now();
    store.change_live(id, &running)?;
    let changed = Instant::now();
    store.settle(id, &end)?;
    Ok(Life { claim: claimed - begin, change: changed - claimed, settle: changed.elapsed() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_of_a_life_survive_being_told() {
        let [claim, change, settle] = [1, 20_000, 3].map(Duration::from_micros);
        let life = Life { claim, change, settle };
        assert_eq!(Life::parse(life.line().trim_end()), Some(life));
        assert_eq!(Life::parse("1 2"), None);
    }
}
