//! The manual page says everything that the program takes.

#![allow(clippy::unwrap_used, reason = "a test fails where its input is not what it should be")]

use std::path::Path;

use kxl_vmm::config::args::OPTIONS;
use kxl_vmm::config::json::KEYS;

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../man/kxl-vmm.8");
    std::fs::read_to_string(path).unwrap()
}

/// Whether a line has this word as a word of its own.
fn has(line: &str, word: &str) -> bool {
    line.split_whitespace().any(|part| part == word)
}

#[test]
fn every_option_has_its_place_in_the_page() {
    let page = page();
    let section = page.split(".Sh OPTIONS").nth(1).unwrap().split(".Sh ").next().unwrap();
    for option in OPTIONS {
        let told = section
            .lines()
            .any(|line| line.starts_with(".It") && line.contains("Fl") && has(line, option.name));
        assert!(told, "-{} is not among the options", option.name);
    }
}

#[test]
fn every_key_and_each_of_its_spellings_is_in_the_table_with_its_meaning() {
    let page = page();
    let table = page.split(".Bl -column \"initrd_fs_path\"").nth(1).unwrap();
    let table: Vec<&str> = table.lines().take_while(|line| *line != ".El").collect();
    for (section, entries) in KEYS {
        let begin = match *section {
            "" => 0,
            name => {
                let head = format!(".It Sy {name} Ta");
                1 + table.iter().position(|line| *line == head).unwrap_or_else(|| panic!("{head}"))
            }
        };
        let rows = table[begin..].iter().take_while(|line| !line.starts_with(".It Sy"));
        let rows: Vec<_> = rows.collect();
        for (spellings, meaning) in *entries {
            let told = rows.iter().any(|row| {
                row.contains(meaning) && spellings.iter().all(|spelling| has(row, spelling))
            });
            assert!(told, "{section}: {spellings:?} {meaning}");
        }
    }
}

/// Words in the quotes of the lines that `pick` takes from a file of the api-channel.
fn quoted(file: &str, pick: impl Fn(&str) -> bool) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api").join(file);
    let text = std::fs::read_to_string(path).unwrap();
    let words = text.lines().filter(|line| pick(line)).filter_map(|line| line.split('"').nth(1));
    words.map(str::to_owned).collect()
}

#[test]
fn every_command_and_every_event_of_the_api_channel_is_told() {
    let page = page();
    let told = |word: &str| page.lines().any(|line| line.starts_with(".It") && has(line, word));
    let commands = quoted("commands/mod.rs", |line| line.trim_start().starts_with("row!("));
    assert!(commands.len() > 30, "{commands:?}");
    let events = quoted("event.rs", |line| line.starts_with("    \""));
    assert!(events.len() > 10, "{events:?}");
    for word in commands.iter().chain(&events) {
        assert!(told(word), "{word} is not in the page");
    }
}
