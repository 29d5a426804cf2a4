use std::io::ErrorKind;
use std::os::unix::net::UnixListener;
use std::thread;
use std::thread::JoinHandle;

use super::*;
use crate::proxy::control::event::Event;
use crate::sys::fd_passing::send_with_fds;

/// A socket at which each connection gets the next answer. Gives the requests.
fn proxy(
    dir: &Path,
    answers: &'static [&'static [u8]],
    descriptor: bool,
) -> JoinHandle<Vec<String>> {
    let listener = UnixListener::bind(dir.join("control.sock")).unwrap();
    thread::spawn(move || {
        let serve = |answer: &&[u8]| {
            let mut client = BufReader::new(listener.accept().unwrap().0);
            let mut request = String::new();
            client.read_line(&mut request).unwrap();
            let namespace = File::open("/proc/self/ns/net").unwrap();
            let descriptors = [namespace.as_fd()];
            let with = if descriptor && !answer.starts_with(b"{\"error\"") {
                &descriptors[..]
            } else {
                &[]
            };
            let sent = send_with_fds(client.get_ref(), answer, with).unwrap();
            assert_eq!(sent, answer.len());
            request
        };
        answers.iter().map(serve).collect()
    })
}

const OLD: &[u8] =
    br#"{"error":"unknown request \"{\\\"version\\\":1\"; there are status, requery"}"#;
const OLD_STATUS: &[u8] = br#"{"container":"c1","pid":7,"state":"degraded","warnings":["w"],
    "interfaces":[{"interface":"mc0","parent":"eth1","groups":[{"group":"239.1.1.1","mode":"exclude",
    "sources":[],"version":3,"status":"joined","age_s":3}]}]}"#;

#[test]
fn a_proxy_from_before_version_1_is_asked_by_word() {
    let dir = tempfile::tempdir().unwrap();
    let asked = proxy(dir.path(), &[OLD, OLD_STATUS, OLD, b"{}", OLD, b"{}"], false);
    let status = query_all(&[dir.path()]).pop().unwrap().unwrap();
    assert_eq!((status.pid, status.version.as_deref()), (7, None));
    assert_eq!(status.warnings(), ["w"]);
    assert_eq!(status.interfaces[0].groups[0].group.to_string(), "239.1.1.1");
    requery(dir.path()).unwrap();
    request_takeover(dir.path()).unwrap();
    assert_eq!(
        asked.join().unwrap().concat(),
        "{\"version\":1,\"request\":\"status\"}\nstatus\n\
         {\"version\":1,\"request\":\"requery\"}\nrequery\n\
         {\"version\":1,\"request\":\"takeover\"}\ntakeover\n"
    );
}

#[test]
fn the_namespace_of_either_version_arrives() {
    for answers in [&[OLD, b"n"][..], &[b"{\"version\":1,\"descriptors\":1}\n"]] {
        let dir = tempfile::tempdir().unwrap();
        let asked = proxy(dir.path(), answers, true);
        let namespace = namespace(dir.path()).unwrap();
        assert_eq!(namespace.id().unwrap(), NetNs::current().unwrap().id().unwrap());
        assert_eq!(asked.join().unwrap().len(), answers.len());
    }
    let dir = tempfile::tempdir().unwrap();
    let asked = proxy(dir.path(), &[b"{\"version\":1,\"descriptors\":1}\n"], false);
    assert_eq!(namespace(dir.path()).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    asked.join().unwrap();
}

#[test]
fn hostile_answers_are_errors() {
    let answers: &[&[u8]] = &[
        b"",
        b"{",
        b"[]\n",
        b"{\"version\":1}\n",
        b"{\"version\":1,\"status\":{}}\n",
        b"{\"version\":1,\"error\":{\"code\":\"x\",\"message\":\"not today\"}}\n",
        b"{\"version\":1,\"error\":\"no\"}\n",
        &[0xff; 100],
    ];
    let dir = tempfile::tempdir().unwrap();
    let asked = proxy(dir.path(), answers, false);
    let errors: Vec<_> = answers
        .iter()
        .map(|_| query_all(&[dir.path()]).pop().unwrap().unwrap_err().to_string())
        .collect();
    assert_eq!(errors[5], "the proxy refused the request: not today");
    assert_eq!(errors[6], "the proxy refused the request: no");
    asked.join().unwrap();
}

#[test]
fn a_subscription_is_a_status_and_then_events() {
    const STREAM: &[u8] = b"{\"version\":1,\"status\":{\"container\":\"c\",\"pid\":1,\
        \"state\":\"running\",\"interfaces\":[]}}\n\
        {\"time_ms\":1,\"event\":\"left\",\"interface\":\"mc0\",\"group\":\"239.1.1.1\"}\n\
        {\"time_ms\":2,\"event\":\"lost\",\"events\":3}\nnonsense";
    let dir = tempfile::tempdir().unwrap();
    let asked = proxy(dir.path(), &[STREAM], false);
    let (status, mut events) = subscribe(dir.path()).unwrap();
    assert_eq!(status.container, "c");
    let event = events.next_event().unwrap().unwrap().event;
    assert!(matches!(event, Event::Left { .. }), "{event:?}");
    let event = events.next_event().unwrap().unwrap();
    assert_eq!((event.time_ms, event.event), (2, Event::Lost { events: 3 }));
    assert_eq!(events.next_event().unwrap_err().kind(), ErrorKind::InvalidData);
    assert!(events.next_event().unwrap().is_none());
    asked.join().unwrap();

    let dir = tempfile::tempdir().unwrap();
    let asked = proxy(dir.path(), &[OLD], false);
    let error = subscribe(dir.path()).unwrap_err().to_string();
    assert_eq!(error, "the proxy does not speak version 1 of the control protocol");
    asked.join().unwrap();
}

#[test]
fn an_answer_that_comes_byte_by_byte_is_not_waited_for_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("control.sock")).unwrap();
    let slow = thread::spawn(move || {
        let mut client = listener.accept().unwrap().0;
        let mut sent = 0;
        while client.write_all(b" ").is_ok() {
            sent += 1;
            thread::sleep(Duration::from_millis(100));
        }
        sent
    });
    let error = query_all(&[dir.path()]).pop().unwrap().unwrap_err();
    assert!([ErrorKind::TimedOut, ErrorKind::WouldBlock].contains(&error.kind()), "{error}");
    assert!(slow.join().unwrap() > 1);
}
