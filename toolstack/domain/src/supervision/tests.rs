//! Every row of the table, and what supervisord 4.3 was seen to do.

use super::*;
use crate::config::model::{Autorestart, Supervision};
use crate::policy::GuestEvent;
use crate::state::{Op, Reason, State};

const NOW: i64 = 1_700_000_000_000;

fn rules(change: impl FnOnce(&mut Supervision)) -> Supervision {
    let mut rules = Supervision::default();
    change(&mut rules);
    rules
}

fn exit(code: i32) -> Happened {
    let event = if code == 0 { GuestEvent::Poweroff } else { GuestEvent::Crash };
    let text = format!("exit status {code}");
    Happened::Ended(Ended { event, code: Some(code), signal: None, text })
}

fn killed() -> Happened {
    let text = "ended by SIGKILL".to_owned();
    Happened::Ended(Ended { event: GuestEvent::Crash, code: None, signal: Some(9), text })
}

fn starting(rules: &Supervision) -> Record {
    let step = follow(rules, Phase::Launching, &Record::default(), &Happened::Launched, NOW);
    assert_eq!(step.then, Then::Begin);
    step.record
}

fn running() -> Record {
    Record { ready: true, ..Record::default() }
}

#[test]
fn rule_1_an_exit_before_startsecs_is_a_failed_start_whatever_the_code() {
    let rules = rules(|_| ());
    for end in [exit(0), exit(1), killed()] {
        let step = follow(&rules, Phase::Starting, &starting(&rules), &end, NOW + 500);
        assert_eq!(step.then, Then::Retry, "{end:?}");
        assert_eq!(step.record.failed_starts, 1);
        assert!(step.record.why.unwrap().ends_with("before the 10 s were over that make a start"));
    }
}

#[test]
fn rule_2_n_retries_are_n_plus_1_tries_and_the_wait_before_try_k_plus_1_is_k_seconds() {
    for retries in [0, 1, 3] {
        let rules = rules(|r| r.startretries = retries);
        let mut record = Record::default();
        let mut gaps = Vec::new();
        let tries = 1 + std::iter::from_fn(|| {
            let step = follow(&rules, Phase::Launching, &record, &Happened::Launched, NOW);
            let step = follow(&rules, Phase::Starting, &step.record, &exit(1), NOW);
            record = step.record;
            (step.then == Then::Retry).then(|| gaps.push(record.retry_at_ms.unwrap() - NOW))
        })
        .count();
        assert_eq!(tries, retries as usize + 1);
        let expected: Vec<i64> = (1..=i64::from(retries)).map(|k| k * 1000).collect();
        assert_eq!(gaps, expected);
        assert_eq!(record.retry_at_ms, None, "there is no wait after the last try");
        assert_eq!(record.failed_starts, retries + 1);
    }
}

#[test]
fn rule_3_startsecs_0_is_running_at_once_and_never_backoff() {
    let rules = rules(|r| r.startsecs = 0);
    let step = follow(&rules, Phase::Launching, &Record::default(), &Happened::Launched, NOW);
    assert_eq!(step.then, Then::Up);
    assert!(step.record.ready);
    let step = follow(&rules, Phase::Running, &step.record, &exit(1), NOW);
    assert_eq!(step.then, Then::Restart);
}

#[test]
fn rule_4_after_running_a_bad_exit_restarts_at_once_without_limit() {
    let rules = rules(|r| r.startretries = 0);
    let mut record = running();
    for _ in 0..1000 {
        let step = follow(&rules, Phase::Running, &record, &exit(3), NOW);
        assert_eq!((step.then, step.record.retry_at_ms), (Then::Restart, None));
        record = Record { ready: true, ..step.record };
    }
}

#[test]
fn rule_4_running_resets_the_counter() {
    let rules = rules(|_| ());
    let record = Record { failed_starts: 3, ..starting(&rules) };
    let step = follow(&rules, Phase::Starting, &record, &Happened::Settled, NOW);
    assert_eq!((step.then, step.record.failed_starts), (Then::Up, 0));
}

#[test]
fn rule_5_a_stop_ends_in_stopped_whatever_the_exit_code() {
    let rules = rules(|r| r.autorestart = Autorestart::Always);
    for phase in [Phase::Starting, Phase::Running] {
        let step = follow(&rules, phase, &running(), &Happened::Stop, NOW);
        assert_eq!(step.then, Then::Stopping);
        assert!(step.record.stopped_by_person);
        for end in [exit(0), exit(7), killed()] {
            let step = follow(&rules, Phase::Stopping, &step.record, &end, NOW);
            assert_eq!(step.then, Then::Stopped);
            let state = word(State::Halted, None, Some(Reason::Crash), &step.record);
            assert_eq!(state, Word::Stopped);
        }
    }
}

