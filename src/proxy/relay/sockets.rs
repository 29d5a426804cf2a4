//! The sockets of a relay. Those that need a privilege are opened before the proxy drops it.

use std::io;
use std::net::Ipv4Addr;

use ipnet::IpNet;
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::net::raw_socket::SpareReceiver;
use crate::proxy::relay::batch::Parts;
use crate::proxy::relay::family::{HostAddresses, Relayed};
use crate::proxy::relay::packet::Packet;
use crate::sys::{ifreq, sockopt};

/// Receive buffer in bytes: 50 ms of a stream of 1 Gbit/s, whose packets occupy about twice their
/// size.
const RECEIVE_BUFFER: usize = 16 << 20;
/// How often an upstream interface may go and come again while one proxy runs. Each return takes
/// sockets that only a privileged process can open.
pub(crate) const RETURNS: usize = 4;
/// The option of linux/if_packet.h.
const PACKET_VNET_HDR: i32 = 15;

/// The sockets in the host's network namespace.
pub(crate) struct HostSockets<A: Relayed = Ipv4Addr> {
    /// Receives whole UDP packets that arrive on the upstream interface for any group.
    receiver: Socket,
    /// Whether the receiver's filter can be set. If not, packets of all groups are received.
    is_filtered: bool,
    /// Sends whole packets out of the upstream interface.
    pub(super) sender: Socket,
    /// For an interface of the same name that comes after the upstream interface has gone.
    spares: Vec<SpareReceiver>,
    addresses: A::AddressFile,
}

impl<A: Relayed> HostSockets<A> {
    /// Opens them in the caller's network namespace, for the interface of this name and index.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW, `ENODEV` when there is no such interface.
    pub(crate) fn open(name: &str, index: u32) -> io::Result<Self> {
        // With the filter from the start, so that no other packet is ever queued.
        let receiver = A::open_receiver(&A::only(&[]))?;
        receiver.bind_device(Some(name.as_bytes()))?;
        sockopt::grow_receive_buffer(&receiver, RECEIVE_BUFFER)?;
        receiver.set_nonblocking(true)?;
        let sender = A::open_sender()?;
        sockopt::set_multicast_interface(&sender, index, A::UNSPECIFIED.into())?;
        let all = A::all();
        let anywhere = A::UNSPECIFIED.into();
        let spare = || SpareReceiver::open(A::open_receiver(&all)?, anywhere, &all, RECEIVE_BUFFER);
        let spares = std::iter::repeat_with(spare).take(RETURNS).collect::<io::Result<_>>()?;
        let addresses = A::open_addresses()?;
        Ok(HostSockets { receiver, is_filtered: true, sender, spares, addresses })
    }

    /// The socket that receives.
    pub(super) fn receiver(&self) -> &Socket {
        &self.receiver
    }

    /// Whether the receiver's filter can be set.
    pub(super) fn is_filtered(&self) -> bool {
        self.is_filtered
    }

    /// Receives by the socket of the predecessor.
    pub(super) fn take_over_receiver(&mut self, receiver: Socket, is_filtered: bool) {
        self.receiver = receiver;
        self.is_filtered = is_filtered;
    }

    /// Receives these groups from now on, and possibly others.
    ///
    /// # Errors
    /// `ENOMEM`: the kernel has no room for the filter.
    pub(super) fn receive_only(&self, groups: &[A]) -> io::Result<()> {
        match self.is_filtered {
            true => self.receiver.attach_filter(&A::only(groups)),
            false => Ok(()),
        }
    }

    /// Turns to an interface that has come again under the same name.
    ///
    /// # Errors
    /// `ENODEV` when it has gone again; `ENOBUFS` when it has come more often than [`RETURNS`].
    pub(super) fn follow(&mut self, name: &str, index: u32) -> io::Result<()> {
        let spare = self.spares.pop().ok_or(io::Error::from_raw_os_error(libc::ENOBUFS))?;
        self.receiver = spare.turn_to(name)?;
        self.is_filtered = false;
        sockopt::set_multicast_interface(&self.sender, index, A::UNSPECIFIED.into())
    }

    /// All addresses of the host.
    ///
    /// # Errors
    /// As [`Relayed::addresses`].
    pub(super) fn all_addresses(&self) -> io::Result<Vec<A>> {
        A::addresses(&self.sender, &self.addresses)
    }

    /// The subnets of an interface.
    ///
    /// # Errors
    /// As [`Relayed::networks`].
    pub(super) fn networks(&self, name: &str) -> io::Result<Vec<IpNet>> {
        A::networks(&self.sender, &self.addresses, name)
    }

    /// The addresses of an interface that packets leave with.
    pub(super) fn addresses_of(&self, name: &str) -> HostAddresses<A> {
        A::host_addresses(&self.sender, &self.addresses, name)
    }
}

