//! Name, kind, memory, processors, clock, and what follows when the guest ends.

use super::reader::{OneOrMany, Reader, Text};
use crate::config::cpulist::CpuList;
use crate::config::error::ErrorKind;
use crate::config::model::{Affinity, Arch, DomainConfig, GuestKind};
use crate::ids::{DomainName, DomainUuid};
use crate::policy::Action;

/// 16 TiB: more than any emulator gives a guest.
const MAX_MEMORY_MIB: i64 = 16 << 20;
const MAX_VCPUS: i64 = 4096;

/// Kind, name and uuid. Where there is no name, another stands in for it, so that the rest can be
/// read and all mistakes be told at once.
pub(super) fn identity(reader: &mut Reader<'_>) -> DomainConfig {
    let kind = kind(reader);
    let name = match reader.text("name") {
        None => {
            reader
                .missing(ErrorKind::NoName)
                .expected("a line such as name = \"web1\"")
                .xl("Domain name must be specified.")
                .done();
            None
        }
        Some(Text { value, span }) => match DomainName::new(value) {
            Ok(name) => Some(name),
            Err(error) => {
                reader.error(error.into(), &span).done();
                None
            }
        },
    };
    let mut config = DomainConfig::new(name.unwrap_or_else(stand_in));
    config.uuid = uuid(reader);
    config.arch = arch(reader);
    config.kind = kind.unwrap_or_else(|| default_kind(config.arch));
    config
}

/// The name of what has none.
pub(super) fn stand_in() -> DomainName {
    DomainName::new("unnamed").expect("letters make a name")
}

fn arch(reader: &mut Reader<'_>) -> Option<Arch> {
    let text = reader.text("arch")?;
    let arch = Arch::parse(&text.value);
    if arch.is_none() {
        unknown_word(reader, "arch", text, "x86_64 or aarch64").done();
    }
    arch
}

/// xl's default depends on the host it was built for; with kxl the guest's architecture decides.
fn default_kind(arch: Option<Arch>) -> GuestKind {
    match arch {
        Some(Arch::Aarch64) => GuestKind::Pvh,
        Some(Arch::X86_64) => GuestKind::Pv,
        None if cfg!(target_arch = "aarch64") => GuestKind::Pvh,
        None => GuestKind::Pv,
    }
}

/// `type=` and its old name `builder=`; both are compared with as many letters as were given.
fn kind(reader: &mut Reader<'_>) -> Option<GuestKind> {
    let of = |text: &Text, words: &[(&str, GuestKind)]| {
        words.iter().find(|(word, _)| word.starts_with(&text.value)).map(|(_, kind)| *kind)
    };
    let wrong = |reader: &mut Reader<'_>, key, text: Text, expected| {
        let line = format!("Invalid domain type {}.", text.value);
        unknown_word(reader, key, text, expected).xl(line).done();
    };
    let kind = reader.text("type").and_then(|text| {
        let words = [("hvm", GuestKind::Hvm), ("pv", GuestKind::Pv), ("pvh", GuestKind::Pvh)];
        let kind = of(&text, &words);
        if kind.is_none() {
            wrong(reader, "type", text, "hvm, pv or pvh");
        }
        kind
    });
    let Some(text) = reader.text("builder") else { return kind };
    let span = text.span.clone();
    let Some(builder) = of(&text, &[("hvm", GuestKind::Hvm), ("generic", GuestKind::Pv)]) else {
        wrong(reader, "builder", text, "hvm or generic");
        return kind;
    };
    if kind.is_some_and(|kind| kind != builder) {
        reader
            .error(ErrorKind::Contradiction("type and builder name different kinds"), &span)
            .hint("type alone is enough")
            .xl("Contradicting \"builder\" and \"type\" options specified.")
            .done();
    }
    Some(builder)
}

fn uuid(reader: &mut Reader<'_>) -> Option<DomainUuid> {
    let text = reader.text("uuid")?;
    // The usual notation only: xl takes no braces, no missing dashes. The nil uuid is Domain-0's.
    let uuid = (text.value.len() == 36).then(|| text.value.parse::<DomainUuid>().ok()).flatten();
    let uuid = uuid.filter(|uuid| !uuid.0.is_nil());
    if uuid.is_none() {
        let line = format!("Failed to parse UUID: {}", text.value);
        unknown_word(reader, "uuid", text, "8-4-4-4-12 hex digits, not all zero").xl(line).done();
    }
    uuid
}

