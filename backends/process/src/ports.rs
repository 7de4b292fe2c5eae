//! TCP ports of this host: one that is free, and who has one that is not.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

/// State `LISTEN` in `/proc/net/tcp` (proc(5)).
const LISTEN: &str = "0A";

/// A port of 127.0.0.1 that nobody uses at the moment, and that is none of these.
///
/// # Errors
/// When the host has none.
pub(crate) fn free(but: &[u16]) -> io::Result<u16> {
    // Those that are not wanted stay open until there is another one, so that each is offered once.
    let mut passed_over = Vec::new();
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        if !but.contains(&port) {
            return Ok(port);
        }
        passed_over.push(listener);
    }
}

/// Listens on this port of 127.0.0.1, non-blocking. An address on which connections of an earlier
/// listener are still dying away is taken.
///
/// # Errors
/// When it is taken; who has it is found out by [`holder`].
pub(crate) fn listen(port: u16) -> io::Result<TcpListener> {
    // The standard library sets SO_REUSEADDR.
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The sockets that listen on a port, by number of their inode.
fn listeners(table: &str, port: u16) -> Vec<u64> {
    let of_line = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (_, number) = fields.next()?.rsplit_once(':')?;
        let listens = u16::from_str_radix(number, 16) == Ok(port) && fields.nth(1)? == LISTEN;
        let inode = fields.nth(5)?.parse().ok()?;
        listens.then_some(inode)
    };
    table.lines().skip(1).filter_map(of_line).collect()
}

fn all_listeners(port: u16) -> Vec<u64> {
    let table = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let four = listeners(&table("/proc/net/tcp"), port);
    four.into_iter().chain(listeners(&table("/proc/net/tcp6"), port)).collect()
}

/// Whether this process has one of these sockets open; `None` where its descriptors may not be
/// looked at.
fn has(pid: i32, inodes: &[u64]) -> Option<bool> {
    let names: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let mut fds = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    Some(fds.any(|fd| {
        let target = fd.and_then(|fd| fs::read_link(fd.path())).unwrap_or_default();
        names.iter().any(|name| target == Path::new(name))
    }))
}

/// Whether this process listens on a port; also true where that cannot be found out and somebody
/// does.
pub(crate) fn listens(pid: i32, port: u16) -> bool {
    let inodes = all_listeners(port);
    !inodes.is_empty() && has(pid, &inodes).unwrap_or(true)
}

/// Whether we or a monitor listen on a port.
pub(crate) fn is_a_monitors(port: u16) -> bool {
    let own = i32::try_from(std::process::id());
    holding(&all_listeners(port)).is_some_and(|pid| Ok(pid) == own || domain_of(pid).is_some())
}

/// The process that has one of these sockets, if it may be looked at.
fn holding(inodes: &[u64]) -> Option<i32> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.find(|pid| has(*pid, inodes) == Some(true))
}

/// Who listens on a port, for people: the program's name and its pid; `None` when nobody does.
pub(crate) fn holder(port: u16) -> Option<String> {
    let inodes = all_listeners(port);
    if inodes.is_empty() {
        return None;
    }
    let found = holding(&inodes).map(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let domain = domain_of(pid).map(|name| format!(" of domain \"{name}\""));
        format!("{}{} (pid {pid})", name.trim_end(), domain.unwrap_or_default())
    });
    Some(found.unwrap_or_else(|| "a program of another user".to_owned()))
}

/// The domain to which a process belongs: it is its monitor, or the monitor's child.
fn domain_of(pid: i32) -> Option<String> {
    let parent = kxl_backend::process::Stat::read(pid).ok()?.ppid;
    [pid, parent].into_iter().find_map(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let mut words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let program = words.next()?;
        let name = words.nth(2).filter(|name| !name.is_empty())?;
        program.ends_with("kxl-monitor").then(|| name.into_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernels_table_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \u{20}  0: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n\
            \u{20}  1: 0100007F:0050 0100007F:9000 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0\n\
            rubbish\n";
        assert_eq!(listeners(table, 80), [4711]);
        assert_eq!(listeners(table, 81), [0; 0]);
    }

    #[test]
    fn a_port_that_is_meant_for_somebody_is_not_given_away() {
        let half: Vec<u16> = (1..=u16::MAX).filter(|port| port / 2 % 2 == 0).collect();
        for _ in 0..32 {
            assert!(!half.contains(&free(&half).unwrap()));
        }
    }

    #[test]
    fn the_holder_of_a_port_is_named_and_a_free_one_has_none() {
        let port = free(&[]).unwrap();
        let us = i32::try_from(std::process::id()).unwrap();
        assert!(!listens(us, port));
        let listener = listen(port).unwrap();
        assert!(listens(us, port) && !listens(1, port), "it is ours alone");
        let named = holder(port).unwrap();
        assert!(named.ends_with(&format!("(pid {us})")), "{named}");
        listen(port).unwrap_err();
        drop(listener);
        assert_eq!(holder(port), None);
    }
}
