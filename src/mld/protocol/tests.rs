use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use crate::igmp::Protocol as _;
use crate::igmp::router::counter;
use crate::mld::wire::{GroupRecord, Ipv6Packet, Message, Query, RecordType, Version, parse};
use crate::mld::{Mld, OWN_QUERIER, Router, RouterConfig};
use crate::multicast::{GroupPolicy, SourceFilter};

fn ip(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn router(now: Instant) -> Router {
    Router::new(RouterConfig::default(), GroupPolicy::default(), now)
}

fn report(group: &str) -> Message {
    let record = GroupRecord { kind: RecordType::ToEx, group: ip(group), sources: vec![] };
    Message::ReportV3(vec![record])
}

fn joins(router: &mut Router, now: Instant, from: &str, message: &Message) -> bool {
    let packet = message.emit_ipv6(ip(from), message.destination(), 1, 1500).remove(0);
    router.handle_packet(now, &packet);
    router.poll_change().is_some()
}

/// The kernel takes a query with hop limit 1 from a link-local address, and sends nothing to ff01::1.
#[test]
fn queries_into_the_container_stay_in_it_and_are_answered() {
    for (asks, source) in
        [("::", OWN_QUERIER), ("2001:db8::1", OWN_QUERIER), ("fe80::7", ip("fe80::7"))]
    {
        let group = Query { group: Some(ip("ff05::1")), ..Query::general(Duration::from_secs(1)) };
        for query in [Query::general(Duration::from_secs(10)), group] {
            let packets = Mld::emit_query(&query, ip(asks), 1500);
            let packet = Ipv6Packet::parse(&packets[0]).unwrap();
            assert_eq!((packet.src(), packet.dst()), (source, ip("ff01::1")));
            assert_eq!((packet.hop_limit(), packet.router_alert()), (1, true));
            assert_eq!(parse(&packet), Ok(Message::Query(query)));
        }
    }
}

/// Line 2.4 of the checklist, for MLD: a host without a valid address yet reports from `::`.
#[test]
fn line_2_4_reports_come_from_the_link() {
    let now = Instant::now();
    let mut router = router(now);
    assert!(joins(&mut router, now, "fe80::2", &report("ff05::1")));
    assert!(joins(&mut router, now, "::", &report("ff02::1:ff00:7")));
    assert!(!joins(&mut router, now, "2001:db8::2", &report("ff05::2")));
    assert_eq!(router.counters().get("malformed_source"), Some(&1));
}

/// Line 2.5 of the checklist, for MLD: the link scope is pruned by switches, except ff02::1.
#[test]
fn line_2_5_groups_of_the_link_are_passed_on_except_those_that_nobody_reports() {
    let now = Instant::now();
    let mut router = router(now);
    for group in ["ff02::fb", "ff02::1:ff00:1", "ff05::c", "ff0e::101"] {
        assert!(joins(&mut router, now, "fe80::2", &report(group)), "{group}");
    }
    for group in ["ff02::1", "ff01::fb", "ff00::fb"] {
        assert!(!joins(&mut router, now, "fe80::2", &report(group)), "{group}");
    }
    assert_eq!(router.counters().get(counter::LINK_LOCAL), Some(&3));
}

/// Line 3.5 of the checklist, for MLD (RFC 9777 §8.3.2).
#[test]
fn line_3_5_a_listener_of_version_1_puts_its_group_into_that_mode() {
    let now = Instant::now();
    let mut router = router(now);
    let group = ip("ff05::1");
    assert!(joins(&mut router, now, "fe80::2", &Message::ReportV2 { group }));
    assert_eq!(router.groups().next().unwrap().version, Version::V2);
    let block = GroupRecord { kind: RecordType::Block, group, sources: vec![ip("2001:db8::1")] };
    assert!(!joins(&mut router, now, "fe80::2", &Message::ReportV3(vec![block])));
    assert_eq!(router.counters().get(counter::COMPATIBILITY_MODE), Some(&1));
    let done = Message::LeaveV2 { group };
    router.handle_packet(now, &done.emit_ipv6(ip("fe80::2"), done.destination(), 1, 1500)[0]);
    assert_eq!(router.poll_change(), Some((group, SourceFilter::none())));
}

/// The container is asked in MLDv2 whatever the LAN speaks, with the LAN's querier as source.
#[test]
fn a_query_of_the_lan_reaches_the_container_in_version_2() {
    let now = Instant::now();
    let mut router = router(now);
    router.handle_link_up(now);
    while router.poll_query().is_some() {}
    let later = now + Duration::from_secs(5);
    let old = Query {
        version: Version::V2,
        qrv: 0,
        qqi: Duration::ZERO,
        max_resp: Duration::from_secs(60),
        ..Query::general(Duration::ZERO)
    };
    for (from, relayed) in [("::", false), ("2001:db8::1", false), ("fe80::9", true)] {
        router.handle_lan_query(later, ip(from), &old);
        let query = router.poll_query();
        assert_eq!(query.is_some(), relayed, "{from}");
        if let Some(query) = query {
            let packet = Ipv6Packet::parse(&query.packet).unwrap();
            assert_eq!(packet.src(), ip(from));
            let Ok(Message::Query(query)) = parse(&packet) else { panic!("no query") };
            assert_eq!(query.version, Version::V3);
            // The membership interval is longer than the query interval and this together.
            assert_eq!(query.max_resp, Duration::from_millis(25500));
        }
    }
    assert_eq!(router.querier(later).map(|querier| querier.address), Some(ip("fe80::9")));
}
