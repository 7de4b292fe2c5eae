//! Disks that say they are qcow2: whether they stand at a snapshot of theirs.

#![no_main]

use std::fs;
use std::path::Path;

use kxl_domain::config::model::DiskFormat;
use kxl_domain::image::DiskIdentity;
use kxl_store::image::changed;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("/dev/shm").join(format!("kxl-fuzz-disk-{}", std::process::id()));
    fs::write(&path, bytes).expect("a file of memory");
    let then = DiskIdentity {
        vdev: "xvda".to_owned(),
        path,
        format: DiskFormat::Qcow2,
        writable: true,
        // Never that of the file, so that its tables are looked at.
        size: u64::MAX,
        mtime_ns: Some(0),
        header: [0; 32],
        snapshot: Some("one".to_owned()),
    };
    drop(changed(&then));
});
