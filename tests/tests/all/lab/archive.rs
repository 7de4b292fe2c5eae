//! An initial RAM disk in the format that the kernel unpacks: cpio, "newc".

use std::fmt::Write as _;

/// An archive that grows by files; directories come by themselves.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    directories: Vec<String>,
}

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const DEVICE: u32 = 0o020_600;

impl Archive {
    /// Adds a file that can be executed; `path` begins with a slash.
    pub(crate) fn file(&mut self, path: &str, data: &[u8]) {
        self.parents(path);
        self.entry(path, PROGRAM, (0, 0), data);
    }

    /// Adds an empty directory.
    pub(crate) fn directory(&mut self, path: &str) {
        self.parents(path);
        if !self.directories.iter().any(|known| known == path) {
            self.directories.push(path.to_owned());
            self.entry(path, DIRECTORY, (0, 0), &[]);
        }
    }

    /// Adds a character device.
    pub(crate) fn device(&mut self, path: &str, numbers: (u32, u32)) {
        self.parents(path);
        self.entry(path, DEVICE, numbers, &[]);
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        let slashes = path.match_indices('/').map(|(at, _)| at).skip(1);
        for at in slashes.collect::<Vec<_>>() {
            self.directory(&path[..at]);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), data: &[u8]) {
        let name = path.trim_start_matches('/');
        self.entries += 1;
        let size = u32::try_from(data.len()).unwrap();
        let name_size = u32::try_from(name.len() + 1).unwrap();
        // In this order: inode, mode, owner, group, links, time, size, the device that the file
        // is on, the device that it is, the name's size, a sum that nobody looks at.
        let links = if mode == DIRECTORY { 2 } else { 1 };
        let fields =
            [self.entries, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0];
        let mut header = String::from("070701");
        for field in fields {
            write!(header, "{field:08x}").unwrap();
        }
        self.bytes.extend(header.as_bytes());
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(data);
        self.pad();
    }

    fn pad(&mut self) {
        let length = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(length, 0);
    }
}

#[test]
fn an_archive_is_one_that_cpio_reads() {
    use std::io::Write;
    use std::process::{Command, Stdio};

    if crate::support::skip::skipped("lab archive", &crate::support::guest::program("cpio")) {
        return;
    }
    let mut archive = Archive::default();
    archive.device("/dev/console", (5, 1));
    archive.file("/a/b/file", b"some text");
    archive.file("/a/c", b"");
    archive.directory("/a/b");
    let mut cpio = Command::new("cpio");
    cpio.args(["-itv", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut cpio = cpio.spawn().unwrap();
    cpio.stdin.take().unwrap().write_all(&archive.finish()).unwrap();
    let output = cpio.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let names: Vec<_> = text.lines().filter_map(|line| line.split_whitespace().last()).collect();
    assert_eq!(names, ["dev", "dev/console", "a", "a/b", "a/b/file", "a/c"]);
    assert!(text.contains("5,   1") && text.contains(" 9 "), "{text}");
}
