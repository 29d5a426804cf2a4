//! Interception: the rules log the container's own IGMP and MLD to an NFLOG socket, which the proxy
//! reads.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::net::nfnetlink::{ACK, Messages, NfSocket, messages};
use crate::sys::sockopt;

/// Bytes of a packet that NFLOG passes on. A report fills the interface's MTU, 9216 with jumbo
/// frames. A longer packet is truncated, and counted as malformed.
const COPY_RANGE: u32 = 12 * 1024;
/// The first NFLOG group that is tried, and how many are tried where the container uses some
/// itself.
const FIRST_GROUP: u16 = 27_999;
const GROUPS_TRIED: u16 = 16;
/// Enough for the reports of a container that joins several hundred groups at once.
const RECEIVE_BUFFER: usize = 256 * 1024;

const CONFIG: u16 = ((libc::NFNL_SUBSYS_ULOG as u16) << 8) | libc::NFULNL_MSG_CONFIG as u16;
const PACKET: u16 = ((libc::NFNL_SUBSYS_ULOG as u16) << 8) | libc::NFULNL_MSG_PACKET as u16;

/// Receives copies of the IGMP and MLD packets that the container wanted to send, and of the queries
/// that its links hear.
pub(crate) struct NflogSocket {
    socket: NfSocket,
    group: u16,
}

/// One packet.
pub(crate) struct LoggedPacket<'a> {
    /// Whether it is a query that has arrived; if not, the container wanted to send it.
    pub(crate) has_arrived: bool,
    /// Index of the interface that the packet arrived by, or would have left by.
    pub(crate) interface: u32,
    /// Whether it is one of IPv6.
    pub(crate) is_ipv6: bool,
    /// The packet, from the IP header on.
    pub(crate) bytes: &'a [u8],
}

impl NflogSocket {
    /// Binds a free NFLOG group in the caller's namespace. The kernel passes on each packet at
    /// once.
    ///
    /// # Errors
    /// `EINVAL` or `EOPNOTSUPP` where the kernel has no nfnetlink_log, `EBUSY` when no group is
    /// free.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = NfSocket::open()?;
        // A lost packet costs no more than another query, so a smaller buffer is no error.
        let _ = sockopt::grow_receive_buffer(socket.as_fd(), RECEIVE_BUFFER);
        for group in FIRST_GROUP..FIRST_GROUP + GROUPS_TRIED {
            match bind(&socket, group) {
                Ok(()) => return Ok(NflogSocket { socket, group }),
                // The group is in use: EPERM (nfulnl_recv_config), or EBUSY if it was bound just
                // now.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::EBUSY)) => {}
                Err(e) => return Err(e),
            }
        }
        Err(io::Error::from_raw_os_error(libc::EBUSY))
    }

    /// The NFLOG group that the `log` rules name.
    pub(crate) fn group(&self) -> u16 {
        self.group
    }

    /// Receives one datagram, and calls `each` with every packet in it. `false` when none is
    /// waiting.
    ///
    /// # Errors
    /// `ENOBUFS` when packets were lost because the receive buffer was full.
    pub(crate) fn receive(
        &self,
        buffer: &mut [u8],
        mut each: impl FnMut(LoggedPacket<'_>),
    ) -> io::Result<bool> {
        let Some(datagram) = self.socket.receive(buffer)? else { return Ok(false) };
        for message in messages(datagram).filter(|m| m.kind == PACKET) {
            let mut interface = None;
            let mut has_arrived = false;
            let mut bytes = None;
            for (kind, value) in message.attributes() {
                match i32::from(kind) {
                    libc::NFULA_IFINDEX_OUTDEV | libc::NFULA_IFINDEX_INDEV => {
                        has_arrived = i32::from(kind) == libc::NFULA_IFINDEX_INDEV;
                        interface = value.try_into().ok().map(u32::from_be_bytes);
                    }
                    libc::NFULA_PAYLOAD => bytes = Some(value),
                    _ => {}
                }
            }
            if let (Some(interface), Some(bytes)) = (interface, bytes) {
                // struct nfgenmsg begins with the family (linux/netfilter/nfnetlink.h).
                let is_ipv6 = message.payload.first() == Some(&(libc::NFPROTO_IPV6 as u8));
                each(LoggedPacket { has_arrived, interface, is_ipv6, bytes });
            }
        }
        Ok(true)
    }
}

impl AsFd for NflogSocket {
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
        // struct nfulnl_msg_config_mode: copy range, mode, padding.
        let [b0, b1, b2, b3] = COPY_RANGE.to_be_bytes();
        let mode = libc::NFULNL_COPY_PACKET as u8;
        a.raw(libc::NFULA_CFG_MODE as u16, &[b0, b1, b2, b3, mode, 0]);
        // A queue threshold of one packet: by default the kernel collects packets for up to a
        // second.
        a.u32(libc::NFULA_CFG_QTHRESH as u16, 1);
    });
    socket.transact(&request)
}
