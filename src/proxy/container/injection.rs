//! Injection: packets that are handed to the container's kernel as if they had arrived on an
//! interface.

use std::io;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::rand::{GetRandomFlags, getrandom};
use socket2::{SockAddr, Socket};

use crate::multicast::Address;
use crate::net::raw_socket::{raw_ipv4_sender, raw_ipv6_sender};
use crate::sys::sockopt;

/// All nodes of the interface (RFC 4291 §2.7.1): every interface has joined it.
pub(crate) const ALL_NODES_OF_THE_INTERFACE: Ipv6Addr = Ipv6Addr::new(0xff01, 0, 0, 0, 0, 0, 0, 1);
/// The header of destination options (RFC 8200 §4.6), in which the group of injected data travels: see
/// the relay's module `family`. Its length.
pub(crate) const DESTINATION_OPTIONS: u8 = 60;
pub(crate) const GROUP_OPTION: usize = 24;
/// An option for experiments, which a receiver that does not know it passes over (RFC 4727 §3.3, RFC 8200
/// §4.2), and the bytes of its data: the group.
pub(crate) const GROUP_OPTION_TYPE: u8 = 0x1e;
pub(crate) const GROUP_OPTION_LENGTH: u8 = 16;
/// Offset of the option's type in the packet, behind the IPv6 header and the first two bytes of the
/// options, and of the group.
pub(crate) const OPTION_AT: usize = 40 + 2;
pub(crate) const GROUP_AT: usize = OPTION_AT + 2;
/// Where an IPv6 header has its destination (RFC 8200 §3).
const IPV6_DESTINATION: std::ops::Range<usize> = 24..40;

/// Injects queries into the container: a raw socket on one of its interfaces.
///
/// The kernel returns a multicast packet as if it had arrived on the interface where the group has a
/// member. What keeps the copy that would leave differs:
///
/// IPv4: TTL 0 (`ip_mc_output` in net/ipv4/ip_output.c). The route decides, not the header: any other
/// packet leaves the interface, even with TTL 0 (`__mkroute_output` in net/ipv4/route.c). So every
/// query is routed to 224.0.0.1, which all interfaces have joined, whatever destination its header
/// names.
///
/// IPv6: the destination in the header, of interface-local scope (`ip6_finish_output2` in
/// net/ipv6/ip6_output.c). An MLD query must have hop limit 1, and its destination does not matter
/// (`__mld_query_work` in net/ipv6/mcast.c). So every query goes to ff01::1.
pub(crate) struct QueryInjector<A = Ipv4Addr> {
    socket: Socket,
    family: PhantomData<A>,
}

impl<A: Address> QueryInjector<A> {
    /// Opens a socket in the caller's namespace. [`set_interface`](Self::set_interface) is to
    /// follow. The packets carry `mark`.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW and CAP_NET_ADMIN; `EAFNOSUPPORT` where the kernel has no IPv6.
    pub(crate) fn open(mark: u32) -> io::Result<Self> {
        let socket = match A::UNSPECIFIED.into() {
            IpAddr::V4(_) => raw_ipv4_sender()?,
            IpAddr::V6(_) => raw_ipv6_sender()?,
        };
        socket.set_mark(mark)?;
        Ok(QueryInjector { socket, family: PhantomData })
    }

    /// Injects on the interface of this index from now on.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL` or `ENODEV` when there is no such interface.
    pub(crate) fn set_interface(&self, index: u32) -> io::Result<()> {
        sockopt::set_multicast_interface(&self.socket, index, A::UNSPECIFIED.into())
    }

    /// Hands a whole packet to the container's kernel, also for a group that the container has left:
    /// of IPv4 with TTL 0, of IPv6 to ff01::1 with hop limit 1 and from a link-local address.
    ///
    /// # Errors
    /// Those of sendto(2): `ENETUNREACH` or `ENODEV` while the interface is down. `InvalidInput` for
    /// an IPv6 packet to somewhere else, which would leave the interface.
    pub(crate) fn inject(&self, packet: &[u8]) -> io::Result<()> {
        let route: IpAddr = match A::UNSPECIFIED.into() {
            IpAddr::V4(_) => Ipv4Addr::ALL_SYSTEMS.into(),
            IpAddr::V6(_) => ALL_NODES_OF_THE_INTERFACE.into(),
        };
        if route.is_ipv6()
            && packet.get(IPV6_DESTINATION) != Some(&ALL_NODES_OF_THE_INTERFACE.octets()[..])
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let route = SockAddr::from(SocketAddr::new(route, 0));
        self.socket.send_to(packet, &route).map(drop)
    }
}

/// A random mark for injected packets: one that nothing else uses and nobody can guess. It is above
/// 65535, because the kernel's own IGMPv3 reports carry the MTU as their mark.
///
/// # Errors
/// Those of getrandom(2).
pub fn random_packet_mark() -> io::Result<u32> {
    const MAX_MTU: u32 = 0xffff;
    loop {
        let mut bytes = [0u8; 4];
        // So few bytes are never cut short (getrandom(2)).
        getrandom(&mut bytes, GetRandomFlags::empty())?;
        let mark = u32::from_ne_bytes(bytes);
        if mark > MAX_MTU {
            return Ok(mark);
        }
    }
}
