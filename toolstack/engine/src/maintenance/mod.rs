//! Emptying a host for maintenance, and bringing back what was there: the order, the plan, the
//! journal, and many domains at work at once. What it looks like is the command's matter.
//!
//! ```text
//!   Member (facts) ──► plan ──► Plan ──► run ──► outcomes        plan: pure
//!                                         └──► Journal           what restore has to bring back
//! ```

mod facts;
mod fill;
mod hands;
mod journal;
mod left;
mod order;
mod plan;
mod run;
mod stop;
mod used;

pub use facts::{Abilities, Scope, abilities, disk};
pub use hands::{Stopper, Stopping};
pub use journal::{Entry, Journal, Left, MaintenanceLock};
pub use left::{Auto, Bring, Item, Settings};
pub use order::{Circle, Rank, waves};
pub use plan::{Disk, Member, Order, Plan, Request, Task, Way, duration, in_order, mib, plan};
pub use run::{Course, Desk, Done, News, Outcome, Remote, desk};
pub use used::UsedFile;
