//! Real emulators.

use std::cell::Cell;
use std::path::Path;

use kxl_backend::{Event, Exit};
use kxl_domain::config::model::{Arch, Disk, DiskBus, DiskFormat, GuestKind, Nic};
use kxl_domain::{GuestEvent, State};
use nix::sys::signal::Signal;

use super::*;
use crate::testing::{Record, Scratch, Typist, monitor, next, report};

mod image;

fn driver() -> Driver {
    let profile = Profile::load("qemu", Path::new("/nonexistent")).unwrap();
    Driver { direct: DIRECT.get(), ..Driver::new(profile) }
}

thread_local! {
    /// What the drivers of a test are like.
    static DIRECT: Cell<bool> = const { Cell::new(true) };
}

/// Runs a test with guests whose memory is read past QEMU (where this host lets us), and with guests
/// whose memory QEMU streams.
fn both_ways(mut test: impl FnMut()) {
    for direct in [true, false] {
        DIRECT.set(direct);
        test();
    }
    DIRECT.set(true);
}

/// The architectures whose emulator is installed; says what is skipped.
fn installed() -> Vec<Arch> {
    let found = Arch::ALL.iter().filter(|arch| {
        let there = crate::program::find(Path::new(&format!("qemu-system-{arch}"))).is_some();
        if !there {
            crate::testing::skip(&format!("qemu-system-{arch} is not installed"));
        }
        there
    });
    found.copied().collect()
}

/// Kernel and initial file system of the test guest; says when they are missing.
fn guest(spec: &mut LaunchSpec) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest");
    let (kernel, ramdisk) = (root.join("vmlinuz"), root.join("initramfs.cpio.gz"));
    if installed().first() != Some(&Arch::X86_64) || !kernel.is_file() || !ramdisk.is_file() {
        crate::testing::skip("no test guest; run `make guest`");
        return false;
    }
    spec.config.arch = Some(Arch::X86_64);
    (spec.config.memory_mib, spec.config.maxmem_mib) = (128, 128);
    spec.config.boot.kernel = Some(kernel);
    spec.config.boot.ramdisk = Some(ramdisk);
    spec.config.boot.cmdline = Some("console=ttyS0 quiet tick=50".into());
    true
}

async fn launched(spec: &LaunchSpec) -> (Box<dyn Live>, Identity, Attachments) {
    let mut record = Record::default();
    let live = driver().launch(spec, &mut record).await.unwrap();
    let (identity, attachments) = record.kept.unwrap();
    (live, identity, attachments)
}

#[test]
fn a_paused_machine_is_launched_started_stopped_and_destroyed() {
    for arch in installed() {
        let scratch = Scratch::new("qemu");
        let mut spec = scratch.spec();
        (spec.config.arch, spec.paused) = (Some(arch), true);
        (spec.config.maxmem_mib, spec.config.vcpus, spec.config.maxvcpus) = (64, 1, 2);
        monitor(async {
            let (mut live, identity, attachments) = launched(&spec).await;
            let expected = if arch == Arch::X86_64 { "pc-i440fx-" } else { "virt-" };
            assert!(attachments.machine.unwrap().starts_with(expected));
            let seen = report(&mut live).await;
            assert_eq!((seen.state, seen.memory_mib), (State::Paused, Some(64)));
            let mut events = live.events().unwrap();
            assert!(live.events().is_none());
            live.unpause().await.unwrap();
            assert_eq!(next(&mut events).await, Event::Resumed);
            live.unpause().await.unwrap();
            assert_eq!(report(&mut live).await.state, State::Running);
            live.pause().await.unwrap();
            live.pause().await.unwrap();
            assert_eq!(next(&mut events).await, Event::Stopped);
            assert_eq!(report(&mut live).await.state, State::Paused);
            live.reset().await.unwrap();
            assert_eq!(next(&mut events).await, Event::Reset);
            assert_eq!(next(&mut events).await, Event::Resumed);
            assert_eq!(report(&mut live).await.state, State::Running);
            // Standing still is a part of it that nobody needs to be told.
            live.reset().await.unwrap();
            assert_eq!(next(&mut events).await, Event::Reset);
            assert_eq!(next(&mut events).await, Event::Resumed);
            assert_eq!(report(&mut live).await.state, State::Running);
            let exit = live.destroy().await.unwrap();
            assert_eq!((exit.signal, exit.meaning), (Some(Signal::SIGKILL as i32), None));
            assert!(!identity.alive());
            assert_eq!(live.destroy().await.unwrap(), exit, "idempotent");
        });
    }
}

