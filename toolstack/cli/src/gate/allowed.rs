//! Which commands pass the gate. What is not named here does not: a verb or an option that kxl gets
//! later is for root alone until somebody writes it down here.

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory};
use kxl_domain::{DomainName, DomainUuid, Failure, Kind};

use crate::args::Cli;

/// A verb, and the arguments that may be given with it.
struct Verb {
    path: &'static [&'static str],
    arguments: &'static [&'static str],
    /// It changes nothing.
    looks: bool,
}

const fn looks(path: &'static [&'static str], arguments: &'static [&'static str]) -> Verb {
    Verb { path, arguments, looks: true }
}

const fn acts(path: &'static [&'static str], arguments: &'static [&'static str]) -> Verb {
    Verb { path, arguments, looks: false }
}

/// Nothing here takes a file or a configuration, and nothing prints one.
const ALLOWED: &[Verb] = &[
    looks(&["status"], &["names", "json"]),
    looks(&["list"], &["names", "verbose", "state", "json"]),
    looks(&["why"], &["name", "json"]),
    looks(&["events"], EVENTS),
    looks(&["log", "list"], EVENTS),
    looks(&["alerts"], &["name", "all", "json"]),
    looks(&["wait"], &["name", "goal", "timeout", "create"]),
    acts(&["alerts", "ack"], &["ids"]),
    acts(&["start"], &["names", "paused", "console", "no_wait", "quiet", "json"]),
    acts(&["stop"], &["names", "quiet"]),
    acts(&["restart"], &["names", "no_wait", "quiet"]),
    acts(&["shutdown"], END),
    acts(&["reboot"], END),
    acts(&["pause"], &["names"]),
    acts(&["unpause"], &["names"]),
    acts(&["suspend"], &["names", "quiet", "json", "still"]),
    acts(&["resume"], &["names", "paused", "quiet", "json", "eager"]),
    // Their domains go on; the next command finds them again.
    acts(&["release"], &["names", "all"]),
    acts(&["recover"], &["quiet"]),
    acts(
        &["console"],
        &["name", "escape", "log", "since", "follow", "read_only", "steal", "no_replay"],
    ),
];

const EVENTS: &[&str] = &["name", "follow", "since", "until", "severity", "what", "limit", "json"];
const END: &[&str] = &["names", "all", "wait", "timeout", "fallback"];

/// A command line that may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Passed {
    /// The domains that it names.
    pub(crate) names: Vec<String>,
    /// Whether it changes nothing.
    pub(crate) looks: bool,
}

/// Whether the words of a command line may pass.
///
/// # Errors
/// A refusal that says what may not.
pub(crate) fn check(words: &[String]) -> Result<Passed, Failure> {
    let mut grammar = Cli::command();
    let line = std::iter::once("kxl").chain(words.iter().map(String::as_str));
    let matches = grammar.try_get_matches_from_mut(line).map_err(|error| {
        let text = error.render().to_string();
        refusal(text.lines().next().unwrap_or("this is no command line of kxl"))
    })?;
    let (mut path, mut command, mut at) = (Vec::new(), &grammar, &matches);
    loop {
        let given = given(command, at);
        let Some((name, below)) = at.subcommand() else {
            return leaf(&path, &given, at);
        };
        // What stands before a verb is none of the verb's arguments.
        if let Some(early) = given.first() {
            return Err(refusal(&format!("{} does not pass the gate", shown(early))));
        }
        let Some(next) = command.find_subcommand(name) else {
            return Err(refusal("this is no command line of kxl"));
        };
        path.push(next.get_name());
        (command, at) = (next, below);
    }
}

fn leaf(path: &[&str], given: &[&Arg], at: &ArgMatches) -> Result<Passed, Failure> {
    let Some(verb) = ALLOWED.iter().find(|verb| verb.path == path) else {
        let text = format!("{} is not for those who come through the gate", path.join(" "));
        return Err(refusal(&text));
    };
    let mut names = Vec::new();
    for arg in given {
        if !verb.arguments.contains(&arg.get_id().as_str()) {
            let text = format!("{} of {} does not pass the gate", shown(arg), path.join(" "));
            return Err(refusal(&text));
        }
        if !is_name(arg) {
            continue;
        }
        for value in at.get_raw(arg.get_id().as_str()).into_iter().flatten() {
            let name = value.to_str().filter(|text| names_a_domain(text));
            names.push(name.ok_or_else(|| refusal("this is no name of a domain"))?.to_owned());
        }
    }
    Ok(Passed { names, looks: verb.looks })
}

