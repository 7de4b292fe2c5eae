//! What the shell's words mean: mostly they are kxl's verbs, some are supervisorctl's, and a few are
//! the shell's own.

use clap::{Command, CommandFactory};

use crate::args::Cli;

/// What a line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Run kxl with these words, one after the other.
    Run(Vec<Vec<String>>),
    /// Tell what there is, or what one action does.
    Help(Vec<String>),
    /// Print the pids of emulators.
    Pid(Vec<String>),
    /// Leave the shell.
    Leave,
    /// It cannot be; why.
    Refused(String),
}

/// An action that no verb of kxl has the name of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Own {
    /// What is typed.
    pub(crate) name: &'static str,
    /// One line.
    pub(crate) about: &'static str,
    /// How it is typed, and more about it.
    pub(crate) help: &'static str,
    /// The verb whose arguments it takes.
    pub(crate) like: Option<&'static str>,
}

/// Those actions. `shutdown` is a verb of kxl as well: with names it asks guests, as ever.
pub(crate) const OWN: &[Own] = &[
    Own {
        name: "avail",
        about: "List managed domains and which of them start with the host",
        help: "avail\nThe same as: autostart",
        like: None,
    },
    Own {
        name: "exit",
        about: "Leave the shell; so do quit and ^D",
        help: "exit\nLeaves the shell. Domains and their monitors are not touched.",
        like: None,
    },
    Own {
        name: "fg",
        about: "Attach to a domain's console",
        help: "fg NAME\nThe same as: console NAME",
        like: Some("console"),
    },
    Own {
        name: "help",
        about: "List the actions, or tell what one does",
        help: "help [ACTION]",
        like: None,
    },
    Own {
        name: "pid",
        about: "Print the pids of emulators",
        help: "pid [NAME ...|all]\nPrints the process id of each domain's emulator, 0 where there is none.",
        like: Some("list"),
    },
    Own { name: "quit", about: "Leave the shell", help: "quit\nThe same as: exit", like: None },
    Own {
        name: "reload",
        about: "Give every live domain a new monitor; the domains run on",
        help: "reload\nThe same as release --all and then recover: what a monitor read at its start, \
               kxl.conf among it, is read again, and an upgraded kxl takes over.",
        like: None,
    },
    Own {
        name: "shutdown",
        about: "Without a name: end the monitors, domains run on. With names: ask guests to end",
        help: "shutdown\nEnds every monitor and leaves the domains running (release --all). Until a \
               command about a domain, recover or kxl-recover.timer brings a new monitor, nobody \
               restarts what ends.\nshutdown NAME ...\nAsks guests to switch themselves off; see \
               shutdown --help.",
        like: None,
    },
    Own {
        name: "tail",
        about: "Print what a domain said on its console",
        help: "tail [-f] NAME\nThe same as: console --log [--follow] NAME",
        like: Some("console"),
    },
    Own { name: "version", about: "Print the version of kxl", help: "version", like: None },
];

/// The command line of kxl, for its names and its help.
pub(crate) fn grammar() -> Command {
    let mut command = Cli::command();
    command.build();
    command
}

/// The verbs that are offered, with a line about each; those that make no sense in here are not.
pub(crate) fn verbs(grammar: &Command) -> impl Iterator<Item = &Command> {
    let hidden = ["help", "shell", "completion"];
    grammar
        .get_subcommands()
        .filter(move |verb| !verb.is_hide_set() && !hidden.contains(&verb.get_name()))
}

/// The action of this name that is the shell's own.
pub(crate) fn own(name: &str) -> Option<&'static Own> {
    OWN.iter().find(|own| own.name == name)
}

/// What words ask for; `None` when there are none.
pub(crate) fn act(words: &[String]) -> Option<Act> {
    let (first, rest) = words.split_first()?;
    let run = |head: &[&str]| {
        let head = head.iter().map(|word| (*word).to_owned());
        Act::Run(vec![head.chain(rest.iter().cloned()).collect()])
    };
    let alone = |lines: &[&[&str]]| {
        if !rest.is_empty() {
            return Act::Refused(format!("{first} takes no argument"));
        }
        let owned = |line: &&[&str]| line.iter().map(|word| (*word).to_owned()).collect();
        Act::Run(lines.iter().map(owned).collect())
    };
    Some(match first.as_str() {
        "exit" | "quit" if rest.is_empty() => Act::Leave,
        "exit" | "quit" => Act::Refused(format!("{first} takes no argument")),
        "help" | "?" => Act::Help(rest.to_vec()),
        "shutdown" if rest.is_empty() => alone(&[&["release", "--all"]]),
        "reload" => alone(&[&["release", "--all"], &["recover"]]),
        "avail" => alone(&[&["autostart"]]),
        "version" => alone(&[&["--version"]]),
        "pid" => Act::Pid(rest.iter().filter(|word| *word != "all").cloned().collect()),
        "fg" => run(&["console"]),
        "tail" => {
            let follow =
                |word: &String| if word == "-f" { "--follow".into() } else { word.clone() };
            let words = ["console".to_owned(), "--log".to_owned()];
            Act::Run(vec![words.into_iter().chain(rest.iter().map(follow)).collect()])
        }
        "shell" => Act::Refused("this is the shell already".to_owned()),
        _ => run(&[first]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Option<Act> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        act(&words)
    }

    fn runs(line: &str) -> String {
        match of(line) {
            Some(Act::Run(lines)) => {
                lines.iter().map(|line| line.join(" ")).collect::<Vec<_>>().join("; ")
            }
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn a_bare_shutdown_ends_monitors_and_one_with_names_asks_guests() {
        assert_eq!(runs("shutdown"), "release --all");
        assert_eq!(runs("shutdown web"), "shutdown web");
        assert_eq!(runs("shutdown --all"), "shutdown --all");
    }

    #[test]
    fn supervisorctls_words_have_kxls_verbs_behind_them() {
        assert_eq!(runs("tail -f web"), "console --log --follow web");
        assert_eq!(runs("fg web"), "console web");
        assert_eq!(runs("reload"), "release --all; recover");
        assert_eq!(runs("list -v"), "list -v");
        assert_eq!(of("quit"), Some(Act::Leave));
        assert_eq!(of("pid all"), Some(Act::Pid(Vec::new())));
        assert_eq!(of(""), None);
        assert!(matches!(of("shell"), Some(Act::Refused(_))));
        assert!(matches!(of("exit now"), Some(Act::Refused(_))));
        assert!(matches!(of("reload web"), Some(Act::Refused(_))));
    }

    #[test]
    fn no_verb_is_hidden_behind_a_word_of_the_shells_own() {
        let grammar = grammar();
        for own in OWN.iter().filter(|own| own.name != "shutdown" && own.name != "help") {
            let taken = grammar.get_subcommands().any(|verb| verb.get_name() == own.name);
            assert!(!taken, "{} is a verb of kxl", own.name);
        }
    }

    #[test]
    fn every_action_of_the_shells_own_leads_to_a_verb_that_exists() {
        let grammar = grammar();
        for own in OWN {
            for name in ["web", ""] {
                if let Some(Act::Run(lines)) = of(&format!("{} {name}", own.name)) {
                    for line in lines {
                        let known = line[0].starts_with('-')
                            || grammar.get_subcommands().any(|verb| verb.get_name() == line[0]);
                        assert!(known, "{}: {line:?}", own.name);
                    }
                }
            }
        }
    }
}
