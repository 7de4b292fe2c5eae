//! The network interfaces of the host that a configuration takes for its machine.

use super::Configuration;

/// How an interface is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NicKind {
    /// `packet_port`: a whole interface of the host.
    Packet,
    /// `tap_port`: a tap.
    Tap,
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// The interface of the host, as the configuration names it.
    pub interface: String,
    /// How it is taken.
    pub kind: NicKind,
    /// The name that the port was loaded under.
    pub port: String,
    /// The emulated device that uses the port.
    pub device: Option<String>,
    /// Where the interface's name stands in the text.
    pub span: std::ops::Range<usize>,
}

impl Nic {
    /// Whether the interface is named in the way of Windows, where there are none of Linux's names.
    #[must_use]
    pub fn is_windows(&self) -> bool {
        let lower = self.interface.to_ascii_lowercase();
        self.interface.contains(['\\', ':'])
            || lower.starts_with("connection")
            || lower.contains("local area")
            || self.interface.contains(char::is_whitespace)
    }
}

/// The word for an interface that is there and not to be used.
const DISABLED: &str = "(disabled)";

/// The interfaces in the order of their ports; a port that is switched off has none.
pub(super) fn nics(configuration: &Configuration) -> Vec<Nic> {
    let mut nics: Vec<Nic> = Vec::new();
    for statement in configuration.statements() {
        let kind = match statement {
            s if s.loads("packet_port") => NicKind::Packet,
            s if s.loads("tap_port") => NicKind::Tap,
            _ => continue,
        };
        let port = &statement.object;
        // A later `set` of the port overrules what it was loaded with.
        let Some(given) = configuration.assignments(port, "interface").last() else { continue };
        let known = nics.iter().any(|nic| nic.port.eq_ignore_ascii_case(port));
        if known || given.value.is_empty() || given.value.eq_ignore_ascii_case(DISABLED) {
            continue;
        }
        let mut users = configuration.statements().iter().filter(|other| {
            !other.object.eq_ignore_ascii_case(port)
                && other.value("interface").is_some_and(|value| value.eq_ignore_ascii_case(port))
        });
        nics.push(Nic {
            interface: given.value.clone(),
            kind,
            port: port.clone(),
            device: users.next_back().map(|user| user.object.clone()),
            span: given.span.clone(),
        });
    }
    nics
}
