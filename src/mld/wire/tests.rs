//! Tests named `line_N_M_*` are about that line of the conformance checklist, as it is for MLD:
//! 1 timers and encodings, 2 validation, 5 mistakes seen elsewhere.

use std::net::Ipv6Addr;
use std::time::Duration;

use crate::mld::wire::*;
use crate::multicast::Address as _;

mod properties;
mod vectors;

const SRC: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xa);
const GROUP: Ipv6Addr = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 1, 2);

/// A packet with these bytes of ICMPv6, whose checksum is put in by another implementation.
fn packet(icmp: &[u8]) -> Vec<u8> {
    packet_with(&[58, 0, 5, 2, 0, 0, 1, 0], icmp)
}

/// A packet with this hop-by-hop header, or none.
fn packet_with(options: &[u8], icmp: &[u8]) -> Vec<u8> {
    let mut icmp = icmp.to_vec();
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(((options.len() + icmp.len()) as u16).to_be_bytes());
    bytes.extend([if options.is_empty() { 58 } else { 0 }, 1]);
    bytes.extend(SRC.octets());
    bytes.extend(V2_ROUTERS.octets());
    bytes.extend(options);
    if icmp.len() >= 4 {
        icmp[2..4].fill(0);
        let sum = etherparse::checksum::Sum16BitWords::new()
            .add_16bytes(SRC.octets())
            .add_16bytes(V2_ROUTERS.octets())
            .add_4bytes((icmp.len() as u32).to_be_bytes())
            .add_2bytes([0, 58])
            .add_slice(&icmp)
            .ones_complement();
        icmp[2..4].copy_from_slice(&sum.to_be().to_be_bytes());
    }
    bytes.extend(icmp);
    bytes
}

fn short_message(kind: u8, max_resp: u16, group: Ipv6Addr) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0];
    bytes.extend(max_resp.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(group.octets());
    bytes
}

/// `records` are whole records; `count` is what the header says.
fn report_message(count: u16, records: &[u8]) -> Vec<u8> {
    let mut bytes = vec![143, 0, 0, 0, 0, 0];
    bytes.extend(count.to_be_bytes());
    bytes.extend(records);
    bytes
}

/// A record with `aux` words of auxiliary data.
fn record_bytes(kind: u8, group: Ipv6Addr, sources: &[Ipv6Addr], aux: u8) -> Vec<u8> {
    let mut bytes = vec![kind, aux];
    bytes.extend((sources.len() as u16).to_be_bytes());
    bytes.extend(group.octets());
    bytes.extend(sources.iter().flat_map(|s| s.octets()));
    bytes.extend(std::iter::repeat_n(0xaa, usize::from(aux) * 4));
    bytes
}

fn source(n: u32) -> Ipv6Addr {
    Ipv6Addr::from_number(Ipv6Addr::DOCUMENTATION.to_number() + u128::from(n))
}

fn v2_query(sources: Vec<Ipv6Addr>) -> Query {
    Query { group: Some(GROUP), sources, ..Query::general(Duration::from_secs(1)) }
}

fn read(icmp: &[u8]) -> Result<Message, Malformed> {
    parse(&Ipv6Packet::parse(&packet(icmp))?)
}

fn parsed(packet: &[u8]) -> Message {
    parse(&Ipv6Packet::parse(packet).unwrap()).unwrap()
}

#[test]
fn line_1_6_codes_are_literal_below_32768_and_floating_above() {
    for code in 0..0x8000u16 {
        assert_eq!(code::decode(code), u32::from(code));
        assert_eq!(code::encode(u32::from(code)), code);
    }
    // (mant | 0x1000) << (exp + 3), by hand.
    assert_eq!(code::decode(0x8000), 32768);
    assert_eq!(code::decode(0x8001), 32776);
    assert_eq!(code::decode(0x9000), 65536);
    assert_eq!(code::decode(0xffff), code::MAX);
    assert_eq!(code::encode(u32::MAX), 0xffff);
    for code in 0x8000..=0xffffu16 {
        assert_eq!(code::encode(code::decode(code)), code);
        assert_eq!(code::encode(code::decode(code) + 7), code, "encoding rounds down");
    }
}

