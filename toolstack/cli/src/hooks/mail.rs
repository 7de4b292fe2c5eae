//! An alert as a mail.

use std::fs;

use kxl_engine::Telling;
use kxl_store::EventRow;

use super::event::utc;
use crate::text::add;
use crate::view::advice::next_step;

/// The mail about an alert, as a program takes it that finds its recipients in the headers.
///
/// What a guest has a say in is in no header but the subject, and there in plain characters only.
pub(crate) fn letter(telling: &Telling, row: &EventRow) -> String {
    let event = &row.event;
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    let who = if event.name.is_empty() { "this host" } else { &event.name };
    let mut text = String::new();
    if let Some(from) = &telling.mail_from {
        add(&mut text, format_args!("From: {from}\n"));
    }
    add(&mut text, format_args!("To: {}\n", telling.mail_to.join(", ")));
    let subject = plain(&format!("[kxl] {host}: {who}: {}", event.what));
    add(&mut text, format_args!("Subject: {subject}\n"));
    text.push_str(
        "Auto-Submitted: auto-generated\nMIME-Version: 1.0\n\
         Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n",
    );
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            // A line of its own for each, whatever is in it; of a length that mail may have.
            let value: String =
                value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            add(&mut text, format_args!("{name:<9} {}\n", folded(&value)));
        }
    };
    line("alert:", &row.id.to_string());
    line("host:", host);
    line("domain:", &event.name);
    line("uuid:", &event.uuid.map(|uuid| uuid.to_string()).unwrap_or_default());
    line("domid:", &event.domid.map(|domid| domid.to_string()).unwrap_or_default());
    line("time:", &utc(event.time_ms));
    line("what:", &event.what);
    line("text:", &event.text);
    line("reason:", &event.reason.map(|reason| reason.to_string()).unwrap_or_default());
    line("action:", event.action.as_deref().unwrap_or_default());
    line("to do:", &next_step(row));
    add(
        &mut text,
        format_args!(
            "\nIt stays open, and the same is not sent again, until somebody says\n  \
             kxl alerts ack {}\n",
            row.id
        ),
    );
    text
}

/// Text of printable ASCII, not too long for a header.
fn plain(text: &str) -> String {
    let printable = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    text.chars().map(printable).take(200).collect()
}

/// The text broken into lines that are short enough for a mail, at whatever stands there.
fn folded(text: &str) -> String {
    let mut out = String::new();
    let mut length = 0;
    for c in text.chars() {
        if length > 900 || (length > 70 && c == ' ') {
            out.push_str("\n         ");
            length = 0;
        }
        out.push(c);
        length += c.len_utf8();
    }
    out
}

#[cfg(test)]
mod tests {
    use kxl_store::{Event, Severity};

    use super::*;

    #[test]
    fn no_word_of_a_guest_becomes_a_header_or_a_line() {
        let telling = Telling {
            mail_to: vec!["root".into(), "ops@example.org".into()],
            mail_from: Some("kxl@example.org".into()),
            ..Telling::default()
        };
        let mut event = Event::new(Severity::Alert, "guest-alert\nBcc: eve@example.org");
        event.name = "web\r\nBcc: eve@example.org".into();
        event = event.text(format!("a\n.\nBcc: eve@example.org\r\n{}", "x".repeat(3000)));
        let letter = letter(&telling, &EventRow::new(5, event));
        let (head, body) = letter.split_once("\n\n").unwrap();
        let names: Vec<_> = head.lines().map(|line| line.split(':').next().unwrap()).collect();
        assert_eq!(
            names,
            [
                "From",
                "To",
                "Subject",
                "Auto-Submitted",
                "MIME-Version",
                "Content-Type",
                "Content-Transfer-Encoding"
            ]
        );
        assert!(head.contains("To: root, ops@example.org\n"), "{head}");
        assert!(body.lines().all(|line| line.len() < 998 && line != "."), "{body}");
        assert!(body.lines().all(|line| !line.starts_with("Bcc")), "{body}");
        assert!(body.contains("kxl alerts ack 5"), "{body}");
    }
}