#[test]
fn a_stopped_emulator_does_not_answer_and_is_destroyed_all_the_same() {
    if installed().is_empty() {
        return;
    }
    let scratch = Scratch::new("qemu");
    let mut spec = scratch.spec();
    spec.config.arch = installed().first().copied();
    monitor(async {
        let (mut live, identity, _) = launched(&spec).await;
        live.process().signal(Signal::SIGSTOP).unwrap();
        let error = live.query().await.unwrap_err();
        assert!(error.is_timeout(), "{error}");
        // What a save begins with waits once, and says so before anything is begun.
        let error = live.state_size().await.unwrap_err();
        assert!(error.is_timeout(), "{error}");
        live.destroy().await.unwrap();
        assert!(!identity.alive());
    });
}

#[test]
fn a_machine_whose_disk_cannot_be_flushed_is_not_put_to_sleep() {
    if installed().is_empty() {
        return;
    }
    let scratch = Scratch::new("qemu");
    let mut spec = scratch.spec();
    spec.config.arch = installed().first().copied();
    let (kept, lost) = (scratch.0.join("kept.raw"), scratch.0.join("lost.raw"));
    for path in [&kept, &lost] {
        std::fs::File::create(path).unwrap().set_len(1 << 20).unwrap();
    }
    spec.config.disks = vec![
        disk(Some(&kept), "xvda", DiskBus::Virtio, 0, false),
        disk(Some(&lost), "xvdb", DiskBus::Virtio, 1, false),
    ];
    monitor(async {
        let (mut live, ..) = launched(&spec).await;
        live.unpause().await.unwrap();
        live.sleep().await.unwrap();
        live.sleep().await.unwrap();
        assert_eq!(report(&mut live).await.state, State::Paused);
        live.wake().await.unwrap();
        assert_eq!(report(&mut live).await.state, State::Running);
        std::fs::remove_file(&lost).unwrap();
        let error = live.sleep().await.unwrap_err();
        assert!(error.to_string().contains("lost.raw"), "{error}");
        assert_eq!(report(&mut live).await.state, State::Running, "as it was before");
        live.destroy().await.unwrap();
    });
}

#[test]
fn a_later_monitor_adopts_the_machine_with_its_console() {
    let scratch = Scratch::new("qemu");
    let mut spec = scratch.spec();
    if !guest(&mut spec) {
        return;
    }
    monitor(async {
        let (mut live, identity, attachments) = launched(&spec).await;
        let mut console = Typist::new(live.console().unwrap());
        console.until("READY").await;
        drop((live, console));
        assert!(identity.alive());
        let mut live = driver().adopt(&spec, identity.clone(), &attachments).await.unwrap();
        assert_eq!(report(&mut live).await.state, State::Running);
        let mut console = Typist::new(live.console().unwrap());
        console.until("C ").await;
        live.pause().await.unwrap();
        live.destroy().await.unwrap();
        let error = driver().adopt(&spec, identity, &attachments).await.err().unwrap();
        assert!(matches!(error, BackendError::Exited { .. }), "{error}");
    });
}

