//! A host of a test's own: one `KXL_ROOT`, the programs of this build, and everything that runs
//! in it. Nothing of it is left when it is dropped.

use std::ffi::OsStr;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use std::{env, fs};

use kxl_backend::Identity;
use kxl_domain::State;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::process::{self, Proc, Role};
use super::run::{self, Output, Running};
use super::wait;

/// Longest time that a command may take, waiting for a slow machine included.
pub(crate) const COMMAND: Duration = Duration::from_secs(120);

/// A host.
pub(crate) struct Host {
    /// Its `KXL_ROOT`.
    pub(crate) root: PathBuf,
    /// The directory that is removed with it.
    top: PathBuf,
    /// Every emulator that was ever listed.
    known: Mutex<Vec<Identity>>,
    /// How often it was booted.
    boots: AtomicU32,
}

/// A domain as `kxl list --json` shows it.
#[derive(Clone, Debug)]
pub(crate) struct Domain(pub(crate) Value);

/// The directory of the programs under test: `KXL_BIN_DIR`, else where this test was built.
pub(crate) fn programs() -> PathBuf {
    let dir = env::var_os("KXL_BIN_DIR").map_or_else(
        || env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned(),
        PathBuf::from,
    );
    for program in ["kxl", "kxl-monitor", "kxl-mock", "kxl-vmm"] {
        assert!(
            dir.join(program).is_file(),
            "{program} is not in {}: run cargo build --workspace first",
            dir.display()
        );
    }
    dir
}

impl Host {
    /// An empty host.
    pub(crate) fn new() -> Self {
        Self::below("")
    }

    /// An empty host whose paths are too long for the address of a socket.
    pub(crate) fn deep() -> Self {
        Self::below(&format!("a-place/{}/far/below", "deep".repeat(30)))
    }

    fn below(path: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let top = env::temp_dir().join(format!("kxl-test-{}-{number}", std::process::id()));
        let root = top.join(path).join("root");
        fs::create_dir_all(&root).unwrap();
        let bin = top.join("bin");
        fs::create_dir(&bin).unwrap();
        for name in ["kxl", "xl", "xm", "xen"] {
            symlink(programs().join("kxl"), bin.join(name)).unwrap();
        }
        Self { root, top, known: Mutex::default(), boots: AtomicU32::new(1) }
    }

    /// A directory with `kxl`, `xl`, `xm` and `xen` in it.
    pub(crate) fn bin(&self) -> PathBuf {
        self.top.join("bin")
    }

    /// A directory beside the root, for disks and the like.
    pub(crate) fn scratch(&self) -> &Path {
        &self.top
    }

    /// What attached consoles had to say on standard error.
    pub(crate) fn complaints(&self) -> PathBuf {
        self.top.join("console.err")
    }

    /// A command of this host, called as `program`.
    pub(crate) fn command<S: AsRef<OsStr>>(
        &self,
        program: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = Command::new(programs().join("kxl"));
        command.arg0(program).args(args);
        self.settle_env(&mut command);
        command
    }

    /// Gives a program the environment of this host.
    pub(crate) fn settle_env(&self, command: &mut Command) {
        command.env("KXL_ROOT", &self.root).env("KXL_LIBEXEC", programs());
        for name in ["KXL_FAULT", "KXL_BOOT_ID", "KXL_LOG"] {
            command.env_remove(name);
        }
        let boots = self.boots.load(Ordering::Relaxed);
        if boots > 1 {
            command.env("KXL_BOOT_ID", format!("boot-{boots}"));
        }
    }

    /// Commands are those of another boot from now on.
    pub(crate) fn next_boot(&self) {
        self.boots.fetch_add(1, Ordering::Relaxed);
    }

