//! The runner, with hands that only pretend.

use std::sync::{Condvar, Mutex};

use kxl_domain::Kind;

use super::*;

/// What the pretending hands saw, and what they are told to do.
#[derive(Default)]
struct Pretend {
    seen: Mutex<Seen>,
    changed: Condvar,
    /// These fail.
    failing: Vec<(usize, Way)>,
    /// These wait until they are given up.
    hanging: Vec<usize>,
}

#[derive(Default)]
struct Seen {
    order: Vec<(usize, Way)>,
    now: usize,
    most: usize,
    given_up: bool,
}

impl Hands for Pretend {
    fn act(&self, index: usize, way: Way, moved: &mut dyn FnMut(Moved)) -> Result<Done, Failure> {
        let mut seen = self.seen.lock().unwrap();
        seen.order.push((index, way));
        seen.now += 1;
        seen.most = seen.most.max(seen.now);
        self.changed.notify_all();
        moved(Moved { done: 1, total: 2 });
        if self.hanging.contains(&index) && way != Way::Destroy {
            while !seen.given_up {
                seen = self.changed.wait(seen).unwrap();
            }
            seen.now -= 1;
            return Err(Failure::new(Kind::Failed, "given up"));
        }
        // The others of its wave get a chance to be in flight as well.
        let (mut seen, _) = self.changed.wait_timeout(seen, Duration::from_millis(5)).unwrap();
        seen.now -= 1;
        if self.failing.contains(&(index, way)) {
            return Err(Failure::new(Kind::Failed, "no"));
        }
        Ok(Done::Off)
    }

    fn give_up(&self) {
        self.seen.lock().unwrap().given_up = true;
        self.changed.notify_all();
    }
}

fn errands(count: usize, ways: &[Way]) -> Vec<Errand> {
    vec![Errand { ways: ways.to_vec() }; count]
}

const FREE: Pace = Pace { jobs: 2, until: None };

fn outcomes(courses: &[Course]) -> Vec<Outcome> {
    courses.iter().map(|course| course.outcome.clone()).collect()
}

#[test]
fn waves_come_one_after_the_other_and_heavy_ones_in_bounds() {
    let hands = Pretend::default();
    let (desk, _remote) = desk();
    let waves = vec![vec![3, 1, 2, 0], vec![4, 5]];
    let mut moved = 0;
    let courses = run(&errands(6, &[Way::Save]), &waves, FREE, &desk, &hands, &mut |news| {
        moved += usize::from(matches!(news, News::Moved(..)));
    });
    assert!(courses.iter().all(|c| c.outcome == Outcome::Done(Way::Save, Done::Off)));
    let seen = hands.seen.into_inner().unwrap();
    assert!(seen.most <= 2, "{}", seen.most);
    let mut first: Vec<_> = seen.order[..4].iter().map(|(index, _)| *index).collect();
    first.sort_unstable();
    assert_eq!((first, moved), (vec![0, 1, 2, 3], 6));
}

#[test]
fn those_that_only_wait_for_their_guests_do_so_all_at_once() {
    let hands = Pretend { hanging: (0..5).collect(), ..Pretend::default() };
    let (desk, remote) = desk();
    let mut in_flight = 0;
    let waves = [(0..5).collect()];
    let courses = run(&errands(5, &[Way::Shutdown]), &waves, FREE, &desk, &hands, &mut |news| {
        // Each says so once, and then waits until it is given up.
        in_flight += usize::from(matches!(news, News::Moved(..)));
        if in_flight == 5 {
            in_flight += 1;
            remote.interrupt();
            remote.interrupt();
        }
    });
    assert_eq!(hands.seen.into_inner().unwrap().most, 5);
    assert!(courses.iter().all(|c| c.outcome == Outcome::Failed));
}

#[test]
fn a_way_that_fails_is_followed_by_the_next_and_stops_nobody() {
    let failing = vec![(0, Way::Save), (1, Way::Save), (1, Way::Shutdown)];
    let hands = Pretend { failing, ..Pretend::default() };
    let (desk, _remote) = desk();
    let ways = [Way::Save, Way::Shutdown];
    let courses = run(&errands(3, &ways), &[vec![0, 1], vec![2]], FREE, &desk, &hands, &mut |_| ());
    assert_eq!(
        outcomes(&courses),
        [
            Outcome::Done(Way::Shutdown, Done::Off),
            Outcome::Failed,
            Outcome::Done(Way::Save, Done::Off)
        ]
    );
    assert_eq!((courses[0].tried.len(), courses[1].tried.len()), (1, 2));
}

#[test]
fn an_interruption_lets_what_is_in_flight_end_and_begins_nothing_new() {
    let hands = Pretend::default();
    let (desk, remote) = desk();
    let waves = vec![vec![0, 1, 2], vec![3]];
    let pace = Pace { jobs: 1, until: None };
    let courses = run(&errands(4, &[Way::Save]), &waves, pace, &desk, &hands, &mut |news| {
        if matches!(news, News::Begun(0, _)) {
            remote.interrupt();
        }
    });
    assert_eq!(
        outcomes(&courses),
        [
            Outcome::Done(Way::Save, Done::Off),
            Outcome::NotDone("interrupted"),
            Outcome::NotDone("interrupted"),
            Outcome::NotDone("interrupted"),
        ]
    );
    assert!(!hands.seen.into_inner().unwrap().given_up);
}

