use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::doctor::finding::Level;

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 1, 1);
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);

fn arrivals() -> Arrivals {
    Arrivals { packets: 200, sources: [SOURCE].into(), ports: [5004].into() }
}

fn socket() -> UdpSocket {
    let address = Ipv4Addr::UNSPECIFIED;
    UdpSocket { address, port: 5004, waiting: 0, dropped_before: 0, dropped: 0 }
}

/// A stream that arrives and is read.
fn facts() -> StreamFacts {
    StreamFacts {
        container: "cam".into(),
        group: GROUP,
        proxy: "running",
        time: Duration::from_secs(1),
        joined: Ok(BTreeMap::from([("mc0".to_owned(), SourceFilter::any())])),
        interfaces: vec![StreamInterface {
            name: "mc0".into(),
            upstream: "eth1".into(),
            is_relay: false,
            is_proxied: true,
            membership: Some(Membership {
                status: MembershipStatus::Joined,
                reason: None,
                filter: SourceFilter::any(),
            }),
            on_host: Ok(true),
            wire: Ok(Some(arrivals())),
            inside: Ok(Some(arrivals())),
        }],
        host_rp_filtered: 0,
        sockets: Ok(vec![socket()]),
        reads: 200,
        rp_filtered: 0,
    }
}

fn with(change: impl FnOnce(&mut StreamInterface)) -> StreamFacts {
    let mut facts = facts();
    change(&mut facts.interfaces[0]);
    facts
}

fn with_membership(status: MembershipStatus, reason: &str) -> StreamFacts {
    with(|interface| {
        let reason = Some(reason.to_owned());
        interface.membership = Some(Membership { status, reason, filter: SourceFilter::any() });
        interface.on_host = Ok(false);
        (interface.wire, interface.inside) = (Ok(None), Ok(None));
    })
}

/// What is not `ok`, as `LEVEL CHECK`.
fn wrong(facts: &StreamFacts) -> Vec<String> {
    let findings = check(facts).into_iter().filter(|finding| finding.level != Level::Ok);
    findings.map(|finding| format!("{} {}", finding.level, finding.check)).collect()
}

fn text(facts: &StreamFacts, check: &str) -> String {
    let found = self::check(facts).into_iter().find(|finding| finding.check == check);
    found.map(|finding| finding.text).unwrap_or_default()
}

#[test]
fn a_stream_that_is_read_is_followed_from_the_join_to_the_socket() {
    let checks: Vec<_> = check(&facts()).iter().map(|finding| finding.check).collect();
    assert_eq!(checks, ["asked", "allowed", "joined", "wire", "inside", "read"]);
    assert!(wrong(&facts()).is_empty());
    assert_eq!(
        text(&facts(), "wire"),
        "it arrives on eth1: 200 packets within 1.0 s from 10.0.0.7 to port 5004"
    );
}

#[test]
fn what_was_not_asked_for_is_told_with_what_is_on_the_wire() {
    let nobody = StreamFacts { joined: Ok(BTreeMap::new()), ..facts() };
    assert_eq!(wrong(&nobody), ["failure asked"]);
    assert!(text(&nobody, "wire").starts_with("it arrives on eth1"));
    let mut silent = nobody;
    silent.interfaces[0].wire = Ok(None);
    assert_eq!(wrong(&silent), ["failure asked", "unknown wire"]);
    let elsewhere = BTreeMap::from([("eth0".to_owned(), SourceFilter::any())]);
    let elsewhere = StreamFacts { joined: Ok(elsewhere), ..facts() };
    assert_eq!(wrong(&elsewhere), ["failure asked"]);
    assert_eq!(text(&elsewhere, "asked"), "joined on eth0, which is not attached to a LAN");
    let hidden = StreamFacts { joined: Err("run it as root".into()), ..facts() };
    assert_eq!(wrong(&hidden), ["unknown asked"]);
}

