//! The task beside an emulator on a terminal: it passes the console on, reads along, and tells
//! what happened.
//!
//! The monitor gets one end of a socket pair instead of the pty, so that everything the emulator
//! prints is seen here first. Nothing depends on it but the monitor: the emulator holds the pty
//! itself, and when this task is gone it merely waits for the next reader.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use kxl_backend::{Event, Exit, Process};
use kxl_domain::GuestEvent;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};

use super::MASTER_FD;
use super::buffers::Buffers;
use super::channel::Channel;
use super::ear::Ear;
use super::hold::Hold;
use super::lifeline::Lifeline;
use super::outlet::Outlet;
use super::own::Own;
use super::pty;
use super::streams::Streams;
use super::transcript::Transcript;
use crate::charon::offload;
use crate::ending::Status;
use crate::files;
use crate::profile::{Meaning, Profile};

/// Output kept for a monitor that does not read; the oldest goes first, the emulator never waits.
const BACKLOG: usize = 1 << 20;

/// Size at which the log is turned over.
const LOG_LIMIT: u64 = 1 << 20;

/// Time for an emulator to finish changing its terminal after it printed its prompt.
pub(crate) const SETTLE: Duration = Duration::from_millis(50);

/// How long the monitor may take for each part of what was printed before the end.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// The longest of the pauses between looks, each twice the one before: an emulator on a busy host
/// may be put aside in between, a guest that prints the prompt's text must not keep us awake.
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// What the guest does, as far as the terminal shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not seen running yet.
    Starting,
    /// It runs.
    Running,
    /// The emulator stands at its prompt; what its text says about why.
    AtPrompt(Option<Meaning>),
}

/// What the handle and the task share.
pub(crate) struct Shared {
    pub(crate) master: OwnedFd,
    /// The streams that go into files.
    pub(super) streams: Streams,
    pub(crate) profile: Profile,
    pub(crate) phase: Cell<Phase>,
    pub(crate) transcript: RefCell<Transcript>,
    pub(crate) destroyed: Cell<bool>,
    pub(crate) events: mpsc::UnboundedSender<Event>,
    pub(crate) note: PathBuf,
    /// The emulator's log: its terminal is the console, so only its end goes there.
    pub(crate) log: PathBuf,
    /// Whose the terminal is.
    pub(crate) hold: Hold,
    /// Where states pass through.
    pub(crate) state_files: StateFiles,
    /// Whether a disk is kept in the emulator's memory.
    pub(crate) buffers: Buffers,
    /// Who listens to the console for us.
    pub(crate) ear: Rc<Ear>,
    /// Where something can be typed.
    pub(crate) outlet: RefCell<Outlet>,
    /// The control channel of a profile of one's own.
    pub(crate) channel: Option<Channel>,
    /// What this start has of its own.
    pub(super) own: Own,
    /// Program and arguments by which the guest is asked to end.
    pub(crate) button: Vec<OsString>,
    /// What such a program finds in its environment.
    pub(crate) environment: Vec<OsString>,
    /// The domain's runtime directory.
    pub(crate) rundir: PathBuf,
}

/// Where states pass through on their way out of and into an emulator.
#[derive(Debug)]
pub(crate) struct StateFiles {
    /// Written by the emulator.
    pub(crate) save: PathBuf,
    /// Read by it.
    pub(crate) restore: PathBuf,
}

impl Shared {
    /// Gives back what the emulator had of the host. Once more is harmless.
    pub(super) fn give_back(&self) {
        self.own.give_back();
        offload::restore(&self.rundir);
    }

    /// Whether a disk is kept in the emulator's memory.
    pub(crate) fn buffers(&self) -> bool {
        self.buffers.any()
    }

    /// Tells what keeps nothing from running.
    pub(super) fn tell_warnings(&self, texts: Vec<String>) {
        for text in texts {
            self.tell(Event::Warning { what: "nic-warning", text });
        }
    }

    /// Where something can be typed.
    pub(crate) fn outlet(&self) -> Outlet {
        self.outlet.borrow().clone()
    }

