//! `kxl import`: programs of a supervisord.conf become domains, all or none.

use crate::support::skip::skip;
use crate::support::{Host, wait};

/// Who runs the test, as a user of the file.
fn user() -> String {
    nix::unistd::geteuid().to_string()
}

#[test]
fn the_programs_of_a_file_are_shown_registered_started_and_found_unchanged() {
    let host = Host::new();
    let text = format!(
        "[supervisord]\nnodaemon=true\nuser={}\n[program:one]\ncommand=/bin/sh -c 'echo up; exec \
         sleep 600'\nstdout_file=%(here)s/%(program_name)s.out\nstartsecs=0\n[program:two]\n\
         image=/bin/cat\nautostart=false\n",
        user()
    );
    let file = host.file("sv.conf", &text);
    let path = file.to_str().unwrap();
    let shown = host.kxl(["import", path, "--dry-run"]).expect(0);
    assert!(shown.stdout.contains("name = \"one\"\nbackend = \"any\"\nexec = \"/bin/sh\"\n"));
    assert!(shown.stderr.contains("sv.conf:2: [supervisord] nodaemon: "), "{shown}");
    assert!(!host.ok(["list"]).contains("one"));

    assert_eq!(host.ok(["import", path, "--start"]), "one: registered\ntwo: registered\n");
    let out = file.with_file_name("one.out");
    wait::eventually("the program has printed into its file", || {
        std::fs::read_to_string(&out).is_ok_and(|text| text == "up\n")
    });
    assert_eq!(host.domain("one").text("state"), Some("running"));
    assert_eq!(host.domain("two").text("state"), Some("halted"));
    assert_eq!(host.ok(["import", path]), "one: unchanged\ntwo: unchanged\n");
    host.ok(["destroy", "one"]);
}

#[test]
fn of_two_programs_of_which_one_is_wrong_none_is_registered() {
    let host = Host::new();
    let text = format!(
        "[program:good]\nuser={0}\nimage=/bin/cat\n[program:bad]\nuser={0}\nimage=DKA0:[A]B.EXE\n",
        user()
    );
    let file = host.file("sv.conf", &text);
    let output = host.kxl(["import", file.to_str().unwrap()]).expect(2);
    let expected = "sv.conf:6: [program:bad] image: \"DKA0:[A]B.EXE\" is a name of OpenVMS";
    assert!(output.stderr.contains(expected), "{output}");
    assert!(!host.ok(["list"]).contains("good"));
}

#[test]
fn a_file_of_output_that_its_user_cannot_write_is_told_before_the_first_start() {
    if !nix::unistd::geteuid().is_root() {
        return skip("a file of output that its user cannot write", "only root has other users");
    }
    let host = Host::new();
    let text = "[program:one]\nuser=nobody\nimage=/bin/cat\nstdout_file=%(here)s/one.out\n\
                stderr_file=/dev/null\n[program:two]\nuser=root\nimage=/bin/cat\n\
                stdout_file=%(here)s/two.out\n";
    let file = host.file("sv.conf", text);
    let path = file.to_str().unwrap();
    let told = host.kxl(["import", path]).expect(0);
    let warning = format!(
        "sv.conf:1: domain one: stdout is {}: the user nobody may not make a file in {} (mode 755",
        host.scratch().join("one.out").display(),
        host.scratch().display()
    );
    assert!(told.stderr.contains(&warning), "{told}");
    assert!(!told.stderr.contains("two.out"), "{told}");
    // And it is so.
    let failed = host.kxl(["start", "one"]);
    assert!(failed.stderr.contains("may not"), "{failed}");
}

#[test]
fn a_domain_that_is_there_and_differs_is_replaced_only_when_that_is_said() {
    let host = Host::new();
    let program = |name: &str, image: &str| {
        format!("[program:{name}]\nuser={}\nimage={image}\nexitcodes=0\n", user())
    };
    let file = host.file("sv.conf", &program("web", "/bin/cat"));
    let path = file.to_str().unwrap();
    host.ok(["import", path]);
    let both = program("new", "/bin/cat") + &program("web", "/bin/sh");
    std::fs::write(&file, both).unwrap();
    let output = host.kxl(["import", path]).expect(4);
    assert!(output.stderr.contains("sv.conf:5: there is another domain \"web\""), "{output}");
    assert!(!host.ok(["list"]).contains("new"));
    let told = host.ok(["import", path, "--replace"]);
    assert_eq!(told, "new: registered\nweb: registered anew\n");
}
