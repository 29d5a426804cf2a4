//! The address families, as the lab's sockets and the kernel's files have them, and a lab for each.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::time::Duration;

use mcrun::mld::wire::{self, Ipv6Packet, Message, Query, RecordType, Version};
use mcrun::multicast::Address;
use socket2::{Domain, Socket};

use super::facts::Membership;
use super::frames::{IPV4, IPV6, Ipv4, Mac, checksum, ethernet, mac, multicast_mac};
use super::process::{json, wait_until};
use super::{Capture, Container, Lab, PARENT, PATIENCE, SWITCH};

/// By source: how many sockets include it, and how many exclude it.
pub type SourceCounts<A> = BTreeMap<A, (u32, u32)>;

/// A message of a host or of a querier.
#[derive(Debug, Clone)]
pub struct Seen<A> {
    /// Groups that it speaks of.
    pub groups: Vec<A>,
    /// Whether it tells the switch that somebody wants a group or a source no more.
    pub is_leave: bool,
}

/// An address family, and the protocol in which its memberships are reported.
pub trait Family: Address {
    /// That of its sockets.
    const DOMAIN: Domain;
    /// An address with a port.
    type SocketAddress: Copy + Debug + PartialEq + Into<SocketAddr>;
    /// A file of /proc/PID/net: the groups that the kernel has joined.
    const GROUPS_FILE: &'static str;
    /// The file beside it: their sources.
    const SOURCES_FILE: &'static str;
    /// The version of the protocol that has no source lists, and the one that has them.
    const VERSIONS: [u8; 2];
    /// The bridge's setting of the version.
    const SWITCH_VERSION: &'static str;
    /// The name of the protocol.
    const PROTOCOL: &'static str;
    /// The key of `mcrun ps --json` for the querier that an interface hears.
    const QUERIER: &'static str;

    /// The address with a port; `index` is the interface of one that needs it.
    fn with_port(self, port: u16, index: u32) -> Self::SocketAddress;

    /// The address of a socket of this family.
    fn socket_address(address: SocketAddr) -> Option<Self::SocketAddress>;

    /// The address without its port.
    fn without_port(address: Self::SocketAddress) -> Self;

    /// Has a socket receive what it has joined itself, and nothing that others have joined.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    fn receive_own_groups(socket: &Socket) -> io::Result<()>;

    /// The level and the option that set the time to live, or the hop limit, of what is sent to a group.
    const MULTICAST_HOPS: (i32, i32);

    /// Reads [`GROUPS_FILE`](Self::GROUPS_FILE).
    fn memberships(text: &str) -> BTreeSet<Membership<Self>>;

    /// An address as [`SOURCES_FILE`](Self::SOURCES_FILE) has it.
    fn listed(word: &str) -> Self;

    /// Blocks a source of a group that the socket has joined from any source, or unblocks it.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    fn block(socket: &Socket, index: u32, group: Self, source: Self, on: bool) -> io::Result<()>;

    /// The address of a station of the LAN. Those of the sender are 3 and 4.
    fn station(number: u8) -> Self;

    /// A group that is received from any source.
    fn group(number: u8) -> Self;

    /// A group of which every join names its sources.
    fn channel(number: u8) -> Self;

    /// Length of the LAN's prefix.
    const PREFIX: u8;

    /// A lab whose switch asks in this version of the family's protocol.
    fn lab(version: u8) -> Lab;

    /// A container with the address of this station.
    fn start(lab: &Lab, name: &str, number: u8) -> Container {
        let (address, length) = (Self::station(number), Self::PREFIX);
        lab.start_with(name, &[&format!("parent={PARENT},ip={address}/{length}")], &[])
    }

    /// Makes the switch ask in this version from now on.
    fn set_version(lab: &Lab, version: u8) {
        lab.ip("sw", &format!("link set br0 type bridge {} {version}", Self::SWITCH_VERSION));
    }

    /// The address from which the switch asks.
    fn querier(lab: &Lab) -> Self;

