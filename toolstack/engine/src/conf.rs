//! `kxl.conf`: what the administrator says about the host.

use std::fs;
use std::path::Path;

use kxl_domain::config::{self, Defaults, HostFileError, PlainSetting};
use kxl_domain::{Failure, Kind};
use kxl_store::{Paths, Retention};
use nix::unistd::{Uid, User};

use crate::telling::Telling;

/// What `kxl.conf` says (xl.cfg's grammar; unknown keys are errors, a missing file is not).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conf {
    /// `default_bridge=`: the bridge of interfaces that name none.
    pub default_bridge: Option<String>,
    /// The user and group that emulators run as when root starts them: `emulator_user=`, else the
    /// user `kxl` if there is one, else `nobody`. `None` without root or with `emulator_user="root"`.
    pub run_as: Option<(u32, u32)>,
    /// `control_group=`: the group whose members may come through the gate.
    pub control_group: Option<String>,
    /// `control_password_hash=`: the password with which others may, as `kxl gate password` prints it.
    pub control_password_hash: Option<String>,
    /// What holds for domains that say nothing.
    pub defaults: Defaults,
    /// How events are kept and told.
    pub telling: Telling,
    /// Why nothing of the file counts, where it cannot be understood.
    pub mistake: Option<Failure>,
}

impl Conf {
    /// Reads `kxl.conf`.
    ///
    /// # Errors
    /// When the file is there and wrong, naming file, line and key.
    pub fn read(paths: &Paths) -> Result<Self, Failure> {
        Self::read_file(&paths.conf_file())
    }

    /// Reads a file in the place of `kxl.conf`; one that is not there says nothing.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_file(path: &Path) -> Result<Self, Failure> {
        Self::parse(&path.display().to_string(), &text(path)?)
    }

    /// Reads `kxl.conf` for what has to work whatever somebody has written into it: stopping,
    /// saving, adopting, telling. Nothing that was recorded is removed by a rule that is not known.
    /// What launches a program has to look at [`mistake`](Self::mistake).
    #[must_use]
    pub fn read_or_mistake(paths: &Paths) -> Self {
        Self::read(paths).unwrap_or_else(|mistake| {
            let retention = Retention { count: i64::MAX, days: None };
            let telling = Telling { retention, ..Telling::default() };
            Self { telling, mistake: Some(mistake), ..Self::default() }
        })
    }

    /// Reads what `kxl.conf` says about telling events alone; looks no user up.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn telling(paths: &Paths) -> Result<Telling, Failure> {
        let path = paths.conf_file();
        let file = config::host_file(&path.display().to_string(), &text(&path)?)
            .map_err(|error| wrong(&error))?;
        let mut telling = Telling::default();
        let mut settings = file.settings.iter();
        settings.try_for_each(|setting| telling.set(setting))?;
        Ok(telling)
    }

    /// What `kxl.conf` of this environment says.
    ///
    /// # Errors
    /// As [`read`](Self::read), and when a path of the environment cannot be used.
    pub fn of_this_host() -> Result<Self, Failure> {
        let paths = Paths::from_env()
            .map_err(|e| crate::host::stored("cannot use this host's places", &e))?;
        Self::read(&paths)
    }

    /// The defaults for domains of the host of this environment.
    ///
    /// # Errors
    /// As [`read`](Self::read), and when a path of the environment cannot be used.
    pub fn domain_defaults() -> Result<Defaults, Failure> {
        Self::of_this_host().map(|conf| conf.defaults)
    }

    fn parse(source: &str, text: &str) -> Result<Self, Failure> {
        let file = config::host_file(source, text).map_err(|error| wrong(&error))?;
        let mut conf = Self { defaults: file.defaults, ..Self::default() };
        let mut user = None;
        for setting in file.settings {
            match setting.key {
                "default_bridge" => conf.default_bridge = Some(setting.value),
                "emulator_user" => user = Some(setting),
                key if Telling::KEYS.contains(&key) => conf.telling.set(&setting)?,
                "control_group" => conf.control_group = Some(setting.value),
                "control_password_hash" => conf.control_password_hash = Some(setting.value),
                // Has its place among the defaults; see kxl_domain::config::HOST_KEYS.
                _ => {}
            }
        }
        conf.run_as = run_as(user.as_ref())?;
        Ok(conf)
    }
}

/// What is in it.
fn text(path: &Path) -> Result<String, Failure> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(|error| {
            Failure::because(Kind::Failed, format!("cannot read {}", path.display()), &error)
        }),
    }
}

fn wrong(error: &HostFileError) -> Failure {
    let failure = Failure::new(Kind::Usage, error.to_string().trim_end().to_owned());
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

fn run_as(user: Option<&PlainSetting>) -> Result<Option<(u32, u32)>, Failure> {
    if !Uid::effective().is_root() || user.is_some_and(|user| user.value == "root") {
        return Ok(None);
    }
    match user {
        Some(PlainSetting { value: name, place, .. }) => {
            let known = local_user(name).or_else(|| {
                let user = User::from_name(name).ok().flatten()?;
                Some((user.uid.as_raw(), user.gid.as_raw()))
            });
            known.map(Some).ok_or_else(|| {
                let text = format!("{place}: emulator_user: there is no user \"{name}\"");
                Failure::new(Kind::Usage, text).hint("create the user, or name another one")
            })
        }
        None => Ok(local_user("kxl").or_else(|| local_user("nobody"))),
    }
}

/// User and group id from `/etc/passwd`. The name service, with the libraries that it loads into
/// every monitor, is asked only for a name that is not there.
fn local_user(name: &str) -> Option<(u32, u32)> {
    let text = fs::read_to_string("/etc/passwd").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (user, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (user == name).then_some((uid, gid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kxl_conf_refuses_what_it_does_not_know() {
        let failure = Conf::parse("kxl.conf", "default_brigde = \"br0\"\n").unwrap_err();
        assert_eq!(failure.text, "kxl.conf:1:1: unknown key \"default_brigde\"");
        assert!(failure.hint.unwrap().contains("default_bridge"));
    }

    #[test]
    fn kxl_conf_names_the_default_bridge_and_defaults_for_domains() {
        let conf = Conf::parse("kxl.conf", "default_bridge = \"br0\"\nnice = 5\n").unwrap();
        assert_eq!(conf.default_bridge.as_deref(), Some("br0"));
        assert_ne!(conf.defaults, Defaults::default());
    }
}
