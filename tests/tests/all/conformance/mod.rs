//! One suite over every backend: what each of them owes the engine, and that what it cannot do is
//! refused and changes nothing. A backend that this host lacks is skipped aloud.

mod cases;
mod states;

use crate::support::Host;
use crate::support::guest::{self, Counter};
use crate::support::pc::Pc;
use crate::support::skip;
use crate::support::tiny::Tiny;

/// A backend under test.
pub(crate) struct Subject {
    /// Its configuration, for a domain called `it`.
    config: String,
    /// How its guest shows that it runs; `None` where it only echoes.
    counter: Option<Counter>,
    /// What its guest says when it is up.
    greeting: Option<&'static str>,
    /// What is typed, and what comes back of it.
    echo: (&'static str, &'static str),
    /// Capabilities it has, by name; the verbs that need others are refused.
    offers: &'static [&'static str],
    /// A part of the configuration, and what makes another machine of it.
    other: (&'static str, &'static str),
}

const LINUX: &[&str] =
    &["pause", "powerdown", "reset", "sleep", "save-state", "live-save", "console"];
const KVM: &[&str] = &["pause", "powerdown", "reset", "save-state", "live-save", "console"];
const SIMH: &[&str] = &["pause", "save-state", "console"];

fn suite(name: &str, config: Result<String, String>, subject: impl FnOnce(String) -> Subject) {
    match config {
        Ok(config) => {
            let subject = subject(config);
            eprintln!("conformance {name}");
            for case in cases::ALL {
                eprintln!("  {}", case.name);
                (case.run)(&Host::deep(), &subject);
            }
            let saves = subject.offers.contains(&"save-state");
            for case in states::ALL.iter().filter(|_| saves) {
                eprintln!("  {}", case.name);
                (case.run)(&Host::deep(), &subject);
            }
        }
        Err(reason) => skip::skip(&format!("conformance {name}"), &reason),
    }
}

#[test]
fn the_mock_conforms() {
    suite("mock", Ok(guest::mock("it", "")), |config| Subject {
        config,
        counter: Some(Counter::Linux),
        greeting: Some("READY"),
        echo: ("hello\r", "hello"),
        offers: LINUX,
        other: ("vcpus = 1", "vcpus = 2"),
    });
}

#[test]
fn qemu_with_an_x86_64_guest_conforms() {
    let _slot = guest::slot();
    suite("qemu x86_64", guest::qemu("x86_64", "it", "tick=200", ""), linux);
}

#[test]
fn qemu_with_an_aarch64_guest_conforms() {
    let _slot = guest::slot();
    suite("qemu aarch64", guest::qemu("aarch64", "it", "tick=200", ""), linux);
}

/// The test guest: it answers what it does not understand.
fn linux(config: String) -> Subject {
    Subject {
        config,
        counter: Some(Counter::Linux),
        greeting: Some("READY"),
        echo: ("z", "? 7a"),
        offers: LINUX,
        other: ("vcpus = 1", "vcpus = 2"),
    }
}

/// A guest of a few hundred bytes: what is an emulating nested KVM is good enough for it.
#[test]
fn kxl_vmm_with_a_tiny_guest_conforms() {
    let tiny = Tiny::new();
    let config = tiny.as_ref().map(|tiny| tiny.config("it")).map_err(String::clone);
    suite("kvm", config, |config| Subject {
        config,
        // Eight hexadecimal digits as well.
        counter: Some(Counter::Vax),
        greeting: Some("READY"),
        echo: ("t", "T"),
        offers: KVM,
        other: ("vcpus = 1", "vcpus = 2"),
    });
}

#[test]
fn a_pdp11_on_simh_conforms() {
    suite("simh pdp11", guest::simh("pdp11", "it"), |config| Subject {
        config,
        counter: Some(Counter::Pdp11),
        greeting: None,
        echo: ("q", "q"),
        offers: SIMH,
        other: ("\"pdp11\"", "\"pdp8\""),
    });
}

#[test]
fn a_vax_on_simh_conforms() {
    suite("simh vax780", guest::simh("vax780", "it"), |config| Subject {
        config,
        counter: Some(Counter::Vax),
        greeting: None,
        echo: ("q", "q"),
        offers: SIMH,
        other: ("\"vax780\"", "\"pdp11\""),
    });
}

#[test]
fn a_pc_on_bochs_conforms() {
    let pc = Pc::new();
    let config = pc.as_ref().map(|pc| pc.config("it")).map_err(String::clone);
    suite("bochs", config, |config| Subject {
        config,
        // Eight hexadecimal digits as well.
        counter: Some(Counter::Vax),
        greeting: Some("READY"),
        echo: ("z", "z"),
        offers: &["pause", "console"],
        other: ("", ""),
    });
}

#[test]
fn a_microvm_on_the_stand_in_for_stratovirt_conforms() {
    suite("stratovirt (stand-in)", Ok(guest::stratovirt("it", "")), |config| Subject {
        config,
        // Eight hexadecimal digits as well.
        counter: Some(Counter::Vax),
        greeting: Some("READY"),
        echo: ("z", "z"),
        offers: SIMH,
        other: ("memory = 128", "memory = 160"),
    });
}

#[test]
fn any_program_conforms() {
    suite("any", guest::any("it"), |config| Subject {
        config,
        counter: None,
        greeting: None,
        echo: ("hello\r", "hello"),
        offers: &["pause", "powerdown", "console"],
        other: ("", ""),
    });
}
