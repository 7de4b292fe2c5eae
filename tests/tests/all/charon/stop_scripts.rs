//! The ways that a created stop script comes with, each against something that answers: expect
//! against the console of the stand-in, ssh against Linux on QEMU, rsh against a server of this
//! test.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kxl_domain::State;

use super::{Guest, Telnet};
use crate::support::apart::{apart, show_at};
use crate::support::guest::{self, built, program};
use crate::support::skip::skipped;
use crate::support::{Console, Host, Output, run, wait};

const COMMAND: &str = "@SYS$SYSTEM:SHUTDOWN 0 maintenance";

/// Starts a domain, with a monitor whose stop script finds `kxl`.
fn start(host: &Host, name: &str) {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = host.command("kxl", ["start", name]);
    command.env("PATH", format!("{}:{path}", host.bin().display()));
    run::run(&mut command, wait::BOOT).expect(0);
}

/// Makes the common stop script, with this line in the place of what is to be customized.
fn customize(host: &Host, line: &str) {
    host.ok(["stop-script", "create", "--quiet"]);
    let script = host.root.join("etc/kxl/stop-script");
    let text = fs::read_to_string(&script).unwrap();
    let with = text.replace("        to_customize\n", &format!("        {line}\n"));
    assert_ne!(text, with);
    fs::write(&script, with).unwrap();
    host.ok(["stop-script", "check"]);
}

fn stop(host: &Host, name: &str) -> Output {
    run::run(&mut host.command("vmstop", [name]), wait::BOOT)
}

/// The file with a password, and a guest of the stand-in that is up.
fn booted(host: &Host) -> (PathBuf, Guest, Telnet) {
    let password = host.file("password", "Manager-1\n");
    let guest = Guest::new(host, "vms", "", "stopwaitsecs = 300\n");
    start(host, "vms");
    let mut telnet = guest.telnet();
    telnet.expect("P00>>>");
    telnet.send("boot\r\0");
    telnet.expect("The system is up");
    (password, guest, telnet)
}

#[test]
fn expect_logs_in_on_the_console_shuts_the_guest_down_and_switches_it_off() {
    if skipped("stop_by_expect", &program("expect")) {
        return;
    }
    let host = Host::new();
    let (password, guest, mut telnet) = booted(&host);
    let way = format!("stop_by_expect SYSTEM {} '{COMMAND}' && switch_off", password.display());
    customize(&host, &way);
    // Prompts of the past are none of now.
    telnet.send("\r\0");
    telnet.expect("Username: ");
    telnet.send("SYSTEM\r\0");
    telnet.expect("Password: ");
    telnet.send("wrong\r\0");
    telnet.expect("authorization failure");
    let stopped = stop(&host, "vms").expect(0);
    assert_eq!((stopped.stdout.as_str(), stopped.stderr.as_str()), ("vms: stopped\n", ""));
    telnet.expect("SYSTEM SHUTDOWN COMPLETE");
    assert_eq!(host.rests("vms", State::Halted).reason(), Some("poweroff"));

    // Where somebody is logged in already nobody has to be.
    start(&host, guest.name);
    let mut telnet = guest.telnet();
    for (typed, shown) in
        [("boot", "The system is up"), ("", "Username: "), ("SYSTEM", "Password: ")]
    {
        telnet.send(&format!("{typed}\r\0"));
        telnet.expect(shown);
    }
    telnet.send("Manager-1\r\0");
    telnet.expect("$ ");
    stop(&host, "vms").expect(0);

    // At the machine's own prompt there is nothing to shut down.
    start(&host, guest.name);
    guest.telnet().expect("P00>>>");
    stop(&host, "vms").expect(0);
}

#[test]
fn expect_that_is_not_let_in_has_failed_and_says_so() {
    if skipped("stop_by_expect", &program("expect")) {
        return;
    }
    let host = Host::new();
    let (_, _, _telnet) = booted(&host);
    let wrong = host.file("wrong", "nobody\n");
    customize(&host, &format!("stop_by_expect SYSTEM {} x && switch_off", wrong.display()));
    let failed = stop(&host, "vms").expect(1);
    assert!(failed.stderr.contains("not shut down: the login was refused"), "{failed}");
    assert!(!failed.stderr.contains("nobody"), "{failed}");
}

