//! Disk specifications: `phy:/dev/vg/root,xvda,w`, `/img/a.qcow2,qcow2,xvda`,
//! `vdev=hdc,cdrom,target=/iso/x.iso`.
//!
//! One specification may come in pieces (the words of a command line); all pieces together are one
//! disk, and positions go on counting from one piece to the next.

use std::path::PathBuf;

use thiserror::Error;

use super::model::{Disk, DiskFormat};
use super::vdev::Vdev;

/// What is wrong with a disk specification. The first part of the text is xl's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what}{} in `{spec}'", near_text(near.as_deref()))]
pub struct DiskError {
    /// What is wrong.
    pub what: DiskFault,
    /// The piece of text it is about; `None` where nothing was written at all.
    pub near: Option<String>,
    /// The whole specification.
    pub spec: String,
}

fn near_text(text: Option<&str>) -> String {
    text.map_or_else(String::new, |text| format!(": near `{text}'"))
}

/// The kinds of faults, displayed in xl's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DiskFault {
    /// There is no virtual device.
    #[error("no vdev specified")]
    NoVdev,
    /// There is no target, and the drive is not one that may be empty.
    #[error("no target specified (and device not removable)")]
    NoTarget,
    /// A parameter's value is none of its values.
    #[error("unknown value for {0}")]
    UnknownValue(&'static str),
    /// The type behind the colon of an old virtual device is neither cdrom nor disk.
    #[error("unknown deprecated type")]
    UnknownType,
    /// A parameter is given twice.
    #[error("{0} respecified")]
    Respecified(&'static str),
    /// No parameter of this name.
    #[error("unknown parameter")]
    UnknownParameter,
    /// No prefix of this name; a target with a colon needs `target=`.
    #[error("unknown deprecated disk prefix")]
    UnknownPrefix,
    /// All four positions are filled.
    #[error("too many positional parameters")]
    TooManyPositions,
    /// Not a parameter at all.
    #[error("bad disk syntax")]
    BadSyntax,
    /// The virtual device's name is none.
    #[error("unknown virtual device")]
    UnknownVdev,
    /// COLO replication, driver domains: what cannot be done here.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
}

impl DiskFault {
    /// What would have been right, where that can be said.
    #[must_use]
    pub fn expected(self) -> Option<&'static str> {
        Some(match self {
            Self::UnknownValue("format") => "raw, qcow, qcow2, vhd, qed or empty",
            Self::UnknownValue("access") => "r, ro, w or rw",
            Self::UnknownValue("type") | Self::UnknownType => "cdrom or disk",
            Self::UnknownValue("backendtype") => "phy, tap, qdisk or standalone",
            Self::UnknownValue("specification") => "xen or virtio",
            Self::NoVdev => "TARGET,FORMAT,VDEV[,ACCESS], with VDEV such as xvda or hdc",
            Self::UnknownVdev => "xvda, sda, hda and so on, dNpM or a number",
            Self::UnknownPrefix => "target=... at the end for a target with a colon",
            _ => return None,
        })
    }

    /// Whether xl's own parser finds it (exit 1); the rest is found when the domain is built
    /// (exit 3).
    #[must_use]
    pub const fn found_by_xl_parser(self) -> bool {
        !matches!(self, Self::UnknownVdev | Self::Unsupported(_))
    }
}

/// Reads one disk from its pieces.
///
/// # Errors
/// Every fault that was found, never an empty list.
pub fn parse(pieces: &[&str]) -> Result<Disk, Vec<DiskError>> {
    let mut reader = Reader::default();
    for piece in pieces {
        reader.spec = piece;
        reader.piece(piece);
        if !reader.errors.is_empty() {
            break;
        }
    }
    reader.finish()
}

