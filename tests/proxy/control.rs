//! The control socket of a running proxy.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;

use mcrun::proxy::{Event, MembershipEvent, Subscription, subscribe};
use serde_json::Value;

use super::fake_container::{CHILD, FakeContainer, GROUP, Proxy};
use crate::lab::{Lab, PATIENCE};

const DENIED: Ipv4Addr = Ipv4Addr::new(239, 6, 1, 1);

/// The next event; `None` at the end of the connection.
fn next(events: &mut Subscription) -> Option<Event> {
    events.next_event().expect("an event in time").map(|timed| timed.event)
}

fn membership(group: Ipv4Addr, reason: Option<&str>) -> MembershipEvent {
    MembershipEvent {
        interface: CHILD.into(),
        group: group.into(),
        mode: mcrun::multicast::FilterMode::Exclude,
        sources: Vec::new(),
        reason: reason.map(str::to_owned),
    }
}

/// The answer to a request, as it is.
fn answer(proxy: &Proxy, request: &str) -> String {
    let mut stream = UnixStream::connect(proxy.directory.join("control.sock")).expect("socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream.write_all(request.as_bytes()).expect("request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answer");
    answer
}

#[test]
fn a_subscriber_sees_joins_refusals_and_leaves_in_order_and_the_end() {
    let lab = Lab::new(3);
    let mut container = FakeContainer::new(&lab, "c1", 11);
    let mut config = container.config();
    config.interfaces[0].policy.deny = vec!["239.6.0.0/16".parse().expect("a rule")];
    let _proxy = container.serve(&config);
    let (status, mut events) = subscribe(&container.directory()).expect("subscribed");
    assert!(status.interfaces[0].groups.is_empty(), "{status:?}");
    events.set_timeout(Some(PATIENCE)).expect("a timeout");

    let socket = container.join(GROUP);
    assert_eq!(next(&mut events), Some(Event::Joined(membership(GROUP, None))));
    let refused = container.join(DENIED);
    let rule = "deny=239.6.0.0/16";
    assert_eq!(next(&mut events), Some(Event::Denied(membership(DENIED, Some(rule)))));
    let Some(Event::Notice(notice)) = next(&mut events) else { panic!("no notice") };
    assert_eq!(notice.code(), "join-denied");
    drop(socket);
    let left = |group: Ipv4Addr| Event::Left { interface: CHILD.into(), group: group.into() };
    assert_eq!(next(&mut events), Some(left(GROUP)));
    drop(refused);
    assert_eq!(next(&mut events), Some(left(DENIED)));

    container.process.signal(libc::SIGKILL);
    container.process.wait(PATIENCE);
    let rest: Vec<Event> = std::iter::from_fn(|| next(&mut events)).collect();
    let codes: Vec<_> = rest
        .iter()
        .map(|event| match event {
            Event::Notice(notice) => notice.code(),
            event => panic!("{event:?}"),
        })
        .collect();
    assert_eq!(codes, ["container-ended"]);
}

#[test]
fn requests_of_both_formats_are_answered() {
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    let proxy = container.serve(&container.config());
    let old: Value = serde_json::from_str(&answer(&proxy, "status\n")).expect("JSON");
    let line = answer(&proxy, "{\"version\":1,\"request\":\"status\"}\n");
    assert!(line.ends_with("}\n") && line.lines().count() == 1, "{line:?}");
    let new: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(new["version"], 1);
    for status in [&old, &new["status"]] {
        assert_eq!(status["container"], container.id);
        assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    }
    assert_eq!(answer(&proxy, "requery\n"), "{}");
    assert_eq!(answer(&proxy, "{\"version\":1,\"request\":\"requery\"}\n"), "{\"version\":1}\n");
    assert_eq!(
        answer(&proxy, "reboot\n"),
        "{\"error\":\"unknown request \\\"reboot\\\"; there are status, requery, namespace, takeover \
         and handover\"}"
    );
    let refused = answer(&proxy, "{\"version\":9,\"request\":\"status\"}\n");
    assert!(refused.contains("\"code\":\"unsupported-version\""), "{refused}");
}
