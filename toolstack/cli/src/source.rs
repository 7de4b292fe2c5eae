//! From a file and overriding words to a domain's configuration.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use kxl_domain::charon;
use kxl_domain::config::{self, Parsed, Rules};
use kxl_domain::{Failure, Kind};
use kxl_engine::{Conf, monitor_program};
use serde::Deserialize;

use crate::{charon as of_charon, report};

/// The words of a command line, sorted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Words {
    /// The file.
    pub(crate) file: Option<PathBuf>,
    /// `key=value` words, in order.
    pub(crate) overrides: Vec<String>,
    /// The first word that is a second file.
    pub(crate) extra: Option<String>,
}

/// Sorts words as xl does: what contains `=` overrides, the first other one is the file, unless an
/// option has named it.
pub(crate) fn sort(words: &[String], named: Option<PathBuf>) -> Words {
    let mut sorted = Words { file: named, ..Words::default() };
    for word in words {
        if word.contains('=') {
            sorted.overrides.push(word.clone());
        } else if sorted.file.is_none() {
            sorted.file = Some(word.into());
        } else if sorted.extra.is_none() {
            sorted.extra = Some(word.clone());
        }
    }
    sorted
}

/// Reads a configuration file. `/dev/null` is an empty one.
///
/// # Errors
/// When it cannot be read, or is not UTF-8.
pub(crate) fn read(file: &Path) -> io::Result<String> {
    fs::read_to_string(file)
}

/// Reads and parses, with the host's defaults for what is left out, and makes the paths in it
/// absolute.
///
/// # Errors
/// [`Kind::Failed`] when the file cannot be read, [`Kind::Usage`] with the lines and carets of
/// what is wrong in it.
pub(crate) fn load(words: &Words) -> Result<Parsed, Failure> {
    let (name, text) = match &words.file {
        Some(file) => {
            let name = file.display().to_string();
            let text = read(file).map_err(|error| {
                Failure::because(Kind::Failed, format!("cannot read {name}"), &error)
            })?;
            (name, text)
        }
        None => ("command line".to_owned(), String::new()),
    };
    let text = match &words.file {
        Some(file) if is_json(&text) => stratovirt(file)?,
        Some(file) if charon::is_charon(&text) => {
            if !words.overrides.iter().any(|word| word.trim_start().starts_with("exec")) {
                return Err(of_charon::no_emulator(file));
            }
            of_charon::translate(file, &text)?
        }
        _ => text,
    };
    let defaults = Conf::domain_defaults()?;
    let mut parsed = config::parse_with(&defaults, Rules::Kxl, &name, &text, &words.overrides)
        .map_err(|errors| Failure::new(Kind::Usage, errors.to_string().trim_end().to_owned()))?;
    resolve(&mut parsed)?;
    Ok(parsed)
}

/// Whether a text is JSON: no configuration begins with a brace.
fn is_json(text: &str) -> bool {
    text.trim_start().starts_with('{')
}

#[derive(Deserialize)]
struct Translated {
    config: String,
    notes: Vec<String>,
}

/// A file in StratoVirt's JSON keys as a configuration; tells what has become of what a domain does
/// not have. The monitor program is asked, which links the backends.
fn stratovirt(file: &Path) -> Result<String, Failure> {
    let program = monitor_program()?;
    let attempt = format!("cannot read {} with {}", file.display(), program.display());
    let output = Command::new(&program)
        .arg("--translate")
        .arg(file)
        .output()
        .map_err(|error| Failure::because(Kind::Failed, &attempt, &error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim();
        let said = said.strip_prefix("kxl-monitor: ").unwrap_or(said).to_owned();
        return Err(Failure::new(Kind::Usage, said));
    }
    let translated: Translated = serde_json::from_slice(&output.stdout)
        .map_err(|error| Failure::because(Kind::Internal, &attempt, &error))?;
    for note in &translated.notes {
        report::note(note);
    }
    Ok(translated.config)
}

/// Makes the relative paths of a configuration absolute, from the current directory.
///
/// # Errors
/// When the current directory is gone.
pub(crate) fn resolve(parsed: &mut Parsed) -> Result<(), Failure> {
    let here = std::env::current_dir()
        .map_err(|error| Failure::because(Kind::Failed, "there is no current directory", &error))?;
    parsed.config.resolve_paths(&here);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn words_with_an_equals_sign_override_wherever_they_stand() {
        let sorted = sort(&words("vcpus=2 a.cfg memory=64"), None);
        assert_eq!(sorted.file, Some("a.cfg".into()));
        assert_eq!(sorted.overrides, ["vcpus=2", "memory=64"]);
        assert_eq!(sorted.extra, None);
    }

    #[test]
    fn a_second_file_is_noticed_also_beside_a_named_one() {
        assert_eq!(sort(&words("a.cfg b.cfg"), None).extra, Some("b.cfg".into()));
        assert_eq!(sort(&words("b.cfg"), Some("a.cfg".into())).extra, Some("b.cfg".into()));
    }
}
