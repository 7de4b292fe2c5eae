//! The operator's console: which line it is, and how to give it another port.
//!
//! Releases name it in different ways. The oldest load a line called OPA0; later ones have COM1,
//! UART or one line of QUART for it, named OPA0 by an `alias`, and the newest need no alias. So
//! the console is whatever goes by one of these names, and an assignment to any of them counts.

use super::model::{Family, Model};
use super::statement::Member;
use super::{Configuration, Verb};

/// How the operator's console is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleLine {
    /// The emulator listens on this TCP port.
    Port(u16),
    /// A serial line of the host.
    Physical(String),
    /// Neither is said: the emulator's own window or terminal.
    None,
}

const CONSOLE: &str = "OPA0";

/// One line that is the console: an object, and an index for a line of a device with several.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    object: String,
    index: Option<u32>,
}

impl Line {
    fn whole(object: &str) -> Self {
        Self { object: object.to_owned(), index: None }
    }

    fn is(&self, object: &str, index: Option<u32>) -> bool {
        self.object.eq_ignore_ascii_case(object) && self.index == index
    }
}

/// What the console's port and device are, as the last word about each has it.
pub(super) fn line(configuration: &Configuration) -> ConsoleLine {
    let lines = lines(configuration);
    let ports = members(configuration, &lines, "port");
    if let Some(port) = ports.last().and_then(|member| port_of(&member.value)) {
        return ConsoleLine::Port(port);
    }
    let device = members(configuration, &lines, "line")
        .into_iter()
        .rfind(|member| !is_object(configuration, &member.value));
    device.map_or(ConsoleLine::None, |member| ConsoleLine::Physical(member.value.clone()))
}

/// An assignment to the console's port that is no port.
pub(super) fn bad_port(configuration: &Configuration) -> Option<&Member> {
    let lines = lines(configuration);
    members(configuration, &lines, "port")
        .into_iter()
        .find(|member| port_of(&member.value).is_none())
}

fn port_of(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

impl Configuration {
    /// The text with the console listening on another port; `None` where it has no port.
    #[must_use]
    pub fn with_console_port(&self, port: u16) -> Option<String> {
        let lines = lines(self);
        let mut spans: Vec<_> =
            members(self, &lines, "port").iter().map(|m| m.span.clone()).collect();
        if spans.is_empty() {
            return None;
        }
        spans.sort_by_key(|span| span.start);
        spans.dedup();
        let mut text = String::with_capacity(self.text.len() + 8);
        let mut at = 0;
        for span in spans {
            text.push_str(&self.text[at..span.start]);
            text.push_str(&port.to_string());
            at = span.end;
        }
        text.push_str(&self.text[at..]);
        Some(text)
    }
}

/// Every line that is the console.
fn lines(configuration: &Configuration) -> Vec<Line> {
    let mut lines = vec![Line::whole(CONSOLE)];
    let mut add = |line: Line| {
        if !lines.iter().any(|known| known.is(&line.object, line.index)) {
            lines.push(line);
        }
    };
    let mut aliased = false;
    for statement in configuration.statements() {
        for member in statement.members.iter().filter(|member| member.is("alias")) {
            if member.value.eq_ignore_ascii_case(CONSOLE) {
                add(Line { object: statement.object.clone(), index: member.index });
                aliased = true;
            }
        }
    }
    let loaded = configuration.of(CONSOLE).any(|s| matches!(s.verb, Verb::Load { .. }));
    let model = configuration.value("session", "hw_model").unwrap_or_default();
    let (object, index) = match Model::family_of(model) {
        Some(Family::Vax) => ("UART", None),
        Some(Family::Alpha) | None => ("COM1", None),
        Some(Family::Pdp11) => (CONSOLE, None),
    };
    let renamed = configuration.assignments(object, "alias").next().is_some();
    if !aliased && !loaded && !renamed {
        add(Line { object: object.to_owned(), index });
    }
    // The fourth line of QUART, and the one of UART, are the console; what they are tied to is it.
    for (object, wanted) in [("QUART", Some(3)), ("UART", None), ("UART", Some(0))] {
        let tied = configuration
            .of(object)
            .flat_map(|statement| &statement.members)
            .filter(|member| member.is("line") && member.index == wanted);
        for member in tied {
            if is_object(configuration, &member.value) {
                add(Line::whole(&member.value));
            }
        }
    }
    lines
}

/// The assignments to a member of any of these lines, in the order of the text.
fn members<'c>(configuration: &'c Configuration, lines: &[Line], key: &str) -> Vec<&'c Member> {
    let statements = configuration.statements().iter();
    let all = statements.flat_map(|s| s.members.iter().map(move |member| (s, member)));
    let of_console = all.filter(|(statement, member)| {
        member.is(key) && lines.iter().any(|line| line.is(&statement.object, member.index))
    });
    of_console.map(|(_, member)| member).collect()
}

/// Whether a value names something that is loaded, and no device of the host.
fn is_object(configuration: &Configuration, value: &str) -> bool {
    configuration.of(value).any(|statement| matches!(statement.verb, Verb::Load { .. }))
}
