//! Unicast answers of the LAN to what a container has sent: their sockets, and who may answer.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};

use ipnet::Ipv4Net;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg};

use crate::sys::sockopt;

/// Addresses that a host gives itself on its link (RFC 3927 §2.1).
const SELF_ASSIGNED: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16);

/// A unicast datagram to a port of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    /// Who sent it.
    pub(super) from: (Ipv4Addr, u16),
    /// Index of the host's interface where it has arrived.
    pub(super) interface: u32,
    /// The container's address and port.
    pub(super) to: (Ipv4Addr, u16),
    /// Bytes of the buffer that were filled.
    pub(super) length: usize,
    /// Whether a packet of the container from this port may have left the LAN.
    pub(super) reaches_far: bool,
}

/// What a socket has received.
pub(super) struct Arrival {
    pub(super) from: (Ipv4Addr, u16),
    pub(super) interface: u32,
    pub(super) length: usize,
}

/// Where the container's packets were heard.
#[derive(Debug, Default)]
pub(super) struct Neighbourhood {
    /// Index of the upstream interface.
    pub(super) upstream: u32,
    /// All addresses of the host.
    pub(super) host: Vec<Ipv4Addr>,
    /// Subnets of the upstream interface.
    pub(super) lan: Vec<Ipv4Net>,
    /// Subnets of the container's interface.
    pub(super) container: Vec<Ipv4Net>,
}

impl Neighbourhood {
    /// Whether the sender of an answer can have heard what the container has sent. On the LAN that
    /// is each station of the link, and a station behind a router where routers forward the
    /// container's packets. On the host it is the host itself, and a container of the same network.
    /// A datagram from another network of the host is no answer: it would pass the engine's
    /// isolation of networks.
    pub(super) fn has_heard(&self, answer: &Answer) -> bool {
        let (from, _) = answer.from;
        let is_in = |nets: &[Ipv4Net]| nets.iter().any(|net| net.contains(&from));
        // The kernel takes no packet with an address of the host from a network.
        if self.host.contains(&from) {
            return true;
        }
        if answer.interface == self.upstream {
            return answer.reaches_far || is_in(&self.lan) || SELF_ASSIGNED.contains(&from);
        }
        is_in(&self.container)
    }
}

/// Opens a socket that receives answers to a port of the host, or to any free port if `port` is 0.
///
/// # Errors
/// `EADDRINUSE` when another program has the port.
pub(super) fn open(host: Ipv4Addr, port: u16) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((host, port))?;
    socket.set_nonblocking(true)?;
    tell_interface(&socket)?;
    // A responder of the host that starts later, such as avahi-daemon, sets the option too. The
    // kernel gives no port away that it has given away before.
    if port != 0 {
        sockopt::set_int(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    }
    Ok(socket)
}

/// Has the socket tell with each datagram where it has arrived.
///
/// # Errors
/// Those of setsockopt(2).
pub(super) fn tell_interface(socket: impl AsFd) -> io::Result<()> {
    sockopt::set_int(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
}

/// Receives one datagram.
///
/// # Errors
/// Those of recvmsg(2); `EMSGSIZE` when the datagram is longer than the buffer.
pub(super) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Arrival> {
    let mut control = nix::cmsg_space!(libc::in_pktinfo);
    let mut parts = [io::IoSliceMut::new(buffer)];
    let fd = socket.as_fd().as_raw_fd();
    let message =
        recvmsg::<SockaddrIn>(fd, &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    if message.flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    let interface = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => u32::try_from(info.ipi_ifindex).ok(),
        _ => None,
    });
    let from = message.address.map(SocketAddrV4::from).ok_or(io::ErrorKind::InvalidData)?;
    let length = message.bytes;
    Ok(Arrival { from: (*from.ip(), from.port()), interface: interface.unwrap_or(0), length })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPSTREAM: u32 = 7;
    const BRIDGE: u32 = 9;

    fn neighbourhood() -> Neighbourhood {
        let net = |text: &str| text.parse().unwrap();
        Neighbourhood {
            upstream: UPSTREAM,
            host: vec![Ipv4Addr::new(10, 0, 0, 9), Ipv4Addr::new(172, 18, 0, 1)],
            lan: vec![net("10.0.0.9/24")],
            container: vec![net("172.17.0.2/16")],
        }
    }

    fn answer(from: [u8; 4], interface: u32, reaches_far: bool) -> Answer {
        let (from, to) = ((from.into(), 1900), (Ipv4Addr::new(172, 17, 0, 2), 40_000));
        Answer { from, interface, to, length: 0, reaches_far }
    }

    #[test]
    fn who_cannot_have_heard_the_question_does_not_answer() {
        for (from, interface, near, far) in [
            ([10, 0, 0, 5], UPSTREAM, true, true),
            ([169, 254, 3, 4], UPSTREAM, true, true),
            // Behind a router, or on the internet.
            ([192, 0, 2, 5], UPSTREAM, false, true),
            // The host, a container of the same network, and one of another.
            ([10, 0, 0, 9], UPSTREAM, true, true),
            ([172, 18, 0, 1], BRIDGE, true, true),
            ([172, 17, 0, 3], BRIDGE, true, true),
            ([172, 18, 0, 3], BRIDGE, false, false),
        ] {
            let heard =
                [false, true].map(|far| neighbourhood().has_heard(&answer(from, interface, far)));
            assert_eq!(heard, [near, far], "{from:?} on {interface}");
        }
    }

    #[test]
    fn a_datagram_comes_whole_or_not_at_all() {
        let socket = open(Ipv4Addr::LOCALHOST, 0).unwrap();
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let payload = vec![7; 65_507];
        let mut buffer = vec![0; 65_507];
        for short in [0, 1] {
            sender.send_to(&payload, socket.local_addr().unwrap()).unwrap();
            let room = buffer.len() - short;
            let arrival = receive(&socket, &mut buffer[..room]);
            match short {
                0 => {
                    let arrival = arrival.unwrap_or_else(|error| panic!("{error}"));
                    assert_eq!((arrival.length, arrival.interface), (65_507, 1));
                }
                _ => assert_eq!(arrival.err().unwrap().raw_os_error(), Some(libc::EMSGSIZE)),
            }
        }
    }
}
