//! `kxl-event run`: how a start script ends is what the host hears.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kxl_domain::guest::{GuestWord, Marked, Message, Piece, decode};

use crate::support::event::command;
use crate::support::run::{Output, run};
use crate::support::{Host, wait};

/// What a script says and how it ends; the exit status, and what the host hears.
const CASES: &[(&str, i32, Option<&str>)] = &[
    ("#!/bin/sh\necho fine; echo noise >&2\n", 0, None),
    (
        "#!/bin/sh\necho one >&2; echo 'no disk: \"b\"' >&2; echo >&2; exit 3\n",
        3,
        Some("no disk: \"b\""),
    ),
    ("#!/bin/sh\nexit 7\n", 7, Some("Failed to Start")),
    ("#!/bin/sh\nkill -9 $$\n", 137, Some("Failed to Start: killed by signal 9")),
    ("#!/bin/sh\nprintf 'a\\033[2Jb\\377' >&2; exit 1\n", 1, Some("a[2Jb\u{fffd}")),
    ("#!/nonexistent\n", 127, Some("script: the program that is to run it is missing")),
];

struct Bench {
    host: Host,
    console: PathBuf,
    stderr: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let host = Host::new();
        let (console, stderr) = (host.file("console", ""), host.scratch().join("stderr"));
        Self { host, console, stderr }
    }

    fn script(&self, text: &str) -> PathBuf {
        let path = self.host.file("script", text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn run(&self, script: &Path) -> Output {
        let mut command = command();
        command.arg("--console").arg(&self.console).arg("--stderr").arg(&self.stderr);
        let output =
            run(command.arg("run").arg(script).current_dir(self.host.scratch()), wait::SOON);
        assert!(output.stderr.len() < 2000, "{output}");
        output
    }

    /// What the host would hear, by its own reader.
    fn heard(&self) -> Vec<Message> {
        let (mut marked, mut found) = (Marked::default(), Vec::new());
        marked.push(&fs::read(&self.console).unwrap(), |piece| {
            let Piece::Line(line) = piece else { panic!("a line too long") };
            found.push(decode(line).message.unwrap());
        });
        found
    }
}

#[test]
fn the_end_of_a_script_is_what_the_host_hears() {
    for (text, code, failed) in CASES {
        let bench = Bench::new();
        bench.script(text);
        bench.run(Path::new("./script")).expect(*code);
        let word = failed.map_or(GuestWord::Started, |text| GuestWord::Failed {
            text: if text.starts_with("script: ") { format!("./{text}") } else { text.to_owned() },
        });
        assert_eq!(bench.heard(), [Message::Word(word)], "{text}");
    }
}

#[test]
fn without_a_script_there_is_nothing_to_wait_for() {
    let bench = Bench::new();
    bench.run(Path::new("/nonexistent/start")).expect(0);
    assert_eq!(bench.heard(), [Message::Word(GuestWord::Started)]);
}

#[test]
fn a_script_that_cannot_be_executed_has_failed() {
    let bench = Bench::new();
    let script = bench.script("#!/bin/sh\n");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o644)).unwrap();
    bench.run(&script).expect(126);
    let [Message::Word(GuestWord::Failed { text })] = &bench.heard()[..] else {
        panic!("{:?}", bench.heard())
    };
    assert!(text.contains("Permission denied"), "{text}");
}

#[test]
fn megabytes_of_stderr_are_read_and_kept_up_to_the_limit() {
    let bench = Bench::new();
    let script =
        "#!/bin/sh\nhead -c 5000000 /dev/zero | tr '\\0' x >&2\necho >&2\necho end >&2\nexit 1\n";
    bench.run(&bench.script(script)).expect(1);
    let failed = Message::Word(GuestWord::Failed { text: "end".to_owned() });
    assert_eq!(bench.heard(), [failed]);
    let kept = fs::metadata(&bench.stderr).unwrap();
    assert!((1 << 20..(1 << 20) + 100).contains(&kept.len()), "{}", kept.len());
    assert_eq!(kept.permissions().mode() & 0o777, 0o600);
}

#[test]
fn what_a_script_leaves_running_is_not_waited_for_and_can_go_on_speaking() {
    let bench = Bench::new();
    let (go, done) = (bench.host.scratch().join("go"), bench.host.scratch().join("done"));
    // Without a reader of its stderr the process would be ended by its first word.
    let script = format!(
        "#!/bin/sh\n(while ! [ -e {0} ]; do sleep 0.05; done; echo later >&2; echo >{1}) >/dev/null &\n\
         echo first >&2\n",
        go.display(),
        done.display()
    );
    bench.run(&bench.script(&script)).expect(0);
    assert_eq!(bench.heard(), [Message::Word(GuestWord::Started)]);
    fs::write(&go, "").unwrap();
    wait::eventually("the process that was left running goes on", || done.exists());
    wait::eventually("what it says is kept", || {
        fs::read_to_string(&bench.stderr).unwrap() == "first\nlater\n"
    });
}

#[test]
fn a_file_for_stderr_that_is_a_link_of_somebody_is_not_followed() {
    let bench = Bench::new();
    let victim = bench.host.file("victim", "precious");
    std::os::unix::fs::symlink(&victim, &bench.stderr).unwrap();
    bench.run(&bench.script("#!/bin/sh\necho overwritten >&2\nexit 1\n")).expect(1);
    assert_eq!(fs::read_to_string(victim).unwrap(), "precious");
    let failed = Message::Word(GuestWord::Failed { text: "overwritten".to_owned() });
    assert_eq!(bench.heard(), [failed]);
}

#[test]
fn every_line_of_the_program_is_one_that_the_host_reads() {
    let bench = Bench::new();
    let rows: [(&[&str], &str); 6] = [
        (&["progress", "42", "fsck", "/data"], "progress 42 %: fsck /data"),
        (&["log", "say \"no\" \\ twice"], "say \"no\" \\ twice"),
        (&["alert", "IP conflict"], "IP conflict"),
        (&["id=log", "log_text=T"], "T"),
        (&["id=backup", "text=done it", "size=3", "empty="], "backup: done it size=3 empty=\"\""),
        (&["id=log", "severity=warning", "text=a\nb\u{1b}c"], "a bc"),
    ];
    for (words, shown) in rows {
        fs::write(&bench.console, "").unwrap();
        run(command().arg("--console").arg(&bench.console).args(words), wait::SOON).expect(0);
        let heard: Vec<_> = bench.heard().iter().map(ToString::to_string).collect();
        assert_eq!(heard, [shown]);
    }
    let long = "\"\\ä".repeat(2000);
    run(command().arg("--console").arg(&bench.console).args(["alert", &long]), wait::SOON)
        .expect(0);
    assert!(bench.heard().last().unwrap().to_string().starts_with("\"\\ä"));
}

#[test]
fn each_trouble_has_an_exit_status_of_its_own() {
    let bench = Bench::new();
    let busy = fs::File::open(&bench.console).unwrap();
    busy.lock().unwrap();
    let console = bench.console.display().to_string();
    let rows: [(&[&str], i32); 5] = [
        (&["start"], 2),
        (&["--port", "/nonexistent", "started"], 3),
        (&["--timeout", "0.1", "--port", "/dev/null", "started"], 4),
        (&["--timeout", "0.1", "--console", &console, "started"], 5),
        (&["--console", "/proc/version", "started"], 1),
    ];
    for (words, code) in rows {
        let output = run(command().args(words), wait::SOON).expect(code);
        assert!(output.stderr.starts_with("kxl-event: "), "{output}");
        assert_eq!(output.stdout, "", "{output}");
    }
}
