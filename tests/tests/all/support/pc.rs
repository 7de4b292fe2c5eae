//! A PC whose whole software is the boot sector of a floppy disk, as a domain on Bochs.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::guest;

/// Says READY on the first serial port, counts there in eight hexadecimal digits, echoes what is
/// typed, and switches the machine off at an `O`.
const CODE: &[&[u8]] = &[
    // Segments and stack; strings upwards, interrupts on: the BIOS keeps its clock.
    &[0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x7c, 0xfc, 0xfb],
    // The line control of COM1 to eight bits.
    &[0xba, 0xfb, 0x03, 0xb0, 0x03, 0xee],
    // print(READY); EBX = 0
    &[0xbe, 0x8b, 0x7c, 0xe8, 0x4f, 0x00, 0x66, 0x31, 0xdb],
    // loop: was anything typed (3fd)? Then an O (3f8) ends it, and all else comes back: putc.
    &[0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0x0b],
    &[0xba, 0xf8, 0x03, 0xec, 0x3c, 0x4f, 0x74, 0x2e, 0xe8, 0x44, 0x00],
    // The BIOS's ticks (46c) by four, against the last ones in BP.
    &[0xa1, 0x6c, 0x04, 0xc1, 0xe8, 0x02, 0x39, 0xe8, 0x74, 0xe3, 0x89, 0xc5],
    // EBX + 1, eight digits of it, and the line's end.
    &[0x66, 0x43, 0xb9, 0x08, 0x00],
    &[0x66, 0xc1, 0xc3, 0x04, 0x88, 0xd8, 0x24, 0x0f, 0x3c, 0x0a, 0x1c, 0x69, 0x2f],
    &[0xe8, 0x23, 0x00, 0xe2, 0xee, 0xbe, 0x90, 0x7c, 0xe8, 0x10, 0x00, 0xeb, 0xc2],
    // "Shutdown" to port 8900, at which Bochs ends.
    &[0xbe, 0x82, 0x7c, 0xba, 0x00, 0x89, 0xac, 0x84, 0xc0, 0x74, 0xb7, 0xee, 0xeb, 0xf8],
    // print: the string at SI by putc.
    &[0xac, 0x84, 0xc0, 0x74, 0x05, 0xe8, 0x03, 0x00, 0xeb, 0xf6, 0xc3],
    // putc: AL, when there is room for it (3fd).
    &[0x88, 0xc4, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x20, 0x74, 0xf8],
    &[0x88, 0xe0, 0xba, 0xf8, 0x03, 0xee, 0xc3],
    b"Shutdown\0READY\r\n\0",
];

/// Size of a floppy disk.
const FLOPPY: usize = 1_474_560;

/// Its files, which are gone with this.
pub(crate) struct Pc(PathBuf);

impl Pc {
    /// Writes them, where Bochs is installed.
    pub(crate) fn new() -> Result<Self, String> {
        guest::program("bochs-bin")?;
        let display = "bochs/plugins/libbx_term_gui.so";
        let libraries = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
        if !PathBuf::from(libraries).join(display).exists() {
            return Err("bochs-term is not installed".to_owned());
        }
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let (pid, number) = (std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(format!("kxl-test-{pid}-pc-{number}"));
        fs::create_dir_all(&dir).unwrap();
        let mut floppy = CODE.concat();
        floppy.resize(510, 0);
        floppy.extend([0x55, 0xaa]);
        floppy.resize(FLOPPY, 0);
        fs::write(dir.join("floppy.img"), floppy).unwrap();
        let machine = format!(
            "romimage: file=/usr/share/bochs/BIOS-bochs-latest\n\
             vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest\n\
             boot: floppy\nclock: sync=slowdown\n\
             floppya: 1_44={}/floppy.img, status=inserted\n",
            dir.display()
        );
        fs::write(dir.join("bochsrc"), machine).unwrap();
        Ok(Self(dir))
    }

    /// A domain with it.
    pub(crate) fn config(&self, name: &str) -> String {
        let machine = self.0.join("bochsrc");
        format!(
            "name = \"{name}\"\nbackend = \"bochs\"\nmemory = 16\nemulator_config = \"{}\"\n",
            machine.display()
        )
    }
}

impl Drop for Pc {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}
