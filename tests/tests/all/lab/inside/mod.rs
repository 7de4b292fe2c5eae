//! The jobs, as they are done inside the lab.

pub(crate) mod host;
pub(crate) mod linux;
mod machine;
pub(crate) mod net;
pub(crate) mod plugs;
pub(crate) mod speed;
pub(crate) mod states;
pub(crate) mod toolstack;
