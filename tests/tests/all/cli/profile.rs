//! `kxl profile`, and the example of the manual as its reader would try it.

use std::fs;

use kxl_domain::State;

use crate::support::Host;
use crate::support::console::Console;
use crate::support::guest::top;

/// The example of kxl-backends(7) for an arbitrary program.
fn example() -> String {
    let page = fs::read_to_string(top().join("man/kxl-backends.7")).unwrap();
    let blocks = page.split(".Bd -literal -offset indent\n").skip(1);
    let mut blocks =
        blocks.filter_map(|rest| Some(rest.split_once("\n.Ed")?.0.replace("\\e", "\\")));
    blocks.find(|block| block.contains("name = \"echo\"")).unwrap()
}

#[test]
fn the_profile_that_the_manual_shows_runs_a_program_of_ones_own() {
    let host = Host::new();
    let profiles = host.root.join("etc/kxl/profiles");
    fs::create_dir_all(&profiles).unwrap();
    let file = profiles.join("echo.toml");
    fs::write(&file, example()).unwrap();
    let said = host.ok(["profile", "check", file.to_str().unwrap()]);
    assert_eq!(said, "echo: in order; it offers pause powerdown console\n");
    assert!(host.ok(["profile", "list"]).contains("Repeats what it is told"));
    host.ok(["create", "name=\"parrot\"", "backend=\"echo\""]);
    let mut console = Console::attach(&host, "parrot");
    console.send("pretty\r");
    console.expect("pretty");
    console.expect("pretty");
    host.ok(["pause", "parrot"]);
    assert_eq!(host.domain("parrot").state(), State::Paused);
    host.ok(["unpause", "parrot"]);
    host.ok(["shutdown", "--wait", "parrot"]);
    host.gone("parrot");
}

#[test]
fn a_mistake_in_a_profile_is_shown_where_it_is() {
    let host = Host::new();
    let file = host.file("echo.toml", &example().replace("after_ms", "aftr_ms"));
    let refused = host.refused(2, &["profile", "check", file.to_str().unwrap()]);
    for part in [
        "echo.toml:13:1: unknown key \"aftr_ms\" in [ready]",
        "did you mean \"after_ms\"?",
        "13 | aftr_ms = 100",
        "| ^^^^^^^",
    ] {
        assert!(refused.stderr.contains(part), "{part}: {refused}");
    }
    let other = host.file("other.toml", &example());
    let refused = host.refused(2, &["profile", "check", other.to_str().unwrap()]);
    assert!(refused.stderr.contains("the name must be that of the file"), "{refused}");
    let taken = host.file("any.toml", &example().replace("\"echo\"", "\"any\""));
    let refused = host.refused(2, &["profile", "check", taken.to_str().unwrap()]);
    assert!(refused.stderr.contains("the built-in profile cannot be replaced"), "{refused}");
    host.refused(1, &["profile", "check", "/nonexistent/x.toml"]);
}
