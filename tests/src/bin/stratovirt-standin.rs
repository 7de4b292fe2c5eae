//! A stand-in for StratoVirt, which no Debian has and whose guests need a KVM of the hardware's. What
//! kxl relies on it does as version 2.5.0 was seen to do: it takes the arguments of a microVM and no
//! others, listens for QMP and for its console at unix sockets, has only texts for ids, answers
//! before it tells of an event, writes a state of two files into a directory, and lets a guest that
//! comes back run at once. Its guest counts in eight hexadecimal digits, echoes, and switches the
//! machine off at an `O`; with the word `nosave` for it, it cannot be saved.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program by itself")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

/// The options that it takes, each with a value.
const OPTIONS: &[&str] = &[
    "-name",
    "-machine",
    "-smp",
    "-m",
    "-kernel",
    "-initrd",
    "-append",
    "-serial",
    "-qmp",
    "-incoming",
];

/// Between two numbers of the guest.
const TICK: Duration = Duration::from_millis(50);

/// The least memory, in MiB.
const LEAST: u64 = 128;

/// The machine.
#[derive(Debug, Default)]
struct Machine {
    running: bool,
    count: u32,
    /// Who looks at the console.
    viewer: Option<UnixStream>,
    memory_mib: u64,
    /// It fails to write its state, by the word `nosave` for its guest.
    cannot_save: bool,
    migration: &'static str,
}

/// The machine, and what is told when it goes on.
type Shared = Arc<(Mutex<Machine>, Condvar)>;

fn hold(machine: &Shared) -> MutexGuard<'_, Machine> {
    machine.0.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same when it runs: one that stands still costs nothing.
fn hold_running(machine: &Shared) -> MutexGuard<'_, Machine> {
    let held = machine.1.wait_while(hold(machine), |machine| !machine.running);
    held.unwrap_or_else(PoisonError::into_inner)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args == ["-version"] {
        println!("StratoVirt 2.5.0 commit-id standin\n");
        return ExitCode::SUCCESS;
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn options(args: &[String]) -> Result<BTreeMap<&str, &str>, String> {
    let pairs = args.chunks(2).map(|pair| match pair {
        [name, value] if OPTIONS.contains(&name.as_str()) => Ok((name.as_str(), value.as_str())),
        other => Err(format!("Add args {other:?} error.")),
    });
    pairs.collect()
}

/// The path of a socket that it is to make.
fn socket<'a>(value: &'a str, kind: &str) -> Result<&'a str, String> {
    let path = value.strip_prefix(kind).and_then(|rest| rest.strip_suffix(",server,nowait"));
    path.ok_or_else(|| format!("{value}: expected {kind}PATH,server,nowait"))
}

/// Runs until the machine is switched off.
fn run(args: &[String]) -> Result<(), String> {
    let options = options(args)?;
    let option = |name: &str| options.get(name).copied().ok_or(format!("{name} is missing"));
    if option("-machine")? != "microvm" {
        return Err("only a microvm can be saved".to_owned());
    }
    fs::metadata(option("-kernel")?).map_err(|error| format!("Failed to open kernel: {error}"))?;
    if let Some(initrd) = options.get("-initrd") {
        fs::metadata(initrd).map_err(|error| format!("Failed to open initrd: {error}"))?;
    }
    let memory_mib: u64 = option("-m")?.parse().map_err(|_| "-m: no number".to_owned())?;
    if memory_mib < LEAST {
        return Err(format!("current memory size should be at least {LEAST} MiB"));
    }
    let console = bind(socket(option("-serial")?, "socket,path=")?)?;
    let control = bind(socket(option("-qmp")?, "unix:")?)?;
    let mut machine =
        Machine { running: true, memory_mib, migration: "none", ..Machine::default() };
    machine.cannot_save = options.get("-append").is_some_and(|words| words.contains("nosave"));
    let incoming = options.get("-incoming").map(|uri| come_back(&mut machine, uri));
    let comes_back = incoming.transpose()?.is_some();
    let machine = Arc::new((Mutex::new(machine), Condvar::new()));
    let (viewed, guest) = (Arc::clone(&machine), Arc::clone(&machine));
    let (off, switched_off) = mpsc::channel();
    let button = off.clone();
    std::thread::spawn(move || look(&viewed, &console, comes_back, &button));
    std::thread::spawn(move || count(&guest));
    std::thread::spawn(move || {
        loop {
            let served = control.accept().and_then(|(client, _)| serve(&machine, client, &off));
            if let Err(error) = served {
                eprintln!("qmp: {error}");
            }
        }
    });
    switched_off.recv().map_err(|error| error.to_string())
}

fn bind(path: &str) -> Result<UnixListener, String> {
    UnixListener::bind(path).map_err(|error| format!("{path}: {error}"))
}

/// Reads the state that it is to begin with.
fn come_back(machine: &mut Machine, uri: &str) -> Result<(), String> {
    let dir = uri.strip_prefix("file:").ok_or("Unknown migration mode")?;
    let read = |name: &str| {
        let path = Path::new(dir).join(name);
        fs::read(&path).map_err(|error| format!("Failed to open {name} snapshot file: {error}"))
    };
    let state = read("state")?;
    let state = <[u8; 4]>::try_from(state.as_slice());
    machine.count = u32::from_le_bytes(state.map_err(|_| "Invalid device state snapshot file")?);
    if read("memory")?.len() as u64 != machine.memory_mib << 20 {
        return Err("Invalid memory snapshot file".to_owned());
    }
    Ok(())
}