/// A server of rsh, for one command: it is given to `obey`, and what that says is the answer.
fn serve_rsh(listener: TcpListener, obey: impl FnOnce(&str) -> String + Send + 'static) {
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut word = || {
            let mut bytes = Vec::new();
            reader.read_until(0, &mut bytes).unwrap();
            bytes.pop();
            String::from_utf8(bytes).unwrap()
        };
        let errors = word();
        // A second connection for errors, at the port that the client has named.
        let _errors = (errors != "0" && !errors.is_empty())
            .then(|| TcpStream::connect(("127.0.0.1", errors.parse().unwrap())).unwrap());
        let (_client, server, command) = (word(), word(), word());
        let mut stream = stream;
        stream.write_all(&[0]).unwrap();
        stream.write_all(obey(&format!("{server}: {command}")).as_bytes()).unwrap();
        // Hung up when the client goes: a guest that is down does not even do that.
        drop(stream.read(&mut [0; 16]));
    });
}

#[test]
fn rsh_passes_the_command_on_and_is_not_waited_for_when_the_guest_is_down() {
    if skipped("stop_by_rsh", &program("rsh")) {
        return;
    }
    apart("stop_by_rsh", || {
        let host = Host::new();
        let (_, _, mut telnet) = booted(&host);
        for (typed, shown) in [("", "Username: "), ("SYSTEM", "Password: "), ("Manager-1", "$ ")] {
            telnet.send(&format!("{typed}\r\0"));
            telnet.expect(shown);
        }
        customize(&host, &format!("stop_by_rsh 127.0.0.1 SYSTEM '{COMMAND}' && switch_off"));
        let told = host.scratch().join("told");
        let note = told.clone();
        serve_rsh(TcpListener::bind("127.0.0.1:514").unwrap(), move |line| {
            fs::write(note, line).unwrap();
            telnet.send(&format!("{COMMAND}\r\0"));
            telnet.expect("SYSTEM SHUTDOWN COMPLETE");
            "going down\r\n".to_owned()
        });
        let stopped = stop(&host, "vms").expect(0);
        assert_eq!((stopped.stdout.as_str(), stopped.stderr.as_str()), ("vms: stopped\n", ""));
        assert_eq!(fs::read_to_string(told).unwrap(), format!("SYSTEM: {COMMAND}"));
    });
}

/// What the test guest needs besides for being reached by ssh, as an archive behind its own.
fn with_ssh(host: &Host, key: &Path) -> PathBuf {
    let root = host.scratch().join("guest");
    let place = |from: &Path, to: &str| {
        let to = root.join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, &to).unwrap();
    };
    let dropbear = program_of_root("dropbear").unwrap();
    place(&dropbear, "/dropbear");
    let libraries = output(Command::new("ldd").arg(&dropbear));
    for file in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        place(Path::new(file), file);
    }
    place(key, "/hostkey");
    place(&key.with_extension("pub"), "/root/.ssh/authorized_keys");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    for dir in ["root", "root/.ssh"] {
        fs::set_permissions(root.join(dir), fs::Permissions::from_mode(0o700)).unwrap();
    }
    let archive = "find . | cpio --quiet -o -H newc -R 0:0";
    let more = Command::new("sh").args(["-c", archive]).current_dir(&root).output().unwrap();
    assert!(more.status.success(), "{more:?}");
    let mut bytes = fs::read(built("initramfs.cpio.gz").unwrap()).unwrap();
    // The kernel looks for the next archive at multiples of four.
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(more.stdout);
    let file = host.scratch().join("with-ssh.cpio");
    fs::write(&file, bytes).unwrap();
    file
}