#[test]
fn line_1_6_v1_counts_literal_milliseconds() {
    let Ok(Message::Query(query)) = read(&short_message(130, 0xffff, Ipv6Addr::UNSPECIFIED)) else {
        panic!("no query")
    };
    assert_eq!((query.version, query.group), (Version::V2, None));
    assert_eq!(query.max_resp, Duration::from_millis(65535));
    let long = Query { max_resp: Duration::from_secs(100), ..query.clone() };
    assert_eq!(parsed(&long.emit_ipv6(SRC, GROUP, 1, 1500)[0]), Message::Query(query));
}

#[test]
fn line_1_7_a_robustness_above_7_is_told_as_0() {
    for (qrv, told) in [(1, 1), (7, 7), (8, 0), (255, 0)] {
        let query = Query { qrv, ..v2_query(vec![]) };
        let packets = query.emit_ipv6(SRC, GROUP, 1, 1500);
        assert_eq!(packets[0][HEADERS_LEN + 24] & 0x07, told);
    }
}

#[test]
fn line_1_7_a_received_qrv_or_qqic_of_0_means_the_default() {
    let mut bytes = short_message(130, 10, Ipv6Addr::UNSPECIFIED);
    bytes.extend([0, 0, 0, 0]);
    let Ok(Message::Query(query)) = read(&bytes) else { panic!("no query") };
    assert_eq!((query.qrv, query.qqi), (0, Duration::ZERO));
    assert_eq!(query.robustness(), 2);
    assert_eq!(query.query_interval(), Duration::from_secs(125));
}

#[test]
fn line_1_8_packets_carry_hop_limit_router_alert_and_no_trailing_bytes() {
    let record =
        GroupRecord { kind: RecordType::Allow, group: GROUP, sources: vec![source(1), source(2)] };
    let messages = [
        (Message::Query(v2_query(vec![source(1)])), 44),
        (Message::ReportV2 { group: GROUP }, 24),
        (Message::LeaveV2 { group: GROUP }, 24),
        (Message::ReportV3(vec![record]), 60),
    ];
    for (message, payload_len) in messages {
        let packets = message.emit_ipv6(SRC, message.destination(), 1, 1500);
        assert_eq!(packets.len(), 1);
        let bytes = &packets[0];
        let packet = Ipv6Packet::parse(bytes).unwrap();
        assert_eq!(packet.hop_limit(), 1);
        assert_eq!((packet.src(), packet.dst()), (SRC, message.destination()));
        assert!(packet.router_alert());
        assert_eq!(bytes.len(), 48 + payload_len);
        assert_eq!(packet.total_len(), bytes.len());
        assert_eq!(parsed(bytes), message);
    }
    // MLD has nothing older than its first version.
    let old = Message::ReportV1 { group: GROUP }.emit_ipv6(SRC, GROUP, 1, 1500);
    assert_eq!(parsed(&old[0]), Message::ReportV2 { group: GROUP });
}

