//! Calls of KVM and of the C library whose wrappers leave the proof to their caller.

use std::fs::File;
use std::os::fd::AsRawFd;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region, kvm_xsave};
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap, MmapRegion};

use crate::memory::Memory;

/// The kernel's number of the calling thread.
pub(crate) fn thread_id() -> u32 {
    // SAFETY: gettid has no arguments and cannot fail.
    let id = unsafe { libc::gettid() };
    id.cast_unsigned()
}

/// Whether the state of this VM's vectors fits into the structure that [`set_xsave`] passes.
pub(crate) fn xsave_fits(vm: &VmFd) -> bool {
    let bytes = vm.check_extension_int(Cap::Xsave2);
    usize::try_from(bytes).is_ok_and(|bytes| bytes <= size_of::<kvm_xsave>())
}

/// Sets a processor's vectors. The VM was asked by [`xsave_fits`] when it was made.
pub(crate) fn set_xsave(vcpu: &VcpuFd, xsave: &kvm_xsave) -> Result<(), kvm_ioctls::Error> {
    // SAFETY: KVM reads as many bytes as KVM_CAP_XSAVE2 says; a VM for which that is more than the
    // structure has is refused when it is made.
    unsafe { vcpu.set_xsave(xsave) }
}

/// Whether KVM notes which pages the processors write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logging {
    Off,
    On,
}

/// Gives a VM its memory, a slot for each region, in order; or changes whether writes are noted.
pub(crate) fn set_memory(
    vm: &VmFd,
    memory: &Memory,
    logging: Logging,
) -> Result<(), kvm_ioctls::Error> {
    for (slot, region) in (0u32..).zip(memory.iter()) {
        let region: &GuestRegionMmap<_> = region;
        let mapping: &MmapRegion<_> = &region.get_mmap();
        let region = kvm_userspace_memory_region {
            slot,
            flags: if logging == Logging::On { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: mapping.as_ptr() as u64,
        };
        // SAFETY: the mapping is as long as the region; every thread that runs this VM holds a
        // clone of `memory`, so that it stays mapped for as long as the VM can reach it.
        unsafe { vm.set_user_memory_region(region) }?;
    }
    Ok(())
}

/// Maps fresh zeros where guest memory is, or punches out what a shared file holds. KVM follows: it
/// is told of every change of the mappings behind its slots.
pub(crate) fn clear(memory: &Memory) -> std::io::Result<()> {
    for region in memory.iter() {
        let region: &GuestRegionMmap<_> = region;
        let mapping: &MmapRegion<_> = &region.get_mmap();
        let (start, length) = (mapping.as_ptr(), mapping.size());
        let done = if mapping.flags() & libc::MAP_SHARED == 0 {
            // SAFETY: replaces exactly the region's own mapping with another of the same length;
            // nothing but the guest's bytes lives there.
            let fresh = unsafe {
                libc::mmap(
                    start.cast(),
                    length,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
                    -1,
                    0,
                )
            };
            fresh != libc::MAP_FAILED
        } else {
            // SAFETY: the range is the region's own mapping.
            unsafe { libc::madvise(start.cast(), length, libc::MADV_REMOVE) == 0 }
        };
        if !done {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Maps a file privately where guest memory is, from `at` on: read when it is touched, never changed.
pub(crate) fn map_private(memory: &Memory, file: &File, at: u64) -> std::io::Result<()> {
    let mut offset = at;
    for region in memory.iter() {
        let region: &GuestRegionMmap<_> = region;
        let mapping: &MmapRegion<_> = &region.get_mmap();
        let from = libc::off_t::try_from(offset).map_err(std::io::Error::other)?;
        // SAFETY: replaces exactly the region's own mapping with another of the same length; the
        // caller has found the file to be long enough.
        let mapped = unsafe {
            libc::mmap(
                mapping.as_ptr().cast(),
                mapping.size(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_NORESERVE | libc::MAP_FIXED,
                file.as_raw_fd(),
                from,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        offset += mapping.size() as u64;
    }
    Ok(())
}
