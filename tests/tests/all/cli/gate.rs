//! The gate: who passes, what passes, and what a hostile caller gets.
//!
//! The callers are other users, so that the tests need root.

use std::fs::{self, File, Permissions};
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use kxl_domain::State;
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::termios::{LocalFlags, tcgetattr};

use crate::support::host::{COMMAND, programs};
use crate::support::process::{Proc, Role};
use crate::support::run::{self, Output, Running};
use crate::support::skip::skip;
use crate::support::terminal::Terminal;
use crate::support::{Host, guest, wait};

/// A user that owns nothing.
const NOBODY: u32 = 65534;
/// A group that every system has.
const GROUP: (&str, u32) = ("daemon", 1);
pub(super) const PASSWORD: &str = "correct horse";

/// A host with a gate and a domain `web`, and a copy of the program where everybody may run it.
struct Gated {
    host: Host,
    program: PathBuf,
    _gate: Running,
}

fn root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skip(test, "only root can be other users");
    }
    root
}

impl Gated {
    fn new(settings: &str) -> Self {
        let host = Host::new();
        host.create("web", &guest::mock("web", ""));
        Self::set(&host, settings);
        let program = host.scratch().join("kxl");
        fs::copy(programs().join("kxl"), &program).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        let gate = host.begin(&["gate", "serve", "--foreground"]);
        let socket = host.root.join("run/kxl-gate/gate.sock");
        wait::eventually("the gate listens", || UnixStream::connect(&socket).is_ok());
        Self { host, program, _gate: gate }
    }

    fn with_password() -> Self {
        let hash = hash();
        Self::new(&hash)
    }

    fn set(host: &Host, settings: &str) {
        let dir = host.root.join("etc/kxl");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("kxl.conf"), settings).unwrap();
        fs::set_permissions(dir.join("kxl.conf"), Permissions::from_mode(0o600)).unwrap();
    }

    /// A command of another user's.
    fn command(&self, groups: &str, args: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        let uid = NOBODY.to_string();
        command.args(["--reuid", &uid, "--regid", &uid, groups]);
        command.arg(&self.program).args(args);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("KXL_ROOT", &self.host.root);
        command.env("SECRET_OF_THE_CALLER", "1").current_dir("/");
        // Without a terminal to ask at.
        command.process_group(0);
        command
    }

    fn nobody(&self, args: &[&str]) -> Output {
        run::run(&mut self.command("--clear-groups", args), COMMAND)
    }

    fn nobody_knows(&self, password: &str, args: &[&str]) -> Output {
        let mut command = self.command("--clear-groups", args);
        run::run(command.env("KXL_PASSWORD", password), COMMAND)
    }

    fn socket(&self) -> UnixStream {
        UnixStream::connect(self.host.root.join("run/kxl-gate/gate.sock")).unwrap()
    }

    /// The command that the gate runs with these words.
    fn at_work(&self, words: &[&str]) -> Vec<Proc> {
        let processes = self.host.processes().into_iter();
        let at_work = processes.filter(|process| {
            process.role == Role::Command
                && process.args.first().is_some_and(|name| name == "kxl")
                && process.args[1..].iter().take(words.len()).eq(words.iter())
                && !process.args.contains(&"--gate".to_owned())
        });
        at_work.collect()
    }
}

