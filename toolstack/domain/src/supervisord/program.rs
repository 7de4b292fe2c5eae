//! `[program:x]`.

use std::path::PathBuf;

use super::ini::Section;
use super::section::{Keys, Value};
use super::server::Server;
use super::{Import, Program, Surroundings, Weight, shell, vms};
use crate::config::model::{
    Autorestart, DomainConfig, Input, Output, OutputTo, Rlimit, StopSignal, Supervision,
};
use crate::config::{is_user, size};
use crate::ids::DomainName;

/// Most seconds and other counts: a week.
const MOST: u32 = 604_800;

/// Reads one program and adds its domain, where nothing is wrong with it.
pub(super) fn read(
    section: &Section,
    name: &str,
    server: &Server,
    around: &Surroundings<'_>,
    import: &mut Import,
) {
    let mut keys = Keys::new(section, name, around, import);
    let config = config(&mut keys, server, around);
    only_said(&mut keys);
    keys.leftovers();
    if let (Some(config), false) = (config, keys.wrong) {
        import.programs.push(Program { line: section.line, config });
    }
}

fn config(keys: &mut Keys<'_>, server: &Server, around: &Surroundings<'_>) -> Option<DomainConfig> {
    let mut config = DomainConfig::new(process_name(keys)?);
    config.backend = "any".to_owned();
    config.maintenance.autostart = Some(keys.flag("autostart").is_none_or(|(on, _)| on));
    if let Some((priority, _)) = keys.number("priority", 1000) {
        config.maintenance.priority = priority;
    }
    image_and_command(keys, &mut config);
    user(keys, server, &mut config);
    streams(keys, &mut config);
    supervision(keys, &mut config);
    stop(keys, &mut config);
    surroundings(keys, server, &mut config);
    of_vms(keys, &mut config);
    config.resolve_paths(around.here);
    Some(config)
}

fn process_name(keys: &mut Keys<'_>) -> Option<DomainName> {
    let given = keys.value("process_name");
    let line = given.as_ref().map_or(keys.section.line, |value| value.line);
    let text = match given {
        Some(value) => value.text,
        None => keys.expand("%(program_name)s")?,
    };
    match DomainName::new(text.trim()) {
        Ok(name) => Some(name),
        Err(error) => {
            keys.say(Weight::Error, line, "process_name", error.to_string());
            None
        }
    }
}

/// A name that only OpenVMS has.
fn foreign(keys: &mut Keys<'_>, value: &Value) {
    let why = format!("\"{}\" is a name of OpenVMS: write the path of this host", value.text);
    keys.refuse(value, why);
}

/// With an image, `command` is what the program reads; without, it is the program and its
/// arguments.
fn image_and_command(keys: &mut Keys<'_>, config: &mut DomainConfig) {
    let command = keys.value("command");
    let Some(image) = keys.value("image") else {
        match command {
            Some(command) => words(keys, &command, config),
            None => {
                let line = keys.section.line;
                let text = "has neither image nor command: name the program to be run (the login \
                            program of OpenVMS, its default, is not here)";
                keys.say(Weight::Error, line, "", text);
            }
        }
        // What a terminal would be read for, nobody types.
        config.process.stdin = Some(Input::Nothing);
        return;
    };
    match vms::file(image.text.trim()) {
        vms::File::Path(path) => config.emulator = Some(PathBuf::from(path)),
        vms::File::Nothing => keys.refuse(&image, "names no program"),
        vms::File::Foreign => foreign(keys, &image),
    }
    config.process.stdin = Some(Input::Nothing);
    if let Some(command) = command {
        match vms::file(command.text.trim()) {
            vms::File::Nothing => {}
            vms::File::Path(path) => config.process.stdin = Some(Input::File(path.into())),
            vms::File::Foreign => foreign(keys, &command),
        }
    }
}

fn words(keys: &mut Keys<'_>, command: &Value, config: &mut DomainConfig) {
    match shell::words(&command.text) {
        Ok(words) if !words.is_empty() => {
            let mut words = words.into_iter();
            config.emulator = words.next().map(PathBuf::from);
            config.emulator_args = words.collect();
            let program = config.emulator.as_deref().and_then(|path| path.to_str());
            if program.is_some_and(|name| vms::file(name) == vms::File::Foreign) {
                foreign(keys, command);
            }
        }
        Ok(_) => keys.refuse(command, "names no program"),
        Err(why) => keys.refuse(command, why),
    }
}

