//! Who may pass: root, the members of a group, whoever knows the password.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use kxl_domain::{Failure, Kind};
use kxl_engine::Conf;
use nix::unistd::Group;

use super::password;
use super::peer::Peer;

/// How long the first wrong password keeps its user out; each further one doubles that.
const FIRST: Duration = Duration::from_secs(1);

/// The longest.
const LONGEST: Duration = Duration::from_secs(60);

/// After so long without another one, wrong passwords are forgotten.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// Most users whose wrong passwords are remembered at once.
const MOST: usize = 4096;

/// What the settings of this moment allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    /// The group whose members pass.
    pub(super) group: Option<u32>,
    /// The hash of the password with which others do.
    pub(super) hash: Option<String>,
}

impl Rules {
    /// What kxl.conf says.
    ///
    /// # Errors
    /// [`Kind::Usage`] when it lets nobody in, or names a group that does not exist.
    pub(super) fn of(conf: &Conf) -> Result<Self, Failure> {
        let hash = conf.control_password_hash.clone();
        if let Some(hash) = &hash {
            password::check_hash(hash)?;
        }
        let group = match &conf.control_group {
            None => None,
            Some(name) => {
                let found = Group::from_name(name).map_err(|error| {
                    Failure::because(Kind::Failed, "cannot read the groups", &error)
                })?;
                let Some(group) = found else {
                    let text = format!("kxl.conf: control_group: there is no group \"{name}\"");
                    return Err(Failure::new(Kind::Usage, text)
                        .hint("create the group, or name another one"));
                };
                Some(group.gid.as_raw())
            }
        };
        if group.is_none() && hash.is_none() {
            let text = "the gate would let nobody in but root, who needs none";
            return Err(Failure::new(Kind::Usage, text).hint(
                "set control_group in kxl.conf, or control_password_hash with what \
                 kxl gate password prints",
            ));
        }
        Ok(Self { group, hash })
    }

    /// What is to be asked of a caller. A password that is given has to be right whoever gives it.
    pub(super) fn wants(&self, peer: &Peer, own: u32, given: bool) -> Wants {
        let member = self.group.is_some_and(|group| peer.groups.contains(&group));
        let known = peer.uid == 0 || peer.uid == own || member;
        match (&self.hash, given) {
            (Some(_), true) => Wants::Right,
            (Some(_), false) if !known => Wants::Password,
            (None, _) if !known => Wants::Membership,
            _ => Wants::Nothing,
        }
    }
}

/// What is still to be had before a caller may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wants {
    /// It may.
    Nothing,
    /// If the password is right.
    Right,
    /// A password, and none was given.
    Password,
    /// It would have to be in the group.
    Membership,
}

/// Wrong passwords of late, by user.
#[derive(Debug, Default)]
pub(super) struct Failures {
    of: HashMap<u32, (u32, Instant)>,
}

impl Failures {
    /// How long this user is kept out from `now` on.
    pub(super) fn wait(&self, uid: u32, now: Instant) -> Option<Duration> {
        let (count, last) = self.of.get(&uid)?;
        let left = (*last + penalty(*count)).saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Notes a wrong one; how many there were in a row.
    pub(super) fn wrong(&mut self, uid: u32, now: Instant) -> u32 {
        self.of.retain(|_, (_, last)| now.saturating_duration_since(*last) < FORGOTTEN);
        if self.of.len() >= MOST && !self.of.contains_key(&uid) {
            // Whoever was wrong longest ago goes.
            let oldest = self.of.iter().min_by_key(|(_, (_, last))| *last).map(|(uid, _)| *uid);
            oldest.and_then(|oldest| self.of.remove(&oldest));
        }
        let entry = self.of.entry(uid).or_insert((0, now));
        *entry = (entry.0.saturating_add(1), now);
        entry.0
    }

    /// Forgets this user's.
    pub(super) fn right(&mut self, uid: u32) {
        self.of.remove(&uid);
    }
}

fn penalty(count: u32) -> Duration {
    FIRST.saturating_mul(1 << count.saturating_sub(1).min(10)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, groups: &[u32]) -> Peer {
        Peer { uid, groups: groups.to_vec(), name: "somebody".to_owned() }
    }

    #[test]
    fn root_and_members_pass_and_others_need_the_password() {
        let hash = Some("x".to_owned());
        let group = Rules { group: Some(50), hash: None };
        let password = Rules { group: None, hash: hash.clone() };
        let both = Rules { group: Some(50), hash };
        let (root, member, other) = (peer(0, &[0]), peer(7, &[7, 50]), peer(8, &[8]));
        for rules in [&group, &password, &both] {
            assert_eq!(rules.wants(&root, 0, false), Wants::Nothing);
            assert_eq!(rules.wants(&peer(9, &[9]), 9, false), Wants::Nothing, "its own user");
        }
        assert_eq!(group.wants(&member, 0, false), Wants::Nothing);
        assert_eq!(group.wants(&other, 0, false), Wants::Membership);
        assert_eq!(group.wants(&other, 0, true), Wants::Membership, "there is none to be right");
        assert_eq!(password.wants(&member, 0, false), Wants::Password);
        assert_eq!(both.wants(&member, 0, false), Wants::Nothing);
        assert_eq!(both.wants(&other, 0, false), Wants::Password);
        for rules in [&password, &both] {
            for who in [&root, &member, &other] {
                assert_eq!(rules.wants(who, 0, true), Wants::Right, "given, it has to match");
            }
        }
    }

    #[test]
    fn wrong_passwords_keep_their_user_out_for_longer_and_longer_and_nobody_else() {
        let mut failures = Failures::default();
        let now = Instant::now();
        assert_eq!(failures.wait(7, now), None);
        for (count, seconds) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 32), (7, 60), (8, 60)]
        {
            assert_eq!(failures.wrong(7, now), count);
            assert_eq!(failures.wait(7, now), Some(Duration::from_secs(seconds)));
        }
        assert_eq!(failures.wait(8, now), None);
        assert_eq!(failures.wait(7, now + Duration::from_secs(60)), None);
        failures.right(7);
        assert_eq!(failures.wrong(7, now), 1);
        assert_eq!(failures.wrong(7, now + FORGOTTEN), 1, "forgotten by then");
    }

    #[test]
    fn the_memory_of_wrong_passwords_is_bounded() {
        let mut failures = Failures::default();
        let now = Instant::now();
        for uid in 0..5000 {
            failures.wrong(uid, now + Duration::from_millis(uid.into()));
        }
        assert_eq!(failures.of.len(), MOST);
        assert!(failures.of.contains_key(&4999) && !failures.of.contains_key(&0));
    }

    #[test]
    fn settings_that_let_nobody_in_are_refused() {
        let nobody = Rules::of(&Conf::default()).unwrap_err();
        assert!(nobody.hint.unwrap().contains("control_group"));
        let conf = Conf { control_group: Some("no-such-group-here".into()), ..Conf::default() };
        assert!(Rules::of(&conf).unwrap_err().text.contains("no-such-group-here"));
        let conf = Conf { control_password_hash: Some("secret".into()), ..Conf::default() };
        assert!(Rules::of(&conf).unwrap_err().text.contains("control_password_hash"));
    }
}
