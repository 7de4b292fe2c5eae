//! A `supervisord.conf` of anybody: it is read to its end, and what it makes of a program reads
//! back as the same domain.

#![no_main]

use std::path::Path;

use kxl_domain::config::parse;
use kxl_domain::supervisord::{Surroundings, import};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let variable = |name: &str| Some(name.to_owned());
    let read = import(&text, &Surroundings { here: Path::new("/etc"), variable: &variable });
    for program in read.programs {
        let printed = program.config.to_short_cfg();
        let again = parse("printed", &printed, &[]).unwrap_or_else(|e| panic!("{e}\n{printed}"));
        assert_eq!(again.config, program.config, "{printed}");
    }
});
