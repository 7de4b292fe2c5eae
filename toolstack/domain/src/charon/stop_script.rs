//! The stop script that the domains of a host share: one `case` for each configuration.
//!
//! It is a script of the operator's, run by the system and never by kxl's own hand; here is the
//! text that one begins with, and how far one has got is read from it.

use std::fmt;

/// What is known of the way a domain is shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopScript {
    /// There is no script: a stop takes the power away.
    NotFound,
    /// There is a case for it, and nothing in that yet.
    ToCustomize,
    /// There is a script without a case for it.
    CaseNotSet,
    /// Its case uses one of the ways that the script comes with.
    Using(Way),
    /// Its case has commands of the operator's.
    Customized,
}

/// The ways that a new script comes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A dialogue on the console.
    Expect,
    /// A command over rsh.
    Rsh,
    /// A command over ssh.
    Ssh,
}

impl Way {
    const ALL: [Self; 3] = [Self::Expect, Self::Rsh, Self::Ssh];

    const fn function(self) -> &'static str {
        match self {
            Self::Expect => "stop_by_expect",
            Self::Rsh => "stop_by_rsh",
            Self::Ssh => "stop_by_ssh",
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Expect => "EXPECT",
            Self::Rsh => "RSH",
            Self::Ssh => "SSH",
        }
    }
}

impl StopScript {
    /// Whether it shuts a guest down.
    #[must_use]
    pub const fn is_ready(self) -> bool {
        matches!(self, Self::Using(_) | Self::Customized)
    }
}

impl fmt::Display for StopScript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.pad("Not found"),
            Self::ToCustomize => f.pad("To customize"),
            Self::CaseNotSet => f.pad("Case not set"),
            Self::Using(way) => f.pad(&format!("[Using {}]", way.as_str())),
            Self::Customized => f.pad("Customized"),
        }
    }
}

/// How far the common script has got for a configuration, by its text.
#[must_use]
pub fn common_status(script: &str, configuration: &str) -> StopScript {
    case_of(script, configuration).map_or(StopScript::CaseNotSet, |body| body_status(&body))
}

/// How far a script of one domain's own has got, by its text.
#[must_use]
pub fn own_status(script: &str) -> StopScript {
    body_status(&script.lines().map(str::to_owned).collect::<Vec<_>>())
}

fn body_status(lines: &[String]) -> StopScript {
    let commands: Vec<&str> = lines
        .iter()
        .map(|line| line.trim().trim_end_matches(";;").trim_end())
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let uses = |way: &Way| commands.iter().any(|line| calls(line, way.function()));
    match Way::ALL.into_iter().find(uses) {
        Some(way) => StopScript::Using(way),
        None if commands.iter().all(|line| is_idle(line)) => StopScript::ToCustomize,
        None => StopScript::Customized,
    }
}

/// Whether a line calls a function: it stands where a command does.
fn calls(line: &str, function: &str) -> bool {
    let parts = line.split([';', '&', '|', '(', '{', '!']);
    parts.into_iter().any(|part| {
        let mut words = part.split_whitespace().skip_while(|word| matches!(*word, "if" | "then"));
        words.next() == Some(function)
    })
}

/// Whether a line does nothing to a guest. Whatever could do more counts as doing it: of a guest
/// that can be shut down nobody is to believe that it cannot.
fn is_idle(line: &str) -> bool {
    let first = line.split_whitespace().next().unwrap_or_default();
    let known = matches!(
        first,
        ":" | "true" | "echo" | "printf" | "exit" | "to_customize" | "set" | "return"
    );
    known && !line.replace(">&2", "").contains(['|', ';', '&', '>', '`', '('])
}

/// The lines between the head of a configuration's case and its `;;`.
fn case_of(script: &str, configuration: &str) -> Option<Vec<String>> {
    let mut lines = script.lines();
    let first = lines.find_map(|line| case_head(line, configuration))?;
    let mut body = Vec::new();
    for line in std::iter::once(first).chain(lines) {
        let text = line.trim();
        body.push(line.to_owned());
        // An end in a comment is none.
        if (text.ends_with(";;") && !text.starts_with('#')) || text == "esac" {
            break;
        }
    }
    body.pop_if(|line| line.trim() == "esac");
    Some(body)
}

/// What stands behind `PATTERN)` of a line, where one of the patterns is the configuration.
fn case_head<'l>(line: &'l str, configuration: &str) -> Option<&'l str> {
    let text = line.trim_start();
    let text = text.strip_prefix('(').unwrap_or(text);
    // A path may have a bracket in it: the one behind the pattern is looked for.
    text.match_indices(')').find_map(|(at, _)| {
        let patterns = text[..at].split('|').map(unquoted);
        let named = patterns.into_iter().any(|pattern| pattern == configuration);
        named.then(|| &text[at + 1..])
    })
}

/// A pattern without its quotes.
fn unquoted(pattern: &str) -> String {
    let pattern = pattern.trim();
    for quote in ['"', '\''] {
        if let Some(inner) = pattern.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return if quote == '"' {
                plain(inner, |c| "\"\\$`".contains(c))
            } else {
                inner.to_owned()
            };
        }
    }
    plain(pattern, |_| true)
}

/// The text without the backslashes in front of what they take the meaning from.
fn plain(text: &str, escaped: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let next = rest.next_if(|next| c == '\\' && escaped(*next));
        out.push(next.unwrap_or(c));
    }
    out
}

/// One case to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The domain, for people.
    pub domain: String,
    /// The full path of its configuration.
    pub configuration: String,
}

