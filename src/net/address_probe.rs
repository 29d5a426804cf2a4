//! Asks a LAN whether somebody has an address, before a container gets it (RFC 5227 §2.1, RFC 4862
//! §5.4).
//!
//! The question leaves from the parent, with the parent's MAC address, while the container's link is
//! made. So the answer is there, or the wait nearly over, when the link comes up. Switches learn no
//! address by it, and the answer reaches the host whatever kind of link the container gets: to a
//! question of an ipvlan link, which has the parent's MAC address and no other one, the answer would
//! come to the parent too. The sender's IP address is 0.0.0.0, so nobody changes a neighbour entry.
//!
//! RFC 5227 asks three times within 3 to 7 s, and the kernel waits 1 to 2 s for an IPv6 address. A
//! container's start cannot wait for that long, and a station of a wired LAN answers within a
//! millisecond: one question is sent, and the wait is short. To a question from `::` the answer goes to
//! all nodes.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use socket2::{Domain, SockFilter, Socket, Type};

use crate::net::arp_announcement::{arp_probe, bound_mac, link_address};
use crate::net::neighbour_discovery;
use crate::net::nfnetlink::receive;
use crate::primitives::MacAddr;
use crate::sys::background_close::close_in_background;
use crate::sys::sockopt;

/// How long an answer is waited for, from the question on.
pub const WINDOW: Duration = Duration::from_millis(5);
/// Frames that are read at most, whoever floods the LAN with ARP.
const MAX_FRAMES: usize = 10_000;
/// An ARP packet of IPv4 with its Ethernet header; what is behind it is padding.
const ARP_FRAME: usize = 42;
/// Of a packet that this host sends (linux/if_packet.h).
const PACKET_OUTGOING: u32 = 4;
/// Offsets among a filter's ancillary data (linux/filter.h).
const SKF_AD_PKTTYPE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE).cast_unsigned();
const SKF_AD_VLAN_TAG_PRESENT: u32 = (libc::SKF_AD_OFF + 48).cast_unsigned();

/// Who has an address already, or wants it at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict {
    /// The address.
    pub address: IpAddr,
    /// Index of the interface on whose LAN it is.
    pub link: u32,
    /// The station.
    pub mac: MacAddr,
}

/// A question whose answers are awaited.
#[derive(Debug)]
pub struct AddressProbe {
    links: Vec<ProbedLink>,
    until: Instant,
}

/// The LAN of one interface.
#[derive(Debug)]
struct ProbedLink {
    socket: Socket,
    index: u32,
    own: MacAddr,
    addresses: Vec<IpAddr>,
}

impl AddressProbe {
    /// Asks for addresses on the LANs of the host's interfaces of these indexes. The calling thread is
    /// in the host's namespace. `None`: there is nothing to ask, or nobody who would hear it, as on an
    /// interface without a carrier.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW, `ENODEV` for an index without an interface.
    pub fn send(asked: impl IntoIterator<Item = (u32, IpAddr)>) -> io::Result<Option<Self>> {
        let mut links: Vec<ProbedLink> = Vec::new();
        for (index, address) in asked {
            let at = match links.iter().position(|link| link.index == index) {
                Some(at) => at,
                None => {
                    links.push(ProbedLink::open(index)?);
                    links.len() - 1
                }
            };
            links[at].ask(index, address);
        }
        let until = Instant::now() + WINDOW;
        let (asked, unheard): (Vec<_>, Vec<_>) =
            links.into_iter().partition(|link| !link.addresses.is_empty());
        close(unheard);
        Ok((!asked.is_empty()).then_some(AddressProbe { links: asked, until }))
    }

