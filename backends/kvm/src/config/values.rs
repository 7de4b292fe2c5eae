//! Values as they are written on the command line and in the strings of a file.
//!
//! Every refusal says what was read and what is expected; whoever asked adds where it was read.

use std::fmt;
use std::ops::RangeInclusive;
use std::os::fd::RawFd;
use std::path::PathBuf;

use super::{Cpu, CpuidMask, Endpoint, Incoming, MemoryFile, RunAs, Source, Template};

/// Bytes of a unix socket's path that the system takes.
const MAX_SOCKET_PATH: usize = 107;

/// What is wrong with a value and what is expected instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong(pub(super) String);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(super) type Result<T> = std::result::Result<T, Wrong>;

/// `text` is not `kind`; expected is `expected`.
pub(super) fn wrong<T>(text: &str, kind: &str, expected: impl fmt::Display) -> Result<T> {
    // A value may be a whole file by mistake.
    let mut shown: String = text.chars().take(60).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    Err(Wrong(format!("{shown:?} is no {kind}: expected {expected}")))
}

/// One item of a comma-separated value: `key=value`, or a bare word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) key: Option<String>,
    pub(super) value: String,
}

/// Splits at single commas; a doubled one stands for itself, so that any path can be written.
pub(super) fn items(text: &str) -> Vec<Item> {
    let mut parts = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c == ',' && rest.next_if_eq(&',').is_none() {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    // A path may have the sign in it.
    let plain = |key: &str| key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let item = |part: String| match part.split_once('=') {
        Some((key, value)) if plain(key) => {
            Item { key: Some(key.to_owned()), value: value.to_owned() }
        }
        _ => Item { key: None, value: part },
    };
    parts.into_iter().map(item).collect()
}

/// A whole number within bounds.
pub(super) fn count<N>(text: &str, kind: &str, range: &RangeInclusive<N>) -> Result<N>
where
    N: std::str::FromStr + PartialOrd + fmt::Display,
{
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<N>() {
        Ok(number) if digits && range.contains(&number) => Ok(number),
        _ => wrong(text, kind, format_args!("{} to {}", range.start(), range.end())),
    }
}

/// `on` or `off`, and the other words for them.
pub(super) fn switch(text: &str) -> Result<bool> {
    match text {
        "on" | "yes" | "true" => Ok(true),
        "off" | "no" | "false" => Ok(false),
        _ => wrong(text, "switch", "on or off"),
    }
}

/// A size of memory in MiB. A number without a unit counts `unit` bytes.
pub(super) fn memory(text: &str, unit: u64) -> Result<u64> {
    let expected = "a size such as 512M or 4G, whole MiB from 1M to 1024G";
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = text.split_at(digits);
    let suffix = suffix.strip_suffix("iB").or(suffix.strip_suffix('B')).unwrap_or(suffix);
    let unit = match suffix {
        "" => Some(unit),
        "k" | "K" => Some(1 << 10),
        "m" | "M" => Some(1 << 20),
        "g" | "G" => Some(1 << 30),
        "t" | "T" => Some(1 << 40),
        _ => None,
    };
    let bytes = number.parse::<u64>().ok().zip(unit).and_then(|(n, unit)| n.checked_mul(unit));
    match bytes {
        Some(bytes) if bytes % (1 << 20) == 0 && (1 << 20..=1 << 40).contains(&bytes) => {
            Ok(bytes >> 20)
        }
        _ => wrong(text, "memory size", expected),
    }
}

/// The number of an inherited descriptor.
pub(super) fn descriptor(text: &str) -> Result<RawFd> {
    count(text, "descriptor", &(0..=RawFd::MAX))
}

/// A path that is one.
pub(super) fn path(text: &str) -> Result<PathBuf> {
    if text.is_empty() || text.contains('\0') {
        return wrong(text, "path", "the name of a file");
    }
    Ok(PathBuf::from(text))
}

/// A path, or `fd:N`.
pub(super) fn source(text: &str) -> Result<Source> {
    match text.strip_prefix("fd:") {
        Some(number) => descriptor(number).map(Source::Fd),
        None => path(text).map(Source::Path),
    }
}

/// The path of a unix socket.
pub(super) fn socket(text: &str) -> Result<PathBuf> {
    let found = path(text)?;
    if text.len() > MAX_SOCKET_PATH {
        let why =
            format!("a path of at most {MAX_SOCKET_PATH} bytes (this one has {})", text.len());
        return wrong(text, "path of a unix socket", why);
    }
    Ok(found)
}

/// Where bytes come from and go to.
pub(super) fn endpoint(text: &str) -> Result<Endpoint> {
    let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
    match (kind, rest) {
        ("none", "") => Ok(Endpoint::None),
        ("null", "") => Ok(Endpoint::Null),
        ("stdio", "") => Ok(Endpoint::Stdio),
        ("file", file) => path(file).map(Endpoint::File),
        ("unix", name) => socket(name).map(Endpoint::Unix),
        ("fd", number) => descriptor(number).map(Endpoint::Fd),
        _ => wrong(text, "end", "none, null, stdio, file:PATH, unix:PATH or fd:N"),
    }
}

/// A socket that is listened on: `unix:PATH` or `fd:N`. What QEMU's users write behind it is taken
/// where it says what happens anyway.
pub(super) fn listener(text: &str) -> Result<Endpoint> {
    let mut items = items(text).into_iter();
    let first = items.next().filter(|item| item.key.is_none());
    for item in items {
        match (item.key.as_deref(), item.value.as_str()) {
            (None, "server" | "nowait") | (Some("server"), "on") | (Some("wait"), "off") => {}
            _ => return wrong(text, "socket", "unix:PATH or fd:N and nothing behind it"),
        }
    }
    match first {
        Some(first) => socket_end(&first.value),
        None => wrong(text, "socket", "unix:PATH or fd:N"),
    }
}

/// `unix:PATH` or `fd:N`.
pub(super) fn socket_end(text: &str) -> Result<Endpoint> {
    match endpoint(text) {
        Ok(end @ (Endpoint::Unix(_) | Endpoint::Fd(_))) => Ok(end),
        Err(why) if text.starts_with("unix:") || text.starts_with("fd:") => Err(why),
        _ => wrong(text, "socket", "unix:PATH or fd:N"),
    }
}

/// A hardware address that one interface can have.
pub(super) fn mac(text: &str) -> Result<[u8; 6]> {
    let byte = |part: &str| {
        let hex = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
        hex.then(|| u8::from_str_radix(part, 16).ok()).flatten()
    };
    let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
    match bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok()) {
        Some(mac) if mac[0] & 1 == 0 && mac != [0; 6] => Ok(mac),
        Some(_) => wrong(text, "address of one interface", "no group address and not all zeros"),
        None => wrong(text, "hardware address", "six bytes such as 52:54:00:12:34:56"),
    }
}

