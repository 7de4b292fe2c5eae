//! The keys of a domain's process: user, priorities, limits, files.

use super::general::unknown_word;
use super::own::path;
use super::reader::{Reader, Text};
use crate::config::error::ErrorKind;
use crate::config::model::{
    DomainConfig, Input, Output, OutputTo, Privilege, ProcessRules, Rlimit, RlimitName,
};
use crate::config::size;

/// Reads them.
pub(super) fn read(reader: &mut Reader<'_>, config: &mut DomainConfig) {
    let process = &mut config.process;
    process.user = user(reader);
    process.nice = reader.ranged("nice", -20..=19);
    process.oom_protect = reader.ranged("oom_protect", -1000..=1000);
    process.umask = umask(reader);
    process.directory = path(reader, "directory");
    process.stdin = stdin(reader);
    process.stdout = output(reader, ["stdout", "stdout_maxbytes", "stdout_backups"]);
    process.stderr = output(reader, ["stderr", "stderr_maxbytes", "stderr_backups"]);
    rlimits(reader, process);
    capabilities(reader, process);
    environment(reader, process);
    if config.limits.nofile.is_some() && config.process.rlimits.contains_key(&RlimitName::Nofile) {
        let what = "limit_nofile and rlimits both limit the number of open files";
        reader.error_at(ErrorKind::Contradiction(what), "limit_nofile").done();
    }
}

/// A name as useradd(8) makes them, or a number.
pub(crate) fn is_user(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && !text.starts_with('-')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-$".contains(&b))
}

fn user(reader: &mut Reader<'_>) -> Option<String> {
    let text = reader.text("user")?;
    if is_user(&text.value) {
        return Some(text.value);
    }
    unknown_word(reader, "user", text, "the name or the number of a user").done();
    None
}

/// Octal, with or without a zero in front, as umask(1) takes it.
fn umask(reader: &mut Reader<'_>) -> Option<u16> {
    let text = reader.text("umask")?;
    match u16::from_str_radix(&text.value, 8) {
        Ok(mask) if mask <= 0o777 && !text.value.starts_with('+') => Some(mask),
        _ => {
            unknown_word(reader, "umask", text, "octal digits, 000 to 777").done();
            None
        }
    }
}

fn stdin(reader: &mut Reader<'_>) -> Option<Input> {
    path(reader, "stdin").map(|path| match path.to_str() {
        Some("none" | "/dev/null") => Input::Nothing,
        _ => Input::File(path),
    })
}

fn output(reader: &mut Reader<'_>, [key, maxbytes, backups]: [&'static str; 3]) -> Output {
    let to = path(reader, key).map(|path| match path.to_str() {
        Some("none" | "/dev/null") => OutputTo::Nothing,
        Some("stdout") if key == "stderr" => OutputTo::Stdout,
        _ => OutputTo::File(path),
    });
    let mut output = Output { to, ..Output::default() };
    if let Some(text) = reader.text(maxbytes) {
        match size::parse(&text.value) {
            Some(bytes) if bytes == 0 || bytes >= 4096 => output.maxbytes = bytes,
            _ => {
                let expected = "0, or a size of 4096 bytes or more such as 512K or 10M";
                unknown_word(reader, maxbytes, text, expected).done();
            }
        }
    }
    if let Some(files) = reader.ranged(backups, 0..=1000) {
        output.backups = files;
    }
    output
}

/// `NAME=SOFT` or `NAME=SOFT:HARD`.
fn rlimits(reader: &mut Reader<'_>, process: &mut ProcessRules) {
    for text in reader.texts("rlimits") {
        let limit = text.value.split_once('=').and_then(|(name, value)| {
            let name = RlimitName::parse(name.trim())?;
            let (soft, hard) = value.split_once(':').unwrap_or((value, value));
            Some((name, Rlimit { soft: amount(soft)?, hard: amount(hard)? }))
        });
        match limit.filter(|(_, limit)| limit.is_ordered()) {
            Some((name, limit)) => {
                if process.rlimits.insert(name, limit).is_some() {
                    let what = "rlimits gives one limit twice";
                    reader.error(ErrorKind::Contradiction(what), &text.span).done();
                }
            }
            None => {
                let names: Vec<_> = RlimitName::ALL.iter().map(|name| name.as_str()).collect();
                let expected = format!(
                    "NAME=SOFT[:HARD], SOFT not above HARD, each a number (K, M, G) or unlimited; \
                     NAME one of {}",
                    names.join(", ")
                );
                unknown_word(reader, "rlimits", text, &expected).done();
            }
        }
    }
}

/// `Some(None)` is unlimited.
fn amount(text: &str) -> Option<Option<u64>> {
    match text.trim() {
        "unlimited" | "infinity" => Some(None),
        // The largest number is how the kernel says unlimited.
        number => size::parse(number).filter(|n| *n < u64::MAX).map(Some),
    }
}

fn capabilities(reader: &mut Reader<'_>, process: &mut ProcessRules) {
    for text in reader.texts("capabilities") {
        match Privilege::read(&text.value) {
            Some(name) if process.capabilities.contains(&name) => {}
            Some(name) => process.capabilities.push(name),
            None => {
                let expected = "the name of a capability such as net_bind_service";
                unknown_word(reader, "capabilities", text, expected).done();
            }
        }
    }
    if !process.capabilities.is_empty() && process.user.is_none() {
        let what =
            "capabilities are what a program keeps that runs as another user: user is not given";
        reader.error_at(ErrorKind::Contradiction(what), "capabilities").done();
    }
}

fn environment(reader: &mut Reader<'_>, process: &mut ProcessRules) {
    for Text { value, span } in reader.items("environment") {
        let name = value.split_once('=').map_or("", |(name, _)| name);
        if name.is_empty() || value.contains('\0') {
            let text = Text { value, span };
            unknown_word(reader, "environment", text, "entries NAME=value").done();
        } else {
            process.environment.push(value);
        }
    }
}
