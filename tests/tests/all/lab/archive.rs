//! The archives of initial RAM disks, read by the program for such.

use kxl_tests::archive::Archive;

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
