//! The mock through the backend's own traits, with its real emulator process.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests fail and tell like tests"
)]

mod adoption;
mod faults;
mod host;
mod images;
mod lifecycle;

use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use kxl_backend::{
    Attachments, Backend, BackendError, ConsoleEnd, Event, Identity, LaunchSpec, Live, Recorder,
    Report,
};
use kxl_domain::{DomId, DomainConfig, DomainName, DomainUuid};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::UnboundedReceiver;

/// Longest wait for something that is certain to happen.
const SOON: Duration = Duration::from_secs(90);

/// Runs a test as a monitor runs: one thread, one local set.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

fn backend() -> impl Backend {
    kxl_mock::backend_at(env!("CARGO_BIN_EXE_kxl-mock").into())
}

/// A domain of the test; its directory and whatever process it recorded are gone at the end.
struct Domain {
    spec: LaunchSpec,
    recorded: Vec<(Identity, Attachments)>,
    refuse_record: bool,
}

impl Domain {
    fn new(words: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("kxl-mock-{}-{number}", std::process::id()));
        Self::within(dir, number, words)
    }

    fn within(dir: PathBuf, number: u32, words: &[&str]) -> Self {
        std::fs::create_dir_all(&dir).unwrap();
        let name = DomainName::new(format!("dom{number}")).unwrap();
        let mut config = DomainConfig::new(name.clone());
        config.emulator_args = words.iter().map(|word| (*word).to_owned()).collect();
        (config.memory_mib, config.vcpus) = (96, 2);
        let spec = LaunchSpec {
            name,
            uuid: DomainUuid::random(),
            domid: DomId(number),
            config,
            emulator_log: dir.join("emulator.log"),
            cachedir: dir.clone(),
            profiledir: dir.clone(),
            rundir: dir,
            run_as: None,
            default_bridge: None,
            cgroups: Vec::new(),
            host: kxl_backend::HostFacts::default(),
            paused: false,
            image: None,
        };
        Self { spec, recorded: Vec::new(), refuse_record: false }
    }

    async fn launch(&mut self) -> Result<Box<dyn Live>, BackendError> {
        let spec = self.spec.clone();
        backend().launch(&spec, self).await
    }

    /// Launches and takes events and console.
    async fn up(words: &[&str]) -> (Self, Up) {
        let mut domain = Self::new(words);
        let live = domain.launch().await.unwrap();
        (domain, Up::of(live))
    }

    async fn adopt(&self) -> Result<Box<dyn Live>, BackendError> {
        let (identity, attachments) = self.recorded.last().unwrap();
        backend().adopt(&self.spec, identity.clone(), attachments).await
    }

    fn script(&self, words: &str) {
        let (new, place) = (self.path("mock.script.new"), self.path("mock.script"));
        std::fs::write(&new, words).unwrap();
        std::fs::rename(new, place).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.spec.rundir.join(name)
    }

    fn identity(&self) -> &Identity {
        &self.recorded.last().unwrap().0
    }
}

impl Recorder for Domain {
    fn record(&mut self, identity: &Identity, attachments: &Attachments) -> Result<(), String> {
        self.recorded.push((identity.clone(), attachments.clone()));
        if self.refuse_record { Err("the database is full".to_owned()) } else { Ok(()) }
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        for (identity, _) in &self.recorded {
            if let Ok(process) = kxl_backend::Process::open(identity.clone()) {
                // Only where a test has failed is there anything left to end.
                let _ended = process.signal(nix::sys::signal::Signal::SIGKILL);
                let _thawed = process.thaw();
            }
        }
        let _removed = std::fs::remove_dir_all(&self.spec.rundir);
    }
}

/// A living domain as a monitor holds it.
struct Up {
    live: Box<dyn Live>,
    events: UnboundedReceiver<Event>,
    console: Console,
}

impl Up {
    fn of(mut live: Box<dyn Live>) -> Self {
        let events = live.events().unwrap();
        let console = Console::of(live.console().unwrap());
        Self { live, events, console }
    }

    /// Asks for the state, again where a busy host did not let the emulator answer in 150 ms.
    async fn report(&mut self) -> Report {
        let until = async {
            loop {
                match self.live.query().await {
                    Err(error) if error.is_timeout() => {}
                    answer => return answer.unwrap(),
                }
            }
        };
        tokio::time::timeout(SOON, until).await.expect("no answer")
    }

    async fn event(&mut self) -> Event {
        tokio::time::timeout(SOON, self.events.recv()).await.expect("no event").expect("over")
    }
}

struct Console {
    stream: tokio::net::UnixStream,
    read: String,
}

impl Console {
    fn of(end: ConsoleEnd) -> Self {
        let ConsoleEnd::Socket { stream, pace: None } = end else { panic!("{end:?}") };
        let stream = tokio::net::UnixStream::from_std(stream.into()).unwrap();
        Self { stream, read: String::new() }
    }

    async fn type_in(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads until `text` has come and returns all that came before and with it.
    async fn expect(&mut self, text: &str) -> String {
        let until = async {
            loop {
                if let Some(at) = self.read.find(text) {
                    let rest = self.read.split_off(at + text.len());
                    return std::mem::replace(&mut self.read, rest);
                }
                let mut bytes = [0; 512];
                let n = self.stream.read(&mut bytes).await.unwrap();
                assert!(n > 0, "the console ended after {:?}", self.read);
                self.read.push_str(std::str::from_utf8(&bytes[..n]).unwrap());
            }
        };
        tokio::time::timeout(SOON, until).await.expect("not on the console")
    }
}
