//! The reports that a snooping switch is tested with, read and applied.
//!
//! Group, sources, addresses and checksums are those of the MLD tests of the Linux bridge
//! (tools/testing/selftests/net/forwarding/bridge_mld.sh).

use std::time::Instant;

use crate::igmp::router::RouterConfig;
use crate::mld::Router;
use crate::mld::wire::tests::*;
use crate::multicast::{GroupPolicy, SourceFilter};

/// A report: the type of its record, the last parts of its sources, and its checksum.
type Vector = (RecordType, &'static [u16], u16);

const IS_IN: Vector = (RecordType::IsIn, &[1, 2, 3], 0x8ed9);
const IS_IN_OTHERS: Vector = (RecordType::IsIn, &[0x10, 0x11, 0x12], 0x8eac);
const ALLOW: Vector = (RecordType::Allow, &[0x10, 0x11, 0x12], 0x8aac);
const ALLOW_EXCLUDED: Vector = (RecordType::Allow, &[0x20, 0x30], 0xb85a);
const IS_EX: Vector = (RecordType::IsEx, &[1, 2, 0x20, 0x21], 0x5fd0);
const TO_EX: Vector = (RecordType::ToEx, &[1, 0x20, 0x30], 0x8b8e);

fn group() -> Ipv6Addr {
    "ff02::cc".parse().unwrap()
}

fn listed(numbers: &[u16]) -> Vec<Ipv6Addr> {
    numbers.iter().map(|n| Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, *n)).collect()
}

/// The packet with its checksum as that test has it: a flow label, two Pad1 behind Router Alert, and
/// ff02::1 as destination.
fn on_the_wire((kind, sources, checksum): Vector) -> Vec<u8> {
    let mut bytes = vec![0x60, 0x0a, 0x2d, 0xae, 0, 36 + 16 * sources.len() as u8, 0, 1];
    bytes.extend("fe80::fc54:ff:fe04:5eba".parse::<Ipv6Addr>().unwrap().octets());
    bytes.extend("ff02::1".parse::<Ipv6Addr>().unwrap().octets());
    bytes.extend([58, 0, 5, 2, 0, 0, 0, 0]);
    bytes.extend([143, 0]);
    bytes.extend(checksum.to_be_bytes());
    bytes.extend([0, 0, 0, 1, kind.number(), 0, 0, sources.len() as u8]);
    bytes.extend(group().octets());
    bytes.extend(listed(sources).iter().flat_map(|source| source.octets()));
    bytes
}

#[test]
fn reports_that_switches_are_tested_with_are_read_and_their_checksums_are_ours() {
    for vector in [IS_IN, IS_IN_OTHERS, ALLOW, ALLOW_EXCLUDED, IS_EX, TO_EX] {
        let (kind, sources, checksum) = vector;
        let bytes = on_the_wire(vector);
        let packet = Ipv6Packet::parse(&bytes).unwrap();
        assert!(packet.router_alert());
        let record = GroupRecord { kind, group: group(), sources: listed(sources) };
        let message = Message::ReportV3(vec![record]);
        assert_eq!(parse(&packet), Ok(message.clone()));
        let ours = message.emit_ipv6(packet.src(), packet.dst(), 1, 1500);
        assert_eq!(ours[0][HEADERS_LEN + 2..HEADERS_LEN + 4], checksum.to_be_bytes());
    }
}

/// The states that the bridge's test expects, by RFC 9777 §7.4. Its entries of blocked sources are the
/// excluded ones.
#[test]
fn reports_that_switches_are_tested_with_lead_to_the_same_states() {
    let include = |sources| SourceFilter::include(listed(sources));
    let exclude = |sources| SourceFilter::exclude(listed(sources));
    for (reports, expected) in [
        (&[IS_IN][..], include(&[1, 2, 3])),
        (&[IS_IN, ALLOW], include(&[1, 2, 3, 0x10, 0x11, 0x12])),
        (&[IS_IN, IS_IN_OTHERS], include(&[1, 2, 3, 0x10, 0x11, 0x12])),
        (&[IS_IN, IS_EX], exclude(&[0x20, 0x21])),
        (&[IS_IN, TO_EX], exclude(&[0x20, 0x30])),
        (&[IS_IN, IS_EX, ALLOW_EXCLUDED], exclude(&[0x21])),
    ] {
        let now = Instant::now();
        let config = RouterConfig { fast_leave: false, ..RouterConfig::default() };
        let mut router = Router::new(config, GroupPolicy::default(), now);
        for report in reports {
            router.handle_packet(now, &on_the_wire(*report));
        }
        let view = router.groups().next().expect("a group");
        assert_eq!((view.group, view.wanted), (group(), expected), "{reports:?}");
    }
}
