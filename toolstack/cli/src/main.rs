//! The command `kxl`, and the same program called as `xl`, `xm` and `xen`.
//!
//! A personality is an argument grammar and a renderer; both carry the same engine out. Resting
//! domains are dealt with here, live ones by their monitors. Nothing is opened before a command
//! needs it.

mod args;
mod charon;
mod commands;
mod crowd;
mod ending;
mod facts;
mod gate;
mod hooks;
mod journal;
mod moving;
mod out;
mod report;
#[allow(unsafe_code, reason = "signal, ioctl and calendar calls of the C library")]
mod signals;
mod source;
mod systemd;
mod terminal;
mod text;
mod transcript;
mod view;
mod vm;
mod worker;
mod xl;

#[cfg(test)]
mod manual;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    journal::start();
    // After the log, before anything else: tests make this process die at a named step.
    kxl_engine::steps::arm(kxl_engine::steps::Role::Client);
    let mut words = std::env::args_os();
    let called = words.next().unwrap_or_default();
    let name = Path::new(&called).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let status = match xl::Flavour::of(&name) {
        Some(flavour) => xl::main(flavour, words),
        None if name == worker::NAME => worker::main(words),
        None if name == kxl_engine::HOOKS_PROGRAM => hooks::main(),
        None => match vm::verb_of(&name) {
            Some(verb) => commands::main(&["vm", verb]),
            None => commands::main(&[]),
        },
    };
    if let Some(signal) = terminal::interrupt::ends_by() {
        terminal::interrupt::end_by(signal);
    }
    ExitCode::from(status)
}
