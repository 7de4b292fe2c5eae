//! `kxl completion`.

use clap::CommandFactory;
use clap_complete::shells::{Bash, Elvish, Fish, Zsh};

use super::Exit;
use crate::args::{Cli, Shell};
use crate::out;

/// Prints a completion script.
pub(crate) fn completion(shell: Shell) -> Exit {
    let mut command = Cli::command();
    let mut script = Vec::new();
    match shell {
        Shell::Bash => clap_complete::generate(Bash, &mut command, "kxl", &mut script),
        Shell::Zsh => clap_complete::generate(Zsh, &mut command, "kxl", &mut script),
        Shell::Fish => clap_complete::generate(Fish, &mut command, "kxl", &mut script),
        Shell::Elvish => clap_complete::generate(Elvish, &mut command, "kxl", &mut script),
    }
    out::print_bytes(&script)?;
    Ok(0)
}
