//! Which system calls a thread may make, by its kind.

use super::ioctls;

/// A call that is allowed, and with what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowed {
    pub(super) call: i64,
    pub(super) only: Only,
}

/// With which arguments a call is allowed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Only {
    /// With any.
    Any,
    /// Where argument `index`, seen through the mask, is the value.
    Masked {
        /// Number of the argument, from 0.
        index: u8,
        /// Bits that are looked at.
        mask: u32,
        /// What they have to be.
        value: u32,
    },
}

/// What a filter is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Main,
    Vcpu,
    Device,
    Save,
}

/// What every thread does: takes memory, waits, writes to what is open, ends.
const EVERY: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_futex,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_membarrier,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// What is done to files and sockets that are open.
const OPEN_FILES: &[i64] = &[
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_ftruncate,
    libc::SYS_dup,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_shutdown,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
];

/// Clients of a device's socket.
const CLIENTS: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
];

/// Moving much from here to there.
const MOVING: &[i64] = &[
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_vmsplice,
    libc::SYS_sync_file_range,
    libc::SYS_mincore,
];

/// What the main thread does besides what any other does. Landlock says which files are opened
/// and removed. The last ones are made by a thread at its birth, before it is confined by kind.
const MAIN: &[i64] = &[
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_pipe2,
    libc::SYS_signalfd4,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrusage,
    libc::SYS_seccomp,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    // Refused as unknown: see `filter`.
    libc::SYS_clone3,
];

/// Everything that a thread in this role may do. `pid` is the process's own.
pub(super) fn allowed(role: Role, pid: u32) -> Vec<Allowed> {
    let (devices, saves, main) = match role {
        Role::Main => (true, true, true),
        Role::Vcpu => (false, false, false),
        Role::Device => (true, false, false),
        Role::Save => (false, true, false),
    };
    // First what a processor does all the time.
    let requests = requests(role).into_iter();
    let mut found: Vec<_> =
        requests.map(|request| masked(libc::SYS_ioctl, 1, !0, request)).collect();
    found.extend(limited(main, devices || saves, pid));
    let lists = [
        (true, EVERY),
        (devices || saves, OPEN_FILES),
        (devices, CLIENTS),
        (saves, MOVING),
        (main, MAIN),
    ];
    let calls = lists.iter().filter(|(wanted, _)| *wanted).flat_map(|(_, calls)| *calls);
    found.extend(calls.map(|call| Allowed { call: *call, only: Only::Any }));
    found
}

const fn masked(call: i64, index: u8, mask: u32, value: u32) -> Allowed {
    Allowed { call, only: Only::Masked { index, mask, value } }
}

/// Calls that are allowed with certain arguments.
fn limited(main: bool, files: bool, pid: u32) -> Vec<Allowed> {
    const EXEC: u32 = libc::PROT_EXEC.cast_unsigned();
    // What makes another process, or one that sees the system in another way.
    const THREAD: u32 = libc::CLONE_THREAD.cast_unsigned();
    const FLAGS: i32 = libc::CLONE_THREAD
        | libc::CLONE_VFORK
        | libc::CLONE_PIDFD
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    let option = |option: libc::c_int| masked(libc::SYS_prctl, 0, !0, option.cast_unsigned());
    let control = |command: libc::c_int| masked(libc::SYS_fcntl, 1, !0, command.cast_unsigned());
    let mut found = vec![
        // The standard library looks at a descriptor before it closes it, when built for debugging.
        control(libc::F_GETFD),
        masked(libc::SYS_mmap, 2, EXEC, 0),
        masked(libc::SYS_mprotect, 2, EXEC, 0),
        // A thread is kicked out of the guest, and abort() ends the process.
        masked(libc::SYS_tgkill, 0, !0, pid),
        option(libc::PR_GET_NAME),
        // Newer C libraries name the memory that they take.
        option(libc::PR_SET_VMA),
    ];
    if files {
        found.extend(
            [
                libc::F_SETFD,
                libc::F_GETFL,
                libc::F_SETFL,
                libc::F_DUPFD_CLOEXEC,
                libc::F_OFD_GETLK,
                libc::F_OFD_SETLK,
            ]
            .map(control),
        );
    }
    if main {
        found.extend([
            masked(libc::SYS_clone, 0, FLAGS.cast_unsigned(), THREAD),
            option(libc::PR_SET_NAME),
            option(libc::PR_SET_NO_NEW_PRIVS),
        ]);
    }
    found
}

/// Requests to descriptors, the most frequent one first.
fn requests(role: Role) -> Vec<u32> {
    use ioctls::{
        CLONE, DESCRIPTOR, DISK, KVM_DIRTY, KVM_INTERRUPTS, KVM_MACHINE, KVM_RUN, KVM_VCPU, TAP,
        TERMINAL, VHOST,
    };
    let lists: &[&[u32]] = match role {
        Role::Main => &[
            &[KVM_RUN],
            KVM_INTERRUPTS,
            KVM_VCPU,
            KVM_DIRTY,
            KVM_MACHINE,
            TAP,
            VHOST,
            DISK,
            CLONE,
            DESCRIPTOR,
            TERMINAL,
        ],
        Role::Vcpu => &[&[KVM_RUN], KVM_INTERRUPTS, KVM_VCPU],
        Role::Device => &[KVM_INTERRUPTS, TAP, VHOST, DISK, DESCRIPTOR],
        Role::Save => &[KVM_DIRTY, DISK, CLONE, DESCRIPTOR],
    };
    lists.iter().flat_map(|list| list.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn set(role: Role) -> BTreeSet<(i64, String)> {
        allowed(role, 7).iter().map(|one| (one.call, format!("{:?}", one.only))).collect()
    }

    #[test]
    fn the_main_thread_may_all_that_a_thread_made_by_it_may() {
        let main = set(Role::Main);
        for role in [Role::Vcpu, Role::Device, Role::Save] {
            let missing: Vec<_> = set(role).difference(&main).cloned().collect();
            assert!(missing.is_empty(), "{role:?}: {missing:?}");
        }
    }

    #[test]
    fn one_argument_of_a_call_is_looked_at_or_none() {
        for role in [Role::Main, Role::Vcpu, Role::Device, Role::Save] {
            let mut ways = std::collections::BTreeMap::new();
            for one in allowed(role, 7) {
                let way = match one.only {
                    Only::Any => None,
                    Only::Masked { index, mask, .. } => Some((index, mask)),
                };
                assert_eq!(*ways.entry(one.call).or_insert(way), way, "{role:?} {one:?}");
            }
        }
    }

    #[test]
    fn nothing_is_allowed_twice() {
        for role in [Role::Main, Role::Vcpu, Role::Device, Role::Save] {
            assert_eq!(set(role).len(), allowed(role, 7).len(), "{role:?}");
        }
    }

    #[test]
    fn no_thread_may_become_or_see_or_reach_another() {
        let never = [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_kill,
            libc::SYS_tkill,
            libc::SYS_pidfd_open,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_setuid,
            libc::SYS_unshare,
            libc::SYS_mount,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
            libc::SYS_userfaultfd,
            libc::SYS_pkey_mprotect,
        ];
        for role in [Role::Main, Role::Vcpu, Role::Device, Role::Save] {
            let found = allowed(role, 7);
            assert!(found.iter().all(|one| !never.contains(&one.call)), "{role:?}");
        }
    }
}