    /// Runs `kxl` to its end.
    pub(crate) fn kxl<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        run::run(&mut self.command("kxl", args), COMMAND)
    }

    /// Runs `kxl` with one more variable in its environment.
    pub(crate) fn kxl_with(&self, key: &str, value: &str, args: &[&str]) -> Output {
        run::run(self.command("kxl", args).env(key, value), COMMAND)
    }

    /// Starts `kxl` and does not wait.
    pub(crate) fn begin(&self, args: &[&str]) -> Running {
        run::start(&mut self.command("kxl", args))
    }

    /// Runs `kxl`, which has to succeed; its standard output.
    pub(crate) fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        self.kxl(args).expect(0).stdout
    }

    /// Runs `kxl`, which has to fail with `code` and without output.
    pub(crate) fn refused(&self, code: i32, args: &[&str]) -> Output {
        let output = self.kxl(args).expect(code);
        assert_eq!(output.stdout, "", "{output}");
        assert_ne!(output.stderr, "", "{output}");
        output
    }

    /// Runs `xl` to its end.
    pub(crate) fn xl(&self, args: &[&str]) -> Output {
        run::run(&mut self.command("xl", args), COMMAND)
    }

    /// Writes a file beside the root.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.top.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Writes a configuration and creates its domain.
    pub(crate) fn create(&self, name: &str, config: &str) -> Domain {
        let path = self.file(&format!("{name}.cfg"), config);
        self.ok([OsStr::new("create"), path.as_os_str()]);
        self.domain(name)
    }

    /// Writes a configuration and registers its domain.
    pub(crate) fn define(&self, name: &str, config: &str) -> Domain {
        let path = self.file(&format!("{name}.cfg"), config);
        self.ok([OsStr::new("new"), path.as_os_str()]);
        self.domain(name)
    }

    /// Every domain.
    pub(crate) fn domains(&self) -> Vec<Domain> {
        let text = self.ok(["list", "--json"]);
        let values: Vec<Value> = serde_json::from_str(&text).unwrap();
        let domains: Vec<Domain> = values.into_iter().map(Domain).collect();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for pid in domains.iter().filter_map(Domain::pid) {
            // One that has just gone needs no watching.
            let new = Identity::of(pid).ok().filter(|new| !known.contains(new));
            known.extend(new);
        }
        drop(known);
        domains
    }

    /// The domain of this name, if there is one. Looking at it brings no monitor back.
    pub(crate) fn find(&self, name: &str) -> Option<Domain> {
        self.domains().into_iter().find(|domain| domain.text("name") == Some(name))
    }

    /// The domain of this name.
    pub(crate) fn domain(&self, name: &str) -> Domain {
        self.find(name).unwrap_or_else(|| panic!("no domain {name}: {}", self.ok(["list"])))
    }

    /// The domain of this name, looked at until it answers: on a busy host 150 ms may be too few.
    pub(crate) fn answering(&self, name: &str) -> Domain {
        wait::until(&format!("{name} answers"), wait::SOON, || {
            self.find(name).filter(|domain| domain.0["answering"] == true)
        })
    }

    /// Waits until the domain rests in `state`.
    pub(crate) fn rests(&self, name: &str, state: State) -> Domain {
        wait::until(&format!("{name} comes to rest as {state}"), wait::BOOT, || {
            self.find(name).filter(|domain| domain.rests() == Some(state))
        })
    }

    /// Waits until there is no such domain any more.
    pub(crate) fn gone(&self, name: &str) {
        wait::eventually(&format!("{name} goes"), || self.find(name).is_none());
    }

    /// The processes of this host.
    pub(crate) fn processes(&self) -> Vec<Proc> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        process::of_root(&self.root, &known)
    }

    /// The monitors that live.
    pub(crate) fn monitors(&self) -> Vec<Proc> {
        self.with_role(Role::Monitor)
    }

    /// The emulators that live.
    pub(crate) fn emulators(&self) -> Vec<Proc> {
        self.with_role(Role::Emulator)
    }

    fn with_role(&self, role: Role) -> Vec<Proc> {
        self.processes().into_iter().filter(|process| process.role == role).collect()
    }

    /// The monitor of a domain.
    pub(crate) fn monitor_of(&self, domain: &Domain) -> Proc {
        let uuid = domain.uuid();
        wait::until("the domain has a monitor", wait::SOON, || {
            self.monitors().into_iter().find(|monitor| monitor.args.contains(&uuid))
        })
    }

    /// The monitor of the domain of this name.
    pub(crate) fn monitor_of_name(&self, name: &str) -> Proc {
        // One that was started under another name goes on under it; it holds the domain's lock.
        let lock = self.rundir(&self.domain(name)).join("lock").display().to_string();
        wait::until("the domain has a monitor", wait::SOON, || {
            let holds = |one: &Proc| one.fds().iter().any(|(_, target)| *target == lock);
            self.monitors().into_iter().find(holds)
        })
    }

    /// The emulator of a domain.
    pub(crate) fn emulator_of(&self, domain: &Domain) -> Proc {
        let pid = domain.pid().unwrap_or_else(|| panic!("no emulator: {domain:?}"));
        let all = self.emulators();
        let found = all.iter().find(|process| process.pid() == pid);
        found.unwrap_or_else(|| panic!("{pid} is not among {all:?}")).clone()
    }

    /// The runtime directory of a domain.
    pub(crate) fn rundir(&self, domain: &Domain) -> PathBuf {
        self.root.join("run/kxl").join(&domain.uuid()[..8])
    }

    /// Writes the script of a mock domain, running or not, in place of an earlier one.
    pub(crate) fn script(&self, name: &str, words: &str) {
        let directory = self.rundir(&self.domain(name));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).unwrap();
        // Whole or not at all: a monitor may be reading it.
        let new = directory.join("mock.script.new");
        fs::write(&new, format!("{words}\n")).unwrap();
        fs::rename(new, directory.join("mock.script")).unwrap();
    }

    /// The words of a domain's events, oldest first.
    pub(crate) fn events(&self, name: &str) -> Vec<Value> {
        let text = self.ok(["events", name, "--json", "--limit", "0"]);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until nothing runs and nothing of a live domain is on disk.
    pub(crate) fn quiet(&self) {
        let what = "no process is left";
        let end = std::time::Instant::now() + wait::SOON;
        loop {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            assert!(std::time::Instant::now() < end, "{what}: {left:?}");
            std::thread::sleep(Duration::from_millis(15));
        }
    }

    /// What is in the runtime directory and belongs to a domain: directories and links.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let run = self.root.join("run/kxl");
        let mut left = Vec::new();
        for dir in [run.clone(), run.join("by-id"), run.join("by-name")] {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if !name.starts_with("live.") && !name.starts_with("by-") {
                    left.push(format!("{}/{name}", dir.display()));
                }
            }
        }
        left
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell();
        }
        // Monitors first: they would obey policies while their emulators go.
        for _ in 0..200 {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            let stop =
                |role| left.iter().filter(move |process| (process.role == Role::Emulator) == role);
            stop(false).chain(stop(true)).for_each(|process| process.signal(Signal::SIGKILL));
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(fs::remove_dir_all(&self.top));
    }
}

