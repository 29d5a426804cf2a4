//! Injection: packets that are handed to the container's kernel as if they had arrived on an
//! interface.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use rustix::rand::{GetRandomFlags, getrandom};
use socket2::Socket;

use crate::multicast::Address;
use crate::net::raw_socket::raw_ipv4_sender;
use crate::sys::sockopt;

/// Injects queries into the container: a raw socket on one of its interfaces.
///
/// With TTL 0 and IP_MULTICAST_LOOP the kernel returns a multicast packet as if it had arrived on
/// the interface, and drops the copy that would leave (`ip_mc_output` in net/ipv4/ip_output.c). It
/// does so where the route leads to a group that has a member. Any other packet leaves the
/// interface, even with TTL 0 (`__mkroute_output` in net/ipv4/route.c). So every query is routed to
/// 224.0.0.1, which all interfaces have joined, whatever destination its header names.
pub(crate) struct QueryInjector {
    socket: Socket,
}

impl QueryInjector {
    /// Opens a socket in the caller's namespace. [`set_interface`](Self::set_interface) is to
    /// follow. The packets carry `mark`.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW and CAP_NET_ADMIN.
    pub(crate) fn open(mark: u32) -> io::Result<Self> {
        let socket = raw_ipv4_sender()?;
        socket.set_mark(mark)?;
        Ok(QueryInjector { socket })
    }

    /// Injects on the interface of this index from now on.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL` when there is no such interface.
    pub(crate) fn set_interface(&self, index: u32) -> io::Result<()> {
        sockopt::set_multicast_interface(&self.socket, index, Ipv4Addr::UNSPECIFIED.into())
    }

    /// Hands a whole IPv4 packet with TTL 0 to the container's kernel, also for a group that the
    /// container has left.
    ///
    /// # Errors
    /// Those of sendto(2): `ENETUNREACH` or `ENODEV` while the interface is down.
    pub(crate) fn inject(&self, packet: &[u8]) -> io::Result<()> {
        let route = SocketAddrV4::new(Ipv4Addr::ALL_SYSTEMS, 0);
        self.socket.send_to(packet, &route.into()).map(drop)
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
