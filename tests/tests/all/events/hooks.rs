//! Hooks and mail: everybody is told of everything, in order, and nobody is held up by it.

use std::fs;

use kxl_store::HookRow;

use super::{NOTES, notes};
use crate::support::{Console, Host, guest, wait};

#[test]
fn hooks_are_told_of_each_event_once_and_in_order() {
    let host = Host::new();
    host.hook("20-json", "read line && echo \"$line\" >> json");
    host.hook("10-notes", NOTES);
    host.hook("30-order", "echo \"$KXL_EVENT_ID\" >> order; [ $(wc -l < order) -le $(wc -l < told) ] || echo late >> wrong");
    host.running("web");
    for verb in ["pause", "unpause", "destroy"] {
        host.ok([verb, "web"]);
    }
    host.told_all();
    let events = host.all_events();
    assert_eq!(host.lines("told"), notes(&events));
    let json: Vec<serde_json::Value> =
        host.lines("json").iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(json, events);
    assert!(host.lines("wrong").is_empty(), "an earlier name comes first");
}

#[test]
fn the_environment_of_a_hook_is_as_documented_and_nothing_is_inherited() {
    let host = Host::new();
    host.hook("env", "[ $KXL_EVENT_WHAT = crash ] && env | grep -a '^KXL_EVENT' | sort > env; ls -l /proc/self/fd > fds; true");
    host.crashing("web");
    host.told_all();
    let env = host.lines("env");
    let value = |name: &str| {
        let start = format!("KXL_EVENT_{name}=");
        env.iter().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("{env:?}"))
    };
    assert_eq!(env.len(), 11, "{env:?}");
    let event = host.of_kind("crash").remove(0);
    assert_eq!(value("ID"), event["id"].to_string());
    assert_eq!(value("UUID"), event["uuid"].as_str().unwrap());
    assert_eq!((value("DOMAIN"), value("SEVERITY"), value("DOMID")), ("web", "alert", "1"));
    assert_eq!((value("REASON"), value("ACTION"), value("REPEAT_OF")), ("crash", "destroy", ""));
    assert_eq!(value("TEXT"), event["text"].as_str().unwrap());
    assert!(value("TIME").ends_with('Z') && value("TIME").contains('T'));
    // The directory that ls reads is the fourth.
    let fds: Vec<_> = host.lines("fds").into_iter().filter(|line| line.contains("->")).collect();
    assert_eq!(fds.len(), 4, "{fds:?}");
}

#[test]
fn nobody_waits_for_a_hook() {
    let host = Host::new();
    // A command's output has no end while somebody holds it: run() waits for that.
    host.hook("slow", "touch began; while [ ! -e go ]; do sleep 0.02; done; touch ended");
    host.running("web");
    wait::eventually("the hook is at work", || host.scratch().join("began").exists());
    host.ok(["pause", "web"]);
    assert!(!host.scratch().join("ended").exists());
    let teller = host.teller().unwrap();
    let strange: Vec<_> = teller
        .fds()
        .into_iter()
        .filter(|(number, target)| *number < 3 && target != "/dev/null")
        .collect();
    assert!(strange.is_empty(), "{strange:?}");
    fs::write(host.scratch().join("go"), "").unwrap();
    host.told_all();
}

#[test]
fn a_name_selects_what_a_hook_is_told_of() {
    let host = Host::new();
    host.hook("a.alert", "echo $KXL_EVENT_WHAT >> alerts");
    host.hook("b.warning", "echo $KXL_EVENT_WHAT >> warnings");
    host.running("quiet");
    host.told_all();
    host.create("loop", &guest::mock_with("loop", "exit=3:50", "on_crash = \"restart\""));
    wait::eventually("it crashes twice", || host.of_kind("crash").len() >= 2);
    host.ok(["destroy", "loop"]);
    host.told_all();
    assert_eq!(host.lines("alerts"), ["crash"], "told once while it is open");
    assert_eq!(host.lines("warnings").len(), host.of_kind("crash").len());
}

