//! Every step of every verb, with a kill -9 of the command, of the monitor or of the emulator at
//! that moment. After it the domain has to rest where the table below says, with one emulator
//! or none, and its name has to be usable again.

use kxl_domain::{State, Verb};
use kxl_engine::steps::Step;
use nix::sys::signal::Signal;

use crate::support::{Host, guest, skip, wait};

use State::{Absent, Failed, Halted, Running};

/// The verbs that have steps; those of images are tested in [`super::images`].
const VERBS: &[Verb] = &[Verb::Create, Verb::Start, Verb::Shutdown, Verb::Reboot, Verb::Destroy];

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Victim {
    /// The process that reaches the step.
    Own,
    /// The command.
    Client,
    /// The emulator.
    Emulator,
}

pub(super) const VICTIMS: &[Victim] = &[Victim::Own, Victim::Client, Victim::Emulator];

impl Victim {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Own => "kill",
            Self::Client => "kill-client",
            Self::Emulator => "kill-emulator",
        }
    }
}

/// Whether the domain is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Managed,
    Transient,
}

/// Where a domain may rest after the fault. `Failed` and `Halted` mean absent for a transient one.
fn allowed(verb: Verb, step: Step, victim: Victim) -> &'static [State] {
    let before_monitor = matches!(step, Step::Locked | Step::Claimed);
    match (verb, victim) {
        // The record was not written, or promised a start that never came to an emulator.
        (Verb::Create | Verb::Start, Victim::Own | Victim::Client) if before_monitor => {
            if step == Step::Locked { &[Absent, Halted] } else { &[Failed] }
        }
        (Verb::Create | Verb::Start, Victim::Client) => &[Running],
        (Verb::Create | Verb::Start, Victim::Own) => match step {
            // Nothing was let go before the identity was durable.
            Step::MonitorUp | Step::Recorded => &[Failed],
            _ => &[Running],
        },
        (Verb::Create | Verb::Start, Victim::Emulator) => match step {
            Step::Recorded => &[Failed],
            // The emulator's death is a crash, and on_crash is destroy. The monitor may also see
            // it die before it has told that it is up.
            Step::Launched | Step::Started => &[Halted, Failed],
            _ => &[Running],
        },
        // It was written that the guest was to be asked, and it never was.
        (Verb::Shutdown | Verb::Reboot, Victim::Own) if step == Step::Asked => &[Running],
        (Verb::Shutdown | Verb::Destroy, _) => &[Halted],
        // A restart that had begun is a promise: it goes on.
        (Verb::Reboot, Victim::Own | Victim::Client) => &[Running],
        (Verb::Reboot, Victim::Emulator) => match step {
            Step::Asked => &[Halted],
            // Either end may be seen first.
            Step::Sent => &[Halted, Running],
            Step::Recorded => &[Failed],
            Step::Launched | Step::Started => &[Halted, Failed],
            _ => &[Running],
        },
        _ => panic!("no expectation for {verb} at {}", step.as_str()),
    }
}

#[test]
fn every_step_of_the_engine_has_its_fault_tests() {
    let tested = [VERBS, super::images::VERBS].concat();
    for step in Step::ALL {
        let covered = tested.iter().any(|verb| Step::of(*verb).contains(step));
        assert!(covered, "no crash test reaches {}", step.as_str());
    }
    for verb in Verb::ALL {
        let known = tested.contains(verb) || Step::of(*verb).is_empty();
        assert!(known, "{verb} has steps and no crash test");
    }
}

fn on_the_mock(verb: Verb, kind: Kind) {
    for step in Step::of(verb) {
        for victim in VICTIMS {
            let host = Host::new();
            one(&host, &guest::mock("web", ""), verb, *step, *victim, kind);
        }
    }
}

#[test]
fn a_create_cut_off_at_any_step_leaves_a_domain_that_runs_or_nothing() {
    on_the_mock(Verb::Create, Kind::Transient);
}

#[test]
fn a_start_cut_off_at_any_step_leaves_a_domain_that_runs_or_rests() {
    on_the_mock(Verb::Start, Kind::Managed);
}

#[test]
fn a_shutdown_cut_off_at_any_step_is_finished_or_never_began() {
    on_the_mock(Verb::Shutdown, Kind::Managed);
}

#[test]
fn a_shutdown_of_a_transient_domain_cut_off_at_any_step_is_finished_or_never_began() {
    on_the_mock(Verb::Shutdown, Kind::Transient);
}

#[test]
fn a_reboot_cut_off_at_any_step_is_finished_or_never_began() {
    on_the_mock(Verb::Reboot, Kind::Managed);
}

#[test]
fn a_reboot_of_a_transient_domain_cut_off_at_any_step_is_finished_or_never_began() {
    on_the_mock(Verb::Reboot, Kind::Transient);
}

#[test]
fn a_destroy_cut_off_at_any_step_is_finished() {
    on_the_mock(Verb::Destroy, Kind::Managed);
}

#[test]
fn a_destroy_of_a_transient_domain_cut_off_at_any_step_is_finished() {
    on_the_mock(Verb::Destroy, Kind::Transient);
}

