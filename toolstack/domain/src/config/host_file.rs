//! `kxl.conf`: the settings of a host, and its defaults for keys of domains.

use thiserror::Error;

use super::build;
use super::defaults::Defaults;
use super::error::ConfigErrors;
use super::nearest::nearest;
use super::syntax::{self, Setting, ValueKind};
use super::text::{Place, SourceText};

/// One key of the host itself.
#[derive(Clone, Copy, Debug)]
pub struct HostKey {
    /// Its name.
    pub name: &'static str,
    /// What it means, in one line.
    pub meaning: &'static str,
}

const fn k(name: &'static str, meaning: &'static str) -> HostKey {
    HostKey { name, meaning }
}

/// Every key of `kxl.conf` that is the host's own: what a string or a number says. Each is read in
/// one place, by name, and has its entry in kxl.conf(5), which a test compares.
pub const HOST_KEYS: &[HostKey] = &[
    k("control_group", "the group whose members may come through the gate"),
    k("control_password_hash", "the hash of the password with which others may"),
    k("default_bridge", "the bridge of network interfaces that name none"),
    k("emulator_user", "the user that emulators run as when root starts them"),
    k("events_keep", "how many events are kept"),
    k("events_keep_days", "for how many days events are kept"),
    k("hooks_timeout", "after how many seconds a hook is ended"),
    k("alert_mail", "who is sent a mail about each alert"),
    k("alert_mail_from", "who such a mail is from"),
    k("sendmail", "the program that sends mail"),
    k("supervise", "1: domains that say nothing of what follows their end are supervised"),
];

/// What `kxl.conf` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFile {
    /// The keys of the host that it gives, in the order of the alphabet.
    pub settings: Vec<PlainSetting>,
    /// What holds for domains that say nothing.
    pub defaults: Defaults,
}

/// A `key = value` whose value is a string or a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainSetting {
    /// The key.
    pub key: &'static str,
    /// Its value as text.
    pub value: String,
    /// Where the key stands.
    pub place: Place,
}

/// Why a `kxl.conf` cannot be used.
#[derive(Debug, Error)]
pub enum HostFileError {
    /// A line of another grammar.
    #[error("{0}: this is not key = value")]
    NotASetting(Box<Place>),
    /// A list where one value is due.
    #[error("{place}: {key} needs a single value")]
    NeedsSingle {
        /// Where.
        place: Box<Place>,
        /// The key.
        key: &'static str,
    },
    /// A key that is neither the host's nor one with a default.
    #[error("{place}: unknown key \"{key}\"")]
    UnknownKey {
        /// Where.
        place: Box<Place>,
        /// The key.
        key: String,
        /// The nearest known one.
        nearest: Option<&'static str>,
    },
    /// A file for the output of every domain of the host.
    #[error("{place}: {key} would be one file for all domains")]
    SharedFile {
        /// Where.
        place: Box<Place>,
        /// The key.
        key: &'static str,
    },
    /// A default that no domain could have.
    #[error(transparent)]
    Default(#[from] ConfigErrors),
}

impl HostFileError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotASetting(place) => Some(place.excerpt().trim_end().to_owned()),
            Self::UnknownKey { nearest: Some(near), .. } => {
                Some(format!("the nearest key is {near}; kxl.conf(5) tells them all"))
            }
            Self::UnknownKey { .. } => Some("kxl.conf(5) tells the keys there are".into()),
            Self::SharedFile { .. } => Some("%n in it stands for the name of the domain".into()),
            Self::NeedsSingle { .. } | Self::Default(_) => None,
        }
    }
}

/// Reads a `kxl.conf`; a key that is given twice has its last value.
///
/// # Errors
/// The first mistake, or every one that is in the defaults for domains.
pub fn host_file(source_name: &str, text: &str) -> Result<HostFile, HostFileError> {
    let source = SourceText::new(source_name, text, &[]);
    let document = syntax::read(&source);
    if let Some(error) = document.errors.first() {
        return Err(HostFileError::NotASetting(Box::new(source.place(&error.span))));
    }
    let mut file = HostFile::default();
    for (name, setting) in &document.settings {
        let place = || Box::new(source.place(&setting.key_span));
        if let Some(key) = HOST_KEYS.iter().find(|key| key.name == name) {
            let ValueKind::Atom(value) = &setting.value.kind else {
                return Err(HostFileError::NeedsSingle { place: place(), key: key.name });
            };
            let (value, place) = (value.clone(), *place());
            file.settings.push(PlainSetting { key: key.name, value, place });
        } else if let Some(key) = Defaults::KEYS.into_iter().find(|key| key == name) {
            if is_shared_file(key, setting) {
                return Err(HostFileError::SharedFile { place: place(), key });
            }
            file.defaults.push(key, setting.value.kind.clone());
        } else {
            let known = HOST_KEYS.iter().map(|key| key.name).chain(Defaults::KEYS);
            let nearest = nearest(name, known);
            let key = name.clone();
            return Err(HostFileError::UnknownKey { place: place(), key, nearest });
        }
    }
    file.defaults.supervise(file.settings.iter().any(|s| s.key == "supervise" && s.value != "0"));
    build::check_defaults(&source, &document)?;
    Ok(file)
}

/// Whether a file of output would be that of several domains.
fn is_shared_file(key: &str, setting: &Setting) -> bool {
    let plain = ["none", "stdout", "/dev/null"];
    matches!(key, "stdout" | "stderr")
        && matches!(&setting.value.kind, ValueKind::Atom(path)
            if !plain.contains(&path.as_str()) && !path.contains("%n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad(text: &str) -> (String, Option<String>) {
        let error = host_file("kxl.conf", text).unwrap_err();
        (error.to_string(), error.hint())
    }

    #[test]
    fn settings_come_with_their_places() {
        let read = host_file("kxl.conf", "# bridge\ndefault_bridge = \"br0\"\n").unwrap().settings;
        assert_eq!((read[0].key, read[0].value.as_str()), ("default_bridge", "br0"));
        assert_eq!(read[0].place.to_string(), "kxl.conf:2:1");
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_the_nearest() {
        let (text, hint) = bad("supervice = 1\n");
        assert_eq!(text, "kxl.conf:1:1: unknown key \"supervice\"");
        assert!(hint.unwrap().contains("the nearest key is supervise"));
        // Keys of a single domain have no default.
        for key in ["name", "memory", "on_crash", "uuid", "disk"] {
            assert!(bad(&format!("{key} = \"1\"\n")).0.contains("unknown key"), "{key}");
        }
    }

    #[test]
    fn a_broken_line_a_list_for_one_value_and_a_wrong_default_are_told_with_their_place() {
        assert_eq!(bad("supervise = 1\nb c\n").0, "kxl.conf:2:3: this is not key = value");
        assert!(bad("default_bridge = [\"a\"]\n").0.ends_with("needs a single value"));
        assert!(bad("\nstartsecs = \"soon\"\n").0.starts_with("kxl.conf:2:13: startsecs needs"));
        assert!(bad("nice = 40\n").0.contains("out of range"));
    }

    #[test]
    fn the_output_of_all_domains_does_not_go_to_one_file() {
        assert!(bad("stdout = \"/var/log/all\"\n").0.ends_with("one file for all domains"));
        for text in ["stdout = 'none'\n", "stdout='/l/%n'\nstderr='stdout'\n"] {
            assert!(host_file("kxl.conf", text).is_ok(), "{text}");
        }
    }
}
