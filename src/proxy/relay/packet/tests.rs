//! Packets against another implementation, and on arbitrary bytes.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{Ipv4HeaderSlice, PacketBuilder, UdpHeaderSlice};
use proptest::prelude::*;

use crate::proxy::relay::packet::*;

const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);

fn theirs(payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ipv4(SOURCE.octets(), GROUP.octets(), 7).udp(5000, 6000);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, payload).unwrap();
    bytes
}

fn udp(bytes: &[u8]) -> (UdpHeaderSlice<'_>, &[u8]) {
    let header = Ipv4HeaderSlice::from_slice(bytes).unwrap();
    let rest = &bytes[header.slice().len()..];
    (UdpHeaderSlice::from_slice(rest).unwrap(), &rest[8..])
}

fn is_right(bytes: &[u8]) -> bool {
    let header = Ipv4HeaderSlice::from_slice(bytes).unwrap().to_header();
    let (udp, payload) = udp(bytes);
    udp.to_header().calc_checksum_ipv4(&header, payload).unwrap() == udp.checksum()
}

/// Puts fragments together as RFC 791 §3.2 says.
fn reassemble(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (position, fragment) in fragments.iter().enumerate() {
        let header = Ipv4HeaderSlice::from_slice(fragment).unwrap();
        assert_eq!(usize::from(header.fragments_offset().value()) * 8, payload.len());
        assert_eq!(header.more_fragments(), position + 1 < fragments.len());
        assert_eq!(usize::from(header.total_len()), fragment.len());
        payload.extend_from_slice(&fragment[20..]);
    }
    payload
}

#[test]
fn a_built_packet_is_that_of_another_implementation() {
    for size in [0, 1, 2, 1472, 65507] {
        let payload: Vec<u8> = (0..size).map(|n| n as u8).collect();
        let mut ours = build((SOURCE, 5000), (GROUP, 6000), 7, &payload);
        let mut expected = theirs(&payload);
        // Identification, flags and header checksum are the kernel's.
        for bytes in [&mut ours, &mut expected] {
            bytes[4..8].fill(0);
            bytes[10..12].fill(0);
        }
        assert_eq!(ours, expected, "{size}");
    }
}

#[test]
fn a_checksum_left_to_hardware_is_completed_and_a_wrong_one_told() {
    let mut bytes = theirs(b"odd length");
    let right = bytes.clone();
    assert_eq!(Packet::<Ipv4Addr>::parse(&mut bytes).unwrap().check(), Integrity::Intact);
    let addresses = [SOURCE.octets(), GROUP.octets()].concat();
    let partial = pseudo_header_of(&addresses, UDP, 18).folded();
    bytes[26..28].copy_from_slice(&partial.to_be_bytes());
    assert_eq!(Packet::<Ipv4Addr>::parse(&mut bytes).unwrap().check(), Integrity::Completed);
    assert_eq!(bytes, right);
    bytes[26] ^= 0x40;
    assert_eq!(Packet::<Ipv4Addr>::parse(&mut bytes).unwrap().check(), Integrity::Damaged);
    bytes[26..28].fill(0);
    assert_eq!(
        Packet::<Ipv4Addr>::parse(&mut bytes).unwrap().check(),
        Integrity::Intact,
        "there is none"
    );
}

#[test]
fn what_is_no_whole_udp_packet_is_refused() {
    let good = theirs(b"payload");
    type Change = fn(&mut Vec<u8>);
    let changes: [Change; 7] = [
        |b| b.truncate(19),
        |b| b[0] = 0x44,
        |b| b[0] = 0x65,
        |b| b[9] = 6,
        |b| b[3] += 1,
        |b| b[25] = 7,
        |b| b[25] += 1,
    ];
    for (position, change) in changes.iter().enumerate() {
        let mut bytes = good.clone();
        change(&mut bytes);
        assert!(Packet::<Ipv4Addr>::parse(&mut bytes).is_none(), "{position}");
    }
    let mut padded = good;
    padded.extend_from_slice(&[0; 18]);
    assert_eq!(Packet::<Ipv4Addr>::parse(&mut padded).unwrap().len(), 35);
}

#[test]
fn a_datagram_handed_to_hardware_is_cut_into_whole_ones() {
    let payload: Vec<u8> = (0..2500).map(|n| n as u8).collect();
    let mut bytes = theirs(&payload);
    let mut segments = Vec::new();
    let packet = Packet::<Ipv4Addr>::parse(&mut bytes).unwrap();
    packet.segment(1000, |segment| segments.push(segment.bytes().to_vec()));
    assert!(segments.iter().all(|segment| is_right(segment)));
    let joined: Vec<u8> = segments.iter().flat_map(|s| udp(s).1.to_vec()).collect();
    assert_eq!((segments.len(), joined), (3, payload));
}

