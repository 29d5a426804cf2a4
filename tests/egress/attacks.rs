//! Frames that a container may not send.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{GATEWAY, GROUP, MARKER, Named, OWN, OWN_V6, Station, packet};
use crate::lab::frames::{
    ARP, IPV4, IPV6, Ipv4, Mac, arp, checksum, ethernet, icmpv6, ipv6 as ipv6_packet, mac,
    multicast_mac, udp,
};
use crate::lab::{HOST, Lab};

const BROADCAST: Mac = [0xff; 6];
/// The group address of bridges, and of LLDP and slow protocols (IEEE 802.1Q).
const BRIDGES: Mac = [0x01, 0x80, 0xc2, 0, 0, 0];
const NEAREST_BRIDGE: Mac = [0x01, 0x80, 0xc2, 0, 0, 0x0e];
const SLOW: Mac = [0x01, 0x80, 0xc2, 0, 0, 2];
/// RFC 2113.
const ROUTER_ALERT: [u8; 4] = [0x94, 4, 0, 0];
const MORE_FRAGMENTS: u16 = 0x2000;

const ALL_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);
const OSPF_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 5);
const PIM_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 13);
const VRRP_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
const IGMPV3_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);

pub(super) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const MLDV2_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// What passes no switch, router or DHCP client as a host's.
pub(super) fn frames(lab: &Lab, station: &Station) -> Vec<Named> {
    let own = station.mac;
    let host = mac(lab.host_mac());
    let plain = udp(9, 9, b"plain");
    let plain = Ipv4 { payload: &plain, ..packet(17, MARKER) }.bytes();
    let to = multicast_mac(MARKER);
    let tagged = |tags: &[u8]| [&to[..], &own, tags, &IPV4.to_be_bytes(), &plain].concat();
    let llc = |to, llc: &[u8], payload: &[u8]| {
        let length = (llc.len() + payload.len()) as u16;
        [&ethernet(to, own, length, llc), payload].concat()
    };
    let mut frames = vec![
        ("the host's MAC address", ethernet(to, host, IPV4, &plain)),
        ("a MAC address of nobody", ethernet(to, [2, 0, 0, 0, 0, 9], IPV4, &plain)),
        ("a multicast MAC address", ethernet(to, [3, 0, 0, 0, 0, 9], IPV4, &plain)),
        ("802.1Q", tagged(&[0x81, 0, 0, 5])),
        ("802.1Q with a priority only", tagged(&[0x81, 0, 0xe0, 0])),
        ("802.1ad", tagged(&[0x88, 0xa8, 0, 5])),
        ("QinQ", tagged(&[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6])),
        ("two 802.1Q tags", tagged(&[0x81, 0, 0, 5, 0x81, 0, 0, 6])),
        ("BPDU", llc(BRIDGES, &[0x42, 0x42, 3], &[0; 35])),
        ("BPDU of rapid spanning tree", llc(BRIDGES, &[0x42, 0x42, 3], &[0, 0, 2, 2, 0x3c])),
        ("SNAP with IPv4", llc(to, &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0], &plain)),
        ("SNAP with a discovery protocol", {
            let to = [1, 0, 0x0c, 0xcc, 0xcc, 0xcc];
            llc(to, &[0xaa, 0xaa, 3, 0, 0, 0x0c, 0x20, 0], &[2, 180, 0, 0])
        }),
        ("LLC with another service", llc(BROADCAST, &[0xf0, 0xf0, 3], b"netbeui")),
        ("LLDP", ethernet(NEAREST_BRIDGE, own, 0x88cc, &[2, 7, 4, 0, 0, 0, 0, 0, 9, 0, 0])),
        ("slow protocols", ethernet(SLOW, own, 0x8809, &[1, 1, 1, 20])),
        ("pause", ethernet([1, 0x80, 0xc2, 0, 0, 1], own, 0x8808, &[0, 1, 0xff, 0xff])),
        ("802.1X", ethernet([1, 0x80, 0xc2, 0, 0, 3], own, 0x888e, &[1, 1, 0, 0])),
        ("MVRP", ethernet([1, 0x80, 0xc2, 0, 0, 0x21], own, 0x88f5, &[0, 1, 2, 0, 0])),
        ("MPLS", ethernet(station.gateway, own, 0x8847, &[0, 1, 1, 255, 0x45])),
        ("PPPoE", ethernet(BROADCAST, own, 0x8863, &[0x11, 9, 0, 0, 0, 0])),
        ("RARP", ethernet(BROADCAST, own, 0x8035, &arp(3, (own, OWN), OWN))),
        ("ARP behind a tag", {
            let arp = arp(1, (own, OWN), GATEWAY);
            [&BROADCAST[..], &own, &[0x81, 0, 0, 5, 8, 6], &arp].concat()
        }),
        ("ARP of another sender MAC", ethernet(BROADCAST, own, ARP, &arp(1, (host, OWN), GATEWAY))),
        ("ARP from another MAC", ethernet(BROADCAST, host, ARP, &arp(1, (own, OWN), GATEWAY))),
        ("ARP of another kind of hardware", {
            let mut packet = arp(1, (own, OWN), GATEWAY);
            packet[1] = 6;
            ethernet(BROADCAST, own, ARP, &packet)
        }),
        ("ARP with shorter addresses", {
            ethernet(BROADCAST, own, ARP, &[0, 1, 8, 0, 2, 4, 0, 1, 1, 1, 10, 99, 0, 1, 2, 2, 0, 0])
        }),
    ];
    frames.extend(pim(station));
    frames.extend(routing(station));
    frames.extend(dhcp(station));
    frames
}

