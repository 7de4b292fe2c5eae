use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::sync::Barrier;

use super::Host;
use crate::StoreError;
use crate::socket::{bind, connect, may_order, peer_allowed, peer_pid};

#[test]
fn a_path_longer_than_an_address_is_bound_and_connected() {
    let host = Host::new();
    let dir = host.root().join("d".repeat(100)).join("e".repeat(100));
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join("control.sock");
    assert!(path.as_os_str().len() > 108);
    let listener = bind(&path).unwrap();
    let mut client = connect(&path).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"hello").unwrap();
    let mut heard = [0; 5];
    server.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
    assert!(peer_allowed(&server).unwrap() && peer_allowed(&client).unwrap());
    let own = i32::try_from(std::process::id()).unwrap();
    assert_eq!((peer_pid(&server).unwrap(), peer_pid(&client).unwrap()), (own, own));
}

#[test]
fn a_socket_is_for_its_owner_only() {
    let host = Host::new();
    let path = host.root().join("s");
    let _listener = bind(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
}

#[test]
fn a_stale_socket_is_replaced() {
    let host = Host::new();
    let path = host.root().join("s");
    drop(bind(&path).unwrap());
    assert_eq!(connect(&path).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let _listener = bind(&path).unwrap();
    connect(&path).unwrap();
}

#[test]
fn a_socket_that_is_listened_on_is_left_alone() {
    let host = Host::new();
    let path = host.root().join("s");
    let listener = bind(&path).unwrap();
    let error = bind(&path).unwrap_err();
    assert!(matches!(error, StoreError::SocketTaken { .. }), "{error}");
    connect(&path).unwrap();
    listener.accept().unwrap();
}

#[test]
fn what_is_no_socket_is_never_removed() {
    let host = Host::new();
    for make in [
        (|path| fs::write(path, "precious").unwrap()) as fn(&std::path::Path),
        |path| fs::create_dir(path).unwrap(),
        |path| std::os::unix::fs::symlink("/nowhere", path).unwrap(),
    ] {
        let path = host.root().join("s");
        make(&path);
        let error = bind(&path).unwrap_err();
        assert!(matches!(error, StoreError::SocketTaken { .. }), "{error}");
        fs::symlink_metadata(&path).unwrap();
        fs::rename(&path, host.root().join("away")).unwrap();
        fs::remove_file(host.root().join("away"))
            .or_else(|_| fs::remove_dir(host.root().join("away")))
            .unwrap();
    }
}

#[test]
fn of_many_who_replace_a_stale_socket_one_listens() {
    let host = Host::new();
    let path = host.root().join("s");
    for _ in 0..20 {
        drop(bind(&path).unwrap());
        let start = Barrier::new(8);
        let listeners: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        bind(&path)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(listeners.iter().filter(|listener| listener.is_ok()).count(), 1);
        connect(&path).expect("the winner's socket is the one that is there");
    }
}

#[test]
fn connecting_to_nothing_is_not_found() {
    let host = Host::new();
    assert_eq!(connect(&host.root().join("s")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn connecting_to_one_that_has_stopped_accepting_does_not_wait() {
    use nix::sys::socket::{Backlog, listen};
    let host = Host::new();
    let path = host.root().join("s");
    let listener = bind(&path).unwrap();
    listen(&listener, Backlog::new(1).unwrap()).unwrap();
    let mut queued: Vec<UnixStream> = Vec::new();
    let error = loop {
        match connect(&path) {
            Ok(stream) => queued.push(stream),
            Err(error) => break error,
        }
        assert!(queued.len() < 10, "a queue of one took {}", queued.len());
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    // Such a listener is alive.
    assert!(matches!(bind(&path), Err(StoreError::SocketTaken { .. })));
}

#[test]
fn orders_are_taken_from_the_same_user_and_from_root() {
    assert!(may_order(1000, 1000) && may_order(0, 1000) && may_order(0, 0));
    assert!(!may_order(1001, 1000) && !may_order(1000, 0));
}
