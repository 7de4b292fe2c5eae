use super::*;
use std::fs;
use std::path::PathBuf;

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("kxl-endpoint-{}-{name}", std::process::id()))
}

fn socket(name: &str, unheard: Unheard) -> (Endpoint, PathBuf) {
    let path = path(name);
    drop(fs::remove_file(&path));
    (Endpoint::socket(UnixListener::bind(&path).unwrap(), unheard).unwrap(), path)
}

/// Whether the endpoint asks to be served.
fn rings(end: &Endpoint) -> bool {
    let mut events = [EpollEvent::default(); 4];
    let outer = Epoll::new().unwrap();
    outer.ctl(ControlOperation::Add, end.as_raw_fd(), EpollEvent::new(EventSet::IN, 0)).unwrap();
    outer.wait(0, &mut events).unwrap() > 0
}

fn read(end: &mut Endpoint) -> Vec<u8> {
    let mut data = [0; 4096];
    let count = end.read(&mut data);
    data[..count].to_vec()
}

#[test]
fn what_is_said_before_a_client_comes_is_kept_for_it() {
    let (mut end, path) = socket("keep", Unheard::Keep);
    end.write(b"booting");
    assert!(!rings(&end) && !end.is_connected());
    let mut client = UnixStream::connect(&path).unwrap();
    assert!(rings(&end));
    end.service();
    assert!(end.is_connected() && !rings(&end));
    let mut data = [0; 7];
    client.read_exact(&mut data).unwrap();
    assert_eq!(&data, b"booting");
}

#[test]
fn a_protocol_begins_anew_with_each_client() {
    let (mut end, path) = socket("drop", Unheard::Drop);
    end.write(b"unheard");
    assert_eq!(end.dropped(), 7);
    let mut client = UnixStream::connect(&path).unwrap();
    end.service();
    end.write(b"heard");
    let mut data = [0; 16];
    assert_eq!(client.read(&mut data).unwrap(), 5);
    assert_eq!(&data[..5], b"heard");
}

#[test]
fn a_client_that_does_not_read_costs_output_and_never_time() {
    let (mut end, path) = socket("slow", Unheard::Keep);
    let mut client = UnixStream::connect(&path).unwrap();
    end.service();
    let block = [7; 10_000];
    for _ in 0..200 {
        end.write(&block);
    }
    assert!(end.dropped() > 0);
    end.service();
    assert!(!rings(&end), "nobody takes anything");
    let mut got = 0;
    let mut data = vec![0; 1 << 16];
    client.set_nonblocking(true).unwrap();
    loop {
        match client.read(&mut data) {
            Ok(count) => got += count,
            Err(_) if rings(&end) => end.service(),
            Err(_) => break,
        }
    }
    assert_eq!(got as u64 + end.dropped(), 2_000_000);
    end.write(b"later");
    assert_eq!(client.read(&mut data).unwrap(), 5, "a client that reads again is heard");
}

#[test]
fn input_waits_with_the_client_until_it_is_wanted() {
    let (mut end, path) = socket("input", Unheard::Keep);
    let mut client = UnixStream::connect(&path).unwrap();
    end.service();
    client.write_all(b"abc").unwrap();
    assert!(!rings(&end), "it wakes nobody");
    assert_eq!(read(&mut end), b"");
    end.want_input(true);
    end.service();
    assert!(rings(&end));
    assert_eq!(read(&mut end), b"abc");
    assert!(!rings(&end));
}

#[test]
fn what_a_client_sent_before_it_went_is_read_and_the_next_is_let_in() {
    let (mut end, path) = socket("gone", Unheard::Keep);
    let mut client = UnixStream::connect(&path).unwrap();
    end.service();
    client.write_all(b"last words").unwrap();
    drop(client);
    end.service();
    assert!(!rings(&end), "nobody wants it yet, and nobody is woken again and again");
    end.want_input(true);
    end.service();
    assert!(rings(&end));
    end.service();
    assert_eq!(read(&mut end), b"last words");
    end.service();
    assert_eq!(read(&mut end), b"");
    assert!(!end.is_connected());
    let _next = UnixStream::connect(&path).unwrap();
    assert!(rings(&end));
    end.service();
    assert!(end.is_connected());
}