/// PIM version 2, type hello, option holdtime (RFC 7761 §4.9.2).
pub(super) fn pim(station: &Station) -> Vec<Named> {
    let mut hello = [0x20, 0, 0, 0, 0, 1, 0, 2, 0, 105];
    let sum = checksum(&hello);
    hello[2..4].copy_from_slice(&sum.to_be_bytes());
    let plain = Ipv4 { payload: &hello, ..packet(103, PIM_ROUTERS) };
    vec![
        ("PIM hello", station.ipv4(plain)),
        ("PIM hello with an option", station.ipv4(Ipv4 { options: &ROUTER_ALERT, ..plain })),
        ("PIM hello, first fragment", station.ipv4(Ipv4 { fragment: MORE_FRAGMENTS, ..plain })),
        ("PIM, a later fragment", station.ipv4(Ipv4 { fragment: 1, ..plain })),
        ("PIM hello to the gateway", station.ipv4(Ipv4 { to: GATEWAY, ..plain })),
    ]
}

fn routing(station: &Station) -> Vec<Named> {
    let of = |protocol, to| station.ipv4(Ipv4 { payload: &[0; 24], ..packet(protocol, to) });
    let inner = Ipv4 { options: &ROUTER_ALERT, payload: &LEAVE, ..packet(2, ALL_ROUTERS) }.bytes();
    vec![
        ("EIGRP", of(88, Ipv4Addr::new(224, 0, 0, 10))),
        ("OSPF", of(89, OSPF_ROUTERS)),
        ("VRRP", of(112, VRRP_ROUTERS)),
        ("IGMP in IP in IP", { station.ipv4(Ipv4 { payload: &inner, ..packet(4, ALL_ROUTERS) }) }),
        ("MLD in IPv6 in IPv4", {
            let report = mld_report();
            let inner = hop_by_hop(58, OWN_V6, MLDV2_ROUTERS, &report);
            station.ipv4(Ipv4 { payload: &inner, ..packet(41, GATEWAY) })
        }),
    ]
}

fn dhcp(station: &Station) -> Vec<Named> {
    let offer = [0u8; 240];
    let (ordinary, other) = (udp(67, 68, &offer), udp(1067, 68, &offer));
    let (to_relay, unused) = (udp(67, 67, &offer), Ipv4Addr::new(255, 255, 255, 255));
    let to = |datagram, to| Ipv4 { payload: datagram, ..packet(17, to) };
    let broadcast = |packet: Ipv4<'_>| ethernet(BROADCAST, station.mac, IPV4, &packet.bytes());
    vec![
        ("DHCP offer", broadcast(to(&ordinary, unused))),
        ("DHCP offer to one station", station.ipv4(to(&ordinary, GATEWAY))),
        ("DHCP offer from another port", broadcast(to(&other, unused))),
        ("DHCP answer to a relay", station.ipv4(to(&to_relay, GATEWAY))),
        ("DHCP offer behind IP options", {
            broadcast(Ipv4 { options: &[1, 1, 1, 0], ..to(&ordinary, unused) })
        }),
        ("DHCP offer, first fragment", {
            broadcast(Ipv4 { fragment: MORE_FRAGMENTS, ..to(&ordinary, unused) })
        }),
    ]
}

/// A version 2 leave of the group.
const LEAVE: [u8; 8] = [0x17, 0, 0xf1, 0xf6, 239, 7, 1, 1];