/// The sockets in the container's network namespace.
pub(crate) struct ContainerSockets<A: Relayed = Ipv4Addr> {
    /// Injects whole packets into the container; see [`crate::proxy::relay::family`].
    pub(super) injector: Socket,
    /// Captures the UDP multicast that the container sends.
    pub(super) capture: Socket,
    addresses: A::AddressFile,
    /// Index of the interface; 0: none is known.
    index: u32,
}

impl<A: Relayed> ContainerSockets<A> {
    /// Opens them in the caller's network namespace, without an interface yet. Injected packets
    /// carry `mark`.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW and CAP_NET_ADMIN.
    pub(crate) fn open(mark: u32) -> io::Result<Self> {
        let injector = A::open_sender()?;
        injector.set_mark(mark)?;
        // Protocol 0: the socket receives nothing before it is bound.
        let capture = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        capture.attach_filter(&A::outgoing())?;
        sockopt::lock_filter(&capture)?;
        sockopt::set_int(&capture, libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        sockopt::grow_receive_buffer(&capture, RECEIVE_BUFFER)?;
        capture.set_nonblocking(true)?;
        let addresses = A::open_addresses()?;
        Ok(ContainerSockets { injector, capture, addresses, index: 0 })
    }

    /// Turns them to the interface of this index.
    ///
    /// # Errors
    /// `ENODEV` when it is gone.
    pub(super) fn set_interface(&mut self, index: u32) -> io::Result<()> {
        self.index = index;
        sockopt::set_multicast_interface(&self.injector, index, A::UNSPECIFIED.into())?;
        let all = (libc::ETH_P_ALL as u16).to_be();
        self.capture.bind(&link_address(index, all))
    }

    /// Captures by the socket of the predecessor.
    ///
    /// # Errors
    /// As [`set_interface`](Self::set_interface), if an interface is known.
    pub(super) fn take_over_capture(&mut self, capture: Socket) -> io::Result<()> {
        self.capture = capture;
        if self.index == 0 { Ok(()) } else { self.set_interface(self.index) }
    }

    /// Index of the interface; 0: none is known.
    pub(super) fn index(&self) -> u32 {
        self.index
    }

    /// All addresses of the container.
    ///
    /// # Errors
    /// As [`Relayed::addresses`].
    pub(super) fn all_addresses(&self) -> io::Result<Vec<A>> {
        A::addresses(&self.injector, &self.addresses)
    }

    /// The subnets of an interface.
    ///
    /// # Errors
    /// As [`Relayed::networks`].
    pub(super) fn networks(&self, name: &str) -> io::Result<Vec<IpNet>> {
        A::networks(&self.injector, &self.addresses, name)
    }
}

/// Sends a packet in fragments after the kernel refused it for its length (EMSGSIZE): a socket for whole
/// packets does not fragment (`raw_send_hdrinc` in net/ipv4/raw.c, `rawv6_send_hdrinc` in
/// net/ipv6/raw.c). The packet gets the identification if it has none: the kernel would give each
/// fragment another one. Returns `false` when the refusal had another reason, or a fragment was refused.
pub(super) fn send_fragments<A: Relayed>(
    socket: &Socket,
    interface: &str,
    mut packet: Packet<'_, A>,
    identification: u16,
    to: A::SocketAddress,
    refusal: &io::Error,
    parts: &mut Parts<'_, A>,
) -> bool {
    let Some(mtu) = mtu_after(socket, interface, refusal) else { return false };
    packet.identify(identification);
    let mut whole = true;
    parts.begin(Some(packet.fragments(mtu)));
    packet.fragment(mtu, identification.into(), |part| {
        whole &= parts.send(socket, part, to).is_ok();
    });
    whole
}

/// The same for a packet that is injected.
pub(super) fn inject_fragments<A: Relayed>(
    socket: &Socket,
    interface: &str,
    injectable: &mut [u8],
    identification: u16,
    refusal: &io::Error,
    parts: &mut Parts<'_, A>,
) -> bool {
    let Some(mtu) = mtu_after(socket, interface, refusal) else { return false };
    let to = A::INJECTED_TO.socket_address(0);
    let mut count = 0;
    A::split_injectable(injectable, mtu, identification, &mut |_| count += 1);
    let mut whole = count > 0;
    parts.begin(Some(count));
    A::split_injectable(injectable, mtu, identification, &mut |part| {
        whole &= parts.send(socket, part, to).is_ok();
    });
    whole
}

/// The MTU of the interface where a packet was refused for its length.
fn mtu_after(socket: &Socket, interface: &str, refusal: &io::Error) -> Option<usize> {
    (refusal.raw_os_error() == Some(libc::EMSGSIZE)).then_some(())?;
    ifreq::mtu(socket, interface).ok()
}

fn link_address(index: u32, protocol: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is one of the kernel's address types, which a storage holds, and the
    // length given is its own.
    unsafe {
        let address = storage.view_as::<libc::sockaddr_ll>();
        address.sll_family = libc::AF_PACKET as libc::sa_family_t;
        address.sll_protocol = protocol;
        address.sll_ifindex = index.cast_signed();
        SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t)
    }
}
