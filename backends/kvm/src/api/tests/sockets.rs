//! Where is listened.

use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;

use super::fake::{Client, Dir, Fake};
use crate::api::notices::What;
use crate::api::{Api, ListenError, Listener};

fn entries(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_socket_is_private_and_gone_at_the_end() {
    let dir = Dir::new("private");
    let listener = Listener::bind(&dir.socket()).unwrap();
    let meta = std::fs::symlink_metadata(dir.socket()).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    assert_eq!(entries(dir.path()), ["qmp.socket"]);
    drop(UnixStream::connect(dir.socket()).unwrap());
    drop(listener);
    assert!(entries(dir.path()).is_empty());
}

#[test]
fn a_path_in_use_is_refused_and_stays_in_use() {
    let dir = Dir::new("in-use");
    let first = Listener::bind(&dir.socket()).unwrap();
    let error = Listener::bind(&dir.socket()).unwrap_err();
    assert!(matches!(error, ListenError::InUse(_)), "{error}");
    assert!(error.to_string().contains("another process listens there"));
    drop(UnixStream::connect(dir.socket()).unwrap());
    assert_eq!(entries(dir.path()), ["qmp.socket"]);
    drop(first);

    let datagrams = UnixDatagram::bind(dir.socket()).unwrap();
    let error = Listener::bind(&dir.socket()).unwrap_err();
    assert!(matches!(error, ListenError::InUse(_)), "{error}");
    drop(datagrams);
}

#[test]
fn a_stale_socket_is_replaced() {
    let dir = Dir::new("stale");
    drop(UnixListener::bind(dir.socket()).unwrap());
    assert!(dir.socket().exists());
    let listener = Listener::bind(&dir.socket()).unwrap();
    drop(UnixStream::connect(dir.socket()).unwrap());
    assert_eq!(entries(dir.path()), ["qmp.socket"]);
    drop(listener);
}

#[test]
fn of_many_that_want_a_stale_path_at_once_one_gets_it() {
    let dir = Dir::new("race");
    for _ in 0..20 {
        drop(UnixListener::bind(dir.socket()).unwrap());
        let path = dir.socket();
        let tries: Vec<_> = (0..6)
            .map(|_| {
                let path = path.clone();
                std::thread::spawn(move || Listener::bind(&path).ok())
            })
            .collect();
        let got: Vec<_> = tries.into_iter().filter_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(got.len(), 1);
        drop(UnixStream::connect(&path).unwrap());
        assert_eq!(entries(dir.path()), ["qmp.socket"]);
        drop(got);
        assert!(entries(dir.path()).is_empty());
    }
}

#[test]
fn what_is_no_socket_is_refused_and_left_alone() {
    let dir = Dir::new("other");
    std::fs::write(dir.socket(), "precious").unwrap();
    let error = Listener::bind(&dir.socket()).unwrap_err();
    assert!(matches!(error, ListenError::NoSocket(_)), "{error}");
    assert_eq!(std::fs::read_to_string(dir.socket()).unwrap(), "precious");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("elsewhere", &link).unwrap();
    let error = Listener::bind(&link).unwrap_err();
    assert!(matches!(error, ListenError::NoSocket(_)), "{error}");
    let error = Listener::bind(&dir.path().join("no/such/dir")).unwrap_err();
    assert!(matches!(error, ListenError::Directory { .. }), "{error}");
    Listener::bind(Path::new("/")).unwrap_err();
}

#[test]
fn paths_longer_than_an_address_work() {
    let dir = Dir::new("long");
    let deep = dir.path().join("d".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    let path = deep.join("qmp.socket");
    let listener = Listener::bind(&path).unwrap();
    assert!(matches!(Listener::bind(&path).unwrap_err(), ListenError::InUse(_)));
    let mut fake = Fake::new();
    let notices = fake.notices.clone();
    let thread = std::thread::spawn(move || Api::open(vec![listener]).serve(&mut fake).unwrap());
    let short = std::fs::File::open(&deep).unwrap();
    let through = format!("/proc/self/fd/{}/qmp.socket", std::os::fd::AsRawFd::as_raw_fd(&short));
    assert!(Client::new(Path::new(&through)).next().get("QMP").is_some());
    notices.post(What::Exit(0));
    assert_eq!(thread.join().unwrap(), 0);
    assert!(entries(&deep).is_empty());

    let error = Listener::bind(&dir.path().join("n".repeat(120))).unwrap_err();
    assert!(matches!(error, ListenError::TooLong(_)), "{error}");
    assert!(error.to_string().contains("at most 107 bytes"));
}

#[test]
fn the_socket_of_somebody_else_is_not_removed() {
    let dir = Dir::new("theirs");
    let ours = Listener::bind(&dir.socket()).unwrap();
    std::fs::remove_file(dir.socket()).unwrap();
    let theirs = UnixListener::bind(dir.socket()).unwrap();
    drop(ours);
    drop(UnixStream::connect(dir.socket()).unwrap());
    drop(theirs);
}

#[test]
fn an_inherited_socket_is_listened_on_and_keeps_its_file() {
    let dir = Dir::new("inherited");
    let theirs = UnixListener::bind(dir.socket()).unwrap();
    let listener = Listener::inherited(OwnedFd::from(theirs)).unwrap();
    let mut fake = Fake::new();
    let notices = fake.notices.clone();
    let thread = std::thread::spawn(move || Api::open(vec![listener]).serve(&mut fake).unwrap());
    assert!(Client::new(&dir.socket()).next().get("QMP").is_some());
    notices.post(What::Exit(0));
    assert_eq!(thread.join().unwrap(), 0);
    assert!(dir.socket().exists());

    let file = std::fs::File::open("/dev/null").unwrap();
    let error = Listener::inherited(file.into()).unwrap_err();
    assert!(error.to_string().contains("no listening unix socket"), "{error}");
    let (connected, _other) = UnixStream::pair().unwrap();
    Listener::inherited(connected.into()).unwrap_err();
}
