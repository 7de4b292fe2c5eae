//! The reference, the examples and the manual say what the table of keys and the parser say.
//!
//! `KXL_BLESS=1` rewrites the generated files: the reference, and the messages expected for the
//! invalid examples.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::keys::{self, Section};
use super::{Defaults, HOST_KEYS, Rules, parse, parse_by};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Compares a generated text with its file, or writes the file where that was asked for.
fn check(path: &Path, text: &str) {
    if std::env::var_os("KXL_BLESS").is_some() {
        fs::write(path, text).unwrap();
    }
    let path_text = path.display();
    assert_eq!(read(path), text, "{path_text} is out of date: run the test with KXL_BLESS=1");
}

fn reference() -> String {
    let mut out = String::from(
        "# Every key of a domain's configuration: its type and unit, its default, its meaning.\n\
         # kxl.cfg(5) explains them; the other files here are examples to start from.\n\
         #\n\
         # [full]      acted on                 [partly]  acted on as far as this version can\n\
         # [xen only]  kept, without effect     [refused] an error when it is set\n\
         # [kxl]       kxl's own\n",
    );
    let mut section = None;
    for key in keys::all() {
        if section != Some(key.section) {
            section = Some(key.section);
            write!(out, "\n### {}\n", key.section).unwrap();
        }
        let unit = if key.unit.is_empty() { String::new() } else { format!("; {}", key.unit) };
        write!(
            out,
            "\n# {} [{}]\n#   {}\n#   {}{unit}\n#   default: {}\n",
            key.name, key.verdict, key.meaning, key.kind, key.default
        )
        .unwrap();
    }
    out
}

/// The configurations in a directory, sorted.
fn configs(directory: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("domain-configs").join(directory)).unwrap();
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "cfg"))
        .collect();
    files.sort();
    files
}

fn stem(path: &Path) -> &str {
    path.file_stem().and_then(|name| name.to_str()).unwrap()
}

#[test]
fn the_reference_tells_every_key_with_meaning_unit_and_default() {
    let path = root().join("domain-configs/reference.cfg");
    check(&path, &reference());
    // It is a configuration too, though one that says nothing.
    let errors = parse("reference.cfg", &read(&path), &[]).unwrap_err();
    assert!(errors.errors.iter().all(|error| error.place.is_none()), "{errors}");
}

#[test]
fn every_example_is_short_says_what_it_needs_and_reads_without_a_warning() {
    let examples: Vec<_> =
        configs("").into_iter().filter(|path| stem(path) != "reference").collect();
    assert!(examples.len() >= 9, "{examples:?}");
    for path in examples {
        let (name, text) = (stem(&path), read(&path));
        let parsed = parse(name, &text, &[]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(parsed.warnings, [], "{name}");
        assert_eq!(parsed.config.name.as_str(), name);
        assert!(text.starts_with("# ") && text.contains("\n# Needs: "), "{name}");
        let lines = text.lines().filter(|line| !line.starts_with('#')).count();
        assert!(lines <= 10, "{name} has {lines} lines");
        let again = parse(name, &parsed.config.to_cfg(), &[]).unwrap().config;
        assert_eq!(again, parsed.config, "{name}");
    }
}

#[test]
fn every_invalid_example_has_one_mistake_and_its_message() {
    for path in configs("invalid") {
        let (name, text) = (format!("{}.cfg", stem(&path)), read(&path));
        let told = match parse(&name, &text, &[]) {
            Err(errors) => {
                assert_eq!(errors.errors.len(), 1, "{errors}");
                errors.render()
            }
            Ok(parsed) => {
                assert_eq!(parsed.warnings.len(), 1, "{name} has no mistake");
                format!("{}\n", parsed.warnings[0])
            }
        };
        check(&path.with_extension("txt"), &told);
        // What xl says may be another thing, but it says something or goes on.
        if let Err(errors) = parse_by(Rules::Xl, &name, &text, &[]) {
            assert!(matches!(errors.xl_exit_code(), 1 | 3));
            assert!(!errors.xl_text().is_empty(), "{name}");
        }
    }
}

#[test]
fn every_message_of_an_invalid_example_belongs_to_one() {
    let stems = |extension: &str| -> BTreeSet<String> {
        fs::read_dir(root().join("domain-configs/invalid"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == extension))
            .map(|path| stem(&path).to_owned())
            .collect()
    };
    assert_eq!(stems("cfg"), stems("txt"));
}

/// The keys that the manual has an entry for: `.It Cm KEY …` between the marks of its list.
fn manual_keys(manual: &str) -> Vec<&str> {
    let from = manual.find(".Sh KEYS").expect("the manual has a section of keys");
    let to = manual[from + 1..].find("\n.Sh ").map_or(manual.len(), |end| from + 1 + end);
    let heads = manual[from..to].lines().filter_map(|line| line.strip_prefix(".It Cm "));
    heads.flat_map(|head| head.split(" , ").map(|part| part.trim_start_matches("Cm "))).collect()
}

#[test]
fn the_manual_explains_exactly_the_keys_there_are() {
    let manual = read(&root().join("man/kxl.cfg.5"));
    let listed = manual_keys(&manual);
    let names: BTreeSet<_> = keys::all().map(|key| key.name).collect();
    let told: BTreeSet<_> = listed.iter().copied().collect();
    assert_eq!(listed.len(), told.len(), "a key has two entries");
    let missing: Vec<_> = names.difference(&told).collect();
    let unknown: Vec<_> = told.difference(&names).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "missing {missing:?}, unknown {unknown:?}");
    for section in Section::ALL {
        let head = format!(".Ss {section}\n");
        assert!(manual.contains(&head), "the manual has no part {section}");
    }
}

