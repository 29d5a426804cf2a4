//! Round trips, arbitrary bytes, and another implementation's opinion.

use proptest::prelude::*;

use crate::igmp::wire::tests::*;

fn address() -> impl Strategy<Value = Ipv4Addr> {
    any::<u32>().prop_map(Ipv4Addr::from)
}

fn group() -> impl Strategy<Value = Ipv4Addr> {
    (0xe000_0000..=0xefff_ffffu32).prop_map(Ipv4Addr::from)
}

fn sources() -> impl Strategy<Value = Vec<Ipv4Addr>> {
    prop::collection::vec(address(), 0..40)
}

fn any_query() -> impl Strategy<Value = Query> {
    let old = |version, group, max_resp| Query {
        version,
        group,
        max_resp,
        suppress: false,
        qrv: 0,
        qqi: Duration::ZERO,
        sources: vec![],
    };
    prop_oneof![
        Just(old(Version::V1, None, Duration::from_secs(10))),
        (prop::option::of(group()), 1..=255u64).prop_map(move |(g, n)| old(
            Version::V2,
            g,
            Duration::from_millis(n * 100)
        )),
        (prop::option::of((group(), sources())), any::<(u8, u8, bool)>(), 0..8u8).prop_map(
            |(asked, (code, qqic, suppress), qrv)| {
                let (group, sources) = asked.map_or((None, vec![]), |(g, s)| (Some(g), s));
                Query {
                    version: Version::V3,
                    group,
                    max_resp: Duration::from_millis(u64::from(code::decode(code)) * 100),
                    suppress,
                    qrv,
                    qqi: Duration::from_secs(code::decode(qqic).into()),
                    sources,
                }
            }
        ),
    ]
}

fn any_record() -> impl Strategy<Value = GroupRecord> {
    (any::<u8>(), address(), sources()).prop_map(|(kind, group, sources)| GroupRecord {
        kind: kind.into(),
        group,
        sources,
    })
}

fn any_message() -> impl Strategy<Value = Message> {
    prop_oneof![
        any_query().prop_map(Message::Query),
        group().prop_map(|group| Message::ReportV1 { group }),
        group().prop_map(|group| Message::ReportV2 { group }),
        group().prop_map(|group| Message::LeaveV2 { group }),
        prop::collection::vec(any_record(), 0..20).prop_map(Message::ReportV3),
    ]
}

/// Bytes that look like a message more often than chance would have it.
fn likely_bytes() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop::sample::select(vec![0x11, 0x12, 0x16, 0x17, 0x22, 0x22, 0x22]);
    let small = prop_oneof![8 => 0..4u8, 1 => any::<u8>()];
    (kind, prop::collection::vec(small, 7..120)).prop_map(|(kind, mut rest)| {
        rest.insert(0, kind);
        message(&rest)
    })
}

proptest! {
    #[test]
    fn parsing_what_was_emitted_gives_it_back(m in any_message()) {
        let packets = m.emit_ipv4(SRC, m.destination(), 1, 65535);
        prop_assert_eq!(packets.len(), 1);
        prop_assert_eq!(parsed(&packets[0]), m);
    }

    #[test]
    fn packets_fit_the_mtu_and_lose_no_source(m in any_message(), mtu in 0..200usize) {
        let packets = m.emit_ipv4(SRC, m.destination(), 1, mtu);
        prop_assert!(packets.iter().all(|p| p.len() <= mtu.max(MIN_MTU)));
        let pairs = |m: &Message| match m {
            Message::ReportV3(records) => records
                .iter()
                .filter(|r| !matches!(r.kind, RecordType::IsEx | RecordType::ToEx))
                .flat_map(|r| r.sources.iter().map(|s| (r.kind, r.group, *s)))
                .collect::<Vec<_>>(),
            Message::Query(q) => {
                q.sources.iter().map(|s| (RecordType::IsIn, q.destination(), *s)).collect()
            }
            _ => vec![],
        };
        let again: Vec<_> = packets.iter().flat_map(|p| pairs(&parsed(p))).collect();
        prop_assert_eq!(again, pairs(&m));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(packet) = Ipv4Packet::parse(&bytes) {
            let _ = (packet.router_alert(), packet.igmp().map(parse));
        }
        let _ = parse(&bytes);
    }

    #[test]
    fn etherparse_agrees_on_reports(bytes in likely_bytes()) {
        prop_assert_eq!(parse(&bytes).ok().filter(is_report), by_etherparse(&bytes));
    }

    #[test]
    fn etherparse_reads_what_we_emit(m in any_message().prop_filter("report", is_report)) {
        let packets = m.emit_ipv4(SRC, m.destination(), 1, 65535);
        prop_assert_eq!(by_etherparse(&packets[0][HEADER_LEN..]), Some(m));
    }
}

fn is_report(message: &Message) -> bool {
    !matches!(message, Message::Query(_))
}

/// The report or leave in `bytes` according to another implementation. What that one leaves
/// to its caller, the checksum and that groups are multicast, is checked here.
fn by_etherparse(bytes: &[u8]) -> Option<Message> {
    use etherparse::IgmpSlice;
    let multicast = |octets: [u8; 4]| Some(Ipv4Addr::from(octets)).filter(|g| g.is_multicast());
    if message(&[&bytes[..2], &[0, 0], &bytes[4..]].concat())[2..4] != bytes[2..4] {
        return None;
    }
    match IgmpSlice::from_slice(bytes).ok()? {
        IgmpSlice::MembershipReportV1(m) => {
            multicast(m.group_address().octets).map(|group| Message::ReportV1 { group })
        }
        IgmpSlice::MembershipReportV2(m) => {
            multicast(m.group_address().octets).map(|group| Message::ReportV2 { group })
        }
        IgmpSlice::LeaveGroup(m) => {
            multicast(m.group_address().octets).map(|group| Message::LeaveV2 { group })
        }
        IgmpSlice::MembershipReportV3(m) => m
            .group_records()
            .map(|record| {
                let record = record.ok()?;
                Some(GroupRecord {
                    kind: record.record_type().0.into(),
                    group: record.multicast_address().into(),
                    sources: record.source_addresses().map(Ipv4Addr::from).collect(),
                })
            })
            .collect::<Option<Vec<_>>>()
            .map(Message::ReportV3),
        _ => None,
    }
}
