//! What of the container's packets is acted on (section 2).

use crate::igmp::router::counter;
use crate::igmp::router::tests::lab::*;
use crate::igmp::wire::RecordType::*;
use crate::igmp::wire::{Message, Version};
use crate::multicast::SourceFilter;

const GROUP: &str = "239.1.1.1";

fn join_packet() -> Vec<u8> {
    let message = Message::ReportV3(vec![record(ToEx, GROUP, &[])]);
    message.emit_ipv4(CONTAINER, message.destination(), 1, 1500).remove(0)
}

#[test]
fn line_2_1_a_wrong_checksum_is_dropped_and_counted() {
    let mut lab = Lab::new();
    let mut packet = join_packet();
    *packet.last_mut().unwrap() ^= 1;
    lab.packet(&packet);
    assert_eq!(lab.joined(GROUP), SourceFilter::none());
    assert_eq!(lab.counter("malformed_checksum"), 1);
    lab.packet(&packet[..30]);
    assert_eq!(lab.counter("malformed_ipv4_length"), 1);
}

#[test]
fn line_2_2_a_ttl_other_than_1_is_dropped_and_counted() {
    let mut lab = Lab::new();
    for ttl in [0, 2, 64, 255] {
        let mut packet = join_packet();
        packet[8] = ttl;
        lab.packet(&packet);
    }
    assert_eq!(lab.joined(GROUP), SourceFilter::none());
    assert_eq!(lab.counter(counter::BAD_TTL), 4);
    lab.packet(&join_packet());
    assert_eq!(lab.joined(GROUP), SourceFilter::any());
}

#[test]
fn line_2_3_a_report_without_router_alert_is_counted_and_dropped_when_strict() {
    let mut packet = join_packet();
    packet.drain(20..24);
    packet[0] = 0x45;
    packet[3] -= 4;
    for (strict, joined) in [(false, SourceFilter::any()), (true, SourceFilter::none())] {
        let config =
            crate::igmp::router::RouterConfig { strict_router_alert: strict, ..Default::default() };
        let mut lab = Lab::with(config, Default::default());
        lab.packet(&packet);
        assert_eq!(lab.joined(GROUP), joined);
        assert_eq!(lab.counter(counter::NO_ROUTER_ALERT), 1);
    }
}

/// Also a mistake seen elsewhere: the interface was looked up by the reporter's address.
#[test]
fn line_2_4_a_report_from_0_0_0_0_is_valid() {
    let mut lab = Lab::new();
    let message = Message::ReportV2 { group: ip(GROUP) };
    let src = ip("0.0.0.0");
    lab.packet(&message.emit_ipv4(src, message.destination(), 1, 1500)[0]);
    assert_eq!(lab.joined(GROUP), SourceFilter::any());
}

#[test]
fn line_2_4_a_query_from_0_0_0_0_is_relayed_and_no_querier() {
    let mut lab = Lab::new();
    lab.event(|router, now| router.handle_link_up(now));
    lab.pass(seconds(5));
    lab.take_queries();
    lab.lan_query(ip("0.0.0.0"), &general(Version::V2));
    assert_eq!(lab.take_queries().len(), 1);
    // It is shown, and takes no part in the election.
    let shown = lab.router.querier(lab.now).map(|querier| querier.address);
    assert_eq!(shown, Some(ip("0.0.0.0")));
    assert_eq!(lab.counter(counter::LAN_PROXY_QUERIES), 1);
    // Our own queries go on as if nothing had been heard.
    lab.pass(seconds(300));
    let at: Vec<_> = lab.take_queries().iter().map(|heard| heard.at).collect();
    assert_eq!(at, [ms(31250), ms(31250 + 125_000), ms(31250 + 250_000)]);
}

/// Also a mistake seen elsewhere: 224.0.0.x relayed upstream.
#[test]
fn line_2_5_link_local_groups_never_go_upstream_and_are_not_counted_as_groups() {
    let mut lab = Lab::new();
    for group in ["224.0.0.0", "224.0.0.1", "224.0.0.22", "224.0.0.107", "224.0.0.251"] {
        lab.join(group);
        lab.report(IsIn, group, &["10.0.0.1"]);
        lab.send(Message::ReportV2 { group: ip(group) });
        lab.send(Message::ReportV1 { group: ip(group) });
        lab.send(Message::LeaveV2 { group: ip(group) });
    }
    assert_eq!(lab.changes, []);
    assert_eq!(lab.router.groups().count(), 0);
    assert_eq!(lab.counter(counter::LINK_LOCAL), 25);
    lab.join("224.0.1.0");
    assert_eq!(lab.joined("224.0.1.0"), SourceFilter::any());
}

