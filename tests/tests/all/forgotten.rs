//! A test in a file that no module names never runs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn every_source_file_of_the_tests_is_a_module() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/all");
    let mut named = BTreeSet::from([top.join("main.rs")]);
    follow(&top.join("main.rs"), &top, &mut named);
    let mut present = BTreeSet::new();
    sources(&top, &mut present);
    let forgotten: Vec<_> = present.difference(&named).collect();
    assert!(forgotten.is_empty(), "no `mod` line names {forgotten:?}");
}

/// The files that the `mod` lines of `file` name; its modules lie in `dir`.
fn follow(file: &Path, dir: &Path, named: &mut BTreeSet<PathBuf>) {
    let text = fs::read_to_string(file).unwrap();
    let mut elsewhere = false;
    for line in text.lines() {
        // A module that is shared with another crate has its file there.
        if std::mem::replace(&mut elsewhere, line.starts_with("#[path = ")) {
            continue;
        }
        let line = line.strip_prefix("pub(crate) ").unwrap_or(line);
        let Some(name) = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) else {
            continue;
        };
        let below = dir.join(name);
        let plain = dir.join(format!("{name}.rs"));
        let path = if plain.is_file() { plain } else { below.join("mod.rs") };
        assert!(path.is_file(), "{} names {name}, which has no file", file.display());
        follow(&path, &below, named);
        named.insert(path);
    }
}

fn sources(dir: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.insert(path);
        }
    }
}
