//! A machine that only pretends, and a client of it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use kxl_qmp::codec::{Decoder, Frame};
use kxl_qmp::server::ErrorClass;
use serde_json::Value;

use crate::api::control::{
    Block, Control, Identity, Limits, Migrate, Migration, MigrationStatus, NewDisk, NewNic, NewTap,
    Outcome, Place, Refusal, RunState, Status, Vcpu,
};
use crate::api::notices::{Cause, Notices, What};
use crate::api::{Api, Listener};
use crate::config::Actions;

/// No test waits longer for anything.
pub(super) const LONG: Duration = Duration::from_secs(20);

/// What the fake was told, by whoever tells it.
pub(super) type Log = Arc<Mutex<Vec<String>>>;

pub(super) struct Fake {
    pub(super) notices: Notices,
    pub(super) log: Log,
    state: RunState,
    ended: Option<Cause>,
    actions: Actions,
    balloon: Option<u64>,
    limits: Limits,
    migration: Migration,
    devices: Vec<String>,
}

impl Fake {
    pub(super) fn new() -> Self {
        Self {
            notices: Notices::new().unwrap(),
            log: Log::default(),
            state: RunState::Running,
            ended: None,
            actions: Actions::default(),
            balloon: Some(128 << 20),
            limits: Limits::default(),
            migration: Migration::default(),
            devices: Vec::new(),
        }
    }

    pub(super) fn ended(mut self, state: RunState, cause: Cause) -> Self {
        (self.state, self.ended) = (state, Some(cause));
        self
    }

    pub(super) fn without_balloon(mut self) -> Self {
        self.balloon = None;
        self
    }

    fn note(&self, text: String) {
        self.log.lock().unwrap().push(text);
    }

    fn plug(&mut self, id: String, what: String) -> Outcome {
        if self.devices.contains(&id) {
            return Err(Refusal::new(format!("there is a device '{id}' already")));
        }
        if self.devices.len() == 2 {
            return Err(Refusal::new("no slot is free"));
        }
        self.devices.push(id);
        self.note(what);
        Ok(())
    }
}

/// A file's or tap's first bytes, which tell which descriptor it is.
fn shown(place: Place) -> String {
    match place {
        Place::Path(path) => path.display().to_string(),
        Place::Fd(fd) => {
            let mut bytes = String::new();
            let mut file = std::fs::File::from(fd);
            std::io::Seek::rewind(&mut file).unwrap();
            file.read_to_string(&mut bytes).unwrap();
            format!("a descriptor of {bytes}")
        }
    }
}

impl Control for Fake {
    fn attend(&mut self) {}

    fn notices(&self) -> &Notices {
        &self.notices
    }

    fn identity(&self) -> Identity {
        let uuid = "f3a8ba1d-28a1-4f2c-8b52-7a1e2a3a4c5d".to_owned();
        Identity { name: Some("fake".into()), uuid: Some(uuid) }
    }

    fn status(&self) -> Status {
        Status { state: self.state, ended: self.ended }
    }

    fn stop(&mut self) -> Outcome {
        if self.state == RunState::Running {
            self.state = RunState::Paused;
            self.notices.post(What::Stop);
        }
        Ok(())
    }

    fn cont(&mut self) -> Outcome {
        match self.state {
            RunState::Running => {}
            RunState::Paused | RunState::Prelaunch | RunState::Postmigrate => {
                self.state = RunState::Running;
                self.notices.post(What::Resume);
            }
            _ => return Err(Refusal::new("the guest has ended; system_reset comes first")),
        }
        Ok(())
    }

    fn reset(&mut self) -> Outcome {
        self.notices.post(What::Reset(Cause::HostQmpSystemReset));
        Ok(())
    }

    fn powerdown(&mut self) -> Outcome {
        self.notices.post(What::Powerdown);
        Ok(())
    }

    fn quit(&mut self, cause: Cause) {
        self.notices.post(What::Shutdown(cause));
        self.notices.post(What::Exit(0));
    }

    fn actions(&self) -> Actions {
        self.actions
    }

    fn set_actions(&mut self, actions: Actions) {
        self.actions = actions;
        self.note(format!("{actions:?}"));
    }

    fn vcpus(&self) -> Vec<Vcpu> {
        vec![Vcpu { thread: 71 }, Vcpu { thread: 72 }]
    }

    fn memory(&self) -> u64 {
        256 << 20
    }

    fn blocks(&self) -> Vec<Block> {
        vec![
            Block { id: "vda".into(), file: Some("/a".into()), readonly: false, size: 1 << 20 },
            Block { id: "vdb".into(), file: None, readonly: true, size: 512 },
        ]
    }

    fn balloon(&self) -> Option<u64> {
        self.balloon
    }

    fn set_balloon(&mut self, bytes: u64) -> Outcome {
        let Some(actual) = &mut self.balloon else {
            let text = "the machine has no balloon".to_owned();
            return Err(Refusal { class: ErrorClass::DeviceNotActive, text });
        };
        *actual = bytes;
        self.notices.post(What::BalloonChange(bytes));
        Ok(())
    }

    fn plug_disk(&mut self, disk: NewDisk) -> Outcome {
        let (slot, source) = (disk.slot, shown(disk.source));
        let what = format!("disk {} {slot:?} {source} {}", disk.id, disk.readonly);
        self.plug(disk.id, what)
    }

    fn plug_nic(&mut self, nic: NewNic) -> Outcome {
        let tap = match nic.tap {
            NewTap::Name(name) => name,
            NewTap::Fd(fd) => shown(Place::Fd(fd)),
        };
        let what = format!("nic {} {:?} {tap} {:?} {:?}", nic.id, nic.slot, nic.mac, nic.vhost);
        self.plug(nic.id, what)
    }

