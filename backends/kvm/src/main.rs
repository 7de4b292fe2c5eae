//! kxl-vmm: see kxl-vmm(8).

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use kxl_vmm::api::{Api, Notices, signals};
use kxl_vmm::config::args::{self, Command, Parsed};
use kxl_vmm::config::describe;
use kxl_vmm::machine::{Machine, Resources};
use kxl_vmm::{log, sandbox};

/// The command line is wrong.
const USAGE: u8 = 2;
/// The machine could not be made, or could not go on.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    let words = std::env::args_os().skip(1);
    match args::parse(words, |path| std::fs::read_to_string(path)) {
        Ok(Command::Run(parsed)) => match run(*parsed) {
            Ok(status) => ExitCode::from(status),
            Err(error) => {
                log::line(&log::chain(error.as_ref()));
                ExitCode::from(FAILED)
            }
        },
        Ok(Command::Describe(parsed)) => print(&describe::json(&parsed)),
        Ok(Command::Help) => print(&args::help()),
        Ok(Command::Version) => print(&args::version()),
        Err(error) => {
            log::line(&log::chain(&error));
            ExitCode::from(USAGE)
        }
    }
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILED),
    }
}

/// Runs a machine to its end; the status to exit with.
fn run(parsed: Parsed) -> Result<u8, Box<dyn Error>> {
    let Parsed { config, notes } = parsed;
    for note in notes {
        log::line(&note);
    }
    let notices = Notices::new()?;
    // Before there is a socket that would be left behind.
    signals::heed(&notices)?;
    let mut resources = Resources::open(&config)?;
    sandbox::confine_process(&config)?;
    let api = Api::open(std::mem::take(&mut resources.listeners));
    // Take their files with them at the end.
    let sockets = std::mem::take(&mut resources.sockets);
    let mut machine = Machine::create(config, resources, &notices)?;
    machine.begin()?;
    let status = api.serve(&mut machine)?;
    drop(sockets);
    machine.leave();
    Ok(status)
}
