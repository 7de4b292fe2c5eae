//! save, restore, suspend and resume as xl and xm have them: the bytes on standard error, the
//! statuses, the head of the file.

use std::fs;

use kxl_domain::State;
use kxl_domain::state::Reason;

use crate::support::run::run;
use crate::support::{Host, Output, guest, wait};

fn xm(host: &Host, args: &[&str]) -> Output {
    run(&mut host.command("xm", args), wait::SOON)
}

/// A host with a live transient mock domain `web`, and the path of a file that is not there.
fn with_web() -> (Host, String) {
    let host = Host::new();
    host.create("web", &guest::mock("web", "memory=4M"));
    let file = host.scratch().join("web.img").display().to_string();
    (host, file)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

#[test]
fn save_and_restore_say_what_xl_says_and_the_file_begins_as_its_own() {
    let (host, file) = with_web();
    let shown = host.xl(&["list", "-l", "web"]).expect(0).stdout;
    let saved = host.xl(&["save", "web", &file]).expect(0);
    let bytes = fs::read(&file).unwrap();
    assert_eq!(&bytes[..32], b"Xen saved domain, xl format\n \0 \r");
    assert_eq!(word(&bytes, 32), 0x0102_0304);
    assert_eq!(word(&bytes, 36), 0x0001_0003, "JSON, second stream, and not for Xen");
    assert_eq!(word(&bytes, 40), 0);
    let (length, text) = (word(&bytes, 44), word(&bytes, 48));
    assert_eq!(length, text + 4);
    let text = &bytes[52..52 + usize::try_from(text).unwrap()];
    let (nul, config) = text.split_last().unwrap();
    assert_eq!(*nul, 0);
    let config: serde_json::Value = serde_json::from_slice(config).unwrap();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(config, shown[0]["config"], "the block holds what list -l shows");
    assert_eq!(
        (saved.stdout.as_str(), saved.stderr),
        ("", format!("Saving to {file} new xl format (info 0x3/0x0/{length})\n"))
    );
    host.gone("web");
    let output = host.xl(&["restore", &file]).expect(0);
    assert_eq!(
        (output.stdout.as_str(), output.stderr),
        (
            "",
            format!(
                "Loading new save file {file} (new xl fmt info 0x3/0x0/{length})\n \
                 Savefile contains xl domain config in JSON format\n\
                 Parsing config from <saved>\n"
            )
        )
    );
    let output = host.xl(&["restore", &file]).expect(1);
    assert!(output.stderr.ends_with("Domain with name \"web\" already exists.\n"), "{output}");
    assert_eq!(host.emulators().len(), 1);
}

#[test]
fn the_options_of_xl_do_what_they_do_there() {
    let (host, file) = with_web();
    let domid = host.domain("web").domid();
    host.xl(&["save", "-c", "web", &file]).expect(0);
    assert_eq!(host.domain("web").rests(), Some(State::Running));
    // What is there is replaced, without a word.
    host.xl(&["save", "-p", "web", &file]).expect(0);
    assert_eq!(host.domain("web").rests(), Some(State::Paused));
    host.xl(&["unpause", "web"]).expect(0);
    host.xl(&["save", "-D", "web", &file]).expect(0);
    host.gone("web");
    let cfg = host.file("other.cfg", &guest::mock("other", "memory=4M"));
    let cfg = cfg.to_str().unwrap();
    let output = host.xl(&["restore", "-p", "-d", cfg, &file]).expect(0);
    assert!(output.stderr.contains(&format!("Parsing config from {cfg}\n")), "{output}");
    assert!(output.stderr.contains("\"name\": \"other\","), "{output}");
    assert_eq!(host.domain("other").state(), State::Paused);
    host.xl(&["destroy", "other"]).expect(0);
    host.gone("other");
    host.xl(&["restore", "-e", &file]).expect(0);
    assert_eq!(host.domain("web").domid(), domid);
    host.xl(&["shutdown", "-w", "web"]).expect(0);
    host.rests("web", State::Shutdown);
    host.xl(&["destroy", "web"]).expect(0);
    // The configuration that was saved in the place of the running one.
    host.xl(&["restore", &file]).expect(0);
    let output = host.xl(&["save", "web", &file, cfg]).expect(0);
    assert!(output.stderr.starts_with(&format!("Parsing config from {cfg}\n")), "{output}");
    host.gone("web");
    host.xl(&["restore", &file]).expect(0);
    host.domain("other");
    for args in [&["save", "other"][..], &["save"], &["restore"], &["save", "-X", "other", "f"]] {
        host.xl(args).expect(2);
    }
    host.xl(&["save", "other", "a", "b", "c"]).expect(1);
    host.xl(&["restore", "a", "b", "c"]).expect(1);
}

#[test]
fn what_cannot_be_restored_is_told_in_xls_words() {
    let (host, file) = with_web();
    host.xl(&["save", "web", &file]).expect(0);
    host.gone("web");
    let whole = fs::read(&file).unwrap();
    let length = word(&whole, 44);
    let bad = host.scratch().join("bad.img").display().to_string();
    let output = host.xl(&["restore", "/nonexistent"]).expect(1);
    assert_eq!(output.stderr, "Can't open restore file: No such file or directory\n");
    let with = |at: usize, bytes: [u8; 4]| {
        let mut changed = whole.clone();
        changed[at..at + 4].copy_from_slice(&bytes);
        changed
    };
    let loading = format!("Loading new save file {bad} (new xl fmt info");
    let table = [
        (
            b"nothing of this kind, but long enough to be taken for something else".to_vec(),
            "File has wrong magic number - corrupt or for a different tool?\n".to_owned(),
        ),
        (with(32, [1, 2, 3, 4]), "File has wrong byte order\n".to_owned()),
        (
            with(36, 0x0001_0013_u32.to_le_bytes()),
            format!(
                "{loading} 0x13/0x0/{length})\n\
                 Savefile has mandatory flag(s) 0x10 which are not supported; need newer xl\n"
            ),
        ),
        (whole[..40].to_vec(), "Savefile truncated.\n".to_owned()),
        (whole[..100].to_vec(), format!("{loading} 0x3/0x0/{length})\nSavefile truncated.\n")),
    ];
    for (bytes, told) in table {
        fs::write(&bad, bytes).unwrap();
        let output = host.xl(&["restore", &bad]).expect(1);
        assert_eq!((output.stdout.as_str(), output.stderr), ("", told));
    }
    // A file of Xen's own.
    fs::write(&bad, with(36, 3u32.to_le_bytes())).unwrap();
    let output = host.xl(&["restore", &bad]).expect(1);
    assert!(output.stderr.contains("on Xen"), "{output}");
    host.quiet();
}

#[test]
fn a_save_that_fails_is_told_in_xls_words_and_the_domain_goes_on() {
    let host = Host::new();
    host.create("web", &guest::mock("web", "refuse=save"));
    let file = host.scratch().join("web.img").display().to_string();
    let output = host.xl(&["save", "web", &file]).expect(1);
    assert!(output.stderr.starts_with(&format!("Saving to {file} new xl format")), "{output}");
    assert!(output.stderr.ends_with("Failed to save domain, resuming domain\n"), "{output}");
    assert_eq!(host.domain("web").rests(), Some(State::Running));
    for path in ["/nonexistent/web.img", host.scratch().to_str().unwrap()] {
        let output = host.xl(&["save", "web", path]).expect(1);
        assert_eq!(output.stderr, format!("Failed to open temp file {path} for writing\n"));
    }
    let output = host.xl(&["save", "nosuch", &file]).expect(1);
    assert_eq!(output.stderr, "nosuch is an invalid domain identifier (rc=-6)\n");
    host.xl(&["save", "77", &file]).expect(1);
    host.xl(&["save", "0", &file]).expect(1);
    fs::metadata(&file).unwrap_err();
}

#[test]
fn suspend_and_resume_are_silent_as_in_xl_and_mean_the_store_for_a_managed_domain() {
    let host = Host::new();
    host.define("web", &guest::mock("web", "memory=4M"));
    host.ok(["start", "web"]);
    let output = host.xl(&["suspend", "web"]).expect(0);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""));
    host.rests("web", State::Suspended);
    assert!(!host.xl(&["list"]).expect(0).stdout.contains("web"), "a dormant domain is not listed");
    let output = host.xl(&["resume", "-p", "web"]).expect(0);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""));
    host.rests("web", State::Paused);
    // To RAM for others: the domain stays, and xl shows why it does nothing.
    let pid = host.create("transient", &guest::mock("transient", "")).pid();
    let silent = |verb: &str| {
        let output = host.xl(&[verb, "transient"]).expect(0);
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""));
        host.xl(&["list", "transient"]).expect(0).stdout
    };
    assert!(silent("suspend").contains(" ---ss- "));
    assert!(silent("suspend").contains(" ---ss- "), "it is so already");
    let asleep = host.domain("transient");
    assert_eq!((asleep.rests(), asleep.pid()), (Some(State::Asleep), pid));
    assert_eq!(asleep.text("wanted"), Some("running"));
    let why = host.ok(["why", "transient"]);
    assert!(why.contains("is asleep") && why.contains("kxl wake transient"), "{why}");
    assert!(!silent("resume").contains("---ss-"));
    assert_eq!(host.domain("transient").rests(), Some(State::Running));
    // What could never work has no silent status.
    host.create("plain", &guest::mock("plain", "unsupported=sleep"));
    let output = host.xl(&["suspend", "plain"]).expect(1);
    assert!(output.stderr.contains("does not offer sleep"), "{output}");
    assert_eq!(host.domain("plain").rests(), Some(State::Running));
    host.refused(5, &["sleep", "plain"]);
    host.xl(&["suspend", "77"]).expect(0);
    host.xl(&["resume", "77"]).expect(0);
    host.xl(&["suspend", "nosuch"]).expect(1);
    host.xl(&["resume", "nosuch"]).expect(1);
    host.xl(&["suspend"]).expect(2);
}

