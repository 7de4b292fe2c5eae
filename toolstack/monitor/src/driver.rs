//! The one task that owns the domain. Requests and the emulator's events come in through queues
//! and are handled one after the other; only a destroy interrupts what is in flight.

mod asked;
mod parting;

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use kxl_backend::{Event, Process, Watch};
use kxl_control::Ready;
use kxl_domain::{DomainUuid, Failure, Kind, State};
use kxl_engine::{Aside, Host, Launched, LiveDomain, Mission, Next, Snapshot, steps};
use kxl_store::{DomainLock, Paths, Store};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::backends;
use crate::console::Hub;
use crate::foreground::{Leaving, Rest};
use crate::guest::{Ear, Word};
use crate::jobs::{Job, Meanwhile, interruptible, next_job};
use crate::listening::listen;
use crate::progress::tell_progress;
use crate::ready::ReadyPipe;
use crate::server::{Desk, OpenCalls, serve};
use crate::timing::{at, sleep};
use parting::UNTOLD;

/// How long what an emulator said before its end may take to be read.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// The same of a guest's last message where its emulator still stands.
const LAST_MESSAGE: Duration = Duration::from_millis(20);

/// After how long without work a monitor tidies up, once; it sleeps for good then.
const QUIET: Duration = Duration::from_secs(2);

/// Attends a domain from its launch or adoption to its end. Holds `lock` all the time.
pub(crate) async fn attend(
    host: Host,
    lock: DomainLock,
    uuid: DomainUuid,
    mission: Mission,
    ready: ReadyPipe,
    leaving: Leaving,
) -> Result<End, Failure> {
    let paths = host.paths.clone();
    let (mut driver, desk) = match Driver::new(host, uuid) {
        Ok(made) => made,
        Err(failure) => {
            clear_away(&paths, lock, uuid);
            ready.failed(&failure);
            return Err(failure);
        }
    };
    match listen(&paths.control_socket(uuid)).await {
        Ok(listener) => drop(tokio::task::spawn_local(serve(listener, desk.clone()))),
        Err(failure) => {
            ready.failed(&failure);
            return Err(failure);
        }
    }
    steps::reach(steps::Step::MonitorUp, None);
    let next = driver.begin(mission, ready).await;
    let mut end = driver.run(next, leaving).await;
    if let End::Over(_) = end {
        driver.insist_on_record().await;
        // Waiters and viewers hear of the end before the socket goes.
        driver.say_goodbye(&desk).await;
        // What rename-restart keeps goes under another uuid than the one it began with.
        let row = driver.domain.row();
        let _gone = std::fs::remove_file(paths.control_socket(row.uuid));
        // Given back in any case: whoever starts it again waits for nothing more of ours.
        let given_back = if row.managed {
            drop(lock);
            Ok(())
        } else {
            lock.remove_rundir(&paths, row.uuid)
        };
        if let Err(error) = given_back {
            tracing::warn!(%error, "the runtime directory stays");
        }
        // What was settled last counts.
        end = driver.over();
        driver.tell_untold().await;
    }
    Ok(end)
}

/// The runtime directory of a domain that never came to be, and that nobody knows of any more.
fn clear_away(paths: &Paths, lock: DomainLock, uuid: DomainUuid) {
    let known = Store::open(paths)
        .and_then(|store| Ok(store.live(uuid)?.is_some() || store.managed(uuid)?.is_some()));
    match known {
        Ok(true) => {}
        Ok(false) => {
            if let Err(error) = lock.remove_rundir(paths, uuid) {
                tracing::warn!(%error, "the runtime directory stays");
            }
        }
        Err(error) => tracing::warn!(%error, "the runtime directory stays"),
    }
}

/// Why the monitor ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The domain is at rest; how it came to that.
    Over(Rest),
    /// It was told to leave; the domain goes on.
    Released,
}

/// How a monitor has begun.
enum Begun {
    Launched(Launched),
    Adopted(Next),
}

