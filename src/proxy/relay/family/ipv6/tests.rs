//! What is injected, against another implementation.

use etherparse::{Ipv6Header, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

use super::*;
use crate::proxy::relay::batch::Wire;

const SOURCE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 5);
const GROUP: Ipv6Addr = Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 1, 1);

/// A slot with a packet of this payload.
fn slot(payload: &[u8]) -> (Vec<u8>, usize) {
    let mut slot = vec![0xaa; Ipv6Addr::START];
    let builder = PacketBuilder::ipv6(SOURCE.octets(), GROUP.octets(), 7).udp(5000, 6000);
    builder.write(&mut slot, payload).unwrap();
    let length = slot.len() - Ipv6Addr::START;
    (slot, length)
}

#[test]
fn a_packet_travels_with_its_group_in_an_option() {
    let payload = [7; 100];
    let (mut slot, length) = slot(&payload);
    let whole = Ipv6Addr::make_injectable(&mut slot, length);
    assert_eq!(whole, slot.len());
    assert_eq!(Ipv6Addr::injected_group(&slot), Some(GROUP));
    let packet = SlicedPacket::from_ip(&slot).unwrap();
    let Some(NetSlice::Ipv6(ip)) = packet.net else { panic!("IPv6") };
    let header: Ipv6Header = ip.header().to_header();
    assert_eq!(
        (header.source, header.destination),
        (SOURCE.octets(), Ipv6Addr::INJECTED_TO.octets())
    );
    assert_eq!((header.hop_limit, usize::from(header.payload_length)), (7, whole - 40));
    let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("UDP") };
    assert_eq!(udp.payload(), payload);
    assert!(Ipv6Addr::make_injectable(&mut [0; 20], 20) <= 20, "no packet");
}

#[test]
fn parts_of_what_is_too_long_fit_and_have_their_group() {
    let payload: Vec<u8> = (0..5000).map(|n| n as u8).collect();
    let (mut slot, length) = slot(&payload);
    let whole = Ipv6Addr::make_injectable(&mut slot, length);
    let datagram = slot[INJECTED_HEADERS..whole].to_vec();
    for mtu in [1280, 1500, 4000] {
        let mut together = Vec::new();
        Ipv6Addr::split_injectable(&mut slot, mtu, 99, &mut |part| {
            assert!(part.len() <= mtu);
            assert_eq!(Ipv6Addr::injected_group(part), Some(GROUP));
            let packet = SlicedPacket::from_ip(part).unwrap();
            let Some(NetSlice::Ipv6(ip)) = packet.net else { panic!("IPv6") };
            assert!(ip.is_payload_fragmented());
            let data = INJECTED_HEADERS + FRAGMENT_HEADER;
            let field =
                u16::from_be_bytes([part[INJECTED_HEADERS + 2], part[INJECTED_HEADERS + 3]]);
            assert_eq!(usize::from(field & !7), together.len());
            together.extend_from_slice(&part[data..]);
            assert_eq!(field & 1 == 0, together.len() == datagram.len());
        });
        assert_eq!(together, datagram);
    }
    Ipv6Addr::split_injectable(&mut slot, 79, 99, &mut |_| panic!("no room"));
    Ipv6Addr::split_injectable(&mut [0; 30], 1500, 99, &mut |_| panic!("no packet"));
}

#[test]
fn the_header_is_made_of_what_a_socket_tells() {
    let namespace = crate::net::netns::NetNs::create().unwrap();
    namespace
        .run(|| {
            let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
            assert!(up.unwrap().success());
            let receiver = Ipv6Addr::open_receiver(&[SockFilter::new(
                (libc::BPF_RET | libc::BPF_K) as u16,
                0,
                0,
                u32::MAX,
            )])
            .unwrap();
            let sender = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
            sender.send_to(b"payload", (Ipv6Addr::LOCALHOST, 6000)).unwrap();
            let mut batch = crate::proxy::relay::batch::Batch::<Ipv6Addr>::new();
            let flow = crate::proxy::relay::batch::Flow::Inbound;
            assert_eq!(batch.receive(&receiver, flow, "eth0").unwrap(), 1);
            let bytes = &batch.open(0).0[Ipv6Addr::START..];
            let packet = SlicedPacket::from_ip(bytes).unwrap();
            let Some(NetSlice::Ipv6(ip)) = packet.net else { panic!("IPv6") };
            let own = Ipv6Addr::LOCALHOST;
            assert_eq!((ip.header().source_addr(), ip.header().destination_addr()), (own, own));
            assert_eq!(ip.header().hop_limit(), 64);
            let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("UDP") };
            assert_eq!((udp.destination_port(), udp.payload()), (6000, &b"payload"[..]));
        })
        .unwrap();
}
