//! What an emulator's own log says about its licence.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use kxl_backend::plain;
use kxl_domain::charon::{licence_word, version};

use crate::view::tame;

/// How much is read of each end of a log: the release stands at its head, news at its tail.
const HEAD: u64 = 64 << 10;
const TAIL: u64 = 256 << 10;

/// The first release whose log tells of the licence in these words.
const SINCE: (u32, u32) = (4, 9);

/// How many lines are told.
const LINES: usize = 3;

/// The last lines about the licence, for a log of release 4.9 or later.
pub(super) fn licence(log: &Path) -> Vec<String> {
    ends(log).map(|(head, tail)| told(&head, &tail)).unwrap_or_default()
}

fn ends(log: &Path) -> io::Result<(String, String)> {
    let mut file = plain::open(log)?;
    let length = file.metadata()?.len();
    let mut head = Vec::new();
    Read::by_ref(&mut file).take(HEAD).read_to_end(&mut head)?;
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((text(head), text(tail)))
}

fn told(head: &str, tail: &str) -> Vec<String> {
    if head.lines().find_map(version).is_none_or(|release| release < SINCE) {
        return Vec::new();
    }
    let mut lines: Vec<String> = tail
        .lines()
        .filter(|line| licence_word(line).is_some())
        .map(|line| tame::line(line.trim()).chars().take(300).collect())
        .collect();
    lines.drain(..lines.len().saturating_sub(LINES));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_about_the_licence_are_told_from_release_4_9_on() {
        let tail = "License key 1 found\ndisk found\nLicense communication lost\n\
                    License communication restored\x1b[2J\nLicense expires soon\n";
        let lines = told("Charon-AXP V 4.9 B 1\n", tail);
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[1], "License communication restored [2J");
        assert!(told("Charon-AXP V 4.8 B 1\n", tail).is_empty());
        assert!(told("", tail).is_empty());
    }

    #[test]
    fn a_log_that_is_none_says_nothing() {
        assert!(licence(Path::new("/dev/zero")).is_empty());
        assert!(licence(Path::new("/nonexistent")).is_empty());
        let fifo = std::env::temp_dir().join(format!("kxl-log-{}", std::process::id()));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(licence(&fifo).is_empty());
        std::fs::remove_file(&fifo).unwrap();
    }
}
