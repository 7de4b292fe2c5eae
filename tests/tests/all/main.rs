//! Every promise of kxl, kept by the real binaries: `kxl`, `kxl-monitor`, `kxl-mock`, QEMU, SIMH.
//!
//! Each test has a throw-away `KXL_ROOT` of its own. What a host cannot run is skipped aloud: see
//! [`support::skip`].

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::missing_panics_doc,
    reason = "helpers of tests fail and tell like tests"
)]

mod charon;
mod cli;
mod configs;
mod conformance;
mod docs;
mod events;
mod forgotten;
mod guest;
mod lab;
mod layering;
mod lifecycle;
mod maintenance;
mod support;
