//! The configuration of a domain: xl.cfg's grammar and keys, and kxl's own beside them.

pub mod model;
