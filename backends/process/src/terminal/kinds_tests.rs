//! Each kind of a profile's sections, carried out on a small real program.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

use kxl_backend::{ConsoleEnd, Event};
use kxl_domain::{GuestEvent, State};

use super::*;
use crate::testing::{Record, Scratch, Typist, monitor, next, report, rests};

const PYTHON: &str = "/usr/bin/python3";

/// A profile of a test's own around a program: a script of Python's, or of the shell's.
pub(super) struct Program {
    pub(super) scratch: Scratch,
    profile: String,
}

impl Program {
    /// `keys` are the sections of the profile after `[start]`; `start` more keys of that.
    pub(super) fn new(interpreter: &str, script: &str, start: &str, keys: &str) -> Self {
        let scratch = Scratch::new("kinds");
        let file = scratch.0.join("program");
        fs::write(&file, script).unwrap();
        let profile = format!(
            "schema = 1\nname = \"own\"\n[start]\nexec = \"{interpreter}\"\n\
             argv = [\"{}\", \"{{rundir}}\", \"{{port}}\"]\n{start}\n{keys}\n",
            file.display()
        );
        Self { scratch, profile }
    }

    pub(super) fn python(script: &str, start: &str, keys: &str) -> Option<Self> {
        if !Path::new(PYTHON).exists() {
            crate::testing::skip(&format!("{PYTHON} is missing; install python3"));
            return None;
        }
        Some(Self::new(PYTHON, script, start, keys))
    }

    pub(super) fn driver(&self) -> Driver {
        let path = self.scratch.0.join("own.toml");
        let profile = Profile::examine(&self.profile, None, &path);
        Driver::new(profile.unwrap_or_else(|mistake| panic!("{}", mistake.shown())))
    }

    /// With a uuid of its own: what the host keeps for a domain goes by its first part.
    pub(super) fn spec(&self) -> LaunchSpec {
        let mut hasher = DefaultHasher::new();
        self.scratch.0.hash(&mut hasher);
        let first = hasher.finish() >> 32;
        let uuid = format!("{first:08x}-0c7b-4c3e-8f5e-2d1f6c3b9a01");
        LaunchSpec { uuid: uuid.parse().unwrap(), ..self.scratch.spec() }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.scratch.0.join(name)
    }

    pub(super) async fn launched(&self) -> Running {
        self.launch(&self.spec()).await.unwrap()
    }

    pub(super) async fn launch(&self, spec: &LaunchSpec) -> Result<Running> {
        let mut record = Record::default();
        let mut live = self.driver().launch(spec, &mut record).await?;
        let events = live.events().unwrap();
        let (identity, attachments) = record.kept.unwrap();
        Ok(Running { live, events, identity, attachments })
    }

    pub(super) async fn adopted(&self, running: Running) -> Running {
        let Running { live, events, identity, attachments } = running;
        drop((live, events));
        let spec = self.spec();
        let mut live = self.driver().adopt(&spec, identity, &attachments).await.unwrap();
        let events = live.events().unwrap();
        let identity = live.process().identity().clone();
        Running { live, events, identity, attachments }
    }
}

pub(super) struct Running {
    pub(super) live: Box<dyn Live>,
    pub(super) events: mpsc::UnboundedReceiver<Event>,
    pub(super) identity: Identity,
    pub(super) attachments: Attachments,
}

impl Running {
    pub(super) fn console(&mut self) -> Typist {
        Typist::new(self.live.console().unwrap())
    }

    pub(super) async fn ended(&mut self) -> kxl_backend::Exit {
        loop {
            if let Event::Exited(exit) = next(&mut self.events).await {
                return exit;
            }
        }
    }
}

pub(super) const SIGNAL: &str = "[control]\nkind = \"signal\"\n";

/// Listens once, says who it is, echoes in upper case, ends at `q`.
pub(super) const ECHO_ON: &str = r#"
import os, socket, sys
def serve(server):
    server.listen(1)
    while True:
        line, _ = server.accept()
        try:
            talk(line)
        except OSError:
            pass
