//! The rules of a configuration for its process, resolved against this host.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;

use kxl_domain::DomainConfig;
use nix::unistd::{Gid, Uid, User, geteuid, getgrouplist};

use crate::error::BackendError;
use crate::spawn::{Account, Attributes, Refused};

impl Attributes {
    /// What the program of this domain runs with.
    ///
    /// # Errors
    /// [`BackendError::Config`] for a user that there is not or that we may not become, and for a
    /// directory that cannot be.
    pub fn of(config: &DomainConfig) -> Result<Self, BackendError> {
        let rules = &config.process;
        let user = account(config)?;
        if !rules.capabilities.is_empty() && user.is_none() {
            // It runs as who we are: there is no change of users that it could keep them through.
            let why = if geteuid().is_root() {
                "root keeps all of them: name another user, or leave them out"
            } else {
                "only root can leave capabilities to a program"
            };
            return Err(BackendError::config("capabilities", why));
        }
        let directory = rules.directory.as_deref().map(|path| {
            if !path.is_absolute() {
                return Err(BackendError::file("directory", path, "expected an absolute path"));
            }
            let wrong = |_| BackendError::file("directory", path, "holds a NUL");
            CString::new(path.as_os_str().as_bytes()).map_err(wrong)
        });
        let rlimits = rules.rlimits.iter().map(|(name, limit)| {
            let amount = |n: Option<u64>| n.unwrap_or(u64::MAX);
            (name.number(), amount(limit.soft), amount(limit.hard))
        });
        Ok(Self {
            user,
            nice: rules.nice,
            rlimits: rlimits.collect(),
            capabilities: rules.capabilities.iter().map(|name| name.number()).collect(),
            umask: rules.umask,
            directory: directory.transpose()?,
        })
    }

    /// The same for an emulator that becomes another user by itself, when it has opened what only
    /// we can open.
    #[must_use]
    pub fn without_user(self) -> Self {
        Self { user: None, capabilities: Vec::new(), ..self }
    }
}

/// The user of `user=`; `None` where it is not given, or is who we are.
fn account(config: &DomainConfig) -> Result<Option<Account>, BackendError> {
    let Some(wanted) = config.process.user.as_deref() else { return Ok(None) };
    let found = match wanted.parse() {
        Ok(uid) => User::from_uid(Uid::from_raw(uid)),
        Err(_) => User::from_name(wanted),
    };
    let failed = |why: String| BackendError::config("user", why);
    let user = found
        .map_err(|errno| failed(format!("cannot look for the user \"{wanted}\": {errno}")))?
        .ok_or_else(|| failed(format!("there is no user \"{wanted}\" on this host")))?;
    let own = geteuid();
    if user.uid == own {
        return Ok(None);
    }
    if !own.is_root() {
        let why = format!("only root can run a domain as another user, here as \"{wanted}\"");
        return Err(failed(why));
    }
    let name = CString::new(user.name.as_str()).map_err(|_| failed("holds a NUL".into()))?;
    let groups = getgrouplist(&name, user.gid)
        .map_err(|errno| failed(format!("cannot read the groups of \"{wanted}\": {errno}")))?;
    Ok(Some(Account {
        name: user.name,
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
        groups: groups.into_iter().map(Gid::as_raw).collect(),
        home: user.dir,
    }))
}

/// What a driver can do with the rules of a process beside nice value, limits and out-of-memory
/// score, which hold for every process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Honours {
    /// All.
    PlainProgram,
    /// A program that is steered over its terminal, and whose files only we can use.
    Simulator,
    /// The user; the rest is the emulator's own business.
    Emulator,
    /// None of them.
    Nothing,
}

