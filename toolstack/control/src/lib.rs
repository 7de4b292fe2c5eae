//! The protocol between `kxl` and a domain's monitor.
//!
//! One JSON document a line over the unix socket `control.sock` in the domain's runtime directory.
//! A request names the protocol version and its deadline; the replies carry its id: any number of
//! [`Body::Progress`], then exactly one [`Body::Done`] or [`Body::Failed`]. After the `Done` of
//! [`Call::Console`] the connection changes to [`frame`]s for good.

pub mod client;
pub mod frame;

use kxl_domain::image::{ImageId, ImagePlace, Purpose};
use kxl_domain::state::Status;
use kxl_domain::supervision::{self, Record};
use kxl_domain::{
    DomId, DomainConfig, DomainName, DomainUuid, Failure, Op, Reason, State, Verb, Wanted,
};
use serde::{Deserialize, Serialize};

/// Version of this protocol. A monitor refuses requests of another one and says which it speaks.
pub const VERSION: u32 = 1;

/// Longest line either side accepts, in bytes.
pub const MAX_LINE: usize = 1 << 20;

/// A request of a command to a monitor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Protocol version.
    pub v: u32,
    /// Chosen by the client, echoed in every reply.
    pub id: u64,
    /// The client gives up after this many milliseconds; the monitor need not go on waiting then.
    pub deadline_ms: u64,
    /// What is asked.
    pub call: Call,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Call {
    /// The domain's status. Answered at once, also while an operation is in flight.
    Status {
        /// Also ask the emulator whether it answers (150 ms at most).
        probe: bool,
    },
    /// A verb of the lifecycle table, decided again by the monitor.
    Verb(Verb),
    /// Save the state: `save`, `suspend`, `checkpoint`. Replies with [`Body::Moved`] on the way.
    /// A client that hangs up before the image is committed has given the save up.
    Save(Box<Save>),
    /// Replies when the domain has come to that point.
    Wait(Until),
    /// Attach to the console.
    Console(Attach),
    /// End the monitor; the domain goes on and is adopted later.
    Release,
    /// Shut the domain down, and take the power away where it is not off after its `stopwaitsecs`,
    /// whatever becomes of the client. A monitor that does not know this call hangs up.
    Stop,
}

/// How to save a domain's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Save {
    /// `save`, `suspend` or `checkpoint`.
    pub verb: Verb,
    /// Where the image goes.
    pub place: ImagePlace,
    /// What the image is for.
    pub purpose: Purpose,
    /// What becomes of the domain.
    pub after: After,
    /// Let the guest run while its memory is written, where the backend can.
    pub live: bool,
    /// Written into the image instead of the running configuration (`save DOM FILE CFG`).
    pub config: Option<Box<DomainConfig>>,
    /// Text of the configuration block at the head of a file, in the shape of libxl's JSON, for
    /// programs that read such files; without its NUL. None: the block is empty.
    pub header: Option<String>,
    /// The restored domain gets the same domid again, if it is free (`-D`).
    pub keep_domid: bool,
    /// Take a snapshot of each writable disk whose format has them in the same pause, so that the
    /// state can come back although the disks move on.
    pub snapshot: bool,
    /// Replace a file that has the name already.
    pub replace: bool,
}

/// What becomes of a domain whose state was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum After {
    /// It ends: the image is the domain.
    End,
    /// It goes on, running if it ran.
    GoOn,
    /// It stays paused.
    Pause,
}

/// How far the moving of a state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Bytes moved.
    pub done: u64,
    /// Bytes expected; may grow, and may be passed.
    pub total: u64,
}

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Until {
    /// The guest has ended, or the domain is gone, or it was started anew.
    Shutdown,
    /// The run that was in progress is over and its emulator gone.
    Gone,
    /// The domain runs anew after it has ended, or rests for good.
    Restarted,
    /// Supervision has another word for it than this one; answered with [`Answer::Status`].
    Leaves(supervision::Word),
}

/// How to attach to a console.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// Send what is in the ring buffer first.
    pub replay: bool,
    /// Ask to be the writer. Granted when there is none, or when `steal` is set.
    pub write: bool,
    /// Take the writer's place.
    pub steal: bool,
    /// Window size of the viewer: rows, columns.
    pub window: Option<(u16, u16)>,
}

