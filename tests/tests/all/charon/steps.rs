//! kill -9 of the monitor, of the command and of the emulator at the moments of a start and of a
//! stop that no step of the engine marks: while a script of the operator's runs, behind its end,
//! and while an emulator goes into the background and opens its port.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kxl_domain::State;
use nix::sys::signal::Signal;

use super::{Guest, configuration, free_port, standin};
use crate::support::host::COMMAND;
use crate::support::process::Proc;
use crate::support::run::Running;
use crate::support::{Domain, Host, wait};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Monitor,
    Command,
    Emulator,
}

const ALL: [Victim; 3] = [Victim::Monitor, Victim::Command, Victim::Emulator];

/// Where something stands until it is let go.
struct Gate {
    began: PathBuf,
    go: PathBuf,
}

impl Gate {
    fn new(host: &Host, name: &str) -> Self {
        let place = |end: &str| host.scratch().join(format!("{name}.{end}"));
        Self { began: place("began"), go: place("go") }
    }

    /// The lines of a script that wait here.
    fn lines(&self) -> String {
        let (began, go) = (self.began.display(), self.go.display());
        format!("touch {began}\nuntil test -e {go}; do sleep 0.05; done")
    }

    fn reached(&self) {
        wait::eventually("it has come to the gate", || self.began.exists());
    }

    fn open(&self) {
        fs::write(&self.go, "").unwrap();
    }
}

