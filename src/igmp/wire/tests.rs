//! Tests named `line_N_M_*` are about that line of the conformance checklist: 1 timers and
//! encodings, 2 validation, 3 downstream state, 5 mistakes seen elsewhere.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::igmp::wire::*;

mod properties;

const SRC: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);

/// A message from its bytes; the checksum is put in.
fn message(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut sum = 0u64;
    for (i, byte) in bytes.iter().enumerate() {
        sum += u64::from(*byte) << if i % 2 == 0 { 8 } else { 0 };
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    bytes[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    bytes
}

fn short_message(kind: u8, code: u8, group: Ipv4Addr) -> Vec<u8> {
    let mut bytes = vec![kind, code, 0, 0];
    bytes.extend(group.octets());
    message(&bytes)
}

/// `records` are whole records; `count` is what the header says.
fn report_message(count: u16, records: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x22, 0, 0, 0, 0, 0];
    bytes.extend(count.to_be_bytes());
    bytes.extend(records);
    message(&bytes)
}

/// A record with `aux` words of auxiliary data.
fn record_bytes(kind: u8, group: Ipv4Addr, sources: &[Ipv4Addr], aux: u8) -> Vec<u8> {
    let mut bytes = vec![kind, aux];
    bytes.extend((sources.len() as u16).to_be_bytes());
    bytes.extend(group.octets());
    bytes.extend(sources.iter().flat_map(|s| s.octets()));
    bytes.extend(std::iter::repeat_n(0xaa, usize::from(aux) * 4));
    bytes
}

fn source(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0000 + n)
}

fn v3_query(sources: Vec<Ipv4Addr>) -> Query {
    Query { group: Some(GROUP), sources, ..Query::general(Duration::from_secs(1)) }
}

fn parsed(packet: &[u8]) -> Message {
    parse(Ipv4Packet::parse(packet).unwrap().igmp().unwrap()).unwrap()
}

#[test]
fn line_1_6_codes_are_literal_below_128_and_floating_above() {
    for code in 0..128u8 {
        assert_eq!(code::decode(code), u32::from(code));
        assert_eq!(code::encode(u32::from(code)), code);
    }
    // (mant | 0x10) << (exp + 3), by hand.
    assert_eq!(code::decode(0x80), 128);
    assert_eq!(code::decode(0x8f), 248);
    assert_eq!(code::decode(0x90), 256);
    assert_eq!(code::decode(0xaa), (0x1a) << 5);
    assert_eq!(code::decode(0xff), 31744);
    assert_eq!(code::encode(u32::MAX), 0xff);
}

#[test]
fn line_1_6_encoding_rounds_down() {
    assert_eq!(code::decode(code::encode(135)), 128);
    assert_eq!(code::decode(code::encode(136)), 136);
    for value in 0..=code::MAX {
        let code = code::encode(value);
        assert!(code::decode(code) <= value, "{value} rounds up");
        assert!(code == 255 || code::decode(code + 1) > value, "{value} could be closer");
    }
}

#[test]
fn line_1_6_v2_counts_literal_tenths_and_v1_means_ten_seconds() {
    let read = |code| match parse(&short_message(0x11, code, Ipv4Addr::UNSPECIFIED)) {
        Ok(Message::Query(query)) => query,
        other => panic!("{other:?}"),
    };
    assert_eq!(read(255).max_resp, Duration::from_millis(25500));
    assert_eq!(read(255).version, Version::V2);
    assert_eq!(read(0).max_resp, Duration::from_secs(10));
    assert_eq!(read(0).version, Version::V1);
}

#[test]
fn line_1_7_a_robustness_above_7_is_told_as_0() {
    for (qrv, told) in [(1, 1), (7, 7), (8, 0), (255, 0)] {
        let query = Query { qrv, ..v3_query(vec![]) };
        let packets = query.emit_ipv4(SRC, GROUP, 1, 1500);
        assert_eq!(packets[0][HEADER_LEN + 8] & 0x07, told);
    }
}

#[test]
fn line_1_7_a_received_qrv_or_qqic_of_0_means_the_default() {
    let mut bytes = short_message(0x11, 10, Ipv4Addr::UNSPECIFIED);
    bytes.extend([0, 0, 0, 0]);
    bytes[2..4].fill(0);
    let Ok(Message::Query(query)) = parse(&message(&bytes)) else { panic!("no query") };
    assert_eq!((query.qrv, query.qqi), (0, Duration::ZERO));
    assert_eq!(query.robustness(), 2);
    assert_eq!(query.query_interval(), Duration::from_secs(125));
}