#[derive(Default)]
struct Reader<'p> {
    spec: &'p str,
    errors: Vec<DiskError>,
    target: Option<String>,
    format: Option<DiskFormat>,
    vdev: Option<String>,
    access_given: bool,
    read_only: bool,
    cdrom: bool,
    direct_io_safe: bool,
    discard: Option<bool>,
    backend_type: Option<String>,
    specification: Option<String>,
    backend: Option<String>,
    script: Option<String>,
    colo: bool,
    prefixed: bool,
}

/// Whether reading goes on behind a piece of text.
enum Step {
    Taken(usize),
    Stop,
}

const SCRIPT_PREFIXES: &[&str] = &["iscsi", "nbd", "enbd", "drbd"];
const FORMAT_PREFIXES: &[&str] = &["raw", "qcow", "qcow2", "vhd"];
const STRIPPED_PREFIXES: &[&str] = &["tapdisk", "tap", "tap2", "aio", "ioemu", "file", "phy"];
const VALUED: &[&str] = &[
    "format",
    "access",
    "backend",
    "backendtype",
    "specification",
    "vdev",
    "script",
    "colo-host",
    "colo-port",
    "colo-export",
    "active-disk",
    "hidden-disk",
];
const FLAGS: &[&str] = &[
    "cdrom",
    "direct-io-safe",
    "discard",
    "no-discard",
    "colo",
    "no-colo",
    "trusted",
    "untrusted",
];

impl<'p> Reader<'p> {
    fn fault(&mut self, what: DiskFault, near: &str) {
        self.file(what, Some(near.into()));
    }

    fn file(&mut self, what: DiskFault, near: Option<String>) {
        self.errors.push(DiskError { what, near, spec: self.spec.into() });
    }

    fn piece(&mut self, mut rest: &'p str) {
        loop {
            rest = rest.trim_start_matches([' ', '\t', '\n']);
            if rest.is_empty() {
                return;
            }
            match self.parameter(rest) {
                Step::Taken(length) => rest = &rest[length..],
                Step::Stop => return,
            }
        }
    }

    /// Takes one parameter off the front; the longest reading of the text wins.
    fn parameter(&mut self, rest: &'p str) -> Step {
        if let Some(step) = self.prefix(rest) {
            return step;
        }
        if let Some(target) = rest.strip_prefix("target=") {
            let target = target.strip_suffix(',').unwrap_or(target);
            self.set_target(target);
            return Step::Stop;
        }
        let word_end = rest.find([',', '=']).unwrap_or(rest.len());
        let word = &rest[..word_end];
        let assigns = rest[word_end..].starts_with('=');
        if assigns && let Some(step) = self.assignment(rest, word) {
            return step;
        }
        if assigns && word.is_empty() {
            // Alone at the very end it passes unnoticed, as in xl.
            if rest.len() > 1 {
                self.fault(DiskFault::BadSyntax, rest);
            }
            return Step::Stop;
        }
        // In front of an equals sign that assigns nothing, the word still counts as one.
        let comma = rest[word_end..].starts_with(',');
        let taken = Step::Taken(word_end + usize::from(comma));
        if FLAGS.contains(&word) {
            self.flag(word);
            return taken;
        }
        if self.position(word) { taken } else { Step::Stop }
    }