#[test]
fn what_is_denied_limited_or_failed_is_the_cause_and_not_what_follows_from_it() {
    let denied = with_membership(MembershipStatus::Denied, "deny=239.0.0.0/8");
    assert_eq!(wrong(&denied), ["failure allowed", "unknown wire"]);
    assert_eq!(text(&denied, "allowed"), "denied: deny=239.0.0.0/8");
    let limited = with_membership(MembershipStatus::Limited, "max-groups=2");
    assert_eq!(wrong(&limited), ["failure allowed", "unknown wire"]);
    let failed = with_membership(MembershipStatus::Failed, "No buffer space available");
    assert_eq!(wrong(&failed), ["failure joined", "unknown wire"]);
    assert_eq!(wrong(&with(|interface| interface.on_host = Ok(false))), ["failure joined"]);
    let mut unknown = with(|interface| interface.membership = None);
    assert_eq!(wrong(&unknown), ["failure joined"]);
    unknown.proxy = "dead";
    assert_eq!(wrong(&unknown), ["failure proxy"]);
    let native = with(|interface| {
        interface.is_proxied = false;
        interface.membership = None;
        interface.on_host = Ok(false);
    });
    assert!(wrong(&native).is_empty(), "{:?}", check(&native));
}

#[test]
fn where_a_stream_ends_on_its_way_is_the_cause() {
    let absent = with(|interface| (interface.wire, interface.inside) = (Ok(None), Ok(None)));
    assert_eq!(wrong(&absent), ["failure wire"]);
    assert_eq!(text(&absent, "wire"), "nothing of it arrives on eth1 within 1.0 s");
    // The sender is a sibling.
    assert!(wrong(&with(|interface| interface.wire = Ok(None))).is_empty());
    assert_eq!(wrong(&with(|interface| interface.inside = Ok(None))), ["failure inside"]);
    let relay = |rp_filtered| {
        let relay = with(|interface| {
            interface.is_relay = true;
            interface.inside = Ok(None);
        });
        StreamFacts { host_rp_filtered: rp_filtered, ..relay }
    };
    assert_eq!(wrong(&relay(0)), ["failure inside"]);
    assert_eq!(wrong(&relay(7)), ["failure rp-filter"]);
    let other = SourceFilter::include([Ipv4Addr::new(10, 0, 0, 8)]);
    let other = BTreeMap::from([("mc0".to_owned(), other)]);
    let other = StreamFacts { joined: Ok(other), ..facts() };
    assert_eq!(wrong(&other), ["failure sources"]);
    assert_eq!(
        text(&other, "sources"),
        "it comes from 10.0.0.7, and the container wants it from 10.0.0.8"
    );
    let blind = with(|interface| {
        interface.wire = Err("run it as root".into());
        interface.inside = Err("run it as root".into());
    });
    assert_eq!(wrong(&blind), ["unknown wire", "unknown inside"]);
}

#[test]
fn what_becomes_of_a_stream_at_the_socket_is_told() {
    let sockets = |sockets, reads| StreamFacts { sockets: Ok(sockets), reads, ..facts() };
    assert_eq!(wrong(&sockets(Vec::new(), 0)), ["failure read"]);
    assert_eq!(wrong(&sockets(vec![UdpSocket { port: 5005, ..socket() }], 0)), ["failure read"]);
    let bound = |address| sockets(vec![UdpSocket { address, ..socket() }], 200);
    assert!(wrong(&bound(GROUP)).is_empty());
    assert_eq!(wrong(&bound(Ipv4Addr::LOCALHOST)), ["failure read"]);
    let overflowing = sockets(vec![UdpSocket { dropped: 9, dropped_before: 9, ..socket() }], 200);
    assert_eq!(wrong(&overflowing), ["failure socket-buffer"]);
    assert_eq!(
        text(&overflowing, "socket-buffer"),
        "the buffer of a socket on port 5004 overflows: 9 packets lost within 1.0 s"
    );
    let before = sockets(vec![UdpSocket { dropped_before: 9, ..socket() }], 200);
    assert_eq!(wrong(&before), ["warning socket-buffer"]);
    let hangs = sockets(vec![UdpSocket { waiting: 5000, ..socket() }], 0);
    assert_eq!(wrong(&hangs), ["failure read"]);
    assert_eq!(wrong(&sockets(vec![socket()], 0)), ["failure firewall-inside"]);
    let strict = StreamFacts { rp_filtered: 200, reads: 0, ..facts() };
    assert_eq!(wrong(&strict), ["failure rp-filter"]);
    let hidden = StreamFacts { sockets: Err("no".into()), ..facts() };
    assert_eq!(wrong(&hidden), ["unknown read"]);
}