#[test]
fn line_1_8_packets_carry_ttl_tos_router_alert_and_no_trailing_bytes() {
    let record =
        GroupRecord { kind: RecordType::Allow, group: GROUP, sources: vec![source(1), source(2)] };
    let messages = [
        (Message::Query(v3_query(vec![source(1)])), 16),
        (Message::ReportV1 { group: GROUP }, 8),
        (Message::ReportV2 { group: GROUP }, 8),
        (Message::LeaveV2 { group: GROUP }, 8),
        (Message::ReportV3(vec![record]), 24),
    ];
    for (message, payload_len) in messages {
        for ttl in [0, 1] {
            let packets = message.emit_ipv4(SRC, message.destination(), ttl, 1500);
            assert_eq!(packets.len(), 1);
            let bytes = &packets[0];
            let packet = Ipv4Packet::parse(bytes).unwrap();
            assert_eq!((packet.ttl(), packet.tos(), packet.protocol()), (ttl, 0xc0, 2));
            assert_eq!((packet.src(), packet.dst()), (SRC, message.destination()));
            assert!(packet.router_alert());
            assert_eq!(bytes[20..24], [0x94, 4, 0, 0]);
            assert_eq!(bytes.len(), 24 + payload_len);
            assert_eq!(packet.total_len(), bytes.len());
            // A second opinion on the header checksum.
            let (header, _) = etherparse::Ipv4Header::from_slice(bytes).unwrap();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(parsed(bytes), message);
        }
    }
}

#[test]
fn line_1_8_aux_data_len_is_0() {
    let record = GroupRecord { kind: RecordType::IsEx, group: GROUP, sources: vec![] };
    let packets = Message::ReportV3(vec![record]).emit_ipv4(SRC, V3_ROUTERS, 1, 1500);
    assert_eq!(packets[0][HEADER_LEN + 9], 0);
}

#[test]
fn line_1_8_a_query_is_split_at_366_sources_for_an_mtu_of_1500() {
    let sources: Vec<_> = (0..367).map(source).collect();
    let one = v3_query(sources[..366].to_vec()).emit_ipv4(SRC, GROUP, 1, 1500);
    assert_eq!(one.iter().map(Vec::len).collect::<Vec<_>>(), [1500]);
    let two = v3_query(sources.clone()).emit_ipv4(SRC, GROUP, 1, 1500);
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
            .emit_ipv4(SRC, V3_ROUTERS, 1, 1500)
            .iter()
            .inspect(|packet| assert!(packet.len() <= 1500))
            .flat_map(|packet| match parsed(packet) {
                Message::ReportV3(records) => records,
                other => panic!("{other:?}"),
            })
            .collect()
    };
    let allow = emitted(RecordType::Allow);
    assert!(allow.len() > 1);
    assert_eq!(allow.iter().flat_map(|r| r.sources.clone()).collect::<Vec<_>>(), sources);
    // Each TO_EX replaces the one before: the rest of the list can't follow.
    let exclude = emitted(RecordType::ToEx);
    assert_eq!(exclude.len(), 1);
    assert_eq!(exclude[0].sources, sources[..exclude[0].sources.len()]);
    assert_eq!(exclude[0].sources.len(), (1500 - 24 - 8 - 8) / 4);
}

#[test]
fn line_1_9_each_message_goes_to_its_destination() {
    let general = Query::general(Duration::from_secs(10));
    assert_eq!(general.destination(), Ipv4Addr::new(224, 0, 0, 1));
    assert_eq!(v3_query(vec![]).destination(), GROUP);
    assert_eq!(v3_query(vec![source(1)]).destination(), GROUP);
    assert_eq!(Message::ReportV3(vec![]).destination(), Ipv4Addr::new(224, 0, 0, 22));
    assert_eq!(Message::ReportV2 { group: GROUP }.destination(), GROUP);
    assert_eq!(Message::ReportV1 { group: GROUP }.destination(), GROUP);
    assert_eq!(Message::LeaveV2 { group: GROUP }.destination(), Ipv4Addr::new(224, 0, 0, 2));
}

