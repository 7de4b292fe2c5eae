use super::*;
use proptest::prelude::*;

fn read(line: &str) -> Result<Message, Refusal> {
    decode(line.as_bytes()).message
}

fn log(text: &str, fields: &[(&str, &str)]) -> Message {
    let fields = fields.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Message::Log { severity: Severity::Info, text: text.to_owned(), fields }
}

fn failed(text: &str) -> Message {
    Message::Word(GuestWord::Failed { text: text.to_owned() })
}

#[test]
fn every_message_is_read_as_it_is_documented() {
    let progress =
        |percent, text: &str| Message::Word(GuestWord::Progress { percent, text: text.to_owned() });
    let rows: [(&str, Message); 14] = [
        ("id=started", Message::Word(GuestWord::Started)),
        ("  id=started \t", Message::Word(GuestWord::Started)),
        ("ID=STARTED", Message::Word(GuestWord::Started)),
        ("id=failed text=\"no disk\"", failed("no disk")),
        ("id=failed", failed(FAILED_TO_START)),
        ("id=failed text=\"\"", failed(FAILED_TO_START)),
        ("id=progress percent=42 text=\"fsck /data\"", progress(42, "fsck /data")),
        ("id=progress percent=100%", progress(100, "")),
        ("id=log log_text=T", log("T", &[])),
        ("id=log text=\"a b\" if=eth0", log("a b", &[("if", "eth0")])),
        (
            "id=log ip=10.0.0.1 why=\"say \\\"no\\\" \\\\\"",
            log("", &[("ip", "10.0.0.1"), ("why", "say \"no\" \\")]),
        ),
        (
            "id=log severity=warning text=x",
            Message::Log {
                severity: Severity::Warning,
                text: "x".to_owned(),
                fields: Fields::new(),
            },
        ),
        (
            "id=alert alert_text=\"IP conflict\"",
            Message::Alert { text: "IP conflict".to_owned(), fields: Fields::new() },
        ),
        (
            "id=backup size=3",
            Message::Other {
                id: "backup".to_owned(),
                text: String::new(),
                fields: vec![("size".to_owned(), "3".to_owned())],
            },
        ),
    ];
    for (line, message) in rows {
        assert_eq!(read(line), Ok(message), "{line}");
    }
}

#[test]
fn what_is_no_message_is_refused_with_its_reason() {
    let long = format!("id=log text={}", "x".repeat(LINE_MAX));
    let many: String = (0..=FIELDS_MAX).map(|n| format!(" k{n}=v")).collect();
    let rows = [
        ("", Refusal::NoId),
        ("started", Refusal::NoId),
        ("text=x id=log", Refusal::NoId),
        ("id=", Refusal::BadName),
        ("id=9", Refusal::BadName),
        ("id=a/b", Refusal::BadName),
        ("id=log text", Refusal::NoField { at: 7 }),
        ("id=log =x", Refusal::BadName),
        ("id=log text=\"x", Refusal::OpenQuote),
        ("id=log text=\"x\\", Refusal::OpenQuote),
        ("id=log text=\"x\"y", Refusal::AfterQuote),
        ("id=log a=1 a=2", Refusal::Twice { key: "a".to_owned() }),
        ("id=log id=log", Refusal::Twice { key: "id".to_owned() }),
        ("id=log text=a log_text=b", Refusal::Twice { key: "text".to_owned() }),
        ("id=log", Refusal::Missing { id: "log".to_owned(), key: "text" }),
        ("id=alert", Refusal::Missing { id: "alert".to_owned(), key: "text" }),
        ("id=progress", Refusal::Missing { id: "progress".to_owned(), key: "percent" }),
        (&long, Refusal::TooLong),
        (&format!("id=x{many}"), Refusal::TooMany),
    ];
    for (line, refusal) in rows {
        assert_eq!(read(line), Err(refusal), "{line}");
    }
    for percent in ["-1", "101", "+5", "", "1e1", "256", "99999999999999999999"] {
        let refusal = read(&format!("id=progress percent=\"{percent}\"")).unwrap_err();
        assert!(matches!(refusal, Refusal::BadValue { key: "percent", .. }), "{percent}");
    }
    assert!(matches!(read("id=log severity=x text=y"), Err(Refusal::BadValue { .. })));
}

#[test]
fn a_reference_is_known_also_where_the_message_is_refused() {
    let decoded = decode(b"id=progress ref=a1B2 percent=7000");
    assert_eq!(decoded.reference.as_deref(), Some("a1B2"));
    assert!(matches!(decoded.message, Err(Refusal::BadValue { .. })));
    for bad in ["", "a b", "0123456789abcdef0", "x;y", "\u{e9}"] {
        let line = format!("id=started ref=\"{bad}\"");
        assert_eq!(decode(line.as_bytes()).reference, None, "{bad}");
    }
}

