//! Whether the host's firewall lets IGMP in: a packet that is looped back passes the hooks that a
//! query from the LAN passes.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::net::nfnetlink::receive;
use crate::primitives::internet_checksum::Sum;
use crate::sys::sockopt;

/// A report of version 3 (RFC 9776 §4.2), which the kernel's IGMP ignores (`igmp_rcv`).
const REPORT: u8 = 0x22;
/// Offset of the reserved bytes of a report, which tell this probe's packets from others.
const RESERVED: u32 = 4;
/// `PACKET_LOOPBACK` of linux/if_packet.h.
const PACKET_LOOPBACK: u32 = 5;
/// Offset of the packet type among a filter's ancillary data (linux/filter.h).
const SKF_AD_PKTTYPE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE).cast_unsigned();
/// How long a packet is awaited that is looped back. It arrives before it was sent, on a machine
/// that is not loaded.
const PATIENCE: Duration = Duration::from_millis(5);

/// Sends packets to itself on one interface. None leaves the host: their TTL is 0.
pub(crate) struct InputProbe {
    socket: Socket,
    packet: [u8; 8],
}

impl InputProbe {
    /// Opens one in the caller's namespace.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW, `ENODEV` when there is no such interface.
    pub(crate) fn open(name: &str) -> io::Result<Self> {
        let tag = std::process::id() as u16;
        let igmp = Protocol::from(libc::IPPROTO_IGMP);
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(igmp))?;
        socket.attach_filter(&only_tagged(tag))?;
        sockopt::lock_filter(&socket)?;
        socket.bind_device(Some(name.as_bytes()))?;
        socket.set_multicast_ttl_v4(0)?;
        socket.set_multicast_loop_v4(true)?;
        socket.set_nonblocking(true)?;
        let [high, low] = tag.to_be_bytes();
        let mut packet = [REPORT, 0, 0, 0, high, low, 0, 0];
        let [high, low] = (!Sum::of(&packet).folded()).to_be_bytes();
        (packet[2], packet[3]) = (high, low);
        Ok(InputProbe { socket, packet })
    }

    /// Whether a packet arrives; `None`: it cannot be sent, so that nothing is known.
    pub(crate) fn arrives(&self) -> Option<bool> {
        let mut buffer = [0; 64];
        let mut take = || matches!(receive(self.socket.as_fd(), &mut buffer), Ok(Some(_)));
        while take() {}
        let everybody = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 1), 0);
        self.socket.send_to(&self.packet, &everybody.into()).ok()?;
        let mut awaited = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let _ = ppoll(&mut awaited, Some(TimeSpec::from(PATIENCE)), None);
        Some(take())
    }
}

/// A socket filter that accepts the packets of one probe.
fn only_tagged(tag: u16) -> [SockFilter; 9] {
    let op = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    [
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, SKF_AD_PKTTYPE),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 6, PACKET_LOOPBACK),
        // The length of the IPv4 header.
        op(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0, 0),
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_IND, 0, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 3, REPORT as u32),
        op(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, 0, 0, RESERVED),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, tag as u32),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::net::netns::NetNs;

    #[test]
    fn a_firewall_that_drops_igmp_is_noticed() {
        let run = |program: &str, arguments: &str| {
            let done = Command::new(program).args(arguments.split('|')).status().unwrap();
            assert!(done.success(), "{program} {arguments}");
        };
        NetNs::create()
            .unwrap()
            .run(|| {
                for arguments in [
                    "link|add|a0|type|veth|peer|name|a1",
                    "addr|add|192.0.2.1/24|dev|a0",
                    "link|set|a1|up",
                    "link|set|a0|up",
                ] {
                    run("ip", arguments);
                }
                let probe = InputProbe::open("a0").unwrap();
                assert_eq!(probe.arrives(), Some(true));
                assert_eq!(probe.arrives(), Some(true));
                run("nft", "add table ip t");
                run("nft", "add chain ip t c { type filter hook input priority 0; policy drop; }");
                assert_eq!(probe.arrives(), Some(false));
                run("nft", "flush ruleset");
                assert_eq!(probe.arrives(), Some(true));
            })
            .unwrap();
    }
}
