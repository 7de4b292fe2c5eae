//! The jobs, as they are done inside the lab.

pub(crate) mod host;
pub(crate) mod linux;
mod machine;