#[test]
fn line_2_1_lengths_agree_with_the_buffer() {
    let good = Message::ReportV2 { group: GROUP }.emit_ipv4(SRC, GROUP, 1, 1500).remove(0);
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        Ipv4Packet::parse(&bytes).map(|p| p.payload().to_vec()).unwrap_err()
    };
    assert_eq!(refused(&|b| b.truncate(19)), Malformed::Ipv4Header);
    assert_eq!(refused(&|b| b[0] = 0x66), Malformed::Ipv4Header);
    assert_eq!(refused(&|b| b[0] = 0x44), Malformed::Ipv4Header);
    assert_eq!(refused(&|b| b[0] = 0x4f), Malformed::Ipv4Length);
    assert_eq!(refused(&|b| b[2..4].fill(0xff)), Malformed::Ipv4Length);
    assert_eq!(refused(&|b| b[3] = 23), Malformed::Ipv4Length);
    assert_eq!(refused(&|b| b.truncate(31)), Malformed::Ipv4Length);
    assert_eq!(refused(&|b| b[6] = 0x20), Malformed::Fragment);
    assert_eq!(refused(&|b| b[7] = 1), Malformed::Fragment);

    let mut other = good.clone();
    other[9] = 17;
    assert_eq!(Ipv4Packet::parse(&other).unwrap().igmp(), Err(Malformed::NotIgmp));
    // Padding of the link behind the packet is no part of it.
    let mut padded = good.clone();
    padded.extend([0xff; 14]);
    assert_eq!(parsed(&padded), Message::ReportV2 { group: GROUP });
    assert_eq!(parse(&good[24..31]), Err(Malformed::Short));
    assert_eq!(parse(&[]), Err(Malformed::Short));
}

