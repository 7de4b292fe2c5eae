//! What a domain's program runs with: user, priorities, limits, files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::state::words;

/// The rules for the process of a domain; whatever is absent is as its backend has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessRules {
    /// `user=`: the name or number of the user it runs as.
    pub user: Option<String>,
    /// `nice=`, -20 to 19.
    pub nice: Option<i8>,
    /// `rlimits=`.
    pub rlimits: BTreeMap<RlimitName, Rlimit>,
    /// `oom_protect=`: its out-of-memory score adjustment, -1000 to 1000.
    pub oom_protect: Option<i16>,
    /// `capabilities=`: those it keeps when it runs as another user than root.
    pub capabilities: Vec<Privilege>,
    /// `umask=`.
    pub umask: Option<u16>,
    /// `directory=`: where it runs.
    pub directory: Option<PathBuf>,
    /// `environment=`: entries `NAME=value`.
    pub environment: Vec<String>,
    /// `stdin=`; `None` = the domain's console.
    pub stdin: Option<Input>,
    /// `stdout=`, with its cap.
    pub stdout: Output,
    /// `stderr=`, with its cap.
    pub stderr: Output,
}

impl ProcessRules {
    /// Whether they say nothing at all.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The keys that are given, of those that only a plain program can honour.
    #[must_use]
    pub fn plain_program_keys(&self) -> Vec<&'static str> {
        let rows = [
            ("capabilities", !self.capabilities.is_empty()),
            ("umask", self.umask.is_some()),
            ("directory", self.directory.is_some()),
            ("environment", !self.environment.is_empty()),
            ("stdin", self.stdin.is_some()),
            ("stdout", self.stdout.to.is_some()),
            ("stderr", self.stderr.to.is_some()),
        ];
        rows.into_iter().filter_map(|(key, given)| given.then_some(key)).collect()
    }
}

/// Where a program reads from instead of the console.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Input {
    /// Nowhere: it is at the end of its input at once.
    Nothing,
    /// A file.
    File(PathBuf),
}

/// Where a program writes to instead of the console.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputTo {
    /// Nowhere.
    Nothing,
    /// For `stderr=`: where its standard output goes.
    Stdout,
    /// A file that kxl keeps to its size.
    File(PathBuf),
}

/// One stream of output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Output {
    /// `stdout=`, `stderr=`; `None` = the domain's console.
    pub to: Option<OutputTo>,
    /// `stdout_maxbytes=`, `stderr_maxbytes=`: the size at which a file is rotated; 0 = never.
    pub maxbytes: u64,
    /// `stdout_backups=`, `stderr_backups=`: how many rotated files are kept.
    pub backups: u32,
}

impl Default for Output {
    fn default() -> Self {
        Self { to: None, maxbytes: 10 << 20, backups: 4 }
    }
}

/// A limit of the kernel on a process; `None` = unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// What holds.
    pub soft: Option<u64>,
    /// Up to where the process itself may raise it.
    pub hard: Option<u64>,
}

impl Rlimit {
    /// Whether what holds is no more than what may hold.
    #[must_use]
    pub fn is_ordered(&self) -> bool {
        self.soft.unwrap_or(u64::MAX) <= self.hard.unwrap_or(u64::MAX)
    }
}

words! {
    /// The limits of setrlimit(2), by the names of prlimit(1), and in the order of Linux's numbers.
    pub enum RlimitName {
        /// Seconds of processor time.
        Cpu = "cpu",
        /// Bytes of a file it writes.
        Fsize = "fsize",
        /// Bytes of data.
        Data = "data",
        /// Bytes of stack.
        Stack = "stack",
        /// Bytes of a core dump.
        Core = "core",
        /// Bytes of resident memory; Linux ignores it.
        Rss = "rss",
        /// Processes of its user.
        Nproc = "nproc",
        /// Open files.
        Nofile = "nofile",
        /// Bytes of locked memory.
        Memlock = "memlock",
        /// Bytes of address space.
        As = "as",
        /// File locks.
        Locks = "locks",
        /// Pending signals.
        Sigpending = "sigpending",
        /// Bytes of message queues.
        Msgqueue = "msgqueue",
        /// 20 less the best nice value it may take.
        Nice = "nice",
        /// The best real-time priority it may take.
        Rtprio = "rtprio",
        /// Microseconds of real-time processor time without a pause.
        Rttime = "rttime",
    }
}

