//! Marked lines on consoles: of any program, and of machines that know nothing else.

use kxl_domain::State;

use crate::support::event::{expect, record, texts};
use crate::support::guest::any;
use crate::support::{Console, Host, wait};

/// A shell script as a domain.
pub(super) fn script(name: &str, text: &str, lines: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!(
        "name = \"{name}\"\nbackend = \"any\"\nexec = \"/bin/sh\"\nmemory = 8\n\
         device_model_args = [ \"-c\", \"{text}\" ]\n{lines}\n"
    )
}

#[test]
fn a_program_tells_by_lines_on_its_terminal() {
    let host = Host::new();
    let text = "printf 'noise @@kxl-event id=alert text=no\\n'; \
                printf '\\377\\373\\001\\033[0m@@kxl-event id=progress perc'; sleep 0.2; \
                printf 'ent=5 text=\"fsck\"\\r'; read go; \
                printf '@@KXL-EVENT ID=STARTED\\r\\n@@kxl-event id=log text=\"\\033[2Jx\"\\n'; cat";
    host.create("it", &script("it", text, "managed_start = 1"));
    let mut console = Console::attach(&host, "it");
    wait::eventually("it is in a maintenance start", || {
        record(&host, "it").maintenance.is_some_and(|start| start.percent == 5)
    });
    console.send("\r");
    wait::eventually("it is up", || record(&host, "it").ready);
    expect(&host, "it", "guest-log", "\\x1b[2Jx");
    assert_eq!(texts(&host, "it", "guest-alert"), [""; 0]);
    // The console has it all, byte for byte.
    console.expect("@@KXL-EVENT ID=STARTED\r\r\n@@kxl-event id=log text=\"\u{1b}[2Jx\"");
}

#[test]
fn a_failure_after_the_start_is_a_warning_and_undoes_nothing() {
    let host = Host::new();
    let text = "echo '@@kxl-event id=started'; read go; \
                echo '@@kxl-event id=failed text=database-broken'; \
                echo '@@kxl-event id=started'; echo '@@kxl-event id=progress percent=3'; \
                echo '@@kxl-event id=log text=last'; cat";
    host.create("it", &script("it", text, "managed_start = 1"));
    wait::eventually("it is up", || record(&host, "it").ready);
    let mut console = Console::attach(&host, "it");
    console.send("\r");
    expect(&host, "it", "guest-log", "last");
    expect(&host, "it", "guest-log", "failed: database-broken");
    let events = host.events("it");
    let failed = events.iter().find(|event| event["text"] == "failed: database-broken").unwrap();
    assert_eq!(failed["severity"], "warning");
    assert_eq!(texts(&host, "it", "running"), [""], "up once");
    assert_eq!(texts(&host, "it", "guest-log").len(), 2, "nothing else is worth an event");
    assert!(record(&host, "it").ready);
}

#[test]
fn marked_lines_are_heard_in_output_that_goes_into_a_file_over_the_death_of_a_monitor() {
    let host = Host::new();
    let (file, go) = (host.scratch().join("out"), host.scratch().join("go"));
    let text = format!(
        "seq 1 300 | sed 's/.*/@@kxl-event id=progress percent=1/'; echo 'one line'; \
         echo '@@kxl-event id=started' >&2; while [ ! -e {} ]; do sleep 0.02; done; \
         echo '@@kxl-event id=alert text=later'; seq 1 3000; \
         printf '@@kxl-event id=log text=last'; echo; exit 3",
        go.display()
    );
    let lines = format!(
        "managed_start = 1\nstdin = \"none\"\nstdout = \"{}\"\nstderr = \"stdout\"\n\
         autorestart = \"never\"\n",
        file.display()
    );
    let domain = host.create("it", &script("it", &text, &lines));
    wait::eventually("it is up", || record(&host, "it").ready);
    host.monitor_of(&domain).kill();
    host.ok(["recover"]);
    std::fs::write(&go, "").unwrap();
    expect(&host, "it", "guest-alert", "later");
    // Said right before its end.
    expect(&host, "it", "guest-log", "last");
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(kept.contains("one line\n@@kxl-event id=started\n"), "{kept}");
}

#[test]
fn a_script_on_a_terminal_uses_the_program_and_fails_with_its_reason() {
    let host = Host::new();
    let event = crate::support::event::program();
    let text = format!("{} --console /dev/tty failed no licence; cat", event.display());
    host.define("it", &script("it", &text, "managed_start = 1\nstartretries = 0"));
    host.kxl(["start", "it"]);
    host.rests("it", State::Failed);
    let why = host.ok(["why", "it"]);
    assert!(why.contains("no licence"), "{why}");
}

#[test]
fn a_console_that_nobody_asked_to_be_listened_to_is_not() {
    let host = Host::new();
    let text = "printf '@@kxl-event id=alert text=x\\nREADY\\n'; cat";
    host.create("it", &script("it", text, ""));
    Console::attach(&host, "it").expect("READY");
    assert_eq!(texts(&host, "it", "guest-alert"), [""; 0]);
}

#[test]
fn a_port_is_refused_where_there_is_none() {
    let host = Host::new();
    let config = format!("{}guest_events = \"port\"\n", any("it").unwrap());
    let path = host.file("it.cfg", &config);
    let output = host.refused(1, &["create", path.to_str().unwrap()]);
    assert!(output.stderr.contains("guest_events"), "{output}");
    assert!(output.stderr.contains("console"), "{output}");
    assert!(host.find("it").is_none());
}

#[test]
fn a_script_that_is_rebooted_starts_and_says_so_again() {
    let host = Host::new();
    let text =
        "echo '@@kxl-event id=started'; echo '@@kxl-event id=alert text=\"IP conflict\"'; cat";
    host.define("it", &script("it", text, "managed_start = 1"));
    host.ok(["start", "it"]);
    let before = host.domain("it").domid();
    expect(&host, "it", "guest-alert", "IP conflict");
    host.ok(["reboot", "it"]);
    wait::eventually("it is up again", || {
        host.domain("it").domid() != before && record(&host, "it").ready
    });
    wait::eventually("it says so", || texts(&host, "it", "guest-alert").len() == 2);
    assert_eq!(texts(&host, "it", "running"), ["", ""]);
    let alerts = host.ok(["alerts"]);
    assert_eq!(alerts.matches("IP conflict").count(), 1, "one to look at: {alerts}");
}
