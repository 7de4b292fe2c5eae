//! The shape of the tree: who may import whom, which folders there are, what it is built from.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::support::guest::top;

/// Who may import whom. The arrows of ARCHITECTURE.md; tests and benches may use anything.
const ALLOWED: &[(&str, &[&str])] = &[
    ("kxl-domain", &[]),
    ("kxl-control", &["kxl-domain"]),
    ("kxl-store", &["kxl-domain"]),
    ("kxl-engine", &["kxl-store", "kxl-domain", "kxl-control", "kxl-backend"]),
    (
        "kxl-monitor",
        &[
            "kxl-engine",
            "kxl-control",
            "kxl-store",
            "kxl-domain",
            "kxl-process",
            "kxl-mock",
            "kxl-backend",
        ],
    ),
    ("kxl-cli", &["kxl-engine", "kxl-control", "kxl-store", "kxl-domain", "kxl-backend"]),
    ("kxl-guest", &[]),
    ("kxl-backend", &["kxl-domain"]),
    ("kxl-qmp", &[]),
    ("kxl-process", &["kxl-qmp", "kxl-backend", "kxl-domain"]),
    ("kxl-vmm", &["kxl-qmp"]),
    ("kxl-mock", &["kxl-backend", "kxl-domain"]),
];

const TESTS: &[&str] = &["kxl-tests", "kxl-bench"];

fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--offline", "--no-deps", "--format-version", "1"])
        .current_dir(top())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What each crate of the workspace imports to be built, by name.
fn imports(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let packages = metadata["packages"].as_array().unwrap().iter();
    let of = |package: &Value| {
        let all = package["dependencies"].as_array().unwrap().iter();
        // A `kind` other than null is for tests or for building.
        let normal = all.filter(|dependency| dependency["kind"].is_null());
        normal.map(|dependency| dependency["name"].as_str().unwrap().to_owned()).collect()
    };
    packages.map(|package| (package["name"].as_str().unwrap().to_owned(), of(package))).collect()
}

#[test]
fn crates_import_in_the_allowed_directions_only() {
    let imports = imports(&metadata());
    for (name, found) in &imports {
        if TESTS.contains(&name.as_str()) {
            continue;
        }
        let rule = ALLOWED.iter().find(|(known, _)| known == name);
        let (_, allowed) = rule.unwrap_or_else(|| panic!("{name} has no place in the picture"));
        let wrong: Vec<_> = found
            .iter()
            .filter(|one| imports.contains_key(*one) && !allowed.contains(&one.as_str()))
            .collect();
        assert!(wrong.is_empty(), "{name} may not import {wrong:?}");
    }
    for (name, _) in ALLOWED {
        assert!(imports.contains_key(*name), "{name} is gone: take it out of the picture");
    }
}

#[test]
fn the_vocabulary_knows_neither_runtime_nor_databases() {
    let imports = imports(&metadata());
    for forbidden in ["tokio", "rusqlite", "nix", "libc"] {
        assert!(!imports["kxl-domain"].contains(forbidden), "{forbidden}");
    }
}

#[test]
fn the_chosen_packages_are_used_directly() {
    let imports = imports(&metadata());
    for wanted in ["clap", "serde", "nix", "libc", "tokio", "tracing"] {
        assert!(imports.values().any(|found| found.contains(wanted)), "nobody uses {wanted}");
    }
    for process in ["kxl-cli", "kxl-monitor"] {
        assert!(imports[process].contains("tracing"), "{process} does not log through tracing");
    }
}

#[test]
fn the_folders_at_the_top_are_those_of_the_design() {
    let known = ["toolstack", "backends", "domain-configs", "tests", "man", "target"];
    for entry in std::fs::read_dir(top()).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().unwrap().is_dir() && !name.starts_with('.') {
            assert!(known.contains(&name.as_str()), "{name} is not one of {known:?}");
        }
    }
    for name in &known[..5] {
        assert!(top().join(name).is_dir(), "{name} is missing");
    }
}

#[test]
fn every_crate_of_the_workspace_keeps_to_its_lints() {
    for package in metadata()["packages"].as_array().unwrap() {
        let path = package["manifest_path"].as_str().unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains("[lints]\nworkspace = true"), "{path}");
    }
}