#[test]
fn how_the_guest_ended_is_heard_and_outlives_the_monitor() {
    for (key, how, machine) in [("p", GuestEvent::Poweroff, "pc"), ("r", GuestEvent::Reboot, "q35")]
    {
        let scratch = Scratch::new("qemu");
        let mut spec = scratch.spec();
        if !guest(&mut spec) {
            return;
        }
        spec.config.machine = Some(machine.into());
        monitor(async {
            let (mut live, identity, attachments) = launched(&spec).await;
            let mut events = live.events().unwrap();
            let mut console = Typist::new(live.console().unwrap());
            console.until("READY").await;
            console.send(key).await;
            assert_eq!(next(&mut events).await, Event::Resumed);
            assert_eq!(next(&mut events).await, Event::GuestEnded(how));
            let seen = report(&mut live).await;
            assert_eq!((seen.state, seen.ended), (State::Shutdown, Some(how)));
            drop((live, events, console));
            // Nothing but QEMU itself remembers now.
            let mut live = driver().adopt(&spec, identity, &attachments).await.unwrap();
            let seen = report(&mut live).await;
            assert_eq!((seen.state, seen.ended), (State::Shutdown, Some(how)));
            let error = live.unpause().await.unwrap_err().to_string();
            assert!(error.starts_with("cont: "), "{error}");
            let mut events = live.events().unwrap();
            live.reset().await.unwrap();
            let mut console = Typist::new(live.console().unwrap());
            assert_eq!(next(&mut events).await, Event::GuestEnded(how));
            assert_eq!(next(&mut events).await, Event::Reset);
            assert_eq!(next(&mut events).await, Event::Resumed);
            console.until("READY").await;
            events.try_recv().expect_err("one reset, and no other by the firmware");
            live.destroy().await.unwrap();
        });
    }
}

#[test]
fn the_guest_obeys_the_power_button() {
    let scratch = Scratch::new("qemu");
    let mut spec = scratch.spec();
    if !guest(&mut spec) {
        return;
    }
    monitor(async {
        let (mut live, ..) = launched(&spec).await;
        let mut events = live.events().unwrap();
        let mut console = Typist::new(live.console().unwrap());
        console.until("READY").await;
        live.powerdown().await.unwrap();
        assert_eq!(next(&mut events).await, Event::Resumed);
        assert_eq!(next(&mut events).await, Event::GuestEnded(GuestEvent::Poweroff));
        live.process().signal(Signal::SIGKILL).unwrap();
        let Event::Exited(exit) = next(&mut events).await else { panic!("the last event") };
        assert_eq!(exit.meaning, Some(GuestEvent::Poweroff), "it had ended before");
        events.try_recv().expect_err("nothing follows");
    });
}

#[test]
fn an_emulator_that_dies_is_a_crash_with_its_last_words() {
    let Some(arch) = installed().first().copied() else { return };
    let scratch = Scratch::new("qemu");
    let mut spec = scratch.spec();
    spec.config.arch = Some(arch);
    monitor(async {
        let (mut live, ..) = launched(&spec).await;
        let mut events = live.events().unwrap();
        live.process().signal(Signal::SIGTERM).unwrap();
        assert_eq!(next(&mut events).await, Event::Resumed);
        let Event::Exited(exit) = next(&mut events).await else { panic!("the last event") };
        let Exit { code, meaning, text, .. } = exit;
        assert_eq!((code, meaning), (Some(0), Some(GuestEvent::Crash)));
        assert!(text.contains("terminating on signal 15"), "{text}");
        let error = live.pause().await.unwrap_err();
        assert!(matches!(error, BackendError::Exited { .. }), "{error}");
    });
}

#[test]
fn a_launch_that_fails_says_what_the_emulator_said_and_leaves_nothing() {
    let Some(arch) = installed().first().copied() else { return };
    let scratch = Scratch::new("qemu");
    let mut spec = scratch.spec();
    spec.config.arch = Some(arch);
    spec.config.emulator_args = vec!["-frobnicate".into()];
    monitor(async {
        let mut record = Record::default();
        let error = driver().launch(&spec, &mut record).await.err().unwrap().to_string();
        assert!(error.contains("exit status 1") && error.contains("-frobnicate"), "{error}");
        assert!(!record.kept.unwrap().0.alive());
        spec.config.emulator_args.clear();
        let mut record = Record { refuse: true, ..Record::default() };
        let error = driver().launch(&spec, &mut record).await.err().unwrap().to_string();
        assert!(error.contains("the disk is full"), "{error}");
        assert_eq!(files::log_since(&spec.emulator_log, 0).matches("frobnicate").count(), 1);
    });
}

