//! Tests through the real binaries, and what they share with those of `backends/kvm` and the bench.

pub mod archive;
pub mod qmp;
