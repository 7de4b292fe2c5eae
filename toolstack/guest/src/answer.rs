//! The host's answer: `ok REFERENCE`, or `no REFERENCE WHY`.

/// What the host has made of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Taken,
    Refused(String),
}

/// Reads the answers of a port.
#[derive(Debug)]
pub(crate) struct Answers<'a> {
    reference: &'a str,
    line: Vec<u8>,
}

/// A longer line is none of the host's.
const LONGEST: usize = 256;

impl<'a> Answers<'a> {
    pub(crate) const fn new(reference: &'a str) -> Self {
        Self { reference, line: Vec::new() }
    }

    /// Takes bytes; the answer to our message, if it is among them. Others were for somebody who
    /// has not waited for them.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Option<Answer> {
        for byte in bytes {
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                if let Some(answer) = self.read(&String::from_utf8_lossy(&line)) {
                    return Some(answer);
                }
            } else if self.line.len() < LONGEST {
                self.line.push(*byte);
            }
        }
        None
    }

    fn read(&self, line: &str) -> Option<Answer> {
        let (word, rest) = line.trim_end().split_once(' ')?;
        let (reference, why) = rest.split_once(' ').unwrap_or((rest, ""));
        match word {
            _ if reference != self.reference => None,
            "ok" => Some(Answer::Taken),
            "no" => {
                let why = why.chars().filter(|c| !c.is_control()).collect();
                Some(Answer::Refused(why))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_this_message_counts() {
        let mut answers = Answers::new("a1");
        assert_eq!(answers.push(b"ok a2\nno a2 x\nok\nok a1"), None);
        assert_eq!(answers.push(b"\n"), Some(Answer::Taken));
        assert_eq!(answers.push(b"no a1 bad\x1bline\n"), Some(Answer::Refused("badline".into())));
        assert_eq!(answers.push(&[b'x'; 5000]), None);
        assert!(answers.line.len() <= LONGEST);
        assert_eq!(answers.push(b"\nok a1\r\n"), Some(Answer::Taken));
    }
}
