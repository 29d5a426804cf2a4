//! Queries of the LAN's MLD querier: a raw socket that receives them.

use std::io;
use std::net::Ipv6Addr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::{RecvFlags, SocketAddrAny, recvfrom};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::mld::wire::{self, Ipv6Packet, Message, Query};
use crate::net::raw_socket::SpareReceiver;
use crate::proxy::lan::query_socket::{PACKET_LOOPBACK, SKF_AD_PKTTYPE};
use crate::sys::sockopt;

/// Room for a burst of group-specific queries.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// `ICMP6_FILTER` of linux/icmpv6.h: which types a raw socket does not receive, a bit for each.
const ICMP6_FILTER: libc::c_int = 1;
/// A query (RFC 9777 §5).
pub(super) const QUERY: u8 = 130;
/// Offset of the IPv6 header among a filter's data, which begin with the message (linux/filter.h).
const HEADER: u32 = libc::SKF_NET_OFF.cast_unsigned();

/// Receives the MLD queries that arrive on one interface of the host.
///
/// A query is valid with a hop limit of 1 and from a link-local address (RFC 9777 §6.2). The socket
/// filter sees to both, and the kernel to the checksum (`rawv6_rcv` in net/ipv6/raw.c). Router Alert
/// is not asked for: there are switches that leave it out.
pub(crate) struct MldQuerySocket {
    socket: Socket,
    /// For an interface of the same name that comes after this one has gone.
    spares: Vec<SpareReceiver>,
}

impl MldQuerySocket {
    /// Opens one in the caller's namespace.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW, `ENODEV` when there is no such interface, `EAFNOSUPPORT` where the
    /// kernel has no IPv6.
    pub(crate) fn open(name: &str) -> io::Result<Self> {
        let socket = open_filtered()?;
        sockopt::lock_filter(&socket)?;
        socket.bind_device(Some(name.as_bytes()))?;
        sockopt::grow_receive_buffer(&socket, RECEIVE_BUFFER)?;
        socket.set_nonblocking(true)?;
        Ok(MldQuerySocket { socket, spares: Vec::new() })
    }

    /// Prepares it for so many returns of an interface.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW.
    pub(crate) fn prepare_returns(&mut self, count: usize) -> io::Result<()> {
        let anywhere = Ipv6Addr::UNSPECIFIED.into();
        let spare =
            || SpareReceiver::open(open_filtered()?, anywhere, &only_queries(), RECEIVE_BUFFER);
        self.spares = std::iter::repeat_with(spare).take(count).collect::<io::Result<_>>()?;
        Ok(())
    }

    /// Receives from the interface of this name, which has come again.
    ///
    /// # Errors
    /// `ENODEV` when it has gone again; `ENOBUFS` when it has come more often than was prepared
    /// for.
    pub(crate) fn follow(&mut self, name: &str) -> io::Result<()> {
        let spare = self.spares.pop().ok_or(io::Error::from_raw_os_error(libc::ENOBUFS))?;
        self.socket = spare.turn_to(name)?;
        Ok(())
    }

    /// Receives one packet; `None`: it is no valid query.
    ///
    /// # Errors
    /// That of recvfrom(2); `WouldBlock`: no packet waits.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<(Ipv6Addr, Query)>> {
        let (length, _, from) = recvfrom(&self.socket, &mut *buffer, RecvFlags::DONTWAIT)?;
        let source = match from.map(SocketAddrAny::try_into) {
            Some(Ok(std::net::SocketAddr::V6(from))) => *from.ip(),
            _ => return Ok(None),
        };
        let payload = buffer.get(..length).unwrap_or_default();
        Ok(match wire::parse_payload(payload) {
            Ok(Message::Query(query)) => Some((source, query)),
            _ => None,
        })
    }
}

/// The query in an IPv6 packet, and who sent it; `None`: it is no valid query, as
/// [`MldQuerySocket`] has it.
pub(crate) fn parse_mld_query(packet: &[u8]) -> Option<(Ipv6Addr, Query)> {
    let packet = Ipv6Packet::parse(packet).ok()?;
    match wire::parse(&packet) {
        Ok(Message::Query(query))
            if packet.hop_limit() == 1 && packet.src().is_unicast_link_local() =>
        {
            Some((packet.src(), query))
        }
        _ => None,
    }
}

impl AsFd for MldQuerySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Opens a socket that queues queries alone.
fn open_filtered() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    // Before the socket is bound, so that it never queues anything else.
    socket.attach_filter(&only_queries())?;
    // Other types are not even copied for it.
    let mut blocked = [u8::MAX; 32];
    let word = usize::from(QUERY / 32) * 4;
    let bits = !(1u32 << (QUERY % 32));
    blocked[word..word + 4].copy_from_slice(&bits.to_ne_bytes());
    sockopt::set_bytes(&socket, libc::IPPROTO_ICMPV6, ICMP6_FILTER, &blocked)?;
    Ok(socket)
}

/// A socket filter that accepts queries of other hosts.
fn only_queries() -> [SockFilter; 11] {
    let op = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    let (byte, half) = (libc::BPF_B | libc::BPF_ABS, libc::BPF_H | libc::BPF_ABS);
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    [
        op(libc::BPF_LD | byte, 0, 0, SKF_AD_PKTTYPE),
        op(equal, 8, 0, PACKET_LOOPBACK),
        op(libc::BPF_LD | byte, 0, 0, 0),
        op(equal, 0, 6, QUERY.into()),
        // Hop limit, and the beginning of the source address.
        op(libc::BPF_LD | byte, 0, 0, HEADER.wrapping_add(7)),
        op(equal, 0, 4, 1),
        op(libc::BPF_LD | half, 0, 0, HEADER.wrapping_add(8)),
        op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, 0xffc0),
        op(equal, 0, 1, 0xfe80),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::proxy::lan::veth::Veth;

    #[test]
    fn queries_of_another_station_are_heard_and_nothing_else() {
        let veth = Veth::new();
        let socket = veth.run(|| MldQuerySocket::open("lan-a").unwrap());
        let general = Query::general(Duration::from_secs(10));
        let old = Query {
            version: wire::Version::V2,
            qrv: 0,
            qqi: Duration::ZERO,
            ..Query::general(Duration::from_secs(2))
        };
        let of_group = Query { group: Some("ff02::fb".parse().unwrap()), ..general.clone() };
        let source: Ipv6Addr = "fe80::99".parse().unwrap();
        let send = |query: &Query, from: Ipv6Addr, hop_limit| {
            let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
            veth.send_from_b(&query.emit_ipv6(from, to, hop_limit, 1500)[0]);
        };
        // A hop limit of more than 1 comes from another link, a global address too.
        send(&general, source, 2);
        send(&general, "2001:db8::1".parse().unwrap(), 1);
        let report = Message::ReportV2 { group: "ff02::fb".parse().unwrap() };
        let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        veth.send_from_b(&report.emit_ipv6(source, to, 1, 1500)[0]);
        let mut heard = Vec::new();
        for query in [&general, &old, &of_group] {
            send(query, source, 1);
            heard.push((source, query.clone()));
        }
        let mut buffer = [0; 2048];
        let mut received = Vec::new();
        while received.len() < heard.len() {
            match socket.receive(&mut buffer) {
                Ok(query) => received.push(query.expect("only queries")),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(received, heard);
    }
}