struct Driver {
    domain: LiveDomain,
    jobs: mpsc::UnboundedReceiver<Job>,
    /// What was asked while the domain was being adopted.
    kept: VecDeque<Job>,
    events: Option<mpsc::UnboundedReceiver<Event>>,
    /// The emulator, where it could not be adopted (it hangs).
    orphan: Option<Process>,
    snapshots: watch::Receiver<Snapshot>,
    hub: Rc<Hub>,
    ear: Rc<Ear>,
}

impl Driver {
    fn new(host: Host, uuid: DomainUuid) -> Result<(Self, Desk), Failure> {
        let row = host.store.live(uuid);
        let row = row
            .map_err(|error| Failure::because(Kind::Failed, "cannot read the live row", &error))?
            .ok_or_else(|| Failure::new(Kind::Internal, "there is no live row to attend"))?;
        let backend = backends::choose(&host.paths, &row.config);
        let Host { paths, store, conf } = host;
        let (log, config) = (paths.console_log(&row.name), row.config.clone());
        let place = (paths.clone(), conf.clone());
        let domain = LiveDomain::new(paths, store, conf, backend, row);
        let snapshots = domain.watch();
        let ear = Rc::new(Ear::new(&config, snapshots.clone(), place));
        let on_console = ear.hears_the_console().then(|| Rc::clone(&ear));
        let hub = Rc::new(Hub::new(log, &config.console, on_console));
        let (sender, jobs) = mpsc::unbounded_channel();
        let desk = Desk {
            jobs: sender,
            snapshots: snapshots.clone(),
            hub: Rc::clone(&hub),
            open: Rc::new(OpenCalls::default()),
        };
        let (kept, events, orphan) = (VecDeque::new(), None, None);
        Ok((Self { domain, jobs, kept, events, orphan, snapshots, hub, ear }, desk))
    }

    /// The first step: launch or adopt, and the word to the command that waits.
    async fn begin(&mut self, mission: Mission, mut ready: ReadyPipe) -> Next {
        let begun = match mission {
            Mission::Launch => {
                let watch = Arc::new(Watch::default());
                let told = tell_progress(&watch, |moved| ready.moved(moved));
                let launch = async {
                    let launched = self.domain.launch(&watch);
                    tokio::select! {
                        launched = launched => launched.map(Begun::Launched),
                        never = told => never,
                    }
                };
                interruptible(&mut self.jobs, Meanwhile::Refuse(&self.snapshots), launch).await
            }
            Mission::Adopt => {
                let adopt = self.domain.adopt();
                let adopted = interruptible(&mut self.jobs, Meanwhile::Keep(&mut self.kept), adopt);
                adopted.await.map(|next| next.map(Begun::Adopted))
            }
        };
        let begun = match begun {
            Ok(Ok(begun)) => begun,
            Ok(Err(failure)) => {
                tracing::error!(%failure, "the domain is not up");
                ready.failed(&failure);
                // After a failed launch the record is settled; a failed adoption leaves the domain.
                return if mission == Mission::Launch {
                    Next::Over
                } else {
                    self.orphan = self.domain.orphan();
                    Next::Continue
                };
            }
            Err(answer) => {
                let next = self.destroy(answer).await;
                let text = "it was destroyed during its start";
                ready.failed(&Failure::new(Kind::Failed, text));
                return next;
            }
        };
        match begun {
            Begun::Launched(launched) => {
                // Listened to before it is written down: what it says waits for no disk.
                self.take_streams();
                if let Launched::Waits(failure) = &launched {
                    let (domid, failure) = (self.domain.row().domid, failure.clone());
                    ready.say(&Ready::Retrying { domid, failure });
                    self.tidy();
                    return Next::Parted;
                }
                self.domain.is_up(launched);
            }
            Begun::Adopted(Next::Over) => {
                let row = self.domain.row();
                ready.say(&Ready::Settled { state: row.state, reason: row.reason });
                return Next::Over;
            }
            Begun::Adopted(_) => drop(self.retake_streams()),
        }
        ready.say(&Ready::Up { domid: self.domain.row().domid });
        self.tidy();
        Next::Continue
    }