    /// What a program holds for the next monitor, under its numbers.
    fn held(&self) -> io::Result<Vec<(OwnedFd, RawFd)>> {
        let mut fds = self.streams.kept()?;
        fds.push((self.master.try_clone()?, MASTER_FD));
        Ok(fds)
    }

    fn tell(&self, event: Event) {
        let _nobody_listens = self.events.send(event);
    }

    /// Says what an earlier monitor had and this one could not take back.
    pub(super) fn tell_lost<'a>(&self, what: impl Iterator<Item = &'a str>) {
        for lost in what {
            let text = format!(
                "{lost}: the program has closed the descriptor that kept it for the next monitor; \
                 what it prints there is lost until it is started anew"
            );
            self.tell(Event::Warning { what: "console-lost", text });
        }
    }

    /// How the guest ended, if it has.
    pub(crate) fn ended(&self) -> Option<GuestEvent> {
        match self.phase.get() {
            Phase::AtPrompt(meaning) => meaning.and_then(Meaning::event),
            Phase::Starting | Phase::Running => self.channel.as_ref().and_then(Channel::ended),
        }
    }

    pub(crate) fn prompt(&self) -> Option<&str> {
        self.profile.control.prompt.as_deref()
    }

    pub(crate) fn words(&self) -> String {
        self.transcript.borrow().words(self.prompt())
    }

    /// Looks where the emulator is, after something was printed or some time has passed. True when
    /// the text and the terminal disagree and another look is due.
    pub(crate) fn look(&self) -> bool {
        let Some(prompt) = self.prompt() else { return false };
        let shown = self.transcript.borrow().at_prompt(prompt);
        let cooked = pty::cooked(&self.master);
        match self.phase.get() {
            Phase::AtPrompt(_) if !cooked => {
                self.running();
                self.tell(Event::Resumed);
            }
            Phase::Starting if !cooked => self.running(),
            Phase::Starting | Phase::Running if shown && cooked => {
                let meaning = self.transcript.borrow().meaning(&self.profile.exit.rule);
                self.phase.set(Phase::AtPrompt(meaning));
                match meaning.and_then(Meaning::event) {
                    Some(how) => {
                        self.remember(how);
                        self.tell(Event::GuestEnded(how));
                    }
                    None => self.tell(Event::Stopped),
                }
            }
            Phase::Running => return shown,
            Phase::Starting | Phase::AtPrompt(_) => {}
        }
        false
    }

    /// The guest runs: what was printed before says nothing about its next end.
    fn running(&self) {
        self.phase.set(Phase::Running);
        self.transcript.borrow_mut().clear();
        let _absent = std::fs::remove_file(&self.note);
    }

    /// The text is read once; a later monitor finds the reason here.
    fn remember(&self, how: GuestEvent) {
        if let Err(error) = std::fs::write(&self.note, how.as_str()) {
            tracing::warn!(%error, "how the guest ended will not be known after a crash of ours");
        }
    }

    fn log(&self, bytes: &[u8]) {
        let logged = files::open_log(&self.log, LOG_LIMIT).map(|(mut log, _)| log.write_all(bytes));
        if let Err(error) = logged {
            tracing::warn!(%error, "the emulator's log is not written");
        }
    }

    fn exit(&self, status: Status) -> Exit {
        if self.destroyed.get() {
            return status.exit(None, "destroyed".into());
        }
        // Text counts where the emulator itself had the terminal last; without a prompt nothing
        // can prove that, and a rule of the profile is taken at its word.
        let believed = self.prompt().is_none() || pty::cooked(&self.master);
        let said = || self.transcript.borrow().meaning(&self.profile.exit.rule);
        let meaning = self
            .ended()
            .or_else(|| said().filter(|_| believed).and_then(Meaning::event))
            .or_else(|| self.profile.exit.meaning(status.code, status.signal));
        status.exit(meaning, status.text(&self.words()))
    }
}

/// The task's own things.
pub(crate) struct Keeper {
    pub(crate) process: Rc<Process>,
    pub(crate) shared: Rc<Shared>,
    pub(crate) terminal: AsyncFd<OwnedFd>,
    /// `None` where the console is not the terminal: what is printed there goes into the log.
    pub(crate) monitor: Option<UnixStream>,
    /// Tells when the program has closed what it keeps for the next monitor.
    pub(super) lifeline: Lifeline,
    /// Printed, not yet taken by the monitor.
    pub(crate) printed: VecDeque<u8>,
}

