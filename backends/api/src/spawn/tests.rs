use std::ffi::CString;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::command::gives_rights;
use super::*;

fn out(script: &str) -> (Command, std::fs::File) {
    let (read, write) = pipe().unwrap();
    let mut command = Command::new(Path::new("/bin/sh")).unwrap();
    command.arg("-c").unwrap().arg(script).unwrap().fd(write, 1);
    (command, read.into())
}

#[test]
fn the_child_runs_only_after_the_gate_is_opened() {
    let (command, mut read) = out("echo born; echo $$");
    let gated = spawn(command).unwrap();
    let pid = gated.identity().pid;
    let process = gated.open().unwrap();
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(text, format!("born\n{pid}\n"));
    assert_eq!(process.identity().pid, pid);
}

#[test]
fn a_child_whose_gate_closes_ends_without_exec() {
    let (command, mut read) = out("echo born");
    drop(spawn(command).unwrap());
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(text, "");
}

#[test]
fn exec_errors_come_back_to_the_parent() {
    let command = Command::new(Path::new("/nonexistent/emulator")).unwrap();
    let error = spawn(command).unwrap().open().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
}

#[test]
fn a_child_that_does_not_come_to_exec_in_time_is_killed() {
    let (command, mut read) = out("echo born");
    let gated = spawn(command).unwrap();
    let identity = gated.identity().clone();
    // Held where a hanging file system would hold it.
    gated.process.as_ref().unwrap().signal(Signal::SIGSTOP).unwrap();
    let error = gated.open_within(Duration::from_millis(20)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    let gone = crate::process::Stat::read(identity.pid);
    assert!(gone.is_err_and(|e| e.kind() == io::ErrorKind::NotFound), "killed and reaped");
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(text, "");
}

#[test]
fn a_child_that_is_held_while_its_gate_closes_is_killed() {
    let (command, mut read) = out("echo born");
    let gated = spawn(command).unwrap();
    let identity = gated.identity().clone();
    gated.process.as_ref().unwrap().signal(Signal::SIGSTOP).unwrap();
    drop(gated);
    assert!(!identity.alive());
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(text, "");
}

#[test]
fn a_child_opened_stopped_execs_after_it_is_continued() {
    let (command, mut read) = out("echo born");
    let process = spawn(command).unwrap().open_stopped().unwrap();
    let stat = process.identity().stat().unwrap();
    assert_eq!(stat.state, RunState::Stopped);
    let held = std::fs::read_dir(format!("/proc/{}/fd", process.identity().pid)).unwrap();
    assert_eq!(held.count(), 3, "its output and the two pipes, nothing else of ours");
    process.signal(Signal::SIGCONT).unwrap();
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(text, "born\n");
}

#[test]
fn the_child_holds_the_descriptors_it_was_given_and_no_others() {
    let stray = std::fs::File::open("/proc/self/status").unwrap();
    let kept = nix::unistd::dup(&stray).unwrap(); // no close-on-exec
    let (command, mut read) = out("ls /proc/self/fd");
    spawn(command).unwrap().open().unwrap();
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    // 1 is ours; ls itself opens the directory on the lowest free number.
    let numbers: Vec<i32> = text.lines().map(|l| l.parse().unwrap()).collect();
    assert!(numbers.iter().all(|n| *n < 4), "{numbers:?}");
    drop(kept);
}

#[test]
fn a_holder_keeps_what_it_was_given_and_ends_with_its_process() {
    let (command, _said) = out("exec sleep 60");
    let until = spawn(command).unwrap().open().unwrap();
    let (read, write) = pipe().unwrap();
    let mut command = Command::holder(&until).unwrap();
    command.fd(write, 100);
    let holder = spawn(command).unwrap().open().unwrap();
    let pid = holder.identity().pid;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    assert_eq!(name, "kxl-holder\n");
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut fds: Vec<_> = fds.map(|fd| fd.unwrap().file_name().into_string().unwrap()).collect();
    fds.sort();
    assert_eq!(fds, ["100", "3"]);
    holder.take_fd(100).unwrap();
    assert!(!readable(read.as_fd(), Duration::ZERO).unwrap(), "somebody can still write");
    until.signal(Signal::SIGKILL).unwrap();
    assert!(ends(&holder));
    assert!(readable(read.as_fd(), Duration::ZERO).unwrap(), "nobody can");
}

#[test]
fn a_child_that_must_not_punch_holes_cannot_and_may_do_everything_else() {
    let file = std::env::temp_dir().join(format!("kxl-holes-{}", std::process::id()));
    std::fs::write(&file, vec![1; 8192]).unwrap();
    let name = file.display();
    let script = format!(
        "fallocate -p -o 0 -l 4096 {name} 2>&1 | grep -c supported; \
         fallocate -l 16384 {name} && echo longer"
    );
    let (mut command, mut read) = out(&script);
    command.no_holes().unwrap();
    let _child = spawn(command).unwrap().open().unwrap();
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(text, "1\nlonger\n");
    assert_eq!(std::fs::read(&file).unwrap()[..4096], [1; 4096]);
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn a_program_whose_file_gives_it_rights_is_told_from_others() {
    use std::os::unix::fs::PermissionsExt;
    let path = std::env::temp_dir().join(format!("kxl-rights-{}", std::process::id()));
    std::fs::write(&path, "").unwrap();
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    for (mode, gives) in [(0o755, false), (0o2755, true), (0o4755, true)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(gives_rights(&name), gives, "{mode:o}");
    }
    std::fs::remove_file(path).unwrap();
    assert!(!gives_rights(&name), "there is none");
}

fn attributes(text: &str) -> Attributes {
    let text = format!("name='a'\nbackend='any'\n{text}");
    let config = kxl_domain::config::parse("f", &text, &[]).unwrap().config;
    Attributes::of(&config).unwrap()
}

fn said(script: &str, with: Attributes) -> String {
    let (mut command, mut read) = out(script);
    command.attributes(with);
    let _child = spawn(command).unwrap().open().unwrap();
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn the_program_has_the_nice_value_the_limits_the_mask_and_the_directory_it_was_given() {
    let with = attributes(
        "nice=7\numask='027'\ndirectory='/usr'\nrlimits=['nofile=64:80','core=0','cpu=100:200']\n",
    );
    let text = said("nice; umask; pwd; ulimit -Sn; ulimit -Hn; ulimit -Hc; ulimit -St", with);
    assert_eq!(text, "7\n0027\n/usr\n64\n80\n0\n100\n");
}

#[test]
fn another_user_has_all_its_groups_and_the_capabilities_it_was_left_and_no_others() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let script = "id -u; id -G | wc -w; grep -E 'Cap(Prm|Eff|Amb)' /proc/self/status";
    let mut with = attributes("user='nobody'\ncapabilities=['net_bind_service','kill']\n");
    let user = with.user.as_mut().unwrap();
    user.groups.push(54_321);
    let (uid, groups) = (user.uid, user.groups.len());
    let left = "0000000000000420";
    let want = format!("{uid}\n{groups}\nCapPrm:\t{left}\nCapEff:\t{left}\nCapAmb:\t{left}\n");
    assert_eq!(said(script, with), want);
    let none = "0000000000000000";
    let want =
        format!("{uid}\n{}\nCapPrm:\t{none}\nCapEff:\t{none}\nCapAmb:\t{none}\n", groups - 1);
    assert_eq!(said(script, attributes("user='nobody'\n")), want);
}

#[test]
fn what_the_system_refuses_is_told_by_the_key_that_asked_for_it() {
    for (text, key) in [
        ("directory='/nonexistent'\n", "directory"),
        // More than the kernel lets anybody have.
        ("rlimits='nofile=unlimited'\n", "rlimits"),
    ] {
        let (mut command, _read) = out("true");
        command.attributes(attributes(text));
        let error = spawn(command).unwrap().open().unwrap_err();
        let error = crate::BackendError::not_started("sh", &error);
        assert!(
            matches!(&error, crate::BackendError::Config { key: told, .. } if told == key),
            "{error:?}"
        );
    }
    let (mut command, _read) = out("true");
    command.attributes(attributes("directory='/nonexistent'\n"));
    let error = spawn(command).unwrap().open_stopped().unwrap_err();
    assert!(error.to_string().starts_with("directory: No such file"), "{error}");
}

#[test]
fn a_later_entry_of_the_environment_replaces_an_earlier_one_of_its_name() {
    let (mut command, mut read) = out("echo $PATH:$A");
    command.env("A=1").unwrap().env("PATH=/bin").unwrap().env("A=2=3").unwrap();
    let _child = spawn(command).unwrap().open().unwrap();
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(text, "/bin:2=3\n");
}