words! {
    /// The capabilities of capabilities(7), in the order of Linux's numbers.
    pub enum Privilege {
        /// CAP_CHOWN.
        Chown = "chown",
        /// CAP_DAC_OVERRIDE.
        DacOverride = "dac_override",
        /// CAP_DAC_READ_SEARCH.
        DacReadSearch = "dac_read_search",
        /// CAP_FOWNER.
        Fowner = "fowner",
        /// CAP_FSETID.
        Fsetid = "fsetid",
        /// CAP_KILL.
        Kill = "kill",
        /// CAP_SETGID.
        Setgid = "setgid",
        /// CAP_SETUID.
        Setuid = "setuid",
        /// CAP_SETPCAP.
        Setpcap = "setpcap",
        /// CAP_LINUX_IMMUTABLE.
        LinuxImmutable = "linux_immutable",
        /// CAP_NET_BIND_SERVICE.
        NetBindService = "net_bind_service",
        /// CAP_NET_BROADCAST.
        NetBroadcast = "net_broadcast",
        /// CAP_NET_ADMIN.
        NetAdmin = "net_admin",
        /// CAP_NET_RAW.
        NetRaw = "net_raw",
        /// CAP_IPC_LOCK.
        IpcLock = "ipc_lock",
        /// CAP_IPC_OWNER.
        IpcOwner = "ipc_owner",
        /// CAP_SYS_MODULE.
        SysModule = "sys_module",
        /// CAP_SYS_RAWIO.
        SysRawio = "sys_rawio",
        /// CAP_SYS_CHROOT.
        SysChroot = "sys_chroot",
        /// CAP_SYS_PTRACE.
        SysPtrace = "sys_ptrace",
        /// CAP_SYS_PACCT.
        SysPacct = "sys_pacct",
        /// CAP_SYS_ADMIN.
        SysAdmin = "sys_admin",
        /// CAP_SYS_BOOT.
        SysBoot = "sys_boot",
        /// CAP_SYS_NICE.
        SysNice = "sys_nice",
        /// CAP_SYS_RESOURCE.
        SysResource = "sys_resource",
        /// CAP_SYS_TIME.
        SysTime = "sys_time",
        /// CAP_SYS_TTY_CONFIG.
        SysTtyConfig = "sys_tty_config",
        /// CAP_MKNOD.
        Mknod = "mknod",
        /// CAP_LEASE.
        Lease = "lease",
        /// CAP_AUDIT_WRITE.
        AuditWrite = "audit_write",
        /// CAP_AUDIT_CONTROL.
        AuditControl = "audit_control",
        /// CAP_SETFCAP.
        Setfcap = "setfcap",
        /// CAP_MAC_OVERRIDE.
        MacOverride = "mac_override",
        /// CAP_MAC_ADMIN.
        MacAdmin = "mac_admin",
        /// CAP_SYSLOG.
        Syslog = "syslog",
        /// CAP_WAKE_ALARM.
        WakeAlarm = "wake_alarm",
        /// CAP_BLOCK_SUSPEND.
        BlockSuspend = "block_suspend",
        /// CAP_AUDIT_READ.
        AuditRead = "audit_read",
        /// CAP_PERFMON.
        Perfmon = "perfmon",
        /// CAP_BPF.
        Bpf = "bpf",
        /// CAP_CHECKPOINT_RESTORE.
        CheckpointRestore = "checkpoint_restore",
    }
}

impl Privilege {
    /// The capability of a name, with or without `CAP_` and in letters of any case.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        Self::parse(lower.strip_prefix("cap_").unwrap_or(&lower))
    }

    /// Linux's number of it.
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }
}

impl RlimitName {
    /// Linux's number of it.
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// Whether its unit is the byte.
    #[must_use]
    pub const fn is_bytes(self) -> bool {
        matches!(
            self,
            Self::Fsize
                | Self::Data
                | Self::Stack
                | Self::Core
                | Self::Rss
                | Self::Memlock
                | Self::As
                | Self::Msgqueue
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_in_the_order_of_linuxs_numbers() {
        assert_eq!((RlimitName::Cpu.number(), RlimitName::Rttime.number()), (0, 15));
        assert_eq!((RlimitName::Nofile.number(), RlimitName::As.number()), (7, 9));
        assert_eq!(Privilege::read("CAP_NET_BIND_SERVICE").map(Privilege::number), Some(10));
        assert_eq!(Privilege::read("sys_nice").map(Privilege::number), Some(23));
        assert_eq!(Privilege::CheckpointRestore.number(), 40);
        assert_eq!(Privilege::read("cap_cap_kill"), None);
    }

    #[test]
    fn an_unlimited_limit_is_above_every_number() {
        let row = |soft, hard| Rlimit { soft, hard }.is_ordered();
        assert!(row(Some(1), None) && row(None, None) && row(Some(2), Some(2)));
        assert!(!row(None, Some(u64::MAX - 1)) && !row(Some(3), Some(2)));
    }
}
