//! Queries of the LAN that the host's firewall drops, heard at the link, before any firewall.
//!
//! A link of the container hears them by itself. A relay has no such link, and so a packet socket on
//! the host's interface. It is opened while the proxy is root, and receives nothing until the proxy
//! has found out that the host is deaf: until then a packet that arrives costs nothing more.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, RawFd};

use socket2::{Domain, SockFilter, Socket, Type};

use crate::igmp::wire::Query;
use crate::net::arp_announcement::link_address;
use crate::net::nfnetlink::receive;
use crate::proxy::lan::query_socket::{QUERY, SKF_AD_PKTTYPE, parse_query};
use crate::sys::sockopt;

/// `PACKET_MULTICAST` of linux/if_packet.h; what is below was sent to this host or to all. Above are
/// packets to other hosts and the host's own.
const PACKET_MULTICAST: u32 = 2;
/// Offsets within an IPv4 header (RFC 791 §3.1).
const FRAGMENT: u32 = 6;
const TTL: u32 = 8;
const PROTOCOL: u32 = 9;
const DESTINATION: u32 = 16;

/// Hears the queries of one LAN at the link. It never receives anything else.
pub(crate) struct QueryTap {
    socket: Socket,
    is_listening: bool,
}

impl QueryTap {
    /// Opens one in the caller's namespace as descriptor `number`, which nobody owns. It receives
    /// nothing yet.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW, `EAFNOSUPPORT` where the kernel has no packet sockets, `EBADF` for
    /// a number beyond the limit of the process.
    pub(crate) fn open_as(number: RawFd) -> io::Result<Self> {
        // Protocol 0: nothing is received.
        let opened = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
        opened.attach_filter(&only_queries())?;
        sockopt::lock_filter(&opened)?;
        opened.set_nonblocking(true)?;
        // SAFETY: the caller says that nobody owns the number, and `opened` lives until the copy is
        // made.
        let socket = unsafe {
            let copy = libc::dup3(opened.as_raw_fd(), number, libc::O_CLOEXEC);
            if copy < 0 {
                return Err(io::Error::last_os_error());
            }
            Socket::from_raw_fd(copy)
        };
        Ok(QueryTap { socket, is_listening: false })
    }

    /// Whether it hears an interface.
    pub(crate) fn is_listening(&self) -> bool {
        self.is_listening
    }

    /// Hears the interface of this index from now on.
    ///
    /// # Errors
    /// `ENODEV` when there is no such interface, `ENETDOWN` when it is down.
    pub(crate) fn listen(&mut self, index: u32) -> io::Result<()> {
        self.socket.bind(&link_address(index, libc::ETH_P_IP as u16))?;
        self.is_listening = true;
        Ok(())
    }

    /// Receives one packet; `None`: it is no valid query.
    ///
    /// # Errors
    /// That of recv(2); `WouldBlock`: no packet waits.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<(Ipv4Addr, Query)>> {
        let packet = receive(self.socket.as_fd(), buffer)?.ok_or(io::ErrorKind::WouldBlock)?;
        Ok(parse_query(packet))
    }
}

impl AsFd for QueryTap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A socket filter that accepts queries of other hosts to groups, which no router has forwarded: what
/// the rules in a container's namespace let through (RFC 9776 §4).
fn only_queries() -> [SockFilter; 16] {
    let op = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    let (load_byte, equal) =
        (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
    [
        op(load_byte, 0, 0, PROTOCOL),
        op(equal, 0, 12, libc::IPPROTO_IGMP.cast_unsigned()),
        op(load_byte, 0, 0, SKF_AD_PKTTYPE),
        op(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, 10, 0, PACKET_MULTICAST),
        op(load_byte, 0, 0, TTL),
        op(equal, 0, 8, 1),
        op(load_byte, 0, 0, DESTINATION),
        op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, 0xf0),
        op(equal, 0, 5, 0xe0),
        op(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, FRAGMENT),
        // The length of the IPv4 header, where the packet is no later fragment.
        op(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 3, 0, 0x1fff),
        op(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0, 0),
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_IND, 0, 0, 0),
        op(equal, 1, 0, QUERY),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ]
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV4;
    use std::process::Command;
    use std::time::{Duration, Instant};

    use nix::net::if_::if_nametoindex;
    use socket2::Protocol;

    use super::*;
    use crate::igmp::wire::{GroupRecord, Message, RecordType};
    use crate::net::netns::NetNs;

    /// A number that no other test gives a descriptor.
    const NUMBER: RawFd = 901;

    #[test]
    fn queries_are_heard_before_the_firewall_and_nothing_else_is() {
        let run = |program: &str, arguments: &str| {
            let done = Command::new(program).args(arguments.split('|')).status().unwrap();
            assert!(done.success(), "{program} {arguments}");
        };
        NetNs::create()
            .unwrap()
            .run(|| {
                for arguments in [
                    "link|add|a0|type|veth|peer|name|a1",
                    "addr|add|192.0.2.1/24|dev|a1",
                    "link|set|a1|up",
                    "link|set|a0|up",
                ] {
                    run("ip", arguments);
                }
                run("nft", "add table ip t");
                run(
                    "nft",
                    "add chain ip t c { type filter hook prerouting priority -400; policy drop; }",
                );
                let igmp = Protocol::from(libc::IPPROTO_IGMP);
                let sender = Socket::new(Domain::IPV4, Type::RAW, Some(igmp)).unwrap();
                sender.bind_device(Some(b"a1")).unwrap();
                let send = |ttl: u32, to: Ipv4Addr, message: &Message| {
                    sender.set_multicast_ttl_v4(ttl).unwrap();
                    for payload in message.emit(1500) {
                        sender.send_to(&payload, &SocketAddrV4::new(to, 0).into()).unwrap();
                    }
                };
                let query = |group| Query { group, ..Query::general(Duration::from_secs(1)) };
                let (all, group) = (Ipv4Addr::new(224, 0, 0, 1), Ipv4Addr::new(239, 1, 1, 1));
                let ask = |group| Message::Query(query(group));

                let mut tap = QueryTap::open_as(NUMBER).unwrap();
                send(1, all, &ask(None));
                let mut buffer = [0; 2048];
                let nothing = tap.receive(&mut buffer).unwrap_err();
                assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock, "it does not listen yet");

                tap.listen(if_nametoindex("a0").unwrap()).unwrap();
                send(2, all, &ask(None));
                let record = GroupRecord { kind: RecordType::ToEx, group, sources: Vec::new() };
                send(1, Ipv4Addr::new(224, 0, 0, 22), &Message::ReportV3(vec![record]));
                send(1, group, &ask(Some(group)));
                send(1, all, &ask(None));
                let mut heard = Vec::new();
                let end = Instant::now() + Duration::from_secs(10);
                while heard.len() < 2 && Instant::now() < end {
                    match tap.receive(&mut buffer) {
                        Ok(Some((source, query))) => {
                            assert_eq!(source, Ipv4Addr::new(192, 0, 2, 1));
                            heard.push(query.group);
                        }
                        Ok(None) => panic!("what the filter lets through is a query"),
                        Err(_) => std::thread::sleep(Duration::from_millis(1)),
                    }
                }
                assert_eq!(heard, [Some(group), None]);
            })
            .unwrap();
    }
}