impl Host {
    /// What a person would look at after a failure.
    fn tell(&self) {
        let logs = fs::read_dir(self.root.join("var/log/kxl")).into_iter().flatten().flatten();
        for log in logs.map(|entry| entry.path()) {
            let text = fs::read(&log).unwrap_or_default();
            let tail = &text[text.len().saturating_sub(3000)..];
            eprintln!("--- {}\n{}", log.display(), String::from_utf8_lossy(tail));
        }
        eprintln!("--- consoles\n{}", fs::read_to_string(self.complaints()).unwrap_or_default());
        for process in self.processes() {
            eprintln!("--- {:?} {} {:?}", process.role, process.pid(), process.args);
        }
    }
}

impl Domain {
    /// A member that is text.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.0[key].as_str()
    }

    /// Durable identity.
    pub(crate) fn uuid(&self) -> String {
        self.text("uuid").unwrap().to_owned()
    }

    /// Resting state, also under an operation.
    pub(crate) fn state(&self) -> State {
        State::parse(self.text("state").unwrap()).unwrap()
    }

    /// Resting state, when nothing is being done to it.
    pub(crate) fn rests(&self) -> Option<State> {
        self.text("operation").is_none().then(|| self.state())
    }

    /// Why it is there.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.text("reason")
    }

    /// Live number.
    pub(crate) fn domid(&self) -> Option<u64> {
        self.0["domid"].as_u64()
    }

    /// Pid of the emulator.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.0["pid"].as_i64().map(|pid| i32::try_from(pid).unwrap())
    }
}