/// IGMP of each type, in each wrapping.
pub(super) fn igmp(station: &Station) -> Vec<Named> {
    let message = |kind: u8, rest: &[u8]| {
        let mut bytes = [&[kind, 0, 0, 0][..], &GROUP.octets(), rest].concat();
        let sum = checksum(&bytes);
        bytes[2..4].copy_from_slice(&sum.to_be_bytes());
        bytes
    };
    let (query, report) = (message(0x11, &[2, 20, 0, 0]), message(0x16, &[]));
    let (leave, discovery) = (message(0x17, &[]), message(0x30, &[]));
    let record = [0x22, 0, 0, 0, 0, 0, 0, 1, 3, 0, 0, 0, 239, 7, 1, 1];
    let all_snoopers = Ipv4Addr::new(224, 0, 0, 106);
    let alert = |payload, to| Ipv4 { options: &ROUTER_ALERT, payload, ..packet(2, to) };
    let tag = |tags: &[u8]| {
        let to = multicast_mac(ALL_ROUTERS);
        let packet = alert(&leave, ALL_ROUTERS).bytes();
        [&to[..], &station.mac, tags, &IPV4.to_be_bytes(), &packet].concat()
    };
    vec![
        ("query", station.ipv4(alert(&query, Ipv4Addr::new(224, 0, 0, 1)))),
        ("report", station.ipv4(alert(&report, GROUP))),
        ("report without an option", station.ipv4(Ipv4 { options: &[], ..alert(&report, GROUP) })),
        ("leave", station.ipv4(alert(&leave, ALL_ROUTERS))),
        ("leave to the gateway", station.ipv4(alert(&leave, GATEWAY))),
        ("leave in the host's name", {
            station.ipv4(Ipv4 { from: HOST, ..alert(&leave, ALL_ROUTERS) })
        }),
        ("version 3 report", station.ipv4(alert(&record, IGMPV3_ROUTERS))),
        ("router discovery", station.ipv4(alert(&discovery, all_snoopers))),
        ("first fragment", {
            station.ipv4(Ipv4 { fragment: MORE_FRAGMENTS, ..alert(&leave, ALL_ROUTERS) })
        }),
        ("later fragment", station.ipv4(Ipv4 { fragment: 1, ..alert(&leave, ALL_ROUTERS) })),
        ("behind a tag", tag(&[0x81, 0, 0, 5])),
        ("behind a service tag", tag(&[0x88, 0xa8, 0, 5])),
    ]
}

/// IPv4 from addresses of others; what they are caught by needs `ip=`.
pub(super) fn foreign_addresses(lab: &Lab, station: &Station) -> Vec<Named> {
    let own = station.mac;
    let datagram = udp(9, 9, b"foreign");
    let from = |from, to| station.ipv4(Ipv4 { from, payload: &datagram, ..packet(17, to) });
    let gateway = mac(lab.host_mac());
    let reply = |sender| {
        let mut reply = arp(2, (own, sender), HOST);
        reply[18..24].copy_from_slice(&gateway);
        ethernet(gateway, own, ARP, &reply)
    };
    vec![
        ("from the gateway", from(GATEWAY, GROUP)),
        ("from the host", from(HOST, GATEWAY)),
        ("from a neighbour", from(Ipv4Addr::new(10, 99, 0, 12), GROUP)),
        ("ICMP redirect from the gateway", {
            let redirect = [5, 1, 0, 0, 10, 99, 0, 11];
            station.ipv4(Ipv4 { from: GATEWAY, payload: &redirect, ..packet(1, HOST) })
        }),
        ("ARP reply for the gateway", reply(GATEWAY)),
        ("ARP reply for a neighbour", reply(Ipv4Addr::new(10, 99, 0, 12))),
        ("gratuitous ARP for the host", {
            ethernet(BROADCAST, own, ARP, &arp(1, (own, HOST), HOST))
        }),
        ("gratuitous ARP reply for the gateway", {
            ethernet(BROADCAST, own, ARP, &arp(2, (own, GATEWAY), GATEWAY))
        }),
    ]
}

/// IPv6 at all.
pub(super) fn ipv6(station: &Station) -> Vec<Named> {
    let mut frames = ipv6_of_routers(station);
    frames.extend(super::legitimate::ipv6(station));
    frames
}

/// A version 2 report that includes nothing of a group: a leave.
fn mld_report() -> Vec<u8> {
    let group: Ipv6Addr = "ff3e::7:1".parse().expect("an address");
    let record = [&[0, 0, 0, 1, 3, 0, 0, 0][..], &group.octets()].concat();
    icmpv6(143, OWN_V6, MLDV2_ROUTERS, &record)
}

/// A packet with the router alert option of RFC 2711.
fn hop_by_hop(next: u8, from: Ipv6Addr, to: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let header = [next, 0, 5, 2, 0, 0, 1, 0];
    ipv6_packet(0, from, to, &[&header[..], payload].concat())
}

