//! One living QEMU.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Weak;
use std::time::Duration;

use kxl_backend::{
    BackendError, ConsoleEnd, Event, Exit, Live, Local, Process, Report, Result, SaveOrder,
    SavedState, StateSink, StateSize,
};
use kxl_domain::{GuestEvent, State};
use kxl_qmp::{Client, QmpError};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

use super::cause;
use super::machine::{Disk, Facts};
use super::migration::{Ear, Told};
use super::save::Devices;
use super::shadow::Shadow;
use crate::ending::{self, Status};
use crate::files;
use crate::profile::{self, Profile};

/// For commands that change something: QEMU answers within milliseconds unless its host swaps.
pub(crate) const COMMAND: Duration = Duration::from_secs(5);

/// Lines of QEMU's own monitor.
const HUMAN: &str = "human-monitor-command";

/// For looking only.
const LOOK: Duration = Duration::from_millis(150);

/// What the handle and its watching task share.
pub(crate) struct Shared {
    /// How the guest ended, if it has.
    pub(crate) ended: Cell<Option<GuestEvent>>,
    /// We took the power away.
    destroyed: Cell<bool>,
    /// The machine was reset.
    reset: Notify,
    /// A reset of ours is under way.
    resetting: Cell<bool>,
    /// It stopped the processors, which nobody has been told.
    stopped_by_reset: Cell<bool>,
    /// A save is under way: the processors stop and go on without the monitor being told.
    pub(super) quiet: Cell<bool>,
    /// When they stopped last, by the host's clock; milliseconds since 1970.
    pub(super) stopped_ms: Cell<Option<i64>>,
    /// Who follows a migration.
    pub(super) ear: Ear,
    /// The file that QEMU writes its devices into.
    pub(super) devices: Cell<Option<Devices>>,
    /// QEMU may have let go of its disks, which it takes up again when the guest goes on.
    pub(super) released: Cell<bool>,
    /// The thread of the last save that read the memory, as long as it does.
    pub(super) copying: RefCell<Weak<()>>,
    /// Snapshots (disk, name) of a save that was dropped in the middle.
    pub(super) leftover: RefCell<Vec<(Disk, String)>>,
    /// To the monitor.
    pub(super) events: mpsc::UnboundedSender<Event>,
    receiver: Cell<Option<mpsc::UnboundedReceiver<Event>>>,
    log: PathBuf,
    log_offset: u64,
    /// Name of the profile.
    backend: String,
    exit: profile::Exit,
}

impl Shared {
    pub(crate) fn new(log: PathBuf, log_offset: u64, profile: &Profile) -> Self {
        let (events, receiver) = mpsc::unbounded_channel();
        Self {
            ended: Cell::new(None),
            destroyed: Cell::new(false),
            reset: Notify::new(),
            resetting: Cell::new(false),
            stopped_by_reset: Cell::new(false),
            quiet: Cell::new(false),
            stopped_ms: Cell::new(None),
            ear: Ear::default(),
            devices: Cell::default(),
            released: Cell::new(false),
            copying: RefCell::default(),
            leftover: RefCell::default(),
            events,
            receiver: Cell::new(Some(receiver)),
            log,
            log_offset,
            backend: profile.name.clone(),
            exit: profile.exit.clone(),
        }
    }

    /// What QEMU has written to its log since it was started.
    fn log(&self) -> String {
        files::log_since(&self.log, self.log_offset)
    }

    pub(crate) fn last_words(&self) -> String {
        cause::words(&self.log())
    }
}

/// The handle.
pub(crate) struct Qemu {
    pub(super) process: Rc<Process>,
    pub(super) client: Client,
    console: Option<ConsoleEnd>,
    channel: Option<OwnedFd>,
    pub(super) exit: watch::Receiver<Option<Exit>>,
    pub(super) shared: Rc<Shared>,
    pub(super) facts: Facts,
    watcher: JoinHandle<()>,
    vcpus: u32,
    shadow: Option<Shadow>,
}

