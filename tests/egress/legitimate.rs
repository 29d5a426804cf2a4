//! Frames that a container may send.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::attacks::ALL_NODES;
use super::{GATEWAY, GROUP, Named, OWN, OWN_V6, Station, packet};
use crate::lab::frames::{
    ARP, IPV4, IPV6, Ipv4, Mac, arp, ethernet, icmpv6, ipv6 as ipv6_packet, udp,
};

const BROADCAST: Mac = [0xff; 6];
const EVERYBODY: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 255);

pub(super) fn frames(station: &Station) -> Vec<Named> {
    let own = station.mac;
    let datagram = udp(5000, 5000, b"data");
    let data = |to| Ipv4 { payload: &datagram, ..packet(17, to) };
    // What would be the ports of a DHCP server and client in a first fragment.
    let ports = [0, 67, 0, 68, 0, 67, 0, 68];
    let discover = udp(68, 67, &[1, 1, 6, 0]);
    let of = |protocol, payload| station.ipv4(Ipv4 { payload, ..packet(protocol, GATEWAY) });
    vec![
        ("multicast", station.ipv4(data(GROUP))),
        ("link-local multicast", station.ipv4(data(Ipv4Addr::new(224, 0, 0, 251)))),
        ("unicast", station.ipv4(data(GATEWAY))),
        ("broadcast", ethernet(BROADCAST, own, IPV4, &data(EVERYBODY).bytes())),
        ("first fragment", station.ipv4(Ipv4 { fragment: 0x2000, ..data(GROUP) })),
        ("later fragment", {
            station.ipv4(Ipv4 { fragment: 0x2001, payload: &ports, ..packet(17, GROUP) })
        }),
        ("last fragment", {
            station.ipv4(Ipv4 { fragment: 0x0100, payload: &ports, ..packet(17, GROUP) })
        }),
        ("not to be fragmented", station.ipv4(Ipv4 { fragment: 0x4000, ..data(GATEWAY) })),
        ("TCP", of(6, &[0, 67, 0, 68, 0, 0, 0, 0])),
        ("ping", of(8 - 7, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0])),
        ("ping with a record of its route", {
            let options = [7, 7, 4, 0, 0, 0, 0, 0];
            let ping = [8, 0, 0xf7, 0xfe, 0, 0, 0, 1];
            station.ipv4(Ipv4 { options: &options, payload: &ping, ..packet(1, GATEWAY) })
        }),
        ("SCTP", of(132, &[0; 12])),
        ("ESP", of(50, &[0; 16])),
        ("GRE", of(47, &[0; 8])),
        ("UDP-Lite", of(136, &[0, 67, 0, 68, 0, 8, 0, 0])),
        ("DHCP discover", {
            let packet =
                Ipv4 { from: Ipv4Addr::UNSPECIFIED, payload: &discover, ..packet(17, EVERYBODY) };
            ethernet(BROADCAST, own, IPV4, &packet.bytes())
        }),
        ("DHCP request of one server", {
            station.ipv4(Ipv4 { payload: &discover, ..packet(17, GATEWAY) })
        }),
        ("ARP request", ethernet(BROADCAST, own, ARP, &arp(1, (own, OWN), GATEWAY))),
        ("ARP reply", ethernet(station.gateway, own, ARP, &arp(2, (own, OWN), GATEWAY))),
        ("gratuitous ARP", ethernet(BROADCAST, own, ARP, &arp(1, (own, OWN), OWN))),
        ("ARP probe", {
            ethernet(BROADCAST, own, ARP, &arp(1, (own, Ipv4Addr::UNSPECIFIED), OWN))
        }),
    ]
}

pub(super) fn ipv6(station: &Station) -> Vec<Named> {
    let own = station.mac;
    let all_nodes = [0x33, 0x33, 0, 0, 0, 1];
    let [a, b, c, d, e, f] = own;
    let local = Ipv6Addr::from(u128::from_be_bytes([
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        a ^ 2,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ]));
    let frame = |packet: &[u8]| ethernet(all_nodes, own, IPV6, packet);
    let message = |from, kind, body: &[u8]| {
        frame(&ipv6_packet(58, from, ALL_NODES, &icmpv6(kind, from, ALL_NODES, body)))
    };
    let about =
        |address: Ipv6Addr| [&[0x20, 0, 0, 0][..], &address.octets(), &[2, 1], &own].concat();
    let fragment = |offset: [u8; 2], next: u8, payload: &[u8]| {
        let header = [next, 0, offset[0], offset[1], 0, 0, 0, 7];
        frame(&ipv6_packet(44, OWN_V6, ALL_NODES, &[&header[..], payload].concat()))
    };
    let with = |next, payload: &[u8]| frame(&ipv6_packet(next, OWN_V6, ALL_NODES, payload));
    vec![
        ("IPv6 UDP", with(17, &udp(5000, 5000, b"data"))),
        ("IPv6 UDP from the link-local address", {
            frame(&ipv6_packet(17, local, ALL_NODES, &udp(5000, 5000, b"local")))
        }),
        ("IPv6 TCP", with(6, &[2, 0x23, 2, 0x22, 0, 0, 0, 0])),
        ("echo request", message(OWN_V6, 128, &[0; 4])),
        ("neighbour solicitation", message(OWN_V6, 135, &about(ALL_NODES))),
        ("duplicate address detection", message(Ipv6Addr::UNSPECIFIED, 135, &about(OWN_V6))),
        ("neighbour advertisement", message(OWN_V6, 136, &about(OWN_V6))),
        ("neighbour advertisement of the link-local address", message(local, 136, &about(local))),
        ("router solicitation", message(local, 133, &[0; 4])),
        ("DHCPv6 solicit", {
            frame(&ipv6_packet(17, local, ALL_NODES, &udp(546, 547, b"solicit")))
        }),
        ("IPv6 first fragment", fragment([0, 1], 17, &udp(5000, 5000, b"data"))),
        ("IPv6 later fragment", fragment([0, 8], 17, &[2, 0x23, 2, 0x22, 0, 0, 0, 0])),
        ("IPv6 later fragment of ICMP", fragment([0, 9], 58, &[134, 0, 0, 0, 0, 0, 0, 0])),
    ]
}
