//! The relay of IPv6.

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use ipnet::{IpNet, Ipv6Net};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::net::ipv6_addresses::{Ipv6Addresses, Ipv6Interface};
use crate::net::raw_socket::raw_ipv6_sender;
use crate::proxy::container::injection::{
    ALL_NODES_OF_THE_INTERFACE, DESTINATION_OPTIONS, GROUP_AT, GROUP_OPTION, GROUP_OPTION_LENGTH,
    GROUP_OPTION_TYPE,
};
use crate::proxy::relay::family::{Arrival, HostAddresses, Relayed, prepare_answers};
use crate::proxy::relay::packet::{Shape, UDP};
use crate::proxy::relay::socket_filter;
use crate::sys::{ifreq, sockopt};

/// The length of the options in units of eight bytes, without the first (RFC 8200 §4.6).
const OPTIONS_LENGTH: u8 = (GROUP_OPTION / 8 - 1) as u8;
/// Padding to the end of the header (PadN, RFC 8200 §4.2).
const PADDING: [u8; 4] = [1, 2, 0, 0];
/// Offset of the next header.
const NEXT_HEADER: usize = 6;
/// The header of fragments (RFC 8200 §4.5), and its length.
const FRAGMENT: u8 = 44;
const FRAGMENT_HEADER: usize = 8;
/// What stands in front of the data of an injected fragment.
const INJECTED_HEADERS: usize = Ipv6Addr::HEADER + GROUP_OPTION;

