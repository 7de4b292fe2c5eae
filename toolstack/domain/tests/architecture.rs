//! ARCHITECTURE.md says what the tables and the tree say.
//!
//! `KXL_BLESS=1 cargo test -p kxl-domain --test architecture` writes the rendered blocks anew.

#![allow(clippy::unwrap_used, reason = "a test fails where its input is not what it should be")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use kxl_domain::lifecycle;
use kxl_domain::policy::{GuestEvent, POLICY, default_action};

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn page() -> String {
    fs::read_to_string(top().join("ARCHITECTURE.md")).unwrap()
}

/// The page with the block between two markers replaced.
fn with_block(page: &str, name: &str, rendered: &str) -> String {
    let begin = format!("<!-- BEGIN {name}, rendered by a test -->\n");
    let (before, rest) = page.split_once(&begin).unwrap();
    let (_old, after) = rest.split_once(&format!("<!-- END {name} -->\n")).unwrap();
    format!("{before}{begin}{rendered}<!-- END {name} -->\n{after}")
}

fn lifecycle_block() -> String {
    let table = lifecycle::table();
    let lines: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    format!("```text\n{lines}```\n")
}

fn policy_block() -> String {
    let mut out = String::from("| event | key | default |\n|---|---|---|\n");
    for event in GuestEvent::ALL {
        writeln!(out, "| {event} | `on_{event}` | {} |", default_action(*event)).unwrap();
    }
    out.push_str("\n| action | while the emulator stands | when it is gone | core dump first |\n");
    out.push_str("|---|---|---|---|\n");
    for rule in POLICY {
        let dump = if rule.dump { "yes" } else { "no" };
        let (action, standing, gone) = (rule.action, rule.standing, rule.gone);
        writeln!(out, "| {action} | {standing} | {gone} | {dump} |").unwrap();
    }
    out
}

#[test]
fn the_tables_of_the_page_are_those_of_the_code() {
    let page = page();
    let lifecycle = with_block(&page, "lifecycle", &lifecycle_block());
    let rendered = with_block(&lifecycle, "policy", &policy_block());
    if std::env::var_os("KXL_BLESS").is_some() {
        fs::write(top().join("ARCHITECTURE.md"), &rendered).unwrap();
        return;
    }
    assert_eq!(page, rendered, "KXL_BLESS=1 writes the blocks anew");
}

#[test]
fn the_page_stays_short_enough_to_be_read() {
    let lines = page().lines().count();
    assert!(lines <= 200, "{lines} lines");
}

/// What stands between backticks.
fn quoted(page: &str) -> impl Iterator<Item = &str> {
    page.split('`').skip(1).step_by(2)
}

#[test]
fn every_path_the_page_names_exists() {
    let page = page();
    let folders = ["toolstack/", "backends/", "tests/", "domain-configs/", "man/"];
    let paths: Vec<_> = quoted(&page)
        .filter(|text| folders.iter().any(|folder| text.starts_with(folder)))
        .collect();
    assert!(paths.len() > 10, "only {paths:?}");
    for path in paths {
        assert!(top().join(path).exists(), "{path} does not exist");
    }
}

/// The sources under a folder, tests apart.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            sources(&path, found);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            found.push(path);
        }
    }
}

#[test]
fn every_file_with_unsafe_code_is_named() {
    let page = page();
    let section = page.split("## Where unsafe code is").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let named: BTreeSet<String> =
        quoted(section).filter(|text| text.ends_with(".rs")).map(str::to_owned).collect();
    let top = top();
    let mut files = Vec::new();
    for folder in ["toolstack", "backends"] {
        sources(&top.join(folder), &mut files);
    }
    let unsafe_code: BTreeSet<String> = files
        .iter()
        .filter(|file| fs::read_to_string(file).unwrap().contains("unsafe {"))
        .map(|file| file.strip_prefix(&top).unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(named, unsafe_code);
}
