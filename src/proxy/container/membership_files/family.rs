//! What differs between the kernel's files of IPv4 and of IPv6.

use std::net::{Ipv4Addr, Ipv6Addr};

use socket2::Domain;

use crate::multicast::Address;
use crate::proxy::container::membership_files::number;

/// An address family whose memberships the kernel shows.
pub(crate) trait Shown: Address {
    /// Path of the file of groups.
    const GROUPS_FILE: &'static str;
    /// Path of the file of sources.
    const SOURCES_FILE: &'static str;
    /// The domain of its sockets.
    const DOMAIN: Domain;

    /// Calls `each` with every group of the text of the file of groups.
    fn each_group(text: &str, each: impl FnMut(ShownGroup<Self>));

    /// An address as the file of sources shows it.
    fn of_source_line(word: &[u8]) -> Option<Self>;
}

/// One line of the file of groups.
pub(crate) struct ShownGroup<A> {
    /// Index of the interface.
    pub(super) interface: u32,
    /// The version that the interface speaks.
    pub(super) version: u8,
    pub(super) group: A,
    /// How many sockets have joined.
    pub(super) users: u64,
}

impl Shown for Ipv4Addr {
    const GROUPS_FILE: &'static str = "/proc/thread-self/net/igmp";
    const SOURCES_FILE: &'static str = "/proc/thread-self/net/mcfilter";
    const DOMAIN: Domain = Domain::IPV4;

    /// The format of `igmp_mc_seq_show` in net/ipv4/igmp.c: a line for each interface, and the lines
    /// of its groups below it.
    fn each_group(text: &str, mut each: impl FnMut(ShownGroup<Self>)) {
        let mut interface = None;
        for line in text.lines().skip(1) {
            let mut words = line.split_whitespace();
            if line.starts_with(|c: char| c.is_ascii_digit()) {
                let index = words.next().and_then(|w| w.parse::<u32>().ok());
                let version = line.trim_end().bytes().last().map_or(3, |b| b.wrapping_sub(b'0'));
                interface = index.map(|i| (i, version.clamp(1, 3)));
            } else if let (Some((interface, version)), Some(group), Some(users)) = (
                interface,
                words.next().and_then(|w| u32::from_str_radix(w, 16).ok()),
                words.next().and_then(|w| w.parse().ok()),
            ) {
                // The kernel prints the address as a number of the machine's byte order.
                let group = Ipv4Addr::from(group.to_ne_bytes());
                each(ShownGroup { interface, version, group, users });
            }
        }
    }

    fn of_source_line(word: &[u8]) -> Option<Self> {
        Some(Ipv4Addr::from(number::<u32>(word.strip_prefix(b"0x")?, 16)?))
    }
}

impl Shown for Ipv6Addr {
    const GROUPS_FILE: &'static str = "/proc/thread-self/net/igmp6";
    const SOURCES_FILE: &'static str = "/proc/thread-self/net/mcfilter6";
    const DOMAIN: Domain = Domain::IPV6;

    /// The format of `igmp6_mc_seq_show` in net/ipv6/mcast.c: a line for each group, without a head
    /// line. Every interface has joined ff01::1, which is left out.
    fn each_group(text: &str, mut each: impl FnMut(ShownGroup<Self>)) {
        const ALL_NODES_OF_THE_INTERFACE: Ipv6Addr = Ipv6Addr::new(0xff01, 0, 0, 0, 0, 0, 0, 1);
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let interface = words.next().and_then(|word| word.parse().ok());
            let group = words.nth(1).and_then(|word| Self::of_source_line(word.as_bytes()));
            let users = words.next().and_then(|word| word.parse().ok());
            if let (Some(interface), Some(group), Some(users)) = (interface, group, users)
                && group != ALL_NODES_OF_THE_INTERFACE
            {
                each(ShownGroup { interface, version: 2, group, users });
            }
        }
    }

    /// 32 hexadecimal digits without colons.
    fn of_source_line(word: &[u8]) -> Option<Self> {
        if word.len() != 32 {
            return None;
        }
        let (high, low) = word.split_at(16);
        let (high, low) = (number::<u64>(high, 16)?, number::<u64>(low, 16)?);
        Some(Ipv6Addr::from(u128::from(high) << 64 | u128::from(low)))
    }
}
