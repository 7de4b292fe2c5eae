//! A host's defaults for keys that a domain's configuration leaves out.

use super::model::Supervision;
use super::print::value_text;
use super::syntax::{Document, Setting, ValueKind};

/// Defaults for keys of domains, as `kxl.conf` gives them; each has been checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    values: Vec<(&'static str, ValueKind)>,
    supervise: bool,
}

/// The keys that only a plain program can honour; other backends refuse them, and a default must
/// not make them do so.
const PLAIN_PROGRAM: [&str; 12] = [
    "stopsignal",
    "capabilities",
    "umask",
    "directory",
    "environment",
    "stdin",
    "stdout",
    "stderr",
    "stdout_maxbytes",
    "stderr_maxbytes",
    "stdout_backups",
    "stderr_backups",
];

impl Defaults {
    /// The keys that can have a default.
    pub const KEYS: [&'static str; 37] = [
        "autostart",
        "priority",
        "after",
        "requires",
        "cpu_weight",
        "cap",
        "limit_memory",
        "limit_pids",
        "limit_nofile",
        "console_log",
        "console_keep",
        "startsecs",
        "startretries",
        "autorestart",
        "exitcodes",
        "managed_start",
        "start_timeout",
        "progress_interval",
        "stopwaitsecs",
        "stopsignal",
        "guest_events",
        "user",
        "nice",
        "rlimits",
        "oom_protect",
        "capabilities",
        "umask",
        "directory",
        "environment",
        "stdin",
        "stdout",
        "stderr",
        "stdout_maxbytes",
        "stderr_maxbytes",
        "stdout_backups",
        "stderr_backups",
        "clock_after_restore",
    ];

    pub(super) fn push(&mut self, key: &'static str, value: ValueKind) {
        self.values.push((key, value));
    }

    pub(super) const fn supervise(&mut self, on: bool) {
        self.supervise = on;
    }

    /// The lines to be read behind a configuration that says this much.
    pub(super) fn lines_for(&self, document: &Document) -> Vec<String> {
        let file = File(document);
        let by_file = Supervision::KEYS.into_iter().any(|key| file.gives(key));
        let by_host =
            self.supervise && !Supervision::INSTEAD_OF.into_iter().any(|key| file.gives(key));
        let supervised = by_file || by_host;
        let mut lines: Vec<String> = self
            .values
            .iter()
            .filter(|(key, _)| supervised || !Supervision::KEYS.contains(key))
            .filter(|(key, value)| self.fits(file, key, value))
            .map(|(key, value)| format!("{key}={}", file.value(key, value)))
            .collect();
        if by_host && !by_file && !lines.iter().any(|line| line.starts_with("startsecs=")) {
            // The host's word alone: one key has to say so.
            lines.push(format!("startsecs={}", Supervision::default().startsecs));
        }
        lines
    }

    /// Whether a default can hold beside what the file says.
    fn fits(&self, file: File<'_>, key: &str, value: &ValueKind) -> bool {
        let backend = file.text("backend");
        let is = |word: &str| matches!(value, ValueKind::Atom(text) if text == word);
        if file.gives(key) || (PLAIN_PROGRAM.contains(&key) && backend != "any") {
            return false;
        }
        match key {
            // The other way of saying the same.
            "rlimits" => !(file.gives("limit_nofile") && value_text(value).contains("nofile")),
            "limit_nofile" => !file.value_of("rlimits").is_some_and(|v| v.contains("nofile")),
            "capabilities" => {
                file.gives("user") || self.values.iter().any(|(other, _)| *other == "user")
            }
            "guest_events" if is("port") => matches!(backend, "" | "auto" | "qemu" | "kvm"),
            // Nothing is said with it, and a guest that has to speak could not.
            "guest_events" => !is("none"),
            "managed_start" => file.text("guest_events") != "none",
            _ => true,
        }
    }
}

/// A configuration that defaults are looked up for.
#[derive(Clone, Copy)]
struct File<'d>(&'d Document);