/// IPv6 of routers, DHCP servers and others; with the container's own address unless it says so.
pub(super) fn ipv6_of_routers(station: &Station) -> Vec<Named> {
    let own = station.mac;
    let all_nodes = [0x33, 0x33, 0, 0, 0, 1];
    let frame = |packet: &[u8]| ethernet(all_nodes, own, IPV6, packet);
    let message = |kind, to, body: &[u8]| icmpv6(kind, OWN_V6, to, body);
    let plain = |payload: &[u8], next| ipv6_packet(next, OWN_V6, ALL_NODES, payload);
    let query = message(130, ALL_NODES, &[0; 24]);
    let report = mld_report();
    let router = message(134, ALL_NODES, &[64, 0, 0, 30, 0, 0, 0, 0, 0, 0, 0, 0]);
    let redirect = message(137, ALL_NODES, &[0; 36]);
    let discovery = message(151, ALL_NODES, &[20, 0, 0, 0]);
    // Of the router, to its own MAC address.
    let body = [&[0x20, 0, 0, 0][..], &ROUTER_V6.octets(), &[2, 1], &own].concat();
    let neighbour = message(136, ALL_NODES, &body);
    let fragment = |next: u8, offset: u16, payload: &[u8]| {
        let [high, low] = offset.to_be_bytes();
        plain(&[&[next, 0, high, low, 0, 0, 0, 7][..], payload].concat(), 44)
    };
    let options = |next: u8, payload: &[u8]| [&[next, 0, 1, 4, 0, 0, 0, 0][..], payload].concat();
    let (answer, other) = (udp(547, 546, b"advertise"), udp(1547, 546, b"advertise"));
    vec![
        ("MLD query", frame(&hop_by_hop(58, OWN_V6, ALL_NODES, &query))),
        ("MLD query without an option", frame(&plain(&query, 58))),
        ("MLD version 2 report", frame(&hop_by_hop(58, OWN_V6, MLDV2_ROUTERS, &report))),
        ("MLD version 2 report without an option", {
            frame(&ipv6_packet(58, OWN_V6, MLDV2_ROUTERS, &report))
        }),
        ("MLD behind destination options", frame(&plain(&options(58, &report), 60))),
        ("MLD behind a routing header", frame(&plain(&options(58, &report), 43))),
        ("MLD behind two headers", {
            let inner = options(58, &report);
            frame(&hop_by_hop(60, OWN_V6, ALL_NODES, &inner))
        }),
        ("MLD in a fragment", frame(&fragment(58, 0, &report))),
        ("MLD in a first fragment", frame(&fragment(58, 1, &report))),
        ("MLD behind options in a fragment", frame(&fragment(60, 0, &options(58, &report)))),
        ("MLD behind an authentication header", frame(&plain(&options(58, &report), 51))),
        ("IGMP in IPv6", frame(&plain(&LEAVE, 2))),
        ("IPv6 in IPv6", frame(&plain(&plain(&report, 58), 41))),
        ("router advertisement", frame(&plain(&router, 58))),
        ("router advertisement in a fragment", frame(&fragment(58, 0, &router))),
        ("router advertisement with a hop-by-hop header", {
            frame(&hop_by_hop(58, OWN_V6, ALL_NODES, &router))
        }),
        ("redirect", frame(&plain(&redirect, 58))),
        ("multicast router discovery", frame(&plain(&discovery, 58))),
        ("neighbour advertisement for the router", frame(&plain(&neighbour, 58))),
        ("neighbour advertisement in a fragment", frame(&fragment(58, 0, &neighbour))),
        ("from the router", {
            frame(&ipv6_packet(17, ROUTER_V6, ALL_NODES, &udp(9, 9, b"router")))
        }),
        ("from another link-local address", {
            let from = "fe80::1".parse().expect("an address");
            frame(&ipv6_packet(17, from, ALL_NODES, &udp(9, 9, b"router")))
        }),
        ("PIM", frame(&plain(&[0x20, 0, 0, 0, 0, 1, 0, 2, 0, 105], 103))),
        ("OSPF", frame(&plain(&[3, 1, 0, 16], 89))),
        ("VRRP", frame(&plain(&[0x31, 1, 100, 1], 112))),
        ("DHCPv6 answer", frame(&plain(&answer, 17))),
        ("DHCPv6 answer from another port", frame(&plain(&other, 17))),
        ("DHCPv6 answer in a fragment", frame(&fragment(17, 1, &answer))),
        ("IPv6 from the host's MAC", {
            let packet = plain(&udp(9, 9, b"host"), 17);
            ethernet(all_nodes, [2, 0, 0, 0, 0, 9], IPV6, &packet)
        }),
        ("IPv6 behind a tag", {
            let packet = plain(&udp(9, 9, b"tag"), 17);
            [&all_nodes[..], &own, &[0x81, 0, 0, 5, 0x86, 0xdd], &packet].concat()
        }),
    ]
}