/// A machine's name.
pub(super) fn name(text: &str) -> Result<String> {
    if text.is_empty() || text.len() > 255 || text.chars().any(char::is_control) {
        return wrong(text, "name", "1 to 255 bytes of printable text");
    }
    Ok(text.to_owned())
}

/// The name of a device or of a port: it is spoken over QMP and may be part of a path in a guest.
pub(super) fn id(text: &str) -> Result<String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
    if text.is_empty() || text.len() > 64 || !text.bytes().all(plain) {
        return wrong(text, "name of a device", "1 to 64 letters, digits, '-', '_', '.' or ':'");
    }
    Ok(text.to_owned())
}

/// A universally unique identifier.
pub(super) fn uuid(text: &str) -> Result<String> {
    let groups: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    let hex = groups.iter().all(|group| group.bytes().all(|b| b.is_ascii_hexdigit()));
    if lengths != [8, 4, 4, 4, 12] || !hex {
        return wrong(text, "uuid", "one such as 5e1f0c3a-9f3b-4a53-8a0e-0d3c1c8d7a11");
    }
    Ok(text.to_owned())
}

/// The name of a tap.
pub(super) fn interface(text: &str) -> Result<String> {
    let bad = |b: u8| b <= b' ' || b == b'/' || b == b':' || b >= 0x7f;
    if text.is_empty() || text.len() > 15 || text.bytes().any(bad) || text == "." || text == ".." {
        return wrong(text, "name of a tap", "1 to 15 bytes, such as tap0");
    }
    Ok(text.to_owned())
}

/// A disk's serial number.
pub(super) fn serial_number(text: &str) -> Result<String> {
    let most = super::MAX_SERIAL;
    if text.is_empty() || text.len() > most || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return wrong(text, "serial number", format_args!("1 to {most} visible ASCII characters"));
    }
    Ok(text.to_owned())
}

/// `fd:N`, `file:PATH` or `defer`.
pub(super) fn incoming(text: &str) -> Result<Incoming> {
    match text.split_once(':') {
        Some(("fd", number)) => descriptor(number).map(|fd| Incoming::From(Source::Fd(fd))),
        Some(("file", file)) => path(file).map(|file| Incoming::From(Source::Path(file))),
        _ if text == "defer" => Ok(Incoming::Defer),
        _ => wrong(text, "state", "fd:N, file:PATH or defer"),
    }
}