#[test]
fn rule_5_a_stop_in_backoff_is_stopped_directly() {
    let rules = rules(|_| ());
    let waiting = follow(&rules, Phase::Starting, &starting(&rules), &exit(1), NOW).record;
    assert_eq!(word(State::Halted, Some(Op::Starting), None, &waiting), Word::Backoff);
    let step = follow(&rules, Phase::Waiting, &waiting, &Happened::Stop, NOW);
    assert_eq!((step.then, step.record.retry_at_ms), (Then::Stopped, None));
}

#[test]
fn rule_6_a_process_that_was_killed_has_a_signal_and_no_expected_code() {
    let rules = rules(|r| r.exitcodes = (0..=255).collect());
    let Happened::Ended(ended) = killed() else { unreachable!() };
    assert!(!ended.is_expected(&rules));
    assert_eq!(ended.last_exit(&rules).signal, Some(9));
}

#[test]
fn rule_7_exited_says_whether_it_was_expected() {
    let rules = rules(|r| {
        r.autorestart = Autorestart::Never;
        r.exitcodes = vec![0, 2];
    });
    for (code, expected) in [(0, true), (2, true), (1, false)] {
        let step = follow(&rules, Phase::Running, &running(), &exit(code), NOW);
        assert_eq!(step.then, Then::Exited);
        let last = step.record.last_exit.unwrap();
        assert_eq!((last.code, last.expected), (Some(code), expected));
    }
}

#[test]
fn rule_7_an_expected_exit_stays_and_autorestart_always_starts_again_all_the_same() {
    let unexpected = rules(|r| r.exitcodes = vec![0, 2]);
    assert_eq!(follow(&unexpected, Phase::Running, &running(), &exit(2), NOW).then, Then::Exited);
    assert_eq!(follow(&unexpected, Phase::Running, &running(), &exit(1), NOW).then, Then::Restart);
    let always = rules(|r| r.autorestart = Autorestart::Always);
    assert_eq!(follow(&always, Phase::Running, &running(), &exit(0), NOW).then, Then::Restart);
}

#[test]
fn rule_8_fatal_and_exited_start_again_with_a_fresh_counter() {
    let rules = rules(|_| ());
    let fatal = Record { failed_starts: 4, why: Some("no".into()), ..Record::default() };
    let step = follow(&rules, Phase::Off, &fatal, &Happened::Start, NOW);
    assert_eq!((step.then, step.record), (Then::Launch, Record::default()));
    let stopped = Record { stopped_by_person: true, ..Record::default() };
    let step = follow(&rules, Phase::Off, &stopped, &Happened::Start, NOW);
    assert!(!step.record.stopped_by_person);
}

#[test]
fn rule_9_a_launch_that_can_never_succeed_is_fatal_at_once() {
    let rules = rules(|_| ());
    let failed = |for_good| Happened::LaunchFailed { for_good, why: "x is missing".into() };
    let step = follow(&rules, Phase::Launching, &Record::default(), &failed(true), NOW);
    assert_eq!((step.then, step.record.why.as_deref()), (Then::Fatal, Some("x is missing")));
    let step = follow(&rules, Phase::Launching, &Record::default(), &failed(false), NOW);
    assert_eq!(step.then, Then::Retry);
    let last = Record { failed_starts: 3, ..Record::default() };
    assert_eq!(follow(&rules, Phase::Launching, &last, &failed(false), NOW).then, Then::Fatal);
}

#[test]
fn a_managed_start_waits_for_its_guest_and_for_nothing_else() {
    let rules = rules(|r| {
        r.managed_start = true;
        r.startsecs = 0;
    });
    let record = starting(&rules);
    assert_eq!(next_timer(&rules, &record, NOW), Some((300_000, Timer::Late)));
    let settled = follow(&rules, Phase::Starting, &record, &Happened::Settled, NOW);
    assert_eq!(settled.then, Then::Nothing);
    let started = Happened::Guest(GuestWord::Started);
    let step = follow(&rules, Phase::Starting, &record, &started, NOW);
    assert_eq!((step.then, step.record.ready), (Then::Up, true));
    assert_eq!(next_timer(&rules, &step.record, NOW), None);
}