/// What a launch or an adoption has come by.
pub(crate) struct Parts {
    pub(crate) process: Process,
    pub(crate) client: Client,
    pub(crate) qmp_events: mpsc::UnboundedReceiver<kxl_qmp::Event>,
    pub(crate) console: Option<ConsoleEnd>,
    pub(crate) channel: Option<OwnedFd>,
    pub(crate) shared: Shared,
    pub(crate) facts: Facts,
    pub(crate) notes: Vec<String>,
    pub(crate) vcpus: u32,
    /// What a reset of this machine leaves behind.
    pub(crate) shadow: Option<Shadow>,
}

impl Qemu {
    pub(crate) fn new(parts: Parts) -> Self {
        let (told, exit) = watch::channel(None);
        let (process, shared) = (Rc::new(parts.process), Rc::new(parts.shared));
        for note in parts.notes {
            let _received_below = shared.events.send(Event::Note(note));
        }
        let watcher = Watcher {
            process: Rc::clone(&process),
            shared: Rc::clone(&shared),
            qmp: parts.qmp_events,
        };
        Self {
            process,
            client: parts.client,
            console: parts.console,
            channel: parts.channel,
            exit,
            shared,
            facts: parts.facts,
            watcher: tokio::task::spawn_local(watcher.run(told)),
            vcpus: parts.vcpus,
            shadow: parts.shadow,
        }
    }

    pub(super) async fn command(
        &self,
        name: &'static str,
        arguments: Option<Value>,
    ) -> Result<Value> {
        match self.client.execute(name, arguments, COMMAND).await {
            Ok(value) => Ok(value),
            Err(error) => Err(self.explained(error).await),
        }
    }

    /// The file that the guest's memory was mapped from, if it was.
    fn memory_file(&self) -> Option<File> {
        let (pid, number) = (self.process.identity().pid, self.facts.memory_fd?);
        File::open(format!("/proc/{pid}/fd/{number}")).ok()
    }

    /// Has QEMU's own monitor carry a line out; what it prints.
    pub(super) async fn monitor_line(&self, line: &str) -> Result<String> {
        let line = json!({"command-line": line});
        let printed = self.command(HUMAN, Some(line)).await?;
        Ok(printed.as_str().unwrap_or_default().to_owned())
    }

    /// A closed channel is an emulator that ends: its exit says more.
    pub(super) async fn explained(&self, error: QmpError) -> BackendError {
        if !matches!(error, QmpError::Closed { .. } | QmpError::Io(_)) {
            return translated(error);
        }
        let mut exit = self.exit.clone();
        let told = tokio::time::timeout(ending::LAST_MOMENTS, exit.wait_for(Option::is_some)).await;
        match told {
            Ok(Ok(exit)) => {
                let text = exit.as_ref().map_or_else(String::new, |exit| exit.text.clone());
                BackendError::Exited { text }
            }
            _ => translated(error),
        }
    }

    /// Where the guest stands; an answer may take as long as `patience`.
    pub(crate) async fn report(&self, patience: Duration) -> Result<Report> {
        let (status, balloon) = tokio::join!(
            self.client.execute("query-status", None, patience),
            self.client.execute("query-balloon", None, patience),
        );
        let status = match status {
            Ok(status) => status,
            Err(error) => return Err(self.explained(error).await),
        };
        let word = status.get("status").and_then(Value::as_str).unwrap_or_default();
        let (state, ended) = state(word, self.shared.ended.get(), || {
            // QEMU itself does not say it here.
            cause::of_event(&status).or_else(|| cause::of_log(&self.shared.log()))
        });
        if let Some(how) = ended
            && self.shared.ended.replace(ended).is_none()
        {
            // It ended while nobody listened: the event is still owed.
            let _nobody_listens = self.shared.events.send(Event::GuestEnded(how));
        }
        // Without a driver in the guest the balloon has nothing to say.
        let bytes = balloon.ok().and_then(|answer| answer.get("actual")?.as_u64());
        Ok(Report { state, ended, memory_mib: bytes.map(|b| b >> 20), vcpus: Some(self.vcpus) })
    }

