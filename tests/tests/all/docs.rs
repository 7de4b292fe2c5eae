//! The manual: its pages exist and are well formed.

use std::process::Command;

use crate::support::guest::{program, top};
use crate::support::skip::skip;

const PAGES: &[&str] = &["kxl.1", "kxl.cfg.5", "kxl.conf.5", "kxl-backends.7", "kxl-vmm.8"];

#[test]
fn the_manual_pages_exist_and_each_is_called_by_its_name() {
    for page in PAGES {
        let path = top().join("man").join(page);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{page}: {e}"));
        let (name, section) = page.rsplit_once('.').unwrap();
        let title = format!("{} {section}", name.to_uppercase());
        let named = text.lines().any(|line| {
            let head = line.strip_prefix(".Dt ").or_else(|| line.strip_prefix(".TH "));
            head.is_some_and(|head| {
                head.replace(['"', '\\'], "").to_uppercase().starts_with(&title)
            })
        });
        assert!(named, "{page} has no title {title}");
    }
}

#[test]
fn mandoc_finds_nothing_wrong_with_the_manual() {
    if let Err(reason) = program("mandoc") {
        return skip("mandoc -T lint", &reason);
    }
    for entry in std::fs::read_dir(top().join("man")).unwrap().flatten() {
        let output = Command::new("mandoc")
            .args(["-T", "lint", "-W", "warning"])
            .arg(entry.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}: {text}", entry.path().display());
    }
}
