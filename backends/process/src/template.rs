//! `{x}` in profiles: values of the configuration put into single arguments and lines.
//!
//! * `{x}`: the value; an error where the configuration has none.
//! * `{x?}`: the value; where there is none the whole argument or line is left out.
//! * `{x|text}`: the value, or `text`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use kxl_backend::{BackendError, LaunchSpec};

/// What a template became, and the name of the value it begins with, if it does.
type Expanded<'t> = (Vec<u8>, Option<&'t str>);

/// Number of the runtime directory among the descriptors of a program whose profile says
/// `{sockets}`: the path of a socket must be short, however deep that directory lies.
pub(crate) const SOCKETS_FD: RawFd = 104;

/// The values of one domain, by name.
#[derive(Clone, Debug)]
pub(crate) struct Values {
    profile: String,
    values: BTreeMap<&'static str, Option<OsString>>,
}

impl Values {
    pub(crate) fn of(profile: &str, spec: &LaunchSpec) -> Self {
        let config = &spec.config;
        let text = |text: &str| Some(OsString::from(text));
        let path =
            |path: &Option<std::path::PathBuf>| path.as_ref().map(|p| p.clone().into_os_string());
        let arch =
            config.arch.map_or(std::env::consts::ARCH, kxl_domain::config::model::Arch::as_str);
        let values = BTreeMap::from([
            ("name", text(spec.name.as_str())),
            ("uuid", text(&spec.uuid.to_string())),
            ("domid", text(&spec.domid.to_string())),
            ("rundir", Some(spec.rundir.clone().into_os_string())),
            ("sockets", text(&format!("/proc/self/fd/{SOCKETS_FD}"))),
            ("arch", text(arch)),
            ("machine", config.machine.as_deref().and_then(text)),
            ("memory_mib", text(&config.memory_mib.to_string())),
            ("vcpus", text(&config.vcpus.to_string())),
            ("kernel", path(&config.boot.kernel)),
            ("ramdisk", path(&config.boot.ramdisk)),
            ("cmdline", config.boot.cmdline.as_deref().and_then(text)),
            ("ini", path(&config.ini)),
            ("start", config.start.as_deref().and_then(text)),
            ("exec", path(&config.emulator)),
            ("file", None),
            ("port", None),
            ("emulator_config", path(&config.emulator_config)),
            ("config_copy", None),
            ("console_port", None),
        ]);
        Self { profile: profile.to_owned(), values }
    }

    /// The same with another value for a name.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.values.insert(name, Some(value.into()));
        self
    }

    /// One argument; `None` when an optional value is absent.
    ///
    /// # Errors
    /// [`BackendError::Config`] for a value that is absent, or that would begin an option where the
    /// template does not.
    pub(crate) fn argument(&self, template: &str) -> Result<Option<OsString>, BackendError> {
        let Some((bytes, first)) = self.expand(template)? else { return Ok(None) };
        if bytes.first() == Some(&b'-') && !template.starts_with('-') {
            let key = first.unwrap_or("backend");
            return Err(BackendError::config(key, "the value would be read as an option"));
        }
        Ok(Some(OsString::from_vec(bytes)))
    }

    /// A file's text, line by line. Values must be plain there: nothing in them can begin another
    /// line or another word.
    ///
    /// # Errors
    /// [`BackendError::Config`] as above, or for a value with blanks or control characters.
    pub(crate) fn text(&self, template: &str) -> Result<Vec<u8>, BackendError> {
        let mut text = Vec::new();
        for line in template.lines() {
            for name in names(line) {
                let Some(Some(value)) = self.values.get(name) else { continue };
                if value
                    .as_bytes()
                    .iter()
                    .any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control())
                {
                    return Err(BackendError::config(
                        name,
                        "blanks and control characters cannot stand there",
                    ));
                }
            }
            if let Some((bytes, _)) = self.expand(line)? {
                text.extend_from_slice(bytes.trim_ascii_end());
                text.push(b'\n');
            }
        }
        Ok(text)
    }

    /// The bytes, and the name of the value they begin with.
    fn expand<'t>(&self, template: &'t str) -> Result<Option<Expanded<'t>>, BackendError> {
        let wrong = |why: String| {
            let profile = &self.profile;
            BackendError::config("backend", format!("profile {profile}: {template:?}: {why}"))
        };
        let (mut out, mut first, mut rest) = (Vec::new(), None, template);
        while let Some(open) = rest.find('{') {
            out.extend_from_slice(&rest.as_bytes()[..open]);
            let (hole, tail) =
                rest[open + 1..].split_once('}').ok_or_else(|| wrong("no closing brace".into()))?;
            rest = tail;
            let name = name_of(hole);
            if out.is_empty() {
                first = Some(name);
            }
            let known = self.values.get(name).ok_or_else(|| {
                let names: Vec<_> = self.values.keys().copied().collect();
                wrong(format!("no value {name:?}; expected one of {}", names.join(", ")))
            })?;
            match (known, hole.split_once('|')) {
                (Some(value), _) => out.extend_from_slice(value.as_bytes()),
                (None, Some((_, default))) => out.extend_from_slice(default.as_bytes()),
                (None, None) if hole.ends_with('?') => return Ok(None),
                (None, None) => {
                    let profile = &self.profile;
                    let why = format!("backend \"{profile}\" needs it");
                    return Err(BackendError::config(name, why));
                }
            }
        }
        out.extend_from_slice(rest.as_bytes());
        Ok(Some((out, first)))
    }
}