    fn unplug(&mut self, id: &str) -> Outcome {
        let before = self.devices.len();
        self.devices.retain(|device| device != id);
        if self.devices.len() == before {
            return Err(Refusal::no_device(id));
        }
        self.notices.post(What::DeviceDeleted(id.into()));
        Ok(())
    }

    fn migrate(&mut self, order: Migrate) -> Outcome {
        let offset = order.offset;
        self.note(format!("migrate {} {offset}", shown(order.to)));
        for status in [MigrationStatus::Setup, MigrationStatus::Active] {
            self.notices.post(What::Migration(status));
        }
        self.migration = Migration { status: MigrationStatus::Active, ..Migration::default() };
        if order.pause_before_switchover {
            self.migration.status = MigrationStatus::PreSwitchover;
            self.state = RunState::FinishMigrate;
            self.notices.post(What::Stop);
            self.notices.post(What::Migration(MigrationStatus::PreSwitchover));
        }
        Ok(())
    }

    fn continue_migration(&mut self) -> Outcome {
        self.migration.status = MigrationStatus::Completed;
        self.migration.downtime_ms = Some(3);
        self.state = RunState::Postmigrate;
        self.notices.post(What::Migration(MigrationStatus::Completed));
        Ok(())
    }

    fn cancel_migration(&mut self) {
        if !self.migration.status.over() {
            self.migration.status = MigrationStatus::Cancelled;
            self.notices.post(What::Migration(MigrationStatus::Cancelled));
        }
    }

    fn limit_migration(&mut self, limits: Limits) {
        self.limits = limits;
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn migration(&self) -> Migration {
        self.migration.clone()
    }

    fn incoming(&mut self, from: Place, offset: u64) -> Outcome {
        self.note(format!("incoming {} {offset}", shown(from)));
        Ok(())
    }
}

/// A directory of a test's own, gone with it.
pub(super) struct Dir(PathBuf);

impl Dir {
    pub(super) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kxl-api-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.0.join("qmp.socket")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _left_for_the_next_run = std::fs::remove_dir_all(&self.0);
    }
}

/// A fake that is served on a thread of its own.
pub(super) struct Served {
    pub(super) dir: Dir,
    pub(super) notices: Notices,
    pub(super) log: Log,
    thread: JoinHandle<u8>,
}

impl Served {
    pub(super) fn new(name: &str) -> Self {
        Self::of(name, Fake::new())
    }

    pub(super) fn of(name: &str, mut fake: Fake) -> Self {
        let dir = Dir::new(name);
        let listener = Listener::bind(&dir.socket()).unwrap();
        let (notices, log) = (fake.notices.clone(), Arc::clone(&fake.log));
        let thread =
            std::thread::spawn(move || Api::open(vec![listener]).serve(&mut fake).unwrap());
        Self { dir, notices, log, thread }
    }

    pub(super) fn connect(&self) -> Client {
        Client::new(&self.dir.socket())
    }

    /// A client that has seen the greeting.
    pub(super) fn greeted(&self) -> Client {
        let mut client = self.connect();
        assert!(client.next().get("QMP").is_some());
        client
    }

    pub(super) fn told(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Ends it and returns the exit status.
    pub(super) fn end(self) -> u8 {
        self.notices.post(What::Exit(9));
        self.thread.join().unwrap()
    }

    /// The exit status of one that ends by itself.
    pub(super) fn ended(self) -> u8 {
        self.thread.join().unwrap()
    }
}

/// A client that speaks as the test wants it to.
pub(super) struct Client {
    pub(super) socket: UnixStream,
    decoder: Decoder,
    heard: std::collections::VecDeque<Value>,
}

impl Client {
    pub(super) fn new(path: &Path) -> Self {
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        socket.set_write_timeout(Some(LONG)).unwrap();
        Self { socket, decoder: Decoder::default(), heard: std::collections::VecDeque::new() }
    }

    pub(super) fn say(&mut self, text: &str) {
        self.socket.write_all(text.as_bytes()).unwrap();
    }

    /// The next thing said; `None` when the other side has hung up.
    pub(super) fn maybe(&mut self) -> Option<Value> {
        while self.heard.is_empty() {
            let mut bytes = [0; 4096];
            match self.socket.read(&mut bytes).unwrap() {
                0 => return None,
                count => {
                    for frame in self.decoder.feed(&bytes[..count]) {
                        match frame {
                            Frame::Document(value) => self.heard.push_back(value),
                            Frame::Garbage(garbage) => panic!("{garbage:?}"),
                        }
                    }
                }
            }
        }
        self.heard.pop_front()
    }

    pub(super) fn next(&mut self) -> Value {
        self.maybe().expect("the connection lives")
    }

    /// Runs a command and returns the events before its answer, and the answer.
    pub(super) fn run(&mut self, request: &Value) -> (Vec<Value>, Value) {
        self.say(&request.to_string());
        let mut events = Vec::new();
        loop {
            let next = self.next();
            if next.get("event").is_none() {
                return (events, next);
            }
            events.push(next);
        }
    }

    /// What a command returned.
    pub(super) fn returned(&mut self, request: &Value) -> Value {
        let answer = self.run(request).1;
        answer.get("return").unwrap_or_else(|| panic!("{request}: {answer}")).clone()
    }

    /// Class and text of its refusal.
    pub(super) fn refused(&mut self, request: &Value) -> (String, String) {
        let answer = self.run(request).1;
        let text = |key: &str| answer["error"][key].as_str().unwrap_or_default().to_owned();
        assert!(answer.get("error").is_some(), "{request}: {answer}");
        (text("class"), text("desc"))
    }
}
