//! Streams of a real program, a shell with a script.

use kxl_backend::Event;
use kxl_domain::DomainConfig;
use kxl_domain::config::model::OutputTo;

use super::kinds_tests::Program;
use super::tests::{driver, launched};
use super::*;
use crate::testing::{Record, Scratch, monitor, next};

/// A specification of a shell with this script, and these keys; `DIR` is the scratch directory.
pub(super) fn shell(scratch: &Scratch, keys: &str, script: &str) -> LaunchSpec {
    let mut spec = scratch.spec();
    let dir = scratch.0.display().to_string();
    let script = format!("cd {dir} || exit 99\n{script}");
    let text =
        format!("name='guest'\nbackend='any'\nexec='/bin/sh'\n{}", keys.replace("DIR", &dir));
    let parsed = kxl_domain::config::parse("f", &text, &[]).unwrap_or_else(|e| panic!("{e}"));
    let emulator_args = vec!["-c".to_owned(), script];
    spec.config = DomainConfig { emulator_args, ..parsed.config };
    spec
}

pub(super) fn read(scratch: &Scratch, name: &str) -> String {
    fs::read_to_string(scratch.0.join(name)).unwrap_or_default()
}

/// Waits until a file holds this; the limit of the test is the limit.
pub(super) async fn until(scratch: &Scratch, name: &str, text: &str) {
    while !read(scratch, name).contains(text) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn refusal(keys: &str) -> String {
    let scratch = Scratch::new("streams");
    let spec = shell(&scratch, keys, "true");
    let error = driver("any").check(&spec).unwrap_err();
    assert!(matches!(error, BackendError::Config { .. }), "{error:?}");
    error.to_string().replace(&scratch.0.display().to_string(), "DIR")
}

fn numbers(last: u32) -> String {
    (1..=last).map(|n| format!("{n}\n")).collect()
}

#[test]
fn streams_go_to_their_files_to_the_last_byte_and_input_comes_from_one() {
    monitor(async {
        let scratch = Scratch::new("streams");
        fs::write(scratch.0.join("in"), "typed\n").unwrap();
        let keys = "stdin='DIR/in'\nstdout='DIR/out'\nstderr='DIR/err'\n";
        let spec = shell(&scratch, keys, "cat; echo trouble >&2; seq 1 30000");
        let (mut live, ..) = launched(&spec, "any").await;
        let Event::Exited(exit) = next(&mut live.events().unwrap()).await else {
            panic!("the end")
        };
        assert_eq!(exit.code, Some(0));
        assert_eq!(read(&scratch, "out"), format!("typed\n{}", numbers(30_000)));
        assert_eq!(read(&scratch, "err"), "trouble\n");
    });
}

#[test]
fn standard_error_can_go_where_output_goes_and_what_goes_nowhere_is_gone() {
    monitor(async {
        let scratch = Scratch::new("streams");
        let spec = shell(
            &scratch,
            "stdin='none'\nstdout='DIR/out'\nstderr='stdout'\n",
            "cat; echo one; echo two >&2",
        );
        let (mut live, ..) = launched(&spec, "any").await;
        assert!(matches!(next(&mut live.events().unwrap()).await, Event::Exited(_)));
        assert_eq!(read(&scratch, "out"), "one\ntwo\n");
        let spec = shell(&scratch, "stdout='none'\nstderr='none'\n", "echo one; echo two >&2");
        let (mut live, ..) = launched(&spec, "any").await;
        let Event::Exited(exit) = next(&mut live.events().unwrap()).await else {
            panic!("the end")
        };
        assert_eq!(exit.code, Some(0));
    });
}

#[test]
fn a_program_prints_on_while_no_monitor_is_there_and_no_line_is_lost() {
    monitor(async {
        let scratch = Scratch::new("streams");
        let script = "echo before; while [ ! -e go ]; do sleep 0.01; done\n\
                      seq 1 50000; echo written > flag; while [ ! -e end ]; do sleep 0.01; done";
        let spec = shell(&scratch, "stdout='DIR/out'\nstdin='none'\n", script);
        let (live, identity, attachments) = launched(&spec, "any").await;
        until(&scratch, "out", "before\n").await;
        drop(live);
        fs::write(scratch.0.join("go"), "").unwrap();
        // Nearly 300 KB go into the pipe, with nobody to read them.
        until(&scratch, "flag", "written").await;
        assert!(identity.alive());
        let mut live = driver("any").adopt(&spec, identity, &attachments).await.unwrap();
        until(&scratch, "out", "\n50000\n").await;
        assert_eq!(read(&scratch, "out"), format!("before\n{}", numbers(50_000)));
        fs::write(scratch.0.join("end"), "").unwrap();
        assert!(matches!(next(&mut live.events().unwrap()).await, Event::Exited(_)));
    });
}

#[test]
fn a_file_that_cannot_be_written_is_told_once_and_the_program_goes_on() {
    monitor(async {
        let scratch = Scratch::new("streams");
        fs::create_dir(scratch.0.join("logs")).unwrap();
        let script = "echo one; while [ ! -e go ]; do sleep 0.01; done\n\
                      seq 1 50000; sleep 0.05; echo more; sleep 0.05; echo more";
        let spec = shell(&scratch, "stdout='DIR/logs/out'\n", script);
        let (mut live, ..) = launched(&spec, "any").await;
        let mut events = live.events().unwrap();
        until(&scratch, "logs/out", "one\n").await;
        fs::remove_dir_all(scratch.0.join("logs")).unwrap();
        fs::write(scratch.0.join("go"), "").unwrap();
        let mut warnings = Vec::new();
        let code = loop {
            match events.recv().await.unwrap() {
                Event::Warning { what, text } => warnings.push((what, text)),
                Event::Exited(exit) => break exit.code,
                _ => {}
            }
        };
        assert_eq!((code, warnings.len()), (Some(0), 1), "{warnings:?}");
        assert_eq!(warnings[0].0, "output-trouble");
        assert!(warnings[0].1.starts_with("stdout: cannot write"), "{}", warnings[0].1);
    });
}

#[test]
fn the_signal_of_the_configuration_asks_the_program_to_end() {
    monitor(async {
        let scratch = Scratch::new("streams");
        let script = "trap 'exit 3' INT; echo ready; while :; do sleep 0.01; done";
        let spec = shell(&scratch, "stopsignal='SIGINT'\nstdout='DIR/out'\n", script);
        let (mut live, ..) = launched(&spec, "any").await;
        until(&scratch, "out", "ready").await;
        live.powerdown().await.unwrap();
        let Event::Exited(exit) = next(&mut live.events().unwrap()).await else {
            panic!("the end")
        };
        assert_eq!((exit.code, exit.signal), (Some(3), None));
    });
}

#[test]
fn a_program_has_its_environment_its_directory_and_its_mask() {
    monitor(async {
        let scratch = Scratch::new("streams");
        let keys = "environment=['A=b c','TERM=dumb']\ndirectory='/usr'\numask='077'\n\
                    stdout='DIR/out'\nnice=3\n";
        let mut spec = shell(&scratch, keys, "");
        spec.config.emulator_args[1] = "echo $A $TERM; pwd; umask; nice".into();
        let (mut live, ..) = launched(&spec, "any").await;
        assert!(matches!(next(&mut live.events().unwrap()).await, Event::Exited(_)));
        assert_eq!(read(&scratch, "out"), "b c dumb\n/usr\n0077\n3\n");
    });
}

#[test]
fn files_and_users_that_cannot_be_are_refused_before_anything_is_made() {
    for (keys, told) in [
        ("stdout='DIR/no/out'\n", "stdout: DIR/no/out: its directory does not exist"),
        ("stderr='DIR'\n", "stderr: DIR: is a directory, expected a file"),
        ("stdin='DIR/none'\n", "stdin: DIR/none: No such file or directory (os error 2)"),
        ("stdout='out'\n", "stdout: out: expected an absolute path"),
        ("stdout='DIR/a'\nstderr='DIR/a'\n", "stderr: two streams cannot keep one file"),
        ("user='nosuchuser'\n", "user: there is no user \"nosuchuser\""),
    ] {
        let text = refusal(keys);
        assert!(text.starts_with(told), "{keys}: {text}");
    }
}

#[test]
fn a_simulator_refuses_what_would_take_its_console_away() {
    let scratch = Scratch::new("streams");
    for (keys, key) in [("stdout='none'\n", "stdout"), ("stopsignal='INT'\n", "stopsignal")] {
        let mut spec = shell(&scratch, keys, "");
        spec.config.machine = Some("sh".into());
        let error = driver("simh").check(&spec).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{key}: backend \"simh\" cannot honour it")), "{error}");
    }
}