/// Writes the state as it is.
fn write_down(machine: &Machine, uri: &str) -> io::Result<()> {
    let dir = uri.strip_prefix("file:").ok_or_else(|| io::Error::other("Invalid uri"))?;
    fs::create_dir(dir)?;
    fs::write(Path::new(dir).join("state"), machine.count.to_le_bytes())?;
    let mut memory = vec![0; usize::try_from(machine.memory_mib << 20).map_err(io::Error::other)?];
    memory[4096..8192].fill(1);
    fs::write(Path::new(dir).join("memory"), memory)
}

/// The guest.
fn count(machine: &Shared) {
    loop {
        std::thread::sleep(TICK);
        let mut machine = hold_running(machine);
        machine.count += 1;
        let line = format!("{:08X}\r\n", machine.count);
        say(&mut machine, line.as_bytes());
    }
}

/// Prints on the console; nobody there is no error.
fn say(machine: &mut Machine, bytes: &[u8]) {
    if let Some(viewer) = &mut machine.viewer
        && viewer.write_all(bytes).is_err()
    {
        machine.viewer = None;
    }
}

/// The console: one client at a time.
fn look(machine: &Shared, console: &UnixListener, comes_back: bool, off: &Sender<()>) {
    let mut greeting: &[u8] = if comes_back { b"" } else { b"READY\r\n" };
    loop {
        let Ok((client, _)) = console.accept() else { continue };
        let Ok(mut typed) = client.try_clone() else { continue };
        let mut held = hold(machine);
        held.viewer = Some(client);
        say(&mut held, std::mem::take(&mut greeting));
        drop(held);
        let mut byte = [0];
        while typed.read_exact(&mut byte).is_ok() {
            // A guest that stands still reads what was typed when it goes on.
            drop(hold_running(machine));
            if byte == *b"O" {
                let _off_already = off.send(());
            }
            say(&mut hold(machine), &byte);
        }
    }
}

/// A client of QMP, to its end.
fn serve(machine: &Shared, mut client: UnixStream, off: &Sender<()>) -> io::Result<()> {
    let version =
        json!({"qemu": {"micro": 1, "minor": 0, "major": 5}, "package": "StratoVirt-2.5.0"});
    let greeting = json!({"QMP": {"version": version, "capabilities": []}});
    write!(client, "{greeting}\r\n")?;
    let mut requests = serde_json::Deserializer::from_reader(BufReader::new(client.try_clone()?));
    loop {
        let Ok(request) = Value::deserialize(&mut requests) else { return Ok(()) };
        let id = request.get("id").cloned();
        let texts = id.as_ref().is_none_or(Value::is_string);
        let answered =
            if texts { carry_out(machine, &request) } else { Err("expected a string".into()) };
        let (mut answer, event) = match answered {
            Ok((value, event)) => (json!({"return": value}), event),
            Err(why) => (json!({"error": {"class": "GenericError", "desc": why}}), None),
        };
        if let Some(id) = id.filter(Value::is_string) {
            answer["id"] = id;
        }
        write!(client, "{answer}\r\n")?;
        if let Some((name, data)) = event {
            let stamp = json!({"seconds": 1, "microseconds": 0});
            write!(client, "{}\r\n", json!({"event": name, "data": data, "timestamp": stamp}))?;
            if name == "SHUTDOWN" {
                let _off_already = off.send(());
            }
        }
    }
}

type Done = (Value, Option<(&'static str, Value)>);

fn carry_out(shared: &Shared, request: &Value) -> Result<Done, String> {
    let mut machine = hold(shared);
    let nothing = || json!({});
    Ok(match request["execute"].as_str().unwrap_or_default() {
        "qmp_capabilities" => (nothing(), None),
        "query-status" => {
            let status = if machine.running { "running" } else { "paused" };
            (json!({"running": machine.running, "singlestep": false, "status": status}), None)
        }
        "stop" => {
            machine.running = false;
            (nothing(), Some(("STOP", nothing())))
        }
        "cont" => {
            machine.running = true;
            shared.1.notify_all();
            (nothing(), Some(("RESUME", nothing())))
        }
        "migrate" => {
            if machine.running {
                return Err("the machine is not paused".to_owned());
            }
            let uri = request["arguments"]["uri"].as_str().unwrap_or_default();
            let written = match machine.cannot_save {
                true => Err(io::ErrorKind::StorageFull.into()),
                false => write_down(&machine, uri),
            };
            machine.migration = if written.is_ok() { "completed" } else { "failed" };
            (nothing(), None)
        }
        "query-migrate" => (json!({"status": machine.migration}), None),
        "quit" => {
            let data = json!({"guest": false, "reason": "host-qmp-quit"});
            (nothing(), Some(("SHUTDOWN", data)))
        }
        other => return Err(format!("unknown command {other}")),
    })
}