#[test]
fn a_guest_that_says_failed_or_nothing_has_failed_its_start() {
    let rules = rules(|r| {
        r.managed_start = true;
        r.start_timeout = Some(20);
    });
    let record = starting(&rules);
    let said = Happened::Guest(GuestWord::Failed { text: "no disk".into() });
    let step = follow(&rules, Phase::Starting, &record, &said, NOW);
    assert_eq!(step.then, Then::Retry);
    assert_eq!(step.record.why.as_deref(), Some("its guest says: no disk"));
    let step = follow(&rules, Phase::Starting, &record, &Happened::Late, NOW + 20_000);
    assert_eq!(step.then, Then::Retry);
    assert_eq!(step.record.why.as_deref(), Some("hung: it has not started within 20 s"));
    let last = Record { failed_starts: 3, ..record };
    for happened in [said, Happened::Late] {
        assert_eq!(follow(&rules, Phase::Starting, &last, &happened, NOW).then, Then::Fatal);
    }
}

#[test]
fn progress_moves_the_deadline_on_and_silence_for_an_interval_is_a_hang() {
    let rules = rules(|r| {
        r.managed_start = true;
        r.start_timeout = Some(20);
        r.progress_interval = 5;
    });
    let work = |percent| Happened::Guest(GuestWord::Progress { percent, text: "fsck".into() });
    let mut record = starting(&rules);
    for percent in 0..100 {
        let now = NOW + i64::from(percent) * 4000;
        let step = follow(&rules, Phase::Starting, &record, &work(percent), now);
        assert_eq!(step.then, Then::Note);
        record = step.record;
        assert_eq!(next_timer(&rules, &record, now), Some((5000, Timer::Late)));
    }
    let step = follow(&rules, Phase::Starting, &record, &Happened::Late, NOW + 500_000);
    let why = step.record.why.unwrap();
    assert_eq!(why, "hung at 99 % of its maintenance start: nothing was heard for 5 s");
    let odd = follow(&rules, Phase::Starting, &record, &work(255), NOW).record;
    assert_eq!(odd.maintenance.unwrap().percent, 100);
}

#[test]
fn what_a_guest_says_counts_only_while_it_starts_and_where_it_is_asked() {
    let rules = rules(|r| r.managed_start = true);
    let words = [
        GuestWord::Started,
        GuestWord::Failed { text: String::new() },
        GuestWord::Progress { percent: 1, text: String::new() },
    ];
    for said in words {
        for phase in [Phase::Off, Phase::Waiting, Phase::Running, Phase::Stopping] {
            let step = follow(&rules, phase, &running(), &Happened::Guest(said.clone()), NOW);
            assert_eq!((step.then, step.record), (Then::Nothing, running()), "{said:?} {phase}");
        }
    }
    let unasked = Supervision::default();
    let started = Happened::Guest(GuestWord::Started);
    assert_eq!(follow(&unasked, Phase::Starting, &running(), &started, NOW).then, Then::Nothing);
}

#[test]
fn a_guests_power_off_counts_as_0_and_a_crash_is_never_expected() {
    let all = rules(|r| r.exitcodes = (0..=255).collect());
    let end = |event, code| Ended { event, code, signal: None, text: String::new() };
    assert!(end(GuestEvent::Poweroff, None).is_expected(&all));
    assert!(!end(GuestEvent::Crash, None).is_expected(&all));
    // A simulator that reports the crash of its guest ends well itself.
    assert!(!end(GuestEvent::Crash, Some(0)).is_expected(&all));
    assert!(!end(GuestEvent::Watchdog, Some(0)).is_expected(&all));
    let none = rules(|r| r.exitcodes = Vec::new());
    assert!(!end(GuestEvent::Poweroff, None).is_expected(&none));
}

#[test]
fn timers_stand_still_with_their_domain() {
    let rules = rules(|_| ());
    let record = starting(&rules).standing(NOW + 4000);
    assert_eq!(next_timer(&rules, &record, NOW + 900_000), None);
    let record = record.going_on(NOW + 900_000);
    assert_eq!(next_timer(&rules, &record, NOW + 901_000), Some((5000, Timer::Settled)));
}

#[test]
fn a_clock_that_was_set_makes_no_wait_longer_than_its_rule() {
    let rules = rules(|_| ());
    let long_ago = NOW - 3_600_000;
    assert_eq!(next_timer(&rules, &starting(&rules), long_ago), Some((10_000, Timer::Settled)));
    let waiting = follow(&rules, Phase::Starting, &starting(&rules), &exit(1), NOW).record;
    assert_eq!(next_timer(&rules, &waiting, long_ago), Some((1000, Timer::Retry)));
    assert_eq!(next_timer(&rules, &waiting, NOW + 300), Some((700, Timer::Retry)));
    assert_eq!(next_timer(&rules, &waiting, NOW + 9000), Some((0, Timer::Retry)));
}