fn user(keys: &mut Keys<'_>, server: &Server, config: &mut DomainConfig) {
    let own = keys.value("user");
    let line = own.as_ref().map_or(keys.section.line, |value| value.line);
    let name = own.map(|value| value.text.trim().to_owned()).or_else(|| server.user.clone());
    match name {
        Some(name) if is_user(&name) => config.process.user = Some(name),
        Some(name) => {
            let text = format!("\"{name}\" is neither the name nor the number of a user");
            keys.say(Weight::Error, line, "user", text);
        }
        None => keys.say(Weight::Error, line, "user", "is not given: say who runs the program"),
    }
}

/// Where the two streams go; discarded where nothing is said.
fn streams(keys: &mut Keys<'_>, config: &mut DomainConfig) {
    let process = &mut config.process;
    process.stdout = stream(keys, &STDOUT);
    process.stderr = stream(keys, &STDERR);
    if let Some((true, value)) = keys.flag("redirect_stderr") {
        if matches!(process.stderr.to, Some(OutputTo::File(_))) {
            keys.refuse(&value, "stands beside a file for standard error: which of them is it");
        }
        process.stderr.to = Some(OutputTo::Stdout);
    }
    if let (Some(OutputTo::File(out)), Some(OutputTo::File(err))) =
        (&process.stdout.to, &process.stderr.to)
        && out == err
    {
        let (line, text) = (keys.section.line, "both streams name one file: say redirect_stderr");
        keys.say(Weight::Error, line, "stderr_file", text);
    }
}

