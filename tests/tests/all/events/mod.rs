//! Events and who is told of them: the log, alerts, hooks, mail.

mod alerts;
mod hooks;
mod trouble;
mod wait;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use kxl_store::{Paths, Store};
use serde_json::Value;

use crate::support::process::Proc;
use crate::support::{Host, guest, wait as waiting};

impl Host {
    /// Puts a hook into its place, whole: what it does is a script.
    fn hook(&self, name: &str, script: &str) -> PathBuf {
        let path = self.places().hooks_dir().join(name);
        self.program(&path, script);
        path
    }

    /// Writes a script that can be run.
    fn program(&self, path: &std::path::Path, script: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let new = self.scratch().join("new-program");
        fs::write(&new, format!("#!/bin/sh\ncd {}\n{script}\n", self.scratch().display())).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&new, path).unwrap();
    }

    fn places(&self) -> Paths {
        Paths::under(&self.root)
    }

    fn records(&self) -> Store {
        Store::open(&self.places()).unwrap()
    }

    fn conf(&self, text: &str) {
        let path = self.places().conf_file();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// The lines of a file beside the root; none where it does not exist.
    fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.scratch().join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Every event of the host.
    fn all_events(&self) -> Vec<Value> {
        let text = self.ok(["events", "--json", "--limit", "0"]);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The events of this kind.
    fn of_kind(&self, what: &str) -> Vec<Value> {
        self.all_events().into_iter().filter(|event| event["what"] == what).collect()
    }

    /// The process that tells hooks of events, when there is one.
    fn teller(&self) -> Option<Proc> {
        self.processes().into_iter().find(|one| one.args.iter().any(|arg| arg == "run-hooks"))
    }

    /// Waits until nobody tells hooks anything.
    fn told_all(&self) {
        waiting::eventually("the hooks were told of all", || self.teller().is_none());
    }

    /// A mock domain that comes, crashes and is gone.
    fn crashing(&self, name: &str) {
        let path = self.file(&format!("{name}.cfg"), &guest::mock(name, "exit=3:50"));
        self.ok(["create", path.to_str().unwrap()]);
        self.gone(name);
    }

    /// A mock domain that runs.
    fn running(&self, name: &str) {
        self.create(name, &guest::mock(name, ""));
    }
}

/// A hook that notes number and word of what it is told in a file.
const NOTES: &str = "echo \"$KXL_EVENT_ID $KXL_EVENT_WHAT\" >> told";

/// Number and word of each event, as such a hook notes them.
fn notes(events: &[Value]) -> Vec<String> {
    events
        .iter()
        .map(|event| format!("{} {}", event["id"], event["what"].as_str().unwrap()))
        .collect()
}
