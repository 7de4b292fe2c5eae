//! `kxl-domains`, the worker of the service of that name: the same program, called by another name
//! from where a system keeps its workers.
//!
//! It knows the settings of xendomains, under their names. What they are for and which of them mean
//! something here is in kxl(1).

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kxl_domain::{Failure, Kind};
use kxl_engine::Host;
use kxl_engine::maintenance::{Auto, Order, Way};

use crate::commands::Exit;
use crate::commands::host::args::{Common, SAVES, STARTS};
use crate::commands::host::{empty, fill};
use crate::report;

/// The name that the program is called by.
pub(crate) const NAME: &str = "kxl-domains";

/// Where the settings are; the first that is there.
const FILES: [&str; 2] = ["/etc/default/kxl-domains", "/etc/sysconfig/kxl-domains"];

/// What LSB wants of `status` when a service was not started.
const NOT_STARTED: u8 = 3;

/// Runs the worker.
pub(crate) fn main(mut words: impl Iterator<Item = std::ffi::OsString>) -> u8 {
    let word = words.next().unwrap_or_default();
    act(&word.to_string_lossy()).unwrap_or_else(|failure| {
        report::failure(&failure);
        failure.kind.exit_code()
    })
}

fn act(word: &str) -> Exit {
    let settings = Settings::read()?;
    match word {
        // Starting is idempotent: what runs is left alone.
        "start" | "reload" => start(&settings),
        "stop" => stop(&settings),
        "restart" => {
            let stopped = stop(&settings)?;
            let started = start(&settings)?;
            Ok(stopped.max(started))
        }
        "status" => status(&settings),
        _ => Err(Failure::new(Kind::Usage, format!("{NAME} does not know \"{word}\""))
            .hint(format!("{NAME} start|stop|restart|reload|status"))),
    }
}

fn start(settings: &Settings) -> Exit {
    let what = fill::What {
        starting: true,
        restoring: settings.is_on("XENDOMAINS_RESTORE", true),
        auto: settings.auto(),
        from: settings.directory(),
        jobs: settings.number("KXL_DOMAINS_JOBS", STARTS),
        ..fill::What::default()
    };
    fill::fill(&what)
}

fn stop(settings: &Settings) -> Exit {
    settings.warn();
    let mut policy = Vec::new();
    if settings.text("XENDOMAINS_SAVE") != Some("") {
        policy.push(Way::Save);
    }
    if settings.text("XENDOMAINS_SHUTDOWN") != Some("") {
        policy.push(Way::Shutdown);
    }
    if settings.is_on("KXL_DOMAINS_DESTROY", false) {
        policy.push(Way::Destroy);
    }
    let to = settings.directory();
    let jobs = usize::try_from(settings.number("KXL_DOMAINS_JOBS", SAVES)).unwrap_or(1);
    if !settings.is_on("XENDOMAINS_AUTO_ONLY", false) {
        return empty::empty(&settings.common(Vec::new()), to, policy, jobs);
    }
    let mut host = Host::open()?;
    let names = host.live_starters(&settings.auto())?;
    let mut status = 0;
    if !names.is_empty() {
        status = empty::empty(&settings.common(names), to, policy, jobs)?;
    }
    if settings.text("XENDOMAINS_SHUTDOWN_ALL") != Some("") {
        let rest = settings.common(Vec::new());
        status = status.max(empty::empty(&rest, None, vec![Way::Shutdown], 1)?);
    }
    Ok(status)
}

/// 0: everything that starts with the host is there; 1: something is not; 3: it was not started.
fn status(settings: &Settings) -> Exit {
    let host = Host::open()?;
    if !host.paths.boot_notes().exists() {
        report::note("the host's domains were not started in this boot");
        return Ok(NOT_STARTED);
    }
    let what = fill::What {
        starting: true,
        restoring: true,
        again: true,
        auto: settings.auto(),
        dry_run: true,
        jobs: 1,
        ..fill::What::default()
    };
    fill::waiting(&what)
}

/// The settings of the file, by name.
#[derive(Debug, Default)]
struct Settings(HashMap<String, String>);

