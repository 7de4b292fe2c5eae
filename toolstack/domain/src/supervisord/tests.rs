//! Every key of Supervisor-vms, and those of supervisord.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::config::model::{
    Autorestart, Input, OutputTo, Privilege, Rlimit, RlimitName, StopSignal, Supervision,
};
use crate::config::parse;

fn read(text: &str) -> Import {
    let variable = |name: &str| (name == "HOME").then(|| "/root".to_owned());
    import(text, &Surroundings { here: Path::new("/etc/sv"), variable: &variable })
}

/// The domain of one program with these lines; there is no mistake in them.
fn program(lines: &str) -> (DomainConfig, Vec<Remark>) {
    let text = format!("[program:web]\nuser = www\nimage = /bin/web\n{lines}");
    let read = read(&text);
    assert_eq!(read.errors().count(), 0, "{lines}: {:?}", read.remarks);
    let config = read.programs.into_iter().next().unwrap().config;
    let again = parse("printed", &config.to_short_cfg(), &[]);
    let again = again.unwrap_or_else(|e| panic!("{lines}: {e}")).config;
    assert_eq!(again, config, "{}", config.to_short_cfg());
    (config, read.remarks)
}

fn config(lines: &str) -> DomainConfig {
    program(lines).0
}

/// The mistakes of a text, as they are shown.
fn errors(text: &str) -> Vec<String> {
    read(text).errors().map(ToString::to_string).collect()
}

/// The one mistake in one program with these lines.
fn wrong(lines: &str) -> String {
    let text = format!("[program:web]\nuser = www\nimage = /bin/web\n{lines}");
    let found = errors(&text);
    assert_eq!(found.len(), 1, "{lines}: {found:?}");
    assert!(read(&text).programs.is_empty(), "{lines}");
    found.into_iter().next().unwrap()
}

fn says(lines: &str, text: &str) {
    let remarks = program(lines).1;
    assert!(remarks.iter().any(|remark| remark.to_string().contains(text)), "{remarks:?}");
}

#[test]
fn image_is_the_program() {
    assert_eq!(config("").emulator.as_deref(), Some(Path::new("/bin/web")));
    let text = "[program:a]\nuser=u\nimage = SYS$SYSTEM:LOGINOUT.EXE\n";
    assert!(errors(text)[0].contains("a name of OpenVMS: write the path of this host"));
    // Its default is that one.
    assert!(errors("[program:a]\nuser=u\n")[0].contains("neither image nor command"));
}

#[test]
fn command_is_what_an_image_reads_and_without_one_program_and_arguments() {
    let input = |lines: &str| config(lines).process.stdin;
    assert_eq!(input(""), Some(Input::Nothing));
    assert_eq!(input("command = NLA0:\n"), Some(Input::Nothing));
    assert_eq!(input("command = in.com\n"), Some(Input::File("/etc/sv/in.com".into())));
    assert!(wrong("command = DKA0:[SYS]IN.COM\n").contains("4: [program:web] command:"));
    let text = "[program:a]\nuser=u\ncommand = /bin/cat -u '%(program_name)s x'\n";
    let domain = read(text).programs.remove(0).config;
    assert_eq!(domain.emulator.as_deref(), Some(Path::new("/bin/cat")));
    assert_eq!(domain.emulator_args, ["-u", "a x"]);
    assert_eq!(domain.process.stdin, Some(Input::Nothing));
    assert!(errors("[program:a]\nuser=u\ncommand = /bin/cat 'x\n")[0].contains("not closed"));
}

#[test]
fn process_name_is_the_name_and_by_default_that_of_the_section() {
    assert_eq!(config("").name.as_str(), "web");
    assert_eq!(
        config("process_name = %(program_name)s-%(process_num)02d\n").name.as_str(),
        "web-00"
    );
    assert!(wrong("process_name = a b\n").contains("process_name"));
    let twice = "[program:a]\nuser=u\nimage=/a\n[program:b]\nuser=u\nimage=/b\nprocess_name=a\n";
    assert_eq!(errors(twice), ["4: process_name: the program of line 1 is called \"a\" as well"]);
}

