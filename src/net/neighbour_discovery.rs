//! Messages of neighbour discovery (RFC 4861) that mcrun sends and reads itself.

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::primitives::MacAddr;
use crate::primitives::internet_checksum::Sum;

const ROUTER_SOLICITATION: u8 = 133;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_LAYER_ADDRESS: u8 = 1;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
/// All nodes, and all routers of the link (RFC 4291 §2.7.1).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// What every message of neighbour discovery has (RFC 4861 §7.1).
const HOP_LIMIT: u8 = 255;

/// Offsets in an Ethernet frame of IPv6.
const ETHERTYPE: usize = 12;
const IPV6: usize = 14;
const MESSAGE: usize = IPV6 + 40;
const TARGET: usize = MESSAGE + 8;
const OPTIONS: usize = TARGET + 16;
/// Bytes of an answer with the usual option.
pub const ANSWER_FRAME: usize = OPTIONS + 8;

/// The first bytes of the MAC address of an IPv6 group (RFC 2464 §7), and its last ones.
fn multicast_mac(group: Ipv6Addr) -> [u8; 6] {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

/// The group in which whoever has an address hears questions for it (RFC 4291 §2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

/// The MAC addresses to which answers to a [`probe`] go, and questions of others that probe at the
/// same time.
pub fn awaited_macs(address: Ipv6Addr) -> [[u8; 6]; 2] {
    [ALL_NODES, solicited_node(address)].map(multicast_mac)
}

/// A question whose an address is, from no address (RFC 4862 §5.4.2), with its Ethernet header. Nobody
/// learns anything from it.
pub fn probe(mac: MacAddr, address: Ipv6Addr) -> Vec<u8> {
    let mut message = [0; TARGET - MESSAGE + 16];
    message[0] = NEIGHBOUR_SOLICITATION;
    message[TARGET - MESSAGE..].copy_from_slice(&address.octets());
    frame(mac, Ipv6Addr::UNSPECIFIED, solicited_node(address), &message)
}

/// The frame of an unsolicited neighbour advertisement to all nodes (RFC 4861 §7.2.6), for who has no
/// other socket than one of packets.
pub fn advertisement_frame(mac: MacAddr, address: Ipv6Addr) -> Vec<u8> {
    frame(mac, address, ALL_NODES, &advertisement(address, mac))
}

/// A message of ICMPv6 without its checksum, in a frame to a group of the link.
fn frame(mac: MacAddr, from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    // A message is shorter than 100 bytes.
    let length = message.len() as u16;
    let mut frame = vec![0; MESSAGE];
    frame[..6].copy_from_slice(&multicast_mac(to));
    frame[6..12].copy_from_slice(&mac.octets());
    frame[ETHERTYPE..IPV6].copy_from_slice(&(libc::ETH_P_IPV6 as u16).to_be_bytes());
    frame[IPV6] = 0x60;
    frame[IPV6 + 4..IPV6 + 6].copy_from_slice(&length.to_be_bytes());
    frame[IPV6 + 6] = libc::IPPROTO_ICMPV6 as u8;
    frame[IPV6 + 7] = HOP_LIMIT;
    frame[IPV6 + 8..IPV6 + 24].copy_from_slice(&from.octets());
    frame[IPV6 + 24..].copy_from_slice(&to.octets());
    frame.extend(message);
    // Addresses, then length and next header, then the message (RFC 8200 §8.1).
    let mut sum = Sum::of(&frame[IPV6 + 8..]);
    let [high, low] = length.to_be_bytes();
    sum.add(Sum::of(&[high, low, 0, libc::IPPROTO_ICMPV6 as u8]));
    frame[MESSAGE + 2..MESSAGE + 4].copy_from_slice(&(!sum.folded()).to_be_bytes());
    frame
}

/// The address that a frame shows to be somebody else's, and who that is (RFC 4862 §5.4.3 and §5.4.4):
/// an advertisement of the address, or another station's question for it from no address.
pub fn conflict(
    frame: &[u8],
    own: MacAddr,
    is_asked: impl Fn(Ipv6Addr) -> bool,
) -> Option<(Ipv6Addr, MacAddr)> {
    let address = |at: usize| frame.get(at..at + 16)?.try_into().ok().map(<[u8; 16]>::into);
    let target: Ipv6Addr = address(TARGET)?;
    let source: Ipv6Addr = address(IPV6 + 8)?;
    let is_message = frame[ETHERTYPE..IPV6] == (libc::ETH_P_IPV6 as u16).to_be_bytes()
        && frame[IPV6 + 6] == libc::IPPROTO_ICMPV6 as u8
        && frame[IPV6 + 7] == HOP_LIMIT
        && frame[MESSAGE + 1] == 0;
    let sender = MacAddr::from_slice(&frame[6..12])?;
    if !is_message || sender == own || !is_asked(target) {
        return None;
    }
    match frame[MESSAGE] {
        NEIGHBOUR_SOLICITATION if source.is_unspecified() => Some((target, sender)),
        NEIGHBOUR_ADVERTISEMENT => {
            // A router may answer for somebody else.
            let named = match frame.get(OPTIONS..ANSWER_FRAME) {
                Some([TARGET_LINK_LAYER_ADDRESS, 1, mac @ ..]) => MacAddr::from_slice(mac),
                _ => None,
            };
            Some((target, named.unwrap_or(sender)))
        }
        _ => None,
    }
}

/// The advertisement: the override flag, the address, and the target link-layer address option. The
/// kernel fills in the checksum of an ICMPv6 raw socket (RFC 3542 §3.1).
fn advertisement(address: Ipv6Addr, mac: MacAddr) -> [u8; 32] {
    const OVERRIDE: u8 = 0x20;
    let mut message = [0; 32];
    message[0] = NEIGHBOUR_ADVERTISEMENT;
    message[4] = OVERRIDE;
    message[8..24].copy_from_slice(&address.octets());
    message[24] = TARGET_LINK_LAYER_ADDRESS;
    message[25] = 1;
    message[26..32].copy_from_slice(&mac.octets());
    message
}

/// The solicitation, with the source link-layer address option (RFC 4861 §4.1).
fn solicitation(mac: MacAddr) -> [u8; 16] {
    let mut message = [0; 16];
    message[0] = ROUTER_SOLICITATION;
    message[8] = SOURCE_LINK_LAYER_ADDRESS;
    message[9] = 1;
    message[10..].copy_from_slice(&mac.octets());
    message
}

/// Sends one unsolicited neighbour advertisement to all nodes, in the calling thread's namespace
/// (RFC 4861 §7.2.6). For an address without duplicate detection the kernel sends none
/// (`addrconf_dad_begin` in net/ipv6/addrconf.c).
///
/// # Errors
/// Those of socket(2) and sendto(2).
pub fn advertise(index: u32, address: Ipv6Addr, mac: MacAddr) -> io::Result<()> {
    send(index, address, ALL_NODES, &advertisement(address, mac))
}

/// Asks the routers of the link for an advertisement, from a link-local address, in the calling thread's
/// namespace. For an address that was added while the link was down the kernel asks only 4 s later
/// (`addrconf_dad_completed` in net/ipv6/addrconf.c).
///
/// # Errors
/// Those of socket(2) and sendto(2).
pub fn solicit_routers(index: u32, mac: MacAddr) -> io::Result<()> {
    send(index, mac.link_local_address(), ALL_ROUTERS, &solicitation(mac))
}

fn send(index: u32, from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_multicast_if_v6(index)?;
    socket.set_multicast_hops_v6(HOP_LIMIT.into())?;
    socket.set_multicast_loop_v6(false)?;
    let scope = if from.is_unicast_link_local() { index } else { 0 };
    socket.bind(&SockAddr::from(SocketAddrV6::new(from, 0, 0, scope)))?;
    let target = SockAddr::from(SocketAddrV6::new(to, 0, 0, index));
    socket.send_to(message, &target).map(drop)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ASKED: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0x12, 0x34, 0x5678);

    fn mac(last: u8) -> MacAddr {
        format!("02:00:00:00:00:{last:02x}").parse().unwrap()
    }

    /// A message by etherparse, from this station and this address.
    fn frame(kind: u8, from: u8, source: Ipv6Addr, target: Ipv6Addr, options: &[u8]) -> Vec<u8> {
        let body = [&target.octets()[..], options].concat();
        let builder = etherparse::PacketBuilder::ethernet2(mac(from).octets(), [0x33; 6])
            .ipv6(source.octets(), ALL_NODES.octets(), 255)
            .icmpv6_raw(kind, 0, [0; 4]);
        let mut frame = Vec::new();
        builder.write(&mut frame, &body).unwrap();
        frame
    }

    #[test]
    fn etherparse_reads_the_probe() {
        let frame = probe(mac(1), ASKED);
        let packet = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(etherparse::NetSlice::Ipv6(ip)) = &packet.net else { panic!("{packet:?}") };
        assert_eq!(ip.header().source_addr(), Ipv6Addr::UNSPECIFIED);
        let group: Ipv6Addr = "ff02::1:ff34:5678".parse().unwrap();
        assert_eq!(ip.header().destination_addr(), group);
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x34, 0x56, 0x78]);
        let Some(etherparse::TransportSlice::Icmpv6(icmp)) = packet.transport else {
            panic!("no ICMPv6")
        };
        assert_eq!((icmp.type_u8(), icmp.code_u8()), (135, 0));
        let unspecified = Ipv6Addr::UNSPECIFIED.octets();
        assert!(icmp.is_checksum_valid(unspecified, group.octets()));
        assert_eq!(awaited_macs(ASKED)[1], frame[..6]);
        // Of another station it is a conflict, and of this one it is not.
        assert_eq!(conflict(&frame, mac(2), |address| address == ASKED), Some((ASKED, mac(1))));
        assert_eq!(conflict(&frame, mac(1), |address| address == ASKED), None);
    }

    #[test]
    fn etherparse_reads_the_frame_of_an_advertisement() {
        let frame = advertisement_frame(mac(1), ASKED);
        let packet = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(etherparse::NetSlice::Ipv6(ip)) = &packet.net else { panic!("{packet:?}") };
        assert_eq!(ip.header().source_addr(), ASKED);
        assert_eq!(ip.header().destination_addr(), ALL_NODES);
        assert_eq!((ip.header().hop_limit(), &frame[..6]), (255, &[0x33, 0x33, 0, 0, 0, 1][..]));
        let Some(etherparse::TransportSlice::Icmpv6(icmp)) = packet.transport else {
            panic!("no ICMPv6")
        };
        assert_eq!((icmp.type_u8(), icmp.code_u8()), (136, 0));
        assert!(icmp.is_checksum_valid(ASKED.octets(), ALL_NODES.octets()));
        // Whoever asks for the address at that moment knows that it is taken.
        assert_eq!(conflict(&frame, mac(2), |address| address == ASKED), Some((ASKED, mac(1))));
    }

    #[test]
    fn who_has_an_address_and_who_wants_it_are_told_from_everybody_else() {
        let other: Ipv6Addr = "2001:db8::9".parse().unwrap();
        let none = Ipv6Addr::UNSPECIFIED;
        let named = [&[2, 1][..], &mac(7).octets()].concat();
        for (frame, expected) in [
            (frame(136, 9, ASKED, ASKED, &[]), Some(mac(9))),
            (frame(136, 9, other, ASKED, &named), Some(mac(7))),
            (frame(135, 9, none, ASKED, &[]), Some(mac(9))),
            // Who asks from an address of its own only wants to reach it.
            (frame(135, 9, other, ASKED, &[]), None),
            (frame(136, 9, ASKED, other, &[]), None),
            (frame(134, 9, other, ASKED, &[]), None),
            (frame(136, 1, ASKED, ASKED, &[]), None),
        ] {
            let found = conflict(&frame, mac(1), |address| address == ASKED);
            assert_eq!(found, expected.map(|mac| (ASKED, mac)), "{frame:x?}");
        }
    }

    #[test]
    fn etherparse_reads_what_is_sent_by_a_socket() {
        let bytes = advertisement(ASKED, mac(7));
        let packet = etherparse::Icmpv6Slice::from_slice(&bytes).unwrap();
        assert_eq!((packet.type_u8(), packet.code_u8()), (136, 0));
        assert_eq!(&bytes[8..24], &ASKED.octets());
        assert_eq!(&bytes[24..], [2, 1, 2, 0, 0, 0, 0, 7]);
        let bytes = solicitation(mac(7));
        let packet = etherparse::Icmpv6Slice::from_slice(&bytes).unwrap();
        assert_eq!((packet.type_u8(), packet.code_u8()), (133, 0));
        assert_eq!(&bytes[8..], [1, 1, 2, 0, 0, 0, 0, 7]);
    }

    proptest! {
        #[test]
        fn no_frame_is_a_surprise(
            frame in proptest::collection::vec(any::<u8>(), 0..120),
            length in 0usize..100,
        ) {
            let _ = conflict(&frame, mac(1), |_| true);
            let whole = self::frame(136, 9, ASKED, ASKED, &[]);
            let cut = &whole[..length.min(whole.len())];
            prop_assert_eq!(conflict(cut, mac(1), |_| true).is_some(), cut.len() >= OPTIONS);
        }
    }
}