/// Refuses what a driver cannot do instead of passing it over.
///
/// # Errors
/// [`BackendError::Config`] naming the key.
pub fn refuse(
    config: &DomainConfig,
    backend: &str,
    honours: Honours,
    by_signal: bool,
) -> Result<(), BackendError> {
    let rules = &config.process;
    let refused = |key: &str, why: &str| {
        Err(BackendError::config(key, format!("backend \"{backend}\" cannot honour it: {why}")))
    };
    if config.stop.signal.is_some() && !by_signal {
        return refused("stopsignal", "it asks its guest to end in another way than by a signal");
    }
    let here = |key: &&str| match honours {
        Honours::PlainProgram => false,
        Honours::Simulator => matches!(*key, "capabilities" | "stdin" | "stdout" | "stderr"),
        Honours::Emulator | Honours::Nothing => true,
    };
    if let Some(key) = rules.plain_program_keys().into_iter().find(here) {
        return refused(key, "it is for plain programs (backend = \"any\")");
    }
    if rules.user.is_some() && matches!(honours, Honours::Simulator | Honours::Nothing) {
        return refused("user", "the program shares files with kxl that only kxl's user can open");
    }
    Ok(())
}

impl BackendError {
    /// A program that could not be started: by what a configuration asks for, or otherwise.
    #[must_use]
    pub fn not_started(program: &str, error: &std::io::Error) -> Self {
        let refused = error.get_ref().and_then(|inner| inner.downcast_ref::<Refused>());
        match refused {
            Some(Refused { key, source }) => {
                let why = format!("the system does not let {program} have it: {source}");
                Self::config(*key, why)
            }
            None => Self::Launch { program: program.to_owned(), why: error.to_string() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> DomainConfig {
        let text = format!("name='a'\nbackend='any'\n{text}");
        kxl_domain::config::parse("f", &text, &[]).unwrap_or_else(|e| panic!("{e}")).config
    }

    #[test]
    fn a_user_that_there_is_not_is_told() {
        let error = Attributes::of(&config("user='nosuchuser'\n")).unwrap_err();
        assert_eq!(error.to_string(), "user: there is no user \"nosuchuser\" on this host");
    }

    #[test]
    fn a_user_is_found_by_name_and_by_number_with_all_its_groups() {
        let Ok(attributes) = Attributes::of(&config("user='daemon'\n")) else {
            assert!(!geteuid().is_root(), "root may become anybody");
            return;
        };
        let user = attributes.user.unwrap();
        assert_eq!(user.name, "daemon");
        assert!(user.groups.contains(&user.gid));
        let number = format!("user={}\n", user.uid);
        assert_eq!(Attributes::of(&config(&number)).unwrap().user, Some(user));
    }

    #[test]
    fn who_we_are_has_no_capabilities_to_keep() {
        let own = format!("user='{}'\ncapabilities='kill'\n", geteuid());
        let error = Attributes::of(&config(&own)).unwrap_err().to_string();
        assert!(error.starts_with("capabilities: "), "{error}");
    }

    #[test]
    fn who_we_are_is_nobody_to_become() {
        let own = format!("user='{}'\n", geteuid());
        assert_eq!(Attributes::of(&config(&own)).unwrap().user, None);
    }

    #[test]
    fn what_a_driver_cannot_do_is_refused_by_its_key() {
        let told = |text: &str, honours, by_signal| {
            refuse(&config(text), "x", honours, by_signal).err().map(|e| e.to_string())
        };
        assert_eq!(told("stdout='none'\nuser='a'\n", Honours::PlainProgram, true), None);
        assert_eq!(
            told("nice=3\noom_protect=5\nrlimits='core=0'\n", Honours::Nothing, false),
            None
        );
        assert_eq!(told("directory='/srv'\numask='022'\n", Honours::Simulator, false), None);
        assert_eq!(told("user='a'\n", Honours::Emulator, false), None);
        for (text, honours) in [
            ("stdout='none'\n", Honours::Simulator),
            ("user='a'\n", Honours::Simulator),
            ("umask='022'\n", Honours::Emulator),
            ("user='a'\ncapabilities='kill'\n", Honours::Emulator),
            ("stopsignal='INT'\n", Honours::Emulator),
        ] {
            let key = text.rsplit('\n').nth(1).unwrap().split('=').next().unwrap();
            let error = told(text, honours, false).expect(text);
            assert!(
                error.starts_with(&format!("{key}: backend \"x\" cannot honour it")),
                "{error}"
            );
        }
    }
}
