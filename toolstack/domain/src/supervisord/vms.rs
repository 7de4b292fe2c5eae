//! What OpenVMS calls otherwise: devices, priorities, quotas, privileges.

use crate::config::model::{Privilege, RlimitName};

/// A file or device that a key names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum File {
    /// The null device.
    Nothing,
    /// A path of this host.
    Path(String),
    /// A name that only OpenVMS has.
    Foreign,
}

/// What a name of a file means here.
pub(super) fn file(name: &str) -> File {
    let upper = name.to_ascii_uppercase();
    if matches!(upper.as_str(), "" | "NLA0:" | "NL:" | "NLA0" | "_NLA0:" | "NONE" | "/DEV/NULL") {
        return File::Nothing;
    }
    let of_vms =
        upper.starts_with("SYS$") || name.contains('[') && name.contains(']') || name.contains(':');
    if of_vms && !name.contains('/') { File::Foreign } else { File::Path(name.to_owned()) }
}

/// The nice value for a base priority: 4, the usual one, is 0; below it a step is 5, above it 1; the
/// real-time ones, from 16 on, are all -20.
pub(super) fn nice(base_priority: u8) -> i8 {
    match base_priority {
        0 => 19,
        low @ 1..=4 => (4 - low.cast_signed()) * 5,
        high @ 5..=15 => 4 - high.cast_signed(),
        _ => -20,
    }
}

/// What becomes of a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quota {
    /// A limit of this amount; `None` = unlimited.
    Limit(RlimitName, Option<u64>),
    /// Nothing here is like it.
    NoEqual,
    /// No quota.
    Unknown,
}

/// The limit for a quota, by its name with or without `PQL$_` or `pql_`.
pub(super) fn quota(name: &str, value: u64) -> Quota {
    let upper = name.trim().to_ascii_uppercase();
    let bare = upper.trim_start_matches("PQL").trim_start_matches(['$', '_']);
    match bare {
        "FILLM" => Quota::Limit(RlimitName::Nofile, Some(value)),
        "PRCLM" => Quota::Limit(RlimitName::Nproc, Some(value)),
        // In pagelets of 512 bytes.
        "PGFLQUOTA" => Quota::Limit(RlimitName::As, value.checked_mul(512)),
        // In units of 10 ms; 0 is no limit.
        "CPULM" => Quota::Limit(RlimitName::Cpu, (value > 0).then(|| value.div_ceil(100))),
        "ASTLM" | "BIOLM" | "BYTLM" | "DIOLM" | "ENQLM" | "JTQUOTA" | "TQELM" | "TQLM"
        | "WSDEFAULT" | "WSEXTENT" | "WSQUOTA" | "PGFLQUO" => Quota::NoEqual,
        _ => Quota::Unknown,
    }
}

/// What becomes of a privilege.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Right {
    /// These capabilities.
    Capabilities(Vec<Privilege>),
    /// What everybody may here.
    Everybody,
    /// Nothing here is like it; with what to do.
    NoEqual(&'static str),
    /// No privilege.
    Unknown,
}

/// The capabilities for a privilege, by its name with or without `PRV$M_` or `prv_`; those of
/// Linux mean themselves.
pub(super) fn right(name: &str) -> Right {
    use Privilege as P;
    let upper = name.trim().to_ascii_uppercase();
    let bare = upper.trim_start_matches("PRV").trim_start_matches(['$', '_']);
    let bare = bare.strip_prefix("M_").or_else(|| bare.strip_prefix("V_")).unwrap_or(bare);
    let one = |privilege| Right::Capabilities(vec![privilege]);
    match bare {
        "ALTPRI" => one(P::SysNice),
        "AUDIT" => one(P::AuditWrite),
        "BYPASS" | "SYSPRV" | "GRPPRV" => one(P::DacOverride),
        "READALL" => one(P::DacReadSearch),
        "EXQUOTA" => one(P::SysResource),
        "GROUP" | "WORLD" => one(P::Kill),
        "IMPERSONATE" | "DETACH" => Right::Capabilities(vec![P::Setuid, P::Setgid]),
        "LOG_IO" | "PHY_IO" => one(P::SysRawio),
        "PSWAPM" => one(P::IpcLock),
        "TMPMBX" | "NETMBX" | "GRPNAM" | "PRMMBX" | "PRMGBL" | "PRMCEB" | "SYSGBL" | "SHMEM" => {
            Right::Everybody
        }
        "ALL" | "SETPRV" => Right::NoEqual("name the capabilities that it needs"),
        "CMKRNL" | "CMEXEC" => Right::NoEqual("no program here runs in the kernel's mode"),
        "ACNT" | "ALLSPOOL" | "BUGCHK" | "DIAGNOSE" | "DOWNGRADE" | "IMPORT" | "MOUNT" | "OPER"
        | "PFNMAP" | "SECURITY" | "SHARE" | "SYSLCK" | "SYSNAM" | "UPGRADE" | "VOLPRO" => {
            Right::NoEqual("name a capability of Linux where it needs one")
        }
        _ => P::read(name.trim()).map_or(Right::Unknown, one),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_null_device_is_nothing_paths_are_paths_and_other_devices_are_foreign() {
        for name in ["NLA0:", "nla0:", "NL:", "NONE", "/dev/null", ""] {
            assert_eq!(file(name), File::Nothing, "{name}");
        }
        for name in ["/var/log/a", "a.log", "./a:b", "/a[1]b"] {
            assert_eq!(file(name), File::Path(name.into()), "{name}");
        }
        for name in ["SYS$SYSTEM:LOGINOUT.EXE", "DKA100:[A]B.LOG", "TTA0:", "sys$output", "[-]A.B"]
        {
            assert_eq!(file(name), File::Foreign, "{name}");
        }
    }

    #[test]
    fn the_usual_base_priority_is_nice_0_and_more_of_it_is_never_nicer() {
        assert_eq!([0, 1, 3, 4, 5, 15, 16, 31].map(nice), [19, 15, 5, 0, -1, -11, -20, -20]);
        assert!((0..31).all(|priority| nice(priority) >= nice(priority + 1)));
    }

    #[test]
    fn quotas_become_limits_in_the_units_of_this_host() {
        assert_eq!(quota("PQL$_FILLM", 100), Quota::Limit(RlimitName::Nofile, Some(100)));
        assert_eq!(quota("pql_pgflquota", 2048), Quota::Limit(RlimitName::As, Some(1 << 20)));
        assert_eq!(quota("cpulm", 150), Quota::Limit(RlimitName::Cpu, Some(2)));
        assert_eq!(quota("cpulm", 0), Quota::Limit(RlimitName::Cpu, None));
        assert_eq!(quota("PQL_ASTLM", 5), Quota::NoEqual);
        assert_eq!(quota("PQL_X", 5), Quota::Unknown);
    }

    #[test]
    fn privileges_become_capabilities_where_there_are_equals() {
        assert_eq!(right("PRV$M_ALTPRI"), Right::Capabilities(vec![Privilege::SysNice]));
        assert_eq!(right("bypass"), Right::Capabilities(vec![Privilege::DacOverride]));
        assert_eq!(right("net_raw"), Right::Capabilities(vec![Privilege::NetRaw]));
        assert_eq!(right("TMPMBX"), Right::Everybody);
        assert!(matches!(right("CMKRNL"), Right::NoEqual(_)));
        assert_eq!(right("FLY"), Right::Unknown);
    }
}