#[test]
fn a_launch_that_is_given_up_leaves_no_process() {
    let Some(arch) = installed().first().copied() else { return };
    let scratch = Scratch::new("qemu");
    let mut spec = scratch.spec();
    spec.config.arch = Some(arch);
    monitor(async {
        // The first launch fills the cache, so that the second is quick up to its exec.
        let (mut live, ..) = launched(&spec).await;
        live.destroy().await.unwrap();
        let mut record = Record::default();
        {
            let driver = driver();
            let mut launch = driver.launch(&spec, &mut record);
            let once = std::future::poll_fn(|context| {
                std::task::Poll::Ready(launch.as_mut().poll(context).is_pending())
            });
            assert!(once.await, "waiting for the greeting");
        }
        assert!(!record.kept.unwrap().0.alive());
    });
}

#[test]
fn a_screen_with_a_password_is_found_and_recorded() {
    let Some(arch) = installed().first().copied() else { return };
    let scratch = Scratch::new("qemu");
    let mut spec = scratch.spec();
    (spec.config.arch, spec.config.kind, spec.paused) = (Some(arch), GuestKind::Hvm, true);
    spec.config.display.vncpasswd = Some("secret".into());
    // Out of the way of screens that belong to others.
    spec.config.display.vncdisplay = Some(3417);
    monitor(async {
        let (mut live, _, attachments) = launched(&spec).await;
        let place = attachments.vnc.unwrap();
        let (host, display) = place.rsplit_once(':').unwrap();
        let port = 5900 + display.parse::<u16>().unwrap();
        let stream = std::net::TcpStream::connect((host, port)).unwrap();
        drop(stream);
        live.destroy().await.unwrap();
    });
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_made() {
    let Some(arch) = installed().first().copied() else { return };
    let scratch = Scratch::new("qemu");
    let mut spec = scratch.spec();
    spec.config.arch = Some(arch);
    driver().check(&spec).unwrap();
    let refused = |change: &dyn Fn(&mut LaunchSpec)| {
        let mut spec = spec.clone();
        change(&mut spec);
        driver().check(&spec).unwrap_err().to_string()
    };
    let error = refused(&|spec| spec.config.boot.kernel = Some("/nonexistent".into()));
    assert!(error.starts_with("kernel: /nonexistent: No such file"), "{error}");
    let error = refused(&|spec| spec.config.nics = vec![Nic::default()]);
    assert!(error.starts_with("vif: interface 0 names no bridge: say bridge=NAME"), "{error}");
    let error = refused(&|spec| spec.config.machine = Some("vax".into()));
    assert!(error.contains("has no machine type \"vax\""), "{error}");
    let error = refused(&|spec| spec.config.boot.ramdisk = Some("/dev/null".into()));
    assert_eq!(error, "ramdisk: means nothing without kernel=");
    let error = refused(&|spec| spec.config.emulator = Some("/nonexistent/qemu".into()));
    assert!(error.starts_with("device_model_override: "), "{error}");
}

fn disk(target: Option<&Path>, vdev: &str, bus: DiskBus, index: u32, cdrom: bool) -> Disk {
    Disk {
        target: target.map(Path::to_owned),
        format: if target.is_some() { DiskFormat::Raw } else { DiskFormat::Empty },
        vdev: vdev.into(),
        bus,
        index,
        vdev_number: 0,
        readwrite: !cdrom,
        cdrom,
        discard: None,
        direct_io_safe: false,
        backendtype: None,
        script: None,
    }
}

/// Nothing in the tables of arguments proves that QEMU takes them.
#[test]
fn the_emulator_accepts_every_kind_of_device() {
    for arch in installed() {
        let machines: &[&str] = if arch == Arch::X86_64 { &["pc", "q35"] } else { &["virt"] };
        for machine in machines {
            let scratch = Scratch::new("qemu");
            let mut spec = scratch.spec();
            let config = &mut spec.config;
            (config.arch, config.machine) = (Some(arch), Some((*machine).into()));
            config.kind = GuestKind::Hvm;
            config.display.vncdisplay = Some(3517);
            config.usb.devices = vec!["tablet".into(), "keyboard".into(), "mouse".into()];
            config.serial = vec!["pty".into(), "null".into()];
            config.boot.order = Some("dcn".into());
            (config.acpi, config.hpet, config.localtime) = (false, false, true);
            config.rtc_timeoffset_s = 3600;
            let models = ["virtio", "e1000", "rtl8139"].map(|model| Nic {
                user: true,
                model: Some(model.into()),
                ..Nic::default()
            });
            config.nics = models.to_vec();
            let image = scratch.0.join("disk,a.raw");
            std::fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
            let copies = ["b", "c", "d"].map(|name| {
                let copy = scratch.0.join(name);
                std::fs::copy(&image, &copy).unwrap();
                copy
            });
            config.disks = vec![
                disk(Some(&image), "xvda", DiskBus::Virtio, 0, false),
                disk(Some(&copies[0]), "sdb", DiskBus::Scsi, 1, false),
                disk(None, "sdc", DiskBus::Scsi, 2, true),
                disk(Some(&copies[1]), "xvdd", DiskBus::Virtio, 3, true),
            ];
            if arch == Arch::X86_64 {
                config.disks.push(disk(Some(&copies[2]), "hda", DiskBus::Ide, 0, false));
                config.disks.push(disk(None, "hdc", DiskBus::Ide, 2, true));
            }
            if nix::unistd::geteuid().is_root() {
                spec.run_as = Some(kxl_backend::RunAs { uid: 65534, gid: 65534 });
            }
            monitor(async {
                driver().check(&spec).unwrap();
                let (mut live, identity, _) = launched(&spec).await;
                if let Some(who) = spec.run_as {
                    let status = format!("/proc/{}/status", identity.pid);
                    let status = std::fs::read_to_string(status).unwrap();
                    let uid = format!("Uid:\t{0}\t{0}\t{0}\t{0}", who.uid);
                    assert!(status.contains(&uid), "{status}");
                }
                assert_eq!(report(&mut live).await.state, State::Running);
                live.destroy().await.unwrap();
            });
        }
    }
}

#[test]
fn a_tap_lives_as_long_as_the_emulator_whatever_becomes_of_the_monitor() {
    tap::testing::beside("kxb1", emulator_with_a_tap);
}

fn emulator_with_a_tap() {
    let Some(arch) = installed().first().copied() else { return };
    let scratch = Scratch::new("qemu");
    let mut spec = scratch.spec();
    (spec.config.arch, spec.default_bridge) = (Some(arch), Some("kxb1".into()));
    spec.config.nics = vec![Nic { mtu: Some(1400), ..Nic::default() }];
    if nix::unistd::geteuid().is_root() {
        spec.run_as = Some(kxl_backend::RunAs { uid: 65534, gid: 65534 });
    }
    monitor(async {
        let (live, identity, attachments) = launched(&spec).await;
        assert_eq!(attachments.taps, ["vif7.0"]);
        drop(live);
        assert!(tap::testing::exists("vif7.0"), "the monitor held nothing of it");
        let process = Process::open(identity).unwrap();
        process.signal(Signal::SIGKILL).unwrap();
        process.gone().await.unwrap();
        assert!(!tap::testing::exists("vif7.0"), "the kernel took it away");
    });
}
