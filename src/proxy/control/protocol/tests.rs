use proptest::prelude::*;

use super::*;
use crate::proxy::control::status::ProxyState;

const ALL: [ControlRequest; 7] = [
    ControlRequest::Status,
    ControlRequest::Requery,
    ControlRequest::Namespace,
    ControlRequest::Takeover,
    ControlRequest::Handover,
    ControlRequest::Count,
    ControlRequest::Subscribe,
];

fn refusal(request: &[u8]) -> serde_json::Value {
    let Received::Refused(answer) = parse_request(request) else {
        panic!("{:?} is not refused", String::from_utf8_lossy(request));
    };
    serde_json::from_slice(&answer).unwrap()
}

fn status() -> ProxyStatus {
    ProxyStatus {
        held: false,
        container: "c1".into(),
        version: Some("1.2.3".into()),
        pid: 7,
        state: ProxyState::Running,
        notices: Vec::new(),
        interfaces: Vec::new(),
        counts: Vec::new(),
    }
}

#[test]
fn each_request_is_read_in_both_formats() {
    for request in ALL {
        let line = request.to_line();
        assert_eq!(
            parse_request(line.as_bytes()),
            Received::Request(request, Format::Json),
            "{line}"
        );
        assert!(line.len() < MAX_WORD, "a proxy from before version 1 hangs up at {line}");
        if let Some(line) = request.to_word_line() {
            let read = parse_request(line.as_bytes());
            assert_eq!(read, Received::Request(request, Format::Word), "{line}");
        }
    }
    assert_eq!(parse_request(b"status\nmore"), parse_request(b"status\n"));
}

#[test]
fn a_torn_request_is_waited_for() {
    for line in [ControlRequest::Status.to_line(), "requery\n".into()] {
        for end in 0..line.len() {
            assert_eq!(parse_request(&line.as_bytes()[..end]), Received::Incomplete);
        }
    }
}

#[test]
fn a_request_without_an_end_is_cut_off() {
    assert_eq!(parse_request(&[b'a'; MAX_WORD - 1]), Received::Incomplete);
    assert_eq!(parse_request(&[b'a'; MAX_WORD]), Received::TooLong);
    let mut line = vec![b' '; MAX_LINE];
    line[0] = b'{';
    assert_eq!(parse_request(&line[..MAX_LINE - 1]), Received::Incomplete);
    assert_eq!(parse_request(&line), Received::TooLong);
    line.push(b'\n');
    assert_eq!(parse_request(&line), Received::TooLong);
}

#[test]
fn an_unknown_word_is_answered_as_before_version_1() {
    assert_eq!(
        parse_request(b"reboot\n"),
        Received::Refused(
            br#"{"error":"unknown request \"reboot\"; there are status, requery, namespace, takeover and handover"}"#
                .to_vec()
        )
    );
    let long = refusal(&[&[0xff; 60][..], b"\n"].concat());
    assert!(long["error"].as_str().unwrap().chars().count() < 150, "{long}");
}