/// The names of all values.
pub(crate) const NAMES: &[&str] = &[
    "name",
    "uuid",
    "domid",
    "rundir",
    "sockets",
    "arch",
    "machine",
    "memory_mib",
    "vcpus",
    "kernel",
    "ramdisk",
    "cmdline",
    "ini",
    "start",
    "exec",
    "file",
    "port",
    "emulator_config",
    "config_copy",
    "console_port",
];

/// What is wrong with a template whatever the domain; `None` when nothing is.
pub(crate) fn mistake(template: &str) -> Option<String> {
    let mut rest = template;
    while let Some((_, hole)) = rest.split_once('{') {
        let Some((hole, tail)) = hole.split_once('}') else {
            return Some("a brace is not closed".to_owned());
        };
        rest = tail;
        let name = name_of(hole);
        if !NAMES.contains(&name) {
            let meant = kxl_domain::config::nearest(name, NAMES.iter().copied());
            let meant = meant.map(|meant| format!("; did you mean {{{meant}}}?"));
            let (meant, known) = (meant.unwrap_or_default(), NAMES.join(", "));
            return Some(format!("there is no value {{{name}}}{meant} There are {known}"));
        }
    }
    None
}

fn name_of(hole: &str) -> &str {
    let name = hole.split_once('|').map_or(hole, |(name, _)| name);
    name.strip_suffix('?').unwrap_or(name)
}

/// The names of the values in a line.
fn names(line: &str) -> impl Iterator<Item = &str> {
    line.split('{').skip(1).filter_map(|part| part.split_once('}')).map(|(hole, _)| name_of(hole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;

    fn values(change: impl FnOnce(&mut LaunchSpec)) -> Values {
        let mut spec = Scratch::new("template").spec();
        change(&mut spec);
        Values::of("p", &spec)
    }

    #[test]
    fn a_value_stays_one_argument_whatever_is_in_it() {
        let values = values(|spec| spec.config.boot.cmdline = Some("a b --c 'd'".into()));
        assert_eq!(values.argument("--line={cmdline}").unwrap().unwrap(), "--line=a b --c 'd'");
        assert_eq!(values.argument("plain").unwrap().unwrap(), "plain");
        assert_eq!(values.argument("{kernel?}").unwrap(), None);
        assert_eq!(values.argument("n{machine|one}").unwrap().unwrap(), "none");
    }

    #[test]
    fn a_value_does_not_become_an_option() {
        let values = values(|spec| spec.config.machine = Some("--help".into()));
        let error = values.argument("{machine}").unwrap_err().to_string();
        assert_eq!(error, "machine: the value would be read as an option");
        assert_eq!(values.argument("-m{machine}").unwrap().unwrap(), "-m--help");
    }

    #[test]
    fn a_value_does_not_become_another_line_or_word() {
        let template = "set cpu idle\ndo {ini?}\ngo {start|}\n";
        let none = values(|_| {});
        assert_eq!(none.text(template).unwrap(), b"set cpu idle\ngo\n");
        let both = values(|spec| {
            spec.config.ini = Some("/a/b.ini".into());
            spec.config.start = Some("1000".into());
        });
        assert_eq!(both.text(template).unwrap(), b"set cpu idle\ndo /a/b.ini\ngo 1000\n");
        for evil in ["1000\n!rm", "1000 x", "\x05"] {
            let values = values(|spec| spec.config.start = Some(evil.into()));
            let error = values.text(template).unwrap_err().to_string();
            assert!(error.starts_with("start: blanks"), "{error}");
        }
    }

    #[test]
    fn every_value_has_its_name_in_the_list() {
        let mut known: Vec<_> = values(|_| {}).values.keys().copied().collect();
        let mut names = NAMES.to_vec();
        known.sort_unstable();
        names.sort_unstable();
        assert_eq!(names, known);
        assert_eq!(mistake("{name}{machine|one}{kernel?}"), None);
        assert!(mistake("{machin}").unwrap().contains("did you mean {machine}?"));
        assert!(mistake("{name").unwrap().contains("not closed"));
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        let values = values(|_| {});
        let error = values.argument("{machine}").unwrap_err().to_string();
        assert_eq!(error, "machine: backend \"p\" needs it");
        assert!(
            values.argument("{colour}").unwrap_err().to_string().contains("no value \"colour\"")
        );
        assert!(values.argument("{name").unwrap_err().to_string().contains("no closing brace"));
    }
}
