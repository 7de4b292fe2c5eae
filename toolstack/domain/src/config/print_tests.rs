//! What is printed reads back as the same configuration.

use crate::config::parse;

#[test]
fn a_configuration_of_every_section_reads_back_the_same() {
    let text = include_str!("testdata/everything.cfg");
    let config = parse("everything.cfg", text, &[]).unwrap_or_else(|e| panic!("{e}")).config;
    let printed = config.to_cfg();
    let again = parse("printed", &printed, &[]).unwrap_or_else(|e| panic!("{e}\n{printed}"));
    assert_eq!(again.config, config, "{printed}");
}
