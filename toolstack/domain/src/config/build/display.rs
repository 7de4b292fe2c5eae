//! Screen and keyboard.

use super::general::unknown_word;
use super::reader::Reader;
use crate::config::error::ErrorKind;
use crate::config::model::{Display, DomainConfig, GuestKind};

/// The highest display whose port still is one.
const MAX_DISPLAY: i64 = 65_535 - 5_900;

pub(super) fn read(reader: &mut Reader<'_>, config: &mut DomainConfig) {
    let screens = reader.items("vfb");
    let screen = screens.first().map(|text| vfb(&text.value));
    let top = top_level(reader);
    config.display = match (config.kind, screen) {
        (GuestKind::Hvm, screen) => {
            let mut display = merge(top, screen.unwrap_or_default());
            hvm(reader, &mut display);
            display
        }
        // As in xl: a pv domain's vfb makes the other keys void, and without vnc=1 there is none.
        (_, Some(screen)) => screen,
        (_, None) if top.vnc == Some(true) => top,
        (_, None) => Display { vnc: top.vnc, ..Display::default() },
    };
    config.display.videoram_mib = videoram(reader, config);
}

fn top_level(reader: &mut Reader<'_>) -> Display {
    Display {
        vnc: reader.flag("vnc"),
        vnclisten: reader.string("vnclisten").filter(|text| !text.is_empty()),
        vncdisplay: reader.ranged("vncdisplay", 0..=MAX_DISPLAY),
        vncunused: reader.flag("vncunused"),
        vncpasswd: reader.string("vncpasswd").filter(|text| !text.is_empty()),
        keymap: keymap(reader),
        sdl: reader.flag("sdl").unwrap_or(false),
        ..Display::default()
    }
}

fn keymap(reader: &mut Reader<'_>) -> Option<String> {
    let text = reader.text("keymap")?;
    let good = text.value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if good {
        return Some(text.value).filter(|name| !name.is_empty());
    }
    unknown_word(reader, "keymap", text, "a layout's name, such as de or en-us").done();
    None
}

/// One item of `vfb=`; keys it does not know are passed over, as xl does, and so are values: a
/// text that is no number counts as 0.
fn vfb(item: &str) -> Display {
    let mut display = Display { vnc: Some(true), ..Display::default() };
    for word in item.split(',') {
        let Some((key, value)) = word.trim_start_matches(' ').split_once('=') else { continue };
        let number = || {
            let digits = value.bytes().take_while(u8::is_ascii_digit).count();
            value[..digits].parse::<u32>().unwrap_or(0)
        };
        let text = || Some(value.to_owned()).filter(|text| !text.is_empty());
        match key {
            "vnc" => display.vnc = Some(number() != 0),
            "vnclisten" => display.vnclisten = text(),
            "vncpasswd" => display.vncpasswd = text(),
            "vncdisplay" => display.vncdisplay = Some(number()),
            "vncunused" => display.vncunused = Some(number() != 0),
            "keymap" => display.keymap = text(),
            "sdl" => display.sdl = number() != 0,
            _ => {}
        }
    }
    display
}

/// What the keys say, and what `vfb` says where they say nothing.
fn merge(top: Display, screen: Display) -> Display {
    Display {
        vnc: top.vnc.or(screen.vnc),
        vnclisten: top.vnclisten.or(screen.vnclisten),
        vncdisplay: top.vncdisplay.or(screen.vncdisplay),
        vncunused: top.vncunused.or(screen.vncunused),
        vncpasswd: top.vncpasswd.or(screen.vncpasswd),
        keymap: top.keymap.or(screen.keymap),
        sdl: top.sdl || screen.sdl,
        ..top
    }
}

fn hvm(reader: &mut Reader<'_>, display: &mut Display) {
    display.nographic = reader.flag("nographic").unwrap_or(false);
    let stdvga = reader.flag("stdvga");
    display.vga = match reader.text("vga") {
        Some(text) if matches!(text.value.as_str(), "stdvga" | "cirrus" | "none" | "qxl") => {
            Some(text.value)
        }
        Some(text) => {
            let line = format!("Unknown vga \"{}\" specified", text.value);
            unknown_word(reader, "vga", text, "stdvga, cirrus, none or qxl").xl(line).done();
            None
        }
        None => stdvga.map(|on| if on { "stdvga".to_owned() } else { "cirrus".to_owned() }),
    };
    let has_display = display.vnclisten.as_ref().is_some_and(|address| address.contains(':'));
    if has_display && display.vncdisplay.is_some_and(|number| number != 0) {
        let what = "vnclisten and vncdisplay both name a display";
        reader
            .error_at(ErrorKind::Contradiction(what), "vncdisplay")
            .xl("ERROR: Display specified both in vnclisten and vncdisplay!")
            .done();
    }
}

fn videoram(reader: &mut Reader<'_>, config: &DomainConfig) -> Option<u32> {
    let (_, text) = reader.number("videoram")?;
    let mib: u32 = reader.ranged("videoram", 0..=1024)?;
    let (least, card) = match config.display.vga.as_deref() {
        Some("stdvga") => (16, "stdvga"),
        Some("qxl") => (128, "qxl"),
        Some("none") => (0, "none"),
        _ => (8, "cirrus"),
    };
    if config.kind == GuestKind::Hvm && mib < least {
        reader
            .error(ErrorKind::Range { key: "videoram", text: text.value }, &text.span)
            .expected(format!("at least {least} MiB for {card}"))
            .done();
    }
    Some(mib)
}
