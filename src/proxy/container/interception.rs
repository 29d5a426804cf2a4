//! The container's side: its IGMP comes in by NFLOG, queries go in by a raw socket.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use socket2::{Domain, Protocol, Socket, Type};

use crate::net::nfnetlink::{ACK, Messages, NfSocket, messages};
use crate::sys::sockopt;

/// Bytes of a packet that NFLOG hands over: a report fills the interface's MTU, 9216 with jumbo
/// frames. A longer one is cut, found too short and counted as malformed.
const COPY_RANGE: u32 = 12 * 1024;
/// The first group number tried, and how many after it when the container uses some itself.
const FIRST_GROUP: u16 = 27_999;
const GROUPS_TRIED: u16 = 16;
/// Room for a burst: a container that joins several hundred groups at once.
const RECEIVE_BUFFER: usize = 256 * 1024;

const CONFIG: u16 = ((libc::NFNL_SUBSYS_ULOG as u16) << 8) | libc::NFULNL_MSG_CONFIG as u16;
const PACKET: u16 = ((libc::NFNL_SUBSYS_ULOG as u16) << 8) | libc::NFULNL_MSG_PACKET as u16;

/// 224.0.0.1 (RFC 1112 §4).
pub(crate) const ALL_SYSTEMS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);

/// Receives copies of what the container's interfaces were about to send.
pub(crate) struct Intercepted {
    socket: NfSocket,
    group: u16,
}

/// One packet of the container.
pub(crate) struct Packet<'a> {
    /// Index of the interface that was to send it.
    pub(crate) interface: u32,
    /// The packet from its IPv4 header on.
    pub(crate) bytes: &'a [u8],
}

impl Intercepted {
    /// Binds a free NFLOG group in the caller's namespace; each packet is handed over at once.
    ///
    /// # Errors
    /// The kernel's: `EINVAL` or `EOPNOTSUPP` without nfnetlink_log, `EBUSY` when no group
    /// is free.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = NfSocket::open()?;
        // A missed packet only costs another query, so less room than asked for will do.
        let _ = sockopt::grow_receive_buffer(socket.as_fd(), RECEIVE_BUFFER);
        for group in FIRST_GROUP..FIRST_GROUP + GROUPS_TRIED {
            match bind(&socket, group) {
                Ok(()) => return Ok(Intercepted { socket, group }),
                // Another's: EPERM (nfulnl_recv_config), or EBUSY when it came between.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::EBUSY)) => {}
                Err(e) => return Err(e),
            }
        }
        Err(io::Error::from_raw_os_error(libc::EBUSY))
    }

    /// The group for the `log` rules.
    pub(crate) fn group(&self) -> u16 {
        self.group
    }

    /// Receives what there is now and hands over each packet; `false` when nothing is left.
    ///
    /// # Errors
    /// `ENOBUFS` when packets were lost.
    pub(crate) fn receive(
        &self,
        buffer: &mut [u8],
        mut each: impl FnMut(Packet<'_>),
    ) -> io::Result<bool> {
        let Some(datagram) = self.socket.receive(buffer)? else { return Ok(false) };
        for message in messages(datagram).filter(|m| m.kind == PACKET) {
            let mut interface = None;
            let mut bytes = None;
            for (kind, value) in message.attributes() {
                match i32::from(kind) {
                    libc::NFULA_IFINDEX_OUTDEV => {
                        interface = value.try_into().ok().map(u32::from_be_bytes);
                    }
                    libc::NFULA_PAYLOAD => bytes = Some(value),
                    _ => {}
                }
            }
            if let (Some(interface), Some(bytes)) = (interface, bytes) {
                each(Packet { interface, bytes });
            }
        }
        Ok(true)
    }
}

impl AsFd for Intercepted {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn bind(socket: &NfSocket, group: u16) -> io::Result<()> {
    let mut request = Messages::default();
    request.push(CONFIG, ACK, libc::AF_INET as u8, group, |a| {
        a.raw(libc::NFULA_CFG_CMD as u16, &[libc::NFULNL_CFG_CMD_BIND as u8]);
    });
    socket.transact(&request)?;
    let mut request = Messages::default();
    request.push(CONFIG, ACK, libc::AF_INET as u8, group, |a| {
        // struct nfulnl_msg_config_mode: range, mode, padding.
        let [b0, b1, b2, b3] = COPY_RANGE.to_be_bytes();
        let mode = libc::NFULNL_COPY_PACKET as u8;
        a.raw(libc::NFULA_CFG_MODE as u16, &[b0, b1, b2, b3, mode, 0]);
        // Without it the kernel collects packets for up to a second.
        a.u32(libc::NFULA_CFG_QTHRESH as u16, 1);
    });
    socket.transact(&request)
}

/// Puts queries into the container: a raw socket on one of its interfaces.
///
/// With TTL 0 and IP_MULTICAST_LOOP the kernel hands a multicast packet back as if it had
/// arrived on the interface, and drops the copy that would go out (`ip_mc_output` in
/// net/ipv4/ip_output.c). It does so where the route leads to a group that has a member; any other
/// packet it sends out, TTL 0 or not (`__mkroute_output` in net/ipv4/route.c). So every
/// query takes the route to 224.0.0.1, which all interfaces have joined, whatever its header says.
pub(crate) struct Injector {
    socket: Socket,
}

impl Injector {
    /// Opens one in the caller's namespace, for an interface that is [yet to be named](Self::turn_to); its
    /// packets carry `mark`.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW and CAP_NET_ADMIN.
    pub(crate) fn open(mark: u32) -> io::Result<Self> {
        let socket = raw_sender()?;
        socket.set_mark(mark)?;
        Ok(Injector { socket })
    }

    /// Sends to the interface of that index from now on.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL` when there is no such interface.
    pub(crate) fn turn_to(&self, index: u32) -> io::Result<()> {
        send_on(&self.socket, index)
    }

    /// Hands a whole IPv4 packet with TTL 0 to the container's kernel, also for a group that it has
    /// left.
    ///
    /// # Errors
    /// That of sendto(2): `ENETUNREACH` or `ENODEV` while the interface is down.
    pub(crate) fn send(&self, packet: &[u8]) -> io::Result<()> {
        let to = SocketAddrV4::new(ALL_SYSTEMS, 0);
        self.socket.send_to(packet, &to.into()).map(drop)
    }
}

/// IP_MULTICAST_IF by index: the interface may have no address.
///
/// # Errors
/// `EADDRNOTAVAIL` when there is no such interface.
pub(crate) fn send_on(socket: &Socket, index: u32) -> io::Result<()> {
    let request = libc::ip_mreqn {
        imr_multiaddr: libc::in_addr { s_addr: 0 },
        imr_address: libc::in_addr { s_addr: 0 },
        imr_ifindex: index.cast_signed(),
    };
    // SAFETY: the descriptor is open, and the kernel reads as many bytes as `request` has.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MULTICAST_IF,
            (&raw const request).cast(),
            size_of_val(&request) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A socket for whole IPv4 packets, that loops multicast back. It keeps nothing that it receives: packets of
/// protocol 255 (RFC 3692), for which it has no room.
///
/// # Errors
/// `EPERM` without CAP_NET_RAW.
pub(crate) fn raw_sender() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    socket.set_header_included_v4(true)?;
    socket.set_multicast_loop_v4(true)?;
    socket.set_multicast_all_v4(false)?;
    socket.set_nonblocking(true)?;
    // The kernel's smallest: a packet or two.
    socket.set_recv_buffer_size(0)?;
    Ok(socket)
}
