//! Carries a plan out: wave after wave, so many heavy ones at once, each domain by the first of
//! its ways that works.
//!
//! A domain whose turn has not come when its wave does is held; the waves go on without it. Its turn
//! comes when something is decided about another one, long after that one's part may have ended.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use kxl_control::{Moved, Saved};
use kxl_domain::{DomId, Failure};

use super::plan::Way;

/// What has been done to a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// Its state is an image.
    Saved(Saved),
    /// Its guest switched itself off.
    Off,
    /// The power was taken away.
    Destroyed,
    /// It is back, with this number.
    Up(DomId),
    /// It was so already.
    Already,
}

/// How often it is told that domains are held.
const HELD: Duration = Duration::from_secs(10);

/// How it ended for a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// By this way.
    Done(Way, Done),
    /// Every way failed; the last failure is the last of `tried`.
    Failed,
    /// It was not begun, or given up: there was an interruption, or no time left.
    NotDone(&'static str),
    /// There was nothing to do.
    Nothing,
}

/// What became of one domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Course {
    /// How it ended.
    pub outcome: Outcome,
    /// The ways that failed, and why.
    pub tried: Vec<(Way, Failure)>,
    /// How long all of it took.
    pub took: Duration,
}

/// What happens on the way. Domains are named by their place in the list that is run.
#[derive(Clone, Debug)]
pub enum News<'a> {
    /// It is being dealt with.
    Begun(usize, Way),
    /// So much of its state was moved.
    Moved(usize, Moved),
    /// This way failed; the next one follows, if there is one.
    Failed(usize, Way, &'a Failure),
    /// It is over with this one.
    Ended(usize, &'a Course),
    /// These wait for others; told when one joins them, and every 10 s.
    Held(&'a [usize]),
    /// Nothing new is begun: somebody interrupted. What is in flight goes on to its end.
    Interrupted,
    /// What is in flight is given up: the deadline has passed, or somebody interrupted again.
    GivingUp(&'static str),
}

enum Message {
    Moved(usize, Moved),
    Ended(usize, Way, Result<Done, Failure>),
    /// Something that others wait for is decided.
    Decided,
    Interrupt,
}

/// Where a run hears of what happens.
#[derive(Debug)]
pub struct Desk {
    heard: Receiver<Message>,
    sender: Sender<Message>,
}

/// Interrupts a run, from any thread.
#[derive(Clone, Debug)]
pub struct Remote(Sender<Message>);

impl Remote {
    /// The first time nothing new is begun, the second time what is in flight is given up.
    pub fn interrupt(&self) {
        // A run that is over cannot be interrupted any more.
        let _over = self.0.send(Message::Interrupt);
    }
}

/// A desk, and the remote to it.
#[must_use]
pub fn desk() -> (Desk, Remote) {
    let (sender, heard) = channel();
    (Desk { heard, sender: sender.clone() }, Remote(sender))
}

/// One domain to be dealt with.
#[derive(Clone, Debug)]
pub(crate) struct Errand {
    pub(crate) ways: Vec<Way>,
}

/// The work itself.
pub(crate) trait Hands: Sync {
    /// Deals with one domain. Blocks until it is done; called from a thread of its own.
    fn act(&self, index: usize, way: Way, moved: &mut dyn FnMut(Moved)) -> Result<Done, Failure>;

    /// Gives up what is in flight and can be: each `act` concerned fails soon.
    fn give_up(&self);

    /// Whether its turn has come.
    fn may_begin(&self, _index: usize) -> bool {
        true
    }

    /// Whether others wait until it is decided what came of `act`.
    fn is_awaited(&self, _index: usize) -> bool {
        false
    }

    /// Blocks until that is decided; called after `act`, in its thread.
    fn decide(&self, _index: usize) {}

    /// How many more things have to be decided that others wait for.
    fn outsiders(&self) -> usize {
        0
    }

    /// Blocks until one of them is decided; called from a thread of its own.
    fn decide_outsider(&self, _number: usize) {}

    /// Nobody waits any more: each `decide` returns soon.
    fn enough(&self) {}
}

/// How to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// How many saves, restores or starts are in flight at once.
    pub(crate) jobs: usize,
    /// When all has to be over.
    pub(crate) until: Option<Instant>,
}

/// Deals with every errand, by waves. Returns what became of each, in the order of `errands`.
///
/// A domain that fails stops nobody: the next wave comes all the same.
pub(crate) fn run(
    errands: &[Errand],
    waves: &[Vec<usize>],
    pace: Pace,
    desk: &Desk,
    hands: &dyn Hands,
    news: &mut dyn FnMut(News<'_>),
) -> Vec<Course> {
    thread::scope(|scope| {
        let mut run = Run {
            errands,
            pace,
            desk,
            news,
            courses: vec![None; errands.len()],
            began: vec![None; errands.len()],
            tried: vec![Vec::new(); errands.len()],
            queue: VecDeque::new(),
            held: Vec::new(),
            held_before: vec![false; errands.len()],
            told: None,
            deciding: 0,
            heavy: 0,
            flying: 0,
            halt: None,
            given_up: false,
        };
        for number in 0..hands.outsiders() {
            run.deciding += 1;
            let sender = run.desk.sender.clone();
            scope.spawn(move || {
                hands.decide_outsider(number);
                drop(sender.send(Message::Decided));
            });
        }
        for wave in waves {
            run.wave(wave, scope, hands);
        }
        while run.flying > 0 || !run.held.is_empty() {
            run.round(scope, hands);
        }
        hands.enough();
        run.courses
            .into_iter()
            .map(|course| course.unwrap_or_else(|| nothing(Outcome::Nothing)))
            .collect()
    })
}

/// Why nothing was heard.
#[derive(Clone, Copy)]
enum Silence {
    /// The deadline has come.
    Late,
    /// It is time to tell who is held.
    Held,
}

fn nothing(outcome: Outcome) -> Course {
    Course { outcome, tried: Vec::new(), took: Duration::ZERO }
}

/// Whether only so many of these may be in flight at once.
const fn is_heavy(way: Way) -> bool {
    matches!(way, Way::Save | Way::Restore | Way::Start)
}

struct Run<'a> {
    errands: &'a [Errand],
    pace: Pace,
    desk: &'a Desk,
    news: &'a mut dyn FnMut(News<'_>),
    courses: Vec<Option<Course>>,
    began: Vec<Option<Instant>>,
    tried: Vec<Vec<(Way, Failure)>>,
    /// Those that wait for a place among the heavy ones.
    queue: VecDeque<(usize, Way)>,
    /// Those whose turn has not come.
    held: Vec<usize>,
    /// Which were held at some time.
    held_before: Vec<bool>,
    /// When it was told last that there are some.
    told: Option<Instant>,
    /// How many things others wait for are not decided.
    deciding: usize,
    heavy: usize,
    flying: usize,
    /// Why nothing new is begun.
    halt: Option<&'static str>,
    given_up: bool,
}

impl<'a> Run<'a> {
    fn wave<'s>(&mut self, wave: &[usize], scope: &'s thread::Scope<'s, '_>, hands: &'s dyn Hands)
    where
        'a: 's,
    {
        for index in wave {
            self.next_way(*index, scope, hands, false);
        }
        self.begin_queued(scope, hands);
        while self.flying > 0 {
            self.round(scope, hands);
        }
    }

    /// Begins as many as may be in flight; where nothing new is begun the others are over with.
    fn begin_queued<'s>(&mut self, scope: &'s thread::Scope<'s, '_>, hands: &'s dyn Hands)
    where
        'a: 's,
    {
        while self.heavy < self.pace.jobs && self.halt.is_none() {
            let Some((index, way)) = self.queue.pop_front() else { break };
            self.begin(index, way, scope, hands);
        }
        if let Some(why) = self.halt {
            let queued = std::mem::take(&mut self.queue).into_iter().map(|(index, _)| index);
            for index in queued.chain(std::mem::take(&mut self.held)) {
                self.end(index, Outcome::NotDone(why));
            }
        }
    }

    /// Takes one message, and begins what can be begun after it.
    fn round<'s>(&mut self, scope: &'s thread::Scope<'s, '_>, hands: &'s dyn Hands)
    where
        'a: 's,
    {
        if self.flying == 0 && self.deciding == 0 && !self.held.is_empty() {
            // They wait for each other: the first of them goes without.
            let index = self.held.remove(0);
            self.next_way(index, scope, hands, true);
            self.begin_queued(scope, hands);
            return;
        }
        match self.hear() {
            Ok(Message::Moved(index, moved)) => (self.news)(News::Moved(index, moved)),
            Ok(Message::Ended(index, way, outcome)) => {
                self.flying -= 1;
                self.heavy -= usize::from(is_heavy(way));
                match outcome {
                    Ok(done) => self.end(index, Outcome::Done(way, done)),
                    Err(failure) => {
                        (self.news)(News::Failed(index, way, &failure));
                        self.tried[index].push((way, failure));
                        self.next_way(index, scope, hands, true);
                    }
                }
            }
            Ok(Message::Decided) => {
                self.deciding -= 1;
                for index in std::mem::take(&mut self.held) {
                    self.next_way(index, scope, hands, false);
                }
            }
            Ok(Message::Interrupt) => self.interrupt(hands),
            Err(Silence::Held) => self.tell_held(),
            Err(Silence::Late) => self.late(hands),
        }
        self.begin_queued(scope, hands);
    }

    /// The next message, or why there was none.
    fn hear(&self) -> Result<Message, Silence> {
        let left = |until: Instant| until.saturating_duration_since(Instant::now());
        let late =
            self.pace.until.filter(|_| !self.given_up).map(|until| (left(until), Silence::Late));
        let held = self.told.filter(|_| !self.held.is_empty());
        let held = held.map(|told| (left(told + HELD), Silence::Held));
        let first = [late, held].into_iter().flatten().min_by_key(|(wait, _)| *wait);
        // The desk holds a sender of its own: it is never cut off.
        match first {
            Some((wait, why)) => self.desk.heard.recv_timeout(wait).map_err(|_| why),
            None => self.desk.heard.recv().map_err(|_| Silence::Late),
        }
    }

    fn hold(&mut self, index: usize) {
        let new = !self.held_before[index];
        self.held_before[index] = true;
        self.held.push(index);
        if new {
            self.tell_held();
        }
    }

    fn tell_held(&mut self) {
        self.told = Some(Instant::now());
        (self.news)(News::Held(&self.held));
    }

    fn interrupt(&mut self, hands: &dyn Hands) {
        if self.halt.is_none() {
            self.halt = Some("interrupted");
            (self.news)(News::Interrupted);
        } else if !self.given_up {
            self.given_up = true;
            (self.news)(News::GivingUp("interrupted"));
            hands.give_up();
        }
    }

    fn late(&mut self, hands: &dyn Hands) {
        self.halt.get_or_insert("the deadline had passed");
        if !self.given_up {
            self.given_up = true;
            (self.news)(News::GivingUp("the deadline has passed"));
            hands.give_up();
        }
    }

    /// Begins the way that comes after those tried, or ends with the domain. Whether its turn has come
    /// is asked if it is not `its_turn` anyhow.
    fn next_way<'s>(
        &mut self,
        index: usize,
        scope: &'s thread::Scope<'s, '_>,
        hands: &'s dyn Hands,
        its_turn: bool,
    ) where
        'a: 's,
    {
        let late = self.pace.until.is_some_and(|until| Instant::now() >= until);
        if late {
            self.halt.get_or_insert("the deadline had passed");
        }
        let ways = &self.errands[index].ways;
        let left = ways.get(self.tried[index].len()..).unwrap_or_default();
        match (left.first(), self.halt) {
            (None, _) if ways.is_empty() => self.end(index, Outcome::Nothing),
            (None, _) => self.end(index, Outcome::Failed),
            // What the policy allows as the last resort needs no time. An interruption is no
            // reason for it.
            (Some(_), Some(why))
                if late && left.last() == Some(&Way::Destroy) && why != "interrupted" =>
            {
                self.begin(index, Way::Destroy, scope, hands);
            }
            (Some(_), Some(why)) => self.end(index, Outcome::NotDone(why)),
            (Some(_), None) if !its_turn && !hands.may_begin(index) => self.hold(index),
            (Some(way), None) if is_heavy(*way) => self.queue.push_back((index, *way)),
            (Some(way), None) => self.begin(index, *way, scope, hands),
        }
    }

    fn begin<'s>(
        &mut self,
        index: usize,
        way: Way,
        scope: &'s thread::Scope<'s, '_>,
        hands: &'s dyn Hands,
    ) where
        'a: 's,
    {
        self.flying += 1;
        self.heavy += usize::from(is_heavy(way));
        self.began[index].get_or_insert_with(Instant::now);
        (self.news)(News::Begun(index, way));
        let awaited = hands.is_awaited(index);
        self.deciding += usize::from(awaited);
        let sender = self.desk.sender.clone();
        scope.spawn(move || {
            let told = sender.clone();
            let mut moved = move |moved| drop(told.send(Message::Moved(index, moved)));
            let outcome = hands.act(index, way, &mut moved);
            drop(sender.send(Message::Ended(index, way, outcome)));
            if awaited {
                hands.decide(index);
                drop(sender.send(Message::Decided));
            }
        });
    }

    fn end(&mut self, index: usize, outcome: Outcome) {
        let took = self.began[index].map_or(Duration::ZERO, |began| began.elapsed());
        let tried = std::mem::take(&mut self.tried[index]);
        let course = Course { outcome, tried, took };
        (self.news)(News::Ended(index, &course));
        self.courses[index] = Some(course);
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