def talk(line):
    line.sendall(GREETING + b"ready\r\n")
    while True:
        data = line.recv(100)
        if not data: break
        if b"q" in data:
            line.sendall(b"bye\r\n")
            sys.exit(0)
        line.sendall(data.upper())
GREETING = b""
"#;

fn unix_script() -> String {
    format!(
        "{ECHO_ON}\nserver = socket.socket(socket.AF_UNIX)\n\
         server.bind(sys.argv[1] + \"/line\")\nserve(server)\n"
    )
}

pub(super) const UNIX: &str = "[control]\nkind = \"signal\"\n[ready]\nkind = \"console-match\"\n\
                    match = \"ready\"\n[console]\nkind = \"unix\"\npath = \"{rundir}/line\"\n\
                    [exit]\ncode = { \"0\" = \"poweroff\" }\n";

#[test]
fn a_console_on_a_unix_socket_is_connected_and_taken_up_by_a_later_monitor() {
    let Some(program) = Program::python(&unix_script(), "", UNIX) else { return };
    monitor(async {
        let mut running = program.launched().await;
        let mut console = running.console();
        console.until("ready").await;
        console.send("abc").await;
        console.until("ABC").await;
        drop(console);
        let mut running = program.adopted(running).await;
        let mut console = running.console();
        console.until("ready").await;
        console.send("q").await;
        console.until("bye").await;
        assert_eq!(running.ended().await.meaning, Some(GuestEvent::Poweroff));
        assert_eq!(console.rest().await, "\r\n", "and the console is closed");
    });
}

#[test]
fn a_console_by_telnet_carries_every_byte_and_no_negotiation() {
    let script = format!(
        "{ECHO_ON}\nGREETING = b\"\\xff\\xfb\\x01\\xff\\xfb\\x03\\xff\\xfd\\x18\"\n\
         server = socket.create_server((\"127.0.0.1\", int(sys.argv[2])))\nserve(server)\n"
    );
    let keys = format!(
        "{SIGNAL}[ready]\nkind = \"tcp\"\n[console]\nkind = \"telnet\"\nport = \"{{port}}\"\n"
    );
    let Some(program) = Program::python(&script, "", &keys) else { return };
    monitor(async {
        let mut running = program.launched().await;
        let mut console = running.console();
        assert_eq!(console.until("ready\r\n").await, "ready\r\n", "options are no output");
        console.send("abc\r").await;
        assert_eq!(console.until("ABC\r").await, "ABC\r");
        drop(console);
        let mut running = program.adopted(running).await;
        let mut console = running.console();
        console.until("ready").await;
        running.live.destroy().await.unwrap();
    });
}