impl Settings {
    fn read() -> Result<Self, Failure> {
        // A tree of its own has its settings in it as well.
        let root = std::env::var_os("KXL_ROOT").map_or_else(|| PathBuf::from("/"), PathBuf::from);
        for file in FILES {
            let path = root.join(file.trim_start_matches('/'));
            match fs::read_to_string(&path) {
                Ok(text) => return Self::parse(&path, &text),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    let attempt = format!("cannot read {}", path.display());
                    return Err(Failure::because(Kind::Failed, attempt, &error));
                }
            }
        }
        Ok(Self::default())
    }

    /// Assignments as a shell reads them, without what a shell would run: `NAME=word`,
    /// `NAME="words"`, `NAME='words'`, comments.
    fn parse(path: &Path, text: &str) -> Result<Self, Failure> {
        let mut settings = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            let line = line.strip_prefix("export ").unwrap_or(line);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let found =
                line.split_once('=').and_then(|(name, value)| Some((name, unquoted(value)?)));
            let Some((name, value)) = found.filter(|(name, _)| is_name(name)) else {
                let text = format!("{}:{}: this is not NAME=value", path.display(), number + 1);
                return Err(Failure::new(Kind::Usage, text)
                    .hint("the file is read without a shell: no $, no backquotes, no commands"));
            };
            settings.insert(name.to_owned(), value);
        }
        Ok(Self(settings))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn is_on(&self, name: &str, default: bool) -> bool {
        self.text(name).map_or(default, |text| matches!(text, "true" | "yes" | "on" | "1"))
    }

    fn number(&self, name: &str, default: u32) -> u32 {
        self.text(name).and_then(|text| text.parse().ok()).unwrap_or(default)
    }

    /// The directory for images, where it is not the store.
    fn directory(&self) -> Option<PathBuf> {
        self.text("XENDOMAINS_SAVE").filter(|text| !text.is_empty()).map(PathBuf::from)
    }

    fn auto(&self) -> Auto {
        match self.text("XENDOMAINS_AUTO") {
            None => Auto::Usual,
            Some("") => Auto::Nowhere,
            Some(directory) => Auto::In(directory.into()),
        }
    }

    fn common(&self, names: Vec<String>) -> Common {
        // Empty or 0 means for ever, as it does there: a year will do.
        let patience = match self.number("XENDOMAINS_STOP_MAXWAIT", 300) {
            0 => Duration::from_secs(86_400 * 365),
            seconds => Duration::from_secs(seconds.into()),
        };
        let deadline = match self.number("KXL_DOMAINS_DEADLINE", 0) {
            0 => None,
            seconds => Some(Duration::from_secs(seconds.into())),
        };
        Common {
            names,
            managed: false,
            deadline,
            patience,
            order: Order::Priority,
            dry_run: false,
            quiet: false,
            json: false,
        }
    }

    /// Settings that ask for what is not done here.
    fn warn(&self) {
        for (name, why) in [
            ("XENDOMAINS_SYSRQ", "no keys are sent to guests"),
            ("XENDOMAINS_MIGRATE", "migration is not built yet: domains are saved"),
        ] {
            if self.text(name).is_some_and(|text| !text.is_empty()) {
                report::warning(&format!("{name} is set and has no effect: {why}"));
            }
        }
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The value of a word as a shell would see it; `None` for what only a shell can tell.
fn unquoted(text: &str) -> Option<String> {
    let (quote, rest) = match text.chars().next() {
        Some(quote @ ('"' | '\'')) => (Some(quote), &text[1..]),
        _ => (None, text),
    };
    let (value, behind) = match quote {
        Some(quote) => rest.split_once(quote)?,
        None => rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len())),
    };
    let behind = behind.trim_start();
    let plain = quote == Some('\'')
        || !value.contains(['$', '`', '\\'])
            && (quote.is_some() || !value.contains([';', '&', '|', '"', '\'']));
    (plain && (behind.is_empty() || behind.starts_with('#'))).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, Failure> {
        Settings::parse(Path::new("f"), text)
    }

    #[test]
    fn assignments_are_read_as_a_shell_would() {
        let settings = read(
            "# xendomains\n\nXENDOMAINS_SAVE=\"\"  # none\nexport A='x y'\nXENDOMAINS_AUTO=/a/b\nB=\n",
        )
        .unwrap();
        assert_eq!(settings.text("XENDOMAINS_SAVE"), Some(""));
        assert_eq!(settings.directory(), None);
        assert_eq!(settings.text("A"), Some("x y"));
        assert_eq!(settings.text("B"), Some(""));
        assert_eq!(settings.auto(), Auto::In("/a/b".into()));
    }

    #[test]
    fn what_only_a_shell_can_read_is_refused_with_its_line() {
        for text in ["A=$B", "A=`x`", "\n. /etc/other", "A=\"x", "A=x; rm y", "A=x y", "1A=x"] {
            let failure = read(text).unwrap_err();
            assert_eq!(failure.kind, Kind::Usage, "{text}");
            assert!(failure.text.starts_with(&format!("f:{}", text.lines().count())), "{failure}");
        }
    }

    #[test]
    fn no_time_at_all_means_for_ever() {
        assert!(
            read("XENDOMAINS_STOP_MAXWAIT=0").unwrap().common(Vec::new()).patience.as_secs()
                > 1 << 20
        );
        assert_eq!(read("").unwrap().common(Vec::new()).patience.as_secs(), 300);
    }
}
