//! A confined process tries what it must not do, and dies of it.
//!
//! Every attempt is made by a process of its own: this program again, told by its environment
//! what to try. It has a main function of its own because a process is confined before it has
//! any thread, and the usual one runs tests in threads.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::missing_panics_doc,
    reason = "helpers of tests fail and tell like tests"
)]

mod attempt;
#[allow(unsafe_code, reason = "forbidden things have no safe form")]
mod deeds;

mod skip;
mod tests;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::var_os(attempt::ROLE).is_some() {
        return attempt::child();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if has("--list") {
        // Nothing of this is ignored; asked for what is, the list is empty.
        for (name, _) in tests::ALL.iter().filter(|_| !has("--ignored")) {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&String> = arguments.iter().filter(|one| !one.starts_with('-')).collect();
    let chosen = |name: &str| {
        wanted.is_empty()
            || wanted
                .iter()
                .any(|one| if has("--exact") { name == *one } else { name.contains(*one) })
    };
    let mut failed = 0;
    for (name, test) in tests::ALL.iter().filter(|(name, _)| chosen(name) && !has("--ignored")) {
        // A failed test has said why through the panic's message.
        let good = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if good { "ok" } else { "FAILED" });
        failed += usize::from(!good);
    }
    println!("\ntest result: {}. {failed} failed", if failed == 0 { "ok" } else { "FAILED" });
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