#[test]
fn a_new_hook_is_not_told_of_what_was_before() {
    let host = Host::new();
    host.running("web");
    let before = host.all_events().len();
    host.hook("notes", NOTES);
    host.ok(["pause", "web"]);
    host.told_all();
    assert_eq!(host.lines("told"), notes(&host.all_events()[before..]));
    fs::remove_file(host.places().hooks_dir().join("notes")).unwrap();
    host.hook("other", "true");
    host.ok(["unpause", "web"]);
    host.told_all();
    let cursor = |name: &str| host.records().hooks().unwrap().into_iter().find(|c| c.name == name);
    let mut gone = cursor("notes").expect("it may come back");
    // A day later.
    gone.next_ms -= 90_000_000;
    host.records().set_hook(&gone).unwrap();
    host.ok(["pause", "web"]);
    host.told_all();
    assert_eq!(cursor("notes"), None, "the cursor of one that stays away goes");
}

#[test]
fn a_hook_that_was_away_for_a_moment_is_told_of_what_happened_meanwhile() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::new();
    host.hook("10-other", "true");
    let path = host.hook("20-notes", NOTES);
    host.running("web");
    host.told_all();
    // Replaced by an editor or a package, with events in between.
    let away = host.scratch().join("away");
    fs::rename(&path, &away).unwrap();
    host.ok(["pause", "web"]);
    host.told_all();
    fs::rename(&away, &path).unwrap();
    host.ok(["unpause", "web"]);
    host.told_all();
    assert_eq!(host.lines("told"), notes(&host.all_events()));
    // And one that others could have changed for a moment.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    host.ok(["pause", "web"]);
    host.told_all();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    host.ok(["unpause", "web"]);
    host.told_all();
    let mut wanted = notes(&host.all_events());
    wanted.retain(|note| !note.ends_with("hook-refused"));
    assert_eq!(host.lines("told"), wanted);
}

#[test]
fn a_mistake_in_kxl_conf_keeps_nobody_from_being_told_and_mail_may_be_asked_for_later() {
    let host = Host::new();
    host.hook("notes", NOTES);
    let mailer = host.scratch().join("mailer");
    host.program(&mailer, "grep -a ^Subject >> mails");
    let config = format!("{}guest_events = \"console\"\n", guest::any("it").unwrap());
    host.create("it", &config);
    host.told_all();
    let mut console = Console::attach(&host, "it");
    console.send("hello\r");
    console.expect("hello");
    host.conf("no_such_key = 1\n");
    console.send("@@kxl-event id=alert text=first\r");
    wait::eventually("the hook is told", || {
        host.lines("told").iter().any(|line| line.ends_with(" guest-alert"))
    });
    // The monitor is the one that began without mail.
    host.conf(&format!("alert_mail = \"root\"\nsendmail = \"{}\"\n", mailer.display()));
    fs::remove_file(host.places().hooks_dir().join("notes")).unwrap();
    console.send("@@kxl-event id=alert text=second\r");
    wait::eventually("a mail is sent", || host.lines("mails").len() == 1);
    assert!(host.lines("mails")[0].contains("guest-alert"), "{:?}", host.lines("mails"));
}

#[test]
fn a_hook_that_fails_is_tried_again_and_holds_up_no_other() {
    let host = Host::new();
    host.hook(
        "10-fails-once",
        "echo \"$KXL_EVENT_ID\" >> tries; [ -e failed ] || { touch failed; exit 1; }",
    );
    host.hook("20-notes", NOTES);
    host.running("web");
    host.ok(["pause", "web"]);
    host.told_all();
    assert_eq!(host.lines("tries"), ["1", "1", "2"], "in order, the first one twice");
    assert_eq!(host.lines("told"), notes(&host.all_events()));
    assert!(host.of_kind("hook-failed").is_empty());
}

