//! Disk strings: tables of what is read and what is refused.

use proptest::prelude::*;

use super::*;
use crate::config::model::DiskBus;

/// target, format, vdev, writable, cdrom
type Row = (&'static str, Option<&'static str>, DiskFormat, &'static str, bool, bool);

#[test]
fn every_way_to_write_a_disk_is_read() {
    use DiskFormat::{Empty, Qcow2, Raw, Vhd};
    let rows: &[Row] = &[
        ("/a,raw,xvda,rw", Some("/a"), Raw, "xvda", true, false),
        ("/a,,xvda", Some("/a"), Raw, "xvda", true, false),
        ("/a,,xvda,", Some("/a"), Raw, "xvda", true, false),
        ("/a, qcow2, vdev=xvda", Some("/a"), Qcow2, "xvda", true, false),
        ("/a,raw,hda,r", Some("/a"), Raw, "hda", false, false),
        (
            "format=qcow2,vdev=sdb,access=ro,target=/a,b=c,d,",
            Some("/a,b=c,d"),
            Qcow2,
            "sdb",
            false,
            false,
        ),
        ("vdev=xvda,target=http://x/y", Some("http://x/y"), Raw, "xvda", true, false),
        ("phy:/dev/vg/x,xvda,w", Some("/dev/vg/x"), Raw, "xvda", true, false),
        ("file:/x.img,xvda2,w", Some("/x.img"), Raw, "xvda2", true, false),
        ("tap:aio:qcow2:/x,xvda,w", Some("/x"), Qcow2, "xvda", true, false),
        ("vhd:/x,xvda,w", Some("/x"), Vhd, "xvda", true, false),
        ("file:/x.iso,hdc:cdrom,r", Some("/x.iso"), Raw, "hdc", false, true),
        ("/x.iso,,hdc,w,cdrom", Some("/x.iso"), Raw, "hdc", false, true),
        ("/x.iso,,hdc,devtype=cdrom", Some("/x.iso"), Raw, "hdc", false, true),
        (",hdc:cdrom,r", None, Empty, "hdc", false, true),
        (",,hdc,cdrom", None, Empty, "hdc", false, true),
        ("cdrom,vdev=hdc", None, Empty, "hdc", false, true),
        ("vdev=hdc,devtype=cdrom,target=", None, Empty, "hdc", false, true),
        (",raw,xvda,target=/late", Some("/late"), Raw, "xvda", true, false),
        ("format=raw,format=raw,vdev=xvda,target=/a", Some("/a"), Raw, "xvda", true, false),
        (
            "/a,raw,xvda,rw,backend=0,backendtype=qdisk,specification=virtio,grant_usage=1,trusted",
            Some("/a"),
            Raw,
            "xvda",
            true,
            false,
        ),
        ("\t /a,\n raw, xvda", Some("/a"), Raw, "xvda", true, false),
        ("xvd,raw,xvda", Some("xvd"), Raw, "xvda", true, false),
    ];
    for (spec, target, format, vdev, readwrite, cdrom) in rows {
        let disk = parse(&[spec]).unwrap_or_else(|e| panic!("{spec}: {}", e[0]));
        assert_eq!(disk.target, target.map(PathBuf::from), "{spec}");
        assert_eq!(
            (disk.format, disk.vdev.as_str(), disk.readwrite, disk.cdrom),
            (*format, *vdev, *readwrite, *cdrom),
            "{spec}"
        );
    }
}

#[test]
fn flags_scripts_and_the_device_number_are_kept() {
    let disk = parse(&["iscsi:iqn.x,sdb,w,direct-io-safe,no-discard,backendtype=phy"]).unwrap();
    assert_eq!(disk.script.as_deref(), Some("block-iscsi"));
    assert_eq!((disk.bus, disk.index, disk.vdev_number), (DiskBus::Scsi, 1, 2064));
    assert_eq!((disk.discard, disk.direct_io_safe), (Some(false), true));
    assert_eq!(disk.backendtype.as_deref(), Some("phy"));
    assert_eq!(parse(&["/a,,xvda,discard,script=block-x"]).unwrap().discard, Some(true));
}

#[test]
fn words_of_a_command_line_are_pieces_of_one_disk() {
    let disk = parse(&["/a", "raw", "vdev=xvdb", "r"]).unwrap();
    assert_eq!((disk.vdev.as_str(), disk.readwrite), ("xvdb", false));
}

#[test]
fn what_is_wrong_is_told_with_the_piece_it_is_about() {
    use DiskFault::*;
    let rows: &[(&str, DiskFault, &str)] = &[
        ("", NoVdev, ""),
        ("/a", NoVdev, ""),
        ("/a,raw", NoVdev, ""),
        ("vdev=xvda", NoTarget, ""),
        (",raw,xvda", NoTarget, ""),
        ("/a,vmdk,xvda", UnknownValue("format"), "vmdk"),
        ("/a,raw,xvda,x", UnknownValue("access"), "x"),
        ("/a,raw,xvda,w,more", TooManyPositions, "more"),
        ("/a,raw,xvda,backendtype=loop", UnknownValue("backendtype"), "loop"),
        ("/a,raw,xvda,specification=kvm", UnknownValue("specification"), "kvm"),
        ("/a,raw,xvda,devtype=floppy", UnknownValue("type"), "devtype=floppy"),
        ("/a,raw,xvda:floppy", UnknownType, "floppy"),
        ("/a,raw,xvda,vdev=xvdb", Respecified("vdev"), "xvdb"),
        ("/a,raw,xvda,format=qcow2", Respecified("format"), "qcow2"),
        ("/a,raw,xvda,target=/b", Respecified("target"), "/b"),
        ("/a,raw,xvda,script=a,script=b", Respecified("script"), "b"),
        ("/a,raw,xvda,flavour=mint", UnknownParameter, "flavour=m"),
        ("/a,raw,xvda,cdrom=1", UnknownParameter, "cdrom=1"),
        ("/a,raw,vdev=xvda,r,grant_usage=2", TooManyPositions, "grant_usage"),
        ("/a,raw,xvda,r,=x", BadSyntax, "=x"),
        ("/a,raw,xvda,r=xy", UnknownParameter, "r=x"),
        ("http://x/y,raw,xvda", UnknownPrefix, "http:"),
        ("=", NoVdev, ""),
        ("==", BadSyntax, "=="),
        ("/a,raw,vda", UnknownVdev, "vda"),
        ("/a,raw,xvda,colo", Unsupported("replication with COLO"), ""),
        ("/a,raw,xvda,backend=storage", Unsupported("a disk of another domain"), "storage"),
    ];
    for (spec, what, near) in rows {
        let errors = parse(&[spec]).expect_err(spec);
        assert_eq!(
            (&errors[0].what, errors[0].near.as_deref().unwrap_or_default()),
            (what, *near),
            "{spec}"
        );
    }
}

#[test]
fn messages_read_as_those_of_xl() {
    let errors = parse(&["/a,vmdk,xvda"]).unwrap_err();
    assert_eq!(errors[0].to_string(), "unknown value for format: near `vmdk' in `/a,vmdk,xvda'");
    let errors = parse(&["/a"]).unwrap_err();
    assert_eq!(errors[0].to_string(), "no vdev specified in `/a'");
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(spec in "\\PC{0,40}") {
        drop(parse(&[&spec]));
    }

    #[test]
    fn nothing_near_a_real_specification_makes_it_panic(
        words in proptest::collection::vec(
            "(|/a|raw|qcow2|xvda|hdc:cdrom|w|r|cdrom|format=|vdev=xvda|target=|tap:|qcow2:|:|=|,| )", 0..8)
    ) {
        drop(parse(&[&words.join(",")]));
        drop(parse(&[&words.concat()]));
    }
}
