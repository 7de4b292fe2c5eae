//! Marked lines on consoles: of any program, and of machines that know nothing else.

use kxl_domain::State;

use crate::support::event::{expect, record, texts};
use crate::support::guest::{any, simh, slot};
use crate::support::skip::skipped;
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

/// A program for a PDP-11 that prints a text: words to be deposited from 1000 on.
fn printing(text: &str) -> String {
    // R1 goes through the text; each byte waits for the printer (177564, 177566); then it stands.
    const CODE: [u16; 11] = [
        0o012_701, 0o001_040, 0o112_100, 0o001_406, 0o105_737, 0o177_564, 0o100_375, 0o110_037,
        0o177_566, 0o000_770, 0o000_777,
    ];
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    let text = bytes.chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let code = (0o1000..).step_by(2).zip(CODE);
    let text = (0o1040..).step_by(2).zip(text);
    let deposits = code.chain(text).map(|(at, word)| format!("dep {at:o} {word:06o}\n"));
    format!("set cpu 11/73\n{}", deposits.collect::<String>())
}

#[test]
fn a_pdp_11_tells_that_it_is_up() {
    let host = Host::new();
    let config = simh("pdp11", "it");
    if skipped("a_pdp_11_tells_that_it_is_up", &config) {
        return;
    }
    let _slot = slot();
    let text = "\r\n@@KXL-EVENT ID=LOG TEXT=\"RSX-11 IS UP\"\r\n @@KXL-EVENT ID=STARTED\r\n";
    let ini = host.file("up.ini", &printing(text));
    let config = config.unwrap();
    let old = config.lines().find(|line| line.starts_with("ini = ")).unwrap();
    let config = config.replace(old, &format!("ini = \"{}\"", ini.display()));
    host.create("it", &format!("{config}managed_start = 1\n"));
    expect(&host, "it", "guest-log", "RSX-11 IS UP");
    wait::eventually("it is up", || record(&host, "it").ready);
}
