//! What differs between IPv4 and IPv6 in the relay, except the headers ([`Shape`]) and the arguments of
//! system calls ([`Wire`]).
//!
//! **How a packet is injected.** The container's kernel returns a packet that the proxy sends to a group
//! as if the packet had arrived, and must not send it.
//!
//! IPv4: TTL 0 keeps the packet in the container, whoever has joined
//! ([`QueryInjector`](crate::proxy::container::injection::QueryInjector)).
//!
//! IPv6: hop limit 0 keeps only what somebody has joined (`ip6_finish_output2` in
//! net/ipv6/ip6_output.c), and a group may be left at any moment. So the packet is sent to ff01::1,
//! which no kernel sends anywhere, with its group in a destination option (RFC 8200 §4.6), and a rule of
//! the container's table puts the group in place where the packet comes back
//! ([`crate::proxy::container::rules`]). If nobody has joined the group any more, the kernel drops the
//! packet there. The hop limit is the sender's.

mod ipv4;
mod ipv6;

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd};

use ipnet::IpNet;
use socket2::{SockFilter, Socket};

use crate::bpf::relay::KernelRelayed;
use crate::multicast::Address;
use crate::proxy::relay::batch::Wire;
use crate::proxy::relay::packet::Shape;

/// An address family that can be relayed.
pub(crate) trait Relayed: Shape + Wire + KernelRelayed {
    /// Name of the family, in what is handed over.
    const NAME: &'static str;
    /// Where injected packets are sent.
    const INJECTED_TO: Self;
    /// Addresses that a host gives itself on its link (RFC 3927 §2.1, RFC 4291 §2.5.6).
    const SELF_ASSIGNED: IpNet;
    /// Whether the sockets that receive answers are bound to an address of the host, so that another
    /// address makes them useless.
    const ANSWERS_AT_ADDRESS: bool;

    /// What shows the addresses of a namespace, beside any socket of it.
    type AddressFile;

    /// Opens it in the caller's namespace.
    ///
    /// # Errors
    /// Those of open(2).
    fn open_addresses() -> io::Result<Self::AddressFile>;

    /// All addresses of a namespace, of which this is a socket.
    ///
    /// # Errors
    /// Those of ioctl(2) and read(2).
    fn addresses(socket: &Socket, file: &Self::AddressFile) -> io::Result<Vec<Self>>;

    /// The addresses of an interface, with the prefixes of their subnets.
    ///
    /// # Errors
    /// As [`addresses`](Self::addresses).
    fn networks(socket: &Socket, file: &Self::AddressFile, name: &str) -> io::Result<Vec<IpNet>>;

    /// The addresses of an interface that packets leave with.
    fn host_addresses(socket: &Socket, file: &Self::AddressFile, name: &str)
    -> HostAddresses<Self>;

    /// Opens a raw UDP socket with a filter, which is to receive from an interface of the host.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW.
    fn open_receiver(filter: &[SockFilter]) -> io::Result<Socket>;

    /// Opens a socket for whole packets.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW.
    fn open_sender() -> io::Result<Socket>;

    /// The filter of a receiver for these groups, which ascend. For too many groups, all multicast is
    /// accepted: the relay looks the group up in any case.
    fn only(groups: &[Self]) -> Vec<SockFilter>;

    /// The filter that accepts all multicast.
    fn all() -> Vec<SockFilter>;

    /// The filter of the capture: outgoing, untagged UDP to a group that may leave the host.
    fn outgoing() -> Vec<SockFilter>;

    /// Makes of a packet in its slot, where it begins at [`START`](Wire::START) and has this length, one
    /// that can be injected. Returns the length, from the beginning of the slot.
    fn make_injectable(slot: &mut [u8], length: usize) -> usize;

    /// The group of a packet that is injected.
    fn injected_group(injectable: &[u8]) -> Option<Self>;

    /// Gives the parts of a packet that is too long to be injected as one.
    fn split_injectable(
        injectable: &mut [u8],
        mtu: usize,
        identification: u16,
        each: &mut dyn FnMut(&mut [u8]),
    );

    /// Opens a socket that receives answers to a port of the host's address, or to any free port if
    /// `port` is 0. Nobody else may have the port, and each datagram tells where it arrived.
    ///
    /// # Errors
    /// `EADDRINUSE` when another program has the port.
    fn open_answers(host: Self, port: u16) -> io::Result<UdpSocket>;

    /// Has a socket tell with each datagram where it has arrived.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    fn tell_interface(socket: BorrowedFd<'_>) -> io::Result<()>;

    /// Receives one answer.
    ///
    /// # Errors
    /// Those of recvmsg(2); `EMSGSIZE` when the datagram is longer than the buffer.
    fn receive_answer(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Arrival<Self>>;
}

/// A datagram that has arrived at a port of the host.
pub(crate) struct Arrival<A> {
    /// Address and port of its sender.
    pub(super) from: (A, u16),
    /// Index of the host's interface where it has arrived.
    pub(super) interface: u32,
    /// Bytes of the buffer that were filled.
    pub(super) length: usize,
}

/// The addresses of the host that packets leave with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HostAddresses<A> {
    /// To groups of link scope.
    pub(super) of_link: Option<A>,
    /// To all others.
    pub(super) wider: Option<A>,
}

impl<A: Address> HostAddresses<A> {
    /// The same address to all groups; `None`: the host has none.
    pub(super) fn of(address: Option<A>) -> Self {
        HostAddresses { of_link: address, wider: address }
    }

    /// The address that packets to a group leave with.
    pub(super) fn towards(&self, group: A) -> Option<A> {
        if group.is_link_scope() { self.of_link } else { self.wider }
    }
}

/// Whether a socket keeps an address from others: the options that are the same for both families.
fn prepare_answers<A: Relayed>(socket: &UdpSocket, port: u16) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    A::tell_interface(socket.as_fd())?;
    // A responder of the host that starts later, such as avahi-daemon, sets the option too. The
    // kernel gives no port away that it has given away before.
    if port != 0 {
        crate::sys::sockopt::set_int(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    }
    Ok(())
}