    async fn reset_in_place(&self) -> Result<()> {
        self.shared.stopped_by_reset.set(false);
        self.shared.resetting.set(true);
        let done = self.reset_now().await;
        self.shared.resetting.set(false);
        let stands = done.is_err() && self.shared.stopped_by_reset.get();
        if stands && self.command("cont", None).await.is_err() {
            let _nobody_listens = self.shared.events.send(Event::Stopped);
        }
        done
    }

    /// `-action` turns every reset into a shutdown, our own as well: lifted for this one, and only
    /// while the processors stand still. So no reset by the guest is taken for ours, nor ours for
    /// one by the guest, however slow the machine is.
    async fn reset_now(&self) -> Result<()> {
        self.command("stop", None).await?;
        for line in self.shadow.iter().flat_map(Shadow::commands) {
            self.write_port(&line).await?;
        }
        self.command("set-action", Some(json!({"reboot": "reset"}))).await?;
        let done = self.system_reset().await;
        self.command("set-action", Some(json!({"reboot": "shutdown"}))).await?;
        done?;
        self.shared.ended.set(None);
        let _nobody_listens = self.shared.events.send(Event::Reset);
        self.command("cont", None).await.map(drop)
    }

    /// QEMU's own monitor complains by what it prints.
    async fn write_port(&self, line: &str) -> Result<()> {
        match self.monitor_line(line).await?.trim() {
            "" => Ok(()),
            why => {
                Err(BackendError::Control { command: HUMAN.into(), why: format!("{line}: {why}") })
            }
        }
    }

    async fn system_reset(&self) -> Result<()> {
        let happened = self.shared.reset.notified();
        self.command("system_reset", None).await?;
        tokio::time::timeout(COMMAND, happened)
            .await
            .map_err(|_| BackendError::TimedOut { waited_for: "reset".into(), after: COMMAND })
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

impl Live for Qemu {
    fn backend(&self) -> &str {
        &self.shared.backend
    }

    fn process(&self) -> &Process {
        &self.process
    }

    fn events(&mut self) -> Option<mpsc::UnboundedReceiver<Event>> {
        self.shared.receiver.take()
    }

    fn console(&mut self) -> Option<ConsoleEnd> {
        self.console.take()
    }

    fn guest_channel(&mut self) -> Option<OwnedFd> {
        self.channel.take()
    }

    fn pause(&mut self) -> Local<'_, Result<()>> {
        self.shared.quiet.set(false);
        Box::pin(async { self.command("stop", None).await.map(drop) })
    }

    fn unpause(&mut self) -> Local<'_, Result<()>> {
        self.shared.quiet.set(false);
        Box::pin(async { self.command("cont", None).await.map(drop) })
    }