impl Keeper {
    /// Serves until the emulator has ended; the end is told last.
    pub(crate) async fn run(mut self, told: watch::Sender<Option<Exit>>) {
        let process = Rc::clone(&self.process);
        let mut end = std::pin::pin!(Status::of(&process));
        let mut typed = VecDeque::new();
        let (mut terminal_open, mut monitor_open) = (true, self.monitor.is_some());
        let mut look_again = None;
        let status = loop {
            if !monitor_open {
                self.let_go();
            }
            self.printed.extend(self.shared.hold.released());
            let mut interest = Interest::READABLE;
            // What is typed while we talk to the emulator ourselves waits for the guest.
            if !typed.is_empty() && !self.shared.hold.held() {
                interest |= Interest::WRITABLE;
            }
            let monitor_interest = match (self.printed.is_empty(), typed.is_empty()) {
                (true, true) => Some(Interest::READABLE),
                (true, false) => None,
                (false, true) => Some(Interest::READABLE | Interest::WRITABLE),
                (false, false) => Some(Interest::WRITABLE),
            };
            tokio::select! {
                status = &mut end => break status,
                ready = self.terminal.ready(interest), if terminal_open => {
                    let Ok(mut guard) = ready else { terminal_open = false; continue };
                    let fd = self.terminal.get_ref();
                    let mut done = guard.ready().is_readable().then(|| take(fd, &self.shared, &mut self.printed));
                    if done.as_ref().is_some_and(would_block) {
                        guard.clear_ready_matching(tokio::io::Ready::READABLE);
                        done = None;
                    }
                    if guard.ready().is_writable() && !typed.is_empty() && !self.shared.hold.held() {
                        self.shared.hold.typed();
                        if would_block(&give(fd, &mut typed)) {
                            guard.clear_ready_matching(tokio::io::Ready::WRITABLE);
                        }
                    }
                    match done {
                        Some(Ok(())) => look_again = self.shared.look().then_some(SETTLE),
                        // Every holder of the slave has closed it.
                        Some(Err(_)) => terminal_open = false,
                        None => {}
                    }
                }
                ready = turn(self.monitor.as_ref(), monitor_interest.unwrap_or(Interest::READABLE)),
                    if monitor_open && monitor_interest.is_some() =>
                {
                    let Ok(ready) = ready else { monitor_open = false; continue };
                    if ready.is_readable() && typed.is_empty() {
                        monitor_open = self.hear(&mut typed);
                    }
                    if ready.is_writable() {
                        self.pass_on();
                    }
                }
                () = self.shared.hold.turned.notified() => {}
                () = self.lifeline.cut() => self.keep_what_was_closed(),
                () = tokio::time::sleep(look_again.unwrap_or_default()), if look_again.is_some() => {
                    let longer = look_again.map(|pause| pause * 2);
                    let disagree = self.shared.look();
                    look_again = longer.filter(|pause| disagree && *pause <= LAST_PAUSE);
                }
            }
        };
        self.lifeline.end(&self.shared.rundir);
        while take(self.terminal.get_ref(), &self.shared, &mut self.printed).is_ok() {}
        self.printed.extend(self.shared.hold.released());
        self.shared.look();
        self.pass_on_the_rest(monitor_open).await;
        self.shared.outlet().finish().await;
        self.shared.streams.finish(&self.shared.events).await;
        let Self { shared, monitor, .. } = self;
        let exit = shared.exit(status);
        shared.log(format!("{}\n", exit.text).as_bytes());
        told.send_replace(Some(exit.clone()));
        // The end of the console before the end of the process: what it said counts until then.
        drop(monitor);
        shared.give_back();
        shared.tell(Event::Exited(exit));
    }

