//! The keys of supervision, of stopping and of what a guest may say.

use super::general::unknown_word;
use super::reader::{Reader, Text};
use crate::config::error::ErrorKind;
use crate::config::model::{
    Autorestart, DomainConfig, GuestEvents, OutputTo, StopSignal, Supervision,
};

/// A week: longer than any start or stop takes.
const MAX_SECONDS: i64 = 7 * 86_400;

/// Reads them; to be called when the backend is known.
pub(super) fn read(reader: &mut Reader<'_>, config: &mut DomainConfig) {
    let given = Supervision::KEYS.into_iter().find(|key| reader.has(key));
    // Read in any case, so that a mistake is told, and each key is counted as known.
    let rules = rules(reader);
    config.supervision = given.map(|_| rules);
    if let Some(key) = given {
        refuse_xens(reader, key);
    }
    if let Some(seconds) = reader.ranged("stopwaitsecs", 0..=MAX_SECONDS) {
        config.stop.wait_secs = seconds;
    }
    if let Some(text) = reader.text("stopsignal") {
        config.stop.signal = StopSignal::read(&text.value);
        if config.stop.signal.is_none() {
            let words: Vec<_> = StopSignal::ALL.iter().map(|signal| signal.as_str()).collect();
            let expected = format!("one of {}, or its number", words.join(", "));
            unknown_word(reader, "stopsignal", text, &expected).done();
        }
    }
    guest_events(reader, config);
}

fn rules(reader: &mut Reader<'_>) -> Supervision {
    let plain = Supervision::default();
    let autorestart = reader.text("autorestart").and_then(|text| {
        let word = Autorestart::read(&text.value);
        if word.is_none() {
            unknown_word(reader, "autorestart", text, "never, unexpected or always").done();
        }
        word
    });
    Supervision {
        startsecs: reader.ranged("startsecs", 0..=MAX_SECONDS).unwrap_or(plain.startsecs),
        startretries: reader.ranged("startretries", 0..=1000).unwrap_or(plain.startretries),
        autorestart: autorestart.unwrap_or(plain.autorestart),
        exitcodes: exitcodes(reader).unwrap_or(plain.exitcodes),
        managed_start: reader.flag("managed_start").unwrap_or(plain.managed_start),
        start_timeout: reader.ranged("start_timeout", 1..=MAX_SECONDS),
        progress_interval: reader
            .ranged("progress_interval", 1..=60)
            .unwrap_or(plain.progress_interval),
    }
}

/// A guest that is listened to has to have something to speak on; to be called when it is known
/// where its output goes.
pub(super) fn check_that_it_is_heard(reader: &mut Reader<'_>, config: &DomainConfig) {
    let (stdout, stderr) = (&config.process.stdout.to, &config.process.stderr.to);
    let silent = *stdout == Some(OutputTo::Nothing)
        && matches!(stderr, Some(OutputTo::Nothing | OutputTo::Stdout));
    if !silent || config.guest_events != GuestEvents::Console {
        return;
    }
    let key = ["guest_events", "managed_start"].into_iter().find(|key| reader.has(key));
    let what = "all that the program prints is thrown away, and no marked line of it is heard";
    reader
        .error_at(ErrorKind::Contradiction(what), key.unwrap_or("stdout"))
        .hint("send stdout to a file, or leave out stdout or stderr")
        .done();
}

/// A number, a list of numbers, or numbers with commas between them in one string.
fn exitcodes(reader: &mut Reader<'_>) -> Option<Vec<u8>> {
    if !reader.has("exitcodes") {
        return None;
    }
    let mut codes = Vec::new();
    for Text { value, span } in reader.texts("exitcodes") {
        for word in value.split(',').map(str::trim) {
            match word.parse::<u8>() {
                Ok(code) if codes.contains(&code) => {}
                Ok(code) => codes.push(code),
                Err(_) => {
                    let text = Text { value: word.to_owned(), span: span.clone() };
                    unknown_word(reader, "exitcodes", text, "numbers from 0 to 255").done();
                }
            }
        }
    }
    Some(codes)
}

/// For a supervised domain `autorestart` decides what Xen's keys decide otherwise.
fn refuse_xens(reader: &mut Reader<'_>, key: &'static str) {
    for of_xen in Supervision::INSTEAD_OF {
        let Some(place) = reader.place_of(key) else { return };
        if reader.has(of_xen) {
            let kind = ErrorKind::BesideSupervision { of_xen, key, place: place.to_string() };
            reader
                .error_at(kind, of_xen)
                .hint(format!("autorestart decides for a supervised domain: remove {of_xen}, or every key of supervision"))
                .done();
        }
    }
}

fn guest_events(reader: &mut Reader<'_>, config: &mut DomainConfig) {
    let managed = config.supervision.as_ref().is_some_and(|rules| rules.managed_start);
    config.guest_events = GuestEvents::default_of(&config.backend, managed);
    let Some(text) = reader.text("guest_events") else { return };
    match GuestEvents::parse(&text.value) {
        Some(GuestEvents::None) if managed => {
            let what = "managed_start waits for the guest, which has no way to say that it started";
            reader.error(ErrorKind::Contradiction(what), &text.span).done();
        }
        Some(way) => config.guest_events = way,
        None => unknown_word(reader, "guest_events", text, "none, port or console").done(),
    }
}
