//! The calls that take something away from the process.

use std::io;

/// `CAP_LAST_CAP` grows with kernels; they say themselves where it ends.
const CAPABILITIES: libc::c_ulong = 64;

/// The version of the structures of capset(2): two words of 32 capabilities each.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct CapabilitySet {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What only the privileged may do is not to be done where there are no privileges to take away.
fn unless_forbidden(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| match error.raw_os_error() {
        Some(libc::EPERM) => Ok(()),
        _ => Err(error),
    })
}

fn prctl(option: libc::c_int, argument: libc::c_ulong, next: libc::c_ulong) -> io::Result<()> {
    const NONE: libc::c_ulong = 0;
    // SAFETY: The options used in this file take numbers, and no pointers.
    done(unsafe { libc::prctl(option, argument, next, NONE, NONE) })
}

/// No program that is executed gives privileges from now on.
pub(super) fn no_new_privs() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)
}

/// What this kernel's landlock can do, as it counts that itself; 0 without landlock (the kernel's
/// Documentation/userspace-api/landlock.rst).
pub(super) fn landlock_level() -> i64 {
    const VERSION: libc::c_uint = 1;
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: asked for the version, the call takes no structure.
    let level = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0usize, VERSION) };
    level.max(0)
}

/// Moves into a network without any interface, where the privileges allow it.
pub(super) fn leave_network() -> io::Result<()> {
    // SAFETY: No memory is handed over.
    unless_forbidden(done(unsafe { libc::unshare(libc::CLONE_NEWNET) }))
}

/// Lowers both limits of a resource; one that is lower already stays.
pub(super) fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: The structure is valid and lives through the call.
    done(unsafe { libc::getrlimit(resource, &raw mut limit) })?;
    let most = limit.rlim_max.min(most);
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: As above.
    done(unsafe { libc::setrlimit(resource, &raw const limit) })
}

/// The C libraries disagree about the type of a limit's name.
#[cfg(target_env = "gnu")]
pub(super) type Resource = libc::__rlimit_resource_t;
/// The C libraries disagree about the type of a limit's name.
#[cfg(not(target_env = "gnu"))]
pub(super) type Resource = libc::c_int;

/// Takes every capability out of what an executed program could get.
pub(super) fn empty_bounding_set() -> io::Result<()> {
    for capability in 0..CAPABILITIES {
        match prctl(libc::PR_CAPBSET_DROP, capability, 0) {
            // The kernel knows no further one.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            result => unless_forbidden(result)?,
        }
    }
    Ok(())
}

/// Leaves all supplementary groups, where the privileges allow it.
pub(super) fn clear_groups() -> io::Result<()> {
    unless_forbidden(set_groups())
}

fn set_groups() -> io::Result<()> {
    // SAFETY: A list of no groups is not read.
    done(unsafe { libc::setgroups(0, std::ptr::null()) })
}

/// Becomes another user for good, in no group but the given one.
pub(super) fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    // Somebody who is that user already has nothing to leave, and may not be allowed to.
    // SAFETY: These calls take nothing and cannot fail.
    let same = unsafe { libc::getuid() == uid && libc::getgid() == gid && uid != 0 };
    if same {
        return clear_groups();
    }
    set_groups()?;
    // SAFETY: Numbers only.
    done(unsafe { libc::setresgid(gid, gid, gid) })?;
    // SAFETY: Numbers only.
    done(unsafe { libc::setresuid(uid, uid, uid) })
}

/// Drops the ambient, inheritable, permitted and effective capabilities.
pub(super) fn drop_capabilities() -> io::Result<()> {
    const CLEAR: libc::c_ulong = libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong;
    prctl(libc::PR_CAP_AMBIENT, CLEAR, 0)?;
    let header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let sets = [CapabilitySet::default(); 2];
    // SAFETY: Both structures are laid out as the version in the header says, and live through
    // the call, which only reads them.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Keeps glibc's allocator to one arena. Another one opens a file of /proc when it shrinks, which
/// the filter of a thread would take for an attack; and memory freed in one could not be used
/// in the next.
pub(super) fn single_arena() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: Numbers only. A refusal is 0 and cannot happen with this option.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    }
}
