//! The scripts by which Debian and Xen start and stop domains drive our `xl`, unchanged but for
//! the places they look at and the device file by which they know a Xen host.
//!
//! They are not part of this tree: `tests/setup/xendomains` fetches the packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kxl_domain::State;

use crate::support::run;
use crate::support::skip::skip;
use crate::support::{Host, Output, guest, wait};

/// A script, made ready for a host.
struct Script {
    path: PathBuf,
    host: Host,
}

/// Where the packages are unpacked; a script in them.
fn fetched(path: &str) -> Result<PathBuf, String> {
    let file = guest::top().join("target/xen").join(path);
    if file.is_file() { Ok(file) } else { Err("tests/setup/xendomains was not run".to_owned()) }
}

impl Script {
    /// `replaced` are places of the system and what stands for them here, below `scratch`.
    fn prepare(script: &Path, replaced: &[(&str, String)]) -> Self {
        let host = Host::new();
        let scratch = host.scratch().to_path_buf();
        for directory in ["save", "auto", "lock"] {
            fs::create_dir(scratch.join(directory)).unwrap();
        }
        let settings = format!(
            "XENDOMAINS_SAVE={0}/save\nXENDOMAINS_AUTO={0}/auto\nXENDOMAINS_RESTORE=true\n\
             XENDOMAINS_STOP_MAXWAIT=30\nXENDOMAINS_MIGRATE=\"\"\nXENDOMAINS_SYSRQ=\"\"\n\
             XENDOMAINS_AUTO_ONLY=false\nXENDOMAINS_SHUTDOWN=\"--wait\"\n\
             XENDOMAINS_SHUTDOWN_ALL=\"--all --wait\"\nXENDOMAINS_CREATE_USLEEP=1000\n",
            scratch.display()
        );
        host.file("settings", &settings);
        host.file("privcmd", "");
        let mut text = fs::read_to_string(script).unwrap();
        let places = [
            ("/proc/xen/privcmd", scratch.join("privcmd").display().to_string()),
            ("/dev/xen/privcmd", scratch.join("privcmd").display().to_string()),
            ("/etc/default/xendomains", scratch.join("settings").display().to_string()),
        ];
        assert!(text.contains("/proc/xen/privcmd"), "the script knows a Xen host otherwise now");
        for (from, to) in places.iter().chain(replaced) {
            text = text.replace(from, &to.replace("SCRATCH", &scratch.display().to_string()));
        }
        let path = host.file("xendomains", &text);
        for name in ["one", "two"] {
            host.file(&format!("auto/{name}.cfg"), &guest::mock(name, "memory=1M"));
        }
        Self { path, host }
    }

    fn run(&self, word: &str) -> Output {
        let mut command = Command::new("bash");
        command.arg(&self.path).arg(word);
        let path = format!("{}:{}", self.host.bin().display(), std::env::var("PATH").unwrap());
        command.env("PATH", path);
        self.host.settle_env(&mut command);
        run::run(&mut command, wait::BOOT)
    }

    /// Start, stop, start and stop again, as a host would.
    fn goes_round(&self) {
        let started = self.run("start");
        let uuids: Vec<_> = ["one", "two"]
            .map(|name| {
                let found = self.host.find(name).unwrap_or_else(|| panic!("{name}: {started}"));
                assert_eq!(found.rests(), Some(State::Running), "{started}");
                found.uuid()
            })
            .into();
        let stopped = self.run("stop");
        assert!(self.host.emulators().is_empty(), "{stopped}");
        let saved = |name: &str| self.host.scratch().join("save").join(name);
        for name in ["one", "two"] {
            let head = fs::read(saved(name)).unwrap_or_else(|error| panic!("{error}: {stopped}"));
            assert!(head.starts_with(b"Xen saved domain"), "{stopped}");
        }
        let again = self.run("start");
        for (name, uuid) in ["one", "two"].iter().zip(uuids) {
            let found = self.host.find(name).unwrap_or_else(|| panic!("{name}: {again}"));
            // Restored and not made anew: the file is gone and the identity the same.
            assert_eq!((found.rests(), found.uuid()), (Some(State::Running), uuid), "{again}");
            assert!(!saved(name).exists(), "{again}");
        }
    }
}

#[test]
fn the_script_of_debian_saves_and_restores() {
    let script = match fetched("etc/init.d/xendomains") {
        Ok(script) => script,
        Err(reason) => return skip("Debian's xendomains", &reason),
    };
    let helpers = fetched("usr/lib/xen-common/bin/xen-init-list").unwrap();
    let mut replaced =
        vec![("/usr/lib/xen-common/bin", helpers.parent().unwrap().display().to_string())];
    // Its way of printing lines is the system's; where that is not installed, nothing is printed.
    for file in ["/lib/lsb/init-functions", "/lib/init/vars.sh"] {
        if !Path::new(file).exists() {
            replaced.push((file, "SCRATCH/functions".to_owned()));
        }
    }
    let script = Script::prepare(&script, &replaced);
    let silent: String =
        ["begin", "cont", "end"].map(|word| format!("log_action_{word}_msg() {{ :; }}\n")).concat();
    script.host.file("functions", &format!("{silent}log_action_msg() {{ :; }}\n"));
    script.goes_round();
}

#[test]
fn the_script_of_xen_saves_and_restores() {
    let script = match fetched("usr/lib/xen-4.17/bin/xendomains") {
        Ok(script) => script,
        Err(reason) => return skip("Xen's xendomains", &reason),
    };
    let replaced = [("/etc/xen/scripts/hotplugpath.sh", "SCRATCH/hotplugpath.sh".to_owned())];
    let script = Script::prepare(&script, &replaced);
    let places = format!(
        "sbindir={0}/bin\nbindir={0}/bin\nLIBEXEC_BIN={0}/bin\nXEN_LOCK_DIR={0}/lock\n",
        script.host.scratch().display()
    );
    script.host.file("hotplugpath.sh", &places);
    script.goes_round();
    assert_eq!(script.run("status").code(), Some(0));
}