#[test]
fn text_is_fit_for_a_terminal() {
    let rows = [
        ("plain", "plain"),
        (" two\t\twords\r\n", "two  words"),
        ("\u{1b}[2Jgone\u{7}", "\\x1b[2Jgone\\x07"),
        ("c1 \u{9b}31m", "c1 \\x9b31m"),
        ("exe\u{202e}txt.", "exe\\u{202e}txt."),
        ("a\u{2028}b", "a b"),
        ("Übergröße ☃", "Übergröße ☃"),
    ];
    for (text, shown) in rows {
        assert_eq!(clean(text, TEXT_MAX), shown, "{text:?}");
    }
    assert_eq!(clean("ääää", 6), "ä…");
    assert_eq!(clean("abc", 2), "");
    assert_eq!(read("id=log text=\"\u{fffd}\""), Ok(log("\u{fffd}", &[])));
    let Ok(Message::Log { text, .. }) = decode(b"id=log text=\"\xff\xfe\x1b\"").message else {
        panic!("it is a message");
    };
    assert_eq!(text, "\u{fffd}\u{fffd}\\x1b");
}

#[test]
fn a_message_is_shown_in_one_line() {
    let rows = [
        ("id=log text=\"a b\" if=eth0 why=\"x y\"", "a b if=eth0 why=\"x y\""),
        ("id=log if=eth0", "if=eth0"),
        ("id=backup", "backup"),
        ("id=backup text=done size=3", "backup: done size=3"),
        ("id=backup size=3", "backup size=3"),
        ("id=progress percent=5 text=fsck", "progress 5 %: fsck"),
        ("id=failed", "failed: Failed to Start"),
    ];
    for (line, shown) in rows {
        assert_eq!(read(line).unwrap().to_string(), shown, "{line}");
    }
}

fn kept(piece: Piece<'_>) -> Option<Vec<u8>> {
    match piece {
        Piece::Line(line) => Some(line.to_vec()),
        Piece::TooLong => None,
    }
}

/// What a port gives, fed in pieces of this size; `None` is a line that is too long.
fn lines(bytes: &[u8], size: usize) -> Vec<Option<Vec<u8>>> {
    let (mut lines, mut found) = (Lines::default(), Vec::new());
    bytes.chunks(size).for_each(|part| lines.push(part, |piece| found.push(kept(piece))));
    found
}

/// The same for a console.
fn marked(bytes: &[u8], size: usize) -> Vec<Option<Vec<u8>>> {
    let (mut marked, mut found) = (Marked::default(), Vec::new());
    bytes.chunks(size).for_each(|part| marked.push(part, |piece| found.push(kept(piece))));
    found
}

#[test]
fn lines_come_whole_however_they_arrive() {
    let longest = vec![b'x'; LINE_MAX];
    let mut bytes = b"\nid=started\r\n\r\n\nid=log text=x\n".to_vec();
    bytes.extend(&longest);
    bytes.extend(b"\r\n");
    bytes.extend(&longest);
    bytes.extend(b"y\nafter\nunfinished");
    let some = |line: &[u8]| Some(line.to_vec());
    let wanted =
        [some(b"id=started"), some(b"id=log text=x"), some(&longest), None, some(b"after")];
    for size in [1, 2, 3, 7, 1000, 1 << 20] {
        assert_eq!(lines(&bytes, size), wanted, "{size}");
    }
}

#[test]
fn marked_lines_are_found_behind_what_a_console_puts_before_them() {
    let before: [&[u8]; 12] = [
        b"",
        b"\n",
        b"\r",
        b"login: \r\n",
        b"\0\0 \t",
        b"\xff\xfb\x03\xff\xfd\x22",
        b"\xff\xf1",
        b"\x1b[0m\x1b[1;31m",
        b"\x1b]0;title\x07",
        b"\x1b]0;title\x1b\\",
        b"\x1bM",
        b"\x80\x9b",
    ];
    for before in before {
        for end in [&b"\r"[..], b"\n", b"\r\n", b"\r\r\n"] {
            for marker in [MARKER, "@@KXL-EVENT "] {
                let bytes = [before, marker.as_bytes(), b"id=\0started", end].concat();
                for size in [1, 2, 5, 4096] {
                    let wanted = [Some(b"id=started".to_vec())];
                    assert_eq!(marked(&bytes, size), wanted, "{before:?} {end:?}");
                }
            }
        }
    }
}

#[test]
fn a_line_that_only_contains_the_marker_says_nothing() {
    let rows: [&[u8]; 7] = [
        b"$ echo @@kxl-event id=started\n",
        b"@@@kxl-event id=started\n",
        b"@@kxl-event\n",
        b"@@kxl-events id=started\n",
        b"@@kxl-ev",
        b"@@kxl-event id=started",
        b"@@kxl-e\nvent id=started\n",
    ];
    for bytes in rows {
        for size in [1, 3, 4096] {
            assert_eq!(marked(bytes, size), Vec::<Option<Vec<u8>>>::new(), "{bytes:?}");
        }
    }
}

#[test]
fn a_marked_line_that_is_too_long_is_passed_over_and_the_next_one_is_read() {
    let mut bytes = MARKER.as_bytes().to_vec();
    bytes.extend(vec![b'x'; LINE_MAX + 1]);
    bytes.extend(b"\r\n@@kxl-event id=started\r\n");
    for size in [1, 100, 1 << 16] {
        assert_eq!(marked(&bytes, size), [None, Some(b"id=started".to_vec())], "{size}");
    }
}

