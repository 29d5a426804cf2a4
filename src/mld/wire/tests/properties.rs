//! Round trips, arbitrary bytes, and another implementation's opinion.

use proptest::prelude::*;

use crate::igmp::wire::code as qqic;
use crate::mld::wire::tests::*;

fn address() -> impl Strategy<Value = Ipv6Addr> {
    any::<u128>().prop_map(Ipv6Addr::from)
}

fn group() -> impl Strategy<Value = Ipv6Addr> {
    any::<u128>().prop_map(|bits| Ipv6Addr::from(bits | 0xff << 120))
}

fn sources() -> impl Strategy<Value = Vec<Ipv6Addr>> {
    prop::collection::vec(address(), 0..100)
}

fn any_query() -> impl Strategy<Value = Query> {
    prop_oneof![
        (prop::option::of(group()), any::<u16>()).prop_map(|(group, n)| Query {
            version: Version::V2,
            group,
            max_resp: Duration::from_millis(n.into()),
            suppress: false,
            qrv: 0,
            qqi: Duration::ZERO,
            sources: vec![],
        }),
        (prop::option::of((group(), sources())), any::<(u16, u8, bool)>(), 0..8u8).prop_map(
            |(asked, (code, interval, suppress), qrv)| {
                let (group, sources) = asked.map_or((None, vec![]), |(g, s)| (Some(g), s));
                Query {
                    version: Version::V3,
                    group,
                    max_resp: Duration::from_millis(code::decode(code).into()),
                    suppress,
                    qrv,
                    qqi: Duration::from_secs(qqic::decode(interval).into()),
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
        group().prop_map(|group| Message::ReportV2 { group }),
        group().prop_map(|group| Message::LeaveV2 { group }),
        prop::collection::vec(any_record(), 0..20).prop_map(Message::ReportV3),
    ]
}

/// Bytes that look like a message more often than chance would have it.
fn likely_bytes() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop::sample::select(vec![130, 131, 132, 143, 143, 143]);
    let small = prop_oneof![8 => 0..4u8, 1 => any::<u8>()];
    (kind, prop::collection::vec(small, 7..220)).prop_map(|(kind, mut rest)| {
        rest.insert(0, kind);
        packet(&rest)
    })
}

proptest! {
    #[test]
    fn parsing_what_was_emitted_gives_it_back(m in any_message()) {
        let packets = m.emit_ipv6(SRC, m.destination(), 1, 65535);
        prop_assert_eq!(packets.len(), 1);
        prop_assert_eq!(parsed(&packets[0]), m);
    }

    #[test]
    fn packets_fit_the_mtu_and_lose_no_source(m in any_message(), mtu in 0..3000usize) {
        let packets = m.emit_ipv6(SRC, m.destination(), 1, mtu);
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
        if let Ok(packet) = Ipv6Packet::parse(&bytes) {
            let _ = (packet.router_alert(), parse(&packet));
        }
        let _ = read(&bytes);
    }

    #[test]
    fn what_is_read_survives_a_round_trip(bytes in likely_bytes()) {
        if let Ok(message) = parse(&Ipv6Packet::parse(&bytes).unwrap()) {
            let again = message.emit_ipv6(SRC, message.destination(), 1, 65535);
            prop_assert_eq!(parsed(&again[0]), message);
        }
    }

    #[test]
    fn etherparse_reads_the_headers_and_the_checksum_that_we_emit(m in any_message()) {
        use etherparse::{Icmpv6Slice, IpNumber, Ipv6Slice};
        let packet = m.emit_ipv6(SRC, m.destination(), 1, 65535).remove(0);
        let slice = Ipv6Slice::from_slice(&packet).unwrap();
        prop_assert_eq!(slice.header().hop_limit(), 1);
        prop_assert_eq!(slice.header().source_addr(), SRC);
        prop_assert_eq!(slice.header().destination_addr(), m.destination());
        prop_assert_eq!(slice.extensions().first_header(), Some(IpNumber::IPV6_HEADER_HOP_BY_HOP));
        prop_assert_eq!(slice.payload().ip_number, IpNumber::IPV6_ICMP);
        let icmp = Icmpv6Slice::from_slice(slice.payload().payload).unwrap();
        prop_assert!(icmp.is_checksum_valid(SRC.octets(), m.destination().octets()));
        prop_assert!(TYPES.contains(&icmp.type_u8()));
    }
}