    /// A frame with a query of the older version for one group, from the switch.
    fn query(lab: &Lab, group: Self) -> Vec<u8>;

    /// Captures what the host reports, from now on.
    fn capture(lab: &Lab) -> Capture;

    /// What a capture has seen up to now.
    fn seen(capture: &Capture) -> Vec<Seen<Self>>;

    /// What a capture has seen came from the host, and was no query.
    fn assert_one_host(lab: &Lab, capture: &Capture);
}

impl Family for Ipv4Addr {
    const DOMAIN: Domain = Domain::IPV4;
    const GROUPS_FILE: &'static str = "igmp";
    const SOURCES_FILE: &'static str = "mcfilter";
    const VERSIONS: [u8; 2] = [2, 3];
    const SWITCH_VERSION: &'static str = "mcast_igmp_version";
    const PROTOCOL: &'static str = "IGMP";
    const QUERIER: &'static str = "querier";
    const PREFIX: u8 = 24;
    const MULTICAST_HOPS: (i32, i32) = (libc::IPPROTO_IP, libc::IP_MULTICAST_TTL);
    type SocketAddress = SocketAddrV4;

    fn with_port(self, port: u16, _: u32) -> SocketAddrV4 {
        SocketAddrV4::new(self, port)
    }

    fn socket_address(address: SocketAddr) -> Option<SocketAddrV4> {
        match address {
            SocketAddr::V4(address) => Some(address),
            SocketAddr::V6(_) => None,
        }
    }

    fn without_port(address: SocketAddrV4) -> Self {
        *address.ip()
    }

    fn receive_own_groups(socket: &Socket) -> io::Result<()> {
        socket.set_multicast_all_v4(false)
    }

    fn memberships(text: &str) -> BTreeSet<Membership<Self>> {
        let mut interface = String::new();
        let mut found = BTreeSet::new();
        for line in text.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if !line.starts_with('\t') {
                interface =
                    words.get(1).copied().unwrap_or_default().trim_end_matches(':').to_owned();
            } else if let Some(Ok(group)) = words.first().map(|word| u32::from_str_radix(word, 16))
            {
                // Printed as the number that the address in network order is on this machine.
                let group = Ipv4Addr::from(group.to_ne_bytes());
                found.insert(Membership { interface: interface.clone(), group });
            }
        }
        found
    }

    fn listed(word: &str) -> Self {
        let digits = word.trim_start_matches("0x");
        Ipv4Addr::from(u32::from_str_radix(digits, 16).expect("an address"))
    }

    /// By the older calls of ip(7), which name the interface by its route here.
    fn block(socket: &Socket, _: u32, group: Self, source: Self, on: bool) -> io::Result<()> {
        let address = |a: Ipv4Addr| libc::in_addr { s_addr: u32::from_ne_bytes(a.octets()) };
        let request = libc::ip_mreq_source {
            imr_multiaddr: address(group),
            imr_interface: address(Ipv4Addr::UNSPECIFIED),
            imr_sourceaddr: address(source),
        };
        let option = if on { libc::IP_BLOCK_SOURCE } else { libc::IP_UNBLOCK_SOURCE };
        set(socket, libc::IPPROTO_IP, option, &request)
    }

    fn station(number: u8) -> Self {
        Ipv4Addr::new(10, 99, 0, number)
    }

    fn group(number: u8) -> Self {
        Ipv4Addr::new(239, 9, 1, number)
    }

    fn channel(number: u8) -> Self {
        Ipv4Addr::new(232, 9, 1, number)
    }

    fn lab(version: u8) -> Lab {
        Lab::new(version)
    }

    fn querier(_: &Lab) -> Self {
        SWITCH
    }

    fn query(lab: &Lab, group: Self) -> Vec<u8> {
        let mut query = [&[0x11, 10, 0, 0][..], &group.octets()].concat();
        let sum = checksum(&query);
        query[2..4].copy_from_slice(&sum.to_be_bytes());
        let packet = Ipv4 {
            protocol: 2,
            from: SWITCH,
            to: group,
            // Router Alert (RFC 2113).
            options: &[0x94, 4, 0, 0],
            fragment: 0,
            payload: &query,
        };
        ethernet(multicast_mac(group), switch_mac(lab), IPV4, &packet.bytes())
    }

    fn capture(lab: &Lab) -> Capture {
        lab.capture()
    }

    fn seen(capture: &Capture) -> Vec<Seen<Self>> {
        let seen = capture.igmp().into_iter();
        seen.map(|f| Seen { groups: f.message.groups(), is_leave: f.is_leave() }).collect()
    }

    fn assert_one_host(lab: &Lab, capture: &Capture) {
        lab.assert_one_igmp_host(&capture.igmp());
    }
}

