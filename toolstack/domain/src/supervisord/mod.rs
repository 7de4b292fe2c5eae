//! `supervisord.conf`: its programs as domains.
//!
//! [`import`] reads the keys of Supervisor-vms and those of supervisord itself. Each key gets its
//! meaning, or a line that says why it has none: nothing is passed over in silence. Nothing here
//! looks at the host.

mod expand;
mod ini;
mod program;
mod section;
mod server;
mod shell;
mod vms;

use std::fmt;
use std::path::Path;

use crate::config::model::DomainConfig;

/// What an import needs to know beside the text.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// The directory of the file: what `%(here)s` and relative paths are about.
    pub here: &'a Path,
    /// The value of a variable of the environment, for `%(ENV_X)s`.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
}

impl fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings").field("here", &self.here).finish_non_exhaustive()
    }
}

/// How much a remark weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Good to know.
    Notice,
    /// Something is not as the file has it.
    Warning,
    /// It cannot be imported.
    Error,
}

/// One line about the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// How much it weighs.
    pub weight: Weight,
    /// The line of the file, from 1; 0 for what is missing altogether.
    pub line: usize,
    /// The section and the key it is about, as far as there are.
    pub about: String,
    /// What there is to say.
    pub text: String,
}

impl fmt::Display for Remark {
    /// Without the name of the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}: ", self.line)?;
        }
        if self.about.is_empty() {
            f.write_str(&self.text)
        } else {
            write!(f, "{}: {}", self.about, self.text)
        }
    }
}

/// One program as a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The line of its section.
    pub line: usize,
    /// The domain.
    pub config: DomainConfig,
}

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Import {
    /// The programs without a mistake, in the order of the file.
    pub programs: Vec<Program>,
    /// What there is to say, in the order of the file.
    pub remarks: Vec<Remark>,
}

impl Import {
    /// The mistakes; with any, nothing is to be imported.
    pub fn errors(&self) -> impl Iterator<Item = &Remark> {
        self.remarks.iter().filter(|remark| remark.weight == Weight::Error)
    }

    fn say(
        &mut self,
        weight: Weight,
        line: usize,
        about: impl Into<String>,
        text: impl Into<String>,
    ) {
        self.remarks.push(Remark { weight, line, about: about.into(), text: text.into() });
    }
}

/// Reads a `supervisord.conf`.
#[must_use]
pub fn import(text: &str, around: &Surroundings<'_>) -> Import {
    let ini = ini::read(text);
    let mut import = Import::default();
    for bad in &ini.bad {
        import.say(Weight::Error, bad.line, "", format!("this line {}", bad.text));
    }
    let server = server::read(&ini, around, &mut import);
    let mut programs = 0;
    for section in &ini.sections {
        let about = format!("[{}]", section.name);
        match section.name.split_once(':') {
            Some(("program", name)) => {
                programs += 1;
                program::read(section, name.trim(), &server, around, &mut import);
            }
            _ => server::other(section, &about, &mut import),
        }
    }
    if programs == 0 {
        let text = "there is no [program:NAME] section: nothing to be imported";
        import.say(Weight::Error, 0, "", text);
    }
    same_names(&mut import);
    import.remarks.sort_by_key(|remark| remark.line);
    import
}

/// Two programs of one name would be one domain.
fn same_names(import: &mut Import) {
    let mut seen: Vec<(String, usize)> = Vec::new();
    let mut twice = Vec::new();
    for program in &import.programs {
        let name = program.config.name.to_string();
        match seen.iter().find(|(other, _)| *other == name) {
            Some((_, first)) => twice.push((program.line, name, *first)),
            None => seen.push((name, program.line)),
        }
    }
    for (line, name, first) in twice {
        let text = format!("the program of line {first} is called \"{name}\" as well");
        import.say(Weight::Error, line, "process_name", text);
    }
}

#[cfg(test)]
mod tests;