/// The arguments that the line gives.
fn given<'a>(command: &'a Command, at: &ArgMatches) -> Vec<&'a Arg> {
    let on_the_line =
        |arg: &&Arg| at.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    command.get_arguments().filter(on_the_line).collect()
}

fn shown(arg: &Arg) -> String {
    match (arg.get_long(), arg.get_short()) {
        (Some(long), _) => format!("--{long}"),
        (None, Some(short)) => format!("-{short}"),
        (None, None) => arg.get_id().to_string(),
    }
}

/// Whether the values of an argument are names of domains.
fn is_name(arg: &Arg) -> bool {
    arg.get_value_names().is_some_and(|names| names.iter().any(|name| name.as_str() == "NAME"))
}

fn names_a_domain(text: &str) -> bool {
    DomainName::new(text).is_ok()
        || text.parse::<u32>().is_ok()
        || text.parse::<DomainUuid>().is_ok()
}

fn refusal(text: &str) -> Failure {
    Failure::new(Kind::Failed, text).hint("kxl-gate(8) tells what passes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(line: &str) -> Result<Passed, Failure> {
        let words: Vec<String> =
            line.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        check(&words)
    }

    #[test]
    fn what_is_allowed_passes_also_cut_short_and_by_its_other_names() {
        for line in [
            "list",
            "ls",
            "li -v web",
            "list --json",
            "status",
            "status all",
            "start web vax",
            "stop all",
            "restart --no-wait web",
            "shutdown -aw --timeout 5",
            "pause 7",
            "console web --log --since 10m",
            "events -f --severity alert",
            "log list web",
            "alerts",
            "alerts ack 3",
            "why 00000001-0000-4000-8000-000000000000",
            "unp -- web",
            "release --all",
            "recover",
        ] {
            checked(line).unwrap_or_else(|failure| panic!("{line}: {failure}"));
        }
        let passed = checked("shutdown web vax").unwrap();
        assert_eq!(passed, Passed { names: vec!["web".into(), "vax".into()], looks: false });
        assert!(checked("list").unwrap().looks && !checked("alerts ack 3").unwrap().looks);
    }

    #[test]
    fn everything_else_is_refused() {
        for line in [
            "",
            "--help",
            "--version",
            "list --help",
            "--gate list",
            "create a.cfg",
            "create name=\"x\"",
            "new a.cfg",
            "delete web",
            "destroy web",
            "save web /tmp/x",
            "restore /tmp/x",
            "image list",
            "image export web /tmp/x",
            "host save",
            "info",
            "shell list",
            "gate serve",
            "gate password",
            "list --long",
            "list -l",
            "resume --force-disks web",
            "start web --no-such",
            "start ../../etc/passwd",
            "start /etc/passwd",
            "start -- -x/y",
            "console a/b --log",
            "pause web\u{0}",
            "pause we\nb",
            "why",
            "completion bash",
            "dump-core web x",
        ] {
            assert!(checked(line).is_err(), "{line} passed");
        }
    }

    #[test]
    fn every_verb_and_argument_of_the_list_exists() {
        let mut grammar = Cli::command();
        grammar.build();
        for verb in ALLOWED {
            let mut command = &grammar;
            for name in verb.path {
                command = command.find_subcommand(name).unwrap_or_else(|| panic!("no {name}"));
            }
            for id in verb.arguments {
                let known = command.get_arguments().any(|arg| arg.get_id() == id);
                assert!(known, "{:?} has no argument {id}", verb.path);
            }
        }
    }

    #[test]
    fn no_argument_that_passes_takes_a_file() {
        let mut grammar = Cli::command();
        grammar.build();
        for verb in ALLOWED {
            let mut command = &grammar;
            for name in verb.path {
                command = command.find_subcommand(name).unwrap();
            }
            for arg in command.get_arguments() {
                let names = arg.get_value_names().unwrap_or_default();
                let file = names.iter().any(|name| {
                    ["FILE", "DIR", "CFG", "PATH"].iter().any(|word| name.as_str().contains(word))
                });
                let passes = verb.arguments.contains(&arg.get_id().as_str());
                assert!(!(file && passes), "{:?} {}", verb.path, arg.get_id());
            }
        }
    }
}
