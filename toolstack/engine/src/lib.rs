//! Carries out the lifecycle table.
//!
//! One engine, two hosts: [`Host`] in a command, for resting domains and for reaching the monitors
//! of live ones; [`LiveDomain`] in a monitor, for its one live domain. The domain lock decides who
//! acts. The engine knows backends only through the [`kxl_backend::Backend`] trait and never names
//! one.

mod adoption;
mod affinity;
mod ahead;
mod aside;
mod asking;
mod cgroup;
mod clone;
mod conf;
mod cut_off;
mod ending;
mod error;
mod fitting;
mod foreground;
mod handover;
mod herald;
pub mod hooks;
mod host;
mod images;
mod live;
pub mod maintenance;
mod observe;
mod outdated;
mod recorder;
mod release;
mod resting;
mod restoring;
mod returning;
mod saving;
mod saying;
mod scope;
pub mod script;
mod service;
mod settling;
mod spec;
mod stamp;
pub mod steps;
mod stop_script;
mod stopping;
mod supervising;
mod telling;
mod thread;
mod unreadable;
mod verbs;
mod verifying;

pub use aside::Aside;
pub use asking::{Outcome, Recovered, Recovery};
pub use clone::{CloneOpts, Cloned, Disks, How, MadeDisk};
pub use conf::Conf;
pub use error::denied;
pub use foreground::Charge;
pub use handover::{LOCK_FD, Mission, READY_FD, monitor_program};
pub use herald::{HooksLock, PROGRAM as HOOKS_PROGRAM, WORD as HOOKS_WORD};
pub use host::Host;
pub use images::{Images, Owner, StoredImage};
pub use live::{Launched, LiveDomain, Next, Snapshot};
pub use observe::{Answering, Seen, make_room, observe, observe_recorded};
pub use resting::{Defined, StartOpts, Started};
pub use returning::RestoreOpts;
pub use service::{GOODBYE, Stopped, came_up, is_pending};
pub use stop_script::stop_script;
pub use telling::Telling;
