//! What the figures were measured on.

use std::fs;
use std::process::Command;

use crate::run;

/// The load averages of now.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// One line about the machine; `load` is that from before the measuring.
pub(crate) fn line(load: &str) -> String {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let kernel = nix::sys::utsname::uname()
        .map_or_else(|_| "?".into(), |name| name.release().to_string_lossy().into_owned());
    format!(
        "machine: {cores} cores ({}), load before {load}, kernel {kernel}, QEMU {}, libvirt {}",
        processor(),
        version("qemu-system-x86_64"),
        version("virsh"),
    )
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name"));
    model.map_or("unknown", |rest| rest.trim_start_matches([':', '\t', ' '])).to_owned()
}

/// The first number with a dot in what `--version` prints.
fn version(program: &str) -> String {
    let Ok(run) = run::unchecked(Command::new(program).arg("--version")) else {
        return "not installed".into();
    };
    let dotted = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
    run.stdout.split_whitespace().find(dotted).unwrap_or("?").to_owned()
}
