//! What the guest's processors show: `cpu_model=`, `cpuid=`.

use super::general::unknown_word;
use super::own::plain_word;
use super::reader::{OneOrMany, Reader, Text};
use crate::config::error::{ErrorKind, WarningKind};
use crate::config::model::{Arch, DomainConfig, Feature, Processor};
use crate::config::nearest::nearest;
use crate::cpuid;

pub(super) fn read(reader: &mut Reader<'_>, config: &mut DomainConfig) {
    config.processor.model = plain_word(reader, "cpu_model");
    // Xend's way, a list of registers, is kept and not acted on.
    if reader.is_list("cpuid") {
        return;
    }
    let Some(OneOrMany::One(text)) = reader.one_or_items("cpuid") else { return };
    features(reader, text, &mut config.processor);
    if config.arch == Some(Arch::Aarch64) && !config.processor.features.is_empty() {
        let what = "cpuid names features of x86 processors and arch is aarch64";
        reader.error_at(ErrorKind::Contradiction(what), "cpuid").done();
    }
}

/// `host,NAME=VALUE,...`.
fn features(reader: &mut Reader<'_>, text: Text, processor: &mut Processor) {
    let mut words = text.value.split(',');
    if words.next().map(str::trim) != Some("host") {
        let expected = "host, then NAME=0 or NAME=1 behind commas, such as host,avx2=0";
        unknown_word(reader, "cpuid", text, expected).passed_over(None);
        return;
    }
    for word in words {
        let word = word.trim();
        let Some((name, value)) = word.split_once('=') else {
            let said = Text { value: word.to_owned(), span: text.span.clone() };
            unknown_word(reader, "cpuid", said, "NAME=0 or NAME=1").passed_over(None);
            continue;
        };
        if cpuid::is_number(name) {
            let why = "the processor's numbers are those of its model";
            reader.warn_at(WarningKind::NoEffect { key: "cpuid", why }, "cpuid", None);
            continue;
        }
        let Some(flag) = cpuid::find(name) else {
            let said = Text { value: name.to_owned(), span: text.span.clone() };
            let mistake =
                unknown_word(reader, "cpuid", said, "the name of a feature as in xl.cfg(5)");
            match nearest(name, cpuid::names()) {
                Some(known) => {
                    mistake.hint(format!("the nearest feature is {known}")).passed_over(None);
                }
                None => mistake.passed_over(None),
            }
            continue;
        };
        let shown = match value {
            "0" => false,
            "1" => true,
            // As the model has it.
            "x" | "k" | "s" => continue,
            _ => {
                let said = Text { value: word.to_owned(), span: text.span.clone() };
                unknown_word(reader, "cpuid", said, "0, 1, x, k or s behind the name")
                    .passed_over(None);
                continue;
            }
        };
        processor.features.retain(|feature| feature.name != flag.name);
        processor.features.push(Feature { name: flag.name.to_owned(), shown });
    }
}