/// Above this line new cases go.
const MARK: &str = "    # kxl stop-script create puts new cases above this line.";

const HEAD: &str = include_str!("stop_script.sh");

/// A script with a case for each of these.
#[must_use]
pub fn new_script(cases: &[Case]) -> String {
    with_cases(&HEAD.replace("    @CASES@", MARK), cases).unwrap_or_default()
}

/// The script with cases for those that have none; `None` where it has no place for them.
#[must_use]
pub fn with_cases(script: &str, cases: &[Case]) -> Option<String> {
    let at = script.lines().position(|line| line == MARK)?;
    let missing: String = cases
        .iter()
        .filter(|case| common_status(script, &case.configuration) == StopScript::CaseNotSet)
        .map(case_text)
        .collect();
    let mut out = String::with_capacity(script.len() + missing.len());
    for (number, line) in script.lines().enumerate() {
        if number == at {
            out.push_str(&missing);
        }
        out.push_str(line);
        out.push('\n');
    }
    Some(out)
}

fn case_text(case: &Case) -> String {
    let quoted: String = case
        .configuration
        .chars()
        .flat_map(|c| {
            let escape = matches!(c, '"' | '\\' | '$' | '`').then_some('\\');
            escape.into_iter().chain([c])
        })
        .collect();
    let domain = &case.domain;
    format!(
        "    \"{quoted}\")\n        \
         # {domain}: take one of these ways, fill it in, and remove the line to_customize.\n        \
         # stop_by_ssh HOST USER 'COMMAND' && switch_off\n        \
         # stop_by_rsh HOST USER 'COMMAND' && switch_off\n        \
         # stop_by_expect USER PASSWORD_FILE 'COMMAND' && switch_off\n        \
         to_customize\n        ;;\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(domain: &str, configuration: &str) -> Case {
        Case { domain: domain.into(), configuration: configuration.into() }
    }

    /// One script that yields four of the five statuses; the fifth is that there is none.
    const FIXTURE: &str = include_str!("testdata/stop-script");

    #[test]
    fn each_status_is_told_from_the_text_of_a_script() {
        for (configuration, want) in [
            ("/srv/charon/new.cfg", "To customize"),
            ("/srv/charon/comments only.cfg", "To customize"),
            ("/srv/charon/none.cfg", "Case not set"),
            ("/srv/charon/ssh.cfg", "[Using SSH]"),
            ("/srv/charon/rsh.cfg", "[Using RSH]"),
            ("/srv/charon/expect.cfg", "[Using EXPECT]"),
            ("/srv/charon/own.cfg", "Customized"),
            ("/srv/charon/first.cfg", "Customized"),
            ("/srv/charon/second.cfg", "Customized"),
            ("/srv/charon/in-a-comment.cfg", "Case not set"),
            ("/srv/charon/a(b).cfg", "[Using SSH]"),
        ] {
            assert_eq!(common_status(FIXTURE, configuration).to_string(), want, "{configuration}");
        }
        assert_eq!(StopScript::NotFound.to_string(), "Not found");
        let ready = ["/srv/charon/ssh.cfg", "/srv/charon/own.cfg"];
        assert!(ready.iter().all(|name| common_status(FIXTURE, name).is_ready()));
    }

    #[test]
    fn a_new_script_has_a_case_for_each_that_is_to_be_customized() {
        let cases = [case("es40", "/srv/a.cfg"), case("vax", "/srv/b \"$x`\\.cfg")];
        let script = new_script(&cases);
        assert!(script.starts_with("#!/bin/sh\n"), "{script}");
        for case in &cases {
            assert_eq!(common_status(&script, &case.configuration), StopScript::ToCustomize);
        }
        assert_eq!(common_status(&script, "/srv/c.cfg"), StopScript::CaseNotSet);
        assert_eq!(new_script(&[]).matches(MARK).count(), 1);
    }

    #[test]
    fn cases_are_added_for_new_ones_only_and_nothing_else_changes() {
        let script = new_script(&[case("a", "/a.cfg")]).replace("to_customize\n", "sync\n");
        let more = with_cases(&script, &[case("a", "/a.cfg"), case("b", "/b.cfg")]).unwrap();
        assert_eq!(common_status(&more, "/a.cfg"), StopScript::Customized);
        assert_eq!(common_status(&more, "/b.cfg"), StopScript::ToCustomize);
        assert_eq!(with_cases(&more, &[case("b", "/b.cfg")]).unwrap(), more);
        assert_eq!(with_cases("#!/bin/sh\n", &[case("b", "/b.cfg")]), None);
    }

    #[test]
    fn a_script_of_one_domains_own_needs_no_case() {
        assert_eq!(own_status("#!/bin/sh\n# nothing yet\n"), StopScript::ToCustomize);
        assert_eq!(own_status("#!/bin/sh\nssh vms shutdown\n"), StopScript::Customized);
        assert_eq!(own_status("stop_by_rsh a b c\n"), StopScript::Using(Way::Rsh));
        assert_eq!(own_status("if stop_by_ssh a b c; then :; fi\n"), StopScript::Using(Way::Ssh));
    }

    #[test]
    fn a_line_that_says_something_and_does_more_is_customized() {
        for line in [
            "echo now; ssh vms stop",
            "printf x > /dev/ttyS0",
            "echo x | nc vms 23",
            "exit $(stop)",
        ] {
            assert_eq!(own_status(line), StopScript::Customized, "{line}");
        }
        assert_eq!(own_status("echo not yet >&2\nexit 1\n"), StopScript::ToCustomize);
    }
}
