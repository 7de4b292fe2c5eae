//! The menu: the same commands, for those who would rather choose than type.

use std::io::{self, BufRead, Write};

use kxl_domain::{Failure, Kind};
use kxl_engine::Host;

use super::roster::{self, Entry};
use super::{rests, screen};
use crate::commands::{self, Exit};
use crate::{facts, out, report};

/// What can be chosen, with the words of the command line that it stands for.
enum Choice {
    /// A command about one domain; its name is put behind the words.
    One(&'static [&'static str]),
    /// A command about none.
    Plain(&'static [&'static str]),
    Add,
    Remove,
    OnBoot,
}

const CHOICES: &[(&str, &str, Choice)] = &[
    ("1", "Start", Choice::One(&["vm", "start"])),
    ("2", "Stop", Choice::One(&["vm", "stop"])),
    ("3", "Console", Choice::One(&["vm", "console"])),
    ("4", "All about one", Choice::One(&["vm", "list"])),
    ("5", "Configuration", Choice::One(&["vm", "cfg"])),
    ("6", "Start on boot", Choice::OnBoot),
    ("7", "Add", Choice::Add),
    ("8", "Remove", Choice::Remove),
    ("9", "Create stop script", Choice::Plain(&["stop-script", "create"])),
    ("10", "Edit stop script", Choice::Plain(&["stop-script", "edit"])),
    ("11", "Check stop script", Choice::Plain(&["stop-script", "check"])),
];

/// Shows the menu until somebody leaves it.
pub(super) fn menu() -> Exit {
    let mut status = 0;
    loop {
        let entries = show()?;
        let Some(word) = ask("Choice: ")? else { break };
        let word = word.to_ascii_lowercase();
        if matches!(word.as_str(), "q" | "quit" | "exit" | "0") {
            break;
        }
        if word.is_empty() {
            continue;
        }
        let Some((_, _, choice)) = CHOICES.iter().find(|(key, ..)| *key == word) else {
            report::note(&format!("\"{word}\" is none of the choices"));
            continue;
        };
        match carry_out(choice, &entries) {
            Ok(code) => status = code,
            Err(failure) => {
                report::failure(&failure);
                status = failure.kind.exit_code();
            }
        }
    }
    Ok(status)
}

/// Prints the screen with a number for each domain.
fn show() -> Result<Vec<Entry>, Failure> {
    let mut host = Host::open()?;
    let all = commands::all_rows(&mut host)?;
    let entries = roster::gather(&mut host, all, |_| true);
    let mut text = String::from("\n");
    text.push_str(&screen::server(&facts::gather()));
    text.push('\n');
    text.push_str(&screen::table(&entries, screen::now_ms()));
    text.push('\n');
    for (key, what, _) in CHOICES {
        text.push_str(&format!("  {key:>2}  {what}\n"));
    }
    text.push_str("   q  Leave\n");
    out::print(&text)?;
    Ok(entries)
}

fn carry_out(choice: &Choice, entries: &[Entry]) -> Exit {
    match choice {
        Choice::Plain(words) => run(words, &[]),
        Choice::One(words) => match which(entries)? {
            Some(name) => run(words, &["--", &name]),
            None => Ok(0),
        },
        Choice::OnBoot => {
            let Some(name) = which(entries)? else { return Ok(0) };
            let on = entries.iter().any(|e| e.seen.row.name.as_str() == name && e.autostart);
            let done = run(&["autostart"], &["--", &name, if on { "off" } else { "on" }])?;
            if done == 0 {
                let now = if on { "NO" } else { "YES" };
                out::print(&format!("{name}: start on boot is {now}\n"))?;
            }
            Ok(done)
        }
        Choice::Add => add(),
        Choice::Remove => remove(entries),
    }
}

