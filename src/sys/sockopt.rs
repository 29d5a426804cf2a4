//! Multicast membership of a socket, by interface index and for both address families
//! (RFC 3678 §5: the protocol-independent socket options).
//!
//! The older `IP_ADD_MEMBERSHIP` family names an interface by one of its addresses or cannot
//! carry a source filter together with an index; an interface of a media network often has no
//! address at all. The `MCAST_*` options used here take the index, and 0 lets the kernel's
//! route to the group decide.
//!
//! A membership belongs to the socket: it ends when the last descriptor of it is closed.

use std::io;
use std::mem::{offset_of, size_of, size_of_val};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd};

/// Joins `group` from any source: EXCLUDE of nothing.
///
/// # Errors
/// As `setsockopt`: `EADDRINUSE` when this socket has already joined it there, `ENODEV` when
/// there is no such interface, `ENOBUFS` when the socket has `net.ipv4.igmp_max_memberships`
/// groups, `EINVAL` when `group` is not multicast.
pub fn join_group(fd: impl AsFd, ifindex: u32, group: impl Into<IpAddr>) -> io::Result<()> {
    let group = group.into();
    set(fd, group, libc::MCAST_JOIN_GROUP, &group_req(ifindex, group))
}

/// Leaves `group` altogether, whatever its source filter is.
///
/// # Errors
/// As `setsockopt`: `EADDRNOTAVAIL` when the socket has not joined it there.
pub fn leave_group(fd: impl AsFd, ifindex: u32, group: impl Into<IpAddr>) -> io::Result<()> {
    let group = group.into();
    set(fd, group, libc::MCAST_LEAVE_GROUP, &group_req(ifindex, group))
}

/// Adds `source` to an INCLUDE filter of `group`; the first one joins.
///
/// `group` and `source` are of one address family.
///
/// # Errors
/// As `setsockopt`: `EADDRNOTAVAIL` when the source is there already, `EINVAL` when the
/// socket's filter is EXCLUDE, `ENOBUFS` beyond `net.ipv4.igmp_max_msf` sources.
pub fn join_source_group<A: Into<IpAddr>>(
    fd: impl AsFd,
    ifindex: u32,
    group: A,
    source: A,
) -> io::Result<()> {
    let (group, source) = (group.into(), source.into());
    let request = group_source_req(ifindex, group, source);
    set(fd, group, libc::MCAST_JOIN_SOURCE_GROUP, &request)
}

/// Takes `source` away from an INCLUDE filter of `group`; the last one leaves.
///
/// # Errors
/// As `setsockopt`: `EADDRNOTAVAIL` when the source is not there, `EINVAL` when the group is
/// not joined or the filter is EXCLUDE.
pub fn leave_source_group<A: Into<IpAddr>>(
    fd: impl AsFd,
    ifindex: u32,
    group: A,
    source: A,
) -> io::Result<()> {
    let (group, source) = (group.into(), source.into());
    let request = group_source_req(ifindex, group, source);
    set(fd, group, libc::MCAST_LEAVE_SOURCE_GROUP, &request)
}

/// Receives a group that the socket has joined from these sources only: replaces the source filter
/// by INCLUDE of them, in one step. INCLUDE of nothing leaves the group.
///
/// The kernel reports the difference and nothing wider in between (`ip_mc_msfilter` in
/// net/ipv4/igmp.c). The socket must be a member already, by [`join_source_group`] or
/// [`join_group`]. `group` and `sources` are of one address family.
///
/// # Errors
/// As `setsockopt`: `EINVAL` when the socket has not joined `group` there, `ENOBUFS` beyond
/// `net.ipv4.igmp_max_msf` sources or when the list is longer than `net.core.optmem_max`.
pub fn include_sources<A: Into<IpAddr>>(
    fd: impl AsFd,
    ifindex: u32,
    group: A,
    sources: impl IntoIterator<Item = A>,
) -> io::Result<()> {
    set_filter(fd, ifindex, group.into(), libc::MCAST_INCLUDE, sources)
}

