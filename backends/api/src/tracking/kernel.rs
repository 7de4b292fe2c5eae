//! The kernel's numbers and records: include/uapi/linux/userfaultfd.h, include/uapi/linux/fs.h.

use std::ops::Range;

pub(super) const UFFD_API: u64 = 0xaa;
pub(super) const WP_ASYNC: u64 = 1 << 15;
pub(super) const MODE_WP: u64 = 1 << 1;

pub(super) const WRITTEN: u64 = 1 << 1;
pub(super) const FILE: u64 = 1 << 2;
pub(super) const PRESENT: u64 = 1 << 3;
pub(super) const SWAPPED: u64 = 1 << 4;
pub(super) const PFN_ZERO: u64 = 1 << 5;

pub(super) const WP_MATCHING: u64 = 1 << 0;
pub(super) const CHECK_WPASYNC: u64 = 1 << 1;

/// Regions that one look may find; there are as many looks as it takes.
pub(super) const FOUND: usize = 1024;

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Region {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) categories: u64,
}

#[derive(Default)]
#[repr(C)]
pub(super) struct Scan {
    pub(super) size: u64,
    pub(super) flags: u64,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) walk_end: u64,
    pub(super) vec: u64,
    pub(super) vec_len: u64,
    pub(super) max_pages: u64,
    pub(super) category_inverted: u64,
    pub(super) category_mask: u64,
    pub(super) category_anyof_mask: u64,
    pub(super) return_mask: u64,
}

impl Scan {
    pub(super) fn of(addresses: Range<u64>, flags: u64) -> Self {
        Self {
            size: size_of::<Self>() as u64,
            flags,
            start: addresses.start,
            end: addresses.end,
            return_mask: FILE | PRESENT | SWAPPED | PFN_ZERO,
            ..Self::default()
        }
    }
}

#[repr(C)]
pub(super) struct UffdRange {
    pub(super) start: u64,
    pub(super) length: u64,
}

#[repr(C)]
pub(super) struct Api {
    pub(super) api: u64,
    pub(super) features: u64,
    pub(super) ioctls: u64,
}

#[repr(C)]
pub(super) struct Register {
    pub(super) range: UffdRange,
    pub(super) mode: u64,
    pub(super) ioctls: u64,
}

nix::ioctl_readwrite!(uffd_api, 0xaa, 0x3f, Api);
nix::ioctl_readwrite!(uffd_register, 0xaa, 0x00, Register);
// Its direction in the kernel's header is the other way round.
nix::ioctl_read!(uffd_unregister, 0xaa, 0x01, UffdRange);
nix::ioctl_readwrite!(pagemap_scan, b'f', 16, Scan);