#[test]
fn user_is_who_runs_it_and_has_to_be_said() {
    assert_eq!(config("").process.user.as_deref(), Some("www"));
    let text = "[supervisord]\nuser = web\n[program:a]\nimage=/a\n";
    assert_eq!(read(text).programs[0].config.process.user.as_deref(), Some("web"));
    let told = errors("[program:a]\nimage=/a\n");
    assert_eq!(told, ["1: [program:a] user: is not given: say who runs the program"]);
}

#[test]
fn autostart_is_true_by_default() {
    assert_eq!(config("").maintenance.autostart, Some(true));
    assert_eq!(config("AutoStart = No\n").maintenance.autostart, Some(false));
    assert!(wrong("autostart = maybe\n").contains("neither true nor false"));
}

#[test]
fn stdout_file_is_discarded_by_default() {
    let to = |lines: &str| config(lines).process.stdout.to;
    assert_eq!(to(""), Some(OutputTo::Nothing));
    assert_eq!(to("stdout_file = NLA0:\n"), Some(OutputTo::Nothing));
    assert_eq!(to("stdout_file = /l/%(program_name)s\n"), Some(OutputTo::File("/l/web".into())));
    assert!(wrong("stdout_file = SYS$LOGIN:A.LOG\n").contains("a name of OpenVMS"));
}

#[test]
fn stderr_file_is_discarded_by_default() {
    let to = |lines: &str| config(lines).process.stderr.to;
    assert_eq!(to(""), Some(OutputTo::Nothing));
    assert_eq!(to("stderr_file = err\n"), Some(OutputTo::File("/etc/sv/err".into())));
    assert!(wrong("stderr_file = TTA0:\n").contains("a name of OpenVMS"));
}

fn rules(lines: &str) -> Supervision {
    config(lines).supervision.unwrap()
}

#[test]
fn startsecs_is_10_by_default() {
    assert_eq!((rules("").startsecs, rules("startsecs = 0\n").startsecs), (10, 0));
    assert!(wrong("startsecs = soon\n").contains("is no number from 0"));
}

#[test]
fn startretries_is_3_by_default() {
    assert_eq!((rules("").startretries, rules("startretries = 7\n").startretries), (3, 7));
    assert!(wrong("startretries = -1\n").contains("is no number from 0"));
}

#[test]
fn stopwaitsecs_is_10_by_default() {
    let wait = |lines: &str| config(lines).stop.wait_secs;
    assert_eq!((wait(""), wait("stopwaitsecs = 30\n")), (10, 30));
}

#[test]
fn kt_limit_limits_threads_and_processes_and_0_does_not() {
    let limit = |lines: &str| config(lines).limits.pids;
    assert_eq!(
        [limit(""), limit("kt_limit = 0\n"), limit("kt_limit = 8\n")],
        [None, None, Some(8)]
    );
}

#[test]
fn baspri_is_a_nice_value() {
    let nice = |lines: &str| config(lines).process.nice;
    assert_eq!([nice(""), nice("baspri = 4\n"), nice("baspri = 2\n")], [None, None, Some(10)]);
    assert_eq!(nice("baspri = 8\n"), Some(-4));
    says("baspri = 20\n", "is a real-time priority");
    assert!(wrong("baspri = 32\n").contains("from 0 to 31"));
}

#[test]
fn nouaf_is_told_to_be_so_always() {
    says("nouaf = true\n", "nouaf: is so always");
    says("nouaf = false\n", "nouaf: is not done");
}

#[test]
fn quotas_become_limits_or_a_line() {
    let text = "quotas = PQL$_FILLM=100,\n  pql_pgflquota = 2048, ASTLM=50\n";
    let limits = config(text).process.rlimits;
    let both = |n| Rlimit { soft: Some(n), hard: Some(n) };
    assert_eq!(limits[&RlimitName::Nofile], both(100));
    assert_eq!(limits[&RlimitName::As], both(1 << 20));
    assert_eq!(limits.len(), 2);
    says(text, "ASTLM is not done: Linux has no limit like it");
    assert!(
        config("quotas = [('PQL$_PRCLM'=3)]\n").process.rlimits.contains_key(&RlimitName::Nproc)
    );
    assert!(wrong("quotas = FILLM\n").contains("is not NAME = NUMBER"));
    assert!(wrong("quotas = HAPPINESS=3\n").contains("is no quota"));
}

