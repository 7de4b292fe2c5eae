//! `kxl shell`: an interactive prompt as supervisorctl has one. Without a terminal it carries lines
//! out, and with an action on its command line that one.

mod actions;
mod complete;
mod history;
mod runner;
mod words;

use std::io::{self, BufRead, IsTerminal, Read};
use std::path::Path;

use kxl_domain::{Failure, Kind};
use kxl_engine::{Conf, Host};
use kxl_store::Paths;
use nix::sys::signal::Signal;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor};
use serde_json::Value;

use self::actions::Act;
use self::complete::Aid;
use self::runner::Runner;
use super::Exit;
use crate::args::ShellArgs;
use crate::gate::{client, password};
use crate::{out, report, signals};

const PROMPT: &str = "kxl> ";

/// Longest line that is read.
const LONGEST: u64 = 64 * 1024;

/// What is run when the prompt is reached.
const GREETING: &str = "status";

/// Runs the shell.
pub(crate) fn shell(args: &ShellArgs) -> Exit {
    let mut env = Vec::new();
    if let Some(conf) = &args.conf {
        let file = settings(conf)?;
        if let Some(password) = given(args)? {
            compare(&password, &file)?;
        }
        env.push(("KXL_CONF", file.into_os_string()));
    }
    let gate = args.conf.is_none() && through_the_gate(args);
    if gate {
        if !client::is_asked_for() {
            env.push((client::VARIABLE, "1".into()));
        }
        if let Some(password) = password_for(args)? {
            env.push((password::VARIABLE, password.into()));
        }
    }
    let interactive = args.words.is_empty() && io::stdin().is_terminal();
    // An action on the command line may read what the shell was given to read.
    let runner = Runner::new(env, interactive || !args.words.is_empty())?;
    let shell = Shell { runner, gate };
    if !args.words.is_empty() {
        return Ok(shell.carry_out(&args.words).unwrap_or(0));
    }
    if interactive { shell.converse() } else { shell.read_lines() }
}

/// Whether commands go through the host's gate: where that is asked for, and for a user who has
/// no domains here and finds the gate open.
fn through_the_gate(args: &ShellArgs) -> bool {
    let password = args.password.is_some() || args.password_file.is_some();
    if args.through || password || client::is_asked_for() {
        return true;
    }
    let own_places = std::env::var_os("KXL_ROOT").is_some() || args.conf.is_some();
    let own_domains = || Paths::from_env().is_ok_and(|paths| paths.registry_db().exists());
    if nix::unistd::geteuid().is_root() || own_places || own_domains() || !client::is_there() {
        return false;
    }
    report::note("these are the host's domains, through its gate");
    true
}

/// The password that the gate wants, asked for where it was not given.
///
/// # Errors
/// When the gate refuses, the password that was given among the reasons.
fn password_for(args: &ShellArgs) -> Result<Option<String>, Failure> {
    let given = given(args)?.or_else(|| std::env::var(password::VARIABLE).ok());
    if !client::knock(given.clone())? {
        return Ok(given);
    }
    let asked = password::ask("Password: ")?;
    client::knock(Some(asked.clone()))?;
    Ok(Some(asked))
}

/// The password of the command line.
///
/// # Errors
/// When its file cannot be read.
fn given(args: &ShellArgs) -> Result<Option<String>, Failure> {
    match (&args.password, &args.password_file) {
        (Some(password), _) => Ok(Some(password.clone())),
        (None, Some(file)) => password::from_file(file).map(Some),
        (None, None) => Ok(None),
    }
}

/// Compares a password with that of a file of settings. Where the commands are carried out here, by
/// one's own rights, it protects nothing; a script that has a wrong one has the wrong file.
///
/// # Errors
/// [`Kind::Denied`] where it is another one, and when the file cannot be read.
fn compare(password: &str, file: &Path) -> Result<(), Failure> {
    let conf = Conf::read_file(file)?;
    let shown = file.display();
    match &conf.control_password_hash {
        Some(hash) if password::is_right(password, hash) => Ok(()),
        Some(_) => {
            let text = format!("the password is not the one of {shown}");
            Err(Failure::new(Kind::Denied, text))
        }
        None => {
            report::note(&format!("{shown} wants no password (control_password_hash)"));
            Ok(())
        }
    }
}

/// The file of settings that `-c` names, looked at once so that a slip is noticed here.
fn settings(file: &Path) -> Result<std::path::PathBuf, Failure> {
    let attempt = format!("cannot read {}", file.display());
    let found = file.canonicalize().and_then(|path| std::fs::File::open(&path).map(|_| path));
    found.map_err(|error| Failure::because(Kind::Failed, attempt, &error))
}

struct Shell {
    runner: Runner,
    /// Commands are carried out by the host's gate.
    gate: bool,
}

impl Shell {
    /// A person at a terminal.
    fn converse(&self) -> Exit {
        // The keys that send these are for the command at work.
        for signal in [Signal::SIGINT, Signal::SIGQUIT] {
            signals::shrug_off(signal)
                .map_err(|e| Failure::because(Kind::Internal, "cannot set up signals", &e))?;
        }
        let names = || self.names();
        let broken =
            |e: &ReadlineError| Failure::because(Kind::Failed, "cannot read the terminal", e);
        let config = Config::builder()
            .max_history_size(history::KEPT)
            .map_err(|e| broken(&e))?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .build();
        let mut editor: Editor<Aid<'_>, FileHistory> =
            Editor::with_config(config).map_err(|e| broken(&e))?;
        editor.set_helper(Some(Aid::new(&names, !self.gate)));
        let history = history::open(&mut editor);
        self.carry_out(&[GREETING.to_owned()]);
        loop {
            let line = match editor.readline(PROMPT) {
                Ok(line) => line,
                // What was typed is given up, not the shell.
                Err(ReadlineError::Interrupted) => continue,
                Err(ReadlineError::Eof) => {
                    out::complain("\n");
                    return Ok(0);
                }
                Err(error) => return Err(broken(&error)),
            };
            if !line.trim().is_empty() && editor.add_history_entry(&line).unwrap_or(false) {
                history::keep(&mut editor, history.as_deref());
            }
            if self.line(&line).is_none() {
                return Ok(0);
            }
        }
    }