#[test]
fn the_manual_of_kxl_conf_explains_exactly_its_keys() {
    let manual = read(&root().join("man/kxl.conf.5"));
    let listed = manual_keys(&manual);
    let known: Vec<_> = HOST_KEYS.iter().map(|key| key.name).collect();
    assert_eq!(BTreeSet::from_iter(listed), BTreeSet::from_iter(known));
    let from = manual.find(".Sh DEFAULTS FOR DOMAINS").unwrap();
    let to = from + manual[from + 1..].find("\n.Sh ").unwrap();
    let told: BTreeSet<_> = manual[from..to]
        .lines()
        .filter_map(|line| line.strip_prefix(".Cm "))
        .flat_map(|line| line.split_whitespace())
        .filter(|word| word.len() > 1)
        .collect();
    let missing: Vec<_> = Defaults::KEYS.iter().filter(|key| !told.contains(**key)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for key in Defaults::KEYS {
        assert!(keys::find(key).is_some(), "{key} is no key of domains");
    }
}

#[test]
fn the_manual_repeats_the_units_and_plain_defaults_of_the_table() {
    let manual = read(&root().join("man/kxl.cfg.5"));
    for key in keys::all() {
        // Keys that share an entry share its text.
        let entry = entry_of(&manual, key.name);
        if matches!(key.unit, "MiB" | "KiB" | "ms" | "s") && key.verdict.as_str() != "xen only" {
            assert!(entry.contains(key.unit), "{} is in {}", key.name, key.unit);
        }
        let default = key.default.trim_matches('"');
        let telling = matches!(key.verdict.as_str(), "full" | "kxl")
            && key.default.starts_with(|c: char| c == '"' || c.is_ascii_digit())
            && !matches!(key.default, "0" | "\"auto\"");
        if telling && !key.default.contains(' ') {
            assert!(entry.contains(default), "the default of {} is {default}", key.name);
        }
    }
}

/// The text of a key's entry, up to the next one.
fn entry_of<'m>(manual: &'m str, name: &str) -> &'m str {
    let at = manual
        .match_indices(".It Cm ")
        .find(|(at, _)| {
            let head = manual[at + 7..].lines().next().unwrap_or_default();
            head.split(" , ").any(|part| part.trim_start_matches("Cm ") == name)
        })
        .unwrap_or_else(|| panic!("{name} has no entry"))
        .0;
    let end = manual[at + 1..].find("\n.It ").map_or(manual.len(), |end| at + 1 + end);
    &manual[at..end]
}