    /// Keeps only what an idle monitor needs.
    fn tidy(&mut self) {
        self.domain.idle();
        give_back_memory();
    }

    /// Takes the events and the console of a new emulator.
    fn take_streams(&mut self) -> Next {
        let row = self.domain.row();
        let marker = format!("domain {} (domid {}) started", row.name, row.domid);
        self.connect_streams(&marker)
    }

    /// Takes those of an adopted emulator. What its guest said while nobody listened is lost, and
    /// the log says so; what was said before is read back from the log.
    fn retake_streams(&mut self) -> Next {
        self.hub.recall();
        let row = self.domain.row();
        let marker = format!(
            "domain {} (domid {}) adopted by a new monitor, output may be missing here",
            row.name, row.domid
        );
        self.connect_streams(&marker)
    }

    fn connect_streams(&mut self, marker: &str) -> Next {
        self.events = self.domain.events();
        self.ear.renew();
        if let Some(channel) = self.domain.guest_channel() {
            self.ear.connect(channel);
        }
        if let Some(console) = self.domain.console() {
            self.hub.connect(console, marker);
        }
        if let Some(listener) = self.domain.console_listener() {
            self.hub.publish(listener);
        }
        Next::Continue
    }

    /// Follows the end of what went on beside.
    async fn ended_aside(&mut self, ended: Aside) -> Next {
        match ended {
            Aside::StopScript(outcome) => self.domain.stop_script_is_over(outcome).await,
            Aside::Checked(outcome) => {
                if let Err(failure) = self.domain.image_checked(outcome).await {
                    tracing::error!(%failure, "the domain of a damaged image is not paused");
                }
                Next::Continue
            }
        }
    }

    /// The end of a domain that is at rest.
    fn over(&self) -> End {
        End::Over(Rest::of(self.domain.row()))
    }

    async fn run(&mut self, first: Next, leaving: Leaving) -> End {
        if first == Next::Over {
            return self.over();
        }
        let Ok(mut leaving) = leaving.listen() else { return End::Released };
        // Nothing at first: the start has tidied up after itself.
        let mut tidy_at = None;
        loop {
            // What it says of its start is kept while it could have no effect.
            let row = self.domain.row();
            let listens = row.op.is_none() && row.state == State::Running;
            let next = tokio::select! {
                job = next_job(&mut self.kept, &mut self.jobs) => match job {
                    Some(Job::Verb(verb, answer)) => {
                        let next = self.verb(verb, answer).await;
                        tidy_at = Some(Instant::now() + QUIET);
                        next
                    }
                    Some(Job::Stop(answer)) => {
                        let next = self.stop(answer).await;
                        tidy_at = Some(Instant::now() + QUIET);
                        next
                    }
                    Some(Job::Save(save, watch, answer)) => {
                        let next = self.save(&save, watch, answer).await;
                        tidy_at = Some(Instant::now() + QUIET);
                        next
                    }
                    Some(Job::Probe(answer)) => self.probe(answer).await,
                    Some(Job::Release) | None => return End::Released,
                },
                event = next_event(&mut self.events) => {
                    let next = self.event(event).await;
                    tidy_at = Some(Instant::now() + QUIET);
                    next
                }
                () = end_of(self.orphan.as_ref()) => self.orphan_ended().await,
                () = sleep(self.domain.next_timer()) => {
                    let next = self.timer().await;
                    tidy_at = Some(Instant::now() + QUIET);
                    next
                }
                word = self.ear.next(listens) => {
                    let next = self.guest_word(word).await;
                    tidy_at = Some(Instant::now() + QUIET);
                    next
                }
                ended = self.domain.aside() => {
                    let next = self.ended_aside(ended).await;
                    tidy_at = Some(Instant::now() + QUIET);
                    next
                }
                () = at(tidy_at) => {
                    self.tidy();
                    tidy_at = self.domain.has_untold().then(|| Instant::now() + UNTOLD);
                    Next::Continue
                }
                () = leaving.asked() => return End::Released,
            };
            match next {
                Next::Continue => {}
                Next::Parted => self.events = None,
                Next::Relaunched => drop(self.take_streams()),
                Next::Over => return self.over(),
            }
        }
    }

