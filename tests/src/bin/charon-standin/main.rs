//! A stand-in for a Charon emulator, which is a product that cannot be had here. What is told of
//! Charon in its manuals and kxl relies on, it does: it reads a configuration of that kind, goes
//! into the background with `-d`, listens for its console at the port of OPA0 and speaks telnet
//! there, writes its log into a file or, for a directory, into a file of each start with a symbolic
//! link to it, and obeys F6 where `stop_on` says so. Its machine is in `guest.rs`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program by itself")]

mod guest;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use guest::{Exit, Guest};

/// The argument of the second start, in the background.
const BACKGROUND: &str = "--in-the-background";

/// WILL ECHO, WILL SUPPRESS-GO-AHEAD, DO BINARY, WILL BINARY, DO TERMINAL-TYPE.
const NEGOTIATION: &[u8] = b"\xff\xfb\x01\xff\xfb\x03\xff\xfd\x00\xff\xfb\x00\xff\xfd\x18";

const F6: &[u8] = b"\x1b[17~";

/// What is read of a configuration; the last word counts.
#[derive(Debug, Default)]
struct Settings {
    model: String,
    name: String,
    log: Option<PathBuf>,
    port: Option<u16>,
    stop_on_f6: bool,
    /// A test's: made before the port is opened.
    at_gate: Option<PathBuf>,
    /// A test's: waited for then.
    gate: Option<PathBuf>,
}

impl Settings {
    fn read(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        let mut lines = lines.filter(|line| !line.is_empty()).peekable();
        if !lines.peek().is_some_and(|line| line.starts_with("set session hw_model")) {
            return Err("the first statement is not set session hw_model".to_owned());
        }
        let mut settings = Self::default();
        for line in lines {
            let line = line.replace(" = ", "=");
            let console = ["OPA0", "COM1"].iter().any(|name| line.contains(name));
            for (key, value) in words(&line) {
                match key.as_str() {
                    "hw_model" => settings.model = value,
                    "configuration_name" => settings.name = value,
                    "at_gate" => settings.at_gate = Some(value.into()),
                    "gate" => settings.gate = Some(value.into()),
                    "log" if !console => settings.log = Some(value.into()),
                    "port" if console => settings.port = value.parse().ok(),
                    "stop_on" if console => settings.stop_on_f6 = value == "F6",
                    _ => {}
                }
            }
        }
        if settings.name.is_empty() {
            settings.name.clone_from(&settings.model);
        }
        Ok(settings)
    }
}

/// The members of a line.
fn words(line: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('=') {
        let key = before.rsplit(char::is_whitespace).next().unwrap_or_default();
        let (value, tail) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(char::is_whitespace).unwrap_or((after, "")),
        };
        found.push((key.to_owned(), value.to_owned()));
        rest = tail;
    }
    found
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (way, file) = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [way @ ("-d" | BACKGROUND), file] => (Some(way == BACKGROUND), file.to_owned()),
        [file] => (None, file.to_owned()),
        _ => {
            eprintln!("usage: charon-standin [-d] CONFIGURATION");
            return ExitCode::from(2);
        }
    };
    let text = fs::read_to_string(&file).map_err(|error| error.to_string());
    let settings = match text.and_then(|text| Settings::read(&text)) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("charon-standin: {file}: {error}");
            return ExitCode::FAILURE;
        }
    };
    if way == Some(false) {
        return leave(&file);
    }
    match serve(&settings) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("charon-standin: {error}");
            ExitCode::from(2)
        }
    }
}

/// Starts itself once more, in a session of its own, and ends.
fn leave(file: &str) -> ExitCode {
    let itself = std::env::current_exe().unwrap_or_else(|_| "charon-standin".into());
    let mut command = Command::new(itself);
    command.args([BACKGROUND, file]).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.spawn() {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("charon-standin: cannot go into the background: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The log, made as the settings say.
fn log(settings: &Settings) -> io::Result<File> {
    let place = settings.log.clone().unwrap_or_else(|| ".".into());
    let mut how = OpenOptions::new();
    how.append(true).create(true);
    if !place.is_dir() {
        return how.open(place);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let name =
        format!("{}-2026-01-01-00-00-00-{:09}.log", settings.name, now.as_millis() % 1_000_000_000);
    let link = place.join(format!("{}.log", settings.name));
    let _absent = fs::remove_file(&link);
    symlink(&name, &link)?;
    how.open(place.join(name))
}

/// Serves until the machine is switched off; gives the exit status.
fn serve(settings: &Settings) -> io::Result<u8> {
    let mut log = log(settings)?;
    let mut say = |text: &str| writeln!(log, "20260101:000000:INFO :{text}");
    say("STAND-IN for an emulator, Version 4.12 (Build 20413)")?;
    say(&format!("The machine \"{}\" is a {}", settings.name, settings.model))?;
    let Some(port) = settings.port else {
        say("the console has no port")?;
        return Err(io::Error::other("the console has no port"));
    };
    if let (Some(at_gate), Some(gate)) = (&settings.at_gate, &settings.gate) {
        File::create(at_gate)?;
        while !gate.exists() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let listener = match TcpListener::bind(("127.0.0.1", port)) {
        Ok(listener) => listener,
        Err(error) => {
            say(&format!("cannot listen at port {port}: {error}"))?;
            return Err(error);
        }
    };
    say(&format!("Console at port {port}"))?;
    let mut guest = Guest::default();
    loop {
        let (line, _) = listener.accept()?;
        match console(line, &mut guest, settings.stop_on_f6) {
            Ok(Exit(status)) => return Ok(status),
            Err(error) => say(&format!("the console was disconnected: {error}"))?,
        }
    }
}

/// Serves one client until the machine is switched off.
fn console(mut line: TcpStream, guest: &mut Guest, stop_on_f6: bool) -> io::Result<Exit> {
    line.write_all(NEGOTIATION)?;
    line.write_all(guest.greeting().as_bytes())?;
    let (mut typed, mut keys) = (Vec::new(), Vec::new());
    let mut byte = [0];
    loop {
        line.read_exact(&mut byte)?;
        match byte[0] {
            255 => command(&mut line, &mut typed)?,
            b'\r' => {
                let words = String::from_utf8_lossy(&std::mem::take(&mut typed)).into_owned();
                match guest.line(&words) {
                    Ok(shown) => line.write_all(shown.as_bytes())?,
                    Err(exit) => return Ok(exit),
                }
            }
            0 | b'\n' => {}
            other => {
                keys.push(other);
                if keys.ends_with(F6) {
                    if stop_on_f6 {
                        return Ok(Exit(0));
                    }
                    keys.clear();
                }
                if keys.len() > 64 {
                    keys.drain(..32);
                }
                typed.push(other);
                if guest.echoes() {
                    line.write_all(&byte)?;
                }
            }
        }
    }
}

/// A command of telnet; only a doubled byte is anything to us.
fn command(line: &mut TcpStream, typed: &mut Vec<u8>) -> io::Result<()> {
    let mut byte = [0];
    line.read_exact(&mut byte)?;
    match byte[0] {
        255 => typed.push(255),
        251..=254 => line.read_exact(&mut byte)?,
        _ => {}
    }
    Ok(())
}
