//! Queries of the LAN: a raw socket that receives them. What it sends does not leave the host, and
//! shows whether the host's firewall would let it out.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::igmp::wire;
use crate::igmp::wire::{Ipv4Packet, Message, Query};
use crate::net::nfnetlink::receive;
use crate::net::raw_socket::SpareReceiver;
use crate::proxy::lan::report_socket;
use crate::sys::{ifreq, sockopt};

/// Room for a burst of group-specific queries.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// A membership query (RFC 9776 §4).
pub(super) const QUERY: u32 = 0x11;
/// `PACKET_LOOPBACK` of linux/if_packet.h: packets of this host that were looped back.
pub(super) const PACKET_LOOPBACK: u32 = 5;
/// Offset of the packet type among a filter's ancillary data (linux/filter.h).
pub(super) const SKF_AD_PKTTYPE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE).cast_unsigned();

/// Receives the queries that arrive on one interface of the host.
pub(crate) struct QuerySocket {
    socket: Socket,
    name: String,
    /// Index of the interface.
    pub(crate) index: u32,
    /// For an interface of the same name that comes after this one has gone.
    spares: Vec<SpareReceiver>,
}

impl QuerySocket {
    /// Opens one in the caller's namespace.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW, `ENODEV` when there is no such interface.
    pub(crate) fn open(name: &str, index: u32) -> io::Result<Self> {
        let igmp = Protocol::from(libc::IPPROTO_IGMP);
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(igmp))?;
        // Before the socket is bound, so that it never queues anything else.
        socket.attach_filter(&only_queries())?;
        sockopt::lock_filter(&socket)?;
        socket.bind_device(Some(name.as_bytes()))?;
        socket.set_multicast_ttl_v4(0)?;
        socket.set_multicast_loop_v4(false)?;
        sockopt::grow_receive_buffer(&socket, RECEIVE_BUFFER)?;
        socket.set_nonblocking(true)?;
        Ok(QuerySocket { socket, name: name.to_owned(), index, spares: Vec::new() })
    }

    /// Prepares it for so many returns of an interface.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW.
    pub(crate) fn prepare_returns(&mut self, count: usize) -> io::Result<()> {
        let igmp = Protocol::from(libc::IPPROTO_IGMP);
        let spare = || {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(igmp))?;
            let anywhere = Ipv4Addr::UNSPECIFIED.into();
            SpareReceiver::open(socket, anywhere, &only_queries(), RECEIVE_BUFFER)
        };
        self.spares = std::iter::repeat_with(spare).take(count).collect::<io::Result<_>>()?;
        Ok(())
    }

    /// Receives from the interface of this index, which has come again under the same name.
    ///
    /// # Errors
    /// `ENODEV` when it has gone again; `ENOBUFS` when it has come more often than was prepared
    /// for.
    pub(crate) fn follow(&mut self, index: u32) -> io::Result<()> {
        let spare = self.spares.pop().ok_or(io::Error::from_raw_os_error(libc::ENOBUFS))?;
        self.socket = spare.turn_to(&self.name)?;
        self.index = index;
        Ok(())
    }

    /// The index that the interface has now, under whatever name, or that an interface of its name
    /// has; `None` when there is neither.
    pub(crate) fn index_now(&self) -> Option<u32> {
        match ifreq::name(&self.socket, self.index) {
            Ok(_) => Some(self.index),
            Err(_) => ifreq::index(&self.socket, &self.name).ok(),
        }
    }

    /// The flags of the interface, under whatever name; none if there is no such interface.
    pub(crate) fn flags_now(&self) -> Option<u32> {
        let name = ifreq::name(&self.socket, self.index).ok()?;
        ifreq::flags(&self.socket, &name).ok()
    }

    /// Name of another interface of the host, or its index if there is no such interface.
    pub(crate) fn name_of(&self, index: u32) -> String {
        ifreq::name(&self.socket, index).unwrap_or_else(|_| index.to_string())
    }

    /// Name of the interface.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the interface has an IPv4 address; `true` if that cannot be read.
    pub(crate) fn is_numbered(&self) -> bool {
        !matches!(ifreq::address(&self.socket, &self.name), Ok(None))
    }

    /// Whether the host's netfilter lets reports out by the interface: `false` where a rule at the
    /// output hook drops one.
    ///
    /// The report that is sent is empty and has TTL 0. The group is the one of all hosts, which
    /// every interface has joined: only packets of joined groups take the kernel's path that drops
    /// TTL 0 behind the hook (`__mkroute_output` in net/ipv4/route.c, `ip_mc_output` in
    /// net/ipv4/ip_output.c). To 224.0.0.22 the report would leave the host.
    pub(crate) fn may_report(&self) -> bool {
        let target = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 1), 0).into();
        let payloads = Message::ReportV3(Vec::new()).emit(report_socket::MTU);
        payloads.iter().all(|payload| match self.socket.send_to(payload, &target) {
            Err(error) => error.raw_os_error() != Some(libc::EPERM),
            Ok(_) => true,
        })
    }

    /// Receives one packet; `None`: it is no valid query.
    ///
    /// # Errors
    /// That of recv(2); `WouldBlock`: no packet waits.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<(Ipv4Addr, Query)>> {
        let packet = receive(self.socket.as_fd(), buffer)?.ok_or(io::ErrorKind::WouldBlock)?;
        Ok(parse_query(packet))
    }
}

/// The query in an IPv4 packet, and who sent it; `None`: it is no valid query.
pub(crate) fn parse_query(packet: &[u8]) -> Option<(Ipv4Addr, Query)> {
    let packet = Ipv4Packet::parse(packet).ok()?;
    match wire::parse(packet.igmp().ok()?) {
        Ok(Message::Query(query)) => Some((packet.src(), query)),
        _ => None,
    }
}

impl AsFd for QuerySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A socket filter that accepts queries of other hosts.
fn only_queries() -> [SockFilter; 7] {
    let op = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    [
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, SKF_AD_PKTTYPE),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 4, 0, PACKET_LOOPBACK),
        // The length of the IPv4 header.
        op(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0, 0),
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_IND, 0, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, QUERY),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}
