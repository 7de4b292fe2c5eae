//! Option parsing with the rules of GNU `getopt_long`: options and operands in any order, long
//! options cut short, values joined or apart, `--` ends the options.

/// The options of a command: `short` as in getopt ("pe:" = -p, and -e with a value), `long` with
/// the short letter each one stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Short options.
    pub(crate) short: &'static str,
    /// Long options: name, whether a value follows, the letter reported.
    pub(crate) long: &'static [(&'static str, bool, char)],
}

/// A command without options.
pub(crate) const NONE: Options = Options { short: "", long: &[] };

/// The options given, in order, and the operands.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Line {
    /// Letter and value of each option.
    pub(crate) options: Vec<(char, Option<String>)>,
    /// What is no option.
    pub(crate) operands: Vec<String>,
}

impl Line {
    /// Whether the option was given.
    pub(crate) fn has(&self, letter: char) -> bool {
        self.count(letter) > 0
    }

    /// How often it was given.
    pub(crate) fn count(&self, letter: char) -> usize {
        self.options.iter().filter(|(given, _)| *given == letter).count()
    }

    /// The last value given for it.
    pub(crate) fn value(&self, letter: char) -> Option<&str> {
        let found = self.options.iter().rev().find(|(given, _)| *given == letter);
        found.and_then(|(_, value)| value.as_deref())
    }
}

/// Why a line could not be taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// `-h` or `--help` was met first.
    Help,
    /// An option that does not exist, lacks its value or has one too many; as it is to be named.
    NotSupported(String),
}

/// Takes a command's arguments apart.
pub(crate) fn parse(known: Options, args: &[String]) -> Result<Line, Problem> {
    let mut line = Line::default();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        if arg == "--" {
            line.operands.extend(rest.cloned());
            break;
        }
        if let Some(word) = arg.strip_prefix("--") {
            let (letter, value) = long(known, word, &mut rest)?;
            line.options.push((letter, value));
        } else if arg.len() > 1 && arg.starts_with('-') {
            cluster(known, &arg[1..], &mut rest, &mut line)?;
        } else {
            line.operands.push(arg.clone());
        }
    }
    Ok(line)
}

/// A word of short options, `-pe^x` or `-p`.
fn cluster<'a>(
    known: Options,
    letters: &str,
    rest: &mut impl Iterator<Item = &'a String>,
    line: &mut Line,
) -> Result<(), Problem> {
    let mut letters = letters.chars();
    while let Some(letter) = letters.next() {
        let bad = || Problem::NotSupported(letter.to_string());
        let at = known.short.find(letter).filter(|_| letter != ':');
        let Some(at) = at else {
            return Err(if letter == 'h' { Problem::Help } else { bad() });
        };
        let takes_value = known.short[at + letter.len_utf8()..].starts_with(':');
        if !takes_value {
            line.options.push((letter, None));
            continue;
        }
        let joined: String = letters.by_ref().collect();
        let value = if joined.is_empty() { rest.next().cloned() } else { Some(joined) };
        line.options.push((letter, Some(value.ok_or_else(bad)?)));
    }
    Ok(())
}

/// A long option, whole or cut short as long as only one fits.
fn long<'a>(
    known: Options,
    word: &str,
    rest: &mut impl Iterator<Item = &'a String>,
) -> Result<(char, Option<String>), Problem> {
    let (name, joined) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (word, None),
    };
    let all = || known.long.iter().copied().chain([("help", false, 'h')]);
    let bad = || Problem::NotSupported(format!("--{name}"));
    let mut fits: Vec<_> = all().filter(|(known, ..)| *known == name).collect();
    if fits.is_empty() {
        fits = all().filter(|(known, ..)| known.starts_with(name)).collect();
        // Two spellings of one option do not make it ambiguous.
        fits.dedup_by_key(|(_, takes, letter)| (*takes, *letter));
    }
    let [(_, takes_value, letter)] = fits[..] else { return Err(bad()) };
    if letter == 'h' {
        return Err(Problem::Help);
    }
    match (takes_value, joined) {
        (false, None) => Ok((letter, None)),
        (false, Some(_)) => Err(bad()),
        (true, Some(value)) => Ok((letter, Some(value))),
        (true, None) => Ok((letter, Some(rest.next().cloned().ok_or_else(bad)?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREATE: Options = Options {
        short: "Fnqf:pc",
        long: &[("quiet", false, 'q'), ("dryrun", false, 'n'), ("defconfig", true, 'f')],
    };

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn options_may_follow_operands() {
        let line = parse(CREATE, &words("a.cfg -p name=1 -c")).unwrap();
        assert!(line.has('p') && line.has('c'));
        assert_eq!(line.operands, ["a.cfg", "name=1"]);
    }

    #[test]
    fn values_are_taken_joined_or_apart() {
        for text in ["-fX", "-f X", "--defconfig X", "--defconfig=X", "--def X", "-qfX"] {
            assert_eq!(parse(CREATE, &words(text)).unwrap().value('f'), Some("X"), "{text}");
        }
    }

    #[test]
    fn two_dashes_end_the_options_and_one_is_an_operand() {
        let line = parse(CREATE, &words("- -- -p")).unwrap();
        assert_eq!(line.operands, ["-", "-p"]);
        assert!(!line.has('p'));
    }

    #[test]
    fn help_is_always_there_and_others_are_named() {
        assert_eq!(parse(CREATE, &words("-h")), Err(Problem::Help));
        assert_eq!(parse(CREATE, &words("--help")), Err(Problem::Help));
        assert_eq!(parse(CREATE, &words("-pZ")), Err(Problem::NotSupported("Z".into())));
        assert_eq!(parse(CREATE, &words("-f")), Err(Problem::NotSupported("f".into())));
        assert_eq!(parse(CREATE, &words("--x")), Err(Problem::NotSupported("--x".into())));
        assert_eq!(
            parse(CREATE, &words("--quiet=1")),
            Err(Problem::NotSupported("--quiet".into()))
        );
    }

    #[test]
    fn repeated_options_are_counted() {
        const WAIT: Options = Options { short: "aw", long: &[("wait", false, 'w')] };
        assert_eq!(parse(WAIT, &words("-ww --wait")).unwrap().count('w'), 3);
    }
}
