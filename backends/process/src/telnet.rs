//! The telnet protocol (RFC 854, with the options of RFC 856 to 858), as far as a console needs it:
//! bytes in, bytes out; pure.
//!
//! Both sides are here: the client of an emulator's console line, and the side that offers a
//! console to an operator's telnet or putty. Negotiation answers a change only, so that two that
//! follow the same rule come to rest.

use std::collections::BTreeSet;

const SE: u8 = 240;
const SB: u8 = 250;
const WILL: u8 = 251;
const WONT: u8 = 252;
const DO: u8 = 253;
const DONT: u8 = 254;
const IAC: u8 = 255;

/// Eight bits, unchanged.
const BINARY: u8 = 0;
/// The other side shows what is typed.
const ECHO: u8 = 1;
/// Both may send at any time.
const SUPPRESS_GO_AHEAD: u8 = 3;

/// Which side of a connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// Of a terminal, towards an emulator's line.
    Client,
    /// Of a line, towards an operator's terminal.
    Server,
}

/// Where in a command the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Data,
    Return,
    Command,
    Option(u8),
    Sub,
    SubCommand,
}

/// One connection.
#[derive(Debug)]
pub struct Telnet {
    side: Side,
    at: At,
    /// Options that we have on.
    ours: BTreeSet<u8>,
    /// Options that the other side has on.
    theirs: BTreeSet<u8>,
}

impl Telnet {
    /// The client of an emulator's line. It waits for what the other side proposes.
    #[must_use]
    pub const fn client() -> Self {
        Self { side: Side::Client, at: At::Data, ours: BTreeSet::new(), theirs: BTreeSet::new() }
    }

    /// A line for an operator's terminal, and what to send it first: it shall leave echo and
    /// editing of lines to the guest.
    #[must_use]
    pub fn server() -> (Self, Vec<u8>) {
        let ours = [ECHO, SUPPRESS_GO_AHEAD, BINARY];
        let proposals = ours.iter().flat_map(|option| [IAC, WILL, *option]);
        let first = proposals.chain([IAC, DO, BINARY]).collect();
        let telnet = Self { side: Side::Server, ours: ours.into(), ..Self::client() };
        (telnet, first)
    }

    /// Takes what has come: the data go into `data`, what is to be sent back into `reply`, which
    /// grows by no more than what has come.
    pub fn take(&mut self, bytes: &[u8], data: &mut Vec<u8>, reply: &mut Vec<u8>) {
        for byte in bytes {
            self.at = self.next(*byte, data, reply);
        }
    }

    fn next(&mut self, byte: u8, data: &mut Vec<u8>, reply: &mut Vec<u8>) -> At {
        match (self.at, byte) {
            (At::Data | At::Return, IAC) => At::Command,
            (At::Return, 0) => At::Data,
            // An operator's line end; a guest's is two characters.
            (At::Return, b'\n') if self.side == Side::Server => At::Data,
            (At::Data | At::Return, b'\r') => {
                data.push(byte);
                if self.theirs.contains(&BINARY) { At::Data } else { At::Return }
            }
            (At::Data | At::Return, _) | (At::Command, IAC) => {
                data.push(byte);
                At::Data
            }
            (At::Command, WILL | WONT | DO | DONT) => At::Option(byte),
            (At::Command, SB) => At::Sub,
            (At::Command, _) => At::Data,
            (At::Option(verb), option) => {
                self.negotiate(verb, option, reply);
                At::Data
            }
            (At::Sub, IAC) => At::SubCommand,
            (At::SubCommand, SE) => At::Data,
            (At::Sub | At::SubCommand, _) => At::Sub,
        }
    }

    fn negotiate(&mut self, verb: u8, option: u8, reply: &mut Vec<u8>) {
        let wanted = match (verb, self.side) {
            (WILL, Side::Client) | (DO, Side::Server) => {
                matches!(option, BINARY | ECHO | SUPPRESS_GO_AHEAD)
            }
            (WILL | DO, _) => matches!(option, BINARY | SUPPRESS_GO_AHEAD),
            _ => false,
        };
        let (set, yes, no) = match verb {
            WILL | WONT => (&mut self.theirs, DO, DONT),
            _ => (&mut self.ours, WILL, WONT),
        };
        let answer = match (verb, wanted) {
            (WILL | DO, true) => set.insert(option).then_some(yes),
            (WILL | DO, false) => Some(no),
            _ => set.remove(&option).then_some(no),
        };
        if let Some(answer) = answer {
            // What was proposed by us and is accepted needs no answer.
            reply.extend([IAC, answer, option]);
        }
    }

