//! Records of released versions stay readable: the databases keep configurations as JSON.

use super::model::DomainConfig;
use super::parse;

/// A configuration with something in every section, as version 0.1 stores it. Never changed: a
/// field that is added later needs a serde default, or this test fails.
const VERSION_0_1: &str = include_str!("testdata/record-0.1.json");

const SOURCE: &str = r#"
name = "web1"
uuid = "5c1f0a3e-8f0b-4c55-9f0e-0d6c3f1b2a77"
type = "hvm"
backend = "qemu"
arch = "x86_64"
machine = "q35"
memory = 512
maxmem = 1024
vcpus = 2
maxvcpus = 4
cpus = ["0-1", "1"]
cpu_weight = 512
cap = 150
boot = "cd"
bios = "ovmf"
disk = ["/srv/web1.qcow2,qcow2,xvda,rw", "/srv/cd.iso,raw,hdc,cdrom", ",hdd:cdrom,r"]
vif = ["mac=00:16:3e:00:00:01,bridge=br0,type=vif,mtu=1400,rate=10Mb/s", "user"]
serial = "pty"
vnc = 1
vncdisplay = 7
usb = 1
usbdevice = "tablet"
localtime = 1
rtc_timeoffset = "-3600"
on_crash = "preserve"
device_model_args = ["-device", "virtio-rng-pci"]
limit_memory = 800
console_pace = 40
"#;

#[test]
fn a_record_of_version_0_1_reads_as_what_was_stored() {
    let stored: DomainConfig = serde_json::from_str(VERSION_0_1).unwrap();
    assert_eq!(stored, parse("web1.cfg", SOURCE, &[]).unwrap().config);
}
