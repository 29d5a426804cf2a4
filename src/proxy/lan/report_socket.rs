//! Reports of the proxy's own: a raw socket that sends IGMP on one interface of the host, from the
//! host's address, and receives nothing.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use socket2::{Domain, Protocol, Socket, Type};

use crate::igmp::wire::Message;
use crate::sys::sockopt;

/// Router Alert (RFC 2113 §2.1), as the socket option takes it.
const ROUTER_ALERT: [u8; 4] = [148, 4, 0, 0];
/// Internetwork control (RFC 9776 §4).
const TOS: u32 = 0xc0;
/// Bytes of an IP packet.
pub(crate) const MTU: usize = 1500;

/// Sends reports on one interface of the host. The kernel makes the IP header, with the address of
/// the interface and a TTL of 1.
pub(crate) struct ReportSocket(Socket);

impl ReportSocket {
    /// Opens one in the caller's namespace.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW, `ENODEV` when there is no such interface.
    pub(crate) fn open(name: &str, index: u32) -> io::Result<Self> {
        SpareReportSocket::open()?.turn_to(name, index)
    }

    /// Sends a message that fits in one packet; one that does not is left to the kernel.
    pub(crate) fn send_whole(&self, message: &Message) {
        if let [payload] = message.emit(MTU).as_slice() {
            self.send_payload(message, payload);
        }
    }

    /// Sends a message, in several packets where it does not fit in one.
    pub(crate) fn send(&self, message: &Message) {
        for payload in message.emit(MTU) {
            self.send_payload(message, &payload);
        }
    }

    /// A report that cannot be sent is no error: others follow. Whether the host lets reports out
    /// is looked at elsewhere.
    fn send_payload(&self, message: &Message, payload: &[u8]) {
        let target = SocketAddrV4::new(message.destination(), 0);
        let _ = self.0.send_to(payload, &target.into());
    }
}

/// A report socket of no interface yet. It can be turned to one once, without privileges.
pub(crate) struct SpareReportSocket(Socket);

impl SpareReportSocket {
    /// Opens one in the caller's namespace.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW.
    pub(crate) fn open() -> io::Result<Self> {
        let igmp = Protocol::from(libc::IPPROTO_IGMP);
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(igmp))?;
        sockopt::receive_nothing(&socket)?;
        socket.set_multicast_ttl_v4(1)?;
        socket.set_multicast_loop_v4(false)?;
        socket.set_tos_v4(TOS)?;
        sockopt::set_bytes(&socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &ROUTER_ALERT)?;
        Ok(SpareReportSocket(socket))
    }

    /// Sends on the interface of this name and index from now on.
    ///
    /// # Errors
    /// `ENODEV` when there is no such interface; `EPERM` before Linux 5.7, without privileges.
    pub(crate) fn turn_to(self, name: &str, index: u32) -> io::Result<ReportSocket> {
        self.0.bind_device(Some(name.as_bytes()))?;
        sockopt::set_multicast_interface(&self.0, index, Ipv4Addr::UNSPECIFIED.into())?;
        Ok(ReportSocket(self.0))
    }
}
