//! One process that is confined and tries one thing.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use kxl_vmm::config::{Config, Endpoint, RunAs};
use kxl_vmm::sandbox::confine_process;
use kxl_vmm::thread::{self, Kind};

use crate::deeds;

pub(crate) const ROLE: &str = "KXL_VMM_TEST_ROLE";
const DEED: &str = "KXL_VMM_TEST_DEED";
const PLACE: &str = "KXL_VMM_TEST_PLACE";
const USER: &str = "KXL_VMM_TEST_USER";
const OPEN: &str = "KXL_VMM_TEST_NO_SANDBOX";

/// The threads of the program.
pub(crate) const ROLES: [&str; 4] = ["main", "vcpu", "device", "save"];

/// What the child does instead of being a test.
pub(crate) fn child() -> ExitCode {
    let of = |name: &str| std::env::var(name).unwrap_or_default();
    let place = PathBuf::from(of(PLACE));
    let mut config = Config { sandbox: std::env::var_os(OPEN).is_none(), ..Config::default() };
    config.hotplug.dirs.push(place.join("hotplug"));
    config.qmp.push(Endpoint::Unix(place.join("sockets/qmp")));
    config.run_as = of(USER).parse().ok().map(|id| RunAs { uid: id, gid: id });
    let role = of(ROLE);
    let deed = deeds::by_name(&of(DEED));
    let world = deeds::World::new(&place);
    if let Err(error) = confine_process(&config) {
        drop(writeln!(std::io::stderr(), "{error}: {:?}", std::error::Error::source(&error)));
        return ExitCode::from(99);
    }
    let kind = match role.as_str() {
        "vcpu" => Kind::Vcpu,
        "device" => Kind::Device,
        "save" => Kind::Save,
        _ => return ExitCode::from(deed(&world)),
    };
    let thread = thread::spawn(kind, &format!("{role}0"), move || deed(&world));
    ExitCode::from(thread.unwrap().join().unwrap_or(98))
}

/// A directory that is removed when dropped.
pub(crate) struct Place(pub(crate) PathBuf);

impl Place {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("kxl-vmm-sandbox-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        for part in ["hotplug", "sockets", "elsewhere"] {
            std::fs::create_dir_all(path.join(part)).unwrap();
            std::fs::write(path.join(part).join("file"), "0123456789").unwrap();
        }
        Self(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn command(role: &str, deed: &str, place: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(ROLE, role).env(DEED, deed).env(PLACE, place).env_remove(USER).env_remove(OPEN);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Lets a confined process do `deed` in the thread `role`.
pub(crate) fn attempt(role: &str, deed: &str) -> Output {
    let place = Place::new();
    command(role, deed, &place.0).output().unwrap()
}

/// The same without a sandbox.
pub(crate) fn attempt_in_the_open(role: &str, deed: &str) -> Output {
    let place = Place::new();
    command(role, deed, &place.0).env(OPEN, "1").output().unwrap()
}

/// A confined process that waits for the end of its input in the thread `role`.
pub(crate) fn standing(role: &str, place: &Place, user: Option<u32>) -> Child {
    let mut command = command(role, "wait", &place.0);
    if let Some(user) = user {
        command.env(USER, user.to_string());
    }
    let mut child = command.spawn().unwrap();
    // One byte says that the deed has begun.
    let mut begun = [0];
    let stdout = child.stdout.as_mut().unwrap();
    std::io::Read::read_exact(stdout, &mut begun).unwrap();
    child
}

/// Fails unless the process died of a forbidden system call in this thread.
pub(crate) fn expect_death(role: &str, deed: &str) -> String {
    let output = attempt(role, deed);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let signal = output.status.signal();
    assert_eq!(signal, Some(libc::SIGSYS), "{role} {deed}: {:?} {said}", output.status);
    if deed == "another thread" {
        // The C library holds all signals back while it makes one: nothing can be said.
        return said;
    }
    // The main thread has the name of the program.
    let thread = if role == "main" { "sandbox".to_owned() } else { format!("{role}0") };
    assert!(said.contains(&format!("kxl-vmm: thread {thread}")), "{role} {deed}: {said}");
    said
}

/// Fails unless the process did it and ended with 0.
pub(crate) fn expect_success(role: &str, deed: &str) {
    let output = attempt(role, deed);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{role} {deed}: {:?} {said}", output.status);
}
