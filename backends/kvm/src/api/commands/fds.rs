//! Descriptors that clients pass: by name (`getfd`) until a command uses them up, or in sets
//! (`add-fd`), which are opened by name as often as one likes: `/dev/fdset/1`.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::fs::OFlags;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Context, Nothing, done};
use crate::api::control::{Outcome, Place, Refusal};

/// Names, and descriptors in sets, that a client can make us hold.
const MOST: usize = 64;

/// Before the number of a set in a file's name.
const SET: &str = "/dev/fdset/";

/// What clients have passed.
#[derive(Debug, Default)]
pub(in crate::api) struct Fds {
    named: BTreeMap<String, OwnedFd>,
    sets: BTreeMap<u64, Vec<Member>>,
}

/// A descriptor of a set.
#[derive(Debug)]
struct Member {
    fd: OwnedFd,
    opaque: Option<String>,
}

impl Fds {
    /// The descriptor of this name, which is free again.
    pub(super) fn take(&mut self, name: &str) -> Outcome<OwnedFd> {
        self.named.remove(name).ok_or_else(|| {
            Refusal::new(format!("no descriptor is named '{name}'; pass it with getfd before"))
        })
    }

    /// A file by its name: one of a set, or a path.
    pub(super) fn open(&self, name: &str, write: bool) -> Outcome<Place> {
        let Some(number) = name.strip_prefix(SET) else {
            return Ok(Place::Path(name.into()));
        };
        let set = number.parse().ok().and_then(|number: u64| self.sets.get(&number));
        let set = set.ok_or_else(|| Refusal::new(format!("there is no set {name}")))?;
        for member in set {
            let access = rustix::fs::fcntl_getfl(&member.fd)? & OFlags::RWMODE;
            let fits = if write {
                access == OFlags::RDWR || access == OFlags::WRONLY
            } else {
                access != OFlags::WRONLY
            };
            if fits {
                return Ok(Place::Fd(member.fd.try_clone()?));
            }
        }
        let how = if write { "writing" } else { "reading" };
        Err(Refusal::new(format!("no descriptor of {name} is open for {how}")))
    }

    fn held(&self) -> usize {
        self.named.len() + self.sets.values().map(Vec::len).sum::<usize>()
    }

    fn room(&self) -> Outcome {
        if self.held() < MOST {
            return Ok(());
        }
        let text = format!("{MOST} descriptors are held already; close some with closefd");
        Err(Refusal::new(text))
    }
}

/// The descriptor that came with a command.
fn passed(context: &mut Context<'_>) -> Outcome<OwnedFd> {
    let none = "no descriptor came with the command; send it as ancillary data (SCM_RIGHTS)";
    context.fds.pop_front().ok_or_else(|| Refusal::new(none))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Name {
    fdname: String,
}

pub(super) fn getfd(context: &mut Context<'_>, name: Name) -> Outcome<Value> {
    let fd = passed(context)?;
    if name.fdname.is_empty() || name.fdname.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(Refusal::new("a descriptor's name does not begin with a digit"));
    }
    let named = &mut context.state.named;
    if !named.named.contains_key(&name.fdname) {
        named.room()?;
    }
    named.named.insert(name.fdname, fd);
    done()
}

pub(super) fn closefd(context: &mut Context<'_>, name: Name) -> Outcome<Value> {
    drop(context.state.named.take(&name.fdname)?);
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct AddFd {
    fdset_id: Option<u64>,
    opaque: Option<String>,
}

pub(super) fn add_fd(context: &mut Context<'_>, add: AddFd) -> Outcome<Value> {
    let fd = passed(context)?;
    let named = &mut context.state.named;
    named.room()?;
    let free = || (0..).find(|id| !named.sets.contains_key(id)).unwrap_or_default();
    let id = add.fdset_id.unwrap_or_else(free);
    let number = fd.as_raw_fd();
    named.sets.entry(id).or_default().push(Member { fd, opaque: add.opaque });
    Ok(json!({"fdset-id": id, "fd": number}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RemoveFd {
    fdset_id: u64,
    fd: Option<RawFd>,
}

pub(super) fn remove_fd(context: &mut Context<'_>, remove: RemoveFd) -> Outcome<Value> {
    let sets = &mut context.state.named.sets;
    let id = remove.fdset_id;
    let none = || Refusal::new(format!("there is no set {id}, or no such descriptor in it"));
    let set = sets.get_mut(&id).ok_or_else(none)?;
    let before = set.len();
    set.retain(|member| remove.fd.is_some_and(|fd| member.fd.as_raw_fd() != fd));
    if set.len() == before {
        return Err(none());
    }
    if set.is_empty() {
        sets.remove(&id);
    }
    done()
}

pub(super) fn query_fdsets(context: &mut Context<'_>, _: Nothing) -> Outcome<Value> {
    let member = |member: &Member| {
        let mut answer = json!({"fd": member.fd.as_raw_fd()});
        if let Some(opaque) = &member.opaque {
            answer["opaque"] = opaque.as_str().into();
        }
        answer
    };
    let set = |(id, set): (&u64, &Vec<Member>)| json!({"fdset-id": id, "fds": set.iter().map(member).collect::<Value>()});
    Ok(context.state.named.sets.iter().map(set).collect())
}
