//! What differs between IPv4 and IPv6 on the LAN's side.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::igmp::message::{Message, Version};
use crate::igmp::wire::MIN_MTU;
use crate::mld;
use crate::multicast::Address;
use crate::net::ipv6_addresses;
use crate::net::link_monitor::Family;
use crate::net::raw_socket::raw_ipv6_sender;
use crate::sys::sockopt;

/// Router Alert (RFC 2113 §2.1), as the socket option takes it.
const ROUTER_ALERT: [u8; 4] = [148, 4, 0, 0];
/// Internetwork control (RFC 9776 §4).
const TOS: u32 = 0xc0;
/// Bytes of an IP packet.
pub(crate) const MTU: usize = 1500;
const _: () = assert!(MTU >= MIN_MTU && MTU >= mld::wire::MIN_MTU);

/// An address family on the LAN, with its protocol: IGMP or MLD.
pub(crate) trait LanFamily: Address {
    /// Whose notifications tell of joins.
    const FAMILIES: &'static [Family];
    /// The file in which the kernel shows what it has joined.
    const GROUPS_FILE: &'static str;
    /// Whether that file shows the version that an interface speaks.
    const SHOWS_VERSION: bool;
    /// The sysctl below /proc/sys/net that forces a version, of an interface or of `all`.
    const FORCED_VERSION: (&'static str, &'static str);
    /// The file in which the kernel shows the addresses that reports come from. `None`: the kernel puts
    /// the address into the packets.
    const SOURCES_FILE: Option<&'static str>;
    /// Whether the kernel counts with the response time of the last query, and not with the default,
    /// when it computes how long an older querier is present.
    const LEARNS_RESPONSE_INTERVAL: bool;
    /// Whether the kernel sends the first report of a group at once in the version of
    /// [`Version::V2`], as it never does in the newest one.
    const REPORTS_V2_AT_ONCE: bool;

    /// The version that a value of the sysctl forces; `None`: none.
    fn forced(value: u32) -> Option<Version>;

    /// The version in a line of an interface of the file of groups; `None`: the kernel does not show it.
    fn version_shown(line: &str) -> Option<Version>;

    /// Gives each group of an interface in the file of groups.
    fn each_group(text: &str, index: u32, give: impl FnMut(Self));

    /// The address of the interface that reports come from; the unspecified one where there is none
    /// yet. `text` is the file of sources.
    fn source(text: &str, index: u32) -> Self;

    /// Opens a raw socket in the caller's namespace that sends what [`packets`](Self::packets) gives,
    /// and receives nothing.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW.
    fn open_sender() -> io::Result<Socket>;

    /// A message as the socket takes it, in several packets where it does not fit in one.
    fn packets(message: &Message<Self>, source: Self) -> Vec<Vec<u8>>;

    /// Where a message goes.
    fn destination(message: &Message<Self>) -> Self;

    /// Sends a packet to a group by such a socket.
    ///
    /// # Errors
    /// Those of sendto(2).
    fn send(socket: &Socket, packet: &[u8], group: Self) -> io::Result<()> {
        let target: IpAddr = group.into();
        socket.send_to(packet, &SockAddr::from(SocketAddr::new(target, 0))).map(drop)
    }
}

impl LanFamily for Ipv4Addr {
    const FAMILIES: &'static [Family] = &[Family::Ipv4];
    const GROUPS_FILE: &'static str = "/proc/thread-self/net/igmp";
    const SHOWS_VERSION: bool = true;
    const FORCED_VERSION: (&'static str, &'static str) = ("ipv4/conf", "force_igmp_version");
    const SOURCES_FILE: Option<&'static str> = None;
    const LEARNS_RESPONSE_INTERVAL: bool = false;
    const REPORTS_V2_AT_ONCE: bool = false;

    /// 3 stands for none (`IGMP_V2_SEEN` in net/ipv4/igmp.c).
    fn forced(value: u32) -> Option<Version> {
        match value {
            1 => Some(Version::V1),
            2 => Some(Version::V2),
            _ => None,
        }
    }

    fn version_shown(line: &str) -> Option<Version> {
        Some(match line.split_ascii_whitespace().last()? {
            "V1" => Version::V1,
            "V2" => Version::V2,
            _ => Version::V3,
        })
    }

    /// The groups stand below the line of their interface (`igmp_mc_seq_show` in net/ipv4/igmp.c).
    fn each_group(text: &str, index: u32, mut give: impl FnMut(Self)) {
        let mut is_own = false;
        for line in text.lines().skip(1) {
            let word = line.split_whitespace().next().unwrap_or_default();
            if line.starts_with(|c: char| c.is_ascii_digit()) {
                is_own = word.parse() == Ok(index);
            } else if is_own && let Ok(group) = u32::from_str_radix(word, 16) {
                // The kernel prints the address as a number of the machine's byte order.
                give(Ipv4Addr::from(group.to_ne_bytes()));
            }
        }
    }

    fn source(_: &str, _: u32) -> Self {
        Ipv4Addr::UNSPECIFIED
    }

    /// The kernel makes the IP header, with the address of the interface and a TTL of 1.
    fn open_sender() -> io::Result<Socket> {
        let igmp = Protocol::from(libc::IPPROTO_IGMP);
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(igmp))?;
        sockopt::receive_nothing(&socket)?;
        socket.set_multicast_ttl_v4(1)?;
        socket.set_multicast_loop_v4(false)?;
        socket.set_tos_v4(TOS)?;
        sockopt::set_bytes(&socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &ROUTER_ALERT)?;
        Ok(socket)
    }

    fn packets(message: &Message<Self>, _: Self) -> Vec<Vec<u8>> {
        message.emit(MTU)
    }

    fn destination(message: &Message<Self>) -> Self {
        message.destination()
    }
}