    /// Lines from a file or a pipe.
    fn read_lines(&self) -> Exit {
        let mut input = io::stdin().lock();
        let mut status = 0;
        loop {
            let mut line = Vec::new();
            let read = (&mut input).take(LONGEST).read_until(b'\n', &mut line);
            let read =
                read.map_err(|e| Failure::because(Kind::Failed, "cannot read a line", &e))?;
            if read == 0 {
                return Ok(status);
            }
            if read as u64 == LONGEST && line.last() != Some(&b'\n') {
                let text = format!("a line is longer than {LONGEST} bytes");
                return Err(Failure::new(Kind::Usage, text));
            }
            let code = match std::str::from_utf8(&line) {
                Ok(line) => match self.line(line) {
                    Some(code) => code,
                    None => return Ok(status),
                },
                Err(_) => refuse("a line is not UTF-8"),
            };
            if code != 0 {
                status = code;
            }
        }
    }

    /// Carries one line out; its status, or `None` when it ends the shell.
    fn line(&self, line: &str) -> Option<u8> {
        match words::words(line) {
            Ok(words) if words.is_empty() => Some(0),
            Ok(words) => self.carry_out(&words),
            Err(wrong) => Some(refuse(&wrong)),
        }
    }

    /// Carries words out; their status, or `None` when they end the shell.
    fn carry_out(&self, words: &[String]) -> Option<u8> {
        let done = match actions::act(words)? {
            Act::Leave => return None,
            Act::Refused(why) => return Some(refuse(&why)),
            Act::Help(topic) => self.help(&topic),
            Act::Pid(names) => self.pids(&names),
            Act::Run(lines) => lines
                .iter()
                .try_fold(0, |worst: u8, line| self.runner.run(line).map(|code| worst.max(code))),
        };
        Some(done.unwrap_or_else(|failure| {
            report::failure(&failure);
            failure.kind.exit_code()
        }))
    }

    fn help(&self, topic: &[String]) -> Exit {
        let Some(name) = topic.first() else {
            out::print(&overview())?;
            return Ok(0);
        };
        if let Some(own) = actions::own(name) {
            out::print(&format!("{}\n", own.help))?;
            return Ok(0);
        }
        let words: Vec<String> = topic.iter().cloned().chain(["--help".to_owned()]).collect();
        self.runner.run(&words)
    }

    /// The names of the domains there are; none when they cannot be told.
    fn names(&self) -> Vec<String> {
        if self.gate {
            let domains = self.listed(&[], true).ok().flatten().unwrap_or_default();
            return domains.iter().map(|one| name_of(one).to_owned()).collect();
        }
        let read = || Host::open().ok()?.store.list().ok();
        let rows = read().unwrap_or_default();
        rows.into_iter().map(|row| row.name.to_string()).collect()
    }

    /// Domains as kxl list shows them; `None` when it fails.
    fn listed(&self, names: &[String], quiet: bool) -> Result<Option<Vec<Value>>, Failure> {
        let line = ["list", "--json"].into_iter().map(str::to_owned).chain(names.iter().cloned());
        let text = self.runner.capture(&line.collect::<Vec<_>>(), quiet)?;
        let read = |text: String| {
            serde_json::from_str(&text)
                .map_err(|e| Failure::because(Kind::Internal, "the list makes no sense", &e))
        };
        text.map(read).transpose()
    }

    fn pids(&self, names: &[String]) -> Exit {
        let Some(domains) = self.listed(names, false)? else {
            return Ok(Kind::Failed.exit_code());
        };
        let pid = |domain: &Value| domain["pid"].as_i64().unwrap_or(0);
        let told: String = match (names.len(), domains.as_slice()) {
            (1, [one]) => format!("{}\n", pid(one)),
            _ => domains.iter().map(|one| format!("{}: {}\n", name_of(one), pid(one))).collect(),
        };
        out::print(&told)?;
        Ok(0)
    }
}

fn name_of(domain: &Value) -> &str {
    domain["name"].as_str().unwrap_or_default()
}

fn refuse(why: &str) -> u8 {
    report::failure(&Failure::new(Kind::Usage, why));
    Kind::Usage.exit_code()
}

/// Every action, a line each.
fn overview() -> String {
    let grammar = actions::grammar();
    let verbs = actions::verbs(&grammar).map(|verb| {
        let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
        (verb.get_name().to_owned(), about)
    });
    let mut all: Vec<(String, String)> = verbs.filter(|(name, _)| name != "shutdown").collect();
    all.extend(actions::OWN.iter().map(|own| (own.name.to_owned(), own.about.to_owned())));
    all.sort();
    let mut text = String::from("Actions (help ACTION tells more about one):\n");
    for (name, about) in all {
        text.push_str(&format!("  {name:<12} {about}\n"));
    }
    text
}
