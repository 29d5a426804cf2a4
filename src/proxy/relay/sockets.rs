//! The sockets of a relay. Those that need a privilege are opened before the proxy drops it.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockFilter, Socket, Type};

use crate::net::raw_socket::{SpareReceiver, raw_ipv4_sender};
use crate::proxy::relay::batch::Parts;
use crate::proxy::relay::packet::{Packet, UDP};
use crate::proxy::relay::socket_filter;
use crate::sys::{ifreq, sockopt};

/// Receive buffer in bytes: 50 ms of a stream of 1 Gbit/s, whose packets occupy about twice their
/// size.
const RECEIVE_BUFFER: usize = 16 << 20;
/// How often an upstream interface may go and come again while one proxy runs. Each return takes
/// sockets that only a privileged process can open.
pub(crate) const RETURNS: usize = 4;
/// `PACKET_OUTGOING` and the option of linux/if_packet.h.
const PACKET_OUTGOING: u32 = 4;
const PACKET_VNET_HDR: i32 = 15;
/// Offsets of a filter's ancillary data and of the network header (linux/filter.h).
const ANCILLARY: u32 = libc::SKF_AD_OFF.cast_unsigned();
const NETWORK: u32 = libc::SKF_NET_OFF.cast_unsigned();

/// The sockets in the host's network namespace.
pub(crate) struct HostSockets {
    /// Receives whole UDP packets that arrive on the upstream interface for any group.
    receiver: Socket,
    /// Whether the receiver's filter can be set. If not, packets of all groups are received.
    is_filtered: bool,
    /// Sends whole IPv4 packets out of the upstream interface.
    pub(super) sender: Socket,
    /// For an interface of the same name that comes after the upstream interface has gone.
    spares: Vec<SpareReceiver>,
}

impl HostSockets {
    /// Opens them in the caller's network namespace, for the interface of this name and index.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW, `ENODEV` when there is no such interface.
    pub(crate) fn open(name: &str, index: u32) -> io::Result<Self> {
        let receiver = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(i32::from(UDP))))?;
        // Attached before the socket is bound, so that no other packet is ever queued.
        receiver.attach_filter(&socket_filter::only(&[]))?;
        receiver.bind_device(Some(name.as_bytes()))?;
        sockopt::grow_receive_buffer(&receiver, RECEIVE_BUFFER)?;
        receiver.set_nonblocking(true)?;
        let sender = raw_ipv4_sender()?;
        sockopt::set_multicast_interface(&sender, index, Ipv4Addr::UNSPECIFIED.into())?;
        let spare = || SpareReceiver::open(i32::from(UDP), &socket_filter::all(), RECEIVE_BUFFER);
        let spares = std::iter::repeat_with(spare).take(RETURNS).collect::<io::Result<_>>()?;
        Ok(HostSockets { receiver, is_filtered: true, sender, spares })
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
    pub(super) fn receive_only(&self, groups: &[Ipv4Addr]) -> io::Result<()> {
        match self.is_filtered {
            true => self.receiver.attach_filter(&socket_filter::only(groups)),
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
        sockopt::set_multicast_interface(&self.sender, index, Ipv4Addr::UNSPECIFIED.into())
    }
}

/// The sockets in the container's network namespace.
pub(crate) struct ContainerSockets {
    /// Injects whole IPv4 packets into the container; see
    /// [`crate::proxy::container::injection::QueryInjector`].
    pub(super) injector: Socket,
    /// Captures the UDP multicast that the container sends.
    pub(super) capture: Socket,
}

impl ContainerSockets {
    /// Opens them in the caller's network namespace, without an interface yet. Injected packets
    /// carry `mark`.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW and CAP_NET_ADMIN.
    pub(crate) fn open(mark: u32) -> io::Result<Self> {
        let injector = raw_ipv4_sender()?;
        injector.set_mark(mark)?;
        // Protocol 0: the socket receives nothing before it is bound.
        let capture = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        capture.attach_filter(&outgoing_multicast())?;
        sockopt::lock_filter(&capture)?;
        sockopt::set_int(&capture, libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        sockopt::grow_receive_buffer(&capture, RECEIVE_BUFFER)?;
        capture.set_nonblocking(true)?;
        Ok(ContainerSockets { injector, capture })
    }

    /// Turns them to the interface of this index.
    ///
    /// # Errors
    /// `ENODEV` when it is gone.
    pub(super) fn set_interface(&self, index: u32) -> io::Result<()> {
        sockopt::set_multicast_interface(&self.injector, index, Ipv4Addr::UNSPECIFIED.into())?;
        let all = (libc::ETH_P_ALL as u16).to_be();
        self.capture.bind(&link_address(index, all))
    }
}

/// Sends a packet in fragments after the kernel refused it for its length (EMSGSIZE): with
/// IP_HDRINCL the kernel does not fragment (`raw_send_hdrinc` in net/ipv4/raw.c). The packet gets
/// the identification if it has none: the kernel would give each fragment another one. Returns
/// `false` when the refusal had another reason, or a fragment was refused.
pub(super) fn send_fragments(
    socket: &Socket,
    interface: &str,
    mut packet: Packet<'_>,
    identification: u16,
    to: Ipv4Addr,
    refusal: &io::Error,
    parts: &mut Parts<'_>,
) -> bool {
    if refusal.raw_os_error() != Some(libc::EMSGSIZE) {
        return false;
    }
    let Ok(mtu) = ifreq::mtu(socket, interface) else { return false };
    packet.identify(identification);
    let mut whole = true;
    parts.begin(Some(packet.fragments(mtu)));
    packet.fragment(mtu, |part| whole &= parts.send(socket, part, to).is_ok());
    whole
}

/// The destination of a raw socket's packet.
pub(super) fn socket_address(address: Ipv4Addr) -> SockAddr {
    SocketAddrV4::new(address, 0).into()
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

/// A classic BPF program that accepts outgoing, untagged IPv4 UDP packets to a group whose TTL is
/// not 0.
fn outgoing_multicast() -> [SockFilter; 15] {
    let op = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    let word = |at| op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, at);
    let byte = |at| op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, at);
    let equal = |jf, value| op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, jf, value);
    let at_least = |jt, jf, value| op(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, jt, jf, value);
    [
        word(ANCILLARY.wrapping_add(libc::SKF_AD_PKTTYPE as u32)),
        equal(12, PACKET_OUTGOING),
        word(ANCILLARY.wrapping_add(libc::SKF_AD_PROTOCOL as u32)),
        equal(10, libc::ETH_P_IP as u32),
        word(ANCILLARY.wrapping_add(libc::SKF_AD_VLAN_TAG_PRESENT as u32)),
        equal(8, 0),
        byte(NETWORK + 9),
        equal(6, u32::from(UDP)),
        byte(NETWORK + 8),
        at_least(0, 4, 1),
        byte(NETWORK + 16),
        at_least(0, 2, 224),
        at_least(1, 0, 240),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}
