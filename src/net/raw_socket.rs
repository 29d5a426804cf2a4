//! Raw sockets that only send, and some that will receive later.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::sys::sockopt;

/// Opens a non-blocking socket for whole IPv4 packets, in the caller's namespace. Multicast that it
/// sends is looped back to the namespace.
///
/// The socket keeps nothing that it receives: its socket filter drops everything, and its receive
/// buffer is the kernel's smallest.
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
    sockopt::receive_nothing(&socket)?;
    Ok(socket)
}

/// A source of documentation (RFC 3849).
const NOWHERE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// Opens a non-blocking socket for whole IPv6 packets, in the caller's namespace, as
/// [`raw_ipv4_sender`] does for IPv4. Multicast that it sends is looped back to the namespace.
///
/// It sends also while the interface has no address yet, or only a tentative one. For a socket
/// without an address the kernel chooses one when it looks up the route, and fails where there is
/// none (`ip6_dst_lookup_tail` in net/ipv6/ip6_output.c). So the socket is bound to an address of
/// nobody, which is in no packet: the header is the sender's.
///
/// # Errors
/// `EPERM` without CAP_NET_RAW, `EAFNOSUPPORT` where the kernel has no IPv6.
pub(crate) fn raw_ipv6_sender() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    socket.set_header_included_v6(true)?;
    socket.set_multicast_loop_v6(true)?;
    sockopt::set_int(&socket, libc::IPPROTO_IPV6, libc::IPV6_FREEBIND, 1)?;
    socket.bind(&SocketAddrV6::new(NOWHERE, 0, 0, 0).into())?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(0)?;
    sockopt::receive_nothing(&socket)?;
    Ok(socket)
}

/// A loopback address that nobody sends to. A socket that is bound to it receives nothing, and costs
/// the kernel nothing for each packet.
const NOBODY: Ipv4Addr = Ipv4Addr::new(127, 255, 255, 254);

/// A raw socket that receives nothing yet. It can be turned to an interface once, without
/// privileges, and never receives more than its filter lets through.
#[derive(Debug)]
pub(crate) struct SpareReceiver {
    socket: Socket,
    /// The unspecified address of its family.
    anywhere: IpAddr,
}

impl SpareReceiver {
    /// Makes one of a new raw socket of the family of `anywhere`, which is the unspecified address.
    ///
    /// # Errors
    /// Those of setsockopt(2) and bind(2).
    pub(crate) fn open(
        socket: Socket,
        anywhere: IpAddr,
        filter: &[SockFilter],
        buffer: usize,
    ) -> io::Result<Self> {
        socket.attach_filter(filter)?;
        sockopt::lock_filter(&socket)?;
        // Whatever is sent to a group by it does not leave the host.
        let nobody: IpAddr = match anywhere {
            IpAddr::V4(_) => {
                socket.set_multicast_ttl_v4(0)?;
                NOBODY.into()
            }
            IpAddr::V6(_) => {
                socket.set_multicast_hops_v6(0)?;
                sockopt::set_int(&socket, libc::IPPROTO_IPV6, libc::IPV6_FREEBIND, 1)?;
                NOWHERE.into()
            }
        };
        socket.bind(&SocketAddr::new(nobody, 0).into())?;
        sockopt::grow_receive_buffer(&socket, buffer)?;
        socket.set_nonblocking(true)?;
        Ok(SpareReceiver { socket, anywhere })
    }

    /// Receives from the interface of this name from now on.
    ///
    /// # Errors
    /// `ENODEV` when there is no such interface; `EPERM` before Linux 5.7.
    pub(crate) fn turn_to(self, name: &str) -> io::Result<Socket> {
        self.socket.bind_device(Some(name.as_bytes()))?;
        self.socket.bind(&SocketAddr::new(self.anywhere, 0).into())?;
        Ok(self.socket)
    }
}

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;
    use std::net::UdpSocket;

    use super::*;

    const PASS_ALL: [SockFilter; 1] =
        [SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, u32::MAX)];

    fn packets(socket: &Socket) -> usize {
        let mut buffer = [MaybeUninit::uninit(); 2048];
        std::iter::from_fn(|| socket.recv(&mut buffer).ok()).count()
    }

    #[test]
    fn a_spare_socket_receives_when_it_is_turned_to_an_interface_and_keeps_its_filter() {
        spare_of(Domain::IPV4, Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into());
        spare_of(Domain::IPV6, Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::LOCALHOST.into());
    }

    fn spare_of(domain: Domain, anywhere: IpAddr, here: IpAddr) {
        let namespace = crate::net::netns::NetNs::create().unwrap();
        let up = || std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(namespace.run(up).unwrap().unwrap().success());
        let open = || {
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::UDP)).unwrap();
            SpareReceiver::open(socket, anywhere, &PASS_ALL, 65_536)
        };
        let spare = namespace.run(open).unwrap().unwrap();
        let refused = spare.socket.attach_filter(&PASS_ALL).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        let sender = namespace.run(|| UdpSocket::bind((here, 0))).unwrap().unwrap();
        let to = sender.local_addr().unwrap();
        sender.send_to(b"before", to).unwrap();
        assert_eq!(packets(&spare.socket), 0);
        let socket = namespace.run(|| spare.turn_to("lo")).unwrap().unwrap();
        sender.send_to(b"behind", to).unwrap();
        assert_eq!(packets(&socket), 1);
        let none = namespace.run(|| open().unwrap().turn_to("nowhere")).unwrap();
        assert_eq!(none.unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }
}
