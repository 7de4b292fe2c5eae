//! The manual: its pages exist and are well formed.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::support::guest::{program, top};
use crate::support::skip::skip;

const PAGES: &[&str] = &[
    "kxl.1",
    "kxl-event.1",
    "kxl.cfg.5",
    "kxl.conf.5",
    "kxl-profile.5",
    "kxl-backends.7",
    "kxl-events.7",
    "kxl-gate.8",
    "kxl-monitor.8",
    "kxl-supervision.7",
    "kxl-vmm.8",
    "vmcfg.1",
    "vmconsole.1",
    "vmlist.1",
    "vmstart.1",
    "vmstop.1",
];

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

/// The words for events that are chosen at run time.
const CHOSEN: [&str; 9] = [
    "restored",
    "resumed",
    "flood",
    "hook-failed",
    "hook-refused",
    "mail-failed",
    "guest-log",
    "guest-alert",
    "guest-suppressed",
];

/// The words for events that the sources write down: the literals in the calls that make one.
fn words_of_events() -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    let calls = ["Event::new(", ".event(", ".compose(", ".note(", ".has_started(", ".complain("];
    let mut dirs = vec![top().join("toolstack"), top().join("backends")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if entry.file_type().unwrap().is_dir() {
                if !["tests", "target", "guest"].contains(&name.as_str()) {
                    dirs.push(path);
                }
                continue;
            }
            if !name.ends_with(".rs") || name.ends_with("tests.rs") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            // What a backend has its monitor record.
            let warnings = code.split("Event::Warning { what: \"").skip(1);
            words.extend(warnings.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
            // Its other words are of its own devices.
            let calls = if path.starts_with(top().join("backends")) { &[][..] } else { &calls[..] };
            for call in calls {
                for (at, _) in code.match_indices(call) {
                    words.extend(first_word(&code[at + call.len()..]));
                }
            }
        }
    }
    words
}

/// The first literal among the arguments of a call, if it looks like a word for an event.
fn first_word(arguments: &str) -> Option<String> {
    let mut depth = 0_i32;
    let end = arguments.find(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth < 0
    })?;
    let (_, rest) = arguments[..end].split_once('"')?;
    let (word, _) = rest.split_once('"')?;
    let fits = |c: char| c.is_ascii_lowercase() || c == '-' || c == ' ';
    (!word.is_empty() && word.chars().all(fits)).then(|| word.to_owned())
}

#[test]
fn the_manual_of_events_explains_exactly_the_words_that_are_recorded() {
    let page = fs::read_to_string(top().join("man/kxl-events.7")).unwrap();
    let table = page.split(".\\\" BEGIN words").nth(1).unwrap();
    let table = table.split(".\\\" END words").next().unwrap();
    let items = table.lines().filter_map(|line| line.strip_prefix(".It Cm "));
    let told: BTreeSet<String> = items.map(|word| word.trim_matches('"').to_owned()).collect();
    let mut written = words_of_events();
    // Those that are chosen at run time.
    written.extend(CHOSEN.map(str::to_owned));
    written.extend(kxl_domain::GuestEvent::ALL.iter().map(|event| event.as_str().to_owned()));
    assert!(written.contains("started") && written.contains("policy-failed"), "{written:?}");
    let missing: Vec<_> = written.difference(&told).collect();
    assert!(missing.is_empty(), "kxl-events(7) does not explain {missing:?}");
    let unknown: Vec<_> = told.difference(&written).collect();
    assert!(unknown.is_empty(), "kxl-events(7) explains {unknown:?}, which nobody records");
}