    /// `word:` in front of the rest: a deprecated prefix, or a mistake.
    fn prefix(&mut self, rest: &'p str) -> Option<Step> {
        let colon = rest.find(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit()))?;
        let word = &rest[..colon];
        if !rest[colon..].starts_with(':') || !word.starts_with(|c: char| c.is_ascii_lowercase()) {
            return None;
        }
        if FORMAT_PREFIXES.contains(&word) {
            self.set_format(word);
        } else if SCRIPT_PREFIXES.contains(&word) {
            let script = format!("block-{word}");
            if self.script.as_ref().is_some_and(|s| !s.is_empty()) {
                self.fault(DiskFault::Respecified("script"), &script);
            } else {
                self.script = Some(script);
            }
        } else if !STRIPPED_PREFIXES.contains(&word) {
            let behind = rest[colon + 1..].chars().next();
            if behind.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit()) {
                return None;
            }
            self.fault(DiskFault::UnknownPrefix, &rest[..=colon]);
            return Some(Step::Stop);
        }
        self.prefixed = true;
        Some(Step::Taken(colon + 1))
    }

    /// `word=value`; `None` where it assigns nothing.
    fn assignment(&mut self, rest: &'p str, word: &'p str) -> Option<Step> {
        let value_at = word.len() + 1;
        let value_end = rest[value_at..].find(',').map_or(rest.len(), |comma| value_at + comma);
        let value = &rest[value_at..value_end];
        let behind = value_end + usize::from(value_end < rest.len());
        if word == "devtype" {
            self.set_type(value, &rest[..behind]);
            return Some(Step::Taken(behind));
        }
        if VALUED.contains(&word) {
            self.set(word, value);
            return Some(Step::Taken(behind));
        }
        if word == "grant_usage" && matches!(value, "0" | "1") {
            return Some(Step::Taken(behind));
        }
        let tail = word.strip_prefix(|c: char| c.is_ascii_lowercase())?;
        let named = tail.bytes().all(|b| matches!(b, b'-' | b'a'..=b'z' | b'0'..=b'9'));
        let first = value.chars().next().filter(|_| named)?;
        // xl takes one character for the value and goes on behind it.
        let end = value_at + first.len_utf8();
        let end = end + usize::from(rest[end..].starts_with(','));
        self.fault(DiskFault::UnknownParameter, &rest[..end]);
        Some(Step::Taken(end))
    }

    fn set(&mut self, word: &str, value: &str) {
        match word {
            "format" => self.set_format(value),
            "access" => self.set_access(value),
            "vdev" => self.set_vdev(value),
            "backendtype" => {
                const KNOWN: &[&str] = &["phy", "tap", "qdisk", "standalone"];
                let slot = self.backend_type.take();
                self.backend_type = self.set_word(slot, "backendtype", value, KNOWN);
            }
            "specification" => {
                let slot = self.specification.take();
                self.specification =
                    self.set_word(slot, "specification", value, &["xen", "virtio"]);
            }
            "backend" | "script" => {
                let (slot, name) = match word {
                    "backend" => (&mut self.backend, "backend"),
                    _ => (&mut self.script, "script"),
                };
                if slot.as_ref().is_some_and(|old| !old.is_empty()) {
                    self.fault(DiskFault::Respecified(name), value);
                } else {
                    *slot = Some(value.into());
                }
            }
            // What is left belongs to COLO.
            _ => self.colo = true,
        }
    }

    fn set_type(&mut self, value: &str, written: &str) {
        match value {
            "cdrom" => self.cdrom = true,
            "disk" => self.cdrom = false,
            _ => self.fault(DiskFault::UnknownValue("type"), written),
        }
    }

    /// A word out of a list, which may be repeated but not changed.
    fn set_word(
        &mut self,
        old: Option<String>,
        name: &'static str,
        value: &str,
        known: &[&str],
    ) -> Option<String> {
        if !known.contains(&value) {
            self.fault(DiskFault::UnknownValue(name), value);
        } else if old.as_deref().is_some_and(|old| old != value) {
            self.fault(DiskFault::Respecified(name), value);
        } else {
            return Some(value.into());
        }
        old
    }

    fn set_target(&mut self, value: &str) {
        if self.target.as_ref().is_some_and(|old| !old.is_empty()) {
            self.fault(DiskFault::Respecified("target"), value);
        } else {
            self.target = Some(value.into());
        }
    }

    fn set_vdev(&mut self, value: &str) {
        if self.vdev.as_ref().is_some_and(|old| !old.is_empty()) {
            self.fault(DiskFault::Respecified("vdev"), value);
        } else {
            self.vdev = Some(value.into());
        }
    }

    fn set_format(&mut self, value: &str) {
        let text = if value.is_empty() { "raw" } else { value };
        match DiskFormat::parse(text) {
            None => self.fault(DiskFault::UnknownValue("format"), value),
            Some(format) if self.format.is_some_and(|old| old != format) => {
                self.fault(DiskFault::Respecified("format"), value);
            }
            some => self.format = some,
        }
    }

    fn set_access(&mut self, value: &str) {
        match value {
            "r" | "ro" => self.read_only = true,
            "w" | "rw" | "" => self.read_only = false,
            _ => self.fault(DiskFault::UnknownValue("access"), value),
        }
    }

    fn flag(&mut self, word: &str) {
        match word {
            "cdrom" => self.cdrom = true,
            "direct-io-safe" => self.direct_io_safe = true,
            "discard" => self.discard = Some(true),
            "no-discard" => self.discard = Some(false),
            "colo" => self.colo = true,
            // Nothing replicates here, and every frontend is trusted alike.
            _ => {}
        }
    }

    /// A word without a name: target, format, vdev, access in turn. False ends the reading.
    fn position(&mut self, word: &str) -> bool {
        if !self.errors.is_empty() {
            // One mistake shifts the positions; more messages would only confuse.
        } else if self.target.is_none() {
            self.target = Some(word.into());
        } else if !self.prefixed && self.format.is_none() {
            if self.target.as_deref() == Some("") && self.vdev_with_type(word) {
                self.format = Some(DiskFormat::Empty);
            } else {
                self.set_format(word);
            }
        } else if self.vdev.is_none() {
            if !self.vdev_with_type(word) {
                self.set_vdev(word);
            }
        } else if !self.access_given {
            self.access_given = true;
            self.set_access(word);
        } else {
            self.fault(DiskFault::TooManyPositions, word);
            return false;
        }
        true
    }

    /// `hdc:cdrom`, the old way to name the type; false where there is no colon.
    fn vdev_with_type(&mut self, word: &str) -> bool {
        let Some((vdev, kind)) = word.rsplit_once(':') else { return false };
        self.set_vdev(vdev);
        match kind {
            "cdrom" => self.cdrom = true,
            "disk" => self.cdrom = false,
            _ => self.fault(DiskFault::UnknownType, kind),
        }
        true
    }

    fn finish(mut self) -> Result<Disk, Vec<DiskError>> {
        let target = self.target.take();
        let has_target = target.as_ref().is_some_and(|t| !t.is_empty());
        if self.errors.is_empty() {
            if self.vdev.is_none() {
                self.file(DiskFault::NoVdev, None);
            }
            if self.errors.is_empty() && !self.cdrom && !has_target {
                self.file(DiskFault::NoTarget, None);
            }
            if self.errors.is_empty() && self.colo {
                self.file(DiskFault::Unsupported("replication with COLO"), None);
            }
            let domain = self.backend.clone().unwrap_or_default();
            let ours = matches!(domain.as_str(), "" | "0" | "Domain-0");
            if self.errors.is_empty() && !ours {
                self.fault(DiskFault::Unsupported("a disk of another domain"), &domain);
            }
        }
        let name = self.vdev.take().unwrap_or_default();
        let vdev = Vdev::parse(&name);
        if vdev.is_none() && self.errors.is_empty() {
            self.fault(DiskFault::UnknownVdev, &name);
        }
        let Some(vdev) = vdev.filter(|_| self.errors.is_empty()) else { return Err(self.errors) };
        let format = self.format.unwrap_or(DiskFormat::Raw);
        let format = if has_target { format } else { DiskFormat::Empty };
        Ok(Disk {
            target: target.filter(|_| has_target && format != DiskFormat::Empty).map(PathBuf::from),
            format,
            vdev: name,
            bus: vdev.bus,
            index: vdev.index,
            vdev_number: vdev.number,
            readwrite: !self.read_only && !self.cdrom,
            cdrom: self.cdrom,
            discard: self.discard,
            direct_io_safe: self.direct_io_safe,
            backendtype: self.backend_type,
            script: self.script.filter(|script| !script.is_empty()),
        })
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