#[test]
fn a_stream_holds_little_whatever_comes() {
    let (mut lines, mut marked) = (Lines::default(), Marked::default());
    for _ in 0..1000 {
        lines.push(&[b'x'; 4096], |_| {});
        marked.push(b"@@kxl-event ", |_| {});
        marked.push(&[b'x'; 4096], |_| {});
        assert!(lines.line.capacity() <= 2 * LINE_MAX + 2);
        assert!(marked.line.capacity() <= 2 * LINE_MAX);
    }
}

#[test]
fn the_corpus_of_the_fuzz_target_is_read_or_refused() {
    let corpus =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/guest_line");
    let mut count = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        sound(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count >= 5, "{count}");
}

/// What has to hold for bytes from anywhere.
fn sound(bytes: &[u8]) {
    let shown = |text: &str, max: usize| {
        assert!(text.len() <= max, "{text:?}");
        assert!(!text.chars().any(char::is_control), "{text:?}");
        assert_eq!(clean(text, max), text);
    };
    let whole = |bytes: &[u8]| match decode(bytes).message {
        Ok(message) => {
            let all = message.to_string();
            assert!(!all.chars().any(char::is_control) && all.len() < 4096, "{all:?}");
            if let Ok(line) = message.encode() {
                assert_eq!(read(&line), Ok(message.clone()), "{line}");
            }
            match &message {
                Message::Word(GuestWord::Started) => {}
                Message::Word(GuestWord::Failed { text } | GuestWord::Progress { text, .. }) => {
                    shown(text, TEXT_MAX);
                }
                Message::Log { text, fields, .. }
                | Message::Alert { text, fields }
                | Message::Other { text, fields, .. } => {
                    shown(text, TEXT_MAX);
                    assert!(fields.len() <= FIELDS_MAX);
                    for (key, value) in fields {
                        assert!(key.len() <= NAME_MAX);
                        shown(value, VALUE_MAX);
                    }
                }
            }
        }
        Err(refusal) => assert!(!refusal.to_string().chars().any(char::is_control)),
    };
    whole(bytes);
    for found in [lines(bytes, 4096), marked(bytes, 4096)] {
        for line in found.into_iter().flatten() {
            assert!(line.len() <= LINE_MAX);
            whole(&line);
        }
    }
    assert_eq!(lines(bytes, 1), lines(bytes, 4096));
    assert_eq!(marked(bytes, 1), marked(bytes, 4096));
}

fn key() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9_.-]{0,12}".prop_filter("names with a meaning", |key| {
        !matches!(key.as_str(), "id" | "ref" | "text" | "severity" | "percent")
            && !key.ends_with("_text")
    })
}

fn text() -> impl Strategy<Value = String> {
    any::<String>().prop_map(|text| clean(&text, TEXT_MAX))
}

fn fields() -> impl Strategy<Value = Fields> {
    prop::collection::btree_map(key(), any::<String>(), 0..5)
        .prop_map(|map| map.into_iter().map(|(k, v)| (k, clean(&v, VALUE_MAX))).collect())
}

fn spoken() -> impl Strategy<Value = (String, Fields)> {
    (text(), fields()).prop_filter("empty", |(text, rest)| !text.is_empty() || !rest.is_empty())
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        Just(Message::Word(GuestWord::Started)),
        text().prop_filter("empty", |text| !text.is_empty()).prop_map(|text| failed(&text)),
        (0u8..=100, text())
            .prop_map(|(percent, text)| Message::Word(GuestWord::Progress { percent, text })),
        spoken().prop_map(|(text, fields)| Message::Alert { text, fields }),
        (spoken(), any::<bool>()).prop_map(|((text, fields), warning)| Message::Log {
            severity: if warning { Severity::Warning } else { Severity::Info },
            text,
            fields,
        }),
        (text(), fields()).prop_map(|(text, fields)| Message::Other {
            id: "backup".to_owned(),
            text,
            fields
        }),
    ]
}

/// Bytes that look like lines more often than chance has it.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        prop::sample::select(vec![
            &b"@@kxl-event "[..],
            b"id=log ",
            b"id=progress percent=",
            b"text=\"",
            b"\" ",
            b"\r\n",
            b"\x1b[2J",
            b"=",
            b"\\",
        ])
        .prop_map(<[u8]>::to_vec),
        (any::<u8>(), 0usize..2000).prop_map(|(byte, count)| vec![byte; count]),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn a_message_that_is_written_is_read_again(message in message()) {
        match message.encode() {
            Ok(line) => prop_assert_eq!(read(&line), Ok(message)),
            Err(refusal) => prop_assert_eq!(refusal, Refusal::TooLong),
        }
    }

    #[test]
    fn bytes_from_anywhere_are_read_or_refused(bytes in hostile()) {
        sound(&bytes);
    }

    #[test]
    fn cleaning_twice_is_cleaning_once(text in any::<String>(), max in 0usize..40) {
        let once = clean(&text, max);
        prop_assert!(once.len() <= max);
        prop_assert_eq!(clean(&once, max), once.clone());
    }
}
