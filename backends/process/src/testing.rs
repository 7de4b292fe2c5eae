//! What the tests share: a throw-away directory, a launch specification in it, a recorder, a
//! monitor's kind of runtime.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kxl_backend::process::Identity;
use kxl_backend::{Attachments, ConsoleEnd, Event, LaunchSpec, Live, Recorder, Report, StateSink};
use kxl_domain::image::MemoryLayout;
use kxl_domain::{DomId, DomainConfig, DomainUuid};
use nix::fcntl::{FallocateFlags, fallocate};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// Far above what anything here takes: only a hang runs into it.
pub(crate) const LONG: Duration = Duration::from_secs(600);

/// Says that the test of this thread was not run, and why: on standard output and in the file that
/// `KXL_SKIPS` names, which the suite's caller prints.
pub(crate) fn skip(reason: &str) {
    let thread = std::thread::current();
    let line = format!("SKIP process {}: {reason}\n", thread.name().unwrap_or("a thread"));
    print!("{line}");
    if let Some(path) = std::env::var_os("KXL_SKIPS").filter(|path| !path.is_empty()) {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        file.and_then(|mut file| io::Write::write_all(&mut file, line.as_bytes()))
            .unwrap_or_else(|error| panic!("cannot record a skip in {path:?}: {error}"));
    }
}

/// A directory that is gone with this.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("kxl-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    pub(crate) fn spec(&self) -> LaunchSpec {
        let name = "guest".parse::<kxl_domain::DomainName>().unwrap();
        LaunchSpec {
            config: DomainConfig::new(name.clone()),
            name,
            uuid: "4f9f8a9c-0c7b-4c3e-8f5e-2d1f6c3b9a01".parse::<DomainUuid>().unwrap(),
            domid: DomId(7),
            rundir: self.0.clone(),
            emulator_log: self.0.join("emulator.log"),
            cachedir: self.0.clone(),
            profiledir: self.0.clone(),
            run_as: None,
            default_bridge: None,
            cgroups: Vec::new(),
            host: kxl_backend::HostFacts::default(),
            paused: false,
            image: None,
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _leftover = std::fs::remove_dir_all(&self.0);
    }
}

/// Keeps what was recorded; refuses on request.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) refuse: bool,
    pub(crate) kept: Option<(Identity, Attachments)>,
}

impl Recorder for Record {
    fn record(&mut self, identity: &Identity, attachments: &Attachments) -> Result<(), String> {
        if self.refuse {
            return Err("the disk is full".into());
        }
        assert!(identity.alive(), "recorded before exec, while the child waits");
        self.kept = Some((identity.clone(), attachments.clone()));
        Ok(())
    }
}

/// Runs a test as the monitor runs a backend: one thread, local tasks, and a limit for hangs.
pub(crate) fn monitor(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(LONG, test).await.expect("a hang");
    });
}

/// A console's stream.
pub(crate) struct Typist {
    stream: UnixStream,
    pub(crate) seen: String,
}

impl Typist {
    pub(crate) fn new(end: ConsoleEnd) -> Self {
        let (ConsoleEnd::Socket { stream, .. } | ConsoleEnd::Relay { stream, .. }) = end else {
            panic!("a socket expected")
        };
        let stream = UnixStream::from_std(stream.into()).unwrap();
        Self { stream, seen: String::new() }
    }

    /// Reads until `text` has come after what was seen before; returns what came up to it.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            let count = self.stream.read(&mut buffer).await.unwrap();
            assert!(count > 0, "the console ended before {text:?}: {}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    }

    /// Reads to the end of a console that is closed.
    pub(crate) async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes).await.unwrap();
        self.seen.push_str(&String::from_utf8_lossy(&bytes));
        std::mem::take(&mut self.seen)
    }

    /// Reads so many more lines.
    pub(crate) async fn lines(&mut self, count: usize) {
        for _ in 0..count {
            self.until("\n").await;
        }
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }
}

/// What a query reports, asked again where a busy host did not let the emulator answer in 150 ms.
pub(crate) async fn report(live: &mut Box<dyn Live>) -> Report {
    loop {
        match live.query().await {
            Err(error) if error.is_timeout() => {}
            answer => return answer.unwrap(),
        }
    }
}

/// Asserts that a process comes to rest at once: soon there is a `span` in which it uses no CPU time.
/// It need not be the first one, as the last microseconds of its work may reach the end of a tick.
pub(crate) async fn rests(identity: &Identity, span: Duration) {
    let mut used = Vec::new();
    while used.len() < 5 {
        let before = identity.stat().unwrap().cpu_ticks;
        tokio::time::sleep(span).await;
        match identity.stat().unwrap().cpu_ticks - before {
            0 => return,
            ticks => used.push(ticks),
        }
    }
    panic!("it does not rest: ticks in {span:?} each: {used:?}");
}

/// The next event that is no note.
pub(crate) async fn next(events: &mut mpsc::UnboundedReceiver<Event>) -> Event {
    loop {
        match events.recv().await.expect("another event") {
            Event::Note(_) | Event::Warning { .. } => {}
            event => return event,
        }
    }
}

/// What a sink has got. Shared with the test, which looks when the save is over.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) layout: Option<MemoryLayout>,
    pub(crate) memory: Option<std::fs::File>,
    pub(crate) device: Vec<u8>,
    /// Bytes of pages that came, repeated ones too.
    pub(crate) bytes: u64,
}

/// A sink into an anonymous file and a vector; fails when it has got so many bytes, waits after
/// each MiB if it is to be slow.
#[derive(Default)]
pub(crate) struct Basket {
    pub(crate) kept: Arc<Mutex<Kept>>,
    pub(crate) full_at: Option<u64>,
    pub(crate) slow: Option<Duration>,
    /// Fails at the very end of the devices.
    pub(crate) deaf: bool,
}

impl Basket {
    pub(crate) fn new() -> (Self, Arc<Mutex<Kept>>) {
        let basket = Self::default();
        let kept = Arc::clone(&basket.kept);
        (basket, kept)
    }
}

impl StateSink for Basket {
    fn memory(&mut self, layout: &MemoryLayout) -> io::Result<()> {
        let mut kept = self.kept.lock().unwrap();
        assert!(kept.layout.is_none(), "announced once");
        let name = c"memory";
        let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
        let file = std::fs::File::from(nix::sys::memfd::memfd_create(name, flags)?);
        file.set_len(layout.size)?;
        (kept.layout, kept.memory) = (Some(layout.clone()), Some(file));
        Ok(())
    }

    fn pages(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let before = self.kept.lock().unwrap().bytes;
        if let Some(pause) = self.slow
            && before >> 20 != (before + bytes.len() as u64) >> 20
        {
            // A slow disk.
            std::thread::sleep(pause);
        }
        let mut kept = self.kept.lock().unwrap();
        kept.bytes += bytes.len() as u64;
        if self.full_at.is_some_and(|most| kept.bytes > most) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        kept.memory.as_ref().unwrap().write_all_at(bytes, offset)
    }

    fn zeros(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let kept = self.kept.lock().unwrap();
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let (offset, length) = (offset.try_into().unwrap(), length.try_into().unwrap());
        Ok(fallocate(kept.memory.as_ref().unwrap(), flags, offset, length)?)
    }

    fn device(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut kept = self.kept.lock().unwrap();
        kept.device.extend_from_slice(bytes);
        // The description that ends a stream, QEMU's or ours: the guest stands still by then.
        let ends = kept.device.windows(11).any(|words| words == b"\"page_size\"")
            || kept.device.ends_with(b"{}");
        if self.deaf && ends {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}
