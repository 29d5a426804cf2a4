//! IGMP or MLD on a switch port, as a capture sees it.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use socket2::{Domain, Protocol, Socket, Type};

use crate::demo::family::Family;
use crate::primitives::MacAddr;

/// What the hosts behind the port sent since the last [`Capture::restart`].
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// Hardware addresses that IGMP or MLD came from.
    pub(super) hosts: BTreeSet<MacAddr>,
    /// Queries among it.
    pub(super) queries: u64,
}

/// A packet socket on a bridge port.
///
/// It listens to all protocols: one bound to `ETH_P_IP` sees nothing of what a bridge takes
/// first. A filter in the kernel leaves IGMP or MLD alone.
pub(super) struct Capture {
    socket: Socket,
    seen: Seen,
    /// General queries of the switch.
    queries: u64,
}

/// An IGMP or MLD message on the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Message {
    source: MacAddr,
    is_query: bool,
}

const ETHERNET: usize = 14;
/// `Type` of a membership query (RFC 9776 §4).
const IGMP_QUERY: u8 = 0x11;
/// `Type` of a multicast listener query (RFC 9777 §5).
const MLD_QUERY: u8 = 130;
/// Length of an IPv6 header, and of the hop-by-hop header with Router Alert behind it.
const IPV6: usize = 40;
const HOP_BY_HOP: usize = 8;

impl Capture {
    /// Opens one on the interface `name` of the caller's namespace.
    pub(super) fn open(name: &str, family: Family) -> io::Result<Self> {
        // Protocol 0 hears nothing until the filter is there and it is bound.
        let socket = Socket::new(
            Domain::PACKET,
            Type::RAW.nonblocking().cloexec(),
            Some(Protocol::from(0)),
        )?;
        attach_filter(&socket, family)?;
        let index = nix::net::if_::if_nametoindex(name)?;
        bind(&socket, index)?;
        Ok(Capture { socket, seen: Seen::default(), queries: 0 })
    }

    /// Reads what has come.
    pub(super) fn read(&mut self) {
        let mut frame = [0; 128];
        // SAFETY: sockaddr_ll is a plain C structure, for which all zero is a value.
        let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        loop {
            let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            // SAFETY: the buffer and the address are as long as the lengths given say.
            let received = unsafe {
                libc::recvfrom(
                    self.socket.as_raw_fd(),
                    frame.as_mut_ptr().cast(),
                    frame.len(),
                    0,
                    (&raw mut from).cast(),
                    &raw mut length,
                )
            };
            let Ok(received) = usize::try_from(received) else { return };
            let Some(message) = parse(&frame[..received.min(frame.len())]) else { continue };
            if from.sll_pkttype == libc::PACKET_OUTGOING {
                self.queries += u64::from(message.is_query);
            } else {
                self.seen.queries += u64::from(message.is_query);
                self.seen.hosts.insert(message.source);
            }
        }
    }

    /// General queries that the switch sent so far.
    pub(super) fn switch_queries(&self) -> u64 {
        self.queries
    }

    /// What came from behind the port so far.
    pub(super) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Forgets what came from behind the port.
    pub(super) fn restart(&mut self) {
        self.read();
        self.seen = Seen::default();
    }
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Reads an Ethernet frame that holds IGMP or MLD.
fn parse(frame: &[u8]) -> Option<Message> {
    let source = MacAddr::from_slice(frame.get(6..12)?)?;
    let kind = u16::from_be_bytes(*frame.get(12..)?.first_chunk()?);
    let ip = &frame[ETHERNET..];
    let is_query = match i32::from(kind) {
        libc::ETH_P_IP => {
            let header = usize::from(ip.first()? & 0x0f) * 4;
            (*ip.get(9)? == libc::IPPROTO_IGMP as u8).then_some(())?;
            *ip.get(header)? == IGMP_QUERY
        }
        libc::ETH_P_IPV6 => {
            (*ip.get(6)? == libc::IPPROTO_HOPOPTS as u8).then_some(())?;
            (*ip.get(IPV6)? == libc::IPPROTO_ICMPV6 as u8).then_some(())?;
            // Queries, reports and Done, and reports of MLDv2; nothing else of ICMPv6.
            let message = *ip.get(IPV6 + HOP_BY_HOP)?;
            matches!(message, 130..=132 | 143).then_some(message == MLD_QUERY)?
        }
        _ => return None,
    };
    Some(Message { source, is_query })
}

/// Lets IPv4 with protocol 2 pass, or IPv6 with a hop-by-hop header, and nothing else.
fn attach_filter(socket: &Socket, family: Family) -> io::Result<()> {
    let (ethertype, at, protocol) = match family {
        Family::V4 => (libc::ETH_P_IP, 9, libc::IPPROTO_IGMP),
        Family::V6 => (libc::ETH_P_IPV6, 6, libc::IPPROTO_HOPOPTS),
    };
    let op = |code: u32, k: u32, jf: u8| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let compare = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let mut program = [
        op(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 12, 0),
        op(compare, ethertype as u32, 3),
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, ETHERNET as u32 + at, 0),
        op(compare, protocol as u32, 1),
        op(libc::BPF_RET | libc::BPF_K, u32::MAX, 0),
        op(libc::BPF_RET | libc::BPF_K, 0, 0),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel reads `len` instructions at `filter`, which live until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn bind(socket: &Socket, index: u32) -> io::Result<()> {
    // SAFETY: sockaddr_ll is a plain C structure, for which all zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    // SAFETY: the kernel reads a sockaddr_ll of the length given.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn igmp_is_found_behind_ip_options() {
        let mut frame = vec![0u8; 60];
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 7]);
        frame[12] = 8;
        frame[14] = 0x46; // a header of 24 bytes: Router Alert
        frame[14 + 9] = 2;
        frame[14 + 24] = 0x16;
        let message = parse(&frame).unwrap();
        let source = message.source.to_string();
        assert_eq!((source.as_str(), message.is_query), ("02:00:00:00:00:07", false));
        frame[14 + 24] = 0x11;
        assert!(parse(&frame).unwrap().is_query);
        frame[14 + 9] = 17;
        assert_eq!(parse(&frame), None, "UDP");
        for length in 0..60 {
            let _ = parse(&frame[..length]);
        }
    }

    #[test]
    fn mld_is_found_behind_router_alert_and_other_icmpv6_is_not() {
        let mut frame = vec![0u8; 90];
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        frame[54] = 58;
        for (kind, is_query) in
            [(130, Some(true)), (131, Some(false)), (143, Some(false)), (135, None)]
        {
            frame[62] = kind;
            assert_eq!(parse(&frame).map(|message| message.is_query), is_query, "{kind}");
        }
        for length in 0..90 {
            let _ = parse(&frame[..length]);
        }
    }
}
