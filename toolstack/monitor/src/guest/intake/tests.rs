use super::*;

fn line(intake: &mut Intake, line: &str, now: Instant) -> Taken {
    intake.take(Piece::Line(line.as_bytes()), now)
}

fn said(taken: Taken) -> (Severity, &'static str, String) {
    let said = taken.said.expect("it becomes an event");
    (said.severity, said.what, said.text)
}

#[test]
fn messages_become_events_of_their_severity() {
    let (mut intake, now) = (Intake::new(true), Instant::now());
    let rows = [
        ("id=log text=x k=v", Severity::Info, "guest-log", "x k=v"),
        ("id=log severity=warning text=x", Severity::Warning, "guest-log", "x"),
        ("id=alert text=\"IP conflict\"", Severity::Alert, "guest-alert", "IP conflict"),
        ("id=backup text=done", Severity::Info, "guest-log", "backup: done"),
        (
            "id=log text=x domain=other uuid=1 domid=0",
            Severity::Info,
            "guest-log",
            "x domain=other uuid=1 domid=0",
        ),
    ];
    for (words, severity, what, text) in rows {
        let taken = line(&mut intake, words, now);
        assert_eq!(said(taken), (severity, what, text.to_owned()), "{words}");
    }
}

#[test]
fn words_about_a_start_are_words_where_it_is_managed_and_events_elsewhere() {
    let (mut managed, mut free, now) = (Intake::new(true), Intake::new(false), Instant::now());
    for (words, severity, text) in [
        ("id=progress percent=5 text=fsck", Severity::Info, "progress 5 %: fsck"),
        ("id=failed text=x", Severity::Warning, "failed: x"),
        ("id=started", Severity::Info, "started"),
    ] {
        assert_eq!(line(&mut managed, words, now), Taken::default());
        assert_eq!(said(line(&mut free, words, now)), (severity, "guest-log", text.to_owned()));
        assert_eq!(free.word(now), None);
    }
    let words: Vec<_> = std::iter::from_fn(|| managed.word(now)).map(|(word, _)| word).collect();
    assert_eq!(words.len(), 3);
    assert_eq!(words[2], GuestWord::Started);
}

#[test]
fn words_that_come_too_late_are_events_within_the_same_bounds() {
    let (mut intake, now) = (Intake::new(true), Instant::now());
    let failed = || GuestWord::Failed { text: "disk".into() };
    let said = intake.late(failed(), now).unwrap();
    assert_eq!((said.severity, said.what), (Severity::Warning, "guest-log"));
    assert_eq!(said.text, "failed: disk");
    let kept = (0..1000).filter(|_| intake.late(failed(), now).is_some()).count();
    assert_eq!(u32::try_from(kept + 1).unwrap(), LOG_BURST);
    assert!(intake.due(now + TOLD_AFTER).unwrap().text.contains("901 log messages"));
}

#[test]
fn a_flood_becomes_a_burst_and_one_event_about_the_rest() {
    let (mut intake, start) = (Intake::new(true), Instant::now());
    let mut kept = 0;
    for ms in 0..100_000u64 {
        let now = start + Duration::from_micros(ms * 100);
        kept += u32::from(line(&mut intake, "id=log text=flood", now).said.is_some());
    }
    assert_eq!(kept, LOG_BURST);
    let now = start + TOLD_AFTER;
    assert_eq!(intake.timer(false), Some(now + Duration::from_micros(u64::from(LOG_BURST) * 100)));
    let later = now + Duration::from_secs(1);
    let told = intake.due(later).unwrap();
    assert_eq!(told.what, "guest-suppressed");
    assert_eq!(told.text, "not kept of what the guest said: 99900 log messages too many");
    assert_eq!(intake.due(later), None, "told once");
    // The flood goes on: it is told of again much later.
    for _ in 0..5 {
        line(&mut intake, "id=log text=flood", later);
    }
    assert_eq!(intake.due(later + TOLD_AFTER), None);
    assert!(intake.due(later + TOLD_EVERY).is_some());
}

#[test]
fn words_and_alerts_pass_through_a_flood_of_log_messages() {
    let (mut intake, now) = (Intake::new(true), Instant::now());
    for _ in 0..10_000 {
        line(&mut intake, "id=log text=flood", now);
    }
    line(&mut intake, "id=started", now);
    assert_eq!(intake.word(now).map(|(word, _)| word), Some(GuestWord::Started));
    assert!(line(&mut intake, "id=alert text=x", now).said.is_some());
    let alerts = (0..100).filter(|_| line(&mut intake, "id=alert text=x", now).said.is_some());
    assert_eq!(alerts.count(), ALERT_BURST as usize - 1);
}

#[test]
fn garbage_is_counted_and_told_without_showing_it() {
    let (mut intake, now) = (Intake::new(true), Instant::now());
    intake.take(Piece::TooLong, now);
    intake.take(Piece::Line(b"\x1b[2J\xff"), now);
    intake.take(Piece::Line(b"id=log text=\"\x1b[2J"), now);
    let told = intake.last().unwrap();
    assert_eq!(
        told.text,
        "not kept of what the guest said: 3 lines that are no message (the last one: a quote is \
         not closed)"
    );
    assert_eq!(intake.last(), None);
}

#[test]
fn whoever_asks_is_answered_and_what_is_said_twice_is_heard_once() {
    let (mut intake, now) = (Intake::new(true), Instant::now());
    let first = line(&mut intake, "id=log text=x ref=a1", now);
    assert!(first.said.is_some());
    assert_eq!(first.answer, Some(("a1".to_owned(), Ok(()))));
    let again = line(&mut intake, "id=log text=x ref=a1", now);
    assert_eq!(again, Taken { said: None, answer: Some(("a1".to_owned(), Ok(()))) });
    let refused = line(&mut intake, "id=progress percent=x ref=a2", now);
    assert!(matches!(refused.answer, Some((who, Err(_))) if who == "a2"));
    assert_eq!(line(&mut intake, "id=started ref=a3", now), Taken::default());
    assert_eq!(intake.word(now), Some((GuestWord::Started, vec!["a3".to_owned()])));
    for number in 0..1000 {
        line(&mut intake, &format!("id=log text=x ref=b{number}"), now);
        assert!(intake.remembered.len() <= REMEMBERED);
    }
    let too_many = line(&mut intake, "id=log text=x ref=c", now);
    assert_eq!(too_many.answer, Some(("c".to_owned(), Err(SUPPRESSED))));
}