mod ipv6 {
    //! The same for IPv6.

    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    const SOURCE: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 5);
    const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);

    fn theirs(payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ipv6(SOURCE.octets(), GROUP.octets(), 7).udp(5000, 6000);
        builder.write(&mut bytes, payload).unwrap();
        bytes
    }

    fn is_right(bytes: &[u8]) -> bool {
        let packet = SlicedPacket::from_ip(bytes).unwrap();
        let (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Udp(udp))) =
            (packet.net, packet.transport)
        else {
            panic!("UDP over IPv6")
        };
        let header = ip.header().to_header();
        let right = udp.to_header().calc_checksum_ipv6(&header, udp.payload()).unwrap();
        udp.checksum() == right
    }

    #[test]
    fn a_built_packet_is_that_of_another_implementation() {
        for size in [0, 1, 2, 1432, 65507] {
            let payload: Vec<u8> = (0..size).map(|n| n as u8).collect();
            assert_eq!(
                build((SOURCE, 5000), (GROUP, 6000), 7, &payload),
                theirs(&payload),
                "{size}"
            );
        }
    }

    #[test]
    fn a_checksum_of_zero_is_wrong_and_one_left_to_hardware_is_completed() {
        let mut bytes = theirs(b"odd length");
        let right = bytes.clone();
        let check = |bytes: &mut [u8]| Packet::<Ipv6Addr>::parse(bytes).unwrap().check();
        assert_eq!(check(&mut bytes), Integrity::Intact);
        let addresses = [SOURCE.octets(), GROUP.octets()].concat();
        let partial = pseudo_header_of(&addresses, UDP, 18).folded();
        bytes[46..48].copy_from_slice(&partial.to_be_bytes());
        assert_eq!(check(&mut bytes), Integrity::Completed);
        assert_eq!(bytes, right);
        bytes[46..48].fill(0);
        assert_eq!(check(&mut bytes), Integrity::Damaged);
    }

    #[test]
    fn what_is_no_whole_udp_packet_is_refused() {
        type Change = fn(&mut Vec<u8>);
        let changes: [Change; 6] = [
            |b| b.truncate(39),
            |b| b[0] = 0x45,
            |b| b[6] = 6,
            |b| b[6] = 60,
            |b| b[5] += 1,
            |b| b[45] = 7,
        ];
        for (position, change) in changes.iter().enumerate() {
            let mut bytes = theirs(b"payload");
            change(&mut bytes);
            assert!(Packet::<Ipv6Addr>::parse(&mut bytes).is_none(), "{position}");
        }
    }

    proptest! {
        #[test]
        fn another_source_leaves_the_checksum_right(
            payload in prop::collection::vec(any::<u8>(), 0..200), source in any::<u128>(),
            port in any::<u16>(),
        ) {
            let mut bytes = theirs(&payload);
            let source = Ipv6Addr::from_bits(source);
            let mut packet = Packet::<Ipv6Addr>::parse(&mut bytes).unwrap();
            packet.set_source(source, port);
            prop_assert_eq!((packet.source(), packet.ports()), (source, Some((port, 6000))));
            prop_assert!(is_right(&bytes));
        }

        #[test]
        fn what_is_the_senders_stays(
            payload in prop::collection::vec(any::<u8>(), 0..3000), size in 0usize..2000,
        ) {
            check_relayed_packet(&theirs(&payload), size);
        }

        #[test]
        fn arbitrary_bytes_keep_what_is_the_senders(
            mut bytes in prop::collection::vec(any::<u8>(), 0..160), next in prop::sample::select(vec![17u8, 44]),
            mtu in 0usize..200,
        ) {
            if bytes.len() >= 48 {
                let length = bytes.len() as u16 - 40;
                bytes[0] = 0x60;
                bytes[4..6].copy_from_slice(&length.to_be_bytes());
                bytes[6] = next;
                bytes[40] = if next == 44 { 17 } else { bytes[40] };
            }
            check_relayed_packet(&bytes, mtu);
        }
    }
}

proptest! {
    #[test]
    fn another_source_leaves_the_checksum_right(
        payload in prop::collection::vec(any::<u8>(), 0..200), source in any::<[u8; 4]>(),
        port in any::<u16>(),
    ) {
        let mut bytes = theirs(&payload);
        let mut packet = Packet::<Ipv4Addr>::parse(&mut bytes).unwrap();
        packet.set_source(source.into(), port);
        prop_assert_eq!((packet.source(), packet.ports()), (source.into(), Some((port, 6000))));
        prop_assert!(is_right(&bytes));
    }

    #[test]
    fn what_is_the_senders_stays(
        payload in prop::collection::vec(any::<u8>(), 0..3000), size in 0usize..2000,
    ) {
        check_relayed_packet(&theirs(&payload), size);
    }

    #[test]
    fn fragments_make_the_datagram_again(size in 0usize..65507, mtu in 28usize..9000) {
        let payload: Vec<u8> = (0..size).map(|n| (n * 7) as u8).collect();
        let mut bytes = theirs(&payload);
        let whole = bytes[20..].to_vec();
        let mut fragments = Vec::new();
        let packet = Packet::<Ipv4Addr>::parse(&mut bytes).unwrap();
        packet.fragment(mtu, 0, |fragment| fragments.push(fragment.to_vec()));
        prop_assert!(fragments.iter().all(|f| f.len() <= mtu));
        prop_assert_eq!(reassemble(&fragments), whole.clone());
        // Once more, as a link with a smaller MTU would.
        let mut smaller = Vec::new();
        for fragment in &mut fragments {
            let packet = Packet::<Ipv4Addr>::parse(fragment).unwrap();
            packet.fragment(mtu / 2 + 14, 0, |part| smaller.push(part.to_vec()));
        }
        prop_assert_eq!(reassemble(&smaller), whole);
    }

    #[test]
    fn arbitrary_bytes_keep_what_is_the_senders(
        mut bytes in prop::collection::vec(any::<u8>(), 0..120), valid in any::<bool>(),
        mtu in 0usize..200,
    ) {
        if valid && bytes.len() >= 20 {
            let total = bytes.len() as u16;
            bytes[0] = 0x40 | (5 + bytes[0] % 4);
            bytes[2..4].copy_from_slice(&total.to_be_bytes());
            bytes[9] = UDP;
        }
        check_relayed_packet(&bytes, mtu);
    }
}