/// An error about a word that a key does not know.
pub(super) fn unknown_word<'r, 'd>(
    reader: &'r mut Reader<'d>,
    key: &'static str,
    text: Text,
    expected: &str,
) -> super::reader::Mistake<'r, 'd> {
    reader.error(ErrorKind::Word { key, text: text.value }, &text.span).expected(expected)
}

/// Memory, processors, clock.
pub(super) fn machine(reader: &mut Reader<'_>, config: &mut DomainConfig) {
    let memory = reader.ranged("memory", 1..=MAX_MEMORY_MIB);
    let maxmem = reader.ranged("maxmem", 1..=MAX_MEMORY_MIB);
    config.memory_mib = memory.or(maxmem).unwrap_or(32);
    config.maxmem_mib = maxmem.unwrap_or(config.memory_mib);
    if config.memory_mib > config.maxmem_mib {
        reader.error_at(ErrorKind::Contradiction("memory is larger than maxmem"), "memory").done();
    }

    let vcpus = reader.number("vcpus").and_then(|(number, text)| {
        if number > MAX_VCPUS {
            reader
                .error(ErrorKind::Range { key: "vcpus", text: text.value }, &text.span)
                .expected(format!("1 to {MAX_VCPUS}"))
                .done();
        }
        // xl takes less than one for one.
        u32::try_from(number.clamp(1, MAX_VCPUS)).ok()
    });
    config.vcpus = vcpus.unwrap_or(1);
    let maxvcpus: Option<u32> = reader.ranged("maxvcpus", 0..=MAX_VCPUS);
    config.maxvcpus = maxvcpus.filter(|n| *n > 0).unwrap_or(config.vcpus);
    if config.maxvcpus < config.vcpus {
        reader
            .error_at(ErrorKind::Contradiction("maxvcpus is less than vcpus"), "maxvcpus")
            .xl("xl: maxvcpus < vcpus")
            .done();
    }

    config.cpus = affinity(reader);
    config.cpu_weight = reader.ranged("cpu_weight", 1..=65_535);
    config.cap = reader.ranged("cap", 0..=100 * MAX_VCPUS).filter(|cap| *cap > 0);
    config.localtime = reader.flag("localtime").unwrap_or(false);
    let offset = i64::from(i32::MIN)..=i64::from(i32::MAX);
    config.rtc_timeoffset_s = reader.ranged("rtc_timeoffset", offset).unwrap_or(0);
}

fn affinity(reader: &mut Reader<'_>) -> Affinity {
    let check = |reader: &mut Reader<'_>, text: &Text| {
        if let Err(error) = text.value.parse::<CpuList>() {
            let line = format!("Invalid pcpu range: {}.", text.value);
            reader.error(error.into(), &text.span).xl(line).done();
        }
    };
    match reader.one_or_items("cpus") {
        None => Affinity::Any,
        Some(OneOrMany::One(text)) => {
            check(reader, &text);
            Affinity::All(text.value)
        }
        Some(OneOrMany::Many(items)) if items.is_empty() => Affinity::Any,
        Some(OneOrMany::Many(items)) => {
            for item in &items {
                check(reader, item);
            }
            Affinity::Each(items.into_iter().map(|item| item.value).collect())
        }
    }
}

/// The `on_*` keys.
pub(super) fn actions(reader: &mut Reader<'_>, config: &mut DomainConfig) {
    for (key, slot) in [
        ("on_poweroff", &mut config.on_poweroff),
        ("on_reboot", &mut config.on_reboot),
        ("on_watchdog", &mut config.on_watchdog),
        ("on_crash", &mut config.on_crash),
        ("on_soft_reset", &mut config.on_soft_reset),
    ] {
        let Some(text) = reader.text(key) else { continue };
        if let Some(action) = Action::parse(&text.value) {
            *slot = action;
            continue;
        }
        let words: Vec<_> = Action::ALL.iter().map(|action| action.as_str()).collect();
        let line = format!("Unknown {key} action \"{}\" specified", text.value);
        unknown_word(reader, key, text, &words.join(", ")).xl(line).done();
    }
}