/// Receives a group that the socket has joined from all sources except these: replaces the source
/// filter by EXCLUDE of them, in one step, as [`include_sources`] does.
///
/// # Errors
/// As [`include_sources`].
pub fn exclude_sources<A: Into<IpAddr>>(
    fd: impl AsFd,
    ifindex: u32,
    group: A,
    sources: impl IntoIterator<Item = A>,
) -> io::Result<()> {
    set_filter(fd, ifindex, group.into(), libc::MCAST_EXCLUDE, sources)
}

fn set_filter<A: Into<IpAddr>>(
    fd: impl AsFd,
    ifindex: u32,
    group: IpAddr,
    mode: libc::c_int,
    sources: impl IntoIterator<Item = A>,
) -> io::Result<()> {
    let sources: Vec<IpAddr> = sources.into_iter().map(Into::into).collect();
    set(fd, group, libc::MCAST_MSFILTER, &group_filter(ifindex, group, mode, &sources))
}

/// Has the interface of this index receive frames to a multicast MAC address, for as long as the packet
/// socket exists (packet(7)).
///
/// # Errors
/// As setsockopt(2): `ENODEV` when there is no such interface.
pub fn receive_mac(fd: impl AsFd, ifindex: u32, mac: [u8; 6]) -> io::Result<()> {
    set_raw(fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &packet_mreq(ifindex, mac))
}

/// `struct packet_mreq` for a multicast MAC address.
pub fn packet_mreq(ifindex: u32, mac: [u8; 6]) -> [u8; size_of::<libc::packet_mreq>()] {
    let mut request = [0; size_of::<libc::packet_mreq>()];
    request[..4].copy_from_slice(&ifindex.to_ne_bytes());
    request[4..6].copy_from_slice(&(libc::PACKET_MR_MULTICAST as u16).to_ne_bytes());
    request[6..8].copy_from_slice(&(mac.len() as u16).to_ne_bytes());
    request[8..][..mac.len()].copy_from_slice(&mac);
    request
}

/// Whether the socket itself has joined `group` on the interface, with whatever source filter. The
/// call waits for the kernel's lock of interfaces (rtnl).
pub fn is_member(fd: impl AsFd, ifindex: u32, group: Ipv4Addr) -> bool {
    let mut filter = group_filter(ifindex, group.into(), 0, &[]);
    let mut length = filter.len() as libc::socklen_t;
    // SAFETY: the descriptor is borrowed for the call, and the kernel writes at most `length` bytes
    // at `filter`, which is that long.
    let result = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::IPPROTO_IP,
            libc::MCAST_MSFILTER,
            filter.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    // EADDRNOTAVAIL without a membership (`ip_mc_gsfget` in net/ipv4/igmp.c).
    result == 0
}

/// Asks for a receive buffer of `bytes`, beyond `net.core.rmem_max` where the process has
/// `CAP_NET_ADMIN` in the user namespace of its network namespace. Returns the size in bytes that
/// the kernel granted, including its own bookkeeping (twice the payload bytes, socket(7)).
///
/// # Errors
/// Only when `fd` is not a socket: a smaller buffer is not an error.
pub fn grow_receive_buffer(fd: impl AsFd, bytes: usize) -> io::Result<usize> {
    let fd = fd.as_fd();
    let wanted = i32::try_from(bytes).unwrap_or(i32::MAX);
    if set_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, wanted).is_err() {
        set_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, wanted)?;
    }
    let granted = nix::sys::socket::getsockopt(&fd, nix::sys::socket::sockopt::RcvBuf)?;
    Ok(granted)
}