    fn sleep(&mut self) -> Local<'_, Result<()>> {
        self.shared.quiet.set(false);
        Box::pin(self.sleep_in_memory())
    }

    fn wake(&mut self) -> Local<'_, Result<()>> {
        self.shared.quiet.set(false);
        Box::pin(self.wake_up())
    }

    fn powerdown(&mut self) -> Local<'_, Result<()>> {
        Box::pin(async { self.command("system_powerdown", None).await.map(drop) })
    }

    fn reset(&mut self) -> Local<'_, Result<()>> {
        Box::pin(self.reset_in_place())
    }

    fn state_size(&mut self) -> Local<'_, Result<StateSize>> {
        Box::pin(async {
            // Asked together: an emulator that hangs is told of after the time of one command.
            let (answers, needs) =
                tokio::join!(self.command("query-status", None), self.state_needs());
            answers.and(needs)
        })
    }

    fn save_state(
        &mut self,
        order: SaveOrder,
        sink: Box<dyn StateSink>,
    ) -> Local<'_, Result<SavedState>> {
        Box::pin(self.save(order, sink))
    }

    fn go_on(&mut self, run: bool) -> Local<'_, Result<()>> {
        Box::pin(self.go_on_from_save(run))
    }

    fn forget_snapshots<'a>(&'a mut self, name: &'a str) -> Local<'a, ()> {
        Box::pin(self.delete_snapshots(name))
    }

    fn query(&mut self) -> Local<'_, Result<Report>> {
        Box::pin(self.report(LOOK))
    }

    fn destroy(&mut self) -> Local<'_, Result<Exit>> {
        self.shared.destroyed.set(true);
        Box::pin(async {
            let memory = self.memory_file();
            let exit = ending::destroy(&self.process, self.exit.clone()).await;
            if let Some(memory) = memory {
                // The last who has it open waits for its pages to be freed, a tenth of a second
                // for each GiB where it has no name any more: not the emulator, whose end is
                // waited for.
                std::thread::spawn(move || drop(memory));
            }
            exit
        })
    }
}

/// QEMU's run state as ours. `how` is asked only where the state itself does not tell how the
/// guest ended.
fn state(
    word: &str,
    known: Option<GuestEvent>,
    how: impl FnOnce() -> Option<GuestEvent>,
) -> (State, Option<GuestEvent>) {
    let ended = |event| (State::Shutdown, Some(event));
    match word {
        "running" => (State::Running, None),
        "suspended" => (State::Asleep, None),
        "guest-panicked" | "internal-error" => ended(GuestEvent::Crash),
        "watchdog" => ended(GuestEvent::Watchdog),
        // Where nothing tells, a power-off: the one end that restarts nothing by default.
        "shutdown" => ended(known.or_else(how).unwrap_or(GuestEvent::Poweroff)),
        // It ended while it was saved, which hides the run state.
        "finish-migrate" | "postmigrate" => match known.or_else(how) {
            Some(event) => ended(event),
            None => (State::Paused, None),
        },
        _ => (State::Paused, None),
    }
}

/// A failure of the control channel as a backend's.
pub(crate) fn translated(error: QmpError) -> BackendError {
    match error {
        QmpError::Refused { command, desc, .. } => BackendError::Control { command, why: desc },
        QmpError::TimedOut { command, after } => {
            BackendError::TimedOut { waited_for: format!("answer to {command}"), after }
        }
        QmpError::Blocked { command } => {
            BackendError::TimedOut { waited_for: format!("room to send {command}"), after: COMMAND }
        }
        QmpError::Closed { command } => {
            BackendError::Control { command, why: "the control channel was closed".into() }
        }
        QmpError::Io(error) => BackendError::io("the control channel failed", error),
    }
}

/// The task that turns what QEMU says, and its end, into events.
struct Watcher {
    process: Rc<Process>,
    shared: Rc<Shared>,
    qmp: mpsc::UnboundedReceiver<kxl_qmp::Event>,
}

impl Watcher {
    async fn run(mut self, told: watch::Sender<Option<Exit>>) {
        let process = Rc::clone(&self.process);
        let mut end = std::pin::pin!(Status::of(&process));
        let mut connected = true;
        let status = loop {
            tokio::select! {
                event = self.qmp.recv(), if connected => match event {
                    Some(event) => self.tell(&event),
                    None => connected = false,
                },
                status = &mut end => break status,
            }
        };
        // The socket may still hold what QEMU said last; its close ends the receiver.
        while let Ok(Some(event)) =
            tokio::time::timeout(Duration::from_millis(200), self.qmp.recv()).await
        {
            self.tell(&event);
        }
        let exit = self.exit(status);
        told.send_replace(Some(exit.clone()));
        let _nobody_listens = self.shared.events.send(Event::Exited(exit));
    }