/// The line for kxl.conf, made as an administrator makes it.
pub(super) fn hash() -> String {
    let mut child = Command::new(programs().join("kxl"))
        .args(["gate", "password"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{PASSWORD}").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_gate_that_would_let_nobody_in_does_not_start() {
    let host = Host::new();
    let refused = host.refused(2, &["gate", "serve"]);
    assert!(refused.stderr.contains("control_group"), "{refused}");
    Gated::set(&host, "control_group = \"no-such-group\"\n");
    assert!(host.refused(2, &["gate", "serve"]).stderr.contains("no-such-group"));
    Gated::set(&host, "control_password_hash = \"secret\"\n");
    assert!(host.refused(2, &["gate", "serve"]).stderr.contains("no hash of a password"));
    assert!(!hash().contains(PASSWORD));
    assert!(host.refused(1, &["--gate", "list"]).stderr.contains("kxl gate serve"));
}

#[test]
fn whoever_knows_the_password_passes_and_nobody_else() {
    if !root("whoever_knows_the_password_passes") {
        return;
    }
    let gated = Gated::with_password();
    let host = &gated.host;
    let without = gated.nobody(&["--gate", "list"]).expect(1);
    assert!(without.stderr.contains("password") && without.stdout.is_empty(), "{without}");
    let right = gated.nobody_knows(PASSWORD, &["--gate", "list"]).expect(0);
    assert!(right.stdout.contains("web"), "{right}");
    gated.nobody_knows(PASSWORD, &["--gate", "pause", "web"]).expect(0);
    assert_eq!(host.domain("web").state(), State::Paused);
    gated.nobody_knows(PASSWORD, &["shell", "unpause", "web"]).expect(1);
    gated.nobody(&["shell", "-p", PASSWORD, "unpause", "web"]).expect(0);
    assert_eq!(host.domain("web").state(), State::Running);
    assert!(gated.nobody_knows(PASSWORD, &["--gate", "status"]).expect(0).stderr.is_empty());
    // Its own failures and statuses come back as they are.
    let missing = gated.nobody_knows(PASSWORD, &["--gate", "pause", "nix"]).expect(3);
    assert!(missing.stderr.contains("there is no domain \"nix\""), "{missing}");
    gated.nobody_knows(PASSWORD, &["--gate", "stop", "web"]).expect(0);
    assert!(host.find("web").is_none(), "a transient domain goes when it is stopped");
    // Root needs none, but one that is given has to be right.
    host.ok(["--gate", "list"]);
    host.ok(["shell", "-p", PASSWORD, "list"]);
    assert!(host.refused(1, &["shell", "-p", "another", "list"]).stderr.contains("is wrong"));
    // Neither of them stands in the environment, or among the arguments, of what did the work.
    let events = host.ok(["events", "--json"]);
    assert!(events.contains("gate-command"), "{events}");
    assert!(events.contains("nobody (uid 65534): pause web"), "{events}");
    assert!(!events.contains(PASSWORD), "{events}");
}

#[test]
fn wrong_passwords_keep_their_user_out_even_with_the_right_one_and_are_events() {
    if !root("wrong_passwords_keep_their_user_out") {
        return;
    }
    let gated = Gated::with_password();
    let wrong = |text: &str| {
        let refused = gated.nobody_knows(text, &["--gate", "list"]).expect(1);
        assert!(refused.stdout.is_empty(), "{refused}");
        refused.stderr
    };
    // At the same moment: one is looked at, the other is kept out by it or waits for its turn.
    let tries: Vec<Running> = (0..4)
        .map(|_| {
            let mut command = gated.command("--clear-groups", &["--gate", "list"]);
            run::start(command.env("KXL_PASSWORD", "guess"))
        })
        .collect();
    let told: Vec<String> =
        tries.into_iter().map(|one| one.end(COMMAND).expect(1).stderr).collect();
    let looked_at = told.iter().filter(|text| text.contains("the password is wrong")).count();
    assert_eq!(looked_at, 1, "{told:?}");
    // The second one keeps its user out for two seconds, a third for four.
    wait::eventually("another try is looked at", || wrong("guess").contains("is wrong"));
    wait::eventually("another try is looked at", || wrong("guess").contains("is wrong"));
    assert!(wrong(PASSWORD).contains("try again in"), "the right one is not looked at either");
    wait::eventually("the user is let in again", || {
        gated.nobody_knows(PASSWORD, &["--gate", "list"]).code() == Some(0)
    });
    let events = gated.host.ok(["events", "--json", "--what", "gate-refused"]);
    assert_eq!(events.lines().count(), 3, "those who are kept out make no events: {events}");
    assert!(events.contains("wrong password, 3 in a row"), "{events}");
}

#[test]
fn members_of_the_group_pass_also_where_it_is_not_their_first_one() {
    if !root("members_of_the_group_pass") {
        return;
    }
    let gated = Gated::new(&format!("control_group = \"{}\"\n", GROUP.0));
    let groups = format!("--groups={}", GROUP.1);
    let member = run::run(&mut gated.command(&groups, &["--gate", "list"]), COMMAND).expect(0);
    assert!(member.stdout.contains("web"), "{member}");
    let other = gated.nobody(&["--gate", "list"]).expect(1);
    assert!(other.stderr.contains("control_group") && other.stdout.is_empty(), "{other}");
    // Where a service manager has made the socket for everybody, the gate itself looks.
    let socket = gated.host.root.join("run/kxl-gate/gate.sock");
    fs::set_permissions(socket, Permissions::from_mode(0o666)).unwrap();
    let other = gated.nobody(&["--gate", "list"]).expect(1);
    assert!(other.stderr.contains("nobody may not come through"), "{other}");
    // Out of the settings is out, at once.
    Gated::set(&gated.host, "control_group = \"root\"\n");
    run::run(&mut gated.command(&groups, &["--gate", "list"]), COMMAND).expect(1);
}

#[test]
fn what_is_not_on_the_list_does_not_pass() {
    if !root("what_is_not_on_the_list_does_not_pass") {
        return;
    }
    let gated = Gated::with_password();
    let file = gated.host.file("other.cfg", &guest::mock("other", ""));
    fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
    for words in [
        vec!["destroy", "web"],
        vec!["create", file.to_str().unwrap()],
        vec!["save", "web", "/tmp/kxl-gate-was-here"],
        vec!["list", "--long"],
        vec!["pause", "../web"],
        vec!["info"],
    ] {
        let args: Vec<&str> = ["--gate"].into_iter().chain(words.iter().copied()).collect();
        let refused = gated.nobody_knows(PASSWORD, &args).expect(1);
        assert!(refused.stdout.is_empty(), "{refused}");
    }
    assert!(gated.host.find("other").is_none());
    assert_eq!(gated.host.domain("web").state(), State::Running);
}

/// Sends bytes with descriptors, past kxl's own client.
fn send(stream: &UnixStream, bytes: &[u8], fds: &[RawFd]) {
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
    let iov = [IoSlice::new(bytes)];
    let _hung_up = sendmsg::<()>(stream.as_raw_fd(), &iov, control, MsgFlags::MSG_NOSIGNAL, None);
}

/// Sends a request with these words and streams; the answer.
fn ask(gated: &Gated, words: &[&str], streams: &[&File; 3]) -> String {
    let request = serde_json::json!({
        "v": 1, "words": words, "term": "x y/../z", "plain": false, "password": null,
    });
    let fds = streams.map(AsRawFd::as_raw_fd);
    answer(gated, format!("{request}\n").as_bytes(), &fds)
}

fn answer(gated: &Gated, bytes: &[u8], fds: &[RawFd]) -> String {
    let mut stream = gated.socket();
    send(&stream, bytes, fds);
    let mut text = String::new();
    // What it has not read it resets.
    let _reset = stream.read_to_string(&mut text);
    text
}

#[test]
fn a_hostile_caller_gets_no_further_by_words_sizes_or_descriptors() {
    if !root("a_hostile_caller_gets_no_further") {
        return;
    }
    let gated = Gated::with_password();
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    let nulls = [&null; 3];
    assert_eq!(ask(&gated, &["list"], &nulls).trim(), "{\"ended\":0}");
    let long = "x".repeat(5000);
    let many = vec!["web"; 300];
    for words in [
        &["destroy", "web"][..],
        &["--gate", "destroy", "web"],
        &["--", "destroy", "web"],
        &["pause", "--", "--help"],
        &["list", "--", "-l"],
        &["list", "-l"],
        &["pause", &long],
        &many,
        &["gate", "password"],
        &["shell"],
        &[],
        &["-V"],
    ] {
        let refused = ask(&gated, words, &nulls);
        assert!(refused.starts_with("{\"refused\""), "{words:?}: {refused}");
    }
    let kernel = File::open("/proc/self/environ").unwrap();
    let directory = File::open("/").unwrap();
    for bad in [&kernel, &directory] {
        let refused = ask(&gated, &["list"], &[&null, bad, &null]);
        assert!(refused.contains("terminals, pipes and plain files"), "{refused}");
    }
    let fds = [null.as_raw_fd(); 30];
    for (bytes, count) in [
        (&b"\n"[..], 3),
        (b"{}\n", 3),
        (b"{\"v\":1}\n", 0),
        (b"\xff\xfe\n", 3),
        (b"{\"v\":1,\"words\":[\"list\"],\"plain\":false}\n", 2),
        (b"{\"v\":1,\"words\":[\"list\"],\"plain\":false}\n", 30),
        (b"{\"v\":9,\"words\":[\"list\"],\"plain\":false}\n", 3),
        (&vec![b'['; 200_000], 3),
    ] {
        let refused = answer(&gated, bytes, &fds[..count]);
        // Where the rest of what was sent is not read, the refusal may be lost with it.
        assert!(refused.is_empty() || refused.starts_with("{\"refused\""), "{refused}");
    }
    gated.host.ok(["--gate", "list"]);
    assert_eq!(gated.host.domain("web").state(), State::Running);
}

#[test]
fn a_user_that_is_there_too_often_keeps_nobody_else_out() {
    if !root("a_user_that_is_there_too_often") {
        return;
    }
    let gated = Gated::with_password();
    let follow = || {
        let mut command = gated.command("--clear-groups", &["--gate", "events", "-f"]);
        run::start(command.env("KXL_PASSWORD", PASSWORD))
    };
    let following: Vec<Running> = (0..16).map(|_| follow()).collect();
    wait::eventually("all are at work", || gated.at_work(&["events", "-f"]).len() == 16);
    let refused = gated.nobody_knows(PASSWORD, &["--gate", "list"]).expect(1);
    assert!(refused.stderr.contains("too many are at the gate"), "{refused}");
    gated.host.ok(["--gate", "list"]);
    for one in following {
        one.signal(Signal::SIGKILL);
        drop(one.end(COMMAND));
    }
    wait::eventually("their places are free", || {
        gated.nobody_knows(PASSWORD, &["--gate", "list"]).code() == Some(0)
    });
}

#[test]
fn a_caller_that_says_nothing_or_never_comes_to_an_end_is_hung_up_on() {
    if !root("a_caller_that_says_nothing") {
        return;
    }
    let gated = Gated::with_password();
    let silent = gated.socket();
    let mut slow = gated.socket();
    let mut answers = Vec::new();
    for byte in 0..200 {
        // One byte at a time, for as long as it is let.
        if byte > 0 && slow.write_all(b"[").is_err() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    for mut stream in [silent, slow] {
        let mut text = String::new();
        let _reset = stream.read_to_string(&mut text);
        answers.push(text);
    }
    assert!(answers[0].contains("timed out"), "{answers:?}");
    gated.host.ok(["--gate", "list"]);
}

#[test]
fn a_command_has_the_callers_streams_and_nothing_else_of_anybodys() {
    if !root("a_command_has_the_callers_streams") {
        return;
    }
    let gated = Gated::with_password();
    let mut command = gated.command("--clear-groups", &["--gate", "events", "-f"]);
    let following = run::start(command.env("KXL_PASSWORD", PASSWORD).env("TERM", "a;b"));
    let worker = wait::until("the command is at work", wait::SOON, || {
        gated.at_work(&["events", "-f"]).into_iter().next()
    });
    let env = fs::read(format!("/proc/{}/environ", worker.pid())).unwrap();
    let env = String::from_utf8(env).unwrap();
    for secret in ["SECRET_OF_THE_CALLER", "KXL_PASSWORD", "TERM=", "KXL_GATE"] {
        assert!(!env.contains(secret), "{secret} is in {env:?}");
    }
    assert!(env.contains("KXL_ON_BEHALF=nobody (uid 65534)"), "{env:?}");
    let sockets = |process: &Proc| {
        let fds = process.fds().into_iter();
        fds.filter(|(_, target)| target.starts_with("socket:")).collect::<Vec<_>>()
    };
    assert_eq!(sockets(&worker), [], "neither the gate's socket nor the caller's connection");
    // A caller that dies takes its command with it.
    following.signal(Signal::SIGKILL);
    wait::eventually("the command ends", || !worker.alive());
    drop(following.end(COMMAND));
}

#[test]
fn an_interrupt_goes_to_the_command_and_its_end_comes_back() {
    if !root("an_interrupt_goes_to_the_command") {
        return;
    }
    let gated = Gated::with_password();
    let mut command = gated.command("--clear-groups", &["--gate", "events", "-f"]);
    let following = run::start(command.env("KXL_PASSWORD", PASSWORD));
    let worker = wait::until("the command is at work", wait::SOON, || {
        gated.at_work(&["events", "-f"]).into_iter().next()
    });
    following.signal(Signal::SIGINT);
    let output = following.end(COMMAND);
    assert_eq!(output.status.signal(), Some(Signal::SIGINT as i32), "{output}");
    assert!(output.stdout.contains("web"), "{output}");
    assert!(!worker.alive());
}

#[test]
fn a_console_through_the_gate_has_the_callers_terminal() {
    if !root("a_console_through_the_gate") {
        return;
    }
    let gated = Gated::with_password();
    let mut command = gated.command("--clear-groups", &["--gate", "console", "web"]);
    command.env("KXL_PASSWORD", PASSWORD);
    let mut terminal = Terminal::run(&command);
    terminal.expect("^] leaves");
    terminal.expect("C ");
    let raw = |terminal: &Terminal| {
        !tcgetattr(&terminal.slave).unwrap().local_flags.contains(LocalFlags::ICANON)
    };
    assert!(raw(&terminal));
    terminal.keys("\u{1d}");
    assert_eq!(terminal.ended(), Some(0));
    assert!(!raw(&terminal), "the terminal was left raw");
    let events = gated.host.ok(["events", "web", "--json"]);
    assert!(events.contains("nobody (uid 65534): console web"), "{events}");
}

#[test]
fn a_listening_socket_as_standard_input_is_served() {
    if !root("a_listening_socket_as_standard_input") {
        return;
    }
    let host = Host::new();
    Gated::set(&host, &hash());
    let dir = host.root.join("run/kxl-gate");
    fs::create_dir_all(&dir).unwrap();
    let listener = UnixListener::bind(dir.join("gate.sock")).unwrap();
    let mut command = host.command("kxl", ["gate", "serve"]);
    let mut gate = command.stdin(OwnedFd::from(listener)).spawn().unwrap();
    assert_eq!(host.ok(["--gate", "list", "--json"]).trim(), "[]");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(gate.id()).unwrap()),
        Signal::SIGTERM,
    )
    .unwrap();
    assert!(gate.wait().unwrap().success());
    assert!(dir.join("gate.sock").exists(), "the socket belongs to who has made it");
}

#[test]
fn the_gate_in_the_background_lets_its_caller_go_and_there_is_only_one() {
    let host = Host::new();
    Gated::set(&host, &hash());
    let output = host.kxl(["gate", "serve"]).expect(0);
    assert!(output.stderr.contains("serves the gate"), "{output}");
    host.ok(["--gate", "list"]);
    host.refused(1, &["gate", "serve"]);
    let gates: Vec<_> = host.processes();
    assert_eq!(gates.len(), 1, "{gates:?}");
    gates[0].signal(Signal::SIGTERM);
    wait::eventually("it ends", || !gates[0].alive());
    // What it has left in its place keeps nobody from listening there.
    host.kxl(["gate", "serve"]).expect(0);
    host.ok(["--gate", "list"]);
}
