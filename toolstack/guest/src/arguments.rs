//! The command line. Options stand before the command; behind it everything is text.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::line::Message;
use crate::trouble::Trouble;

/// What stderr of a script goes to.
const STDERR: &str = "/var/log/kxl-event.stderr";
const PATIENCE: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(86_400);

/// The word by which `run` calls the program for what it leaves behind.
pub(crate) const DRAIN: &str = "--drain";

/// What to do.
#[derive(Debug)]
pub(crate) enum Parsed {
    Help,
    Version,
    /// Not for people: what a script's children go on saying.
    Drain {
        path: PathBuf,
        kept: u64,
    },
    Order(Order, Options),
}

#[derive(Debug)]
pub(crate) enum Order {
    Tell(Message),
    /// A script and its arguments.
    Run(Vec<OsString>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) port: Option<PathBuf>,
    pub(crate) console: Option<PathBuf>,
    pub(crate) patience: Duration,
    pub(crate) stderr: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self { port: None, console: None, patience: PATIENCE, stderr: STDERR.into() }
    }
}

pub(crate) fn parse(mut words: VecDeque<OsString>) -> Result<Parsed, Trouble> {
    let mut options = Options::default();
    while let Some(word) = words.pop_front() {
        let option = word.to_string_lossy();
        if !option.starts_with("--") {
            words.push_front(word);
            break;
        }
        let (name, own) = match option.split_once('=') {
            Some((name, value)) => (name, Some(OsString::from(value))),
            None => (&*option, None),
        };
        match name {
            "--" => break,
            "--help" => return Ok(Parsed::Help),
            "--version" => return Ok(Parsed::Version),
            DRAIN => return drain(words),
            "--port" | "--console" | "--timeout" | "--stderr" => {}
            _ => return Err(Trouble::Usage(format!("no option {name}"))),
        }
        let missing = || Trouble::Usage(format!("{name} needs a value"));
        let value = own.or_else(|| words.pop_front()).filter(|value| !value.is_empty());
        let value = value.ok_or_else(missing)?;
        match name {
            "--port" => options.port = Some(value.into()),
            "--console" => options.console = Some(value.into()),
            "--stderr" => options.stderr = value.into(),
            _ => options.patience = seconds(&value)?,
        }
    }
    if options.port.is_some() && options.console.is_some() {
        return Err(Trouble::Usage("--port and --console exclude each other".to_owned()));
    }
    Ok(Parsed::Order(order(words)?, options))
}

fn drain(mut words: VecDeque<OsString>) -> Result<Parsed, Trouble> {
    let kept = words.pop_front().and_then(|word| word.to_str()?.parse().ok());
    match (kept, words.pop_front()) {
        (Some(kept), Some(path)) => Ok(Parsed::Drain { path: path.into(), kept }),
        _ => Err(Trouble::Usage(format!("{DRAIN} is not for people"))),
    }
}

fn seconds(value: &OsString) -> Result<Duration, Trouble> {
    let number = value.to_str().and_then(|text| text.parse().ok());
    let duration = number.and_then(|number| Duration::try_from_secs_f64(number).ok());
    let good = duration.filter(|duration| *duration <= LONGEST);
    good.ok_or_else(|| Trouble::Usage("--timeout takes seconds, at most a day".to_owned()))
}

fn order(mut words: VecDeque<OsString>) -> Result<Order, Trouble> {
    let command = words.pop_front().ok_or_else(|| Trouble::Usage("no command".to_owned()))?;
    let command = command.to_string_lossy().into_owned();
    if command == "run" {
        if words.is_empty() {
            return Err(Trouble::Usage("run needs a script".to_owned()));
        }
        return Ok(Order::Run(words.into()));
    }
    // What is no UTF-8 cannot be told: it is replaced here instead of by the host.
    let mut words: VecDeque<String> =
        words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    if let Some(id) = command.strip_prefix("id=") {
        return Ok(Order::Tell(word_by_word(id, &words)?));
    }
    let percent = if command == "progress" { words.pop_front() } else { None };
    let text = words.make_contiguous().join(" ");
    let message = Message::new(&command);
    let message = match command.as_str() {
        "started" if text.is_empty() => message,
        "started" => return Err(Trouble::Usage("started takes nothing more".to_owned())),
        "failed" => message.text(&text),
        "progress" => message.with("percent", &self::percent(percent)?).text(&text),
        "log" | "alert" if text.trim().is_empty() => {
            return Err(Trouble::Usage(format!("{command} needs a text")));
        }
        "log" | "alert" => message.text(&text),
        _ => return Err(Trouble::Usage(format!("no command {command:?}"))),
    };
    // So that a wrong one is told before anything is opened.
    message.line().map(|_| Order::Tell(message))
}

