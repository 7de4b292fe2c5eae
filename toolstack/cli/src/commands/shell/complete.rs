//! Completion: actions, verbs below verbs, options, names of domains, files.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use clap::Command;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};

use super::actions::{self, OWN};
use super::words::{Line, split};

/// How long the names that were read are good for.
const FRESH: Duration = Duration::from_secs(2);

/// What the line editor asks.
pub(crate) struct Aid<'a> {
    grammar: Command,
    names: &'a dyn Fn() -> Vec<String>,
    known: RefCell<Option<(Instant, Vec<String>)>>,
    files: Option<FilenameCompleter>,
}

/// What a word at some place may become.
#[derive(Debug, PartialEq, Eq)]
enum Fits {
    These(Vec<String>),
    Names(Vec<String>),
    Files,
}

impl<'a> Aid<'a> {
    /// `names` tells the domains there are, `files` whether files can be named at all.
    pub(crate) fn new(names: &'a dyn Fn() -> Vec<String>, files: bool) -> Self {
        let files = files.then(FilenameCompleter::new);
        Self { grammar: actions::grammar(), names, known: RefCell::new(None), files }
    }

    fn domains(&self) -> Vec<String> {
        let mut known = self.known.borrow_mut();
        match &*known {
            Some((when, names)) if when.elapsed() < FRESH => names.clone(),
            _ => {
                let names = (self.names)();
                *known = Some((Instant::now(), names.clone()));
                names
            }
        }
    }

    fn actions(&self) -> Vec<String> {
        let verbs = actions::verbs(&self.grammar).map(|verb| verb.get_name().to_owned());
        let mut all: Vec<String> = verbs.chain(OWN.iter().map(|own| own.name.to_owned())).collect();
        all.sort();
        all.dedup();
        all
    }

    /// What fits behind the words `before`.
    fn fits(&self, before: &[String], now: &str) -> Fits {
        let Some((first, rest)) = before.split_first() else { return Fits::These(self.actions()) };
        if first == "help" || first == "?" {
            return Fits::These(if rest.is_empty() { self.actions() } else { Vec::new() });
        }
        let name = actions::own(first).and_then(|own| own.like).unwrap_or(first);
        // As clap does: a verb may be cut short while only one fits.
        let mut fitting = self.grammar.get_subcommands().filter(|verb| {
            verb.get_name() == name || verb.get_all_aliases().any(|alias| alias == name)
        });
        let mut short =
            self.grammar.get_subcommands().filter(|verb| verb.get_name().starts_with(name));
        let Some(mut verb) = fitting.next().or_else(|| short.next()) else {
            return Fits::These(Vec::new());
        };
        if let Some(below) = rest.iter().find_map(|word| verb.find_subcommand(word)) {
            verb = below;
        } else if verb.has_subcommands() && !now.starts_with('-') {
            let below = verb.get_subcommands().filter(|below| below.get_name() != "help");
            return Fits::These(below.map(|below| below.get_name().to_owned()).collect());
        }
        if now.starts_with('-') {
            let long = verb.get_arguments().filter(|arg| !arg.is_hide_set());
            return Fits::These(
                long.filter_map(|arg| Some(format!("--{}", arg.get_long()?))).collect(),
            );
        }
        match self.places(verb) {
            places if places.contains("NAME") => {
                let mut names = self.domains();
                names.extend(places.contains("all").then(|| "all".to_owned()));
                Fits::Names(names)
            }
            places if places.contains("CFG") || places.contains("FILE") => Fits::Files,
            _ => Fits::These(Vec::new()),
        }
    }

    /// What a verb's help calls its words.
    fn places(&self, verb: &Command) -> String {
        let names = verb.get_positionals().flat_map(|arg| {
            let names = arg.get_value_names().unwrap_or_default().iter().map(|name| name.as_str());
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            let all = help.contains("\"all\"").then_some("all");
            names.chain(all).map(str::to_owned).collect::<Vec<_>>()
        });
        names.collect::<Vec<_>>().join(" ")
    }
}

impl Completer for Aid<'_> {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let Line { mut words, open, unfinished } = split(&line[..pos]);
        let now = if unfinished { words.pop() } else { None };
        let (start, now) = now.map_or((pos, String::new()), |word| (word.start, word.text));
        let before: Vec<String> = words.into_iter().map(|word| word.text).collect();
        let (all, names) = match self.fits(&before, &now) {
            Fits::These(all) => (all, false),
            Fits::Names(all) => (all, true),
            Fits::Files => {
                return match &self.files {
                    Some(files) => files.complete(line, pos, context),
                    None => Ok((pos, Vec::new())),
                };
            }
        };
        if open.is_some() {
            return Ok((pos, Vec::new()));
        }
        let mut found: Vec<String> = all.into_iter().filter(|one| one.starts_with(&now)).collect();
        // One that is there already is not meant again.
        if names && found.len() > 1 {
            found.retain(|one| !before[1..].contains(one));
        }
        let alone = found.len() == 1;
        let pair = |one: String| {
            let replacement = if alone { format!("{one} ") } else { one.clone() };
            Pair { display: one, replacement }
        };
        Ok((start, found.into_iter().map(pair).collect()))
    }
}

impl Hinter for Aid<'_> {
    type Hint = String;
}

impl Highlighter for Aid<'_> {}

impl Validator for Aid<'_> {}

impl Helper for Aid<'_> {}

#[cfg(test)]
mod tests {
    use rustyline::history::DefaultHistory;

    use super::*;

    fn completed(line: &str) -> Vec<String> {
        let names = || vec!["web".to_owned(), "web2".to_owned(), "vax".to_owned()];
        let aid = Aid::new(&names, false);
        let history = DefaultHistory::new();
        let (start, found) = aid.complete(line, line.len(), &Context::new(&history)).unwrap();
        found.into_iter().map(|pair| format!("{}{}", &line[..start], pair.replacement)).collect()
    }

    #[test]
    fn actions_are_completed_kxls_and_the_shells_own() {
        assert_eq!(completed("unp"), ["unpause "]);
        assert_eq!(completed("qu"), ["quit "]);
        assert_eq!(completed("help unp"), ["help unpause "]);
        assert!(completed("").len() > 25);
        assert_eq!(completed("nothing-like-it"), [""; 0]);
    }

    #[test]
    fn names_of_domains_are_completed_once_each() {
        assert_eq!(completed("pause v"), ["pause vax "]);
        assert_eq!(completed("pause web"), ["pause web", "pause web2"]);
        assert_eq!(completed("pause web web2 "), ["pause web web2 vax "]);
        assert_eq!(completed("tail v"), ["tail vax "]);
        assert_eq!(completed("unp v"), ["unp vax "], "a verb that is cut short is known too");
        assert_eq!(completed("pause 'we"), [""; 0], "inside a quote nothing is guessed");
    }

    #[test]
    fn verbs_below_verbs_and_options_are_completed() {
        assert_eq!(completed("image cl"), ["image clone "]);
        assert_eq!(completed("image clone --ea"), ["image clone --eager "]);
        assert_eq!(completed("shutdown --ti"), ["shutdown --timeout "]);
        assert_eq!(completed("create de"), [""; 0], "no files where none can be named");
    }
}
