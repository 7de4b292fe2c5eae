//! The lab itself.

use std::fs::{self, File};

/// The processor has SVM, the module is loaded, and the device can be opened.
pub(in crate::lab) fn the_lab_has_a_kvm_that_can_be_opened() {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap();
    let flags = cpu.lines().find(|line| line.starts_with("flags")).unwrap();
    assert!(flags.split(' ').any(|flag| flag == "svm"), "{flags}");
    File::options().read(true).write(true).open("/dev/kvm").unwrap();
    File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    File::options().read(true).write(true).open("/dev/vhost-net").unwrap();
}