#[test]
fn line_1_8_a_query_is_split_at_89_sources_for_an_mtu_of_1500() {
    let sources: Vec<_> = (0..90).map(source).collect();
    let one = v2_query(sources[..89].to_vec()).emit_ipv6(SRC, GROUP, 1, 1500);
    assert_eq!(one.iter().map(Vec::len).collect::<Vec<_>>(), [1500]);
    let two = v2_query(sources.clone()).emit_ipv6(SRC, GROUP, 1, 1500);
    assert_eq!(two.len(), 2);
    let again: Vec<_> = two
        .iter()
        .flat_map(|p| match parsed(p) {
            Message::Query(query) => query.sources,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(again, sources);
}

#[test]
fn line_1_8_long_reports_are_split_and_exclude_records_cut() {
    let sources: Vec<_> = (0..1000).map(source).collect();
    let record = |kind| GroupRecord { kind, group: GROUP, sources: sources.clone() };
    let emitted = |kind| -> Vec<GroupRecord> {
        Message::ReportV3(vec![record(kind)])
            .emit_ipv6(SRC, V2_ROUTERS, 1, 1500)
            .iter()
            .inspect(|packet| assert!(packet.len() <= 1500))
            .flat_map(|packet| match parsed(packet) {
                Message::ReportV3(records) => records,
                other => panic!("{other:?}"),
            })
            .collect()
    };
    let allow = emitted(RecordType::Allow);
    assert_eq!(allow.iter().flat_map(|r| r.sources.clone()).collect::<Vec<_>>(), sources);
    let exclude = emitted(RecordType::ToEx);
    assert_eq!(exclude.len(), 1);
    assert_eq!(exclude[0].sources, sources[..(1500 - 48 - 8 - 20) / 16]);
}

#[test]
fn line_1_9_each_message_goes_to_its_destination() {
    let text = |address: Ipv6Addr| address.to_string();
    assert_eq!(text(Query::general(Duration::from_secs(10)).destination()), "ff02::1");
    assert_eq!(v2_query(vec![source(1)]).destination(), GROUP);
    assert_eq!(text(Message::ReportV3(vec![]).destination()), "ff02::16");
    assert_eq!(Message::ReportV2 { group: GROUP }.destination(), GROUP);
    assert_eq!(text(Message::LeaveV2 { group: GROUP }.destination()), "ff02::2");
}

#[test]
fn line_2_1_lengths_agree_with_the_buffer() {
    let good = packet(&short_message(131, 0, GROUP));
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        Ipv6Packet::parse(&bytes).and_then(|packet| parse(&packet)).unwrap_err()
    };
    assert_eq!(refused(&|b| b.truncate(39)), Malformed::Ipv6Header);
    assert_eq!(refused(&|b| b[0] = 0x45), Malformed::Ipv6Header);
    assert_eq!(refused(&|b| b.truncate(71)), Malformed::Ipv6Length);
    assert_eq!(refused(&|b| b[4] = 1), Malformed::Ipv6Length);
    assert_eq!(refused(&|b| b[5] = 7), Malformed::Options);
    assert_eq!(refused(&|b| b[5] = 1), Malformed::Options);
    assert_eq!(refused(&|b| b[41] = 200), Malformed::Options);
    assert_eq!(refused(&|b| b[40] = 44), Malformed::Fragment);
    assert_eq!(refused(&|b| b[40] = 17), Malformed::NotMld);
    assert_eq!(refused(&|b| b[6] = 60), Malformed::NotMld);
    assert_eq!(refused(&|b| b[6] = 44), Malformed::Fragment);
    // Padding of the link behind the packet is no part of it.
    let padded = [&good[..], &[0xff; 14]].concat();
    assert_eq!(parsed(&padded), Message::ReportV2 { group: GROUP });
    assert_eq!(read(&short_message(131, 0, GROUP)[..23]), Err(Malformed::Short));
    assert_eq!(read(&report_message(0, &[])[..7]), Err(Malformed::Short));
    assert_eq!(parse(&Ipv6Packet::parse(&packet(&[])).unwrap()), Err(Malformed::Checksum));
}

#[test]
fn line_2_1_the_checksum_covers_payload_and_addresses() {
    let trailing = [&short_message(131, 0, GROUP)[..], &[1, 2, 3]].concat();
    let good = packet(&trailing);
    assert_eq!(parsed(&good), Message::ReportV2 { group: GROUP });
    for bit in (8 * 8..40 * 8).chain(48 * 8..good.len() * 8) {
        let mut flipped = good.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let read = Ipv6Packet::parse(&flipped).and_then(|packet| parse(&packet));
        assert_eq!(read, Err(Malformed::Checksum), "bit {bit}");
    }
}

#[test]
fn line_2_3_router_alert_is_found_among_other_options() {
    let with_options = |options: &[u8]| {
        let bytes = packet_with(options, &short_message(131, 0, GROUP));
        Ipv6Packet::parse(&bytes).unwrap().router_alert()
    };
    assert!(with_options(&[58, 0, 5, 2, 0, 0, 1, 0]));
    assert!(with_options(&[58, 0, 0, 0, 5, 2, 0, 0]));
    assert!(with_options(&[58, 1, 1, 6, 0, 0, 0, 0, 0, 0, 5, 2, 0, 0, 0, 0]));
    assert!(!with_options(&[]));
    assert!(!with_options(&[58, 0, 1, 4, 0, 0, 0, 0]));
    // Router Alert for RSVP.
    assert!(!with_options(&[58, 0, 5, 2, 0, 1, 1, 0]));
    // Options that lie about their length.
    assert!(!with_options(&[58, 0, 7, 255, 5, 2, 0, 0]));
    assert!(!with_options(&[58, 0, 0, 0, 0, 5, 2, 0]));
}

#[test]
fn line_2_5_the_group_of_a_message_is_multicast() {
    for kind in [131, 132] {
        for group in ["::", "fe80::1", "2001:db8::1", "feff::1"] {
            let bytes = short_message(kind, 0, group.parse().unwrap());
            assert_eq!(read(&bytes), Err(Malformed::BadGroup), "{kind} {group}");
        }
    }
    assert_eq!(read(&short_message(130, 10, source(1))), Err(Malformed::BadGroup));
}

#[test]
fn line_2_6_unknown_message_types_are_told_apart() {
    for kind in (0..=255u8).filter(|kind| !TYPES.contains(kind)) {
        assert_eq!(read(&short_message(kind, 0, GROUP)), Err(Malformed::UnknownType));
    }
}

#[test]
fn line_2_6_unknown_record_types_and_auxiliary_data_leave_the_records_behind_readable() {
    let bytes = [
        record_bytes(77, GROUP, &[source(9)], 0),
        record_bytes(4, GROUP, &[source(1)], 3),
        record_bytes(5, GROUP, &[source(2), source(3)], 255),
        record_bytes(6, GROUP, &[], 0),
    ]
    .concat();
    let record =
        |kind, sources: &[Ipv6Addr]| GroupRecord { kind, group: GROUP, sources: sources.into() };
    assert_eq!(
        read(&report_message(4, &bytes)),
        Ok(Message::ReportV3(vec![
            record(RecordType::Unknown(77), &[source(9)]),
            record(RecordType::ToEx, &[source(1)]),
            record(RecordType::Allow, &[source(2), source(3)]),
            record(RecordType::Block, &[]),
        ]))
    );
}

#[test]
fn line_2_7_the_version_of_a_query_is_told_by_its_length() {
    let query = |len: usize, max_resp| {
        let mut bytes = short_message(130, max_resp, Ipv6Addr::UNSPECIFIED);
        bytes.resize(len, 0);
        read(&bytes).map(|m| match m {
            Message::Query(query) => query.version,
            other => panic!("{other:?}"),
        })
    };
    for max_resp in [0, 1, 10_000] {
        assert_eq!(query(23, max_resp), Err(Malformed::Short));
        assert_eq!(query(24, max_resp), Ok(Version::V2));
        for len in 25..28 {
            assert_eq!(query(len, max_resp), Err(Malformed::QueryLength));
        }
        for len in [28, 29, 100] {
            assert_eq!(query(len, max_resp), Ok(Version::V3));
        }
    }
}

#[test]
fn line_2_8_a_lying_count_drops_the_message() {
    let good = record_bytes(2, GROUP, &[source(1)], 0);
    assert_eq!(read(&report_message(2, &good)), Err(Malformed::RecordCount));
    assert_eq!(read(&report_message(u16::MAX, &good)), Err(Malformed::RecordCount));
    let mut lying = good.clone();
    lying[3] = 2;
    assert_eq!(read(&report_message(1, &lying)), Err(Malformed::SourceCount));
    lying[2] = 0xff;
    assert_eq!(read(&report_message(1, &lying)), Err(Malformed::SourceCount));
    let mut aux = good.clone();
    aux[1] = 1;
    assert_eq!(read(&report_message(1, &aux)), Err(Malformed::AuxData));

    let mut query = short_message(130, 10, GROUP);
    query.extend([0, 0, 0, 2]);
    query.extend(source(1).octets());
    assert_eq!(read(&query), Err(Malformed::SourceCount));
    query[8..24].fill(0);
    query[27] = 1;
    assert_eq!(read(&query), Err(Malformed::SourcesWithoutGroup));
}

/// Mistake: a stack overflow at 5000 sources.
#[test]
fn line_5_a_record_of_4000_sources_is_read() {
    let sources: Vec<_> = (0..4000).map(source).collect();
    let bytes = report_message(1, &record_bytes(6, GROUP, &sources, 0));
    let Ok(Message::ReportV3(records)) = read(&bytes) else { panic!("refused") };
    assert_eq!(records[0].sources, sources);
}

#[test]
fn reasons_have_names_of_their_own() {
    use Malformed::*;
    let all = [
        Ipv6Header,
        Ipv6Length,
        Options,
        Fragment,
        NotMld,
        Short,
        Checksum,
        UnknownType,
        QueryLength,
        BadGroup,
        SourcesWithoutGroup,
        SourceCount,
        RecordCount,
        AuxData,
        Source,
    ];
    let names: std::collections::BTreeSet<_> = all.iter().map(|m| m.name()).collect();
    assert_eq!(names.len(), all.len());
}