#[test]
fn an_event_is_given_up_for_a_hook_after_the_last_try_and_nobody_is_told_of_that() {
    let host = Host::new();
    host.hook("10-bad", "echo \"$KXL_EVENT_WHAT\" >> bad; echo \"no way\" >&2; exit 9");
    host.hook("20-notes", NOTES);
    let cursor = HookRow { name: "10-bad".into(), told: 0, tries: 4, next_ms: 0, problem: None };
    host.running("web");
    // Its first tries are over.
    host.teller().into_iter().for_each(|teller| teller.kill());
    host.records().set_hook(&cursor).unwrap();
    host.ok(["recover"]);
    wait::eventually("it is given up", || host.of_kind("hook-failed").len() == 1);
    let given_up = host.of_kind("hook-failed").remove(0);
    let text = given_up["text"].as_str().unwrap();
    assert!(text.contains("hook 10-bad about event 1 (started)"), "{text}");
    assert!(text.contains("after 5 tries: exit status 9: no way"), "{text}");
    assert!(!host.lines("told").iter().any(|line| line.contains("hook-failed")));
    host.told_all();
    let cursors = host.records().hooks().unwrap();
    assert_eq!((cursors[0].told, cursors[0].tries), (given_up["id"].as_i64().unwrap(), 0));
}

#[test]
fn a_hook_that_hangs_is_ended_with_what_it_started_and_tried_again() {
    let host = Host::new();
    host.conf("hooks_timeout = 1\n");
    host.hook(
        "hangs",
        "[ -e hung ] && { echo again > hung; exit 0; }; sleep 600 & echo $! > hung; wait",
    );
    host.running("web");
    wait::eventually("it hangs", || host.lines("hung").len() == 1);
    let child: i32 = host.lines("hung")[0].parse().unwrap();
    wait::eventually("it is told again", || host.lines("hung") == ["again"]);
    let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "its child goes on: {stat}");
    host.told_all();
}

#[test]
fn what_others_could_change_is_not_run_and_that_is_told_once() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::new();
    let path = host.hook("open", "touch ran");
    host.hook("fine", NOTES);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    host.running("web");
    host.told_all();
    host.ok(["pause", "web"]);
    host.told_all();
    let refused = host.of_kind("hook-refused");
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(refused[0]["text"].as_str().unwrap().contains("chmod go-w"));
    assert!(!host.scratch().join("ran").exists());
    assert_eq!(host.lines("told").len(), 2, "{:?}", host.lines("told"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    host.ok(["unpause", "web"]);
    wait::eventually("it is run", || host.scratch().join("ran").exists());
}

#[test]
fn each_alert_is_mailed_once() {
    let host = Host::new();
    let mailer = host.scratch().join("mailer");
    host.program(&mailer, "echo \"args: $@\" >> mails; cat >> mails");
    host.conf(&format!(
        "alert_mail = \"root, ops@example.org\"\nsendmail = \"{}\"\n",
        mailer.display()
    ));
    host.create("loop", &guest::mock_with("loop", "exit=3:50", "on_crash = \"restart\""));
    wait::eventually("it crashes twice", || host.of_kind("crash").len() >= 2);
    host.ok(["destroy", "loop"]);
    host.told_all();
    let mails = host.lines("mails");
    let count = |text: &str| mails.iter().filter(|line| *line == text).count();
    assert_eq!(count("args: -t -i"), 1, "{mails:?}");
    assert_eq!(count("To: root, ops@example.org"), 1, "{mails:?}");
    assert!(mails.iter().any(|line| line.starts_with("Subject: [kxl] ") && line.contains("crash")));
    assert!(mails.iter().any(|line| line.contains("kxl alerts ack")), "{mails:?}");
}

#[test]
fn without_a_program_for_mail_that_is_told_once_and_the_mail_comes_later() {
    let host = Host::new();
    let mailer = host.scratch().join("mailer");
    host.conf(&format!("alert_mail = \"root\"\nsendmail = \"{}\"\n", mailer.display()));
    for name in ["one", "two"] {
        host.crashing(name);
        host.told_all();
    }
    let failed = host.of_kind("mail-failed");
    assert_eq!(failed.len(), 1, "{failed:?}");
    // Somebody was faster about the first one.
    let first = host.of_kind("crash")[0]["id"].to_string();
    host.ok(["alerts", "ack", &first]);
    host.program(&mailer, "grep -a ^Subject >> mails");
    host.ok(["recover"]);
    host.told_all();
    let mails = host.lines("mails");
    assert!(mails.len() == 1 && mails[0].contains("two"), "{mails:?}");
}
