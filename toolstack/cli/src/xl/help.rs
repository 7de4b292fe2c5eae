//! `xl help`.

use super::table::{Command, EXTENSIONS, UPSTREAM, lookup};
use crate::out;

/// The list of all commands. Programs drop the first four lines and take the first word of each
/// line that begins with one blank.
pub(crate) fn list() -> String {
    let mut text =
        "Usage xl [-vfNtT] <subcommand> [args]\n\nxl full list of subcommands:\n\n".to_owned();
    for command in UPSTREAM.iter().chain(EXTENSIONS) {
        text.push_str(&format!(" {:<19} ", command.name));
        if command.name.len() > 19 {
            text.push_str(&format!("\n {:<19} ", ""));
        }
        text.push_str(command.description);
        text.push('\n');
    }
    text
}

/// The help of one command.
pub(crate) fn of(command: &Command) -> String {
    let mut text = format!(
        "Usage: xl [-v{}{}] {} {}\n\n{}.\n\n",
        if command.modifies { "f" } else { "" },
        if command.can_dry_run { "N" } else { "" },
        command.name,
        command.synopsis,
        command.description,
    );
    if !command.options.is_empty() {
        text.push_str(&format!("Options:\n\n{}\n", command.options));
    }
    text
}

/// `xl help [COMMAND]`; an unknown command is no failure.
pub(crate) fn help(args: &[String]) -> u8 {
    let text = match args.first().map(String::as_str) {
        None | Some("help") => list(),
        Some(word) => {
            lookup(word).map_or_else(|| format!("command \"{word}\" not implemented\n"), of)
        }
    };
    show(&text)
}

/// Prints help; nothing else can go wrong with it than the printing.
pub(crate) fn show(text: &str) -> u8 {
    u8::from(out::print(text).is_err())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What bash-completion does with `xl help`.
    #[test]
    fn completion_finds_every_command_in_the_help() {
        let text = list();
        let words: Vec<&str> = text
            .lines()
            .skip(4)
            .filter(|line| line.starts_with(' ') && !line.starts_with("  "))
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        assert_eq!(words.len(), 100);
        assert_eq!(words[0], "create");
        assert!(words.contains(&"pci-assignable-remove"));
    }

    #[test]
    fn the_help_of_a_command_shows_usage_and_options() {
        let text = of(lookup("create").unwrap());
        assert!(text.starts_with("Usage: xl [-vfN] create <ConfigFile> [options] [vars]\n\n"));
        assert!(text.contains("\n\nOptions:\n\n-h "));
        assert!(of(lookup("domid").unwrap()).starts_with("Usage: xl [-v] domid <DomainName>\n\n"));
    }
}
