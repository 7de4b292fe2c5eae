//! `kxl-vmm` with guests of a few hundred bytes on this host's /dev/kvm, and through its
//! api-channel. What is an emulating nested KVM is good enough for them.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::missing_panics_doc,
    reason = "helpers of tests fail and tell like tests"
)]

mod access;
mod code;
mod ends;
#[allow(dead_code, reason = "the guest that counts is for the tests of kxl")]
mod guest;
mod life;
mod plugging;
mod saves;
#[path = "../sandbox/skip.rs"]
mod skip;
mod vmm;

use vmm::{Place, Vmm};

/// Whether there is no KVM here, after saying so.
fn no_kvm(test: &str) -> bool {
    let opened = std::fs::File::options().read(true).write(true).open("/dev/kvm");
    if let Err(error) = &opened {
        skip::skip(test, &format!("cannot open /dev/kvm: {error}"));
    }
    opened.is_err()
}

/// How many pages the guest works on, and of how many of them it writes some.
const PAGES: u32 = 2000;
const SOME: u32 = 100;

/// A guest that waits for commands.
fn guest(place: &Place, name: &str, args: &[&str]) -> Vmm {
    let vmm = standing(place, name, args);
    vmm.expect("READY");
    vmm
}

/// The same before it has said anything.
fn standing(place: &Place, name: &str, args: &[&str]) -> Vmm {
    let kernel = place.file("guest", &guest::image(PAGES, SOME));
    let mut all = vec!["-kernel", &kernel];
    all.extend(args);
    Vmm::start(place, name, &all)
}
