//! What is heard on an interface for some time. Nothing is joined. What is sent asks whose some addresses
//! are, from no address (RFC 5227 §2.1.1), so that nobody learns anything from it.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use socket2::{Domain, SockFilter, Socket, Type};

use crate::doctor::facts::Arrivals;
use crate::igmp::Protocol;
use crate::mld::Mld;
use crate::net::arp_announcement::{arp_probe, link_address};
use crate::net::nfnetlink::receive;
use crate::primitives::MacAddr;
use crate::proxy::{parse_mld_query, parse_query};
use crate::sys::sockopt;

/// Frames that are read at most; a stream of 1 Gbit/s has 90 000 a second.
const MAX_FRAMES: usize = 500_000;
/// Sources and ports of a group that are remembered at most.
const MAX_SENDERS: usize = 16;
/// Groups that are remembered at most.
const MAX_GROUPS: usize = 1024;
const ETHERNET: usize = 14;
/// Of a packet that this host sends (linux/if_packet.h).
const PACKET_OUTGOING: u32 = 4;
/// Offsets among a filter's ancillary data (linux/filter.h).
const SKF_AD_PKTTYPE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE).cast_unsigned();
const SKF_AD_VLAN_TAG_PRESENT: u32 = (libc::SKF_AD_OFF + 48).cast_unsigned();

/// What was heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// General and specific queries: who asks, in which version.
    pub(super) queriers: BTreeMap<IpAddr, u8>,
    /// UDP by group.
    pub(super) groups: BTreeMap<Ipv4Addr, Arrivals>,
    /// Senders of ARP.
    pub(super) stations: BTreeMap<Ipv4Addr, Vec<MacAddr>>,
}

/// Listens on the interface of this index until then, and asks first whose the addresses are.
///
/// # Errors
/// `EPERM` without CAP_NET_RAW.
pub(super) fn listen(
    index: u32,
    own: Option<MacAddr>,
    addresses: &[Ipv4Addr],
    until: Instant,
) -> io::Result<Heard> {
    // Protocol 0: nothing is queued before the filter is there.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    socket.attach_filter(&what_is_looked_at())?;
    sockopt::lock_filter(&socket)?;
    socket.set_nonblocking(true)?;
    socket.bind(&link_address(index, libc::ETH_P_ALL as u16))?;
    if let Some(own) = own {
        let to = link_address(index, libc::ETH_P_ARP as u16);
        for address in addresses {
            // What cannot be asked is not answered.
            let _ = socket.send_to(&arp_probe(own, *address), &to);
        }
    }
    let mut heard = Heard::default();
    let mut buffer = [0; 2048];
    let mut frames = 0;
    while frames < MAX_FRAMES {
        match receive(socket.as_fd(), &mut buffer)? {
            Some(frame) => {
                frames += 1;
                heard.take(frame);
                // A stream that never pauses is no reason to go on.
                if frames % 64 != 0 || Instant::now() < until {
                    continue;
                }
                break;
            }
            None => {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                let mut awaited = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
                let _ = ppoll(&mut awaited, Some(TimeSpec::from(left)), None);
            }
        }
    }
    Ok(heard)
}

impl Heard {
    fn take(&mut self, frame: &[u8]) {
        let Some((header, body)) = frame.split_at_checked(ETHERNET) else { return };
        match u16::from_be_bytes([header[12], header[13]]) {
            0x0806 => self.take_arp(body),
            0x0800 => self.take_ipv4(body),
            0x86dd => {
                if let Some((source, query)) = parse_mld_query(body) {
                    let version = Mld::number(query.version);
                    self.take_querier(source.into(), version);
                }
            }
            _ => {}
        }
    }

    fn take_arp(&mut self, body: &[u8]) {
        let (Some(mac), Some(&[a, b, c, d])) =
            (body.get(8..14).and_then(MacAddr::from_slice), body.get(14..18))
        else {
            return;
        };
        let address = Ipv4Addr::new(a, b, c, d);
        if address.is_unspecified() || self.stations.len() >= MAX_GROUPS {
            return;
        }
        let stations = self.stations.entry(address).or_default();
        if !stations.contains(&mac) && stations.len() < 16 {
            stations.push(mac);
        }
    }

    fn take_querier(&mut self, source: IpAddr, version: u8) {
        if self.queriers.len() < MAX_GROUPS || self.queriers.contains_key(&source) {
            self.queriers.insert(source, version);
        }
    }

    fn take_ipv4(&mut self, packet: &[u8]) {
        let (Some(protocol), Some(&[a, b, c, d])) = (packet.get(9), packet.get(16..20)) else {
            return;
        };
        let group = Ipv4Addr::new(a, b, c, d);
        match i32::from(*protocol) {
            libc::IPPROTO_IGMP => {
                if let Some((source, query)) = parse_query(packet) {
                    self.take_querier(source.into(), query.version.number());
                }
            }
            libc::IPPROTO_UDP
                if self.groups.len() < MAX_GROUPS || self.groups.contains_key(&group) =>
            {
                take_datagram(self.groups.entry(group).or_default(), packet);
            }
            _ => {}
        }
    }
}

fn take_datagram(arrivals: &mut Arrivals, packet: &[u8]) {
    arrivals.packets += 1;
    if let Some(&[a, b, c, d]) = packet.get(12..16)
        && arrivals.sources.len() < MAX_SENDERS
    {
        arrivals.sources.insert(Ipv4Addr::new(a, b, c, d));
    }
    let header = usize::from(packet[0] & 0x0f) * 4;
    let is_first = packet.get(6..8).is_some_and(|offset| offset[0] & 0x1f == 0 && offset[1] == 0);
    if let Some(&[high, low]) = packet.get(header + 2..header + 4)
        && is_first
        && arrivals.ports.len() < MAX_SENDERS
    {
        arrivals.ports.insert(u16::from_be_bytes([high, low]));
    }
}

/// A socket filter that accepts multicast of IPv4, ARP, and multicast of IPv6 with hop-by-hop options, as
/// MLD has, that arrive without a VLAN tag.
fn what_is_looked_at() -> [SockFilter; 17] {
    let op = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    let (byte, half) =
        (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, libc::BPF_LD | libc::BPF_H | libc::BPF_ABS);
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    [
        op(byte, 0, 0, SKF_AD_VLAN_TAG_PRESENT),
        op(equal, 0, 14, 0),
        op(byte, 0, 0, SKF_AD_PKTTYPE),
        op(equal, 12, 0, PACKET_OUTGOING),
        op(half, 0, 0, 12),
        op(equal, 9, 0, 0x0806),
        op(equal, 0, 4, 0x86dd),
        // Next header, and the first byte of the destination.
        op(byte, 0, 0, ETHERNET as u32 + 6),
        op(equal, 0, 7, 0),
        op(byte, 0, 0, ETHERNET as u32 + 24),
        op(equal, 4, 5, 0xff),
        op(equal, 0, 4, 0x0800),
        op(byte, 0, 0, ETHERNET as u32 + 16),
        op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, 0xf0),
        op(equal, 0, 1, 0xe0),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 2048),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}
