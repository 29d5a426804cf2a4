//! Whether the host's firewall lets MLD in and out: packets that are looped back pass the hooks that
//! queries from the LAN and reports to it pass.

use std::io;
use std::net::Ipv6Addr;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};

use crate::mld::wire::{Message, Query};
use crate::multicast::Address;
use crate::net::nfnetlink::receive;
use crate::net::raw_socket::raw_ipv6_sender;
use crate::proxy::lan::family::{LanFamily, MTU};
use crate::proxy::lan::mld_query_socket::QUERY;
use crate::proxy::lan::query_socket::{PACKET_LOOPBACK, SKF_AD_PKTTYPE};
use crate::sys::sockopt;

/// How long a packet is awaited that is looped back, as of the probe of IGMP.
const PATIENCE: Duration = Duration::from_millis(5);
/// Offset of the end of the group in a query (RFC 9777 §5.1), which tells this probe's packets from
/// others.
const TAG: u32 = 22;

/// Sends packets of MLD to itself on one interface. None leaves the host: their hop limit is 0, and
/// every interface has joined their group, of all nodes (`ip6_finish_output2` in
/// net/ipv6/ip6_output.c). No kernel takes them for MLD of the LAN, which has a hop limit of 1.
pub(crate) struct MldProbe {
    sender: Socket,
    receiver: Socket,
    source: Ipv6Addr,
    tag: u16,
}

impl MldProbe {
    /// Opens one in the caller's namespace, on the interface of this name and index.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW, `ENODEV` when there is no such interface, `EAFNOSUPPORT` where the
    /// kernel has no IPv6, `EADDRNOTAVAIL` when the interface has no link-local address that is its own for
    /// certain.
    pub(crate) fn open(name: &str, index: u32) -> io::Result<Self> {
        let tag = std::process::id() as u16;
        let receiver = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        receiver.attach_filter(&only_tagged(tag))?;
        sockopt::lock_filter(&receiver)?;
        receiver.bind_device(Some(name.as_bytes()))?;
        receiver.set_nonblocking(true)?;
        let sender = raw_ipv6_sender()?;
        sender.bind_device(Some(name.as_bytes()))?;
        sockopt::set_multicast_interface(&sender, index, Ipv6Addr::UNSPECIFIED.into())?;
        let addresses = std::fs::read_to_string("/proc/thread-self/net/if_inet6")?;
        let source = <Ipv6Addr as LanFamily>::source(&addresses, index);
        if source.is_unspecified() {
            return Err(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL));
        }
        Ok(MldProbe { sender, receiver, source, tag })
    }

    /// Whether a query arrives; `None`: it cannot be sent, so that nothing is known.
    pub(crate) fn lets_in(&self) -> Option<bool> {
        let mut buffer = [0; 64];
        let mut take = || matches!(receive(self.receiver.as_fd(), &mut buffer), Ok(Some(_)));
        while take() {}
        let group = Some(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, self.tag));
        let query = Query { group, ..Query::general(Duration::ZERO) };
        self.send(&Message::Query(query)).ok()?;
        let mut awaited = [PollFd::new(self.receiver.as_fd(), PollFlags::POLLIN)];
        let _ = ppoll(&mut awaited, Some(TimeSpec::from(PATIENCE)), None);
        Some(take())
    }

    /// Whether the host's netfilter lets reports out: `false` where a rule at the output hook drops
    /// one.
    pub(crate) fn lets_out(&self) -> bool {
        let sent = self.send(&Message::ReportV3(Vec::new()));
        sent.err().and_then(|error| error.raw_os_error()) != Some(libc::EPERM)
    }

    fn send(&self, message: &Message) -> io::Result<()> {
        let to = Ipv6Addr::ALL_SYSTEMS;
        let target = SockAddr::from(std::net::SocketAddrV6::new(to, 0, 0, 0));
        for packet in message.emit_ipv6(self.source, to, 0, MTU) {
            self.sender.send_to(&packet, &target)?;
        }
        Ok(())
    }
}

/// A socket filter that accepts the queries of one probe. Its data begin with the message.
fn only_tagged(tag: u16) -> [SockFilter; 8] {
    let op = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    [
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, SKF_AD_PKTTYPE),
        op(equal, 0, 5, PACKET_LOOPBACK),
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 0),
        op(equal, 0, 3, QUERY.into()),
        op(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, TAG),
        op(equal, 0, 1, tag.into()),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::proxy::lan::veth::Veth;

    #[test]
    fn a_firewall_that_drops_mld_is_noticed_and_nothing_reaches_the_lan() {
        let veth = Veth::new();
        let capture = veth.run(Veth::capture_on_b);
        let nft = |rules: &str| {
            let done = Command::new("nft").arg(rules).status().unwrap();
            assert!(done.success(), "nft {rules}");
        };
        veth.run(|| {
            let index = nix::net::if_::if_nametoindex("lan-a").unwrap();
            let probe = MldProbe::open("lan-a", index).unwrap();
            let both = || (probe.lets_in(), probe.lets_out());
            assert_eq!(both(), (Some(true), true));
            nft("add table ip6 t; add chain ip6 t in { type filter hook input priority 0; }; \
                 add rule ip6 t in icmpv6 type mld-listener-query drop");
            assert_eq!(both(), (Some(false), true));
            nft("flush ruleset; add table ip6 t; \
                 add chain ip6 t out { type filter hook output priority 0; }; \
                 add rule ip6 t out icmpv6 type mld2-listener-report drop");
            assert_eq!(both(), (Some(true), false));
            nft("flush ruleset");
            assert_eq!(both(), (Some(true), true));
            let none = MldProbe::open("lo", 1).err().and_then(|error| error.raw_os_error());
            assert_eq!(none, Some(libc::EADDRNOTAVAIL));
        });
        while let Some(packet) = Veth::waiting(&capture) {
            let tagged = packet.get(7) == Some(&0);
            assert!(!tagged, "left the host: {packet:?}");
        }
    }
}