#[test]
fn line_2_1_the_checksum_covers_the_whole_payload_with_trailing_bytes() {
    let mut bytes = short_message(0x16, 0, GROUP);
    assert_eq!(parse(&bytes), Ok(Message::ReportV2 { group: GROUP }));
    bytes.extend([1, 2, 3]);
    assert_eq!(parse(&bytes), Err(Malformed::Checksum));
    bytes[2..4].fill(0);
    assert_eq!(parse(&message(&bytes)), Ok(Message::ReportV2 { group: GROUP }));
    for bit in 0..bytes.len() * 8 {
        let mut flipped = message(&bytes[..8]);
        flipped[bit / 8 % 8] ^= 1 << (bit % 8);
        assert!(parse(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn line_2_3_router_alert_is_found_among_other_options() {
    let with_options = |options: &[u8]| {
        let mut bytes = Message::ReportV2 { group: GROUP }.emit_ipv4(SRC, GROUP, 1, 1500).remove(0);
        bytes.splice(20..24, options.iter().copied());
        bytes[0] = 0x40 | ((20 + options.len()) / 4) as u8;
        let total = bytes.len() as u16;
        bytes[2..4].copy_from_slice(&total.to_be_bytes());
        Ipv4Packet::parse(&bytes).unwrap().router_alert()
    };
    assert!(with_options(&[0x94, 4, 0, 0]));
    assert!(with_options(&[1, 1, 1, 1, 0x94, 4, 0, 0]));
    assert!(with_options(&[7, 4, 4, 0, 0x94, 4, 0, 0]));
    assert!(!with_options(&[]));
    assert!(!with_options(&[0, 0, 0, 0, 0x94, 4, 0, 0]));
    // Options that lie about their length.
    assert!(!with_options(&[7, 0, 0, 0]));
    assert!(!with_options(&[7, 255, 0, 0]));
    assert!(!with_options(&[1, 1, 1, 0x94]));
}

#[test]
fn line_2_5_the_group_of_a_message_is_multicast() {
    for kind in [0x12, 0x16, 0x17] {
        for group in ["0.0.0.0", "10.0.0.1", "223.255.255.255", "240.0.0.0", "255.255.255.255"] {
            let bytes = short_message(kind, 0, group.parse().unwrap());
            assert_eq!(parse(&bytes), Err(Malformed::BadGroup), "{kind:#x} {group}");
        }
    }
    assert_eq!(parse(&short_message(0x11, 10, source(1))), Err(Malformed::BadGroup));
}

#[test]
fn line_2_6_unknown_message_types_are_told_apart() {
    for kind in (0..=255u8).filter(|k| ![0x11, 0x12, 0x16, 0x17, 0x22].contains(k)) {
        assert_eq!(parse(&short_message(kind, 0, GROUP)), Err(Malformed::UnknownType));
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
        |kind, sources: &[Ipv4Addr]| GroupRecord { kind, group: GROUP, sources: sources.into() };
    assert_eq!(
        parse(&report_message(4, &bytes)),
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
    let query = |len: usize, code| {
        let mut bytes = vec![0x11, code, 0, 0, 0, 0, 0, 0];
        bytes.resize(len, 0);
        parse(&message(&bytes)).map(|m| match m {
            Message::Query(query) => query.version,
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(query(8, 0), Ok(Version::V1));
    assert_eq!(query(8, 1), Ok(Version::V2));
    for len in 9..12 {
        assert_eq!(query(len, 0), Err(Malformed::QueryLength));
        assert_eq!(query(len, 1), Err(Malformed::QueryLength));
    }
    for len in [12, 13, 100] {
        assert_eq!(query(len, 0), Ok(Version::V3));
        assert_eq!(query(len, 1), Ok(Version::V3));
    }
}

#[test]
fn line_2_8_a_lying_count_drops_the_message() {
    let good = record_bytes(2, GROUP, &[source(1)], 0);
    assert_eq!(parse(&report_message(2, &good)), Err(Malformed::RecordCount));
    assert_eq!(parse(&report_message(u16::MAX, &good)), Err(Malformed::RecordCount));
    let mut lying = good.clone();
    lying[3] = 2;
    assert_eq!(parse(&report_message(1, &lying)), Err(Malformed::SourceCount));
    lying[2] = 0xff;
    assert_eq!(parse(&report_message(1, &lying)), Err(Malformed::SourceCount));
    let mut aux = good.clone();
    aux[1] = 1;
    assert_eq!(parse(&report_message(1, &aux)), Err(Malformed::AuxData));
    // The bytes of a second header are eaten by the sources of the first record.
    let two = [record_bytes(2, GROUP, &[source(1), source(2)], 0), vec![0; 4]].concat();
    assert_eq!(parse(&report_message(2, &two)), Err(Malformed::RecordCount));

    let mut query = vec![0x11, 10, 0, 0];
    query.extend(GROUP.octets());
    query.extend([0, 0, 0, 2]);
    query.extend(source(1).octets());
    assert_eq!(parse(&message(&query)), Err(Malformed::SourceCount));
    query[4..8].fill(0);
    query[11] = 1;
    assert_eq!(parse(&message(&query)), Err(Malformed::SourcesWithoutGroup));
}

/// Mistakes: auxiliary data length taken as bytes (or as 16 bytes), so that the record behind
/// is read from the wrong place.
#[test]
fn line_5_auxiliary_data_is_counted_in_words() {
    let other = Ipv4Addr::new(239, 9, 9, 9);
    let bytes = [record_bytes(4, GROUP, &[], 2), record_bytes(4, other, &[], 0)].concat();
    let Ok(Message::ReportV3(records)) = parse(&report_message(2, &bytes)) else {
        panic!("refused")
    };
    assert_eq!(records[1].group, other);
}

/// Mistake: a stack overflow at 5000 sources.
#[test]
fn line_5_a_record_of_5000_sources_is_read() {
    let sources: Vec<_> = (0..5000).map(source).collect();
    let bytes = report_message(1, &record_bytes(6, GROUP, &sources, 0));
    let Ok(Message::ReportV3(records)) = parse(&bytes) else { panic!("refused") };
    assert_eq!(records[0].sources, sources);
}

/// Mistakes: a query with sources sent without them; only the first source read.
#[test]
fn line_5_all_sources_of_a_query_are_sent_and_read() {
    let query = v3_query((0..10).map(source).collect());
    let packets = query.emit_ipv4(SRC, GROUP, 1, 1500);
    assert_eq!(parsed(&packets[0]), Message::Query(query));
}

#[test]
fn reasons_have_names_of_their_own() {
    use Malformed::*;
    let all = [
        Ipv4Header,
        Ipv4Length,
        Fragment,
        NotIgmp,
        Short,
        Checksum,
        UnknownType,
        QueryLength,
        BadGroup,
        SourcesWithoutGroup,
        SourceCount,
        RecordCount,
        AuxData,
    ];
    let names: std::collections::BTreeSet<_> = all.iter().map(|m| m.name()).collect();
    assert_eq!(names.len(), all.len());
    let snake = |name: &str| {
        name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    assert!(names.iter().all(|name| snake(name)));
}
