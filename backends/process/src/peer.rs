//! Whose a connection from this host is.

use std::fs;
use std::net::{IpAddr, SocketAddr};

/// State `ESTABLISHED` in `/proc/net/tcp` (proc(5)): its socket is held by somebody.
const ESTABLISHED: &str = "01";

/// Whether the other end of a connection is a socket of our own user's or of root's. False also
/// where that cannot be found out.
#[must_use]
pub fn is_ours(peer: SocketAddr, local: SocketAddr) -> bool {
    let user = nix::unistd::geteuid().as_raw();
    let table = |file: &str| fs::read_to_string(file).unwrap_or_default();
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .find_map(|file| user_of(&table(file), peer, local))
        .is_some_and(|uid| uid == 0 || uid == user)
}

/// The user of the socket that is bound to `end` and connected to `other`.
fn user_of(table: &str, end: SocketAddr, other: SocketAddr) -> Option<u32> {
    let of_line = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (from, to, state) = (fields.next()?, fields.next()?, fields.next()?);
        let is_it = is(from, end) && is(to, other) && state == ESTABLISHED;
        is_it.then(|| fields.nth(3)?.parse().ok()).flatten()
    };
    table.lines().skip(1).find_map(of_line)
}

/// Whether the kernel's words for an address mean this one, be it of the fourth version inside the
/// sixth.
fn is(words: &str, address: SocketAddr) -> bool {
    let shown = |bytes: &[u8]| -> String {
        let word = |chunk: &[u8]| {
            let chunk: [u8; 4] = chunk.try_into().unwrap_or_default();
            format!("{:08X}", u32::from_ne_bytes(chunk))
        };
        bytes.chunks(4).map(word).collect()
    };
    let Some((ip, port)) = words.split_once(':') else { return false };
    let same = match address.ip() {
        IpAddr::V4(four) => {
            ip == shown(&four.octets()) || ip == shown(&four.to_ipv6_mapped().octets())
        }
        IpAddr::V6(six) => ip == shown(&six.octets()),
    };
    same && u16::from_str_radix(port, 16) == Ok(address.port())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_of_our_own_is_ours_until_it_is_closed() {
        for from in ["127.0.0.1", "::ffff:127.0.0.1"] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let client = match TcpStream::connect((from, port)) {
                Ok(client) => client,
                // A host without the sixth version.
                Err(_) if from.contains(':') => continue,
                Err(error) => panic!("{error}"),
            };
            let (stream, peer) = listener.accept().unwrap();
            let local = stream.local_addr().unwrap();
            assert!(is_ours(peer, local), "{from}");
            drop(client);
            assert!(!is_ours(peer, local), "a socket that nobody holds is root's in the table");
        }
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn the_user_is_that_of_the_other_end() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \u{20}  0: 0100007F:2713 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n\
            \u{20}  1: 0100007F:9C40 0100007F:2713 01 00000000:00000000 00:00000000 00000000 65534        0 4712 1 0 100 0 0 10 0\n\
            \u{20}  2: 0100007F:9C41 0100007F:2713 05 00000000:00000000 00:00000000 00000000     0        0 0 1 0 100 0 0 10 0\n\
            \u{20}  3: 0000000000000000FFFF00000100007F:9C42 0000000000000000FFFF00000100007F:2713 01 00000000:00000000 00:00000000 00000000  1000        0 4713 1 0 100 0 0 10 0\n\
            rubbish\n";
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(user_of(table, at(40000), at(10003)), Some(65534));
        assert_eq!(user_of(table, at(40001), at(10003)), None, "nobody holds it any more");
        assert_eq!(user_of(table, at(40002), at(10003)), Some(1000));
        assert_eq!(user_of(table, at(40003), at(10003)), None);
    }
}