/// A program that may lie where only root looks for it.
fn program_of_root(name: &str) -> Result<PathBuf, String> {
    let sbin = Path::new("/usr/sbin").join(name);
    if sbin.is_file() { Ok(sbin) } else { program(name) }
}

fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// All that the test with ssh needs.
fn has_ssh() -> Result<(), String> {
    for name in ["ssh", "ssh-keygen", "cpio", "qemu-system-x86_64"] {
        program(name)?;
    }
    for name in ["dropbear", "dropbearkey"] {
        program_of_root(name).or_else(|_| program(name))?;
    }
    built("vmlinuz")?;
    built("initramfs.cpio.gz").map(drop)
}

/// A guest that is reached by ssh: Linux on a QEMU that is looked after like any emulator. It goes
/// down at once and takes the connection with it, as guests do.
#[test]
fn ssh_shuts_linux_on_qemu_down_although_the_connection_goes_with_it() {
    if skipped("stop_by_ssh", &has_ssh()) {
        return;
    }
    apart("stop_by_ssh", || {
        let host = Host::new();
        let (key, host_key) = (host.scratch().join("key"), host.scratch().join("hostkey"));
        output(Command::new("ssh-keygen").args(["-q", "-N", "", "-t", "ed25519", "-f"]).arg(&key));
        let mut make = Command::new("dropbearkey");
        let said = output(make.args(["-t", "ed25519", "-f"]).arg(&host_key));
        fs::copy(key.with_extension("pub"), host_key.with_extension("pub")).unwrap();
        let public = said.lines().find(|line| line.starts_with("ssh-ed25519 ")).unwrap();
        let known = host.file("known", &format!("127.0.0.1 {public}\n"));
        let config = format!(
            "Host *\n UserKnownHostsFile {}\n IdentityFile {}\n IdentitiesOnly yes\n",
            known.display(),
            key.display()
        );
        show_at(&host.file("ssh_config", &config), "/etc/ssh/ssh_config");
        let ramdisk = with_ssh(&host, &host_key);
        let settings = host.file("linux.cfg", "set session hw_model=VAX_6610\n");
        let _slot = guest::slot();
        host.define(
            "linux",
            &format!(
                "name=\"linux\"\nbackend=\"any\"\nexec=\"{}\"\nemulator_config=\"{}\"\n\
                 stopwaitsecs=300\ndevice_model_args=[\"-nodefaults\", \"-nographic\", \
                 \"-no-reboot\", \"-m\", \"192\", \"-serial\", \"stdio\", \"-kernel\", \"{}\", \
                 \"-initrd\", \"{}\", \"-append\", \"console=ttyS0 quiet\", \"-netdev\", \
                 \"user,id=n,restrict=on,hostfwd=tcp:127.0.0.1:22-:22\", \"-device\", \
                 \"virtio-net-pci,netdev=n\"]\n",
                program("qemu-system-x86_64").unwrap().display(),
                settings.display(),
                built("vmlinuz").unwrap().display(),
                ramdisk.display(),
            ),
        );
        customize(&host, "stop_by_ssh 127.0.0.1 root 'poweroff -f'");
        start(&host, "linux");
        let mut console = Console::attach(&host, "linux");
        console.enter();
        let up = "ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; \
                  /dropbear -r /hostkey -E -s && echo listen''ing";
        // Its terminal makes two carriage returns of one: nothing is read line by line.
        console.send(&format!("{up}\n"));
        console.expect("listening");
        let stopped = stop(&host, "linux").expect(0);
        assert_eq!((stopped.stdout.as_str(), stopped.stderr.as_str()), ("linux: stopped\n", ""));
        assert_eq!(host.rests("linux", State::Halted).reason(), Some("poweroff"));

        // Nobody there: it has failed, and why is told.
        start(&host, "linux");
        let failed = stop(&host, "linux").expect(1);
        assert!(failed.stderr.contains("ended with status 255: "), "{failed}");
        assert_eq!(host.rests("linux", State::Halted).reason(), Some("destroyed"));
    });
}
