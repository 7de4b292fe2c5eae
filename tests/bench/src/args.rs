//! The command line.

use std::path::PathBuf;

use crate::rows;
use crate::soak::{Kind, Soak};

/// What this process is to do.
#[derive(Debug)]
pub(crate) enum Task {
    /// Print the help.
    Help,
    /// Measure.
    Measure(Args),
    /// Soak.
    Soak(Soak),
    /// Be one writer of many (this program started by itself).
    Write(Turn),
}

/// What to measure, and how often.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) rounds: Rounds,
    only: Vec<String>,
}

impl Args {
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|one| one == name)
    }
}

/// How often things are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounds {
    /// Often enough to believe the medians.
    Full,
    /// Often enough to see that it works.
    Quick,
}

impl Rounds {
    /// The number of this kind.
    pub(crate) const fn of<T: Copy>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }
}

/// The lives that one writer writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// The `KXL_ROOT` whose databases are written.
    pub(crate) root: PathBuf,
    /// Number of the first domain.
    pub(crate) first: u32,
    /// How many domains, one after the other.
    pub(crate) count: u32,
}

/// The word that makes this program a writer.
pub(crate) const WRITE: &str = "write-lives";

/// The word that asks for a soak.
const SOAK: &str = "soak";

/// Reads the words of the command line.
pub(crate) fn parse(words: &[String]) -> Result<Task, String> {
    let list: Vec<&str> = words.iter().map(String::as_str).collect();
    if let [WRITE, root, first, count] = list.as_slice() {
        let number = |text: &str| text.parse().map_err(|_| format!("{text}: not a number"));
        return Ok(Task::Write(Turn {
            root: root.into(),
            first: number(first)?,
            count: number(count)?,
        }));
    }
    if let [SOAK, words @ ..] = list.as_slice() {
        return soak(words);
    }
    let mut args = Args { rounds: Rounds::Full, only: Vec::new() };
    let mut list = list.into_iter();
    while let Some(word) = list.next() {
        match word {
            "-h" | "--help" => return Ok(Task::Help),
            "--quick" => args.rounds = Rounds::Quick,
            "--only" => {
                let name = list.next().ok_or("--only takes a name")?;
                if !rows::ALL.iter().any(|row| row.name == name) {
                    return Err(format!("there is no figure called {name}"));
                }
                args.only.push(name.to_owned());
            }
            _ => return Err(format!("what is {word}?")),
        }
    }
    Ok(Task::Measure(args))
}

/// Reads the words behind `soak`.
fn soak(words: &[&str]) -> Result<Task, String> {
    let mut soak = Soak { minutes: 30, seed: seed(), kinds: Vec::new() };
    let mut list = words.iter().copied();
    while let Some(word) = list.next() {
        if matches!(word, "-h" | "--help") {
            return Ok(Task::Help);
        }
        let value = list.next().ok_or_else(|| format!("{word} takes a value"))?;
        let number = || value.parse().map_err(|_| format!("{value}: not a number"));
        match word {
            "--minutes" => soak.minutes = number()?,
            "--seed" => soak.seed = number()?,
            "--guest" => {
                let kind = Kind::parse(value).ok_or(format!("there is no guest {value}"))?;
                if !soak.kinds.contains(&kind) {
                    soak.kinds.push(kind);
                }
            }
            _ => return Err(format!("what is {word}?")),
        }
    }
    if soak.kinds.is_empty() {
        soak.kinds = vec![Kind::Linux, Kind::Pdp11];
    }
    Ok(Task::Soak(soak))
}

/// One that differs from run to run, short enough to be typed again.
fn seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(1, |time| u64::from(time.subsec_micros()))
}

/// The help text.
pub(crate) fn help() -> String {
    let mut text = "usage: kxl-bench [--quick] [--only NAME]...\n\
         \x20      kxl-bench soak [--minutes N] [--seed N] [--guest linux|aarch64|pdp11]...\n\n\
         Measures kxl beside raw QEMU and libvirt. KXL_BUILT names the directory of the release\n\
         binaries (else: beside this program). --quick takes fewer rounds.\n\
         soak drives real domains through random saves and kills, 30 minutes unless told.\n\nNAME is one of\n"
        .to_owned();
    for row in rows::ALL {
        text.push_str(&format!("  {:<9} {}\n", row.name, row.about));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn without_names_everything_is_measured_and_with_them_only_those() {
        let Ok(Task::Measure(all)) = parse(&[]) else { panic!() };
        assert!(rows::ALL.iter().all(|row| all.wants(row.name)));
        let Ok(Task::Measure(some)) = parse(&words("--quick --only list --only live")) else {
            panic!()
        };
        assert_eq!(some.rounds, Rounds::Quick);
        let wanted: Vec<_> = rows::ALL.iter().filter(|row| some.wants(row.name)).collect();
        assert_eq!(wanted.len(), 2);
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        assert!(parse(&words("--only lists")).unwrap_err().contains("lists"));
        assert!(parse(&words("--slow")).unwrap_err().contains("--slow"));
        parse(&words("write-lives / one 1")).unwrap_err();
    }

    #[test]
    fn a_soak_takes_its_time_its_seed_and_its_guests() {
        let Ok(Task::Soak(soak)) = parse(&words("soak --minutes 2 --seed 7 --guest pdp11")) else {
            panic!()
        };
        assert_eq!(soak, Soak { minutes: 2, seed: 7, kinds: vec![Kind::Pdp11] });
        let Ok(Task::Soak(soak)) = parse(&words("soak")) else { panic!() };
        assert_eq!((soak.minutes, soak.kinds.len()), (30, 2));
        assert!(parse(&words("soak --guest mock")).unwrap_err().contains("mock"));
        parse(&words("soak --minutes")).unwrap_err();
    }

    #[test]
    fn a_writer_is_told_where_and_what() {
        let Ok(Task::Write(turn)) = parse(&words("write-lives /r 7 2")) else { panic!() };
        assert_eq!(turn, Turn { root: "/r".into(), first: 7, count: 2 });
    }
}