    fn exit(&self, status: Status) -> Exit {
        if self.shared.destroyed.get() {
            return status.exit(None, "destroyed".into());
        }
        let meaning = self
            .shared
            .ended
            .get()
            .or_else(|| self.shared.exit.meaning(status.code, status.signal));
        status.exit(meaning, status.text(&self.shared.last_words()))
    }

    fn tell(&self, event: &kxl_qmp::Event) {
        self.shared.ear.hear(event);
        let ended = |how: GuestEvent| {
            // A panic is followed by its own shutdown: the first word counts.
            let first = self.shared.ended.get().is_none();
            self.shared.ear.tell(Told::GuestEnded);
            self.shared.ended.set(Some(self.shared.ended.get().unwrap_or(how)));
            first.then_some(Event::GuestEnded(how))
        };
        let action = || event.data.get("action").and_then(Value::as_str).unwrap_or_default();
        let event = match event.name.as_str() {
            "SHUTDOWN" => match cause::of_event(&event.data) {
                Some(how) => ended(how),
                None => Some(Event::Note(format!("the emulator was told to end: {}", event.data))),
            },
            "GUEST_PANICKED" if action() != "run" => ended(GuestEvent::Crash),
            "WATCHDOG" if action() == "pause" => ended(GuestEvent::Watchdog),
            "RESET" => {
                self.shared.ended.set(None);
                self.shared.reset.notify_waiters();
                // One of ours is told where it was asked for, once.
                (!self.shared.resetting.get()).then_some(Event::Reset)
            }
            // The end itself stops the processors too: one event is enough.
            "STOP" if self.shared.resetting.get() => {
                self.shared.stopped_by_reset.set(true);
                None
            }
            "STOP" => {
                self.shared.stopped_ms.set(event.timestamp.map(milliseconds));
                let news = self.shared.ended.get().is_none() && !self.shared.quiet.get();
                news.then_some(Event::Stopped)
            }
            "RESUME" => {
                self.shared.ended.set(None);
                self.shared.released.set(false);
                (!self.shared.quiet.get()).then_some(Event::Resumed)
            }
            "BLOCK_IO_ERROR" | "SUSPEND" | "SUSPEND_DISK" | "WAKEUP" | "GUEST_CRASHLOADED"
            | "GUEST_PANICKED" | "WATCHDOG" | "MEMORY_FAILURE" => {
                Some(Event::Note(format!("{} {}", event.name, event.data)))
            }
            _ => None,
        };
        if let Some(event) = event {
            let _nobody_listens = self.shared.events.send(event);
        }
    }
}

/// A time stamp of seconds and microseconds.
const fn milliseconds((seconds, micros): (i64, i64)) -> i64 {
    seconds.saturating_mul(1000).saturating_add(micros / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_state_has_a_place_in_the_lifecycle() {
        let plain = |word| state(word, None, || None).0;
        assert_eq!(plain("running"), State::Running);
        for word in ["paused", "prelaunch", "postmigrate", "io-error", "inmigrate", "a new one"] {
            assert_eq!(plain(word), State::Paused, "{word}");
        }
        assert_eq!(plain("suspended"), State::Asleep);
        assert_eq!(state("guest-panicked", None, || None).1, Some(GuestEvent::Crash));
        assert_eq!(state("watchdog", None, || None).1, Some(GuestEvent::Watchdog));
    }

    #[test]
    fn a_shutdown_is_what_was_heard_else_what_the_log_says() {
        let log = || Some(GuestEvent::Reboot);
        assert_eq!(state("shutdown", None, log).1, Some(GuestEvent::Reboot));
        let heard = Some(GuestEvent::Poweroff);
        assert_eq!(state("shutdown", heard, log).1, Some(GuestEvent::Poweroff));
        assert_eq!(state("shutdown", None, || None).1, Some(GuestEvent::Poweroff));
    }
}
