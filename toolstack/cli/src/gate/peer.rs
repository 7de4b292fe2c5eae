//! Who is at the other end of the socket, as the kernel tells it.

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Uid, User};

use crate::signals;

/// A caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) uid: u32,
    /// All its groups, the first one and the others.
    pub(super) groups: Vec<u32>,
    pub(super) name: String,
}

impl Peer {
    /// Who made the connection. These are the rights it had at that moment, not what a register of
    /// users says about it.
    pub(super) fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = getsockopt(stream, sockopt::PeerCredentials)?;
        let mut groups = signals::peer_groups(stream)?;
        groups.push(credentials.gid());
        let uid = credentials.uid();
        Ok(Self { uid, groups, name: name_of(uid) })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (uid {})", self.name, self.uid)
    }
}

/// The name of a user; its number where there is none, or one that would not look like a name.
fn name_of(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-$@\\".contains(c);
    user.map(|user| user.name)
        .filter(|name| !name.is_empty() && name.len() <= 64 && name.chars().all(plain))
        .unwrap_or_else(|| uid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_who_is_there() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = Peer::of(&ours).unwrap();
        assert_eq!(peer.uid, nix::unistd::getuid().as_raw());
        assert!(peer.groups.contains(&nix::unistd::getgid().as_raw()));
        let all = nix::unistd::getgroups().unwrap();
        assert!(all.iter().all(|group| peer.groups.contains(&group.as_raw())));
    }
}