    /// Waits until somebody answers, at most for the rest of 5 ms since the question.
    ///
    /// # Errors
    /// Those of recvfrom(2), such as `ENETDOWN`.
    pub fn wait(&self) -> io::Result<Option<Conflict>> {
        let mut buffer = [0; 128];
        let mut frames = 0;
        loop {
            // What came before the end of the window is read, also by whoever looks later.
            let is_over = Instant::now() >= self.until;
            for link in &self.links {
                while frames < MAX_FRAMES
                    && let Some(frame) = receive(link.socket.as_fd(), &mut buffer)?
                {
                    frames += 1;
                    if let Some((address, mac)) = link.conflict(frame) {
                        return Ok(Some(Conflict { address, link: link.index, mac }));
                    }
                }
            }
            if is_over || frames >= MAX_FRAMES {
                return Ok(None);
            }
            let mut awaited: Vec<_> = self
                .links
                .iter()
                .map(|l| PollFd::new(l.socket.as_fd(), PollFlags::POLLIN))
                .collect();
            let left = self.until.saturating_duration_since(Instant::now());
            let _ = ppoll(&mut awaited, Some(TimeSpec::from(left)), None);
        }
    }

    /// Ends it. It takes the kernel long to close its sockets.
    pub fn into_sockets(self) -> Vec<OwnedFd> {
        self.links.into_iter().map(|link| link.socket.into()).collect()
    }
}

fn close(links: Vec<ProbedLink>) {
    let sockets = links.into_iter().map(|link| OwnedFd::from(link.socket));
    close_in_background(sockets.collect());
}

impl ProbedLink {
    /// A socket that receives ARP and neighbour discovery only. It has the protocol `ETH_P_ALL`: a passthru link takes the
    /// frames of other sockets away from its parent.
    fn open(index: u32) -> io::Result<Self> {
        // Protocol 0: nothing is queued before the filter is there.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.attach_filter(&answers())?;
        sockopt::lock_filter(&socket)?;
        socket.set_nonblocking(true)?;
        socket.bind(&link_address(index, libc::ETH_P_ALL as u16))?;
        let own = bound_mac(&socket)?;
        Ok(ProbedLink { socket, index, own, addresses: Vec::new() })
    }

    /// What cannot be asked is not answered: an interface without a carrier sends nothing.
    fn ask(&mut self, index: u32, address: IpAddr) {
        let sent = match address {
            IpAddr::V4(address) => {
                let to = link_address(index, libc::ETH_P_ARP as u16);
                self.socket.send_to(&arp_probe(self.own, address), &to)
            }
            IpAddr::V6(address) => {
                // Where the host itself speaks no IPv6, its interface may drop the answer.
                for mac in neighbour_discovery::awaited_macs(address) {
                    let _ = sockopt::receive_mac(&self.socket, index, mac);
                }
                let to = link_address(index, libc::ETH_P_IPV6 as u16);
                self.socket.send_to(&neighbour_discovery::probe(self.own, address), &to)
            }
        };
        if sent.is_ok() {
            self.addresses.push(address);
        }
    }

    /// The address that a frame shows to be somebody else's, and who that is.
    fn conflict(&self, frame: &[u8]) -> Option<(IpAddr, MacAddr)> {
        let is_asked = |address: IpAddr| self.addresses.contains(&address);
        if let Some((address, mac)) = conflict(frame, self.own, |address| is_asked(address.into()))
        {
            return Some((address.into(), mac));
        }
        let found =
            neighbour_discovery::conflict(frame, self.own, |address| is_asked(address.into()));
        found.map(|(address, mac)| (address.into(), mac))
    }
}

/// The address that a frame shows to be somebody else's, and who that is (RFC 5227 §2.1.1): any ARP
/// packet from the address, or another station's question for it from no address.
pub fn conflict(
    frame: &[u8],
    own: MacAddr,
    is_asked: impl Fn(Ipv4Addr) -> bool,
) -> Option<(Ipv4Addr, MacAddr)> {
    let arp = frame.get(14..ARP_FRAME)?;
    // Ethernet and IPv4 with their lengths, then a request or a reply.
    if frame[12..14] != (libc::ETH_P_ARP as u16).to_be_bytes()
        || arp[..6] != [0, 1, 8, 0, 6, 4]
        || !matches!(arp[6..8], [0, 1 | 2])
    {
        return None;
    }
    let address = |at: usize| Ipv4Addr::new(arp[at], arp[at + 1], arp[at + 2], arp[at + 3]);
    let (mac, sender, target) = (MacAddr::from_slice(&arp[8..14])?, address(14), address(24));
    let wanted = match sender.is_unspecified() {
        true if arp[7] == 1 => target,
        _ => sender,
    };
    (mac != own && is_asked(wanted)).then_some((wanted, mac))
}

