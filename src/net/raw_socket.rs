//! Raw IPv4 sockets that only send.

use std::io;

use socket2::{Domain, Protocol, Socket, Type};

/// Opens a non-blocking socket for whole IPv4 packets, in the caller's namespace. Multicast that it
/// sends is looped back to the namespace.
///
/// The socket keeps nothing that it receives: its protocol is 255 (RFC 3692), which nobody sends,
/// and its receive buffer is the kernel's smallest.
///
/// # Errors
/// `EPERM` without CAP_NET_RAW.
pub(crate) fn raw_ipv4_sender() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    socket.set_header_included_v4(true)?;
    socket.set_multicast_loop_v4(true)?;
    socket.set_multicast_all_v4(false)?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(0)?;
    Ok(socket)
}