#[test]
fn at_the_deadline_saves_are_given_up_and_only_the_last_resort_is_left() {
    let hands = Pretend { hanging: vec![0, 1], ..Pretend::default() };
    let (desk, _remote) = desk();
    let mut errands = errands(3, &[Way::Save, Way::Shutdown]);
    errands[1].ways.push(Way::Destroy);
    let pace = Pace { jobs: 2, until: Some(Instant::now()) };
    let early = run(&errands, &[vec![0, 1, 2]], pace, &desk, &hands, &mut |_| ());
    assert_eq!(early[0].outcome, Outcome::NotDone("the deadline had passed"));
    assert_eq!(early[1].outcome, Outcome::Done(Way::Destroy, Done::Off));

    let pace = Pace { jobs: 2, until: Some(Instant::now() + Duration::from_millis(300)) };
    let hands = Pretend { hanging: vec![0, 1], ..Pretend::default() };
    let courses = run(&errands, &[vec![0, 1, 2]], pace, &desk, &hands, &mut |_| ());
    assert_eq!(
        outcomes(&courses),
        [
            Outcome::NotDone("the deadline had passed"),
            Outcome::Done(Way::Destroy, Done::Off),
            Outcome::NotDone("the deadline had passed"),
        ]
    );
}

#[test]
fn what_has_no_way_is_told_of_and_not_begun() {
    let hands = Pretend::default();
    let (desk, _remote) = desk();
    let courses = run(&errands(1, &[]), &[vec![0]], FREE, &desk, &hands, &mut |_| ());
    assert_eq!(outcomes(&courses), [Outcome::Nothing]);
    assert!(hands.seen.into_inner().unwrap().order.is_empty());
}

/// Hands of which some wait until it is decided about another one.
#[derive(Default)]
struct Waiting {
    /// Who comes after whom.
    after: Vec<(usize, usize)>,
    /// It is decided about this one when that one was dealt with.
    slow: Option<(usize, usize)>,
    seen: Mutex<(Vec<usize>, Vec<usize>, bool)>,
    changed: Condvar,
}

impl Hands for Waiting {
    fn act(&self, index: usize, _: Way, _: &mut dyn FnMut(Moved)) -> Result<Done, Failure> {
        self.seen.lock().unwrap().0.push(index);
        self.changed.notify_all();
        Ok(Done::Already)
    }

    fn give_up(&self) {}

    fn may_begin(&self, index: usize) -> bool {
        let seen = self.seen.lock().unwrap();
        self.after.iter().filter(|(who, _)| *who == index).all(|(_, on)| seen.1.contains(on))
    }

    fn is_awaited(&self, index: usize) -> bool {
        self.after.iter().any(|(_, on)| *on == index)
    }

    fn decide(&self, index: usize) {
        let mut seen = self.seen.lock().unwrap();
        if let Some((_, until)) = self.slow.filter(|(who, _)| *who == index) {
            while !seen.0.contains(&until) && !seen.2 {
                seen = self.changed.wait(seen).unwrap();
            }
        }
        seen.1.push(index);
    }

    fn enough(&self) {
        self.seen.lock().unwrap().2 = true;
        self.changed.notify_all();
    }
}

#[test]
fn who_waits_for_a_slow_one_holds_up_nobody_else() {
    let hands = Waiting { after: vec![(1, 0)], slow: Some((0, 3)), ..Waiting::default() };
    let (desk, _remote) = desk();
    let waves = [vec![0], vec![1], vec![2], vec![3]];
    let mut held = Vec::new();
    let pace = Pace { jobs: 1, until: None };
    let courses = run(&errands(4, &[Way::Start]), &waves, pace, &desk, &hands, &mut |news| {
        if let News::Held(indices) = news {
            held.push(indices.to_vec());
        }
    });
    assert!(courses.iter().all(|c| c.outcome == Outcome::Done(Way::Start, Done::Already)));
    assert_eq!(hands.seen.into_inner().unwrap().0, [0, 2, 3, 1]);
    assert_eq!(held[0], [1]);
}

#[test]
fn those_that_wait_for_each_other_go_one_after_the_other() {
    let hands = Waiting { after: vec![(0, 1), (1, 0)], ..Waiting::default() };
    let (desk, _remote) = desk();
    let courses = run(&errands(2, &[Way::Start]), &[vec![0, 1]], FREE, &desk, &hands, &mut |_| ());
    assert!(courses.iter().all(|c| c.outcome == Outcome::Done(Way::Start, Done::Already)));
    assert_eq!(hands.seen.into_inner().unwrap().0, [0, 1]);
}

#[test]
fn an_interruption_ends_every_wait() {
    // It is never decided about the first one.
    let hands = Waiting { after: vec![(1, 0)], slow: Some((0, 9)), ..Waiting::default() };
    let (desk, remote) = desk();
    let waves = [vec![0], vec![1]];
    let courses = run(&errands(2, &[Way::Start]), &waves, FREE, &desk, &hands, &mut |news| {
        if matches!(news, News::Held(_)) {
            remote.interrupt();
        }
    });
    assert_eq!(
        outcomes(&courses),
        [Outcome::Done(Way::Start, Done::Already), Outcome::NotDone("interrupted")]
    );
}