/// A socket filter that accepts ARP and neighbour discovery that arrive without a VLAN tag.
pub(crate) fn answers() -> [SockFilter; 13] {
    /// Offsets in a frame of IPv6: the next header, and the type of an ICMPv6 message.
    const NEXT_HEADER: u32 = 20;
    const TYPE: u32 = 54;
    let op = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    let (byte, half) =
        (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, libc::BPF_LD | libc::BPF_H | libc::BPF_ABS);
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let at_least = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
    [
        op(half, 0, 0, 12),
        op(equal, 5, 0, libc::ETH_P_ARP as u32),
        op(equal, 0, 9, libc::ETH_P_IPV6 as u32),
        op(byte, 0, 0, NEXT_HEADER),
        op(equal, 0, 7, libc::IPPROTO_ICMPV6 as u32),
        op(byte, 0, 0, TYPE),
        op(at_least, 0, 5, 135),
        op(byte, 0, 0, SKF_AD_VLAN_TAG_PRESENT),
        op(equal, 0, 3, 0),
        op(byte, 0, 0, SKF_AD_PKTTYPE),
        op(equal, 1, 0, PACKET_OUTGOING),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, neighbour_discovery::ANSWER_FRAME as u32),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ASKED: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 5), Ipv4Addr::new(192, 0, 2, 6)];

    fn mac(last: u8) -> MacAddr {
        format!("02:00:00:00:00:{last:02x}").parse().unwrap()
    }

    /// An ARP packet by etherparse.
    fn arp(reply: bool, from: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
        let operation =
            if reply { etherparse::ArpOperation::REPLY } else { etherparse::ArpOperation::REQUEST };
        let packet = etherparse::ArpPacket::new(
            etherparse::ArpHardwareId::ETHERNET,
            etherparse::EtherType::IPV4,
            operation,
            &mac(from).octets(),
            &sender,
            &[0; 6],
            &target,
        )
        .unwrap();
        let builder =
            etherparse::PacketBuilder::ethernet2(mac(from).octets(), [0xff; 6]).arp(packet);
        let mut frame = Vec::new();
        builder.write(&mut frame).unwrap();
        frame
    }

    #[test]
    fn who_has_an_address_and_who_wants_it_are_told_from_everybody_else() {
        let taken = Some((ASKED[1], mac(9)));
        for (frame, expected) in [
            (arp(true, 9, [192, 0, 2, 6], [0; 4]), taken),
            (arp(false, 9, [192, 0, 2, 6], [192, 0, 2, 1]), taken),
            (arp(false, 9, [0; 4], [192, 0, 2, 6]), taken),
            // Whoever asks from an address of its own only wants to reach it.
            (arp(false, 9, [192, 0, 2, 1], [192, 0, 2, 6]), None),
            (arp(true, 9, [192, 0, 2, 7], [192, 0, 2, 6]), None),
            // The question itself, come back.
            (arp(false, 1, [0; 4], [192, 0, 2, 6]), None),
        ] {
            assert_eq!(
                conflict(&frame, mac(1), |address| ASKED.contains(&address)),
                expected,
                "{frame:x?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_frame_is_a_surprise(
            frame in proptest::collection::vec(any::<u8>(), 0..100),
            length in 0usize..60,
        ) {
            let _ = conflict(&frame, mac(1), |address| ASKED.contains(&address));
            let whole = arp(true, 9, [192, 0, 2, 6], [0; 4]);
            let cut = &whole[..length.min(whole.len())];
            prop_assert_eq!(conflict(cut, mac(1), |address| ASKED.contains(&address)).is_some(), cut.len() >= ARP_FRAME);
        }
    }
}
