use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use kxl_domain::DomId;

use super::{Host, name, uuid};
use crate::{Paths, StoreError};

fn resolved(root: bool, vars: &[(&str, &str)]) -> Result<Paths, StoreError> {
    let env = |wanted: &str| {
        vars.iter().find(|(name, _)| *name == wanted).map(|(_, value)| OsString::from(value))
    };
    Paths::resolve(env, root)
}

#[test]
fn root_has_the_places_of_the_system() {
    let paths = resolved(true, &[("HOME", "/root"), ("XDG_RUNTIME_DIR", "/x")]).unwrap();
    assert_eq!(paths.conf_file(), Path::new("/etc/kxl/kxl.conf"));
    assert_eq!(paths.registry_db(), Path::new("/var/lib/kxl/registry.db"));
    assert_eq!(paths.log_dir(), Path::new("/var/log/kxl"));
    assert_eq!(paths.live_db(), Path::new("/run/kxl/live.db"));
    assert_eq!(paths.control_socket(uuid(0xabc)), Path::new("/run/kxl/00000abc/control.sock"));
}

#[test]
fn a_root_of_its_own_moves_everything_for_everybody() {
    for root in [true, false] {
        let paths = resolved(root, &[("KXL_ROOT", "/t"), ("HOME", "/h")]).unwrap();
        assert_eq!(paths, Paths::under(Path::new("/t")));
        assert_eq!(paths.profile_dir(), Path::new("/t/etc/kxl/profiles"));
        assert_eq!(paths.events_db(), Path::new("/t/var/lib/kxl/events.db"));
        assert_eq!(paths.emulator_log(&name("a")), Path::new("/t/var/log/kxl/a.emulator.log"));
        assert_eq!(paths.rundir(uuid(1)), Path::new("/t/run/kxl/00000001"));
    }
}

#[test]
fn a_root_that_is_relative_or_empty_is_refused_and_named() {
    for bad in ["", "here", "./x"] {
        let error = resolved(true, &[("KXL_ROOT", bad)]).unwrap_err().to_string();
        assert!(error.contains("KXL_ROOT") && error.contains("absolute"), "{error}");
    }
}

#[test]
fn users_have_the_xdg_places_and_are_told_which_variable_is_missing() {
    let own = [("HOME", "/home/u"), ("XDG_RUNTIME_DIR", "/run/user/7")];
    let paths = resolved(false, &own).unwrap();
    assert_eq!(paths.conf_file(), Path::new("/home/u/.config/kxl/kxl.conf"));
    assert_eq!(paths.state_dir(), Path::new("/home/u/.local/state/kxl"));
    assert_eq!(paths.log_dir(), Path::new("/home/u/.local/state/kxl/log"));
    assert_eq!(paths.run_dir(), Path::new("/run/user/7/kxl"));

    let moved = [own[0], own[1], ("XDG_STATE_HOME", "/s"), ("XDG_CONFIG_HOME", "relative")];
    let paths = resolved(false, &moved).unwrap();
    assert_eq!(paths.state_dir(), Path::new("/s/kxl"));
    assert_eq!(paths.conf_file(), Path::new("/home/u/.config/kxl/kxl.conf"));

    let no_run = resolved(false, &own[..1]).unwrap_err().to_string();
    assert!(no_run.contains("XDG_RUNTIME_DIR"), "{no_run}");
    let no_home = resolved(false, &own[1..]).unwrap_err().to_string();
    assert!(no_home.contains("HOME"), "{no_home}");
}

#[test]
fn prepared_directories_are_private_and_stay_as_they_are() {
    let host = Host::new();
    host.prepare().unwrap();
    host.prepare().unwrap();
    for dir in [host.state_dir(), host.log_dir(), host.run_dir(), &host.cache_dir(), &host.by_id()]
    {
        assert_eq!(fs::metadata(dir).unwrap().mode() & 0o7777, 0o700, "{}", dir.display());
    }
}

#[test]
fn a_directory_that_others_may_write_is_refused_by_name() {
    let host = Host::new();
    host.prepare().unwrap();
    fs::set_permissions(host.run_dir(), Permissions::from_mode(0o770)).unwrap();
    for refused in [host.prepare(), host.check()] {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains(host.run_dir().to_str().unwrap()), "{error}");
        assert!(error.contains("mode 770") && error.contains("chmod"), "{error}");
    }
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    let host = Host::new();
    host.prepare().unwrap();
    let log = host.log_dir();
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(log, Some(12345), None).unwrap();
    } else {
        fs::remove_dir(log).unwrap();
        std::os::unix::fs::symlink("/usr", log).unwrap();
    }
    let error = host.prepare().unwrap_err();
    assert!(matches!(&error, StoreError::Unsafe { path, .. } if path == log), "{error}");
    assert!(error.to_string().contains("belongs to uid"), "{error}");
    // The records of such a place are not believed either.
    fs::write(host.registry_db(), "").unwrap();
    assert!(matches!(host.store().list(), Err(StoreError::Unsafe { .. })));
}

#[test]
fn a_file_in_the_place_of_a_directory_is_refused() {
    let host = Host::new();
    host.prepare().unwrap();
    fs::remove_dir(host.cache_dir()).unwrap();
    fs::write(host.cache_dir(), "").unwrap();
    let error = host.prepare().unwrap_err().to_string();
    assert!(error.contains("is not a directory"), "{error}");
}

#[test]
fn a_link_is_never_missing_while_it_is_replaced() {
    let host = Host::new();
    host.prepare().unwrap();
    let link = host.by_name().join("a");
    host.link(uuid(1), DomId(1), &name("a")).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..500 {
                host.link(uuid(round % 2 + 1), DomId(1), &name("a")).unwrap();
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            let target = fs::read_link(&link).expect("the link was missing for a moment");
            assert!(target.starts_with(".."), "{}", target.display());
        }
    });
    assert_eq!(fs::read_dir(host.by_name()).unwrap().count(), 1, "a temporary link was left");
}

#[test]
fn a_link_that_leads_to_another_domain_by_now_is_not_removed() {
    let host = Host::new();
    host.prepare().unwrap();
    host.link(uuid(1), DomId(1), &name("a")).unwrap();
    host.link(uuid(2), DomId(2), &name("a")).unwrap();
    host.unlink(uuid(1), DomId(1), Some(&name("a"))).unwrap();
    assert!(!host.by_id().join("1").is_symlink());
    assert_eq!(fs::read_link(host.by_name().join("a")).unwrap(), Path::new("../00000002"));
    host.unlink(uuid(1), DomId(1), Some(&name("a"))).unwrap();
}

#[test]
fn no_two_domains_share_a_log() {
    let host = Host::new();
    let names = ["a", "a.console", "a.emulator", "a.console.log", "a.emulator.log", "b"];
    let logs: HashSet<_> = names
        .iter()
        .map(|text| name(text))
        .flat_map(|name| {
            [host.emulator_log(&name), host.console_log(&name), host.monitor_log(&name)]
        })
        .collect();
    assert_eq!(logs.len(), names.len() * 3);
}
