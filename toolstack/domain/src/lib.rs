//! The vocabulary of kxl: what a domain is called, which states it rests in, what each verb does
//! to it, and how its configuration is written.
//!
//! Everything here is pure: no files, no clock, no processes. The crates that act
//! (`kxl-engine`, `kxl-monitor`, the backends) look their decisions up in these tables.
//!
//! # Words
//! * **domain**: a machine that kxl manages; the software inside it is the *guest*.
//! * **domid**: number of a live domain, not reused while the host is up.
//! * **uuid**: the durable identity. **name**: the handle people use.
//! * **managed** domain: registered (`new`), stays listed when it is off. **transient** domain:
//!   made by `create`, gone when it ends.
//! * **backend**: a driver. **profile**: how to run one program. **emulator**: the program.
//! * **image**: saved state. **disk**: storage.
//! * **monitor**: kxl's own process beside each live domain. **control channel**: the way a
//!   backend steers its emulator (QMP, a prompt, signals).

pub mod capability;
pub mod charon;
pub mod config;
pub mod cpuid;
pub mod failure;
pub mod guest;
pub mod ids;
pub mod image;
pub mod lifecycle;
pub mod policy;
pub mod state;
pub mod supervision;
pub mod supervisord;

pub use capability::{Capability, CapabilitySet};
pub use config::model::DomainConfig;
pub use failure::{Failure, Kind};
pub use ids::{DomId, DomainName, DomainUuid};
pub use image::ImageId;
pub use lifecycle::{Denied, RULES, Rule, Verb, Verdict, decide};
pub use policy::{Action, GuestEvent};
pub use state::{Op, Reason, State, Wanted};