/// One reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Id of the request.
    pub id: u64,
    /// Contents.
    pub body: Body,
}

/// Contents of a reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Body {
    /// Something happened on the way.
    Progress(String),
    /// So much of a state was moved.
    Moved(Moved),
    /// The request is done.
    Done(Answer),
    /// It failed.
    Failed(Failure),
}

/// The answer to a request that was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Call::Status`].
    Status(Box<MonitorStatus>),
    /// The verb was carried out (or accepted, for those that only ask the guest).
    Ok,
    /// The wish was already met; nothing was done.
    Already,
    /// To [`Call::Save`].
    Saved(Saved),
    /// To [`Call::Stop`]: the deadline stands, and this is why nobody could be asked.
    Unheard(String),
    /// To [`Call::Wait`]: how it ended.
    Ended {
        /// The state it came to.
        state: State,
        /// Why.
        reason: Option<Reason>,
        /// The domid it had when the wait began.
        domid: DomId,
    },
    /// To [`Call::Console`]: whether this viewer may write. Frames follow.
    Attached {
        /// This viewer is the writer.
        writer: bool,
    },
}

/// An image that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The image.
    pub image: ImageId,
    /// Bytes that it takes on the disk.
    pub bytes: u64,
    /// For how long the guest stood still, in milliseconds; up to its end for one that ended.
    pub still_ms: u64,
    /// How long the whole took, in milliseconds.
    pub took_ms: u64,
}

/// A domain as its monitor knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorStatus {
    /// Durable identity.
    pub uuid: DomainUuid,
    /// Name.
    pub name: DomainName,
    /// Live number.
    pub domid: DomId,
    /// The last wish.
    pub wanted: Wanted,
    /// Resting state.
    pub state: State,
    /// Operation in flight.
    pub op: Option<Op>,
    /// Why it is in its state.
    pub reason: Option<Reason>,
    /// Pid of the emulator.
    pub pid: Option<i32>,
    /// `Some(false)`: the emulator was asked and did not answer; `None`: it was not asked.
    pub answering: Option<bool>,
    /// Current memory in MiB.
    pub memory_mib: u64,
    /// Virtual CPUs on line.
    pub vcpus: u32,
    /// Milliseconds since the epoch at which this run of the guest started.
    pub started_ms: u64,
    /// VNC address, where there is a screen.
    pub vnc: Option<String>,
    /// What supervision remembers; a monitor from before there was any says nothing.
    #[serde(default = "Record::assumed")]
    pub supervision: Record,
}

impl MonitorStatus {
    /// State and operation together.
    #[must_use]
    pub const fn status(&self) -> Status {
        Status { state: self.state, op: self.op }
    }

    /// Its state in Supervisor's words.
    #[must_use]
    pub fn word(&self) -> supervision::Word {
        supervision::word(self.state, self.op, self.reason, &self.supervision)
    }
}

/// A line of a new monitor in its ready pipe: any number of [`Word::Moved`], then one
/// [`Word::Ready`], and it closes the pipe. An end of file before that means that the monitor died.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// So much of the state that the domain comes back from was read.
    Moved(Moved),
    /// How it ended.
    #[serde(untagged)]
    Ready(Ready),
}

/// The last word of a new monitor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ready {
    /// The domain is there.
    Up {
        /// Its live number.
        domid: DomId,
    },
    /// Its start failed and is tried again: it is supervised.
    Retrying {
        /// Its live number.
        domid: DomId,
        /// Why it failed.
        failure: Failure,
    },
    /// It could not be launched or adopted; the record says the same.
    Failed(Failure),
    /// Adoption found no emulator; the domain came to rest in this state.
    Settled {
        /// That state.
        state: State,
        /// Why.
        reason: Option<Reason>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_keeps_its_shape_on_the_wire() {
        let request = Request { v: 1, id: 7, deadline_ms: 250, call: Call::Verb(Verb::Pause) };
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(text, r#"{"v":1,"id":7,"deadline_ms":250,"call":{"verb":"pause"}}"#);
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
    }
}