#[test]
fn a_stranger_at_the_port_of_a_console_is_not_called() {
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = stranger.local_addr().unwrap().port();
    let keys = format!(
        "{SIGNAL}[ready]\nkind = \"tcp\"\ntimeout_ms = 300\n[console]\nkind = \"telnet\"\n\
         port = \"{port}\"\n"
    );
    let program = Program::new("/bin/sh", "exec sleep 1000", "", &keys);
    stranger.set_nonblocking(true).unwrap();
    monitor(async {
        let error = program.launch(&program.spec()).await.err().unwrap();
        assert!(error.is_timeout(), "{error}");
        assert_eq!(stranger.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    });
}

#[test]
fn a_console_on_standard_streams_has_no_terminal_and_survives_its_monitor() {
    let script =
        "test -t 0 && echo terminal || echo plain\nwhile read word; do echo got $word; done";
    let keys = format!("{SIGNAL}[console]\nkind = \"stdio\"\n");
    let program = Program::new("/bin/sh", script, "", &keys);
    monitor(async {
        let mut running = program.launched().await;
        assert!(matches!(running.live.console(), Some(ConsoleEnd::Socket { .. })));
        let mut running = program.adopted(running).await;
        let mut console = running.console();
        console.send("one\n").await;
        assert!(console.until("got one").await.ends_with("got one"));
        running.live.destroy().await.unwrap();
    });
}

#[test]
fn a_console_in_a_file_is_followed() {
    let script = "echo up >> $1/out; sleep 0.1; echo more >> $1/out; exec sleep 1000";
    let keys = format!("{SIGNAL}[console]\nkind = \"file\"\npath = \"{{rundir}}/out\"\n");
    let program = Program::new("/bin/sh", script, "", &keys);
    monitor(async {
        let mut running = program.launched().await;
        let mut console = running.console();
        console.until("up\n").await;
        console.until("more\n").await;
        running.live.destroy().await.unwrap();
    });
}

#[test]
fn a_program_without_a_console_has_none_and_what_it_prints_is_in_its_log() {
    let keys = format!("{SIGNAL}[console]\nkind = \"none\"\n");
    let program = Program::new("/bin/sh", "echo last words; exit 3", "", &keys);
    monitor(async {
        let mut running = program.launched().await;
        assert!(running.live.console().is_none());
        let capabilities = program.driver().capabilities(&program.spec().config);
        assert!(!capabilities.has(kxl_domain::Capability::Console));
        let exit = running.ended().await;
        assert_eq!((exit.code, exit.text.as_str()), (Some(3), "exit status 3: last words"));
        let log = fs::read_to_string(program.path("emulator.log")).unwrap();
        assert!(log.contains("last words"), "{log}");
    });
}

#[test]
fn a_start_counts_when_the_program_has_lived_for_a_while() {
    let keys = format!("{SIGNAL}[ready]\nkind = \"alive\"\nafter_ms = 300000\n");
    let program = Program::new("/bin/sh", "echo no disk; exit 4", "", &keys);
    monitor(async {
        let error = program.launch(&program.spec()).await.err().unwrap().to_string();
        assert!(error.ends_with("exit status 4: no disk"), "{error}");
    });
}

#[test]
fn a_text_that_does_not_come_is_a_start_that_failed() {
    let keys = format!(
        "{SIGNAL}[ready]\nkind = \"console-match\"\nmatch = \"login:\"\ntimeout_ms = 300\n"
    );
    let program = Program::new("/bin/sh", "echo halt; exec sleep 1000", "", &keys);
    monitor(async {
        let error = program.launch(&program.spec()).await.err().unwrap();
        assert!(error.is_timeout() && error.to_string().contains("login:"), "{error}");
        assert!(error.to_string().contains("halt"), "it says what came instead: {error}");
    });
}

#[test]
fn a_port_that_is_listened_at_is_a_start() {
    let script = "import socket, sys, time\n\
                  s = socket.create_server((\"127.0.0.1\", int(sys.argv[2])))\ntime.sleep(1000)\n";
    let keys = format!("{SIGNAL}[ready]\nkind = \"tcp\"\nport = \"{{port}}\"\n");
    let Some(program) = Program::python(script, "", &keys) else { return };
    monitor(async {
        let mut running = program.launched().await;
        let port = running.attachments.notes.get("port").unwrap().parse().unwrap();
        assert!(ports::listens(running.identity.pid, port));
        running.live.destroy().await.unwrap();
    });
}

#[test]
fn a_frozen_program_rests_with_its_children_and_can_be_ended() {
    let keys = format!("{SIGNAL}[pause]\nkind = \"freezer\"\n");
    let program = Program::new("/bin/sh", "while :; do :; done & echo $!; wait", "", &keys);
    if let Err(error) = freezer::Freezer::make(&program.spec()) {
        crate::testing::skip(&format!("no freezer for us on this host: {error}"));
        return;
    }
    monitor(async {
        let mut running = program.launched().await;
        let mut console = running.console();
        let child = console.until("\n").await.trim().parse().unwrap();
        let child = Identity::of(child).unwrap();
        running.live.pause().await.unwrap();
        running.live.pause().await.unwrap();
        assert_eq!(next(&mut running.events).await, Event::Stopped);
        assert_eq!(report(&mut running.live).await.state, State::Paused);
        rests(&child, Duration::from_millis(200)).await;
        let mut running = program.adopted(running).await;
        assert_eq!(report(&mut running.live).await.state, State::Paused);
        running.live.unpause().await.unwrap();
        assert_eq!(next(&mut running.events).await, Event::Resumed);
        assert_eq!(report(&mut running.live).await.state, State::Running);
        running.live.pause().await.unwrap();
        running.live.destroy().await.unwrap();
        assert!(!running.identity.alive());
        // The loop is not the emulator: it was thawed with it, and its terminal has hung up.
        while child.alive() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

const TALKER: &str =
    "stty raw -echo 2>/dev/null\necho up\nread a\necho user\nread b\necho \"$a $b\"\nexit 0";

fn talk(second: &str) -> String {
    format!(
        "{SIGNAL}[shutdown]\nkind = \"script\"\nstep = [\n\
         {{ type = \"one\\n\", expect = \"user\" }},\n{second}]\n\
         [exit]\ncode = {{ \"0\" = \"poweroff\" }}\n"
    )
}

#[test]
fn a_talk_on_the_console_asks_a_guest_to_end() {
    let program = Program::new("/bin/sh", TALKER, "", &talk("{ type = \"two\\n\" },\n"));
    monitor(async {
        let mut running = program.launched().await;
        let mut console = running.console();
        console.until("up").await;
        running.live.powerdown().await.unwrap();
        // A second one beside the first would type into it.
        running.live.powerdown().await.unwrap();
        console.until("one two").await;
        assert_eq!(running.ended().await.meaning, Some(GuestEvent::Poweroff));
    });
}

#[test]
fn a_talk_that_gets_no_answer_is_told() {
    let step = "{ type = \"x\", expect = \"never\", timeout_ms = 200 }";
    let keys = format!("{SIGNAL}[shutdown]\nkind = \"script\"\nstep = [{step}]\n");
    let program = Program::new("/bin/sh", TALKER, "", &keys);
    monitor(async {
        let mut running = program.launched().await;
        let mut console = running.console();
        console.until("up").await;
        // After one that has come to nothing there may be another.
        for _ in 0..2 {
            running.live.powerdown().await.unwrap();
            let text = loop {
                if let Event::Warning { what: "shutdown-failed", text } =
                    running.events.recv().await.unwrap()
                {
                    break text;
                }
            };
            assert!(text.contains("\"never\" did not come"), "{text}");
        }
        running.live.destroy().await.unwrap();
    });
}

#[test]
fn a_program_of_the_administrators_asks_a_guest_to_end() {
    let script = "trap 'exit 0' TERM; echo $$ > $1/pid; echo up; while :; do sleep 0.01; done";
    let keys = format!(
        "{SIGNAL}[shutdown]\nkind = \"exec\"\n\
         argv = [\"/bin/sh\", \"-c\", \"kill $(cat $0/pid)\", \"{{rundir}}\"]\n\
         [exit]\ncode = {{ \"0\" = \"poweroff\" }}\n"
    );
    let program = Program::new("/bin/sh", script, "", &keys);
    monitor(async {
        let mut running = program.launched().await;
        let mut console = running.console();
        console.until("up").await;
        running.live.powerdown().await.unwrap();
        assert_eq!(running.ended().await.meaning, Some(GuestEvent::Poweroff));
    });
}

#[test]
fn an_end_goes_step_by_step_and_by_kill_at_last() {
    let keys = format!(
        "{SIGNAL}[[destroy.step]]\nkey = \"\\u001b[17~\"\nwait_ms = 1000\n\
         [[destroy.step]]\nsignal = \"TERM\"\nwait_ms = 1000\n"
    );
    let obeys = "stty raw -echo\necho up\nhead -c 5 | od -c\necho F6\nexit 7";
    for (script, code, signal) in [
        (obeys, Some(7), None),
        ("trap 'exit 8' TERM; echo up; while :; do sleep 0.01; done", Some(8), None),
        ("trap '' TERM; echo up; while :; do sleep 0.01; done", None, Some(9)),
    ] {
        let program = Program::new("/bin/sh", script, "", &keys);
        monitor(async {
            let mut running = program.launched().await;
            let mut console = running.console();
            console.until("up").await;
            let exit = running.live.destroy().await.unwrap();
            assert_eq!((exit.code, exit.signal), (code, signal), "{script}");
            assert_eq!(exit.meaning, None, "we have ended it");
        });
    }
}

const QEMU: &str = r#"schema = 1
name = "own"
[start]
exec = "qemu-system-x86_64"
argv = ["-nodefaults", "-machine", "none", "-display", "none", "-qmp", "unix:{rundir}/qmp.sock,server=on,wait=off"]
[control]
kind = "qmp"
socket = "{rundir}/qmp.sock"
[ready]
kind = "qmp-greeting"
[console]
kind = "none"
[pause]
kind = "qmp"
[reset]
kind = "qmp"
[shutdown]
kind = "qmp"
[[destroy.step]]
qmp = "quit"
wait_ms = 2000
[events]
"SHUTDOWN:host-qmp-quit" = "poweroff"
[exit]
code = { "*" = "crash" }
"#;

#[test]
fn an_emulator_that_listens_for_qmp_is_steered_by_a_profile_of_ones_own() {
    if crate::program::find(Path::new("qemu-system-x86_64")).is_none() {
        crate::testing::skip("qemu-system-x86_64 is missing; install qemu-system-x86");
        return;
    }
    let program = Program { scratch: Scratch::new("kinds"), profile: QEMU.into() };
    monitor(async {
        let mut running = program.launched().await;
        assert_eq!(report(&mut running.live).await.state, State::Running);
        running.live.pause().await.unwrap();
        assert_eq!(next(&mut running.events).await, Event::Stopped);
        assert_eq!(report(&mut running.live).await.state, State::Paused);
        running.live.unpause().await.unwrap();
        assert_eq!(next(&mut running.events).await, Event::Resumed);
        running.live.powerdown().await.unwrap();
        let mut running = program.adopted(running).await;
        assert_eq!(report(&mut running.live).await.state, State::Running);
        let exit = running.live.destroy().await.unwrap();
        assert_eq!((exit.code, exit.signal), (Some(0), None), "it was told to quit");
        // One that quits by itself says why.
        let mut running = program.launched().await;
        let dir = crate::sockets::Dir::open(&program.scratch.0).unwrap();
        dir.connect("qmp.sock").expect("the socket is there; QEMU serves one at a time");
        running.live.process().signal(nix::sys::signal::Signal::SIGKILL).unwrap();
        assert_eq!(running.ended().await.signal, Some(9));
    });
}

#[test]
fn a_console_is_offered_at_a_port_and_one_that_is_taken_is_refused_with_its_owner() {
    let port = ports::free(&[]).unwrap();
    let keys = format!("{SIGNAL}[console]\nkind = \"pty\"\npublish = \"{port}\"\n");
    let program = Program::new("/bin/sh", "exec cat", "", &keys);
    monitor(async {
        let mut running = program.launched().await;
        let listener = running.live.console_listener().unwrap();
        assert_eq!(listener.local_addr().unwrap().to_string(), format!("127.0.0.1:{port}"));
        running.live.destroy().await.unwrap();
        // Our own listener goes with its emulator; one that stays is somebody's.
        let error = program.launch(&program.spec()).await.err().unwrap().to_string();
        let us = format!("(pid {})", std::process::id());
        assert!(error.contains(&format!("port {port}")) && error.contains(&us), "{error}");
    });
}
