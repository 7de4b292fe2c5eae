//! Keys of supervision and of a domain's process.

use super::tests::{bad, good};
use crate::config::error::ErrorKind;
use crate::config::model::{
    Autorestart, GuestEvents, Input, Output, OutputTo, Privilege, Rlimit, RlimitName, StopSignal,
    Supervision,
};
use crate::config::{Rules, parse, parse_by};
use crate::policy::Action;

fn any(text: &str) -> crate::DomainConfig {
    let text = format!("name='a'\nbackend='any'\n{text}");
    parse("f", &text, &[]).unwrap_or_else(|e| panic!("{text}: {e}")).config
}

/// Every key of supervision with a value that is not its default.
const EACH: [&str; 7] = [
    "startsecs=5",
    "startretries=0",
    "autorestart='never'",
    "exitcodes=3",
    "managed_start=1",
    "start_timeout=60",
    "progress_interval=5",
];

#[test]
fn any_one_key_of_supervision_makes_a_domain_supervised_and_the_others_do_not() {
    assert_eq!(any("").supervision, None);
    for (text, key) in EACH.iter().zip(Supervision::KEYS) {
        assert!(text.starts_with(key), "{text}");
        let rules = any(&format!("{text}\n")).supervision.expect(text);
        assert_ne!(rules, Supervision::default(), "{text}");
    }
    let others = "stopwaitsecs=5\nstopsignal='INT'\nuser='root'\npriority=5\nrequires='b'\n\
                  autostart=1\nguest_events='console'\nnice=3\nstdout='none'\n";
    assert_eq!(any(others).supervision, None);
}

#[test]
fn the_defaults_of_supervision_are_those_of_supervisor_vms() {
    let rules = any("startsecs=10\n").supervision.unwrap();
    assert_eq!(rules, Supervision::default());
    assert_eq!((rules.startsecs, rules.startretries, rules.progress_interval), (10, 3, 60));
    assert_eq!((rules.autorestart, rules.exitcodes), (Autorestart::Unexpected, vec![0]));
    assert_eq!((rules.managed_start, rules.start_timeout), (false, None));
    let stop = any("").stop;
    assert_eq!((stop.wait_secs, stop.signal), (10, None));
}

#[test]
fn xens_action_beside_a_key_of_supervision_is_an_error_that_names_both_places() {
    for of_xen in ["on_poweroff", "on_crash", "on_watchdog"] {
        for text in EACH {
            for rules in [Rules::Kxl, Rules::Xl] {
                let file = format!("name='a'\nbackend='any'\n{text}\n{of_xen}='restart'\n");
                let errors = parse_by(rules, "f", &file, &[]).expect_err(&file);
                let told = errors.errors[0].to_string();
                let key = text.split_once('=').unwrap().0;
                let want = format!("f:4:1: {of_xen} cannot stand beside {key}, which is at f:3:1");
                assert_eq!((errors.errors.len(), told), (1, want));
            }
        }
    }
    let config = any("startsecs=1\non_reboot='preserve'\n");
    assert_eq!(config.on_reboot, Action::Preserve);
}

#[test]
fn autorestart_has_three_words_and_the_synonyms_of_supervisor() {
    for (text, want) in [
        ("never", Autorestart::Never),
        ("false", Autorestart::Never),
        ("unexpected", Autorestart::Unexpected),
        ("always", Autorestart::Always),
        ("true", Autorestart::Always),
    ] {
        let rules = any(&format!("autorestart='{text}'\n")).supervision.unwrap();
        assert_eq!(rules.autorestart, want, "{text}");
    }
    assert!(matches!(bad("autorestart='yes'\n").errors[0].kind, ErrorKind::Word { .. }));
}

