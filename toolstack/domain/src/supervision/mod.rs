//! Supervision: what follows when a domain starts, comes up, ends or is stopped, by Supervisor's
//! rules.
//!
//! [`TABLE`] is the whole of it: [`follow`] looks up the one row that applies and gives the
//! [`Record`] as it is from then on. The engine carries out what the row says, keeps the record
//! beside the domain's state, and sets the one timer of [`next_timer`]. What people are shown is a
//! [`Word`], a pure function of state, operation, reason and record.

mod machine;
mod record;
mod table;
mod timer;
mod word;

pub use crate::guest::GuestWord;
pub use machine::{Ended, Happened, Step, follow};
pub use record::{LastExit, MaintenanceStart, Record};
pub use table::{If, Phase, TABLE, TableRow, Then, What, table};
pub use timer::{Timer, next_timer, stop_timer};
pub use word::{Word, word};

/// Where Xen's actions and these rules meet, for the manual.
pub const ONE_RULE: &str = "a guest's reboot is never an end: on_reboot decides about it, \
     supervised or not; every other end of a supervised domain is decided by this table, and \
     on_poweroff, on_crash and on_watchdog beside a key of supervision are an error";

#[cfg(test)]
mod tests;