/// `PATH` or `fd:N`, and whether it is written to.
pub(super) fn memory_file(text: &str) -> Result<MemoryFile> {
    let mut found = None;
    let mut shared = false;
    for Item { key, value } in items(text) {
        match key.as_deref() {
            None if found.is_none() => found = Some(source(&value)?),
            Some("path") if found.is_none() => found = Some(Source::Path(path(&value)?)),
            Some("fd") if found.is_none() => found = Some(Source::Fd(descriptor(&value)?)),
            Some("shared") => shared = switch(&value)?,
            _ => return wrong(text, "memory file", "PATH or fd:N, and perhaps shared=on"),
        }
    }
    found
        .map(|source| MemoryFile { source, shared })
        .map_or_else(|| wrong(text, "memory file", "PATH or fd:N, and perhaps shared=on"), Ok)
}

/// `UID:GID`.
pub(super) fn run_as(text: &str) -> Result<RunAs> {
    let ids = text.split_once(':').map(|(uid, gid)| (uid.parse::<u32>(), gid.parse::<u32>()));
    match ids {
        // The highest number means "nobody in particular" to the system.
        Some((Ok(uid), Ok(gid))) if uid != 0 && uid < u32::MAX && gid < u32::MAX => {
            Ok(RunAs { uid, gid })
        }
        _ => wrong(text, "user", "UID:GID in digits, and not root"),
    }
}

/// `host` or `baseline`, then bits to set and to clear: `,+LEAF[.SUBLEAF]:REGISTER.BIT`.
pub(super) fn cpu(text: &str) -> Result<Cpu> {
    let mut words = text.split(',');
    let template = match words.next() {
        Some("host") => Template::Host,
        Some("baseline") => Template::Baseline,
        _ => return wrong(text, "processor", "host or baseline, and perhaps masks behind it"),
    };
    let mut masks: Vec<CpuidMask> = Vec::new();
    for word in words {
        let Some((on, leaf, subleaf, register, bit)) = mask(word) else {
            let expected = "+LEAF[.SUBLEAF]:REGISTER.BIT or the same with '-', such as -7.0:ebx.16";
            return wrong(word, "mask", expected);
        };
        let known = masks.iter().position(|mask| (mask.leaf, mask.subleaf) == (leaf, subleaf));
        let index = known.unwrap_or_else(|| {
            masks.push(CpuidMask { leaf, subleaf, keep: [u32::MAX; 4], set: [0; 4] });
            masks.len() - 1
        });
        // The last word about a bit is the one that counts.
        let CpuidMask { keep, set, .. } = &mut masks[index];
        let (keep, set) = (&mut keep[register], &mut set[register]);
        if on {
            *keep |= bit;
            *set |= bit;
        } else {
            *keep &= !bit;
            *set &= !bit;
        }
    }
    Ok(Cpu { template, masks })
}

fn mask(word: &str) -> Option<(bool, u32, Option<u32>, usize, u32)> {
    let (on, rest) = match word.split_at_checked(1)? {
        ("+", rest) => (true, rest),
        ("-", rest) => (false, rest),
        _ => return None,
    };
    let (place, bit) = rest.split_once(':')?;
    let (leaf, subleaf) = match place.split_once('.') {
        Some((leaf, subleaf)) => (number(leaf)?, Some(number(subleaf)?)),
        None => (number(place)?, None),
    };
    let (register, bit) = bit.split_once('.')?;
    let register = ["eax", "ebx", "ecx", "edx"].iter().position(|name| *name == register)?;
    let bit = 1_u32.checked_shl(number(bit)?)?;
    Some((on, leaf, subleaf, register, bit))
}

fn number(text: &str) -> Option<u32> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |hex| (hex, 16));
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| u32::from_str_radix(digits, radix).ok()).flatten()
}

/// Why a disk of another format is refused.
pub(super) fn not_raw(format: &str) -> String {
    let format: String = format.chars().take(20).collect();
    format!(
        "{format:?} is no format that is read here: expected raw; convert the image with \
         qemu-img convert -O raw, or run the domain with QEMU"
    )
}

/// Bytes of a command line that the kernel takes, with its end.
const COMMAND_LINE: usize = 2048;

/// A kernel's command line.
pub(super) fn command_line(text: &str) -> Result<String> {
    if text.contains('\0') || text.len() >= COMMAND_LINE {
        let most = COMMAND_LINE - 1;
        return wrong(text, "command line", format_args!("at most {most} bytes of text"));
    }
    Ok(text.to_owned())
}