#[test]
fn exit_codes_are_a_number_a_list_or_a_string_with_commas() {
    for (text, want) in [
        ("3", vec![3]),
        ("[0, 2]", vec![0, 2]),
        ("'0,2'", vec![0, 2]),
        ("'0, 2 ,0'", vec![0, 2]),
        ("['0,1', 255]", vec![0, 1, 255]),
        ("[]", vec![]),
    ] {
        assert_eq!(any(&format!("exitcodes={text}\n")).supervision.unwrap().exitcodes, want);
    }
    for text in ["256", "'-1'", "''", "'0,,2'", "'x'"] {
        let errors = bad(&format!("exitcodes={text}\n"));
        assert!(
            matches!(errors.errors[0].kind, ErrorKind::Word { key: "exitcodes", .. }),
            "{text}"
        );
    }
}

#[test]
fn numbers_of_supervision_have_ranges() {
    for text in [
        "startsecs='-1'",
        "startretries=1001",
        "start_timeout=0",
        "progress_interval=0",
        "progress_interval=61",
        "stopwaitsecs=604801",
        "nice=20",
        "nice='-21'",
        "oom_protect=1001",
        "stdout_backups=1001",
    ] {
        let errors = bad(&format!("{text}\n"));
        assert!(matches!(errors.errors[0].kind, ErrorKind::Range { .. }), "{text}: {errors}");
    }
    assert_eq!(any("progress_interval=1\n").supervision.unwrap().progress_interval, 1);
}

#[test]
fn a_stop_signal_has_a_name_or_a_number() {
    for text in ["'INT'", "'SIGINT'", "2", "'2'"] {
        assert_eq!(any(&format!("stopsignal={text}\n")).stop.signal, Some(StopSignal::Int));
    }
    assert!(bad("stopsignal='STOP'\n").render().contains("expected: one of HUP, INT, QUIT"));
}

#[test]
fn guest_events_follow_from_the_backend_only_with_managed_start() {
    assert_eq!(any("").guest_events, GuestEvents::None);
    assert_eq!(any("managed_start=1\n").guest_events, GuestEvents::Console);
    assert_eq!(good("managed_start=1\n").guest_events, GuestEvents::Port);
    assert_eq!(
        good("managed_start=1\nguest_events='console'\n").guest_events,
        GuestEvents::Console
    );
    assert_eq!(good("guest_events='port'\n").guest_events, GuestEvents::Port);
    for text in [
        "backend='any'\nexec='x'\nmanaged_start=1\nstdout='none'\nstderr='none'\n",
        "backend='any'\nexec='x'\nguest_events='console'\nstdout='none'\nstderr='stdout'\n",
    ] {
        assert!(matches!(bad(text).errors[0].kind, ErrorKind::Contradiction(_)), "{text}");
    }
    assert_eq!(any("managed_start=1\nstdout='none'\n").guest_events, GuestEvents::Console);
    assert_eq!(any("stdout='none'\nstderr='none'\n").guest_events, GuestEvents::None);
    let errors = bad("managed_start=1\nguest_events='none'\n");
    assert!(matches!(errors.errors[0].kind, ErrorKind::Contradiction(_)));
    assert!(matches!(bad("guest_events='tcp'\n").errors[0].kind, ErrorKind::Word { .. }));
}

#[test]
fn a_required_domain_also_comes_before() {
    let config = any("after=['b','c']\nrequires=['c','d']\n");
    let names: Vec<_> = config.maintenance.predecessors().map(ToString::to_string).collect();
    assert_eq!(names, ["b", "c", "d"]);
    assert!(matches!(bad("requires='web1'\n").errors[0].kind, ErrorKind::Contradiction(_)));
    assert!(matches!(bad("requires='a b'\n").errors[0].kind, ErrorKind::Word { .. }));
}