    /// Data as they are sent.
    #[must_use]
    pub fn put(&self, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(data.len());
        for (index, byte) in data.iter().enumerate() {
            out.push(*byte);
            match byte {
                &IAC => out.push(IAC),
                // A guest's line end is one already.
                b'\r'
                    if self.side == Side::Client
                        && !self.ours.contains(&BINARY)
                        && data.get(index + 1) != Some(&b'\n') =>
                {
                    out.push(0);
                }
                _ => {}
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taken(telnet: &mut Telnet, bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (mut data, mut reply) = (Vec::new(), Vec::new());
        telnet.take(bytes, &mut data, &mut reply);
        (data, reply)
    }

    #[test]
    fn what_simh_says_first_is_answered_and_none_of_it_is_data() {
        let greeting =
            b"\xff\xfb\x22\xff\xfb\x03\xff\xfb\x01\xff\xfb\x00\xff\xfd\x00\n\r\nConnected";
        let (data, reply) = taken(&mut Telnet::client(), greeting);
        assert_eq!(data, b"\n\r\nConnected");
        assert_eq!(reply, b"\xff\xfe\x22\xff\xfd\x03\xff\xfd\x01\xff\xfd\x00\xff\xfb\x00");
    }

    #[test]
    fn what_is_on_already_is_not_answered_again() {
        let mut telnet = Telnet::client();
        assert_eq!(taken(&mut telnet, b"\xff\xfb\x01").1, b"\xff\xfd\x01");
        assert_eq!(taken(&mut telnet, b"\xff\xfb\x01").1, b"");
        assert_eq!(taken(&mut telnet, b"\xff\xfc\x01").1, b"\xff\xfe\x01");
        assert_eq!(taken(&mut telnet, b"\xff\xfc\x01").1, b"");
        assert_eq!(taken(&mut telnet, b"\xff\xfd\x18").1, b"\xff\xfc\x18", "no terminal type");
    }

    #[test]
    fn commands_sub_negotiations_and_doubled_bytes_come_out_in_any_pieces() {
        let all = b"a\xff\xffb\xff\xfa\x18\x01\xff\xff\xff\xf0c\xff\xf3d\r\0e\r\nf";
        for cut in 0..all.len() {
            let mut telnet = Telnet::client();
            let (mut data, _) = taken(&mut telnet, &all[..cut]);
            data.extend(taken(&mut telnet, &all[cut..]).0);
            assert_eq!(data, b"a\xffbcd\re\r\nf", "cut at {cut}");
        }
    }

    #[test]
    fn an_operators_line_end_is_one_return_in_each_of_its_forms() {
        let (mut telnet, first) = Telnet::server();
        assert_eq!(first, b"\xff\xfb\x01\xff\xfb\x03\xff\xfb\x00\xff\xfd\x00");
        assert_eq!(taken(&mut telnet, b"a\r\0b\r\nc\rd").0, b"a\rb\rc\rd");
        assert_eq!(taken(&mut telnet, b"\xff\xfb\x00").1, b"\xff\xfd\x00");
        assert_eq!(taken(&mut telnet, b"a\r\nb").0, b"a\r\nb", "binary: nothing is changed");
    }

    #[test]
    fn what_is_typed_arrives_as_it_was() {
        let mut client = Telnet::client();
        assert_eq!(client.put(b"a\r\xff\r\n"), b"a\r\0\xff\xff\r\n");
        taken(&mut client, b"\xff\xfd\x00");
        assert_eq!(client.put(b"a\r"), b"a\r");
    }

    proptest! {
        #[test]
        fn any_bytes_can_come_and_answers_do_not_grow(bytes: Vec<u8>) {
            let (data, reply) = taken(&mut Telnet::client(), &bytes);
            prop_assert!(data.len() + reply.len() <= bytes.len());
        }

        #[test]
        fn a_line_and_a_terminal_understand_each_other(bytes: Vec<u8>, cut in 0usize..64) {
            let (mut server, mut to_client) = Telnet::server();
            let mut client = Telnet::client();
            let mut turns = 0;
            while !to_client.is_empty() {
                let (_, to_server) = taken(&mut client, &to_client);
                to_client = taken(&mut server, &to_server).1;
                turns += 1;
                prop_assert!(turns < 4, "they come to rest");
            }
            let sent = client.put(&bytes);
            let (a, b) = sent.split_at(cut.min(sent.len()));
            let mut came = taken(&mut server, a).0;
            came.extend(taken(&mut server, b).0);
            prop_assert_eq!(came, bytes.clone());
            prop_assert_eq!(taken(&mut client, &server.put(&bytes)).0, bytes);
        }
    }
}
