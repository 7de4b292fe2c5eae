//! The peer: a libvirt session daemon of our own, with every directory under ours. Nothing of the
//! system's libvirt is used or changed. As root it runs as `nobody`, because a session daemon is
//! what an ordinary user has: it needs no directory of the system, and it is the faster kind (no
//! control groups, no security labels), so that the comparison is not too kind to kxl.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};

use crate::error::BenchError;
use crate::host::{Guest, Lab};
use crate::run::{self, Run};

/// How long the daemon may take to answer first.
const START: Duration = Duration::from_secs(30);

/// How long it may take to end.
const END: Duration = Duration::from_secs(10);

/// The running daemon.
#[derive(Debug)]
pub(crate) struct Libvirt {
    daemon: Child,
    place: Place,
}

/// Where it has its files, and who it runs as.
#[derive(Debug)]
struct Place {
    dir: PathBuf,
    run_as: Option<(u32, u32)>,
}

impl Place {
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("HOME", &self.dir).current_dir(&self.dir);
        for (name, dir) in [
            ("XDG_CONFIG_HOME", "config"),
            ("XDG_CACHE_HOME", "cache"),
            ("XDG_DATA_HOME", "data"),
            ("XDG_RUNTIME_DIR", "run"),
        ] {
            command.env(name, self.dir.join(dir));
        }
        if let Some((uid, gid)) = self.run_as {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn prepare(&self) -> Result<(), BenchError> {
        for dir in ["", "config", "config/libvirt", "cache", "data", "run"] {
            let dir = self.dir.join(dir);
            if !dir.is_dir() {
                fs::create_dir(&dir).map_err(BenchError::io(format!("make {}", dir.display())))?;
            }
            self.give(&dir)?;
        }
        // Without the second daemon that would write the guests' logs.
        self.file("config/libvirt/qemu.conf", "stdio_handler = \"file\"\n")?;
        Ok(())
    }

    fn file(&self, name: &str, text: &str) -> Result<PathBuf, BenchError> {
        let path = self.dir.join(name);
        fs::write(&path, text).map_err(BenchError::io(format!("write {}", path.display())))?;
        self.give(&path)?;
        Ok(path)
    }

    fn give(&self, path: &Path) -> Result<(), BenchError> {
        let Some((uid, gid)) = self.run_as else { return Ok(()) };
        chown(path, Some(uid), Some(gid))
            .map_err(BenchError::io(format!("give {} away", path.display())))
    }
}

impl Libvirt {
    /// Starts the daemon and waits until it answers; the reason where the host has none.
    ///
    /// # Errors
    /// When it is installed and does not come up.
    pub(crate) fn start(lab: &Lab, name: &str) -> Result<Result<Self, String>, BenchError> {
        let (Some(daemon), Some(_)) = (program("libvirtd"), program("virsh")) else {
            return Ok(Err(
                "libvirtd and virsh are not installed (tests/setup/install bench)".into()
            ));
        };
        let run_as = if geteuid().is_root() {
            match User::from_name("nobody") {
                Ok(Some(user)) => Some((user.uid.as_raw(), user.gid.as_raw())),
                _ => return Ok(Err("there is no user nobody to run its daemon as".into())),
            }
        } else {
            None
        };
        let place = Place { dir: lab.dir(name)?, run_as };
        place.prepare()?;
        let log = fs::File::create(place.dir.join("libvirtd.log"))
            .map_err(BenchError::io("make the daemon's log"))?;
        let child = place
            .command(&daemon)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(BenchError::io(format!("start {}", daemon.display())))?;
        let libvirt = Self { daemon: child, place };
        let until = Instant::now() + START;
        // The daemon says nothing when it is ready, so it is asked; a socket is not enough.
        while let Err(error) = libvirt.virsh(&["list"]) {
            if matches!(error, BenchError::Interrupted) || Instant::now() > until {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(Ok(libvirt))
    }

    /// Runs `virsh` to its end.
    ///
    /// # Errors
    /// When it does not succeed.
    pub(crate) fn virsh(&self, args: &[&str]) -> Result<Run, BenchError> {
        run::timed(&mut self.command(args))
    }

    fn command(&self, args: &[&str]) -> Command {
        let socket = self.place.dir.join("run/libvirt/libvirt-sock");
        // By its path: without it, virsh would start a daemon of its own where ours is late.
        let uri = format!("qemu+unix:///session?socket={}", socket.display());
        let mut command = self.place.command(Path::new("virsh"));
        command.args(["-q", "-c", &uri]).args(args);
        command
    }

    /// Defines the guest, as like the one of kxl as libvirt can.
    ///
    /// # Errors
    /// When it is refused.
    pub(crate) fn define_guest(
        &self,
        guest: &Guest,
        machine: &str,
        cpu: &str,
        kvm: bool,
    ) -> Result<(), BenchError> {
        let kind = if kvm { "kvm" } else { "qemu" };
        let cpu = if cpu == "host" {
            "<cpu mode='host-passthrough'/>".to_owned()
        } else {
            // libvirt has its own names for models, without the version at the end.
            let model = cpu.split("-v").next().unwrap_or(cpu);
            format!("<cpu mode='custom' match='minimum' check='none'><model>{model}</model></cpu>")
        };
        let xml = format!(
            "<domain type='{kind}'><name>guest</name><memory unit='MiB'>{}</memory>\
             <vcpu>1</vcpu><os><type arch='x86_64' machine='{machine}'>hvm</type>\
             <kernel>{}</kernel><initrd>{}</initrd><cmdline>{}</cmdline></os>\
             <features><acpi/></features>{cpu}\
             <devices><serial type='pty'/><memballoon model='virtio'/></devices></domain>",
            Guest::MEMORY,
            guest.kernel.display(),
            guest.ramdisk.display(),
            Guest::CMDLINE,
        );
        let file = self.place.file("guest.xml", &xml)?;
        self.virsh(&["define", &file.to_string_lossy()]).map(drop)
    }

    /// Defines `count` domains with nothing in them.
    ///
    /// # Errors
    /// When one is refused.
    pub(crate) fn define_many(&self, count: u32) -> Result<(), BenchError> {
        let mut words = Vec::new();
        for number in 1..=count {
            let xml = format!(
                "<domain type='qemu'><name>d{number}</name><memory unit='MiB'>64</memory>\
                 <vcpu>1</vcpu><os><type arch='x86_64'>hvm</type></os></domain>"
            );
            let file = self.place.file(&format!("d{number}.xml"), &xml)?;
            words.push(format!("define {}", file.display()));
        }
        // One client for many commands: a thousand connections would take minutes.
        for chunk in words.chunks(50) {
            self.virsh(&[&chunk.join("; ")])?;
        }
        Ok(())
    }
}

impl Drop for Libvirt {
    #[allow(clippy::print_stderr, reason = "an error on the way out has no other place")]
    fn drop(&mut self) {
        // Its guests outlive it.
        let running = run::unchecked(&mut self.command(&["list", "--name"]));
        for name in running.map(|run| run.stdout).unwrap_or_default().split_whitespace() {
            if let Err(error) = run::unchecked(&mut self.command(&["destroy", name])) {
                eprintln!("kxl-bench: {error}");
            }
        }
        let pid = self.daemon.id().cast_signed();
        // Our child and not waited for: the number cannot mean another process.
        let _gone = kill(Pid::from_raw(pid), Signal::SIGTERM);
        let until = Instant::now() + END;
        while matches!(self.daemon.try_wait(), Ok(None)) {
            if Instant::now() > until {
                let _gone = self.daemon.kill();
                let _reaped = self.daemon.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A program of the host; those of the system are not on everybody's path.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}
