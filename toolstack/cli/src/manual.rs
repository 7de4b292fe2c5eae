//! Compares the manual page with the command line, both ways, and keeps its tables up to date.
//!
//! `KXL_BLESS=1 cargo test -p kxl-cli manual` writes the rendered blocks anew.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use clap::{Arg, Command, CommandFactory};
use kxl_domain::Kind;

use crate::args::Cli;

fn page_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../man/kxl.1")
}

fn page() -> String {
    fs::read_to_string(page_path()).unwrap()
}

fn cli() -> Command {
    let mut command = Cli::command();
    command.build();
    command
}

/// What the page says about a verb: from its `.It` line to that of another one. A verb with
/// several forms has several of them.
fn section(page: &str, verb: &str) -> String {
    let verbs = page.split("\n.\\\" end of verbs").next().unwrap();
    let about = verbs.split("\n.It Xo Cm ").skip(1);
    about.filter(|text| text.split_whitespace().next() == Some(verb)).collect()
}

/// The options that a piece of mdoc names; `.Op Fl ab` names two.
fn options(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with('.')) {
        let words: Vec<&str> = line.trim_start_matches('.').split_whitespace().collect();
        for pair in words.windows(2).filter(|pair| pair[0] == "Fl") {
            if pair[1].starts_with('-') {
                found.insert(pair[1].to_owned());
            } else {
                found.extend(pair[1].chars().map(String::from));
            }
        }
    }
    found
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help")
}

/// The arguments of a verb, and of the verbs below it.
fn arguments(verb: &Command) -> impl Iterator<Item = &Arg> {
    let below = verb.get_subcommands().filter(|under| under.get_name() != "help");
    verb.get_arguments().chain(below.flat_map(Command::get_arguments))
}

#[test]
fn every_visible_verb_and_option_is_in_the_manual() {
    let page = page();
    for verb in visible(&cli()) {
        let section = section(&page, verb.get_name());
        assert!(!section.is_empty(), "kxl(1) says nothing about \"{}\"", verb.get_name());
        for alias in verb.get_visible_aliases() {
            let said = format!("\n.Cm {alias}\n");
            assert!(section.contains(&said), "kxl(1), {}: no {alias}", verb.get_name());
        }
        let named = options(&section);
        for under in verb.get_subcommands().filter(|under| under.get_name() != "help") {
            let said = format!("\n.It Xo Cm {} Cm {}\n", verb.get_name(), under.get_name());
            assert!(page.contains(&said), "kxl(1), {}: no {}", verb.get_name(), under.get_name());
        }
        for option in arguments(verb).filter(|option| !option.is_hide_set()) {
            let short = option.get_short().map(|letter| letter.to_string());
            let long = option.get_long().map(|word| format!("-{word}"));
            if option.get_id() == "help" {
                continue;
            }
            for name in [short, long].into_iter().flatten() {
                assert!(named.contains(&name), "kxl(1), {}: no -{name}", verb.get_name());
            }
        }
    }
}

#[test]
fn the_manual_names_no_verb_and_no_option_that_does_not_exist() {
    let page = page();
    let command = cli();
    let verbs: BTreeSet<&str> = visible(&command).map(Command::get_name).collect();
    for line in page.lines().filter_map(|line| line.strip_prefix(".It Xo Cm ")) {
        let verb = line.split_whitespace().next().unwrap();
        assert!(verbs.contains(verb), "kxl(1) describes \"{verb}\", which does not exist");
    }
    for verb in visible(&command) {
        let mut known = BTreeSet::new();
        for option in arguments(verb) {
            known.extend(option.get_short().map(|letter| letter.to_string()));
            known.extend(option.get_long().map(|word| format!("-{word}")));
        }
        for named in options(&section(&page, verb.get_name())) {
            assert!(known.contains(&named), "kxl(1), {}: -{named} does not exist", verb.get_name());
        }
    }
}

/// A block between two markers; rewritten when `KXL_BLESS` is set.
fn check_block(name: &str, rendered: &str) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let page = page();
    let begin = format!(".\\\" BEGIN {name}, rendered by a test\n");
    let end = format!(".\\\" END {name}\n");
    let from = page.find(&begin).unwrap() + begin.len();
    let to = page.find(&end).unwrap();
    if std::env::var_os("KXL_BLESS").is_some() {
        let blessed = format!("{}{rendered}{}", &page[..from], &page[to..]);
        fs::write(page_path(), blessed).unwrap();
        return;
    }
    assert_eq!(&page[from..to], rendered, "KXL_BLESS=1 writes the block anew");
}

#[test]
fn the_lifecycle_table_of_the_manual_is_that_of_the_engine() {
    let table = kxl_domain::lifecycle::table();
    let lines: String =
        table.lines().map(|line| format!("{}\n", line.trim_end().replace('-', "\\-"))).collect();
    check_block("lifecycle", &format!(".Bd -literal\n{lines}.Ed\n"));
}

#[test]
fn the_exit_statuses_of_the_manual_are_those_of_the_program() {
    let mut rendered = String::from(".Bl -tag -width 4n\n.It 0\nEverything was done.\n");
    for kind in Kind::ALL {
        let text = match kind {
            Kind::Failed => "It was tried and did not work.",
            Kind::Usage => "The command line or a configuration is wrong.",
            Kind::NoSuchDomain => "There is no such domain.",
            Kind::Denied => "The state of the domain does not allow it.",
            Kind::Unsupported => "The backend lacks the capability.",
            Kind::TimedOut => "A deadline passed.",
            Kind::Internal => "A fault of kxl itself.",
        };
        rendered.push_str(&format!(".It {}\n{text}\n", kind.exit_code()));
    }
    rendered.push_str(".El\n");
    check_block("exit statuses", &rendered);
}