/// The keys of one stream: Supervisor-vms', supervisord's, size, backups.
struct StreamKeys([&'static str; 4]);

const STDOUT: StreamKeys = StreamKeys([
    "stdout_file",
    "stdout_logfile",
    "stdout_logfile_maxbytes",
    "stdout_logfile_backups",
]);
const STDERR: StreamKeys = StreamKeys([
    "stderr_file",
    "stderr_logfile",
    "stderr_logfile_maxbytes",
    "stderr_logfile_backups",
]);

fn stream(
    keys: &mut Keys<'_>,
    StreamKeys([file, logfile, maxbytes, backups]): &StreamKeys,
) -> Output {
    let mut output = Output { to: Some(OutputTo::Nothing), ..Output::default() };
    let own = keys.value(file);
    let other = keys.value(logfile);
    if let (Some(own), Some(_)) = (&own, &other) {
        keys.refuse(own, format!("and {logfile} both name a file: leave one out"));
    }
    if let Some(value) = own.or(other) {
        let name = value.text.trim().to_owned();
        match (name.to_ascii_uppercase().as_str(), vms::file(&name)) {
            ("AUTO", _) => {
                keys.warn(&value, "no file is made up: the output is discarded; name a file");
            }
            ("SYSLOG", _) => keys.refuse(&value, "kxl writes no system log: name a file"),
            ("/DEV/STDOUT" | "/DEV/STDERR" | "/DEV/FD/1" | "/DEV/FD/2", _) => {
                keys.notice(&value, "goes to the domain's console: kxl console shows it");
                output.to = None;
            }
            (_, vms::File::Nothing) => {}
            (_, vms::File::Path(path)) => output.to = Some(OutputTo::File(path.into())),
            (_, vms::File::Foreign) => foreign(keys, &value),
        }
    }
    if let Some(value) = keys.value(maxbytes) {
        match size::parse(&value.text) {
            Some(bytes) if bytes == 0 || bytes >= 4096 => output.maxbytes = bytes,
            _ => keys.refuse(&value, "needs 0, or a size of 4096 bytes or more such as 10MB"),
        }
    }
    if let Some((files, _)) = keys.number(backups, 1000) {
        output.backups = files;
    }
    output
}

fn supervision(keys: &mut Keys<'_>, config: &mut DomainConfig) {
    let mut rules = Supervision::default();
    if let Some((seconds, _)) = keys.number("startsecs", MOST) {
        rules.startsecs = seconds;
    }
    if let Some((retries, _)) = keys.number("startretries", 1000) {
        rules.startretries = retries;
    }
    if let Some(value) = keys.value("autorestart") {
        let word = value.text.trim().to_ascii_lowercase();
        let word = match word.as_str() {
            "1" | "yes" | "on" => "true",
            "0" | "no" | "off" => "false",
            word => word,
        };
        match Autorestart::read(word) {
            Some(word) => rules.autorestart = word,
            None => keys.refuse(&value, "needs false, unexpected or true"),
        }
    }
    match keys.value("exitcodes") {
        Some(value) => exitcodes(keys, &value, &mut rules),
        None => {
            let line = keys.section.line;
            let text = "is not given: 0 is expected (on OpenVMS 1 is success)";
            keys.say(Weight::Notice, line, "exitcodes", text);
        }
    }
    config.supervision = Some(rules);
}

fn exitcodes(keys: &mut Keys<'_>, value: &Value, rules: &mut Supervision) {
    let codes: Option<Vec<u8>> =
        value.text.split(',').map(|code| code.trim().parse().ok()).collect();
    let Some(codes) = codes else {
        return keys.refuse(value, "needs numbers from 0 to 255 with commas between");
    };
    if codes == [1] {
        keys.warn(value, "1 alone is success on OpenVMS; a program of this host says 0 for it");
    }
    rules.exitcodes.clear();
    for code in codes {
        if !rules.exitcodes.contains(&code) {
            rules.exitcodes.push(code);
        }
    }
}

fn stop(keys: &mut Keys<'_>, config: &mut DomainConfig) {
    if let Some((seconds, _)) = keys.number("stopwaitsecs", MOST) {
        config.stop.wait_secs = seconds;
    }
    if let Some(value) = keys.value("stopsignal") {
        config.stop.signal = StopSignal::read(value.text.trim());
        if config.stop.signal.is_none() {
            let why = format!("\"{}\" is no signal that asks a program to end", value.text);
            keys.refuse(&value, why);
        }
    }
}

/// Directory, environment, mask: the program's own, else the server's.
fn surroundings(keys: &mut Keys<'_>, server: &Server, config: &mut DomainConfig) {
    let process = &mut config.process;
    let directory = keys.value("directory").map(|value| value.text);
    process.directory = directory.or_else(|| server.directory.clone()).map(PathBuf::from);
    process.environment.clone_from(&server.environment);
    if let Some(value) = keys.value("environment") {
        match shell::pairs(&value.text) {
            Ok(pairs) => process.environment.extend(pairs),
            Err(why) => keys.refuse(&value, why),
        }
    }
    let own = keys.value("umask");
    let line = own.as_ref().map_or(keys.section.line, |value| value.line);
    if let Some(text) = own.map(|value| value.text).or_else(|| server.umask.clone()) {
        match u16::from_str_radix(text.trim(), 8) {
            Ok(mask) if mask <= 0o777 => process.umask = Some(mask),
            _ => keys.say(Weight::Error, line, "umask", format!("\"{text}\" is no octal mask")),
        }
    }
}

/// The keys that only Supervisor-vms has.
fn of_vms(keys: &mut Keys<'_>, config: &mut DomainConfig) {
    if let Some((threads, _)) = keys.number("kt_limit", 4_194_304) {
        // 0 is no limit.
        config.limits.pids = Some(threads).filter(|threads| *threads > 0);
    }
    if let Some((priority, value)) = keys.number("baspri", 31) {
        let priority = u8::try_from(priority).unwrap_or(31);
        let nice = vms::nice(priority);
        config.process.nice = Some(nice).filter(|nice| *nice != 0);
        if priority > 15 {
            let text = format!("is a real-time priority: nice {nice} is the most there is here");
            keys.warn(&value, text);
        }
    }
    if let Some((nouaf, value)) = keys.flag("nouaf") {
        let text = if nouaf {
            "is so always: no file of authorizations is read for a program"
        } else {
            "is not done: the limits of the user's account are not read; quotas sets limits"
        };
        keys.notice(&value, text);
    }
    if let Some(value) = keys.value("quotas") {
        quotas(keys, &value, config);
    }
    if let Some(value) = keys.value("privileges") {
        privileges(keys, &value, config);
    }
}

/// What may stand around the items of a list.
const EDGES: [char; 8] = ['[', ']', '(', ')', '{', '}', '\'', '"'];

/// The words of a list, however it is punctuated.
fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', '\n', ';'])
        .map(|word| word.trim().trim_matches(EDGES).trim())
        .filter(|word| !word.is_empty())
}

fn quotas(keys: &mut Keys<'_>, value: &Value, config: &mut DomainConfig) {
    for word in items(&value.text) {
        let pair = word.split_once(['=', ':']);
        let number = pair.and_then(|(name, number)| {
            Some((name.trim().trim_matches(EDGES), number.trim().parse::<u32>().ok()?))
        });
        let Some((name, number)) = number else {
            keys.refuse(value, format!("\"{word}\" is not NAME = NUMBER"));
            continue;
        };
        match vms::quota(name, number.into()) {
            vms::Quota::Limit(limit, amount) => {
                let both = Rlimit { soft: amount, hard: amount };
                config.process.rlimits.insert(limit, both);
                let amount = amount.map_or("unlimited".to_owned(), |n| n.to_string());
                keys.notice(value, format!("{name} becomes the limit {limit} = {amount}"));
            }
            vms::Quota::NoEqual => {
                keys.warn(value, format!("{name} is not done: Linux has no limit like it"));
            }
            vms::Quota::Unknown => keys.refuse(value, format!("{name} is no quota")),
        }
    }
}

fn privileges(keys: &mut Keys<'_>, value: &Value, config: &mut DomainConfig) {
    let text = value.text.replace('|', ",");
    for name in items(&text).flat_map(str::split_whitespace) {
        match vms::right(name) {
            vms::Right::Capabilities(list) => {
                let names: Vec<_> = list.iter().map(|right| right.as_str()).collect();
                keys.notice(value, format!("{name} becomes the capability {}", names.join(", ")));
                let own = &mut config.process.capabilities;
                for right in list {
                    if !own.contains(&right) {
                        own.push(right);
                    }
                }
            }
            vms::Right::Everybody => {
                keys.notice(value, format!("{name} is not needed: everybody may do it here"));
            }
            vms::Right::NoEqual(hint) => {
                keys.warn(value, format!("{name} is not done: Linux has nothing like it; {hint}"));
            }
            vms::Right::Unknown => {
                keys.refuse(value, format!("{name} is neither a privilege nor a capability"));
            }
        }
    }
    if config.process.user.as_deref() == Some("root") && !config.process.capabilities.is_empty() {
        keys.notice(value, "root has all capabilities: none is named");
        config.process.capabilities.clear();
    }
}

/// Keys of supervisord that mean something else here, or nothing.
fn only_said(keys: &mut Keys<'_>) {
    use Weight::{Notice, Warning};
    if let Some((count, value)) = keys.number("numprocs", 1_000_000)
        && count != 1
    {
        let why = "is not done: a domain is one process; write a section for each";
        keys.refuse(&value, why);
    }
    for key in ["stopasgroup", "killasgroup"] {
        if let Some((true, value)) = keys.flag(key) {
            keys.warn(&value, "is not done: the signal goes to the program itself");
        }
    }
    keys.only_said(&[
        ("numprocs_start", Notice, "has no meaning with one process"),
        ("serverurl", Notice, "has no meaning here: there is no server"),
        (
            "stdout_capture_maxbytes",
            Warning,
            "is not done: see kxl-event(1) for what programs tell",
        ),
        (
            "stderr_capture_maxbytes",
            Warning,
            "is not done: see kxl-event(1) for what programs tell",
        ),
        ("stdout_events_enabled", Warning, "is not done: see kxl-event(1) for what programs tell"),
        ("stderr_events_enabled", Warning, "is not done: see kxl-event(1) for what programs tell"),
        ("stdout_syslog", Warning, "is not done: kxl writes no system log"),
        ("stderr_syslog", Warning, "is not done: kxl writes no system log"),
    ]);
}