impl Relayed for Ipv6Addr {
    const NAME: &'static str = "ipv6";
    const INJECTED_TO: Self = ALL_NODES_OF_THE_INTERFACE;
    const SELF_ASSIGNED: IpNet =
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10));
    /// They receive at all addresses: the source depends on the scope of the group.
    const ANSWERS_AT_ADDRESS: bool = false;

    type AddressFile = Ipv6Addresses;

    fn open_addresses() -> io::Result<Ipv6Addresses> {
        Ipv6Addresses::open()
    }

    fn addresses(_: &Socket, file: &Ipv6Addresses) -> io::Result<Vec<Self>> {
        Ok(file.read()?.into_iter().map(|found| found.address.addr()).collect())
    }

    fn networks(socket: &Socket, file: &Ipv6Addresses, name: &str) -> io::Result<Vec<IpNet>> {
        let index = ifreq::index(socket, name)?;
        let own = file.read()?.into_iter().filter(|found| found.index == index);
        Ok(own.map(|found| IpNet::V6(found.address)).collect())
    }

    /// Groups of the link are sent to from a link-local address, wider ones from another where there is
    /// one (RFC 6724 §5 rule 2).
    fn host_addresses(socket: &Socket, file: &Ipv6Addresses, name: &str) -> HostAddresses<Self> {
        let found = ifreq::index(socket, name).and_then(|index| {
            let all = file.read()?.into_iter();
            let own = all.filter(|found| found.index == index);
            Ok(own.filter(|found| found.is_certain && !found.is_deprecated).collect::<Vec<_>>())
        });
        let found = found.unwrap_or_default();
        let is_of_link = |found: &&Ipv6Interface| found.address.addr().is_unicast_link_local();
        let first = |of_link: bool| {
            let mut own = found.iter().filter(|found| is_of_link(found) == of_link);
            own.next().map(|found| found.address.addr())
        };
        let of_link = first(true);
        HostAddresses { of_link, wider: first(false).or(of_link) }
    }

    fn open_receiver(filter: &[SockFilter]) -> io::Result<Socket> {
        let udp = Protocol::from(i32::from(UDP));
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(udp))?;
        socket.attach_filter(filter)?;
        for option in [libc::IPV6_RECVPKTINFO, libc::IPV6_RECVHOPLIMIT] {
            sockopt::set_int(&socket, libc::IPPROTO_IPV6, option, 1)?;
        }
        Ok(socket)
    }

    fn open_sender() -> io::Result<Socket> {
        raw_ipv6_sender()
    }

    fn only(groups: &[Self]) -> Vec<SockFilter> {
        socket_filter::only_v6(groups)
    }

    fn all() -> Vec<SockFilter> {
        socket_filter::all_v6()
    }

    fn outgoing() -> Vec<SockFilter> {
        socket_filter::outgoing_v6().into()
    }

    fn make_injectable(slot: &mut [u8], length: usize) -> usize {
        let Some((options, packet)) = slot.split_at_mut_checked(GROUP_OPTION) else { return 0 };
        let Some((header, _)) = packet.split_at_mut_checked(Self::HEADER) else { return 0 };
        let mut group = [0; 16];
        group.copy_from_slice(&header[Self::SOURCE + Self::ADDRESS..]);
        // The header moves to the front, and the options take its end.
        let mut front = [0; INJECTED_HEADERS];
        front[..Self::HEADER].copy_from_slice(header);
        let whole = length + options.len();
        Self::set_length(&mut front, whole);
        front[NEXT_HEADER] = DESTINATION_OPTIONS;
        front[Self::SOURCE + Self::ADDRESS..Self::HEADER]
            .copy_from_slice(&Self::INJECTED_TO.octets());
        front[Self::HEADER..GROUP_AT].copy_from_slice(&[
            UDP,
            OPTIONS_LENGTH,
            GROUP_OPTION_TYPE,
            GROUP_OPTION_LENGTH,
        ]);
        front[GROUP_AT..GROUP_AT + group.len()].copy_from_slice(&group);
        front[GROUP_AT + group.len()..].copy_from_slice(&PADDING);
        slot[..INJECTED_HEADERS].copy_from_slice(&front);
        whole
    }

    fn injected_group(injectable: &[u8]) -> Option<Self> {
        let group = injectable.get(GROUP_AT..)?.first_chunk::<16>()?;
        Some(Ipv6Addr::from(*group))
    }

    /// Each fragment has the options in front of the header of fragments: the kernel puts together what
    /// has one group.
    fn split_injectable(
        injectable: &mut [u8],
        mtu: usize,
        identification: u16,
        each: &mut dyn FnMut(&mut [u8]),
    ) {
        let room = mtu.saturating_sub(INJECTED_HEADERS + FRAGMENT_HEADER) / 8 * 8;
        let Some((headers, data)) = injectable.split_at_checked(INJECTED_HEADERS) else { return };
        // What would be put together is longer than a packet can be.
        let is_too_long = injectable.len() > Self::HEADER + usize::from(u16::MAX);
        if room == 0 || is_too_long {
            return;
        }
        let mut fragment = Vec::with_capacity(INJECTED_HEADERS + FRAGMENT_HEADER + room);
        for (position, chunk) in data.chunks(room).enumerate() {
            let offset = position * room;
            let more = u16::from(offset + chunk.len() < data.len());
            fragment.clear();
            fragment.extend_from_slice(headers);
            fragment[Self::HEADER] = FRAGMENT;
            fragment.extend_from_slice(&[UDP, 0]);
            // The length of a datagram is at most 65535.
            fragment.extend_from_slice(&(offset as u16 | more).to_be_bytes());
            fragment.extend_from_slice(&u32::from(identification).to_be_bytes());
            fragment.extend_from_slice(chunk);
            let length = fragment.len();
            Self::set_length(&mut fragment, length);
            each(&mut fragment);
        }
    }

    fn open_answers(_: Self, port: u16) -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
        socket.set_only_v6(true)?;
        socket.bind(&SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0).into())?;
        let socket = socket.into();
        prepare_answers::<Self>(&socket, port)?;
        Ok(socket)
    }

    fn tell_interface(socket: BorrowedFd<'_>) -> io::Result<()> {
        sockopt::set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
    }

    fn receive_answer(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Arrival<Self>> {
        let mut control = nix::cmsg_space!(libc::in6_pktinfo);
        let mut parts = [io::IoSliceMut::new(buffer)];
        let fd = socket.as_fd().as_raw_fd();
        let message =
            recvmsg::<SockaddrIn6>(fd, &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
        if message.flags.contains(MsgFlags::MSG_TRUNC) {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        let interface = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(info.ipi6_ifindex),
            _ => None,
        });
        let from = message.address.ok_or(io::ErrorKind::InvalidData)?;
        let length = message.bytes;
        Ok(Arrival { from: (from.ip(), from.port()), interface: interface.unwrap_or(0), length })
    }
}

#[cfg(test)]
mod tests;
