//! The command line of kxl-vmm.
//!
//! Options have one dash or two. What they are is one table, which the help text and the tests of
//! the manual page read too. An own parser, because the process has milliseconds to start in.

mod options;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::Config;
use super::draft::Draft;
use super::json::{self, FileError};
use super::nearest::nearest;
use super::values::Wrong;
pub use options::OPTIONS;

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run a machine.
    Run(Box<Parsed>),
    /// Print what the machine is; see [`describe`](super::describe::json).
    Describe(Box<Parsed>),
    /// Print [`help`].
    Help,
    /// Print [`version`].
    Version,
}

/// A machine, and what there is to say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The machine.
    pub config: Config,
    /// What was read in the file and is not done, one line each, for stderr.
    pub notes: Vec<String>,
}

/// One option.
pub struct Opt {
    /// Its name without a dash.
    pub name: &'static str,
    /// How its value is written; empty for an option without one.
    pub value: &'static str,
    /// What it is for, one line.
    pub help: &'static str,
    /// Whether it may be given several times.
    repeats: bool,
    add: Add,
}

/// What an option does.
#[derive(Clone, Copy)]
enum Add {
    /// Adds to the configuration.
    Draft(fn(&mut Draft, &str) -> Result<(), Wrong>),
    /// Names the file that is read before everything else.
    File,
    /// Has the machine printed instead of run.
    Describe,
    /// Ends the reading.
    Instead(fn() -> Command),
}

impl std::fmt::Debug for Opt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "-{} {}", self.name, self.value)
    }
}

/// What is wrong with a command line. The process ends with status 2.
#[derive(Debug, Error)]
pub enum ArgsError {
    /// No option has this name.
    #[error("there is no option -{name}: {hint}")]
    Unknown {
        /// What was written, without dashes.
        name: String,
        /// What to do.
        hint: String,
    },
    /// A word that belongs to no option.
    #[error("{word:?} belongs to no option: see kxl-vmm -help")]
    Stray {
        /// The word.
        word: String,
    },
    /// An option at the end of the line, or before another one.
    #[error("-{name} wants a value: -{name} {value}")]
    NoValue {
        /// The option.
        name: &'static str,
        /// How its value is written.
        value: &'static str,
    },
    /// A value where none belongs.
    #[error("-{name} takes no value, and {value:?} was given")]
    TooMuch {
        /// The option.
        name: &'static str,
        /// The value.
        value: String,
    },
    /// An option that counts once.
    #[error("-{name} is given twice: leave one of them away")]
    Twice {
        /// The option.
        name: &'static str,
    },
    /// A value that is wrong.
    #[error("-{name}: {why}")]
    Value {
        /// The option.
        name: &'static str,
        /// What is wrong and what is expected.
        why: String,
    },
    /// Options that do not fit together.
    #[error("{0}")]
    Whole(String),
    /// The file cannot be read.
    #[error("-config: cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's refusal.
        #[source]
        source: io::Error,
    },
    /// The file is wrong.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Reads a command line, the program's name left away. `read` gives the text of the file that
/// `-config` names.
///
/// # Errors
/// Any [`ArgsError`].
pub fn parse(
    words: impl IntoIterator<Item = OsString>,
    read: impl FnOnce(&Path) -> io::Result<String>,
) -> Result<Command, ArgsError> {
    let given = match split(words)? {
        Words::Instead(command) => return Ok(command),
        Words::Options(given) => given,
    };
    let mut draft = Draft::default();
    if let Some((_, path)) = given.iter().find(|(option, _)| matches!(option.add, Add::File)) {
        let path = PathBuf::from(path);
        let text = read(&path).map_err(|source| ArgsError::Read { path: path.clone(), source })?;
        json::add(&mut draft, &text, &path)?;
        draft.file_ends();
    }
    for (option, value) in &given {
        if let Add::Draft(add) = option.add {
            add(&mut draft, value)
                .map_err(|why| ArgsError::Value { name: option.name, why: why.0 })?;
        }
    }
    let (config, notes) = draft.finish().map_err(|why| ArgsError::Whole(why.0))?;
    let parsed = Box::new(Parsed { config, notes });
    let describe = given.iter().any(|(option, _)| matches!(option.add, Add::Describe));
    Ok(if describe { Command::Describe(parsed) } else { Command::Run(parsed) })
}

enum Words {
    Options(Vec<(&'static Opt, String)>),
    Instead(Command),
}

/// Options and their values, in the order of the line.
fn split(words: impl IntoIterator<Item = OsString>) -> Result<Words, ArgsError> {
    let mut words = words.into_iter().map(text).peekable();
    let mut given: Vec<(&'static Opt, String)> = Vec::new();
    while let Some(word) = words.next() {
        let word = word?;
        let Some(name) = word.strip_prefix('-').map(|rest| rest.strip_prefix('-').unwrap_or(rest))
        else {
            return Err(ArgsError::Stray { word });
        };
        let (name, joined) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name, None),
        };
        let option = find(name).ok_or_else(|| unknown(name))?;
        let value = match (option.value, joined) {
            ("", None) => String::new(),
            ("", Some(value)) => return Err(ArgsError::TooMuch { name: option.name, value }),
            (_, Some(value)) => value,
            (value, None) => {
                let missing = ArgsError::NoValue { name: option.name, value };
                let next = words.next().ok_or(missing)??;
                if next.starts_with('-') && find(next.trim_start_matches('-')).is_some() {
                    return Err(ArgsError::NoValue { name: option.name, value });
                }
                next
            }
        };
        if let Add::Instead(command) = option.add {
            return Ok(Words::Instead(command()));
        }
        let again = given.iter().any(|(old, _)| old.name == option.name);
        if again && !option.repeats {
            return Err(ArgsError::Twice { name: option.name });
        }
        given.push((option, value));
    }
    Ok(Words::Options(given))
}

fn text(word: OsString) -> Result<String, ArgsError> {
    word.into_string().map_err(|word| {
        let word = word.to_string_lossy().into_owned();
        ArgsError::Whole(format!("{word:?} is not UTF-8: hand such a file over by descriptor"))
    })
}

fn find(name: &str) -> Option<&'static Opt> {
    OPTIONS.iter().find(|option| option.name == name)
}

fn unknown(name: &str) -> ArgsError {
    let names = OPTIONS.iter().map(|option| option.name);
    let hint = nearest(name, names)
        .map_or_else(|| "see kxl-vmm -help".to_owned(), |near| format!("did you mean -{near}?"));
    ArgsError::Unknown { name: name.chars().take(60).collect(), hint }
}

/// The text of `-version`: the program's, and behind it the machine that its states are of.
#[must_use]
pub fn version() -> String {
    format!("kxl-vmm {}\nmachine {}\n", env!("CARGO_PKG_VERSION"), super::MACHINE)
}

/// The text of `-help`.
#[must_use]
pub fn help() -> String {
    let mut out = String::from(
        "usage: kxl-vmm -kernel FILE [OPTION [VALUE]]...\n       \
         kxl-vmm -config FILE -api-channel unix:PATH [OPTION [VALUE]]...\n\n\
         Runs one virtual machine on KVM. Options have one dash or two.\n\n",
    );
    for option in OPTIONS {
        let head = format!("  -{} {}", option.name, option.value);
        let head = head.trim_end();
        if head.len() > 26 {
            out.push_str(&format!("{head}\n{:28}{}\n", "", option.help));
        } else {
            out.push_str(&format!("{head:<28}{}\n", option.help));
        }
    }
    out.push_str("\nSee kxl-vmm(8).\n");
    out
}
