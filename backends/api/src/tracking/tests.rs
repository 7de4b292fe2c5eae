use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};

use super::*;
use crate::spawn::{Command, spawn};

/// A shell that carries out one line after the other and echoes each.
struct Shell {
    process: Process,
    input: File,
    output: BufReader<File>,
}

impl Shell {
    fn new(tracked: bool) -> Self {
        let pipe = || nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let ((child_in, input), (output, child_out)) = (pipe(), pipe());
        let mut command = Command::new(Path::new("/bin/sh")).unwrap();
        command.fd(child_in, 0).fd(child_out, 1);
        if tracked {
            command.track_writes();
        }
        let process = spawn(command).unwrap().open().unwrap();
        Self { process, input: input.into(), output: BufReader::new(output.into()) }
    }

    fn run(&mut self, line: impl AsRef<OsStr>) -> String {
        let mut line = line.as_ref().as_encoded_bytes().to_vec();
        line.push(b'\n');
        self.input.write_all(&line).unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        answer
    }

    /// Its heap, which it writes while it works.
    fn heap(&self) -> Range<u64> {
        let maps = fs::read_to_string(proc(&self.process).join("maps")).unwrap();
        let heap = maps.lines().find(|line| line.ends_with("[heap]")).expect("a heap");
        let (start, end) = heap.split_once(' ').unwrap().0.split_once('-').unwrap();
        let [start, end] = [start, end].map(|hex| u64::from_str_radix(hex, 16).unwrap());
        start..end
    }
}

fn sum(runs: &[Range<u64>]) -> u64 {
    runs.iter().map(|run| run.end - run.start).sum()
}

fn written(tracked: &mut Tracked, range: &Range<u64>) -> Vec<Range<u64>> {
    let mut runs = Vec::new();
    tracked
        .written(range.clone(), |run, page| {
            assert!(page.exists() && !page.of_file(), "{page:?}");
            runs.push(run);
        })
        .unwrap();
    runs
}

#[test]
fn what_a_program_writes_is_told_once() {
    let mut shell = Shell::new(true);
    assert_eq!(shell.run("echo $((6 * 7))"), "42\n");
    let heap = shell.heap();
    let mut tracked = match Tracked::begin(&shell.process, heap.clone()) {
        Ok(tracked) => tracked,
        Err(error) => {
            println!("skipped: this host does not note what is written: {error}");
            return;
        }
    };
    let mut all = 0;
    tracked.pages().existing(heap.clone(), |run, _| all += run.end - run.start).unwrap();
    assert!(all > 0);
    assert_eq!(sum(&written(&mut tracked, &heap)), all, "everything, the first time");
    assert_eq!(written(&mut tracked, &heap), [], "it stands still");
    let word = "x".repeat(1000);
    assert_eq!(shell.run(format!("word={word}; echo $word")), format!("{word}\n"));
    let some = sum(&written(&mut tracked, &heap));
    assert!(some > 0);
    assert_eq!(written(&mut tracked, &heap), []);
    // Another monitor's turn, when the first was killed and when it was not.
    std::mem::forget(tracked);
    let mut after = Tracked::begin(&shell.process, heap.clone()).unwrap();
    assert!(sum(&written(&mut after, &heap)) >= all);
    drop(after);
    let mut again = Tracked::begin(&shell.process, heap.clone()).unwrap();
    assert!(sum(&written(&mut again, &heap)) >= all);
    shell.process.signal(nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[test]
fn a_program_that_was_lent_nothing_is_not_tracked() {
    let mut shell = Shell::new(false);
    assert_eq!(shell.run("echo here"), "here\n");
    let error = Tracked::begin(&shell.process, shell.heap()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    shell.process.signal(nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[test]
fn a_tracked_program_that_cannot_be_executed_says_why() {
    let mut command = Command::new(Path::new("/nonexistent/emulator")).unwrap();
    command.track_writes();
    let error = spawn(command).unwrap().open().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
}