#[test]
fn line_2_5_a_record_whose_group_is_not_multicast_does_not_spoil_the_others() {
    let mut lab = Lab::new();
    let records = ["10.0.0.1", "240.0.0.1", "0.0.0.0", "255.255.255.255", GROUP]
        .map(|group| record(ToEx, group, &[]));
    lab.send(Message::ReportV3(records.into()));
    assert_eq!(lab.upstream.len(), 1);
    assert_eq!(lab.joined(GROUP), SourceFilter::any());
    assert_eq!(lab.counter(counter::BAD_RECORD_GROUP), 4);
}

#[test]
fn line_2_6_unknown_types_are_ignored_and_counted() {
    let mut lab = Lab::new();
    lab.send(Message::ReportV3(vec![record(Unknown(9), GROUP, &[]), record(ToEx, GROUP, &[])]));
    assert_eq!(lab.counter(counter::UNKNOWN_RECORD_TYPE), 1);
    assert_eq!(lab.joined(GROUP), SourceFilter::any());
    let mut packet = Message::LeaveV2 { group: ip(GROUP) }
        .emit_ipv4(CONTAINER, ip("224.0.0.2"), 1, 1500)
        .remove(0);
    packet[24] = 0x18;
    // The type is the high byte of a word: one more there is one less in the checksum.
    packet[26] = packet[26].wrapping_sub(1);
    lab.packet(&packet);
    assert_eq!(lab.counter("unknown_message_type"), 1);
    assert_eq!(lab.joined(GROUP), SourceFilter::any());
}

#[test]
fn line_2_8_a_report_with_a_lying_count_changes_nothing() {
    let mut lab = Lab::new();
    let good = record(ToEx, GROUP, &[]);
    let mut packet =
        Message::ReportV3(vec![good]).emit_ipv4(CONTAINER, ip("224.0.0.22"), 1, 1500).remove(0);
    packet[24 + 7] = 2;
    // One more in the count is one less in the checksum.
    let sum = u16::from_be_bytes([packet[26], packet[27]]) - 1;
    packet[26..28].copy_from_slice(&sum.to_be_bytes());
    lab.packet(&packet);
    assert_eq!(lab.counter("malformed_record_count"), 1);
    assert_eq!(lab.changes, []);
}

#[test]
fn sources_that_no_packet_can_come_from_are_ignored() {
    let mut lab = Lab::new();
    let list = ["0.0.0.0", "239.1.1.1", "255.255.255.255", "10.0.0.1"];
    lab.report(Allow, GROUP, &list);
    assert_eq!(lab.joined(GROUP), include(&["10.0.0.1"]));
    assert_eq!(lab.counter(counter::BAD_SOURCE), 3);
}

#[test]
fn queries_of_the_container_are_counted_and_otherwise_ignored() {
    let mut lab = Lab::new();
    lab.join(GROUP);
    lab.send(Message::Query(general(Version::V2)));
    lab.send(Message::Query(specific(GROUP, &[])));
    assert_eq!(lab.counter(counter::CONTAINER_QUERIES), 2);
    assert_eq!(lab.router.querier(lab.now), None);
    assert_eq!(lab.queries, []);
}

#[test]
fn packets_are_counted_by_what_they_are() {
    let mut lab = Lab::new();
    lab.join(GROUP);
    lab.send(Message::ReportV1 { group: ip(GROUP) });
    lab.send(Message::ReportV2 { group: ip(GROUP) });
    lab.send(Message::LeaveV2 { group: ip(GROUP) });
    lab.packet(&[]);
    for name in ["reports_v1", "reports_v2", "leaves_v2", "reports_v3", "malformed_ipv4_header"] {
        assert_eq!(lab.counter(name), 1, "{name}");
    }
    assert_eq!(lab.counter(counter::PACKETS), 5);
}