#[test]
fn a_directory_that_is_not_there_fails_the_start_by_its_key() {
    monitor(async {
        let scratch = Scratch::new("streams");
        let spec = shell(&scratch, "directory='/nonexistent'\n", "true");
        let failed = driver("any").launch(&spec, &mut Record::default()).await;
        let Err(BackendError::Config { key, why }) = failed else { panic!("started") };
        assert_eq!(key, "directory");
        assert!(why.contains("No such file"), "{why}");
    });
}

/// A directory of nobody's, as `DIR/theirs`; false for others than root, who cannot make one.
fn theirs(scratch: &Scratch) -> bool {
    if !nix::unistd::geteuid().is_root() {
        crate::testing::skip("only root can run a program as another user");
        return false;
    }
    let user = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let dir = scratch.0.join("theirs");
    fs::create_dir(&dir).unwrap();
    nix::unistd::chown(&dir, Some(user.uid), Some(user.gid)).unwrap();
    true
}

#[test]
fn a_user_reads_nothing_through_its_input_that_it_cannot_read_itself() {
    let scratch = Scratch::new("streams");
    if !theirs(&scratch) {
        return;
    }
    let at = |name: &str| scratch.0.join(name);
    fs::create_dir(at("private")).unwrap();
    for name in ["secret", "private/in"] {
        fs::write(at(name), "secret\n").unwrap();
        fs::set_permissions(at(name), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    std::os::unix::fs::symlink(at("secret"), at("theirs/link")).unwrap();
    std::os::unix::fs::symlink(at("private"), at("theirs/dir")).unwrap();
    nix::unistd::mkfifo(&at("theirs/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (name, told) in [
        ("secret", "the user \"nobody\" of the program may not"),
        ("theirs/link", "symbolic link"),
        ("theirs/dir/in", "the user \"nobody\" of the program may not"),
        ("theirs/fifo", "may not"),
    ] {
        let keys = format!("user='nobody'\nstdin='DIR/{name}'\nstdout='DIR/theirs/out'\n");
        let spec = shell(&scratch, &keys, "cat");
        monitor(async {
            // What is there when it is checked may be another thing when it is opened.
            let launched = driver("any").launch(&spec, &mut Record::default()).await;
            for refused in [launched.map(drop), driver("any").check(&spec)] {
                let error = refused.expect_err(name);
                assert!(
                    matches!(&error, BackendError::Config { key, .. } if key == "stdin"),
                    "{name}: {error:?}"
                );
                assert!(error.to_string().contains(told), "{name}: {error}");
            }
        });
    }
    assert_eq!(read(&scratch, "theirs/out"), "");
}

#[test]
fn a_program_of_a_user_opens_its_own_standard_streams_and_reads_its_own_log() {
    let scratch = Scratch::new("streams");
    if !theirs(&scratch) {
        return;
    }
    monitor(async {
        let script = "echo one > /dev/stdout && echo two >> /dev/stderr && \
                      echo three > /dev/tty || exit 6\n\
                      while ! grep -q one theirs/out; do sleep 0.01; done; exit 5";
        let keys = "user='nobody'\nstdout='DIR/theirs/out'\n";
        let spec = shell(&scratch, keys, script);
        let (mut live, ..) = launched(&spec, "any").await;
        let mut console = crate::testing::Typist::new(live.console().unwrap());
        console.until("two").await;
        console.until("three").await;
        let Event::Exited(exit) = next(&mut live.events().unwrap()).await else {
            panic!("the end")
        };
        assert_eq!(exit.code, Some(5), "{}", exit.text);
        assert_eq!(read(&scratch, "theirs/out"), "one\n");
    });
}

/// The texts of the warnings that are there now.
pub(super) fn warnings(live: &mut Box<dyn Live>) -> Vec<String> {
    let mut events = live.events().unwrap();
    let mut texts = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let Event::Warning { what: "console-lost", text } = event {
            texts.push(text.split(':').next().unwrap_or_default().to_owned());
        }
    }
    texts
}

/// A script for a shell that can close any descriptor, as a program does that closes all it does
/// not know. It reports by a child: a redirection of its own would take its output away for a moment.
fn closing(what: &str, rest: &str) -> String {
    format!(
        "exec bash -c 'exec {what}; (echo > closed); while [ ! -e go ]; do sleep 0.01; done; {rest}; \
         (echo > flag); while [ ! -e end ]; do sleep 0.01; done'"
    )
}

#[test]
fn a_program_that_closes_all_it_does_not_know_outlives_its_monitor_and_is_taken_up() {
    monitor(async {
        for (keys, printed) in [
            // Its output goes on into the file; only the console is gone.
            ("stdin='none'\nstdout='DIR/out'\n", "1\n2\n3\n"),
            // A terminal that nobody holds any longer is an error for it, and no more than that.
            ("stdin='none'\n", ""),
        ] {
            let scratch = Scratch::new("streams");
            let script = closing("100>&- 101>&- 102>&-", "seq 1 3");
            let spec = shell(&scratch, keys, &script);
            let (live, identity, attachments) = launched(&spec, "any").await;
            until(&scratch, "closed", "\n").await;
            drop(live);
            fs::write(scratch.0.join("go"), "").unwrap();
            while read(&scratch, "flag").is_empty() {
                assert!(identity.alive(), "{keys}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let mut live =
                driver("any").adopt(&spec, identity.clone(), &attachments).await.unwrap();
            assert_eq!(warnings(&mut live), ["console"], "{keys}");
            if !printed.is_empty() {
                until(&scratch, "out", "3\n").await;
            }
            assert_eq!(read(&scratch, "out"), printed);
            live.pause().await.unwrap();
            live.unpause().await.unwrap();
            live.destroy().await.unwrap();
            assert!(!identity.alive());
        }
    });
}

#[test]
fn what_a_program_has_under_our_numbers_by_itself_is_not_taken_from_it() {
    monitor(async {
        let scratch = Scratch::new("streams");
        // A file, a pipe of its own that somebody else is to read, and nothing.
        let files = "100<>own 101< <(echo mine; exec sleep 1000) 102>&- 1>own";
        let rest = "read -t 5 line <&101; echo $line > kept";
        let script = closing(files, rest);
        let keys = "stdin='none'\nstdout='DIR/out'\nstderr='DIR/err'\n";
        let spec = shell(&scratch, keys, &script);
        let (live, identity, attachments) = launched(&spec, "any").await;
        until(&scratch, "closed", "\n").await;
        drop(live);
        let mut live = driver("any").adopt(&spec, identity, &attachments).await.unwrap();
        assert_eq!(warnings(&mut live), ["console", "stdout"], "its errors are still ours");
        fs::write(scratch.0.join("go"), "").unwrap();
        until(&scratch, "kept", "\n").await;
        assert_eq!(read(&scratch, "kept"), "mine\n");
        assert_eq!(read(&scratch, "out"), "");
        live.destroy().await.unwrap();
    });
}

/// A shell whose guest is listened to, and the monitor's end of the way by which it is heard.
async fn heard(scratch: &Scratch, script: &str) -> (Box<dyn Live>, OwnedFd) {
    let keys = "stdin='none'\nstdout='DIR/out'\nguest_events='console'\n";
    let (mut live, ..) = launched(&shell(scratch, keys, script), "any").await;
    let channel = live.guest_channel().expect("marked lines are listened to");
    assert!(live.guest_channel().is_none(), "once");
    (live, channel)
}

/// Reads what was said to its end.
async fn said(channel: OwnedFd) -> String {
    let channel = tokio::net::UnixStream::from_std(channel.into()).unwrap();
    let (mut all, mut packet) = (Vec::new(), vec![0; 4096]);
    loop {
        channel.readable().await.unwrap();
        match channel.try_read(&mut packet) {
            Ok(0) => return String::from_utf8(all).unwrap(),
            Ok(count) => all.extend(&packet[..count]),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
}

#[test]
fn marked_lines_in_a_file_are_passed_on_and_a_program_that_says_many_waits_for_who_listens() {
    monitor(async {
        let scratch = Scratch::new("streams");
        // More than socket, pipe and buffers hold together.
        let script = "echo 'no @@kxl-event id=x'\n\
                      yes '@@kxl-event id=progress percent=5' | head -n 60000\n\
                      printf '@@kxl-event '; head -c 3000 /dev/zero | tr '\\0' y; echo\n\
                      echo '@@KXL-EVENT id=started'";
        let (mut live, channel) = heard(&scratch, script).await;
        let text = said(channel).await;
        let mut lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.pop(), Some("id=started"));
        assert!(lines.pop().unwrap().len() > kxl_domain::guest::LINE_MAX, "for all to see");
        assert_eq!(lines.len(), 60_000);
        assert!(lines.iter().all(|line| *line == "id=progress percent=5"));
        assert!(matches!(next(&mut live.events().unwrap()).await, Event::Exited(_)));
    });
}

#[test]
fn a_program_whose_marked_lines_nobody_wants_to_hear_ends_in_time() {
    monitor(async {
        let scratch = Scratch::new("streams");
        let script = "yes '@@kxl-event id=progress percent=5' | head -n 60000";
        let (mut live, channel) = heard(&scratch, script).await;
        drop(channel);
        assert!(matches!(next(&mut live.events().unwrap()).await, Event::Exited(_)));
        assert_eq!(read(&scratch, "out").lines().count(), 60_000);
    });
}

#[test]
fn without_a_guest_that_is_listened_to_there_is_no_way_for_it() {
    monitor(async {
        let scratch = Scratch::new("streams");
        let spec = shell(&scratch, "stdout='DIR/out'\n", "echo '@@kxl-event id=started'");
        let (mut live, ..) = launched(&spec, "any").await;
        assert!(live.guest_channel().is_none());
        let spec = shell(&scratch, "guest_events='console'\n", "true");
        let (mut live, ..) = launched(&spec, "any").await;
        assert!(live.guest_channel().is_none(), "the console is listened to");
    });
}

#[test]
fn a_program_whose_streams_lead_nowhere_has_its_terminal_all_the_same() {
    let script = "test -t 0 || test -t 1 || echo nowhere > /dev/tty\n\
                  read word < /dev/tty; echo got $word >&2; sleep 1000";
    let keys = "[control]\nkind = \"signal\"\n[console]\nkind = \"pty\"\nstreams = [\"stderr\"]\n";
    let program = Program::new("/bin/sh", script, "", keys);
    monitor(async {
        let mut running = program.launched().await;
        let mut console = running.console();
        console.until("nowhere").await;
        let mut running = program.adopted(running).await;
        let mut console = running.console();
        console.send("one\n").await;
        console.until("got one").await;
        running.live.destroy().await.unwrap();
        // What the domain puts elsewhere is not left to have it by.
        let mut spec = program.spec();
        spec.config.process.stderr.to = Some(OutputTo::Nothing);
        let error = program.driver().check(&spec).unwrap_err().to_string();
        assert!(error.starts_with("stderr: "), "{error}");
    });
}