#[test]
fn privileges_become_capabilities_or_a_line() {
    let text = "privileges = ALTPRI, PRV$M_SYSPRV, TMPMBX, CMKRNL\n";
    assert_eq!(config(text).process.capabilities, [Privilege::SysNice, Privilege::DacOverride]);
    says(text, "TMPMBX is not needed");
    says(text, "CMKRNL is not done");
    assert!(wrong("privileges = FLY\n").contains("neither a privilege nor a capability"));
    let root = "[program:a]\nuser=root\nimage=/a\nprivileges=ALTPRI\n";
    assert_eq!(read(root).programs[0].config.process.capabilities, []);
}

#[test]
fn autorestart_is_unexpected_by_default() {
    for (lines, want) in [
        ("", Autorestart::Unexpected),
        ("autorestart = unexpected\n", Autorestart::Unexpected),
        ("autorestart = false\n", Autorestart::Never),
        ("autorestart = True\n", Autorestart::Always),
    ] {
        assert_eq!(rules(lines).autorestart, want, "{lines}");
    }
    assert!(wrong("autorestart = perhaps\n").contains("needs false, unexpected or true"));
}

#[test]
fn exitcodes_that_are_not_given_are_0_with_a_notice() {
    assert_eq!(rules("").exitcodes, [0]);
    says("", "exitcodes: is not given: 0 is expected (on OpenVMS 1 is success)");
    assert_eq!(rules("exitcodes = 0, 2\n").exitcodes, [0, 2]);
    says("exitcodes = 1\n", "1 alone is success on OpenVMS");
    assert!(wrong("exitcodes = 0 2\n").contains("numbers from 0 to 255"));
}

#[test]
fn keys_of_supervisord_itself_have_their_meaning() {
    let config = config(
        "directory = /srv\nenvironment = A=\"1,2\",B=%(ENV_HOME)s\nstopsignal = INT\n\
         priority = 20\nredirect_stderr = true\nstdout_logfile = /l/a\numask = 027\n\
         stdout_logfile_maxbytes = 1MB\nstdout_logfile_backups = 2\nnumprocs = 1\n",
    );
    let process = &config.process;
    assert_eq!(process.directory.as_deref(), Some(Path::new("/srv")));
    assert_eq!(process.environment, ["A=1,2", "B=/root"]);
    assert_eq!((config.stop.signal, process.umask), (Some(StopSignal::Int), Some(0o27)));
    assert_eq!(config.maintenance.priority, 20);
    assert_eq!(process.stderr.to, Some(OutputTo::Stdout));
    assert_eq!(process.stdout.to, Some(OutputTo::File("/l/a".into())));
    assert_eq!((process.stdout.maxbytes, process.stdout.backups), (1 << 20, 2));
}

#[test]
fn what_cannot_be_done_is_told_with_its_line_and_key() {
    assert_eq!(
        wrong("numprocs = 2\n"),
        "4: [program:web] numprocs: is not done: a domain is one process; write a section for each"
    );
    assert!(wrong("stdout_file = /a\nstdout_logfile = /b\n").contains("leave one out"));
    assert!(wrong("stdout_logfile = syslog\n").contains("no system log"));
    assert!(wrong("stopsignal = STOP\n").contains("no signal"));
    says("stopasgroup = true\n", "goes to the program itself");
    says("stdout_logfile = AUTO\n", "no file is made up");
    says("colour = blue\n", "4: [program:web] colour: is not a key of supervisord");
    assert!(errors("[include]\nfiles=x\n[program:a]\nuser=u\nimage=/a\n")[0].contains("each file"));
}

