use proptest::prelude::*;
use serde_json::json;

use super::*;

fn texts(bytes: &[u8]) -> Vec<String> {
    shown(Session::new().feed(bytes))
}

/// Requests by name, answers as they are.
fn shown(incoming: Vec<Incoming>) -> Vec<String> {
    let text = |incoming| match incoming {
        Incoming::Request(request) => request.command,
        Incoming::Answer(line) => line,
    };
    incoming.into_iter().map(text).collect()
}

fn only_refusal(bytes: &[u8]) -> Value {
    let texts = texts(bytes);
    assert_eq!(texts.len(), 1, "{texts:?}");
    let answer: Value = serde_json::from_str(&texts[0]).unwrap();
    assert_eq!(answer["error"]["class"], "GenericError", "{answer}");
    answer
}

#[test]
fn requests_come_in_order_with_and_without_line_ends_negotiated_or_not() {
    let stream = b"{\"execute\":\"stop\"}{\"execute\":\"cont\", \"arguments\":{\"a\":[1]},\
                   \"id\":null}\n{\"execute\":\"qmp_capabilities\",\"id\":7} {\"execute\":\"quit\"}";
    let mut session = Session::new();
    let incoming = session.feed(stream);
    let cont = Request {
        command: "cont".into(),
        arguments: json!({"a": [1]}).as_object().unwrap().clone(),
        id: Some(Value::Null),
    };
    assert_eq!(incoming[1], Incoming::Request(cont));
    assert_eq!(shown(incoming), ["stop", "cont", "{\"return\":{},\"id\":7}\r\n", "quit"]);
}

#[test]
fn what_is_no_request_is_refused_and_the_next_one_is_heard() {
    let refused: [(&[u8], &str); 10] = [
        (b"{\"execute\" \"stop\"}\n", "malformed"),
        (b"{\"execute\": stop}", "malformed"),
        (b"[]", "object"),
        (b"stop\n", "requests are JSON objects"),
        (b"{}", "no 'execute'"),
        (b"{\"execute\":1}", "string"),
        (b"{\"execute\":\"stop\",\"arguments\":[]}", "object"),
        (b"{\"execute\":\"stop\",\"arguments\":null}", "object"),
        (b"{\"execute\":\"stop\",\"extra\":1}", "'extra'"),
        (b"{\"exec-oob\":\"stop\"}", "out-of-band"),
    ];
    for (bytes, word) in refused {
        let why = only_refusal(bytes)["error"]["desc"].to_string();
        assert!(why.contains(word), "{why}");
        let mut stream = bytes.to_vec();
        stream.extend(b"{\"execute\":\"cont\"}");
        assert_eq!(texts(&stream)[1..], ["cont"]);
    }
}

#[test]
fn a_refusal_has_the_id_of_what_it_refuses() {
    assert_eq!(only_refusal(b"{\"id\":{\"a\":[null]}}")["id"], json!({"a": [null]}));
    assert_eq!(only_refusal(b"{\"exec-oob\":\"stop\",\"id\":1.5}")["id"], json!(1.5));
    assert!(only_refusal(b"[]").get("id").is_none());
}

#[test]
fn negotiation_happens_once_and_offers_nothing() {
    let mut session = Session::new();
    let mut ask = |text: &str| shown(session.feed(text.as_bytes())).remove(0);
    let wanted = "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]}}";
    assert!(ask(wanted).contains("\\\"oob\\\" is not offered"));
    let other = "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"x\":1}}";
    assert!(ask(other).contains("GenericError"));
    let plain = "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[]}}";
    assert_eq!(ask(plain), "{\"return\":{}}\r\n");
    assert!(ask(plain).contains("CommandNotFound"));
}

#[test]
fn a_request_without_end_is_refused_with_bounded_memory() {
    let mut session = Session::new();
    assert!(session.feed(b"{\"execute\":\"").is_empty());
    for _ in 0..40 {
        assert!(session.feed(&[b'x'; 4096]).is_empty());
        assert!(session.held() <= MAX_REQUEST);
    }
    let texts = shown(session.feed(b"\"}{\"execute\":\"stop\"}"));
    assert!(texts[0].contains("longer") && texts[1] == "stop", "{texts:?}");
}

fn cut(stream: &[u8], cuts: &[usize]) -> Vec<Incoming> {
    let (mut session, mut incoming, mut rest) = (Session::new(), Vec::new(), stream);
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, tail) = rest.split_at((*cut).min(rest.len()));
        incoming.extend(session.feed(piece));
        rest = tail;
    }
    incoming
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Pieces of requests, whole ones among them, so that the interesting paths are met.
fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "{\"execute\":\"stop\"}",
            "{\"execute\":",
            "{\"execute\":\"qmp_capabilities\"}",
            "\"arguments\":{}",
            "\"id\":",
            "}",
            "{",
            "]",
            "\n",
            "x",
            "\"",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 1..4),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_bytes_are_survived_answered_alike_however_cut_and_answers_are_lines_of_json(
        stream in any_stream(), cuts in prop::collection::vec(1usize..9, 1..4),
    ) {
        let whole = Session::new().feed(&stream);
        for incoming in &whole {
            if let Incoming::Answer(line) = incoming {
                let one_line = line.ends_with("}\r\n") && line.matches('\n').count() == 1;
                prop_assert!(one_line, "{}", line);
                prop_assert!(serde_json::from_str::<Value>(line).is_ok(), "{}", line);
            }
        }
        prop_assert_eq!(cut(&stream, &cuts), whole);
    }

    #[test]
    fn an_id_of_any_type_comes_back_as_it_was(id in any_json(), good in any::<bool>()) {
        let name = if good { "execute" } else { "perform" };
        let mut request = json!({"id": id});
        request[name] = "qmp_capabilities".into();
        let texts = texts(request.to_string().as_bytes());
        let answer: Value = serde_json::from_str(&texts[0]).unwrap();
        prop_assert_eq!(answer.get("return").is_some(), good);
        prop_assert_eq!(answer.get("id"), Some(&id));
    }
}
