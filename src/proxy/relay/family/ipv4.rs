//! The relay of IPv4.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use ipnet::{IpNet, Ipv4Net};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::multicast::Address;
use crate::net::raw_socket::raw_ipv4_sender;
use crate::proxy::relay::family::{Arrival, HostAddresses, Relayed, prepare_answers};
use crate::proxy::relay::packet::{Packet, Shape, UDP};
use crate::proxy::relay::socket_filter;
use crate::sys::{ifreq, sockopt};

impl Relayed for Ipv4Addr {
    const NAME: &'static str = "ipv4";
    /// The route to it exists on every interface, which has joined it.
    const INJECTED_TO: Self = Ipv4Addr::ALL_SYSTEMS;
    const SELF_ASSIGNED: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16));
    const ANSWERS_AT_ADDRESS: bool = true;

    /// A socket shows all.
    type AddressFile = ();

    fn open_addresses() -> io::Result<()> {
        Ok(())
    }

    fn addresses(socket: &Socket, (): &()) -> io::Result<Vec<Self>> {
        ifreq::addresses(socket)
    }

    fn networks(socket: &Socket, (): &(), name: &str) -> io::Result<Vec<IpNet>> {
        Ok(ifreq::networks(socket, name)?.into_iter().map(IpNet::V4).collect())
    }

    fn host_addresses(socket: &Socket, (): &(), name: &str) -> HostAddresses<Self> {
        HostAddresses::of(ifreq::address(socket, name).unwrap_or(None))
    }

    fn open_receiver(filter: &[SockFilter]) -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(i32::from(UDP))))?;
        socket.attach_filter(filter)?;
        Ok(socket)
    }

    fn open_sender() -> io::Result<Socket> {
        raw_ipv4_sender()
    }

    fn only(groups: &[Self]) -> Vec<SockFilter> {
        socket_filter::only(groups)
    }

    fn all() -> Vec<SockFilter> {
        socket_filter::all()
    }

    fn outgoing() -> Vec<SockFilter> {
        socket_filter::outgoing().into()
    }

    fn make_injectable(slot: &mut [u8], length: usize) -> usize {
        if let Some(ttl) = slot.get_mut(Self::HOP_LIMIT) {
            *ttl = 0;
        }
        length
    }

    fn injected_group(injectable: &[u8]) -> Option<Self> {
        let group = injectable.get(Self::SOURCE + Self::ADDRESS..)?.first_chunk::<4>()?;
        Some(Ipv4Addr::from(*group))
    }

    fn split_injectable(
        injectable: &mut [u8],
        mtu: usize,
        identification: u16,
        each: &mut dyn FnMut(&mut [u8]),
    ) {
        if let Some(mut packet) = Packet::<Self>::parse(injectable) {
            packet.identify(identification);
            packet.fragment(mtu, identification.into(), each);
        }
    }

    fn open_answers(host: Self, port: u16) -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind((host, port))?;
        prepare_answers::<Self>(&socket, port)?;
        Ok(socket)
    }

    fn tell_interface(socket: BorrowedFd<'_>) -> io::Result<()> {
        sockopt::set_int(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
    }

    fn receive_answer(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Arrival<Self>> {
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
}