#[test]
fn a_record_that_tells_the_time_of_day_is_taken_over_with_the_whole_of_each_wait() {
    let rules = rules(|r| r.managed_start = true);
    // Written by a version that wrote milliseconds since 1970.
    let booted = 60_000;
    let work = Some(MaintenanceStart { percent: 1, text: String::new(), at_ms: NOW });
    let record = starting(&rules).taken_over(10, booted);
    assert_eq!(next_timer(&rules, &record, booted), Some((300_000, Timer::Late)));
    assert_eq!(next_timer(&rules, &record, booted + 300_000), Some((0, Timer::Late)));
    let record = Record { maintenance: work, ..starting(&rules) }.taken_over(10, booted);
    assert_eq!(next_timer(&rules, &record, booted + 60_000), Some((0, Timer::Late)));
    let waiting = Record { failed_starts: 2, retry_at_ms: Some(NOW), ..Record::default() };
    let waiting = waiting.taken_over(10, booted);
    assert_eq!(next_timer(&rules, &waiting, booted + 500), Some((1500, Timer::Retry)));
    let stopping = Record { stop_by_ms: Some(NOW), ..running() }.taken_over(10, booted);
    assert_eq!(stop_timer(&stopping, 10, booted + 9_000), Some(1000));
    assert_eq!(stop_timer(&stopping, 10, booted + 11_000), Some(0));
    assert_eq!(stop_timer(&running(), 10, booted), None);
}

#[test]
fn a_guest_that_reboots_before_it_has_started_has_no_more_time_for_that() {
    let rules = rules(|r| r.start_timeout = Some(30));
    let reboot = |record: Record, at| {
        let record = record.rebooting(at);
        follow(&rules, Phase::Launching, &record, &Happened::Launched, at).record
    };
    let record = reboot(reboot(starting(&rules), NOW + 9000), NOW + 18_000);
    assert_eq!(next_timer(&rules, &record, NOW + 18_000), Some((10_000, Timer::Settled)));
    let record = reboot(record, NOW + 27_000);
    assert_eq!(next_timer(&rules, &record, NOW + 27_000), Some((3000, Timer::Late)));
    // The next try has all of it again, and so has a reboot of one that was up.
    let failed = follow(&rules, Phase::Starting, &record, &Happened::Late, NOW + 30_000).record;
    assert_eq!(failed.earlier_ms, 0);
    assert_eq!(reboot(running(), NOW).earlier_ms, 0);
}

#[test]
fn nothing_is_pending_while_nothing_can_happen() {
    let rules = rules(|_| ());
    assert_eq!(next_timer(&rules, &running(), NOW), None);
    assert_eq!(next_timer(&rules, &Record::default(), NOW), None);
    let stopping = Record { stopped_by_person: true, ..starting(&rules) };
    assert_eq!(next_timer(&rules, &stopping, NOW), None);
}

#[test]
fn every_row_of_the_table_can_apply() {
    for (at, row) in TABLE.iter().enumerate() {
        let hidden = TABLE[..at].iter().any(|before| {
            (before.phase, before.what) == (row.phase, row.what) && before.when == If::Always
        });
        assert!(!hidden, "{row:?} is never reached");
    }
}

#[test]
fn the_words_of_resting_and_moving_domains() {
    let word = |state, op, reason| word(state, op, reason, &Record::default());
    assert_eq!(word(State::Halted, None, Some(Reason::New)), Word::Stopped);
    assert_eq!(word(State::Halted, None, Some(Reason::Poweroff)), Word::Exited);
    assert_eq!(word(State::Halted, None, Some(Reason::Unknown)), Word::Unknown);
    assert_eq!(word(State::Halted, None, Some(Reason::LostAtHostReboot)), Word::Stopped);
    assert_eq!(word(State::Suspended, None, Some(Reason::Suspended)), Word::Stopped);
    assert_eq!(word(State::Failed, None, Some(Reason::StartFailed)), Word::Fatal);
    assert_eq!(word(State::Absent, Some(Op::Starting), None), Word::Starting);
    assert_eq!(word(State::Running, Some(Op::Stopping), None), Word::Stopping);
    assert_eq!(word(State::Running, None, None), Word::Starting);
    assert_eq!(word(State::Shutdown, None, Some(Reason::Crash)), Word::Exited);
}

#[test]
fn a_record_reads_back_and_an_empty_one_is_the_default() {
    let record = Record {
        failed_starts: 2,
        retry_at_ms: Some(NOW),
        maintenance: Some(MaintenanceStart { percent: 42, text: "fsck".into(), at_ms: NOW }),
        last_exit: Some(LastExit { code: Some(1), signal: None, expected: false }),
        why: Some("exit status 1".into()),
        ..Record::default()
    };
    let text = serde_json::to_string(&record).unwrap();
    assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    assert_eq!(serde_json::from_str::<Record>("{}").unwrap(), Record::default());
    assert_eq!(serde_json::to_string(&Record::default()).unwrap(), "{}");
}