impl Family for Ipv6Addr {
    const DOMAIN: Domain = Domain::IPV6;
    const GROUPS_FILE: &'static str = "igmp6";
    const SOURCES_FILE: &'static str = "mcfilter6";
    const VERSIONS: [u8; 2] = [1, 2];
    const SWITCH_VERSION: &'static str = "mcast_mld_version";
    const PROTOCOL: &'static str = "MLD";
    const QUERIER: &'static str = "mld_querier";
    const PREFIX: u8 = 64;
    const MULTICAST_HOPS: (i32, i32) = (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS);
    type SocketAddress = SocketAddrV6;

    fn with_port(self, port: u16, index: u32) -> SocketAddrV6 {
        SocketAddrV6::new(self, port, 0, index)
    }

    fn socket_address(address: SocketAddr) -> Option<SocketAddrV6> {
        match address {
            SocketAddr::V4(_) => None,
            SocketAddr::V6(address) => Some(address),
        }
    }

    fn without_port(address: SocketAddrV6) -> Self {
        *address.ip()
    }

    fn receive_own_groups(socket: &Socket) -> io::Result<()> {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_ALL, &0i32)
    }

    fn memberships(text: &str) -> BTreeSet<Membership<Self>> {
        // Index and name of the interface, the group, and more.
        let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines
            .map(|words| Membership { interface: words[1].into(), group: Self::listed(words[2]) })
            .collect()
    }

    fn listed(word: &str) -> Self {
        Ipv6Addr::from(u128::from_str_radix(word, 16).expect("an address"))
    }

    fn block(socket: &Socket, index: u32, group: Self, source: Self, on: bool) -> io::Result<()> {
        let storage = |address: Ipv6Addr| {
            // SAFETY: all bytes zero are a valid sockaddr_storage, which is larger than a
            // sockaddr_in6 and aligned for one.
            unsafe {
                let mut storage: libc::sockaddr_storage = std::mem::zeroed();
                let place = &mut *(&raw mut storage).cast::<libc::sockaddr_in6>();
                place.sin6_family = libc::AF_INET6 as u16;
                place.sin6_addr.s6_addr = address.octets();
                storage
            }
        };
        let request = libc::group_source_req {
            gsr_interface: index,
            gsr_group: storage(group),
            gsr_source: storage(source),
        };
        let option = if on { libc::MCAST_BLOCK_SOURCE } else { libc::MCAST_UNBLOCK_SOURCE };
        set(socket, libc::IPPROTO_IPV6, option, &request)
    }

    fn station(number: u8) -> Self {
        Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, number.into())
    }

    fn group(number: u8) -> Self {
        Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 9, number.into())
    }

    fn channel(number: u8) -> Self {
        Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0x8009, number.into())
    }

    fn lab(version: u8) -> Lab {
        let lab = Lab::new(2);
        lab.ip("sw", &format!("link set br0 type bridge mcast_mld_version {version}"));
        for source in [3, 4].map(Self::station) {
            lab.ip("src", &format!("addr add {source}/64 dev {PARENT} nodad"));
        }
        // Without an address a bridge sends no query, and the sender no packet.
        for (node, link) in [("sw", "br0"), ("src", PARENT)] {
            wait_until("an address can be used", PATIENCE, || lab.link_local(node, link));
        }
        let querier_on = lab.begin_to_ask();
        lab.ask_from_now_on(querier_on);
        lab
    }

    fn querier(lab: &Lab) -> Self {
        lab.link_local("sw", "br0").expect("an address that can be used")
    }

    fn query(lab: &Lab, group: Self) -> Vec<u8> {
        let query = Message::Query(Query {
            version: Version::V2,
            group: Some(group),
            ..Query::general(Duration::from_secs(1))
        });
        let packet = query.emit_ipv6(Self::querier(lab), group, 1, 1500).remove(0);
        let [.., a, b, c, d] = group.octets();
        // RFC 2464 §7.
        ethernet([0x33, 0x33, a, b, c, d], switch_mac(lab), IPV6, &packet)
    }

    fn capture(lab: &Lab) -> Capture {
        lab.capture_also("ip6")
    }

    fn seen(capture: &Capture) -> Vec<Seen<Self>> {
        let messages = mld_now(capture).into_iter().map(|(.., message)| message);
        messages
            .map(|message| match message {
                Message::Query(query) => {
                    Seen { groups: query.group.into_iter().collect(), is_leave: false }
                }
                Message::ReportV1 { group } | Message::ReportV2 { group } => {
                    Seen { groups: vec![group], is_leave: false }
                }
                Message::LeaveV2 { group } => Seen { groups: vec![group], is_leave: true },
                Message::ReportV3(records) => Seen {
                    groups: records.iter().map(|record| record.group).collect(),
                    is_leave: records.iter().any(|record| {
                        record.kind == RecordType::Block
                            || record.kind == RecordType::ToIn && record.sources.is_empty()
                    }),
                },
            })
            .collect()
    }

    fn assert_one_host(lab: &Lab, capture: &Capture) {
        let seen = mld_now(capture);
        assert!(!seen.is_empty(), "the capture saw the host's reports");
        for (mac, source, hop_limit, message) in &seen {
            assert_eq!(mac, lab.host_mac(), "one MLD host on the port: {message:?}");
            let is_of_link = source.is_unicast_link_local() || source.is_unspecified();
            assert!(is_of_link, "{source} {message:?}");
            assert_eq!(*hop_limit, 1);
            assert!(!matches!(message, Message::Query(_)), "{message:?}");
        }
    }
}