#[test]
fn a_client_that_ends_its_input_still_hears() {
    let (mut end, path) = socket("half", Unheard::Keep);
    end.want_input(true);
    end.service();
    let mut client = UnixStream::connect(&path).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    end.service();
    assert_eq!(read(&mut end), b"");
    assert!(end.is_connected() && !rings(&end));
    end.write(b"yes");
    let mut data = [0; 3];
    client.read_exact(&mut data).unwrap();
    drop(client);
    assert!(rings(&end));
    end.service();
    assert!(!end.is_connected() && !rings(&end));
}

#[test]
fn a_second_client_waits_for_its_turn() {
    let (mut end, path) = socket("second", Unheard::Keep);
    let first = UnixStream::connect(&path).unwrap();
    end.service();
    let mut second = UnixStream::connect(&path).unwrap();
    assert!(!rings(&end));
    drop(first);
    assert!(rings(&end));
    end.service();
    end.write(b"you");
    let mut data = [0; 3];
    second.read_exact(&mut data).unwrap();
    assert_eq!(&data, b"you");
}

#[test]
fn a_file_gets_what_is_written_and_gives_nothing() {
    let path = path("file");
    let mut end = Endpoint::file(File::create(&path).unwrap()).unwrap();
    end.want_input(true);
    end.service();
    end.write(b"one ");
    end.write(b"two");
    assert!(!rings(&end));
    assert_eq!(read(&mut end), b"");
    assert_eq!(fs::read(&path).unwrap(), b"one two");
    fs::remove_file(&path).unwrap();
}

#[test]
fn pipes_of_the_process_carry_both_ways_and_end() {
    let (input, mut feed) = io::pipe().unwrap();
    let (mut sink, output) = io::pipe().unwrap();
    let mut end = Endpoint::stdio(input.into(), output.into()).unwrap();
    end.want_input(true);
    end.service();
    assert!(!rings(&end));
    feed.write_all(b"typed").unwrap();
    assert!(rings(&end));
    assert_eq!(read(&mut end), b"typed");
    end.write(b"shown");
    let mut data = [0; 5];
    sink.read_exact(&mut data).unwrap();
    assert_eq!(&data, b"shown");
    drop(feed);
    assert!(rings(&end));
    assert_eq!(read(&mut end), b"");
    assert!(!rings(&end), "an input that has ended wakes nobody");
}

#[test]
fn a_pipe_that_is_full_is_waited_for_and_not_in_the_writer() {
    let (_unread, output) = io::pipe().unwrap();
    let (input, _feed) = io::pipe().unwrap();
    let mut end = Endpoint::stdio(input.into(), output.into()).unwrap();
    for _ in 0..100 {
        end.write(&[1; 4096]);
    }
    assert_eq!(end.dropped() + (64 << 10) + (64 << 10), 100 * 4096);
    drop(_unread);
    assert!(rings(&end));
    end.service();
    end.service();
    assert!(!rings(&end), "a reader that is gone is not waited for");
}

#[test]
fn a_plain_file_as_input_is_read_to_its_end() {
    let path = path("script");
    fs::write(&path, b"line\n").unwrap();
    let sink = File::options().write(true).open("/dev/null").unwrap();
    let mut end = Endpoint::stdio(File::open(&path).unwrap().into(), sink.into()).unwrap();
    end.want_input(true);
    end.service();
    assert!(rings(&end));
    assert_eq!(read(&mut end), b"line\n");
    assert_eq!(read(&mut end), b"");
    end.service();
    assert!(!rings(&end));
    fs::remove_file(&path).unwrap();
}

#[test]
fn a_client_that_leaves_without_a_word_makes_room_though_nobody_listens() {
    for (unheard, words) in [(Unheard::Keep, ""), (Unheard::Drop, ""), (Unheard::Drop, "words")] {
        let (mut end, path) = socket("left", unheard);
        let mut client = UnixStream::connect(&path).unwrap();
        end.service();
        client.write_all(words.as_bytes()).unwrap();
        drop(client);
        assert!(rings(&end));
        end.service();
        assert!(!end.is_connected() && !rings(&end), "{unheard:?} {words:?}");
    }
}
