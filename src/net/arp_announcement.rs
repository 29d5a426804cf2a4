//! Announces a new IPv4 address to its neighbours.
//!
//! With `arp_notify` the kernel sends a gratuitous ARP request when the link comes up. The
//! caller that sets the link up then waits until every other child of the parent has processed the
//! request, and each child looks up a route for a request (`arp_process` in net/ipv4/arp.c), which
//! doubles the time. A gratuitous ARP reply causes no route lookup. Some LAN equipment accepts
//! requests only. So the other children get a reply, and the LAN gets a request that does not pass
//! the children.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, RawFd};

use socket2::{Domain, SockAddr, SockAddrStorage, SockRef, Socket, Type};

use crate::primitives::MacAddr;
use crate::sys::sockopt;

/// The operation of a gratuitous ARP packet. RFC 5944 §4.6 has neighbours accept both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    /// As the kernel announces, and RFC 5227 §3 recommends.
    Request = 1,
    Reply = 2,
}

/// The announcement that the LAN gets, with its Ethernet header.
pub(crate) fn gratuitous_request(address: Ipv4Addr, mac: MacAddr) -> [u8; 42] {
    gratuitous_arp(Operation::Request, address, mac)
}

/// An announcement with its Ethernet header.
fn gratuitous_arp(operation: Operation, address: Ipv4Addr, mac: MacAddr) -> [u8; 42] {
    arp(operation, mac, address, address)
}

/// A question whose an address is, from no address (RFC 5227 §2.1.1), with its Ethernet header.
/// Nobody learns anything from it.
pub fn arp_probe(mac: MacAddr, address: Ipv4Addr) -> [u8; 42] {
    arp(Operation::Request, mac, Ipv4Addr::UNSPECIFIED, address)
}

fn arp(operation: Operation, mac: MacAddr, sender: Ipv4Addr, target: Ipv4Addr) -> [u8; 42] {
    let mut frame = [0; 42];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac.octets());
    frame[12..14].copy_from_slice(&(libc::ETH_P_ARP as u16).to_be_bytes());
    // Ethernet and IPv4 with their lengths.
    frame[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, operation as u8]);
    frame[22..28].copy_from_slice(&mac.octets());
    frame[28..32].copy_from_slice(&sender.octets());
    if operation == Operation::Reply {
        frame[32..38].copy_from_slice(&mac.octets());
    }
    frame[38..42].copy_from_slice(&target.octets());
    frame
}

/// A packet socket that can never receive anything. Closing it takes some tens of milliseconds: the kernel
/// waits until no processor uses the socket any more (`packet_release` in net/packet/af_packet.c).
#[derive(Debug)]
pub struct FrameSocket(Socket);

impl FrameSocket {
    /// Opens one in the caller's namespace.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW.
    pub fn open() -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        sockopt::receive_nothing(&socket)?;
        socket.set_nonblocking(true)?;
        Ok(FrameSocket(socket))
    }

    /// Sends a frame of ARP through the interface of this index.
    fn send(&self, index: u32, frame: &[u8]) -> io::Result<()> {
        let to = link_address(index, libc::ETH_P_ARP as u16);
        self.0.send_to(frame, &to).map(drop)
    }
}

impl AsFd for FrameSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The address of the interface of this index, for bind(2) and sendto(2) of a packet socket of this
/// protocol.
pub fn link_address(index: u32, protocol: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is one of the kernel's address types, which a storage holds, and the
    // length given is its own.
    unsafe {
        let link = storage.view_as::<libc::sockaddr_ll>();
        link.sll_family = libc::AF_PACKET as u16;
        link.sll_protocol = protocol.to_be();
        link.sll_ifindex = index.cast_signed();
        SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t)
    }
}

/// Index of the interface that a packet socket is bound to; 0: to none.
///
/// # Errors
/// Those of getsockname(2); `EINVAL` for a socket of another family.
pub fn bound_link(socket: &impl AsFd) -> io::Result<u32> {
    let address = SockRef::from(socket).local_addr()?;
    Ok(packet_address(&address)?.sll_ifindex.cast_unsigned())
}