    /// Has another process hold what the program does not hold any longer.
    fn keep_what_was_closed(&mut self) {
        // Its end is told in a moment; nothing is to be kept for it, or there is nothing of use.
        let of_use = self.shared.profile.console.kind.is_own() || self.shared.streams.any();
        if !of_use || !self.process.identity().alive() {
            self.lifeline.end(&self.shared.rundir);
            self.lifeline = Lifeline::None;
            return;
        }
        let held = self
            .shared
            .held()
            .and_then(|fds| self.lifeline.hold(&self.process, fds, &self.shared.rundir));
        if let Err(error) = held {
            self.lifeline = Lifeline::None;
            let text = format!(
                "the program has closed its terminal's descriptor, and no process can be made that \
                 holds it in its place: {error}; the program loses its terminal when its monitor ends"
            );
            self.shared.tell(Event::Warning { what: "console-unheld", text });
        }
    }

    /// Takes what was typed; false when the monitor's end is closed.
    fn hear(&self, typed: &mut VecDeque<u8>) -> bool {
        let mut buffer = [0; 1024];
        let Some(monitor) = &self.monitor else { return false };
        match monitor.try_read(&mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                typed.extend(&buffer[..count]);
                true
            }
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// Passes on what an emulator printed before its end, for as long as it is taken.
    async fn pass_on_the_rest(&mut self, monitor_open: bool) {
        if !monitor_open {
            self.let_go();
        }
        self.pass_on();
        while monitor_open && !self.printed.is_empty() {
            let room = turn(self.monitor.as_ref(), Interest::WRITABLE);
            let room = tokio::time::timeout(LAST_OUTPUT, room).await;
            let left = self.printed.len();
            self.pass_on();
            // Readable and hung up look like room, too.
            if !matches!(room, Ok(Ok(_))) || (left == self.printed.len() && self.is_closed()) {
                return;
            }
        }
    }

    /// What was printed and nobody takes: where it is no console it goes into the log.
    fn let_go(&mut self) {
        if self.monitor.is_none() && !self.printed.is_empty() {
            self.shared.log(self.printed.make_contiguous());
        }
        self.printed.clear();
    }

    /// Whether the monitor's end is closed.
    fn is_closed(&self) -> bool {
        let mut byte = [0];
        self.monitor.as_ref().is_none_or(|monitor| matches!(monitor.try_read(&mut byte), Ok(0)))
    }

    fn pass_on(&mut self) {
        let Some(monitor) = &self.monitor else { return };
        while !self.printed.is_empty() {
            let (part, _) = self.printed.as_slices();
            match monitor.try_write(part) {
                Ok(count) => drop(self.printed.drain(..count)),
                Err(_) => return,
            }
        }
        // A burst must not pin its memory for the life of an idle domain.
        self.printed.shrink_to(4096);
    }
}

/// Waits for the monitor's turn, where it has one.
async fn turn(monitor: Option<&UnixStream>, interest: Interest) -> io::Result<tokio::io::Ready> {
    match monitor {
        Some(monitor) => monitor.ready(interest).await,
        None => std::future::pending().await,
    }
}

/// Reads what is there now into transcript and backlog.
pub(crate) fn take(fd: &OwnedFd, shared: &Shared, printed: &mut VecDeque<u8>) -> io::Result<()> {
    let mut buffer = [0; 4096];
    let count = nix::unistd::read(fd, &mut buffer)?;
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // Also what a guest prints, which cannot be told apart in time: a false alarm costs a moment.
    shared.buffers.read(&buffer[..count]);
    shared.ear.hear(&buffer[..count]);
    if shared.hold.held() {
        shared.hold.hear(&buffer[..count]);
        return Ok(());
    }
    printed.extend(shared.hold.released());
    shared.transcript.borrow_mut().feed(&buffer[..count]);
    let excess = (printed.len() + count).saturating_sub(BACKLOG);
    printed.drain(..excess.min(printed.len()));
    printed.extend(&buffer[..count]);
    Ok(())
}

fn give(fd: &OwnedFd, typed: &mut VecDeque<u8>) -> io::Result<()> {
    let (part, _) = typed.as_slices();
    let count = nix::unistd::write(fd, part)?;
    typed.drain(..count);
    Ok(())
}

fn would_block(done: &io::Result<()>) -> bool {
    done.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}
