//! What `kxl.conf` says about keeping and telling events.

use std::path::PathBuf;
use std::time::Duration;

use kxl_domain::config::PlainSetting;
use kxl_domain::{Failure, Kind};
use kxl_store::Retention;

/// How events are kept and told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telling {
    /// `events_keep=` and `events_keep_days=`.
    pub retention: Retention,
    /// `hooks_timeout=`: how long a hook may take over one event.
    pub timeout: Duration,
    /// `alert_mail=`: who is sent a mail about each alert.
    pub mail_to: Vec<String>,
    /// `alert_mail_from=`: who it is from; `None`: as the program that sends it decides.
    pub mail_from: Option<String>,
    /// `sendmail=`: the program that sends it.
    pub sendmail: PathBuf,
}

impl Default for Telling {
    fn default() -> Self {
        Self {
            retention: Retention::default(),
            timeout: Duration::from_secs(30),
            mail_to: Vec::new(),
            mail_from: None,
            sendmail: PathBuf::from("/usr/sbin/sendmail"),
        }
    }
}

impl Telling {
    /// The keys that it reads.
    pub(crate) const KEYS: [&str; 6] = [
        "events_keep",
        "events_keep_days",
        "hooks_timeout",
        "alert_mail",
        "alert_mail_from",
        "sendmail",
    ];

    /// Takes one setting.
    ///
    /// # Errors
    /// [`Kind::Usage`] naming the place, when its value cannot be used.
    pub(crate) fn set(&mut self, setting: &PlainSetting) -> Result<(), Failure> {
        let PlainSetting { key, value, place } = setting;
        let wrong = |needs: &str| {
            Failure::new(Kind::Usage, format!("{place}: {key} needs {needs}, not \"{value}\""))
        };
        let number = |least: u32, most: u32| {
            let number = value.parse::<u32>().ok().filter(|n| (least..=most).contains(n));
            number.ok_or_else(|| wrong(&format!("a number from {least} to {most}")))
        };
        match *key {
            "events_keep" => self.retention.count = i64::from(number(100, 100_000_000)?),
            // 0: for as long as there is room among those that are kept.
            "events_keep_days" => {
                self.retention.days = Some(number(0, 36_500)?).filter(|days| *days > 0);
            }
            "hooks_timeout" => self.timeout = Duration::from_secs(number(1, 3_600)?.into()),
            "alert_mail" => {
                let all = value.split(',').map(str::trim).filter(|one| !one.is_empty());
                self.mail_to = all.map(str::to_owned).collect();
                if !self.mail_to.iter().all(|one| is_address(one)) {
                    return Err(wrong("addresses with commas between them"));
                }
            }
            "alert_mail_from" => {
                self.mail_from = Some(value.clone()).filter(|one| !one.is_empty());
                if !self.mail_from.iter().all(|one| is_address(one)) {
                    return Err(wrong("one address"));
                }
            }
            "sendmail" => {
                self.sendmail = PathBuf::from(value);
                if !self.sendmail.is_absolute() {
                    return Err(wrong("an absolute path"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Whether it can stand in the header of a mail as it is: a local name, or one with a host.
fn is_address(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.@".contains(c);
    !text.starts_with(['-', '@', '|', '/'])
        && !text.ends_with('@')
        && text.len() <= 254
        && text.matches('@').count() <= 1
        && text.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Conf;

    fn read(text: &str) -> Result<Telling, Failure> {
        let paths = std::env::temp_dir().join(format!(
            "kxl-telling-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let paths = kxl_store::Paths::under(&paths);
        let file = paths.conf_file();
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, text).unwrap();
        let conf = Conf::read(&paths);
        std::fs::remove_dir_all(file.ancestors().nth(3).unwrap()).unwrap();
        conf.map(|conf| conf.telling)
    }

    #[test]
    fn every_key_is_read() {
        let telling = read(
            "events_keep = 500\nevents_keep_days = 30\nhooks_timeout = 5\n\
             alert_mail = \"root, ops@example.org\"\nalert_mail_from = \"kxl@example.org\"\n\
             sendmail = \"/bin/mailer\"\n",
        )
        .unwrap();
        let wanted = Telling {
            retention: Retention { count: 500, days: Some(30) },
            timeout: Duration::from_secs(5),
            mail_to: vec!["root".into(), "ops@example.org".into()],
            mail_from: Some("kxl@example.org".into()),
            sendmail: "/bin/mailer".into(),
        };
        assert_eq!(telling, wanted);
        assert_eq!(read("events_keep_days = 0\nalert_mail = \"\"\n").unwrap(), Telling::default());
    }

    #[test]
    fn what_could_not_stand_in_a_header_or_on_a_command_line_is_refused() {
        for text in [
            "alert_mail = \"a b\"",
            "alert_mail = \"-oQ/tmp\"",
            "alert_mail = \"a, |/bin/sh\"",
            "alert_mail = \"a@b@c\"",
            "alert_mail_from = \"a, b\"",
            "sendmail = \"sendmail\"",
            "events_keep = 0",
            "events_keep = \"many\"",
            "hooks_timeout = 0",
            "events_keep_days = \"-1\"",
        ] {
            let failure = read(&format!("{text}\n")).unwrap_err();
            assert_eq!(failure.kind, Kind::Usage, "{text}");
            assert!(failure.text.contains("kxl.conf:1:1"), "{failure}");
        }
    }
}