fn script(host: &Host, name: &str, text: &str) -> PathBuf {
    let file = host.file(name, &format!("#!/bin/sh\n{text}\n"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
    file
}

fn key(name: &str, file: &Path) -> String {
    format!("{name} = \"{}\"\n", file.display())
}

fn kill(host: &Host, victim: Victim, command: &Running) {
    match victim {
        Victim::Monitor => host.monitor_of_name("ds20").kill(),
        Victim::Command => command.signal(Signal::SIGKILL),
        Victim::Emulator => host.emulator_of(&host.domain("ds20")).kill(),
    }
}

/// What an operator does afterwards; the domain as it rests then.
fn settled(host: &Host, case: &str) -> Domain {
    host.ok(["recover"]);
    let domain = wait::until(&format!("{case}: it comes to rest"), wait::SOON, || {
        host.find("ds20").filter(|domain| domain.rests().is_some())
    });
    let live = domain.rests().is_some_and(State::is_live);
    wait::eventually(&format!("{case}: one emulator where it lives, none where not"), || {
        host.emulators().len() == usize::from(live)
    });
    domain
}

/// It can be started, used and ended, and lets go of its port.
fn usable(host: &Host, guest: &Guest, case: &str) {
    if !host.domain("ds20").state().is_live() {
        guest.start(host);
    }
    guest.telnet().expect("P00>>>");
    assert_eq!(host.emulators().len(), 1, "{case}: {:?}", host.emulators());
    host.ok(["destroy", "ds20"]);
    assert_eq!(host.emulators().len(), 0, "{case}");
    wait::eventually(&format!("{case}: the port is free"), || {
        std::net::TcpListener::bind(("127.0.0.1", guest.port)).is_ok()
    });
}

#[test]
fn a_death_while_the_script_before_a_start_runs_leaves_no_emulator_or_a_started_one() {
    for victim in [Victim::Monitor, Victim::Command] {
        let case = format!("{victim:?} during prestart");
        let host = Host::new();
        let gate = Gate::new(&host, "pre");
        let before = script(&host, "pre", &gate.lines());
        let guest = Guest::new(&host, "ds20", "", &key("prestart", &before));
        let command = host.begin(&["start", "ds20"]);
        gate.reached();
        kill(&host, victim, &command);
        gate.open();
        let _killed_or_told = command.end(COMMAND);
        let domain = if victim == Victim::Monitor {
            settled(&host, &case)
        } else {
            host.rests("ds20", State::Running)
        };
        let want = if victim == Victim::Monitor { State::Failed } else { State::Running };
        assert_eq!(domain.state(), want, "{case}: {domain:?}");
        usable(&host, &guest, &case);
    }
}

#[test]
fn a_monitor_that_dies_between_the_script_and_the_emulator_has_started_none() {
    let host = Host::new();
    let flag = host.scratch().join("once");
    // Whoever runs the script is its parent.
    let text = format!("test -e {0} && exit 0\ntouch {0}\nkill -9 $PPID", flag.display());
    let guest = Guest::new(&host, "ds20", "", &key("prestart", &script(&host, "pre", &text)));
    host.kxl(["start", "ds20"]).expect(1);
    assert!(flag.exists());
    let case = "monitor behind prestart";
    assert_eq!(settled(&host, case).state(), State::Failed);
    usable(&host, &guest, case);
}

/// A start that stands at a gate while somebody is killed.
fn cut_start(victim: Victim, case: &str, guest: impl Fn(&Host, &Gate) -> Guest) {
    let case = format!("{victim:?} {case}");
    eprintln!("{case}");
    let host = Host::new();
    let gate = Gate::new(&host, "gate");
    let guest = guest(&host, &gate);
    let command = host.begin(&["start", "ds20"]);
    gate.reached();
    // One that goes into the background is another process than the one that is recorded.
    match victim {
        Victim::Emulator => host.emulators().iter().for_each(Proc::kill),
        _ => kill(&host, victim, &command),
    }
    gate.open();
    let _killed_or_told = command.end(COMMAND);
    let domain = settled(&host, &case);
    if victim == Victim::Command {
        assert_eq!(domain.state(), State::Running, "{case}: {domain:?}");
    }
    usable(&host, &guest, &case);
}

#[test]
fn a_death_before_an_emulator_goes_into_the_background_leaves_one_at_most() {
    for victim in ALL {
        cut_start(victim, "before the background", |host, gate| {
            let (began, go) = (gate.began.display(), gate.go.display());
            let text = format!(
                "test -e {began} || {{ touch {began}; until test -e {go}; do sleep 0.05; done; }}\n\
                 exec {} \"$@\"",
                standin()
            );
            let program = script(host, "emulator", &text).display().to_string();
            let port = free_port();
            let file = configuration(host, "ds20", port, "");
            Guest::with_program(host, "ds20", port, file, &program, "")
        });
    }
}

#[test]
fn a_death_before_the_console_has_its_port_leaves_one_emulator_at_most() {
    for victim in ALL {
        cut_start(victim, "before the port", |host, gate| {
            let more = format!(
                "set session at_gate=\"{}\" gate=\"{}\"\n",
                gate.began.display(),
                gate.go.display()
            );
            Guest::new(host, "ds20", &more, "")
        });
    }
}

#[test]
fn a_death_while_a_stop_script_runs_ends_in_a_domain_that_is_off() {
    for victim in ALL {
        let case = format!("{victim:?} during the stop script");
        eprintln!("{case}");
        let host = Host::new();
        let gate = Gate::new(&host, "stop");
        let off =
            "{ printf 'power off\\r'; sleep 1; } | kxl console --steal $KXL_DOMAIN > /dev/null";
        let path = format!("PATH={}:$PATH", host.bin().display());
        let stop = script(&host, "stop", &format!("{path}\n{}\n{off}", gate.lines()));
        let guest = Guest::new(&host, "ds20", "", &key("stop_script", &stop));
        guest.start(&host);
        guest.telnet().expect("P00>>>");
        let command = host.begin(&["stop", "ds20"]);
        gate.reached();
        kill(&host, victim, &command);
        gate.open();
        let _killed_or_told = command.end(COMMAND);
        let _asks_for_it = host.ok(["recover"]);
        let domain = host.rests("ds20", State::Halted);
        let want = if victim == Victim::Emulator { "crash" } else { "poweroff" };
        assert_eq!(domain.reason(), Some(want), "{case}: {domain:?}");
        fs::write(&stop, "#!/bin/sh\n").unwrap();
        usable(&host, &guest, &case);
    }
}

#[test]
fn a_death_between_the_end_of_a_stop_script_and_that_of_the_emulator_ends_in_a_stop_all_the_same() {
    for victim in ALL {
        let case = format!("{victim:?} behind the stop script");
        eprintln!("{case}");
        let host = Host::new();
        let told = host.scratch().join("told");
        let stop = script(&host, "stop", &format!("touch {}", told.display()));
        let keys = format!("{}stopwaitsecs = 5\n", key("stop_script", &stop));
        let guest = Guest::new(&host, "ds20", "", &keys);
        guest.start(&host);
        let command = host.begin(&["stop", "ds20"]);
        wait::eventually("the script has told the guest", || told.exists());
        kill(&host, victim, &command);
        let _killed_or_told = command.end(COMMAND);
        host.ok(["recover"]);
        // The emulator has not ended by itself within its time: a failed stop.
        let domain = host.rests("ds20", State::Halted);
        let want = if victim == Victim::Emulator { "crash" } else { "destroyed" };
        assert_eq!(domain.reason(), Some(want), "{case}: {domain:?}");
        let failed = host.events("ds20").iter().any(|event| event["what"] == "stop-failed");
        assert_eq!(failed, victim != Victim::Emulator, "{case}");
        fs::write(&stop, "#!/bin/sh\n").unwrap();
        usable(&host, &guest, &case);
    }
}

#[test]
fn a_death_at_any_step_of_a_stop_by_script_ends_in_a_domain_that_is_off() {
    for step in ["asked", "sent", "stopping", "killed", "resting", "removed"] {
        for what in ["kill", "kill-emulator"] {
            let fault = format!("{what}@{step}");
            eprintln!("{fault}");
            let host = Host::new();
            // It fails: the power is taken away.
            let stop = script(&host, "stop", "sync\nexit 1");
            let guest = Guest::new(&host, "ds20", "", &key("stop_script", &stop));
            host.kxl_with("KXL_FAULT", &fault, &["start", "ds20"]).expect(0);
            let _fails_one_way_or_the_other = host.kxl(["stop", "ds20"]);
            let domain = settled(&host, &fault);
            // A monitor that died before the script began leaves it to be asked once more.
            if domain.state().is_live() {
                assert_eq!(fault, "kill@asked", "{domain:?}");
                let _fails_again = host.kxl(["stop", "ds20"]);
            }
            let domain = settled(&host, &fault);
            assert_eq!(domain.state(), State::Halted, "{fault}: {domain:?}");
            fs::write(&stop, "#!/bin/sh\n").unwrap();
            usable(&host, &guest, &fault);
        }
    }
}