impl<'d> File<'d> {
    fn setting(self, key: &str) -> Option<&'d Setting> {
        self.0.settings.get(key)
    }

    fn gives(self, key: &str) -> bool {
        self.setting(key).is_some()
    }

    fn text(self, key: &str) -> &'d str {
        match self.setting(key).map(|setting| &setting.value.kind) {
            Some(ValueKind::Atom(text)) => text,
            _ => "",
        }
    }

    fn value_of(self, key: &str) -> Option<String> {
        self.setting(key).map(|setting| value_text(&setting.value.kind))
    }

    /// A default's value for this domain.
    fn value(self, key: &str, value: &ValueKind) -> String {
        let name = self.text("name");
        match (key, value) {
            ("stdout" | "stderr", _) => value_text(value).replace("%n", name),
            // What all others come after comes before itself.
            ("after" | "requires", ValueKind::Atom(other)) if other == name => "[]".to_owned(),
            ("after" | "requires", ValueKind::List(others)) => {
                let own = ValueKind::Atom(name.to_owned());
                let others = others.iter().filter(|other| other.kind != own).cloned().collect();
                value_text(&ValueKind::List(others))
            }
            _ => value_text(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::DomainConfig;
    use crate::config::model::{Autorestart, GuestEvents, OutputTo};
    use crate::config::{Rules, host_file, parse_with};

    /// A domain of a host with this `kxl.conf`.
    fn domain(conf: &str, file: &str) -> DomainConfig {
        let defaults = host_file("kxl.conf", conf).unwrap_or_else(|e| panic!("{e}")).defaults;
        let text = format!("name='a'\nkernel='/k'\n{file}");
        let parsed = parse_with(&defaults, Rules::Kxl, "f", &text, &[]);
        parsed.unwrap_or_else(|e| panic!("{conf} {file}: {e}")).config
    }

    #[test]
    fn a_default_holds_where_the_file_says_nothing() {
        let conf = "stopwaitsecs = 30\npriority = 100\nnice = 5\ncap = 50\nautostart = 1\n";
        let config = domain(conf, "stopwaitsecs=5\n");
        assert_eq!((config.stop.wait_secs, config.maintenance.priority), (5, 100));
        assert_eq!((config.process.nice, config.cap), (Some(5), Some(50)));
        assert_eq!(config.maintenance.autostart, Some(true));
    }

    #[test]
    fn words_of_the_command_line_go_before_the_defaults() {
        let defaults = host_file("kxl.conf", "nice = 5\n").unwrap().defaults;
        let words = ["nice=7".to_owned()];
        let text = "name='a'\nkernel='/k'\n";
        let parsed = parse_with(&defaults, Rules::Kxl, "f", text, &words).unwrap();
        assert_eq!(parsed.config.process.nice, Some(7));
    }

    #[test]
    fn defaults_alone_make_no_domain_supervised() {
        let conf = "startsecs = 3\nautorestart = \"always\"\n";
        assert_eq!(domain(conf, "").supervision, None);
        let rules = domain(conf, "startretries=1\n").supervision.unwrap();
        assert_eq!((rules.startsecs, rules.startretries), (3, 1));
        assert_eq!(rules.autorestart, Autorestart::Always);
    }

    #[test]
    fn supervise_makes_every_domain_supervised_that_says_nothing_of_its_end() {
        let rules = domain("supervise = 1\n", "").supervision.unwrap();
        assert_eq!(rules, super::Supervision::default());
        let rules = domain("supervise = 1\nstartsecs = 4\n", "").supervision.unwrap();
        assert_eq!(rules.startsecs, 4);
        for key in ["on_poweroff", "on_crash", "on_watchdog"] {
            let config = domain("supervise = 1\nstartsecs=4\n", &format!("{key}='restart'\n"));
            assert_eq!(config.supervision, None, "{key}");
        }
        assert!(domain("supervise = 1\n", "on_reboot='destroy'\n").supervision.is_some());
        assert_eq!(domain("supervise = 0\n", "").supervision, None);
    }

    #[test]
    fn what_only_a_plain_program_can_honour_is_no_default_of_machines() {
        let conf = "stdout = \"/var/log/%n.out\"\nstdin=\"none\"\nstopsignal=\"INT\"\n";
        let machine = domain(conf, "");
        assert!(machine.process.is_default() && machine.stop.signal.is_none());
        let program = domain(conf, "backend='any'\n");
        let out = program.process.stdout.to;
        assert_eq!(out, Some(OutputTo::File("/var/log/a.out".into())));
    }

    #[test]
    fn a_default_that_contradicts_the_file_gives_way() {
        let conf = "rlimits = [\"nofile=64\"]\n";
        assert!(domain(conf, "limit_nofile=32\n").process.rlimits.is_empty());
        let config = domain("limit_nofile = 32\n", "rlimits='nofile=64'\n");
        assert_eq!(config.limits.nofile, None);
        let config = domain("guest_events = \"none\"\n", "managed_start=1\n");
        assert_eq!(config.guest_events, GuestEvents::Port);
        let config = domain("managed_start = 1\n", "startsecs=1\nguest_events='none'\n");
        assert!(!config.supervision.unwrap().managed_start);
        let config = domain("guest_events = \"port\"\n", "backend='any'\n");
        assert_eq!(config.guest_events, GuestEvents::None);
    }

    #[test]
    fn nobody_comes_after_itself_by_default() {
        assert_eq!(domain("after = \"a\"\n", "").maintenance.after, []);
        let after = domain("after = [\"a\", \"ldap\"]\n", "").maintenance.after;
        assert_eq!(after.iter().map(|n| n.as_str()).collect::<Vec<_>>(), ["ldap"]);
    }
}
