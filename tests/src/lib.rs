//! Tests through the real binaries, and what they share with those of `backends/kvm`.

pub mod qmp;