#[test]
fn xm_suspends_only_what_it_manages_and_says_why_not() {
    let host = Host::new();
    host.define("web", &guest::mock("web", "memory=4M"));
    host.create("transient", &guest::mock("transient", "memory=4M"));
    let error = |args: &[&str], text: &str| {
        let output = xm(&host, args).expect(1);
        assert_eq!((output.stdout.as_str(), output.stderr), ("", format!("Error: {text}\n")));
    };
    let wrapped = "Error occurred when resuming: Cannot resume domain that is not suspended.";
    error(&["suspend", "web"], "Domain is not running");
    error(&["suspend", "transient"], "Domain is not managed by Xend lifecycle support.");
    error(&["suspend", "nosuch"], "Domain 'nosuch' does not exist.");
    error(&["suspend", "Domain-0"], "Cannot suspend privileged domain Domain-0");
    error(&["resume", "web"], wrapped);
    error(&["resume", "transient"], wrapped);
    error(&["resume", "nosuch"], "Domain 'nosuch' does not exist.");
    xm(&host, &["start", "web"]).expect(0);
    let output = xm(&host, &["suspend", "web"]).expect(0);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""));
    let listed = xm(&host, &["list", "--state=suspended"]).expect(0).stdout;
    assert!(listed.contains("web") && !listed.contains("transient"), "{listed}");
    error(&["start", "web"], "Domain is already running");
    error(&["delete", "web"], "Domain is not halted.");
    xm(&host, &["resume", "--paused", "web"]).expect(0);
    assert_eq!(host.domain("web").state(), State::Paused);
    error(&["suspend", "web"], "Domain is not running");
    // Files, as ever, and without xl's words.
    let file = host.scratch().join("t.img").display().to_string();
    let output = xm(&host, &["save", "transient", &file]).expect(0);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""));
    host.gone("transient");
    let output = xm(&host, &["restore", &file]).expect(0);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""));
    host.domain("transient");
}

#[test]
fn a_saved_managed_domain_rests_and_says_why() {
    let host = Host::new();
    host.define("web", &guest::mock("web", "memory=4M"));
    host.ok(["start", "web"]);
    let file = host.scratch().join("web.img").display().to_string();
    host.xl(&["save", "web", &file]).expect(0);
    let web = host.rests("web", State::Halted);
    assert_eq!(web.reason(), Some(Reason::Saved.as_str()));
    let why = host.ok(["why", "web"]);
    assert!(why.contains("saved to a file") && why.contains(&file), "{why}");
    host.xl(&["restore", &file]).expect(0);
    assert_eq!(host.rests("web", State::Running).0["managed"], true);
}
