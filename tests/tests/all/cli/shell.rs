//! `kxl shell`: at a terminal, from a pipe, and for one action.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use kxl_domain::State;
use nix::sys::signal::Signal;
use nix::sys::termios::{LocalFlags, tcgetattr};

use super::gate::{PASSWORD, hash};
use crate::support::host::COMMAND;
use crate::support::process::Role;
use crate::support::run::Output;
use crate::support::terminal::{END, ENTER, INTERRUPT, TAB, Terminal, UP};
use crate::support::{Host, guest, wait};

const PROMPT: &str = "kxl> ";

/// A shell at a terminal, at its first prompt.
fn at_a_terminal(host: &Host) -> Terminal {
    let mut terminal = Terminal::run(&host.command("kxl", ["shell"]));
    terminal.expect(PROMPT);
    terminal
}

/// Types a line and waits for the next prompt; what was shown.
fn line(terminal: &mut Terminal, line: &str) -> String {
    terminal.keys(line);
    terminal.keys(ENTER);
    // The line itself comes back first.
    terminal.expect("\n");
    terminal.expect(PROMPT)
}

/// Gives a shell its lines by a pipe.
fn piped(host: &Host, lines: &str) -> Output {
    let mut command = host.command("kxl", ["shell"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // One that has read enough does not wait for the rest.
    let written = child.stdin.take().unwrap().write_all(lines.as_bytes());
    assert!(written.is_ok() || lines.len() > 65_536, "it does not read its lines");
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Output {
        line: format!("kxl shell < {lines:?}"),
        status: output.status,
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

fn two(host: &Host) {
    host.create("web", &guest::mock("web", ""));
    host.create("vax", &guest::mock("vax", ""));
}

#[test]
fn the_shell_shows_what_there_is_and_carries_out_what_is_typed() {
    let host = Host::new();
    two(&host);
    let mut terminal = Terminal::run(&host.command("kxl", ["shell"]));
    let greeting = terminal.expect(PROMPT);
    assert!(greeting.contains("web") && greeting.contains("vax"), "{greeting:?}");
    line(&mut terminal, "pause 'web'");
    assert_eq!(host.domain("web").state(), State::Paused);
    let shown = line(&mut terminal, "list web");
    assert!(shown.contains("paused") && !shown.contains("vax"), "{shown:?}");
    terminal.keys("quit");
    terminal.keys(ENTER);
    assert_eq!(terminal.ended(), Some(0));
}

#[test]
fn the_shell_starts_stops_and_restarts_as_supervisorctl_does() {
    let host = Host::new();
    for name in ["web", "vax"] {
        host.define(name, &guest::mock_with(name, "", "startsecs = 0"));
    }
    let mut terminal = Terminal::run(&host.command("kxl", ["shell"]));
    let greeting = terminal.expect(PROMPT);
    assert_eq!(greeting.matches("STOPPED").count(), 2, "{greeting:?}");
    line(&mut terminal, "start all");
    let status = line(&mut terminal, "status");
    assert_eq!(status.matches("RUNNING").count(), 2, "{status:?}");
    let before = host.domain("web").pid();
    line(&mut terminal, "restart web");
    assert_ne!(host.domain("web").pid(), before);
    line(&mut terminal, "stop web");
    let status = line(&mut terminal, "status web vax");
    assert!(status.contains("STOPPED") && status.contains("RUNNING"), "{status:?}");
    line(&mut terminal, "shutdown");
    assert!(host.monitors().is_empty());
    let status = line(&mut terminal, "status vax");
    assert!(status.contains("RUNNING"), "its monitor had left, and nothing else: {status:?}");
}

#[test]
fn errors_do_not_end_the_shell_and_neither_does_a_command_that_is_killed() {
    let host = Host::new();
    two(&host);
    let mut terminal = at_a_terminal(&host);
    assert!(line(&mut terminal, "pause nobody").contains("there is no domain \"nobody\""));
    assert!(line(&mut terminal, "dance").contains("unrecognized"));
    assert!(line(&mut terminal, "pause 'web").contains("is not closed"));
    // A console has the terminal raw; killed, it cannot put that right.
    terminal.keys("console vax");
    terminal.keys(ENTER);
    terminal.expect("leaves");
    let cooked = |terminal: &Terminal| {
        let settings = tcgetattr(&terminal.slave).unwrap();
        settings.local_flags.contains(LocalFlags::ISIG)
    };
    wait::eventually("the console has the terminal", || !cooked(&terminal));
    let consoles = host.processes().into_iter().filter(|process| {
        process.role == Role::Command && process.args.get(1).is_some_and(|word| word == "console")
    });
    let consoles: Vec<_> = consoles.collect();
    assert_eq!(consoles.len(), 1, "{:?}", host.processes());
    consoles[0].signal(Signal::SIGKILL);
    terminal.expect(PROMPT);
    assert!(line(&mut terminal, "list web").contains("running"));
    terminal.keys(END);
    assert_eq!(terminal.ended(), Some(0));
    assert!(cooked(&terminal), "the shell left the terminal raw");
}

#[test]
fn an_interrupt_ends_the_command_at_work_or_the_line_and_not_the_shell() {
    let host = Host::new();
    two(&host);
    let mut terminal = at_a_terminal(&host);
    terminal.keys("events -f");
    terminal.keys(ENTER);
    terminal.expect("vax");
    terminal.keys(INTERRUPT);
    terminal.expect(PROMPT);
    terminal.keys("destroy web");
    terminal.keys(INTERRUPT);
    terminal.expect(PROMPT);
    assert!(line(&mut terminal, "list web").contains("running"), "{:?}", terminal.text());
    terminal.keys(END);
    assert_eq!(terminal.ended(), Some(0));
}

#[test]
fn actions_and_names_are_completed_and_lines_are_remembered_by_their_user_alone() {
    let host = Host::new();
    two(&host);
    let mut terminal = at_a_terminal(&host);
    line(&mut terminal, &format!("paus{TAB}we{TAB}"));
    assert_eq!(host.domain("web").state(), State::Paused);
    line(&mut terminal, &format!("un{TAB}va{TAB}web"));
    assert_eq!(host.domain("web").state(), State::Running);
    assert!(line(&mut terminal, "pid").contains("vax: "));
    terminal.keys(END);
    assert_eq!(terminal.ended(), Some(0));

    let history = host.root.join("var/lib/kxl/shell.history");
    let mode = std::fs::metadata(&history).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut again = at_a_terminal(&host);
    line(&mut again, &format!("{UP}{UP}{UP}"));
    assert_eq!(host.domain("web").state(), State::Paused, "{:?}", again.text());
}

#[test]
fn a_bare_shutdown_ends_the_monitors_and_the_next_command_adopts_their_domains() {
    let host = Host::new();
    two(&host);
    let before: Vec<_> = ["web", "vax"].map(|name| host.domain(name).pid().unwrap()).into();
    let monitors = host.monitors();
    let output = piped(&host, "shutdown\nlist\nlist web\n");
    assert_eq!(output.code(), Some(0), "{output}");
    assert!(output.stdout.contains("web: monitor ended, the domain goes on\n"), "{output}");
    assert!(output.stdout.contains("running (no monitor)"), "{output}");
    let pids: Vec<_> = ["web", "vax"].map(|name| host.domain(name).pid().unwrap()).into();
    assert_eq!(pids, before, "the emulators ran on");
    let now = host.monitors();
    assert_eq!(now.len(), 1, "looking at all starts none, asking for web did: {now:?}");
    assert!(monitors.iter().all(|old| old.pid() != now[0].pid()));
    host.ok(["pause", "vax"]);
    assert_eq!(host.monitors().len(), 2);
}

#[test]
fn a_monitor_leaves_after_the_operation_that_it_is_in_the_middle_of() {
    let host = Host::new();
    host.create("web", &guest::mock("web", "hold=reset"));
    let resetting = host.begin(&["reset", "web"]);
    wait::eventually("the reset begins", || host.domain("web").rests().is_none());
    let mut releasing = host.begin(&["release", "web"]);
    // It is asked, and asked again, and stays.
    std::thread::sleep(std::time::Duration::from_millis(600));
    assert!(releasing.child.try_wait().unwrap().is_none(), "released in the middle of a reset");
    host.script("web", "ok=reset");
    resetting.end(COMMAND).expect(0);
    let released = releasing.end(COMMAND).expect(0);
    assert_eq!(released.stdout, "web: monitor ended, the domain goes on\n", "{released}");
    assert!(host.monitors().is_empty());
    host.ok(["list", "web"]);
    assert_eq!(host.monitors().len(), 1);
}

#[test]
fn lines_from_a_pipe_are_carried_out_without_a_prompt_and_the_last_failure_is_the_status() {
    let host = Host::new();
    two(&host);
    let output = piped(
        &host,
        "# a comment\n\npause nobody\nlist --json \"web\"\n'\n list vax\nquit\nnot reached\n",
    );
    assert_eq!(output.code(), Some(2), "{output}");
    assert!(!output.stdout.contains(PROMPT), "{output}");
    assert!(output.stdout.contains("\"name\": \"web\""), "{output}");
    assert!(output.stderr.contains("nobody") && !output.stderr.contains("not reached"), "{output}");
    assert_eq!(piped(&host, "pause nobody\nlist\n").code(), Some(3));
    assert_eq!(piped(&host, "list\n").code(), Some(0));
    assert_eq!(piped(&host, "list").code(), Some(0), "a last line without its end counts");
    // What a command could read are the shell's own lines: it gets none of them.
    assert_eq!(piped(&host, "restore /dev/stdin\nlist nobody\n").code(), Some(3));
    let long = format!("list {}", "x".repeat(70_000));
    assert_eq!(piped(&host, &long).code(), Some(2));
}

#[test]
fn one_action_on_the_command_line_is_carried_out_with_its_status() {
    let host = Host::new();
    two(&host);
    assert!(host.ok(["shell", "list", "-v", "web"]).contains("mock"));
    host.refused(3, &["shell", "pause", "nobody"]);
    host.refused(2, &["shell", "shell"]);
    let pid = host.domain("web").pid().unwrap();
    assert_eq!(host.ok(["shell", "pid", "web"]), format!("{pid}\n"));
    assert!(host.ok(["shell", "help"]).contains("  pause "));
    assert!(host.ok(["shell", "help", "tail"]).contains("console --log"));
    assert!(host.ok(["shell", "help", "image", "clone"]).contains("Usage: kxl image clone"));
}

#[test]
fn a_file_of_settings_and_its_password_go_together_and_a_shutdown_leaves_the_domains() {
    let host = Host::new();
    two(&host);
    let conf = host.file("with.conf", &hash());
    let conf = conf.to_str().unwrap();
    let wrong = host.refused(4, &["shell", "-c", conf, "-p", "wrong", "list"]);
    assert!(wrong.stderr.contains("with.conf"), "{wrong}");
    let file = host.file("password", &format!("{PASSWORD}\n"));
    let file = file.to_str().unwrap();
    assert!(host.ok(["shell", "-c", conf, "--password-file", file, "list"]).contains("web"));
    let pid = host.domain("web").pid();
    let told = host.ok(["shell", "-c", conf, "-p", PASSWORD, "shutdown"]);
    assert!(told.contains("web: monitor ended, the domain goes on"), "{told}");
    assert!(host.monitors().is_empty());
    host.ok(["recover"]);
    assert_eq!(host.domain("web").pid(), pid);
    let open = host.file("open.conf", "");
    let noted = host.kxl(["shell", "-c", open.to_str().unwrap(), "-p", "any", "list"]).expect(0);
    assert!(noted.stderr.contains("wants no password"), "{noted}");
}

#[test]
fn another_file_of_settings_holds_for_the_commands_of_that_shell_alone() {
    let host = Host::new();
    let conf = host.file("other.conf", "no_such_key = \"1\"\n");
    let conf = conf.to_str().unwrap();
    let refused = host.refused(2, &["shell", "-c", conf, "start", "web"]);
    assert!(refused.stderr.contains("other.conf:1:1"), "{refused}");
    let warned = host.kxl(["shell", "-c", conf, "list"]).expect(0);
    assert!(warned.stderr.contains("other.conf:1:1"), "{warned}");
    assert_eq!(host.kxl(["list"]).expect(0).stderr, "");
    let missing = host.refused(1, &["shell", "-c", "/nowhere.conf", "list"]);
    assert!(missing.stderr.contains("/nowhere.conf"), "{missing}");
}
