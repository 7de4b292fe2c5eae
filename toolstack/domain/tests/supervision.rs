//! kxl-supervision(7) says what the table says, and names every key and every state.
//!
//! `KXL_BLESS=1 cargo test -p kxl-domain --test supervision` writes the table anew.

#![allow(clippy::unwrap_used, reason = "a test fails where its input is not what it should be")]

use std::fs;
use std::path::PathBuf;

use kxl_domain::config::model::Supervision;
use kxl_domain::supervision::{Word, table};

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../man/kxl-supervision.7")
}

#[test]
fn the_table_of_the_manual_is_that_of_the_code() {
    let page = fs::read_to_string(path()).unwrap();
    let begin = ".\\\" BEGIN supervision, rendered by a test\n";
    let (before, rest) = page.split_once(begin).unwrap();
    let end = ".\\\" END supervision\n";
    let (_old, after) = rest.split_once(end).unwrap();
    let table = table();
    let lines: String =
        table.lines().map(|line| format!("{}\n", line.trim_end().replace('-', "\\-"))).collect();
    let rendered = format!("{before}{begin}.Bd -literal\n{lines}.Ed\n{end}{after}");
    if std::env::var_os("KXL_BLESS").is_some() {
        fs::write(path(), rendered).unwrap();
        return;
    }
    assert_eq!(page, rendered, "KXL_BLESS=1 writes the table anew");
}

#[test]
fn the_manual_names_every_key_and_every_state() {
    let page = fs::read_to_string(path()).unwrap();
    for key in Supervision::KEYS {
        assert!(page.contains(&format!("\n.It Ic {key}\n")), "{key}");
    }
    for word in Word::ALL {
        assert!(page.contains(&format!("\n.It {word}\n")), "{word}");
    }
}