fn add() -> Exit {
    let Some(file) = filled("Configuration file: ")? else { return Ok(0) };
    let Some(emulator) = filled("Emulator (full path): ")? else { return Ok(0) };
    let description = ask("Description (may be empty): ")?.unwrap_or_default();
    let on_boot = yes("Start on boot? [y/N] ")?;
    let words = registration(&file, &emulator, &description, on_boot);
    run(&["new"], &words.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The words that register a domain. What was typed is taken as it is, also with a dash in front or
/// an equals sign in it.
fn registration(file: &str, emulator: &str, description: &str, on_boot: bool) -> Vec<String> {
    let mut words = vec![format!("--defconfig={file}"), format!("--emulator={emulator}")];
    if !description.is_empty() {
        words.push(format!("--description={description}"));
    }
    if on_boot {
        words.push("--autostart".to_owned());
    }
    words
}

fn remove(entries: &[Entry]) -> Exit {
    let Some(name) = which(entries)? else { return Ok(0) };
    let entry = entries.iter().find(|entry| entry.seen.row.name.as_str() == name);
    if entry.is_some_and(|entry| !rests(&entry.seen.row)) {
        let text = format!("domain \"{name}\" cannot be removed: it is not off");
        return Err(Failure::new(Kind::Denied, text).hint("stop it before"));
    }
    if !yes(&format!("Remove {name} from the register? Its files stay. [y/N] "))? {
        return Ok(0);
    }
    run(&["delete"], &["--", &name])
}

/// Carries a command line out, as if it had been typed.
fn run(words: &[&str], more: &[&str]) -> Exit {
    let line: Vec<&str> = words.iter().chain(more).copied().collect();
    commands::typed(&line)
}

/// Asks for a domain.
fn which(entries: &[Entry]) -> Result<Option<String>, Failure> {
    let own = entries.iter().find(|entry| entry.is_default);
    let own = own.map(|entry| entry.seen.row.name.to_string());
    let hint = own.as_ref().map_or(String::new(), |name| format!(" [{name}]"));
    let Some(word) = ask(&format!("Name{hint}: "))? else { return Ok(None) };
    Ok(if word.is_empty() { own } else { Some(word) })
}

fn filled(prompt: &str) -> Result<Option<String>, Failure> {
    Ok(ask(prompt)?.filter(|text| !text.is_empty()))
}

fn yes(prompt: &str) -> Result<bool, Failure> {
    let word = ask(prompt)?.unwrap_or_default().to_ascii_lowercase();
    Ok(matches!(word.as_str(), "y" | "yes"))
}

/// One line of the user's; `None` at the end of the input.
fn ask(prompt: &str) -> Result<Option<String>, Failure> {
    let failed =
        |error: io::Error| Failure::because(Kind::Failed, "cannot talk to the terminal", &error);
    let mut stdout = io::stdout().lock();
    stdout.write_all(prompt.as_bytes()).and_then(|()| stdout.flush()).map_err(failed)?;
    drop(stdout);
    let mut line = String::new();
    if io::stdin().lock().read_line(&mut line).map_err(failed)? == 0 {
        out::print("\n")?;
        return Ok(None);
    }
    Ok(Some(line.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn what_is_typed_is_no_option_of_the_command_that_is_made_of_it() {
        let words = registration("-a=b.cfg", "-emu", "-with a dash", true);
        let line = ["kxl", "new"].into_iter().map(str::to_owned).chain(words);
        let Command::New(new) = Cli::try_parse_from(line).unwrap().command else { panic!() };
        assert_eq!(new.source.defconfig, Some("-a=b.cfg".into()));
        assert_eq!(new.source.words, [""; 0]);
        assert_eq!(new.emulator, Some("-emu".into()));
        assert_eq!((new.description.as_deref(), new.autostart), (Some("-with a dash"), true));
        for (_, _, choice) in CHOICES {
            if let Choice::One(words) = choice {
                let line = ["kxl"].iter().chain(*words).chain(&["--", "-name"]);
                Cli::try_parse_from(line).unwrap();
            }
        }
    }
}