    /// The emulator that could not be adopted has ended: its end is settled, by policy.
    async fn orphan_ended(&mut self) -> Next {
        self.orphan = None;
        match self.domain.adopt().await {
            Ok(next) => next,
            Err(failure) => self.policy_failed(&failure),
        }
    }

    /// Records that what the policy wants could not be done. Where that has left the domain at rest,
    /// the monitor is done as well.
    fn policy_failed(&mut self, failure: &Failure) -> Next {
        tracing::error!(%failure, "the policy could not be carried out");
        self.domain.policy_failed(failure);
        if self.snapshots.borrow().over { Next::Over } else { Next::Continue }
    }

    async fn event(&mut self, event: Option<Event>) -> Next {
        let Some(event) = event else {
            self.events = None;
            return Next::Continue;
        };
        let heard = match event {
            Event::Exited(_) => self.hear_out(LAST_OUTPUT).await,
            Event::GuestEnded(_) => self.hear_out(LAST_MESSAGE).await,
            _ => Next::Continue,
        };
        if heard != Next::Continue {
            return heard;
        }
        let follow = self.domain.on_event(event);
        match interruptible(&mut self.jobs, Meanwhile::Refuse(&self.snapshots), follow).await {
            Ok(Ok(next)) => next,
            Ok(Err(failure)) => self.policy_failed(&failure),
            Err(destroy) => self.destroy(destroy).await,
        }
    }

    /// Takes what was said before an end: it decides about what follows, and comes by other ways
    /// than the end itself.
    async fn hear_out(&mut self, patience: Duration) -> Next {
        if patience == LAST_OUTPUT {
            self.hub.drained(patience).await;
        }
        self.ear.drained(patience).await;
        while let Some(word) = self.ear.waiting() {
            match self.guest_word(word).await {
                Next::Continue => {}
                next => return next,
            }
        }
        Next::Continue
    }

    /// The guest says something about its own start.
    async fn guest_word(&mut self, said: Word) -> Next {
        if self.domain.is_past_its_start() {
            self.ear.late(said);
            return Next::Continue;
        }
        let follow = self.domain.guest_word(said.word.clone());
        match interruptible(&mut self.jobs, Meanwhile::Refuse(&self.snapshots), follow).await {
            Ok(Ok(next)) => {
                self.ear.heard(said);
                next
            }
            Ok(Err(failure)) => self.policy_failed(&failure),
            Err(destroy) => self.destroy(destroy).await,
        }
    }

    /// What supervision has waited for is due.
    async fn timer(&mut self) -> Next {
        let follow = self.domain.timer_passed();
        match interruptible(&mut self.jobs, Meanwhile::Refuse(&self.snapshots), follow).await {
            Ok(Ok(next)) => next,
            Ok(Err(failure)) => self.policy_failed(&failure),
            Err(destroy) => self.destroy(destroy).await,
        }
    }
}

/// Returns what is not used any more to the kernel: one monitor stays resident for each domain.
#[allow(unsafe_code, reason = "malloc_trim has no safe wrapper")]
fn give_back_memory() {
    // SAFETY: takes a number, touches free memory only.
    unsafe { nix::libc::malloc_trim(0) };
}

/// Waits for the end of an emulator that nobody holds.
async fn end_of(orphan: Option<&Process>) {
    match orphan {
        // Where it cannot be watched, the next command finds out.
        Some(process) if process.gone().await.is_ok() => {}
        _ => std::future::pending().await,
    }
}

async fn next_event(events: &mut Option<mpsc::UnboundedReceiver<Event>>) -> Option<Event> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}
