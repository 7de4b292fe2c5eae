//! The peer: a libvirt session daemon of our own, with every directory under ours. Nothing of the
//! system's libvirt is used or changed. As root it runs as `nobody`, because a session daemon is
//! what an ordinary user has: it needs no directory of the system, and it is the faster kind (no
//! control groups, no security labels), so that the comparison is not too kind to kxl.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};

use crate::error::BenchError;
use crate::host::{Guest, Lab};
use crate::raw::Recipe;
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

/// A domain that libvirt is to define.
#[derive(Debug)]
pub(crate) struct Domain {
    /// MiB.
    pub(crate) memory: u32,
    /// The kernel's command line.
    pub(crate) cmdline: String,
    machine: String,
    cpu: String,
    kvm: bool,
    /// The socket that its serial line connects to; a pty that nobody reads where there is none.
    console: Option<PathBuf>,
}

impl Domain {
    /// The same machine, processor and accelerator that kxl chose.
    pub(crate) fn of(recipe: &Recipe, memory: u32, cmdline: &str, console: Option<&Path>) -> Self {
        let machine = recipe.option("-machine").unwrap_or_default();
        Self {
            memory,
            cmdline: cmdline.to_owned(),
            machine: machine.split(',').next().unwrap_or_default().to_owned(),
            cpu: recipe.option("-cpu").unwrap_or_default().to_owned(),
            kvm: machine.contains("accel=kvm"),
            console: console.map(Path::to_owned),
        }
    }
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

    /// Defines the guest, which is called `guest`, as like the one of kxl as libvirt can.
    ///
    /// # Errors
    /// When it is refused.
    pub(crate) fn define(&self, guest: &Guest, domain: &Domain) -> Result<(), BenchError> {
        let kind = if domain.kvm { "kvm" } else { "qemu" };
        let cpu = if domain.cpu == "host" {
            "<cpu mode='host-passthrough'/>".to_owned()
        } else {
            // libvirt has its own names for models, without the version at the end.
            let model = domain.cpu.split("-v").next().unwrap_or(&domain.cpu);
            format!("<cpu mode='custom' match='minimum' check='none'><model>{model}</model></cpu>")
        };
        let serial = domain.console.as_ref().map_or_else(
            || "<serial type='pty'/>".to_owned(),
            |path| {
                let path = path.display();
                format!("<serial type='unix'><source mode='connect' path='{path}'/></serial>")
            },
        );
        let xml = format!(
            "<domain type='{kind}'><name>guest</name><memory unit='MiB'>{}</memory>\
             <vcpu>1</vcpu><os><type arch='x86_64' machine='{}'>hvm</type>\
             <kernel>{}</kernel><initrd>{}</initrd><cmdline>{}</cmdline></os>\
             <features><acpi/></features>{cpu}\
             <devices>{serial}<memballoon model='virtio'/></devices></domain>",
            domain.memory,
            domain.machine,
            guest.kernel.display(),
            guest.ramdisk.display(),
            domain.cmdline,
        );
        let file = self.place.file("guest.xml", &xml)?;
        self.virsh(&["define", &file.to_string_lossy()]).map(drop)
    }

    /// A path in a directory that the guests' emulators may write.
    pub(crate) fn path(&self, name: &str) -> String {
        self.place.dir.join("data").join(name).to_string_lossy().into_owned()
    }

    /// A socket to which an emulator can connect.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn socket(&self, name: &str) -> Result<(PathBuf, UnixListener), BenchError> {
        let path = PathBuf::from(self.path(name));
        let listener = UnixListener::bind(&path);
        let listener = listener.map_err(BenchError::io(format!("listen at {}", path.display())))?;
        self.place.give(&path)?;
        Ok((path, listener))
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
