//! What outlives a process: paths, locks, sockets and the three databases.
//!
//! ```text
//!   Store ──► registry.db   managed domains            STATE   every commit reaches the disk
//!         ──► live.db       domains with a process     RUN     fast; gone with the boot
//!         ──► events.db     what happened, bounded     STATE   may lose its tail with the power
//!   Paths: the one place that knows where they are      DomainLock: who may act on a domain
//!   image: saved states, in the store and in files
//! ```
//! Callers are the engine, inside `kxl` and inside each monitor. Nothing here starts, signals or
//! judges a process: identities of processes are plain numbers to this crate.
//!
//! Locks are always taken in this order: domain lock, names lock, then the writer queue of the
//! registry, of the live rows, of the events. A call takes and releases all but the first itself, and
//! waits for none of them for longer than [`Store::set_patience`] tells.

mod alerts;
mod boot;
mod clock;
mod columns;
mod cursors;
mod db;
mod define;
mod error;
pub mod events;
mod facade;
pub mod image;
mod image_ops;
mod life;
mod list;
mod live;
pub mod lock;
mod netfs;
pub mod paths;
mod registry;
mod retention;
mod row_watch;
mod rows;
mod rundir;
pub mod socket;
mod tail;
#[cfg(test)]
mod tests;
mod waiter;

pub use alerts::Ack;
pub use clock::{boot_id, boot_ms, now_ms};
pub use cursors::HookRow;
pub use error::StoreError;
pub use events::{Acked, Event, EventQuery, EventRow, Severity};
pub use facade::Store;
pub use image_ops::ImageOp;
pub use lock::{DomainLock, NamesLock};
pub use paths::Paths;
pub use retention::Retention;
pub use row_watch::RowWatch;
pub use rows::{
    Asked, Claim, Defined, ListRow, LiveChange, LiveRow, ManagedChange, ManagedRow, ProcessRow,
    Settle,
};
pub use tail::EventTail;

/// The result of everything here.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;