fn word_by_word(id: &str, words: &VecDeque<String>) -> Result<Message, Trouble> {
    let mut message = Message::new(id);
    for word in words {
        let (key, value) = word.split_once('=').ok_or_else(|| {
            Trouble::Usage(format!("expected KEY=VALUE, and quotes around blanks: {word:?}"))
        })?;
        message = message.with(key, value);
    }
    message.line().map(|_| message)
}

fn percent(text: Option<String>) -> Result<String, Trouble> {
    let text = text.unwrap_or_default();
    let number = text.strip_suffix('%').unwrap_or(&text).parse::<u8>();
    match number {
        Ok(number @ 0..=100) => Ok(number.to_string()),
        _ => Err(Trouble::Usage("progress needs a number from 0 to 100".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Parsed, Trouble> {
        parse(words.iter().map(OsString::from).collect())
    }

    fn line(words: &[&str]) -> String {
        match parsed(words) {
            Ok(Parsed::Order(Order::Tell(message), _)) => {
                message.line().map_err(|trouble| trouble.to_string()).unwrap()
            }
            other => panic!("{words:?}: {other:?}"),
        }
    }

    #[test]
    fn every_command_is_a_line() {
        assert_eq!(line(&["started"]), "id=started");
        assert_eq!(line(&["failed"]), "id=failed");
        assert_eq!(line(&["failed", "no", "disk"]), "id=failed text=\"no disk\"");
        assert_eq!(line(&["progress", "42%"]), "id=progress percent=42");
        assert_eq!(line(&["progress", "7", "fsck"]), "id=progress percent=7 text=fsck");
        assert_eq!(line(&["log", "--not an option"]), "id=log text=\"--not an option\"");
        assert_eq!(line(&["id=log", "log_text=T"]), "id=log log_text=T");
        assert_eq!(line(&["--timeout", "3", "--", "alert", "x"]), "id=alert text=x");
        assert_eq!(line(&["id=log", "text=a=b c"]), "id=log text=\"a=b c\"");
    }

    #[test]
    fn a_wrong_command_line_is_told() {
        let wrong: [&[&str]; 17] = [
            &[],
            &["start"],
            &["started", "now"],
            &["log"],
            &["log", ""],
            &["alert", " "],
            &["progress"],
            &["progress", "101"],
            &["progress", "-1"],
            &["progress", "x"],
            &["run"],
            &["id=log", "text"],
            &["id=", "text=x"],
            &["--port"],
            &["--port", "a", "--console", "b", "started"],
            &["--timeout", "-1", "started"],
            &["--colour", "started"],
        ];
        for words in wrong {
            assert!(matches!(parsed(words), Err(Trouble::Usage(_))), "{words:?}");
        }
    }

    #[test]
    fn options_stand_before_the_command_and_a_script_keeps_its_own() {
        let words = ["--port=/p", "--timeout", "0.5", "--stderr=/e", "run", "/s", "--port", "x"];
        let Ok(Parsed::Order(Order::Run(command), options)) = parsed(&words) else {
            panic!("it is a script");
        };
        assert_eq!(command, ["/s", "--port", "x"]);
        assert_eq!(
            options,
            Options {
                port: Some("/p".into()),
                console: None,
                patience: Duration::from_millis(500),
                stderr: "/e".into(),
            }
        );
    }
}
