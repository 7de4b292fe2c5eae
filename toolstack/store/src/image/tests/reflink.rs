//! Memory that shares the blocks of a user's file.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use super::*;

const MIB: u64 = 1 << 20;
const ROOT: &str = "KXL_TEST_REFLINK_ROOT";

#[test]
fn memory_shares_the_blocks_of_the_users_file_where_the_file_system_can() {
    if let Some(root) = std::env::var_os(ROOT) {
        return on_a_disk_with_reflinks(Path::new(&root));
    }
    for make in ["mkfs.xfs -q -f", "mkfs.btrfs -q -f"] {
        let host = Host::new();
        let script = format!(
            "truncate -s 400M \"$0.disk\" && {make} \"$0.disk\" && mount -o loop \"$0.disk\" \"$0\" && exec \"$@\""
        );
        let dir = host.root().join("disk");
        std::fs::create_dir(&dir).unwrap();
        let dir = dir.to_str().unwrap();
        let words = ["-m", "--propagation", "private", "sh", "-c", &script, dir];
        let probe = Command::new("unshare").args(words).arg("true").output();
        if !probe.is_ok_and(|output| output.status.success()) {
            skip(
                "images on a disk with reflinks",
                &format!("{make}: not here, or not for this user"),
            );
            continue;
        }
        let this = std::env::current_exe().unwrap();
        let test = "image::tests::reflink::memory_shares_the_blocks_of_the_users_file_where_the_file_system_can";
        let mut command = Command::new("unshare");
        command.args(words).arg(this).args(["--exact", test, "--nocapture"]).env(ROOT, dir);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{make}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn on_a_disk_with_reflinks(root: &Path) {
    let path = root.join("saved");
    let target = Target::File { path: path.clone(), replace: true, header: b"{}".to_vec() };
    let size = 9 * MIB;
    let id = ImageId::random();
    let mut writer = Writer::begin(&target, id, &need(size)).unwrap();
    writer.memory(&layout(size)).unwrap();
    let mut expected = vec![0; index(size)];
    for number in [0, 1, 700, 1500, 2303] {
        writer.pages(number * PAGE as u64, &page(number)).unwrap();
        let at = index(number) * PAGE;
        expected[at..at + PAGE].copy_from_slice(&page(number));
    }
    writer.device(b"devices").unwrap();
    writer.commit(&facts(id)).unwrap();

    let mut image = Image::open_file(&path).unwrap();
    assert!(image.memory_file().unwrap().is_none(), "it does not begin with it");
    assert!(image.share_memory());
    let memory = image.memory_file().unwrap().expect("a file of its own");
    assert_eq!(image.verify_ahead(&mut |_| true).unwrap().chunks, 5);
    // What becomes of the user's file does not matter any more.
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&vec![7; index(12 * MIB)], 0).unwrap();
    drop(file);
    std::fs::remove_file(&path).unwrap();
    assert!(read_all(memory) == expected);
    assert_eq!(std::fs::read_dir(root).unwrap().count(), 0, "it has no name");
}
