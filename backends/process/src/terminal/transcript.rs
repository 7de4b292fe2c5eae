//! The last lines that an emulator printed, and what they mean.

use std::collections::VecDeque;

use kxl_domain::guest::{MARKER, clean};

use crate::profile::{Meaning, Rule};

/// Lines that are kept; SIMH says how it stopped in the one before its prompt.
const LINES: usize = 12;

/// Bytes of what is told of them at most.
const WORDS_MAX: usize = 1024;

/// Bytes of a line that are kept: a guest may print without ever ending a line.
const WIDTH: usize = 256;

/// The last lines, without their ends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transcript {
    whole: VecDeque<Vec<u8>>,
    current: Vec<u8>,
    /// Bytes of the current line that were not kept.
    overlong: bool,
}

impl Transcript {
    /// Takes what was printed next. How it is cut into pieces makes no difference.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                // A line begins anew after CR; terminals overwrite.
                b'\r' | 0 => {}
                _ if self.current.len() < WIDTH => self.current.push(byte),
                _ => self.overlong = true,
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.current);
        self.overlong = false;
        if line.is_empty() {
            return;
        }
        if self.whole.len() == LINES {
            self.whole.pop_front();
        }
        self.whole.push_back(line);
    }

    /// Whether the last thing printed is this prompt, on a line of its own.
    pub(crate) fn at_prompt(&self, prompt: &str) -> bool {
        !self.overlong && self.current == prompt.as_bytes()
    }

    /// What the last line that begins with a rule's text means.
    pub(crate) fn meaning(&self, rules: &[Rule]) -> Option<Meaning> {
        let lines = std::iter::once(&self.current).chain(self.whole.iter().rev());
        lines
            .filter_map(|line| rules.iter().find(|rule| line.starts_with(rule.start.as_bytes())))
            .map(|rule| rule.means)
            .next()
    }

    /// Forgets everything: a new run begins.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether nothing was printed.
    pub(crate) fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.current.is_empty()
    }

    /// The last few lines for people, without what is meant for the host.
    pub(crate) fn words(&self, prompt: Option<&str>) -> String {
        let lines: Vec<_> = self
            .whole
            .iter()
            .chain(std::iter::once(&self.current))
            .map(|line| String::from_utf8_lossy(line).trim().to_owned())
            .filter(|line| !line.is_empty() && Some(line.as_str()) != prompt.map(str::trim))
            // What is said to the host by a marked line is heard elsewhere.
            .filter(|line| !line.starts_with(MARKER.trim_end()))
            .collect();
        // Mostly a guest's: it goes into records and onto terminals.
        clean(&lines[lines.len().saturating_sub(5)..].join("; "), WORDS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;

    fn rules() -> Vec<Rule> {
        Profile::load("simh", std::path::Path::new("/nonexistent")).unwrap().exit.rule
    }

    fn after(bytes: &[u8]) -> Transcript {
        let mut transcript = Transcript::default();
        transcript.feed(bytes);
        let mut pieces = Transcript::default();
        bytes.chunks(1).for_each(|piece| pieces.feed(piece));
        assert_eq!(format!("{pieces:?}"), format!("{transcript:?}"));
        transcript
    }

    const BANNER: &[u8] = b"\r\nPDP-11 simulator V3.8-1\r\nN=000001\r\nN=000002\r\n";
    const STOPPED: &[u8] = b"\r\nSimulation stopped, PC: 001034 (TSTB @#177560)\r\nsim> ";
    const HALTED: &[u8] = b"\r\nHALT instruction, PC: 001062 (TSTB @#177564)\r\nsim> ";

    #[test]
    fn recorded_ends_are_understood() {
        let halted = after(&[BANNER, HALTED].concat());
        assert!(halted.at_prompt("sim> "));
        assert_eq!(halted.meaning(&rules()), Some(Meaning::Poweroff));
        let stopped = after(&[BANNER, STOPPED].concat());
        assert!(stopped.at_prompt("sim> "));
        assert_eq!(stopped.meaning(&rules()), Some(Meaning::Stopped));
        let fault = after(b"\r\nException in interrupt or exception, PC: 00000001 (HALT)\r\nsim> ");
        assert_eq!(fault.meaning(&rules()), Some(Meaning::Crash));
        let left = after(b"sim> quit\r\nGoodbye\r\n");
        assert_eq!(left.meaning(&rules()), Some(Meaning::Poweroff));
    }

    #[test]
    fn what_is_meant_for_the_host_is_no_reason_of_an_end() {
        let text = b"disk full\r\n@@kxl-event id=alert text=17:03:22\r\nbye\r\n";
        assert_eq!(after(text).words(None), "disk full; bye");
    }

    #[test]
    fn the_last_match_counts() {
        let both = after(&[HALTED, b"cont\r\n", BANNER, STOPPED].concat());
        assert_eq!(both.meaning(&rules()), Some(Meaning::Stopped));
        assert_eq!(after(BANNER).meaning(&rules()), None);
    }

    #[test]
    fn a_prompt_with_something_typed_after_it_is_no_prompt() {
        let typed = after(&[STOPPED, b"cont"].concat());
        assert!(!typed.at_prompt("sim> "));
        assert!(!after(BANNER).at_prompt("sim> "));
        assert!(!after(b"my sim> ").at_prompt("sim> "));
    }

    #[test]
    fn an_endless_line_is_kept_in_part() {
        let mut transcript = after(&[b'x'; 100_000]);
        assert!(transcript.current.len() <= WIDTH);
        transcript.feed(HALTED);
        assert_eq!(transcript.meaning(&rules()), Some(Meaning::Poweroff));
        for _ in 0..1000 {
            transcript.feed(b"line\r\n");
        }
        assert!(transcript.whole.len() <= LINES);
    }

    #[test]
    fn people_see_the_last_lines_without_the_prompt() {
        let halted = after(&[BANNER, HALTED].concat());
        assert_eq!(
            halted.words(Some("sim> ")),
            "PDP-11 simulator V3.8-1; N=000001; N=000002; \
             HALT instruction, PC: 001062 (TSTB @#177564)"
        );
    }
}