#[test]
fn on_qemu_a_monitor_killed_at_any_step_costs_no_domain_either() {
    let config = match guest::qemu("x86_64", "web", "tick=200", "") {
        Ok(config) => config,
        Err(reason) => return skip::skip("crash on qemu", &reason),
    };
    let _slot = guest::slot();
    for step in Step::of(Verb::Create) {
        one(&Host::new(), &config, Verb::Create, *step, Victim::Own, Kind::Transient);
    }
    for step in [Step::Stopping, Step::Killed] {
        one(&Host::new(), &config, Verb::Destroy, step, Victim::Own, Kind::Managed);
    }
    for (verb, step) in [(Verb::Shutdown, Step::Sent), (Verb::Reboot, Step::Killed)] {
        one(&Host::new(), &config, verb, step, Victim::Own, Kind::Managed);
    }
}

/// One fault.
fn one(host: &Host, config: &str, verb: Verb, step: Step, victim: Victim, kind: Kind) {
    let case = format!("{} at {} of {verb} ({kind:?})", victim.word(), step.as_str());
    eprintln!("{case}");
    let path = host.file("web.cfg", config);
    let path = path.to_str().unwrap();
    if kind == Kind::Managed {
        host.ok(["new", path]);
    }
    let args: &[&str] = match verb {
        Verb::Create => &["create", path],
        Verb::Start => &["start", "web"],
        Verb::Shutdown => &["shutdown", "-ww", "web"],
        Verb::Reboot => &["reboot", "-ww", "web"],
        _ => &["destroy", "web"],
    };
    let before = if matches!(verb, Verb::Create | Verb::Start) {
        None
    } else {
        Some(running(host, kind, path))
    };
    act(host, args, &case, step, victim);

    host.kxl(["recover"]).expect(0);
    let states = allowed(verb, step, victim);
    wait::eventually(&format!("{case}: comes to rest as one of {states:?}"), || {
        rests_as_allowed(host, states, kind)
    });
    alone(host, &case);
    // The first one leaves alone what the victim, not quite dead, still had locked.
    host.kxl(["recover"]).expect(0);
    if let (Some(before), Some(after)) = (before, host.find("web")) {
        assert_eq!(before.uuid(), after.uuid(), "{case}");
        if verb == Verb::Shutdown && victim != Victim::Emulator && after.state() == Halted {
            // A shutdown that was finished by another monitor was no destroy.
            assert_eq!(after.reason(), Some("poweroff"), "{case}");
        }
    }
    usable_again(host, path, kind, &case);
}

/// Brings the domain up, and takes its first monitor away: the next one is started by the
/// command that is to be cut off, and with its fault.
fn running(host: &Host, kind: Kind, path: &str) -> crate::support::Domain {
    match kind {
        Kind::Managed => drop(host.ok(["start", "web"])),
        Kind::Transient => drop(host.ok(["create", path])),
    }
    let mut console = crate::support::Console::attach(host, "web");
    console.expect("READY");
    drop(console);
    let domain = host.domain("web");
    host.monitor_of(&domain).kill();
    domain
}

/// Runs the command with the fault, and checks that the step was reached and the victim died.
pub(super) fn act(host: &Host, args: &[&str], case: &str, step: Step, victim: Victim) {
    let fault = format!("{}@{}", victim.word(), step.as_str());
    let mut command = host.command("kxl", args);
    command.env("KXL_FAULT", fault).env("KXL_LOG", "trace");
    let output = crate::support::run::run(&mut command, wait::BOOT);
    let reached = format!("step=\"{}\"", step.as_str());
    let log = || {
        let dir = host.root.join("var/log/kxl/web.monitor.log");
        std::fs::read_to_string(dir).unwrap_or_default()
    };
    if matches!(step, Step::Locked | Step::Claimed) {
        assert!(output.stderr.contains(&reached), "{case}: not reached\n{output}");
        if victim != Victim::Emulator {
            use std::os::unix::process::ExitStatusExt;
            let signal = output.status.signal();
            assert_eq!(signal, Some(Signal::SIGKILL as i32), "{case}\n{output}");
        }
    } else {
        // A command that was killed does not wait for the step.
        wait::eventually(&format!("{case}: reached"), || log().contains(&reached));
    }
}

fn rests_as_allowed(host: &Host, states: &[State], kind: Kind) -> bool {
    let Some(domain) = host.find("web") else {
        let off = states.iter().any(|state| matches!(state, Absent | Halted | Failed));
        return kind == Kind::Transient && off;
    };
    domain.rests().is_some_and(|state| states.contains(&state))
        && (kind == Kind::Managed || domain.domid().is_some())
}

/// One emulator and one monitor for a live domain, none for another. For a moment the domain of an
/// emulator that was killed is still listed as it was.
pub(super) fn alone(host: &Host, case: &str) {
    wait::eventually(&format!("{case}: as many emulators and monitors as domains"), || {
        let live = usize::from(host.find("web").is_some_and(|domain| domain.domid().is_some()));
        (host.emulators().len(), host.monitors().len()) == (live, live)
    });
}

/// Destroy, delete and a new domain of the same name go as ever, and nothing is left of it all.
fn usable_again(host: &Host, path: &str, kind: Kind, case: &str) {
    if host.find("web").is_some_and(|domain| domain.domid().is_some()) {
        host.ok(["destroy", "web"]);
    }
    if kind == Kind::Managed {
        host.ok(["delete", "web"]);
    }
    assert!(host.find("web").is_none(), "{case}: still listed");
    host.quiet();
    assert_eq!(host.leftovers(), [""; 0], "{case}");
    host.ok(["create", path]);
    host.ok(["destroy", "web"]);
    host.quiet();
    assert_eq!(host.leftovers(), [""; 0], "{case}");
}
