//! Files in StratoVirt's JSON keys, taken where a configuration is.

use crate::support::Host;
use crate::support::guest::top;

#[test]
fn the_example_becomes_a_domain_with_what_it_says() {
    let host = Host::new();
    let example = top().join("domain-configs/stratovirt.json");
    let output = host.kxl(["create", "-n", example.to_str().unwrap()]).expect(0);
    for part in [
        "name           stratovirt",
        "memory         256 MiB",
        "xvda on virtio: /var/lib/kxl/disks/rootfs.raw (raw)",
        "console=ttyS0 reboot=k panic=1 root=/dev/vda",
    ] {
        assert!(output.stdout.contains(part), "{part}: {output}");
    }
    // The native monitor where this host has a KVM for it, else QEMU with the reason.
    let kvm = output.stdout.contains("backend        kvm");
    let why = output.stderr.contains("the domain runs with QEMU: ");
    assert!(kvm != why, "{output}");
    assert_eq!(why, output.stdout.contains("backend        qemu"), "{output}");
}

#[test]
fn it_is_registered_started_and_called_after_its_file_and_words_override_it() {
    let host = Host::new();
    let text = r#"{"kernel": "/nonexistent/vmlinuz", "machine-config": {"mem_size": "32M"}}"#;
    let file = host.file("web.json", text);
    let file = file.to_str().unwrap();
    let words = ["backend=\"mock\"", "device_model_args=[\"tick=50\"]"];
    host.ok([&["create", file][..], &words].concat());
    let domain = host.domain("web");
    assert_eq!(domain.text("backend"), Some("mock"));
    assert_eq!(domain.0["memory_mib"], 32);
    host.ok(["destroy", "web"]);
    host.ok([&["new", file][..], &words].concat());
    assert!(host.ok(["list"]).contains("web"));
}

#[test]
fn a_mistake_in_it_is_pointed_at() {
    let host = Host::new();
    let text = "{\n  \"kernel\": \"/k\",\n  \"machine-config\": {\"vcpu_cuont\": 1}\n}";
    let file = host.file("bad.json", text);
    let output = host.kxl(["create", file.to_str().unwrap()]).expect(2);
    let expected =
        "bad.json:3:22: no key \"vcpu_cuont\" belongs here: did you mean \"vcpu_count\"?";
    assert!(output.stderr.contains(expected), "{output}");
}