impl LanFamily for Ipv6Addr {
    const FAMILIES: &'static [Family] = &[Family::Ipv6];
    const GROUPS_FILE: &'static str = "/proc/thread-self/net/igmp6";
    const SHOWS_VERSION: bool = false;
    const FORCED_VERSION: (&'static str, &'static str) = ("ipv6/conf", "force_mld_version");
    const SOURCES_FILE: Option<&'static str> = Some("/proc/thread-self/net/if_inet6");
    const LEARNS_RESPONSE_INTERVAL: bool = true;
    /// `igmp6_join_group` in net/ipv6/mcast.c.
    const REPORTS_V2_AT_ONCE: bool = true;

    /// 2 makes the kernel ignore queries of version 1 (`mld_in_v2_mode_only` in net/ipv6/mcast.c).
    fn forced(value: u32) -> Option<Version> {
        match value {
            1 => Some(Version::V2),
            2 => Some(Version::V3),
            _ => None,
        }
    }

    fn version_shown(_: &str) -> Option<Version> {
        None
    }

    /// A group is a line: index and name of its interface, its address (`igmp6_mc_seq_show` in
    /// net/ipv6/mcast.c).
    fn each_group(text: &str, index: u32, give: impl FnMut(Self)) {
        let lines = text.lines().map(str::split_ascii_whitespace);
        let own = lines.filter_map(|mut words| {
            let is_own = words.next()?.parse() == Ok(index);
            let group = u128::from_str_radix(words.nth(1)?, 16).ok()?;
            is_own.then_some(Ipv6Addr::from_bits(group))
        });
        own.for_each(give);
    }

    /// The first link-local address that is the host's for certain, as the kernel takes it for its own
    /// reports (`mld_newpack` in net/ipv6/mcast.c).
    fn source(text: &str, index: u32) -> Self {
        let own = ipv6_addresses::parse(text).into_iter();
        let own = own.filter(|found| found.index == index && found.is_certain);
        let mut own = own.map(|found| found.address.addr());
        own.find(Ipv6Addr::is_unicast_link_local).unwrap_or(Ipv6Addr::UNSPECIFIED)
    }

    /// The packets are whole: the kernel would choose a source by the scope of the group.
    fn open_sender() -> io::Result<Socket> {
        let socket = raw_ipv6_sender()?;
        socket.set_multicast_loop_v6(false)?;
        Ok(socket)
    }

    fn packets(message: &Message<Self>, source: Self) -> Vec<Vec<u8>> {
        message.emit_ipv6(source, message.destination(), 1, MTU)
    }

    fn destination(message: &Message<Self>) -> Self {
        message.destination()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups<A: LanFamily>(text: &str, index: u32) -> Vec<A> {
        let mut found = Vec::new();
        A::each_group(text, index, |group| found.push(group));
        found
    }

    #[test]
    fn the_groups_of_one_interface_are_read() {
        let line = |group: [u8; 4]| {
            format!("\t\t\t\t{:08X}     1 0:00000000\t\t0\n", u32::from_ne_bytes(group))
        };
        let text = format!(
            "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
             1\tlo        :     1      V3\n{}7\tlan0      :     2      V2\n{}{}8\tx :\n{}",
            line([224, 0, 0, 1]),
            line([224, 0, 0, 1]),
            line([239, 1, 2, 3]),
            line([239, 1, 2, 4]),
        );
        let of_lan = [Ipv4Addr::new(224, 0, 0, 1), Ipv4Addr::new(239, 1, 2, 3)];
        assert_eq!(groups::<Ipv4Addr>(&text, 7), of_lan);
        assert!(groups::<Ipv4Addr>(&text, 9).is_empty());

        let text = "1    lo              ff020000000000000000000000000001     1 0000000C 0\n\
                    7    lan0            ff0e0000000000000000000000000101     1 00000004 0\n\
                    7    lan0            ff020000000000000000000000000001     1 0000000C 0\n\
                    70   lan1            ff050000000000000000000000000002     1 00000004 0\n";
        let of_lan: [Ipv6Addr; 2] = ["ff0e::101", "ff02::1"].map(|text| text.parse().unwrap());
        assert_eq!(groups::<Ipv6Addr>(text, 7), of_lan);
        assert!(groups::<Ipv6Addr>(text, 9).is_empty());
    }

    #[test]
    fn reports_come_from_an_address_of_the_link_that_is_the_hosts_for_certain() {
        let text = "fe80000000000000000000000000000a 07 40 20 c0     lan0\n\
                    20010db8000000000000000000000001 07 40 00 80     lan0\n\
                    fe80000000000000000000000000000b 0c 40 20 80     lan1\n\
                    fe80000000000000000000000000000c 07 40 20 80     lan0\n";
        let source = |index| Ipv6Addr::source(text, index).to_string();
        assert_eq!(source(7), "fe80::c");
        // The index is in hexadecimal digits.
        assert_eq!(source(12), "fe80::b");
        assert_eq!(source(8), "::");
        assert_eq!(Ipv6Addr::source("what\n\nfe80 x\n", 7), Ipv6Addr::UNSPECIFIED);
    }
}
