//! What a command says when the monitor that it has asked goes without an answer.

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::thread::JoinHandle;

use kxl_domain::DomainConfig;
use kxl_store::{ManagedChange, Paths, Store};

use super::*;
use crate::conf::Conf;

const PATIENCE: Duration = Duration::from_secs(30);

/// A host with one managed domain, and somebody who holds its lock as its monitor does.
struct Scene {
    root: PathBuf,
    host: Host,
    row: ListRow,
}

impl Scene {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("kxl-asking-{name}-{}", std::process::id()));
        let paths = Paths::under(&root);
        paths.prepare().unwrap();
        let store = Store::open(&paths).unwrap();
        let mut host = Host { paths, store, conf: Conf::default() };
        let defined = host.define(DomainConfig::new("web".parse().unwrap())).unwrap();
        let row = host.find(&defined.uuid.to_string()).unwrap();
        Self { root, host, row }
    }

    /// A monitor that takes one request, does not answer it, and leaves the domain in `state`.
    fn monitor(&self, state: State) -> JoinHandle<()> {
        let (paths, uuid) = (self.host.paths.clone(), self.row.uuid);
        let lock = DomainLock::try_acquire(&paths, uuid).unwrap().unwrap();
        let socket = paths.control_socket(uuid);
        let listener: UnixListener = socket::bind(&socket).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 4096];
            assert!(stream.read(&mut asked).unwrap() > 0);
            let rests = ManagedChange { state: Some(state), ..ManagedChange::default() };
            Store::open(&paths).unwrap().set_managed(uuid, rests).unwrap();
            std::fs::remove_file(&socket).unwrap();
            drop((listener, lock, stream));
        })
    }

    fn asks(&mut self, verb: Verb) -> Result<Outcome, Failure> {
        let row = self.row.clone();
        self.host.verb(&row, verb, PATIENCE, |_| ())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.root));
    }
}

#[test]
fn a_destroy_that_comes_at_the_end_of_a_suspend_says_that_the_domain_is_suspended() {
    let mut scene = Scene::new("suspended");
    let monitor = scene.monitor(State::Suspended);
    let failure = scene.asks(Verb::Destroy).unwrap_err();
    monitor.join().unwrap();
    assert_eq!(failure.kind, Kind::Denied);
    assert!(failure.to_string().contains("it is suspended"), "{failure}");
    assert!(failure.hint.unwrap().contains("kxl image rm web"));
}

#[test]
fn a_destroy_that_comes_at_the_end_of_another_finds_the_domain_off() {
    let mut scene = Scene::new("off");
    let monitor = scene.monitor(State::Halted);
    assert_eq!(scene.asks(Verb::Destroy), Ok(Outcome::Already));
    monitor.join().unwrap();
    let monitor = scene.monitor(State::Halted);
    let failure = scene.asks(Verb::Pause).unwrap_err();
    monitor.join().unwrap();
    assert!(failure.to_string().contains("it is halted"), "{failure}");
}
