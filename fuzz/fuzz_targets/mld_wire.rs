//! Arbitrary bytes as an MLD packet: nothing panics, what is accepted survives a round trip, and the
//! router takes it.
#![no_main]

use std::net::Ipv6Addr;
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use mcrun::igmp::Protocol;
use mcrun::igmp::wire::RecordType;
use mcrun::mld::wire::{self, Ipv6Packet, Message};
use mcrun::mld::{Mld, Router, RouterConfig};
use mcrun::multicast::GroupPolicy;

const SRC: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xa);
const DST: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);

fuzz_target!(|data: &[u8]| {
    if let Ok(packet) = Ipv6Packet::parse(data) {
        assert!(packet.total_len() <= data.len());
        let _ = (packet.router_alert(), wire::parse(&packet), Mld::parse(data));
    }
    // A mutated message hardly ever has the right checksum.
    let packet = around(data);
    round_trip(&packet);
    let now = Instant::now();
    let policy = GroupPolicy { max_groups: 8, max_sources: 8, ..GroupPolicy::default() };
    let mut router = Router::new(RouterConfig::default(), policy, now);
    router.handle_packet(now, &packet);
    while let Some((group, filter)) = router.poll_change() {
        assert!(group.is_multicast() && !filter.is_none());
    }
    assert!(router.groups().filter(|view| !view.upstream.is_none()).count() <= 8);
});

/// A packet with these bytes of ICMPv6.
fn around(data: &[u8]) -> Vec<u8> {
    let mut icmp = data[..data.len().min(60_000)].to_vec();
    if let Some(field) = icmp.get_mut(2..4) {
        field.fill(0);
        let pseudo = [&SRC.octets()[..], &DST.octets(), &(icmp.len() as u32).to_be_bytes(), &[0, 0, 0, 58]];
        let all = [&pseudo.concat()[..], &icmp].concat();
        let mut sum: u32 = all
            .chunks(2)
            .map(|w| u32::from(w[0]) << 8 | u32::from(w.get(1).copied().unwrap_or(0)))
            .fold(0, |a, b| a.wrapping_add(b));
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        icmp[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
    let length = 8 + icmp.len() as u16;
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(SRC.octets());
    bytes.extend(DST.octets());
    bytes.extend([58, 0, 5, 2, 0, 0, 1, 0]);
    bytes.extend(icmp);
    bytes
}

fn round_trip(packet: &[u8]) {
    let Ok(message) = wire::parse(&Ipv6Packet::parse(packet).expect("lengths agree")) else { return };
    let packets = message.emit_ipv6(SRC, message.destination(), 1, 65535);
    let mut parsed = packets.iter().map(|packet| {
        let packet = Ipv6Packet::parse(packet).expect("our own packet");
        assert!(packet.router_alert());
        wire::parse(&packet).expect("our own message")
    });
    if let Message::ReportV3(records) = &message {
        let again: Vec<_> = parsed
            .flat_map(|m| match m {
                Message::ReportV3(records) => records,
                other => panic!("a report became {other:?}"),
            })
            .collect();
        assert_eq!(&again, records);
        assert!(records.iter().all(|r| RecordType::from(r.kind.number()) == r.kind));
    } else {
        assert_eq!(parsed.next(), Some(message.clone()));
        assert_eq!(parsed.next(), None);
    }
}