/// The MAC address of the interface that a packet socket is bound to.
///
/// # Errors
/// Those of getsockname(2); `EINVAL` for a socket of another family, or for another kind of address.
pub fn bound_mac(socket: &impl AsFd) -> io::Result<MacAddr> {
    let address = SockRef::from(socket).local_addr()?;
    let link = packet_address(&address)?;
    let octets = link.sll_addr.get(..usize::from(link.sll_halen));
    octets.and_then(MacAddr::from_slice).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn packet_address(address: &SockAddr) -> io::Result<&libc::sockaddr_ll> {
    if address.family() != libc::AF_PACKET as u16 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the kernel has written the address of a packet socket, which a storage holds.
    Ok(unsafe { &*address.as_ptr().cast::<libc::sockaddr_ll>() })
}

/// A [`FrameSocket`] that sends on one interface, without naming it at each frame. So a filter of
/// system calls can forbid all other interfaces.
#[derive(Debug)]
pub struct BoundFrameSocket {
    socket: Socket,
    index: u32,
}

impl BoundFrameSocket {
    /// Opens one in the caller's namespace for the interface of this index, as descriptor `number`,
    /// which must not be in use.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW, `ENODEV` when there is no such interface, `EBADF` for a number
    /// beyond the limit of the process.
    pub fn open_as(index: u32, number: RawFd) -> io::Result<Self> {
        let FrameSocket(opened) = FrameSocket::open()?;
        // Protocol 0: nothing is received.
        opened.bind(&link_address(index, 0))?;
        // SAFETY: the caller says that nobody owns the number, and `opened` lives until the copy is
        // made.
        let socket = unsafe {
            let copy = libc::dup3(opened.as_raw_fd(), number, libc::O_CLOEXEC);
            if copy < 0 {
                return Err(io::Error::last_os_error());
            }
            Socket::from_raw_fd(copy)
        };
        Ok(BoundFrameSocket { socket, index })
    }

    /// By write(2). The `Write` of socket2 calls sendto(2), which the proxy's filter denies here.
    fn send(&self, frame: &[u8]) -> io::Result<()> {
        nix::unistd::write(&self.socket, frame)?;
        Ok(())
    }
}

/// Announces a container's IPv4 addresses.
#[derive(Debug)]
pub struct Announcer {
    /// In the host's namespace, on one parent; `None` where no descriptor was left for it.
    pub host: Option<BoundFrameSocket>,
    /// In the container's.
    pub container: FrameSocket,
}

impl Announcer {
    /// Announces an address on the container's Ethernet interface `child`, which is up, to the LAN
    /// by a request, and to the other children of the host's interface `parent` by a reply. Without
    /// `parent`, or if the host's socket is one of another interface, both get the same packets.
    ///
    /// # Errors
    /// Those of sendto(2), such as `ENETDOWN`.
    pub fn announce(
        &self,
        child: u32,
        parent: Option<u32>,
        address: Ipv4Addr,
        mac: MacAddr,
    ) -> io::Result<()> {
        let request = gratuitous_arp(Operation::Request, address, mac);
        let Some(host) = self.host.as_ref().filter(|host| Some(host.index) == parent) else {
            return self.container.send(child, &request);
        };
        let told = host.send(&request);
        self.container.send(child, &gratuitous_arp(Operation::Reply, address, mac)).and(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etherparse_reads_the_announcement() {
        let mac: MacAddr = "02:00:00:00:00:07".parse().unwrap();
        let own = mac.octets();
        for (operation, wanted, target) in [
            (Operation::Request, etherparse::ArpOperation::REQUEST, [0; 6]),
            (Operation::Reply, etherparse::ArpOperation::REPLY, own),
        ] {
            let frame = gratuitous_arp(operation, Ipv4Addr::new(192, 0, 2, 5), mac);
            let packet = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(etherparse::NetSlice::Arp(arp)) = packet.net else { panic!("{packet:?}") };
            assert_eq!(arp.operation(), wanted);
            assert_eq!((arp.sender_hw_addr(), arp.target_hw_addr()), (&own[..], &target[..]));
            assert_eq!(arp.sender_protocol_addr(), [192, 0, 2, 5]);
            assert_eq!(arp.target_protocol_addr(), [192, 0, 2, 5]);
        }
    }
}