/// Packets that the kernel dropped because the socket's receive buffer was full, since the socket
/// was made. Wraps at 2^32. (`SK_MEMINFO_DROPS` of `SO_MEMINFO`. `SO_RXQ_OVFL` is the same number,
/// and comes only with the next packet.)
///
/// # Errors
/// As getsockopt(2).
pub fn dropped(fd: impl AsFd) -> io::Result<u32> {
    const DROPS: usize = libc::SK_MEMINFO_DROPS as usize;
    let mut values = [0u32; DROPS + 1];
    let mut length = size_of_val(&values) as libc::socklen_t;
    // SAFETY: the descriptor is borrowed for the call, and the kernel writes at most `length`
    // bytes to `values`, which is that long.
    let result = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(values[DROPS]) } else { Err(io::Error::last_os_error()) }
}

/// Sends multicast of the address family of `group` through the interface with this index, which
/// needs no address; 0: through the one of the route to the destination.
///
/// # Errors
/// As setsockopt(2): `EADDRNOTAVAIL` when there is no such interface.
pub fn set_multicast_interface(fd: impl AsFd, ifindex: u32, group: IpAddr) -> io::Result<()> {
    match group {
        IpAddr::V4(_) => {
            // struct ip_mreqn: two addresses, then the index.
            let mut request = [0; size_of::<libc::ip_mreqn>()];
            let at = offset_of!(libc::ip_mreqn, imr_ifindex);
            request[at..at + 4].copy_from_slice(&ifindex.to_ne_bytes());
            set_raw(fd, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, &request)
        }
        IpAddr::V6(_) => {
            set_raw(fd, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, &ifindex.to_ne_bytes())
        }
    }
}

/// Makes a socket that is only written receive nothing, for as long as it exists: its socket filter
/// drops everything, and nobody can change it (`SO_LOCK_FILTER`).
///
/// # Errors
/// As setsockopt(2).
pub fn receive_nothing(socket: &socket2::Socket) -> io::Result<()> {
    let drop_all = socket2::SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0);
    socket.attach_filter(&[drop_all])?;
    lock_filter(socket)
}

/// Keeps a socket's filter as it is, for as long as the socket exists.
///
/// # Errors
/// As setsockopt(2).
pub fn lock_filter(fd: impl AsFd) -> io::Result<()> {
    set_int(fd, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 1)
}

/// Sets an option whose value is a C `int`.
///
/// # Errors
/// As `setsockopt`.
pub fn set_int(fd: impl AsFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    set_raw(fd, level, option, &value.to_ne_bytes())
}

/// Sets an option whose value is bytes, such as IP_OPTIONS.
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_bytes(fd: impl AsFd, level: i32, option: i32, value: &[u8]) -> io::Result<()> {
    set_raw(fd, level, option, value)
}

fn set(fd: impl AsFd, group: IpAddr, option: i32, value: &[u8]) -> io::Result<()> {
    let level = match group {
        IpAddr::V4(_) => libc::IPPROTO_IP,
        IpAddr::V6(_) => libc::IPPROTO_IPV6,
    };
    set_raw(fd, level, option, value)
}