#[test]
fn what_is_no_request_of_version_1_is_refused_by_code() {
    let deep = format!("{}\n", r#"{"a":"#.repeat(150));
    for (line, code) in [
        ("{}\n", "malformed-request"),
        ("{\n", "malformed-request"),
        ("{\"version\":1}\n", "malformed-request"),
        ("{\"version\":\"1\",\"request\":\"status\"}\n", "malformed-request"),
        ("{\"version\":-1,\"request\":\"status\"}\n", "malformed-request"),
        ("{\"version\":1,\"request\":[\"status\"]}\n", "malformed-request"),
        ("{\"version\":1,\"request\":\"status\"} x\n", "malformed-request"),
        (&deep, "malformed-request"),
        ("{\"version\":0,\"request\":\"status\"}\n", "unsupported-version"),
        ("{\"version\":2,\"request\":\"status\"}\n", "unsupported-version"),
        ("{\"version\":1,\"request\":\"Status\"}\n", "unknown-request"),
        ("{\"version\":1,\"request\":\"\"}\n", "unknown-request"),
    ] {
        let answer = refusal(line.as_bytes());
        assert_eq!((&answer["version"], &answer["error"]["code"]), (&1.into(), &code.into()));
    }
    let answer = refusal(
        br#"{"version":1,"request":"stop"}
"#,
    );
    assert_eq!(
        answer["error"]["message"],
        "unknown request \"stop\"; there are status, requery, namespace, takeover, handover, count, hold \
         and subscribe"
    );
    // A later version may add fields.
    assert_eq!(
        parse_request(b"{\"version\":1,\"request\":\"status\",\"since\":7}\n"),
        Received::Request(ControlRequest::Status, Format::Json)
    );
}

#[test]
fn answers_are_read_back() {
    let line = status_answer(&status(), Format::Json);
    assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
    let StatusPayload { status: read } = parse_answer::<StatusPayload<ProxyStatus>>(&line).unwrap();
    assert_eq!(read, status());
    parse_answer::<EmptyPayload>(&empty_answer(Format::Json)).unwrap();
    let line = namespace_answer(Format::Json);
    assert_eq!(parse_answer::<NamespacePayload>(&line).unwrap().descriptors, 1);
    let line = handover_answer(vec!["a", "b"], 4, Format::Json);
    let HandoverPayload { descriptors, relays } =
        parse_answer::<HandoverPayload<String>>(&line).unwrap();
    assert_eq!((descriptors, relays.join(" ").as_str()), (4, "a b"));
}

#[test]
fn words_are_answered_as_before_version_1() {
    let answer = status_answer(&status(), Format::Word);
    assert_eq!(
        String::from_utf8(answer).unwrap(),
        r#"{"container":"c1","version":"1.2.3","pid":7,"state":"running","interfaces":[]}"#
    );
    assert_eq!(empty_answer(Format::Word), b"{}");
    assert_eq!(namespace_answer(Format::Word), b"n");
    let answer = handover_answer(vec![1, 2], 3, Format::Word);
    assert_eq!(answer, b"n[1,2]");
    assert_eq!(parse_word_handover::<u8>(&answer).unwrap(), [1, 2]);
    assert!(parse_word_handover::<u8>(b"").is_err());
    assert!(parse_word_handover::<u8>(b"n[1").is_err());
}

#[test]
fn a_proxy_from_before_version_1_is_known_by_its_answer() {
    // What such a proxy says to a line of version 1.
    let Received::Refused(answer) = parse_word(ControlRequest::Status.to_line().trim().as_bytes())
    else {
        panic!("not refused");
    };
    let error = parse_answer::<EmptyPayload>(&answer).unwrap_err();
    assert!(matches!(error, AnswerError::NotVersioned), "{error}");
}

#[test]
fn a_refusal_gives_its_message() {
    let line = error_answer(ErrorCode::TooManySubscribers, "there are 4 already");
    let error = parse_answer::<EmptyPayload>(&line).unwrap_err();
    assert_eq!(error.to_string(), "the proxy refused the request: there are 4 already");
}

proptest! {
    #[test]
    fn no_bytes_are_too_much_for_it(bytes in prop::collection::vec(any::<u8>(), 0..1100)) {
        let _ = parse_request(&bytes);
        let _ = parse_answer::<StatusPayload<ProxyStatus>>(&bytes);
    }

    #[test]
    fn a_request_cut_short_is_never_taken_for_another(
        cut in 0..40_usize,
        noise in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let line = ControlRequest::Requery.to_line();
        let bytes = [&line.as_bytes()[..cut.min(line.len() - 1)], &noise, b"\n"].concat();
        if let Received::Request(request, _) = parse_request(&bytes) {
            prop_assert_eq!(request, ControlRequest::Requery);
        }
    }
}
