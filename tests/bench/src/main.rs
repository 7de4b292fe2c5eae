//! `make bench`: what kxl costs, measured beside raw QEMU and libvirt in one run.
//!
//! Rounds of the things compared alternate, so that a busy host slows all of them alike: believe the
//! ratios before the absolute times. A goal that is missed is reported and is no error; the exit
//! status is 1 when something could not be measured that this host has the means for.
//!
//! ```text
//!   main ──► rows::* (one file each figure) ──► Table
//!              │
//!              ├─ host     a throw-away KXL_ROOT and the release binaries
//!              ├─ raw      QEMU with the arguments that kxl used, without kxl
//!              ├─ libvirt  a session daemon of our own, on private directories
//!              └─ writer   this program again, as one of a thousand writers
//! ```

mod args;
mod console;
mod disk;
mod error;
mod figure;
mod host;
mod interrupt;
mod libvirt;
mod machine;
mod raw;
mod rows;
mod run;
mod soak;
mod table;
mod typist;
mod writer;

use std::process::ExitCode;

use crate::args::{Args, Task};
use crate::error::BenchError;
use crate::host::Lab;
use crate::table::Table;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args::parse(&words) {
        Ok(Task::Help) => {
            say(&args::help());
            return ExitCode::SUCCESS;
        }
        Ok(Task::Write(turn)) => writer::write(&turn),
        Ok(Task::Measure(args)) => measure(&args),
        Ok(Task::Soak(what)) => soak::run(&what).map(|summary| say(&summary)),
        Err(problem) => {
            tell(&format!("kxl-bench: {problem}\n{}", args::help()));
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("kxl-bench: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Measures what was asked for and prints the table, with whatever was measured before an error.
fn measure(args: &Args) -> Result<(), BenchError> {
    interrupt::listen()?;
    let load = machine::load();
    let lab = Lab::new(args.rounds)?;
    let mut table = Table::default();
    let mut failed = Vec::new();
    for row in rows::ALL.iter().filter(|row| args.wants(row.name)) {
        tell(&format!("==> {}: {}", row.name, row.about));
        match (row.measure)(&lab, &mut table) {
            Ok(()) => {}
            Err(error @ BenchError::Interrupted) => return Err(error),
            Err(error) => {
                tell(&format!("kxl-bench: {}: {error}", row.name));
                failed.push(row.name);
            }
        }
    }
    say(&table.render());
    say(&machine::line(&load));
    if failed.is_empty() { Ok(()) } else { Err(BenchError::Rows(failed.join(", "))) }
}

/// Prints a result.
#[allow(clippy::print_stdout, reason = "the table is this program's output")]
fn say(text: &str) {
    println!("{text}");
}

/// Prints progress and complaints.
#[allow(clippy::print_stderr, reason = "kept apart from the table")]
fn tell(text: &str) {
    eprintln!("{text}");
}
