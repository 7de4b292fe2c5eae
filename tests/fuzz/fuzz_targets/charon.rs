//! Charon's configurations; behind a line of three dashes, what every include gives.

#![no_main]

use kxl_domain::charon::{ConsoleLine, facts, is_charon, licence_word, parse, version};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (text, included) = text.split_once("\n---\n").unwrap_or((text, ""));
    let _says = (is_charon(text), version(text), licence_word(text));
    let Ok(configuration) = parse(text, |_| Some(included.to_owned())) else { return };
    let told = facts(&configuration);
    assert!(told.cpus != Some(0) && told.memory_mib != Some(0));
    let alone = parse(configuration.text(), |_| None).expect("nothing is left to include");
    assert_eq!(facts(&alone), told);
    match configuration.with_console_port(40_000) {
        Some(changed) => {
            let changed = parse(&changed, |_| None).expect("only a number has changed");
            assert_eq!(facts(&changed).console, ConsoleLine::Port(40_000));
        }
        None => assert!(!matches!(told.console, ConsoleLine::Port(_))),
    }
});
