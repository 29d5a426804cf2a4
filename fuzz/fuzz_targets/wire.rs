//! Arbitrary bytes as a packet: nothing panics, and what is accepted survives a round trip.
#![no_main]

use std::net::Ipv4Addr;

use libfuzzer_sys::fuzz_target;
use mcrun::igmp::wire;
use mcrun::igmp::wire::{Ipv4Packet, Message, RecordType};

fuzz_target!(|data: &[u8]| {
    // A mutated message hardly ever has the right checksum: take the bytes as they are, and
    // with the checksum mended.
    if let Ok(packet) = Ipv4Packet::parse(data) {
        assert!(packet.total_len() <= data.len());
        let _ = packet.router_alert();
        if let Ok(payload) = packet.igmp() {
            let _ = wire::parse(payload);
            round_trip(payload);
        }
    }
    let _ = wire::parse(data);
    round_trip(data);
});

fn round_trip(payload: &[u8]) {
    let Ok(message) = wire::parse(&mended(payload)) else { return };
    let (src, mtu) = (Ipv4Addr::new(10, 0, 0, 1), 65535);
    let packets = message.emit_ipv4(src, message.destination(), 1, mtu);
    let mut parsed = packets.iter().map(|packet| {
        let packet = Ipv4Packet::parse(packet).expect("our own packet");
        assert!(packet.router_alert());
        wire::parse(packet.igmp().expect("our own packet")).expect("our own message")
    });
    match &message {
        Message::Query(query) => {
            assert_eq!(parsed.next(), Some(Message::Query(query.clone())));
            assert_eq!(parsed.next(), None);
        }
        Message::ReportV3(records) => {
            let again: Vec<_> = parsed
                .flat_map(|m| match m {
                    Message::ReportV3(records) => records,
                    other => panic!("a report became {other:?}"),
                })
                .collect();
            // Long records are split or cut; the fuzzer's inputs are shorter than that.
            let whole = !records.iter().any(|r| r.sources.len() > 16000);
            assert!(!whole || &again == records);
            assert!(records.iter().all(|r| RecordType::from(r.kind.number()) == r.kind));
        }
        other => assert_eq!(parsed.next().as_ref(), Some(other)),
    }
}

fn mended(payload: &[u8]) -> Vec<u8> {
    let mut bytes = payload.to_vec();
    if let Some(field) = bytes.get_mut(2..4) {
        field.fill(0);
        let mut sum: u32 = bytes
            .chunks(2)
            .map(|w| u32::from(w[0]) << 8 | u32::from(w.get(1).copied().unwrap_or(0)))
            .fold(0, |a, b| a.wrapping_add(b));
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        bytes[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
    bytes
}
