//! The keys of the file.

/// A place for keys, and the keys that belong there.
pub type Section = (&'static str, &'static [Entry]);

/// A key: its spellings, the first of them the one to use; what it is; what it means.
pub type Entry = (&'static [&'static str], &'static str);

/// Every key of every section. `-` and `_` are the same in all of them.
pub const KEYS: &[Section] = &[
    ("", TOP),
    ("machine-config", MACHINE),
    ("boot-source", BOOT),
    ("drive", DRIVE),
    ("net", NET),
    ("console", CONSOLE),
    ("serial", SERIAL),
    ("channel", CHANNEL),
    ("balloon", BALLOON),
    ("rng", RNG),
    ("iothread", IOTHREAD),
    ("hotplug", HOTPLUG),
];

pub(super) const TOP: &[Entry] = &[
    (&["machine-config", "machine"], "the section machine-config"),
    (&["boot-source", "boot"], "the section boot-source"),
    (&["kernel"], "a path, or the section boot-source"),
    (&["initrd"], "a path"),
    (&["boot_args", "append"], "the kernel's command line"),
    (&["drive", "drives", "block"], "a list of the section drive"),
    (&["net", "nets", "netif", "network-interfaces"], "a list of the section net"),
    (&["console"], "the section console, or a list of one"),
    (&["serial"], "the section serial, or a text as behind -serial"),
    (&["channel"], "the section channel"),
    (&["balloon"], "the section balloon, or true"),
    (&["rng"], "the section rng, or true"),
    (&["iothread"], "a list of the section iothread"),
    (&["hotplug"], "the section hotplug"),
    (&["name"], "the name"),
    (&["uuid"], "the uuid"),
    (&["cpu"], "a text as behind -cpu"),
    (&["vsock"], "refused: say channel"),
];

pub(super) const MACHINE: &[Entry] = &[
    (&["type"], "MicroVm"),
    (&["name"], "the name"),
    (&["vcpu_count", "vcpus"], "processors"),
    (&["mem_size", "memory"], "memory: bytes, or a text such as 512M"),
    (&["mem_size_mib"], "memory in MiB"),
    (&["mem_path"], "memory is mapped from this file"),
    (&["mem_share"], "and what the guest writes is written to the file"),
    (&["dump_guest_core", "omit_vm_memory"], "a core file of the process never has guest memory"),
];

pub(super) const BOOT: &[Entry] = &[
    (&["kernel_image_path", "path"], "a bzImage or an ELF vmlinux"),
    (&["boot_args", "append"], "its command line"),
    (&["initrd_fs_path", "initrd", "initrd_path", "initrd_fs"], "its initial RAM disk"),
];

pub(super) const DRIVE: &[Entry] = &[
    (&["drive_id", "id"], "the disk's name"),
    (&["path_on_host", "path"], "a raw image or a block device"),
    (&["read_only", "readonly", "is_read_only"], "refuses writes"),
    (&["serial_num", "serial"], "what the guest reads as its serial number"),
    (&["direct"], "false; true is read and noted as not done"),
    (&["iothread"], "a name from iothread; each disk has a thread of its own"),
    (&["iops"], "refused: nothing limits a disk"),
    (&["format"], "raw"),
];

pub(super) const NET: &[Entry] = &[
    (&["iface_id", "id"], "the interface's name"),
    (&["host_dev_name", "tap"], "a tap, made if it does not exist"),
    (&["tap_fd"], "or the number of an inherited descriptor of one"),
    (&["mac", "guest_mac"], "the guest's address"),
    (&["vhost_type", "vhost"], "vhost-kernel; or auto, on, off"),
    (&["vhost_fd"], "refused: /dev/vhost-net is opened by kxl-vmm itself"),
    (&["iothread"], "a name from iothread; each interface has a thread of its own"),
];

pub(super) const CONSOLE: &[Entry] = &[
    (&["console_id", "id"], "a name, without a meaning here"),
    (&["socket_path"], "a unix socket to listen on"),
];

pub(super) const SERIAL: &[Entry] = &[
    (&["stdio"], "whether COM1 is on stdin and stdout"),
    (&["socket_path"], "or a unix socket to listen on"),
];

pub(super) const CHANNEL: &[Entry] =
    &[(&["name"], "the port's name"), (&["socket_path"], "a unix socket to listen on")];

pub(super) const BALLOON: &[Entry] =
    &[(&["deflate_on_oom"], "true: the guest may take its memory back when it has too little")];

pub(super) const RNG: &[Entry] = &[
    (&["random_file"], "/dev/urandom or /dev/random: the system's random numbers"),
    (&["bytes_per_sec"], "refused: nothing limits it"),
];

pub(super) const IOTHREAD: &[Entry] = &[(&["id"], "a name")];

pub(super) const HOTPLUG: &[Entry] = &[
    (&["nics"], "network interfaces in all"),
    (&["disks"], "disks in all"),
    (&["dirs"], "directories that later files may be opened in"),
];