#[test]
fn the_section_of_the_server_has_its_meaning_or_a_line() {
    let text = "[supervisord]\nnodaemon = true\nuser = web\ncommand = SYS$LOGIN:S.COM\n\
                stdout_file = NLA0:\nlogfile = supervisord.log\numask = 077\ncolour = blue\n\
                environment = A=1\n[supervisorctl]\n[program:a]\nimage=/a\nenvironment=B=2\n";
    let read = read(text);
    assert_eq!(read.errors().count(), 0, "{:?}", read.remarks);
    let told: Vec<String> = read.remarks.iter().map(ToString::to_string).collect();
    for (line, part) in [
        (2, "kxl-monitor --foreground"),
        (4, "there is no server to be run"),
        (5, "is not needed"),
        (6, "kxl events"),
        (8, "is not a key of supervisord"),
        (10, "kxl shell"),
    ] {
        let found =
            told.iter().any(|text| text.starts_with(&format!("{line}: ")) && text.contains(part));
        assert!(found, "{part}: {told:?}");
    }
    let process = &read.programs[0].config.process;
    assert_eq!(process.environment, ["A=1", "B=2"]);
    assert_eq!((process.umask, process.user.as_deref()), (Some(0o77), Some("web")));
}

#[test]
fn a_file_without_programs_is_an_error() {
    let none = ["there is no [program:NAME] section: nothing to be imported"];
    assert_eq!(errors(""), none);
    assert_eq!(errors("[supervisord]\nuser = a\n"), none);
    assert_eq!(errors("a = b\n")[1], "1: this line stands before the first [section]");
}

#[test]
fn of_two_programs_the_wrong_one_is_told_and_the_import_is_to_be_refused() {
    let text = "[program:a]\nuser=u\nimage=/a\n[program:b]\nuser=u\nimage=/b\nstartsecs=x\n";
    let read = read(text);
    assert_eq!(read.errors().count(), 1);
    assert_eq!(read.programs.len(), 1);
}

/// Lines that have something to do with a file of this kind.
fn line() -> impl Strategy<Value = String> {
    let keys = [
        "image",
        "command",
        "process_name",
        "user",
        "autostart",
        "stdout_file",
        "stderr_file",
        "startsecs",
        "startretries",
        "stopwaitsecs",
        "kt_limit",
        "baspri",
        "nouaf",
        "quotas",
        "privileges",
        "autorestart",
        "exitcodes",
        "directory",
        "environment",
        "umask",
        "stopsignal",
        "priority",
        "redirect_stderr",
        "stdout_logfile",
        "numprocs",
    ];
    let values = [
        "true",
        "0,0,2",
        "/bin/sh -c 'a b'",
        "%(program_name)s",
        "FILLM=4294967295,CPULM=0",
        "ALTPRI|bypass",
        "077",
        "A=\"b\",C=d",
        "15",
        "NLA0:",
        "root",
        "/a/%(here)s",
        "%(user)s",
    ];
    prop_oneof![
        Just("[program:a]".to_owned()),
        Just("[program:b]\nuser=u\nimage=/b".to_owned()),
        Just("[supervisord]".to_owned()),
        (proptest::sample::select(keys.to_vec()), proptest::sample::select(values.to_vec()))
            .prop_map(|(key, value)| format!("{key} = {value}")),
        (proptest::sample::select(keys.to_vec()), ".{0,12}")
            .prop_map(|(key, value)| format!("{key}={value}")),
        ".{0,12}",
    ]
}

proptest! {
    #[test]
    fn whatever_a_file_says_its_programs_are_configurations_that_read_back_the_same(
        lines in proptest::collection::vec(line(), 0..20)
    ) {
        let text = format!("[program:x]\nuser = www\nimage = /bin/web\n{}", lines.join("\n"));
        for program in read(&text).programs {
            let printed = program.config.to_short_cfg();
            let again = parse("printed", &printed, &[]);
            let again = again.unwrap_or_else(|e| panic!("{e}\n{printed}"));
            prop_assert_eq!(again.config, program.config, "{}", printed);
        }
    }
}
