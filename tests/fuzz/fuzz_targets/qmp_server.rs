//! What a client of the api-channel sends, in pieces of any size: no panic, bounded memory, the
//! same answers however it is cut, and every answer one line of JSON.
#![no_main]

use kxl_qmp::server::{Incoming, MAX_REQUEST, Session};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Some((&piece, stream)) = data.split_first() else { return };
    let (mut whole, mut cut) = (Session::new(), Session::new());
    let answers = whole.feed(stream);
    let mut again = Vec::new();
    for piece in stream.chunks(usize::from(piece) + 1) {
        again.extend(cut.feed(piece));
        assert!(cut.held() <= MAX_REQUEST);
    }
    assert_eq!(answers, again);
    for incoming in answers {
        if let Incoming::Answer(line) = incoming {
            let line = line.strip_suffix("\r\n").expect("a line");
            assert!(!line.contains(['\r', '\n']));
            assert!(serde_json::from_str::<Value>(line).is_ok_and(|value| value.is_object()));
        }
    }
});
