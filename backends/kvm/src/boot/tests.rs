//! Kernels made here, loaded into memory.

use std::io::Write;

use super::*;
use crate::memory::{Backing, map};
use linux_loader::loader::bootparam::boot_params;

fn file(bytes: &[u8]) -> File {
    let path = std::env::temp_dir().join(format!(
        "kxl-vmm-boot-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let mut file =
        File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// An ELF with one segment of two bytes at 1 MiB.
fn elf(machine: u8) -> Vec<u8> {
    let mut bytes = vec![0; 0x1002];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    bytes[16] = 2;
    bytes[18] = machine;
    bytes[20] = 1;
    bytes[24..32].copy_from_slice(&0x10_0000u64.to_le_bytes());
    bytes[32] = 64;
    bytes[52] = 64;
    bytes[54] = 56;
    bytes[56] = 1;
    let header = &mut bytes[64..120];
    header[0] = 1;
    header[4] = 5;
    header[8..16].copy_from_slice(&0x1000u64.to_le_bytes());
    for at in [16, 24] {
        header[at..at + 8].copy_from_slice(&0x10_0000u64.to_le_bytes());
    }
    header[32] = 2;
    header[40] = 2;
    bytes[0x1000..].copy_from_slice(&[0xf4, 0xf4]);
    bytes
}

fn payload(kernel: &[u8], initrd: Option<&[u8]>) -> Payload {
    Payload { kernel: file(kernel), initrd: initrd.map(file), cmdline: "console=ttyS0".into() }
}

#[test]
fn an_elf_is_loaded_with_what_it_is_told() {
    let memory = map(32, &Backing::Anonymous).unwrap();
    let mut payload = payload(&elf(62), Some(b"initrd"));
    let entry = load(&memory, &mut payload, 0xe_0000).unwrap();
    assert_eq!(entry, Entry::Linux64(0x10_0000));
    let params: boot_params = memory.read_obj(GuestAddress(params::PARAMS)).unwrap();
    assert_eq!({ params.hdr.ramdisk_image }, (32 << 20) - 4096);
    assert_eq!({ params.hdr.ramdisk_size }, 6);
    assert_eq!({ params.acpi_rsdp_addr }, 0xe_0000);
    let mut text = [0; 14];
    memory.read_slice(&mut text, GuestAddress(CMDLINE)).unwrap();
    assert_eq!(&text, b"console=ttyS0\0");
    // A reset loads it again.
    assert_eq!(load(&memory, &mut payload, 0xe_0000).unwrap(), entry);
}

#[test]
fn what_cannot_be_booted_is_refused_by_what_it_is() {
    let memory = map(32, &Backing::Anonymous).unwrap();
    let refused = |kernel: &[u8], initrd: Option<&[u8]>| {
        load(&memory, &mut payload(kernel, initrd), 0).unwrap_err().to_string()
    };
    assert!(refused(&elf(183), None).contains("another processor"));
    assert!(refused(&[b'#'; 4096], None).contains("neither a bzImage"));
    assert!(refused(b"", None).contains("cannot read the kernel"));
    assert!(refused(&elf(62), Some(&vec![0; 33 << 20])).contains("does not fit"));
    let mut long = payload(&elf(62), None);
    long.cmdline = "x".repeat(CMDLINE_MAX);
    assert!(matches!(load(&memory, &mut long, 0), Err(BootError::Cmdline)));
}