impl Lab {
    /// The link-local address of a node's interface, once it can be used.
    pub fn link_local(&self, node: &str, link: &str) -> Option<Ipv6Addr> {
        let shown = json(self.enter(node, "ip").args(["-j", "-6", "addr", "show", "dev", link]));
        let all = shown[0]["addr_info"].as_array()?.iter();
        let mut usable = all.filter(|address| address["tentative"] != true);
        let found = usable.find(|address| address["scope"] == "link")?;
        found["local"].as_str()?.parse().ok()
    }
}

/// The MLD messages that have passed the port of a capture before this call.
fn mld_now(capture: &Capture) -> Vec<(String, Ipv6Addr, u8, Message)> {
    // It waits for what has passed.
    capture.igmp();
    mld(&capture.frames())
}

fn switch_mac(lab: &Lab) -> Mac {
    let links = json(lab.enter("sw", "ip").args(["-j", "link", "show", "br0"]));
    mac(links[0]["address"].as_str().expect("a MAC address"))
}

/// The MLD messages among these frames: source of the frame and of the packet, hop limit, message.
pub fn mld(frames: &[Vec<u8>]) -> Vec<(String, Ipv6Addr, u8, Message)> {
    let frames = frames.iter().filter(|frame| frame[12..14] == IPV6.to_be_bytes());
    frames
        .filter_map(|frame| {
            let mac: Vec<_> = frame[6..12].iter().map(|byte| format!("{byte:02x}")).collect();
            let packet = Ipv6Packet::parse(&frame[14..]).ok()?;
            Some((mac.join(":"), packet.src(), packet.hop_limit(), wire::parse(&packet).ok()?))
        })
        .collect()
}

fn set<T>(socket: &Socket, level: i32, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the value is a live structure of the stated size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
