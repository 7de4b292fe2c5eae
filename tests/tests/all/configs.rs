//! The examples in `domain-configs/`: each is parsed, and each is started on the mock.

use std::path::PathBuf;

use crate::support::guest::top;
use crate::support::{Host, wait};

/// The examples; `reference.cfg` is the list of keys and no example.
fn examples() -> Vec<PathBuf> {
    let dir = std::fs::read_dir(top().join("domain-configs")).unwrap();
    let mut found: Vec<PathBuf> = dir
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "cfg"))
        .filter(|path| path.file_name().is_some_and(|name| name != "reference.cfg"))
        .collect();
    found.sort();
    found
}

#[test]
fn there_are_examples_for_every_kind_of_machine() {
    let names: Vec<_> = examples()
        .iter()
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    for wanted in
        ["linux-direct", "linux-disk", "hvm-cdrom", "aarch64", "pdp11", "vax780", "bridged", "demo"]
    {
        assert!(names.iter().any(|name| name == wanted), "{wanted} is not among {names:?}");
    }
}

#[test]
fn every_example_is_parsed_without_a_warning_by_kxl_and_xl() {
    let host = Host::new();
    for path in examples() {
        let path = path.to_str().unwrap();
        let output = host.kxl(["create", "-n", path]).expect(0);
        assert!(!output.stderr.contains("warning"), "{output}");
        host.xl(&["create", "-n", path]).expect(0);
    }
}

#[test]
fn every_example_starts_on_the_mock() {
    for path in examples() {
        let host = Host::new();
        let path = path.to_str().unwrap();
        host.ok(["create", path, "backend=\"mock\"", "device_model_args=[]"]);
        let domains = host.domains();
        assert_eq!(domains.len(), 1, "{path}");
        assert_eq!(domains[0].text("state"), Some("running"), "{path}");
        let name = domains[0].text("name").unwrap().to_owned();
        host.ok(["destroy", &name]);
        wait::eventually("it ends", || host.emulators().is_empty());
    }
}