fn set_raw(fd: impl AsFd, level: i32, option: i32, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is borrowed for the call, and the kernel reads `length` bytes at
    // `value`, which is that long; it asks for no alignment (it copies).
    let result = unsafe {
        libc::setsockopt(fd.as_fd().as_raw_fd(), level, option, value.as_ptr().cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

// The structures are laid out as bytes at the offsets of libc's types: every padding byte is
// then zero for certain, and no struct of references or unions is needed.

const STORAGE: usize = size_of::<libc::sockaddr_storage>();
/// `gr_group`, which is also `gsr_group` and `gf_group`: all three begin alike.
const GROUP: usize = offset_of!(libc::group_req, gr_group);
const _: () = assert!(GROUP == offset_of!(libc::group_source_req, gsr_group));

fn group_req(ifindex: u32, group: IpAddr) -> [u8; size_of::<libc::group_req>()] {
    let mut bytes = [0; size_of::<libc::group_req>()];
    bytes[..4].copy_from_slice(&ifindex.to_ne_bytes());
    put_address(&mut bytes[GROUP..], group);
    bytes
}

fn group_source_req(
    ifindex: u32,
    group: IpAddr,
    source: IpAddr,
) -> [u8; size_of::<libc::group_source_req>()] {
    let mut bytes = [0; size_of::<libc::group_source_req>()];
    bytes[..4].copy_from_slice(&ifindex.to_ne_bytes());
    put_address(&mut bytes[GROUP..], group);
    put_address(&mut bytes[offset_of!(libc::group_source_req, gsr_source)..], source);
    bytes
}

/// `struct group_filter` of RFC 3678 §5.2.1, which libc does not have.
fn group_filter(ifindex: u32, group: IpAddr, mode: libc::c_int, sources: &[IpAddr]) -> Vec<u8> {
    const MODE: usize = GROUP + STORAGE;
    const COUNT: usize = MODE + 4;
    const LIST: usize = COUNT + 4;
    let mut bytes = vec![0; LIST + sources.len() * STORAGE];
    bytes[..4].copy_from_slice(&ifindex.to_ne_bytes());
    put_address(&mut bytes[GROUP..], group);
    bytes[MODE..COUNT].copy_from_slice(&mode.to_ne_bytes());
    bytes[COUNT..LIST].copy_from_slice(&(sources.len() as u32).to_ne_bytes());
    for (slot, &source) in bytes[LIST..].chunks_exact_mut(STORAGE).zip(sources) {
        put_address(slot, source);
    }
    bytes
}

/// Writes a socket address without a port at the start of `slot`, which is zero.
fn put_address(slot: &mut [u8], address: IpAddr) {
    let family = match address {
        IpAddr::V4(a) => {
            let at = offset_of!(libc::sockaddr_in, sin_addr);
            slot[at..at + 4].copy_from_slice(&a.octets());
            libc::AF_INET
        }
        IpAddr::V6(a) => {
            let at = offset_of!(libc::sockaddr_in6, sin6_addr);
            slot[at..at + 16].copy_from_slice(&a.octets());
            libc::AF_INET6
        }
    };
    slot[..2].copy_from_slice(&(family as libc::sa_family_t).to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddrV4, UdpSocket};
    use std::time::Duration;

    use super::*;

    const GROUP4: Ipv4Addr = Ipv4Addr::new(239, 255, 77, 1);
    const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

    /// A receiver that hears only what it joined, and a sender to it, both on loopback.
    fn pair() -> (UdpSocket, impl Fn() -> bool) {
        let receiver = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        set_int(&receiver, libc::IPPROTO_IP, libc::IP_MULTICAST_ALL, 0).unwrap();
        receiver.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let to = SocketAddrV4::new(GROUP4, receiver.local_addr().unwrap().port());
        let sender =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        sender.set_multicast_if_v4(&HERE).unwrap();
        sender.bind(&SocketAddrV4::new(HERE, 0).into()).unwrap();
        let ear = receiver.try_clone().unwrap();
        let arrives = move || {
            sender.send_to(b"x", &to.into()).unwrap();
            ear.recv(&mut [0; 8]).is_ok()
        };
        (receiver, arrives)
    }

    fn loopback() -> u32 {
        nix::net::if_::if_nametoindex("lo").unwrap()
    }

    #[test]
    fn a_joined_group_is_heard_until_it_is_left() {
        let (socket, arrives) = pair();
        assert!(!arrives(), "nothing is heard before the join");
        join_group(&socket, loopback(), GROUP4).unwrap();
        assert!(arrives());
        let again = join_group(&socket, loopback(), GROUP4).unwrap_err();
        assert_eq!(again.raw_os_error(), Some(libc::EADDRINUSE));
        leave_group(&socket, loopback(), GROUP4).unwrap();
        assert!(!arrives(), "nothing is heard after the leave");
    }

    #[test]
    fn a_source_filter_lets_through_what_it_names_and_changes_in_place() {
        let (socket, arrives) = pair();
        let other = Ipv4Addr::new(127, 0, 0, 9);
        join_source_group(&socket, loopback(), GROUP4, other).unwrap();
        assert!(!arrives(), "another source is not heard");
        include_sources(&socket, loopback(), GROUP4, [other, HERE]).unwrap();
        assert!(arrives());
        leave_source_group(&socket, loopback(), GROUP4, HERE).unwrap();
        assert!(!arrives());
        exclude_sources(&socket, loopback(), GROUP4, [other]).unwrap();
        assert!(arrives());
        exclude_sources(&socket, loopback(), GROUP4, [HERE]).unwrap();
        assert!(!arrives());
        include_sources(&socket, loopback(), GROUP4, []).unwrap();
        let gone = leave_group(&socket, loopback(), GROUP4).unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(libc::EADDRNOTAVAIL), "INCLUDE of nothing left it");
    }

    #[test]
    fn a_socket_tells_of_its_own_memberships() {
        let (receiver, _) = pair();
        let (other, _) = pair();
        join_group(&other, loopback(), GROUP4).unwrap();
        assert!(!is_member(&receiver, loopback(), GROUP4));
        join_group(&receiver, loopback(), GROUP4).unwrap();
        assert!(is_member(&receiver, loopback(), GROUP4));
        assert!(!is_member(&receiver, loopback() + 1, GROUP4));
        exclude_sources(&receiver, loopback(), GROUP4, [Ipv4Addr::new(10, 0, 0, 1)]).unwrap();
        assert!(is_member(&receiver, loopback(), GROUP4));
        leave_group(&receiver, loopback(), GROUP4).unwrap();
        assert!(!is_member(&receiver, loopback(), GROUP4));
    }

    #[test]
    fn errors_are_those_of_the_kernel() {
        let (socket, _) = pair();
        let not_multicast = join_group(&socket, loopback(), Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(not_multicast.unwrap_err().raw_os_error(), Some(libc::EINVAL));
        let no_device = join_group(&socket, 0x7fff_fff0, GROUP4);
        assert_eq!(no_device.unwrap_err().raw_os_error(), Some(libc::ENODEV));
        let not_joined = exclude_sources(&socket, loopback(), GROUP4, []);
        assert_eq!(not_joined.unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn filters_have_the_layout_of_rfc_3678() {
        let sources: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        let bytes = group_filter(7, GROUP4.into(), libc::MCAST_INCLUDE, &sources);
        assert_eq!(bytes.len(), GROUP + STORAGE + 8 + 2 * STORAGE);
        assert_eq!(bytes[..4], 7u32.to_ne_bytes());
        assert_eq!(bytes[GROUP + 4..GROUP + 8], GROUP4.octets());
        let tail = &bytes[GROUP + STORAGE..];
        assert_eq!(tail[..4], libc::MCAST_INCLUDE.to_ne_bytes());
        assert_eq!(tail[4..8], 2u32.to_ne_bytes());
        assert_eq!(tail[8..10], (libc::AF_INET as u16).to_ne_bytes());
        assert_eq!(tail[12..16], [10, 0, 0, 1]);
        assert_eq!(tail[8 + STORAGE + 4..8 + STORAGE + 8], [10, 0, 0, 2]);
    }

    #[test]
    fn ipv6_groups_are_joined_too() {
        let socket = UdpSocket::bind(("::", 0)).unwrap();
        let group: std::net::Ipv6Addr = "ff02::4d:1".parse().unwrap();
        join_group(&socket, loopback(), group).unwrap();
        leave_group(&socket, loopback(), group).unwrap();
    }

    #[test]
    fn the_receive_buffer_grows() {
        let (socket, _) = pair();
        assert!(grow_receive_buffer(&socket, 100_000).unwrap() >= 100_000);
    }
}
