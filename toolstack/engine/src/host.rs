//! The host as a command sees it: paths, databases, kxl.conf, and the domains by name.

use std::fs;

use kxl_domain::{Failure, Kind, config};
use kxl_store::{ListRow, Paths, Store, StoreError};
use nix::unistd::{Uid, User};

/// What `kxl.conf` says (xl.cfg's grammar; unknown keys are errors, a missing file is not).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conf {
    /// `default_bridge=`: the bridge of interfaces that name none.
    pub default_bridge: Option<String>,
    /// The user and group that emulators run as when root starts them: `emulator_user=`, else the
    /// user `kxl` if there is one, else `nobody`. `None` without root or with `emulator_user="root"`.
    pub run_as: Option<(u32, u32)>,
}

/// One host (or one `KXL_ROOT`).
#[derive(Debug)]
pub struct Host {
    /// Where everything is.
    pub paths: Paths,
    /// The databases; opened when first used.
    pub store: Store,
    /// What kxl.conf says.
    pub conf: Conf,
}

impl Host {
    /// The host of this environment. Opens no database.
    ///
    /// # Errors
    /// When a path of the environment cannot be used, or kxl.conf is wrong.
    pub fn open() -> Result<Self, Failure> {
        let paths = Paths::from_env().map_err(|e| stored("cannot use this host's places", &e))?;
        let conf = Conf::read(&paths)?;
        let store = Store::open(&paths).map_err(|e| stored("cannot open the store", &e))?;
        Ok(Self { paths, store, conf })
    }

    /// The domain of a name, domid or uuid.
    ///
    /// # Errors
    /// [`Kind::NoSuchDomain`], with the nearest name as a hint.
    pub fn find(&mut self, who: &str) -> Result<ListRow, Failure> {
        let found = self.store.find(who).map_err(|e| stored("cannot read the registry", &e))?;
        if let Some(row) = found {
            return Ok(row);
        }
        let failure = Failure::new(Kind::NoSuchDomain, format!("there is no domain \"{who}\""));
        let rows = self.store.list().unwrap_or_default();
        let near = config::nearest(who, rows.iter().map(|row| row.name.as_str()));
        Err(match near {
            Some(name) => failure.hint(format!("did you mean \"{name}\"?")),
            None => failure.hint("kxl list shows what there is"),
        })
    }
}

/// A failure of the store, with its kind.
pub(crate) fn stored(attempt: impl Into<String>, error: &StoreError) -> Failure {
    Failure::because(Kind::Failed, attempt, error)
}

impl Conf {
    /// Reads `kxl.conf`.
    ///
    /// # Errors
    /// When the file is there and wrong, naming file, line and key.
    pub fn read(paths: &Paths) -> Result<Self, Failure> {
        let path = paths.conf_file();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                let attempt = format!("cannot read {}", path.display());
                return Err(Failure::because(Kind::Failed, attempt, &error));
            }
        };
        Self::parse(&path.display().to_string(), &text)
    }

    fn parse(source: &str, text: &str) -> Result<Self, Failure> {
        let settings = config::settings(source, text).map_err(|place| {
            let text = format!("{place}: this is not key = \"value\"");
            Failure::new(Kind::Usage, text).hint(place.excerpt().trim_end())
        })?;
        let mut conf = Self::default();
        let mut user = None;
        for setting in settings {
            match setting.key.as_str() {
                "default_bridge" => conf.default_bridge = Some(setting.value),
                "emulator_user" => user = Some(setting.value),
                key => {
                    let text = format!("{}: unknown key \"{key}\"", setting.place);
                    return Err(Failure::new(Kind::Usage, text)
                        .hint("kxl.conf knows default_bridge and emulator_user"));
                }
            }
        }
        conf.run_as = run_as(source, user.as_deref())?;
        Ok(conf)
    }
}

fn run_as(source: &str, user: Option<&str>) -> Result<Option<(u32, u32)>, Failure> {
    if !Uid::effective().is_root() || user == Some("root") {
        return Ok(None);
    }
    match user {
        Some(name) => {
            let known = local_user(name).or_else(|| {
                let user = User::from_name(name).ok().flatten()?;
                Some((user.uid.as_raw(), user.gid.as_raw()))
            });
            known.map(Some).ok_or_else(|| {
                let text = format!("{source}: emulator_user: there is no user \"{name}\"");
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
    }

    #[test]
    fn kxl_conf_names_the_default_bridge() {
        let conf = Conf::parse("kxl.conf", "default_bridge = \"br0\"\n").unwrap();
        assert_eq!(conf.default_bridge.as_deref(), Some("br0"));
    }
}
