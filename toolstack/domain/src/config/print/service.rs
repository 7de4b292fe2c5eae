//! Supervision and the rules of a domain's process.

use super::{DomainConfig, Printer, list};
use crate::config::model::{GuestEvents, Input, Output, OutputTo, Rlimit};
use crate::config::size;

impl DomainConfig {
    /// What [`to_cfg`](Self::to_cfg) prints of supervision and of the rules of its process, a line
    /// for each key.
    #[must_use]
    pub fn service_cfg(&self) -> String {
        let plain = Self::new(self.name.clone());
        let mut out = Printer(String::new());
        self.print_supervision(&mut out, &plain);
        self.print_process(&mut out, &plain);
        out.0
    }

    /// A supervised domain says all its rules: a single one would do to make it one again, but not
    /// to tell a person what holds.
    pub(super) fn print_supervision(&self, out: &mut Printer, plain: &Self) {
        if let Some(rules) = &self.supervision {
            out.raw("startsecs", rules.startsecs);
            out.raw("startretries", rules.startretries);
            out.text("autorestart", Some(rules.autorestart.as_str()));
            let codes: Vec<String> = rules.exitcodes.iter().map(ToString::to_string).collect();
            out.raw("exitcodes", format!("[{}]", codes.join(", ")));
            out.flag("managed_start", rules.managed_start.then_some(true));
            out.number("start_timeout", rules.start_timeout.map(i64::from));
            if rules.managed_start || rules.progress_interval != 60 {
                out.raw("progress_interval", rules.progress_interval);
            }
        }
        if self.stop.wait_secs != plain.stop.wait_secs {
            out.raw("stopwaitsecs", self.stop.wait_secs);
        }
        out.text("stopsignal", self.stop.signal.map(|signal| signal.as_str()));
        let managed = self.supervision.as_ref().is_some_and(|rules| rules.managed_start);
        if self.guest_events != GuestEvents::default_of(&self.backend, managed) {
            out.text("guest_events", Some(self.guest_events.as_str()));
        }
    }

    pub(super) fn print_process(&self, out: &mut Printer, plain: &Self) {
        let own = &self.process;
        out.text("user", own.user.as_deref());
        out.number("nice", own.nice.map(i64::from));
        let limits: Vec<String> = own
            .rlimits
            .iter()
            .map(|(name, limit)| format!("{name}={}", limit_text(*limit)))
            .collect();
        out.list("rlimits", &limits);
        out.number("oom_protect", own.oom_protect.map(i64::from));
        if !own.capabilities.is_empty() {
            out.raw("capabilities", list(own.capabilities.iter().map(|name| name.as_str())));
        }
        out.text("umask", own.umask.map(|mask| format!("{mask:03o}")).as_deref());
        out.path("directory", own.directory.as_deref());
        out.list("environment", &own.environment);
        match &own.stdin {
            None => {}
            Some(Input::Nothing) => out.text("stdin", Some("none")),
            Some(Input::File(path)) => out.path("stdin", Some(path)),
        }
        let (stdout, stderr) = (&plain.process.stdout, &plain.process.stderr);
        print_output(out, ["stdout", "stdout_maxbytes", "stdout_backups"], &own.stdout, stdout);
        print_output(out, ["stderr", "stderr_maxbytes", "stderr_backups"], &own.stderr, stderr);
    }
}

fn print_output(out: &mut Printer, keys: [&str; 3], own: &Output, plain: &Output) {
    let [key, maxbytes, backups] = keys;
    match &own.to {
        None => {}
        Some(OutputTo::Nothing) => out.text(key, Some("none")),
        Some(OutputTo::Stdout) => out.text(key, Some("stdout")),
        Some(OutputTo::File(path)) => out.path(key, Some(path)),
    }
    if own.maxbytes != plain.maxbytes {
        out.text(maxbytes, Some(&size::text(own.maxbytes)));
    }
    if own.backups != plain.backups {
        out.raw(backups, own.backups);
    }
}

fn limit_text(limit: Rlimit) -> String {
    let amount = |n: Option<u64>| n.map_or("unlimited".to_owned(), |n| n.to_string());
    let soft = amount(limit.soft);
    if limit.soft == limit.hard { soft } else { format!("{soft}:{}", amount(limit.hard)) }
}