#[test]
fn limits_of_the_kernel_have_a_name_and_one_or_two_amounts() {
    let limits = any("rlimits=['nofile=1024','core=0','as=512M','nproc=1K:unlimited']\n");
    let limits = limits.process.rlimits;
    let both = |n| Rlimit { soft: Some(n), hard: Some(n) };
    assert_eq!(limits[&RlimitName::Nofile], both(1024));
    assert_eq!(limits[&RlimitName::Core], both(0));
    assert_eq!(limits[&RlimitName::As], both(512 << 20));
    assert_eq!(limits[&RlimitName::Nproc], Rlimit { soft: Some(1024), hard: None });
    assert_eq!(any("rlimits='cpu=60'\n").process.rlimits.len(), 1);
    for text in ["files=1", "nofile", "nofile=", "nofile=2:1", "core=unlimited:0", "as=1Q"] {
        let errors = bad(&format!("rlimits='{text}'\n"));
        assert!(matches!(errors.errors[0].kind, ErrorKind::Word { .. }), "{text}");
    }
    for text in ["rlimits=['core=0','core=1']\n", "limit_nofile=64\nrlimits='nofile=64'\n"] {
        assert!(matches!(bad(text).errors[0].kind, ErrorKind::Contradiction(_)), "{text}");
    }
}

#[test]
fn capabilities_need_a_user_that_would_lose_them() {
    let config = any("user='www-data'\ncapabilities=['CAP_KILL','net_raw','kill']\n");
    assert_eq!(config.process.capabilities, [Privilege::Kill, Privilege::NetRaw]);
    assert!(matches!(bad("capabilities='kill'\n").errors[0].kind, ErrorKind::Contradiction(_)));
    assert!(matches!(bad("capabilities='fly'\n").errors[0].kind, ErrorKind::Word { .. }));
    for user in ["''", "'-x'", "'a b'", "'a/b'"] {
        assert!(matches!(bad(&format!("user={user}\n")).errors[0].kind, ErrorKind::Word { .. }));
    }
}

#[test]
fn streams_are_files_or_nothing_and_standard_error_can_go_where_output_goes() {
    let mut config = any("stdin='in'\nstdout='out.log'\nstderr='stdout'\ndirectory='d'\n");
    config.resolve_paths("/srv".as_ref());
    let process = config.process;
    assert_eq!(process.stdin, Some(Input::File("/srv/in".into())));
    assert_eq!(process.stdout.to, Some(OutputTo::File("/srv/out.log".into())));
    assert_eq!(process.stderr.to, Some(OutputTo::Stdout));
    assert_eq!(process.directory, Some("/srv/d".into()));
    let process = any("stdin='/dev/null'\nstdout='none'\n").process;
    assert_eq!((process.stdin, process.stdout.to), (Some(Input::Nothing), Some(OutputTo::Nothing)));
    assert_eq!(process.stderr, Output { to: None, maxbytes: 10 << 20, backups: 4 });
    assert_eq!(any("stderr_maxbytes='1M'\n").process.stderr.maxbytes, 1 << 20);
    for text in ["stdout_maxbytes='1'\n", "stdout_maxbytes='10 apples'\n", "stdout=''\n"] {
        assert!(matches!(bad(text).errors[0].kind, ErrorKind::Word { .. }), "{text}");
    }
}

#[test]
fn a_umask_is_octal_and_an_environment_has_names() {
    assert_eq!(any("umask='027'\n").process.umask, Some(0o27));
    assert_eq!(any("umask=077\n").process.umask, Some(0o77));
    assert_eq!(any("environment=['A=','B=c=d']\n").process.environment, ["A=", "B=c=d"]);
    for text in ["umask='8'\n", "umask='1000'\n", "environment=['A']\n", "environment=['=b']\n"] {
        assert!(matches!(bad(text).errors[0].kind, ErrorKind::Word { .. }), "{text}");
    }
}

#[test]
fn a_description_and_a_path_are_one_line_and_not_empty() {
    assert_eq!(any("description='ES40 of payroll'\n").description.unwrap(), "ES40 of payroll");
    assert_eq!(any("").description, None);
    assert!(any("").scripts.is_empty());
    for text in [
        "description=''",
        "description='a\\nb'",
        "prestart=''",
        "emulator_config=''",
        "emulator_config='/srv/a\\nb.cfg'",
    ] {
        assert!(
            matches!(bad(&format!("{text}\n")).errors[0].kind, ErrorKind::Word { .. }),
            "{text}"
        );
    }
}
