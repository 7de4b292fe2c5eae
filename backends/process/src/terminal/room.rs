//! How large a state can get that an emulator writes into a file of its own.

use std::fs;
use std::path::Path;

use kxl_backend::Process;

/// Bytes that the state of this process takes at most.
///
/// What it has written is memory of its machine, which goes into the file as it is, untouched
/// parts left out; but variables of the program itself, the registers among them, are `growth`
/// times as large there. `None`: the process is gone, or cannot be looked at.
pub(super) fn bound(process: &Process, growth: u64) -> Option<u64> {
    let proc = Path::new("/proc").join(process.identity().pid.to_string());
    let status = fs::read_to_string(proc.join("status")).ok()?;
    let maps = fs::read_to_string(proc.join("maps")).ok()?;
    let exe = fs::read_link(proc.join("exe")).ok()?;
    let own = variables(&maps, &exe.to_string_lossy());
    Some(written(&status)? + own * growth.saturating_sub(1))
}

/// Bytes of memory that the process has at most written, shared memory included.
pub(super) fn resident(process: &Process) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.identity().pid)).ok()?;
    let kib = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some((kib("VmRSS:")? + kib("VmSwap:").unwrap_or(0)) * 1024)
}

/// Bytes of memory that the process has written, by its status.
fn written(status: &str) -> Option<u64> {
    let kib = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some((kib("RssAnon:")? + kib("VmSwap:").unwrap_or(0)) * 1024)
}

/// Bytes of the program's own variables: what is writable of its file, and what the kernel has put
/// right behind that for those that begin as zero.
fn variables(maps: &str, exe: &str) -> u64 {
    let mut total = 0;
    let mut end_of_file = None;
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let range = words.next().and_then(|range| range.split_once('-'));
        let Some((from, to)) = range.and_then(|(from, to)| Some((hex(from)?, hex(to)?))) else {
            continue;
        };
        let writable = words.next().is_some_and(|rights| rights.starts_with("rw"));
        let name = words.nth(3);
        if !writable {
            continue;
        }
        if name == Some(exe) {
            end_of_file = Some(to);
        } else if name.is_some() || end_of_file != Some(from) {
            continue;
        }
        total += to - from;
    }
    total
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_counts_also_where_it_was_swapped_out() {
        let status = "VmData:\t   11160 kB\nRssAnon:\t    2524 kB\nVmSwap:\t      76 kB\n";
        assert_eq!(written(status), Some(2600 * 1024));
        assert_eq!(written("Name:\tkthread\n"), None);
    }

    #[test]
    fn only_the_variables_of_the_program_itself_grow() {
        let maps = "\
            5000-6000 r-xp 00000000 fe:00 1  /usr/bin/vax\n\
            6000-8000 rw-p 00001000 fe:00 1  /usr/bin/vax\n\
            8000-b000 rw-p 00000000 00:00 0\n\
            b000-c000 rw-p 00000000 00:00 0\n\
            d000-ff000 rw-p 00000000 00:00 0  [heap]\n\
            100000-101000 rw-p 00001000 fe:00 2  /lib/libc.so\n\
            101000-109000 rw-p 00000000 00:00 0\n";
        assert_eq!(variables(maps, "/usr/bin/vax"), 0x5000);
        assert_eq!(variables(maps, "/usr/bin/other"), 0);
    }
}
