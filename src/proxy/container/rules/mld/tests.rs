//! Interception and injection of MLD by the kernel: a link whose other end is a LAN.

use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};

use crate::multicast::{GroupPolicy, SourceFilter};
use crate::net::arp_announcement::link_address;
use crate::net::netns::NetNs;
use crate::net::nfnetlink::{NfSocket, receive};
use crate::net::raw_socket::raw_ipv6_sender;
use crate::primitives::MacAddr;
use crate::proxy::container::injection::{ALL_NODES_OF_THE_INTERFACE, QueryInjector};
use crate::proxy::container::interception::NflogSocket;
use crate::proxy::container::rules::{Egress, Hooks, Intercept, RuledInterface, install};
use crate::sys::sockopt;

const PATIENCE: Duration = Duration::from_secs(10);
const MARK: u32 = 0x00ab_cdef;
const QUERIER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x99);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const MLDV2_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
const GROUP: Ipv6Addr = Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 0, 7);
const OTHER: Ipv6Addr = Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 0, 8);
const QUERY: u8 = 130;
const REPORT_V1: u8 = 131;
const DONE_V1: u8 = 132;
const REPORT_V2: u8 = 143;
const HOP_BY_HOP: u8 = 0;
const DESTINATION_OPTIONS: u8 = 60;
const FRAGMENT: u8 = 44;
/// An extension header with the Router Alert option of MLD (RFC 2711 §2.1); its first byte is the next
/// header.
const ROUTER_ALERT: [u8; 8] = [58, 0, 5, 2, 0, 0, 1, 0];

/// A container with a link, and the LAN at its other end. The link-local address of the container
/// stays tentative for as long as the test takes.
struct Link {
    container: NetNs,
    lan: NetNs,
    index: u32,
    /// Hears what leaves the container.
    wire: Socket,
}

fn run(program: &str, arguments: &str) {
    let done = Command::new(program).args(arguments.split(' ')).output().unwrap();
    assert!(done.status.success(), "{program} {arguments}: {done:?}");
}

fn index_of(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}

impl Link {
    fn new() -> Self {
        let (container, lan) = (NetNs::create().unwrap(), NetNs::create().unwrap());
        let wire = lan
            .run(|| {
                let (theirs, ours) = ("mc0", "lan0");
                let namespace =
                    format!("/proc/{}/fd/{}", std::process::id(), container.as_fd().as_raw_fd());
                run(
                    "ip",
                    &format!("link add {ours} type veth peer name {theirs} netns {namespace}"),
                );
                run("sysctl", "-qw net.ipv6.conf.lan0.accept_dad=0");
                run("ip", &format!("link set {ours} up"));
                let wire = Socket::new(Domain::PACKET, Type::RAW, None).unwrap();
                wire.bind(&link_address(index_of(ours), libc::ETH_P_ALL as u16)).unwrap();
                wire
            })
            .unwrap();
        let index = container
            .run(|| {
                run("sysctl", "-qw net.ipv6.conf.mc0.dad_transmits=100");
                index_of("mc0")
            })
            .unwrap();
        Link { container, lan, index, wire }
    }

    fn set_up(&self) {
        self.container.run(|| run("ip", "link set mc0 up")).unwrap();
        let start = Instant::now();
        while !self
            .container
            .run(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap())
            .unwrap()
            .contains("mc0")
        {
            assert!(start.elapsed() < PATIENCE, "no link-local address");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn install(&self) -> (NfSocket, NflogSocket) {
        self.install_with(true, None)
    }

    fn install_with(&self, intercepted: bool, egress: Option<Egress>) -> (NfSocket, NflogSocket) {
        self.install_policy(intercepted, egress, &GroupPolicy::default())
    }

    fn install_policy(
        &self,
        intercepted: bool,
        egress: Option<Egress>,
        policy: &GroupPolicy,
    ) -> (NfSocket, NflogSocket) {
        let sockets = self.container.run(|| {
            let (socket, nflog) = (NfSocket::open().unwrap(), NflogSocket::open().unwrap());
            let interface = RuledInterface {
                name: "mc0",
                index: self.index,
                intercepted,
                mld: true,
                hears_queries: true,
                data_filter: policy.data_filter(),
                data_filter_v6: policy.data_filter(),
                relayed: None,
                relayed_v6: Vec::new(),
                relayed_by_kernel: false,
                egress,
            };
            let intercept = Intercept { mark: MARK, group: nflog.group() };
            let intercept = intercepted.then_some(intercept);
            install(&socket, "mcrun", &[interface], intercept, Hooks::All).unwrap();
            (socket, nflog)
        });
        sockets.unwrap()
    }

    fn mac(&self) -> MacAddr {
        let read = || std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap();
        let shown = self.container.run(read).unwrap();
        let line = shown.lines().find(|line| line.ends_with("mc0")).unwrap();
        let digits = |at: usize| u8::from_str_radix(&line[at..at + 2], 16).unwrap();
        // The interface identifier of the link-local address (RFC 4291 appendix A).
        MacAddr::from([digits(16) ^ 2, digits(18), digits(20), digits(26), digits(28), digits(30)])
    }

    /// The types of the MLD messages that leave until the kernel has sent a report of MLDv2.
    fn wait_for_report(&self) -> Vec<u8> {
        let start = Instant::now();
        let mut left = self.left();
        while !left.contains(&REPORT_V2) {
            assert!(start.elapsed() < PATIENCE, "the kernel's report has not left");
            left.extend(self.left());
        }
        left
    }

    /// The types of the MLD messages that have left, up to a datagram that is sent now.
    fn left(&self) -> Vec<u8> {
        const MARKER: &[u8] = b"this is the marker";
        let mac = self.mac();
        let send = || {
            let packet = [
                &header(17, mac.link_local_address(), ALL_NODES, 8 + MARKER.len(), 1),
                &[0, 9, 0, 9, 0, 26, 0, 0][..],
                MARKER,
            ]
            .concat();
            let raw = raw_ipv6_sender().unwrap();
            raw.send_to(&packet, &SocketAddrV6::new(ALL_NODES, 0, 0, self.index).into()).unwrap();
        };
        self.container.run(send).unwrap();
        let mut types = Vec::new();
        let mut buffer = [0; 2048];
        loop {
            wait_for(&self.wire, "the marker");
            while let Some(frame) = receive(self.wire.as_fd(), &mut buffer).unwrap() {
                if frame.ends_with(MARKER) {
                    return types;
                }
                let is_its = frame[6..12] == mac.octets()
                    && frame[12..14] == (libc::ETH_P_IPV6 as u16).to_be_bytes();
                let packet = frame.get(14..).filter(|packet| is_its && packet.len() >= 40);
                types.extend(packet.and_then(mld).map(|message| message[0]));
            }
        }
    }
}

fn wait_for(fd: &impl AsFd, what: &str) {
    let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    let ready = poll(&mut polled, PollTimeout::try_from(PATIENCE).unwrap()).unwrap();
    assert_eq!(ready, 1, "{what} has not come");
}

/// The message, if a packet is one of MLD behind any extension headers.
fn mld(packet: &[u8]) -> Option<&[u8]> {
    let (mut next, mut at) = (packet[6], 40);
    while matches!(next, HOP_BY_HOP | DESTINATION_OPTIONS | FRAGMENT) {
        (next, at) = (packet[at], at + 8 + 8 * usize::from(packet[at + 1]));
    }
    let message = packet.get(at..)?;
    let is_mld = next == 58 && [QUERY, REPORT_V1, DONE_V1, REPORT_V2].contains(message.first()?);
    is_mld.then_some(message)
}

fn header(next: u8, source: Ipv6Addr, to: Ipv6Addr, length: usize, hops: u8) -> Vec<u8> {
    let [high, low] = (length as u16).to_be_bytes();
    [&[0x60, 0, 0, 0, high, low, next, hops][..], &source.octets(), &to.octets()].concat()
}

/// A whole packet: the message behind these extension headers, whose chain is complete.
fn packet(
    (first, headers): (u8, &[u8]),
    (source, to, hops): (Ipv6Addr, Ipv6Addr, u8),
    message: &[u8],
) -> Vec<u8> {
    let mut message = message.to_vec();
    message[2..4].fill(0);
    let pseudo = [
        &source.octets()[..],
        &to.octets(),
        &(message.len() as u32).to_be_bytes(),
        &[0, 0, 0, 58],
        &message,
    ]
    .concat();
    let sum: u32 =
        pseudo.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let length = headers.len() + message.len();
    [&header(first, source, to, length, hops)[..], headers, &message].concat()
}

/// A query with a maximum response delay of a millisecond: of MLDv1, or of MLDv2.
fn query(version: u8, group: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
    let mut message = [&[QUERY, 0, 0, 0, 0, 1, 0, 0][..], &group.octets()].concat();
    if version == 2 {
        message.extend([0, 20, 0, 0]);
    }
    packet((HOP_BY_HOP, &ROUTER_ALERT), (QUERIER, to, 1), &message)
}

/// The groups of the reports that the container wanted to send, with their type, up to one of this
/// type about this group; and the types of what it has heard.
fn reports_until(nflog: &NflogSocket, kind: u8, group: Ipv6Addr) -> (Vec<(u8, Ipv6Addr)>, Vec<u8>) {
    let (mut reports, mut heard) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; 1 << 14];
    while !reports.contains(&(kind, group)) {
        wait_for(nflog, &format!("a report of type {kind} about {group}: {reports:?}"));
        let each = |logged: crate::proxy::container::interception::LoggedPacket<'_>| {
            assert!(logged.is_ipv6);
            let message = mld(logged.bytes).expect("only MLD is logged");
            let kind = message[0];
            let address =
                |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&message[at..at + 16]).unwrap());
            match kind {
                _ if logged.has_arrived => heard.push(kind),
                REPORT_V2 => {
                    let mut at = 8;
                    for _ in 0..u16::from_be_bytes([message[6], message[7]]) {
                        reports.push((kind, address(at + 4)));
                        at += 20
                            + 16 * usize::from(u16::from_be_bytes([
                                message[at + 2],
                                message[at + 3],
                            ]));
                    }
                }
                _ => reports.push((kind, address(8))),
            }
        };
        nflog.receive(&mut buffer, each).unwrap();
    }
    (reports, heard)
}

#[test]
fn the_containers_own_mld_is_logged_and_does_not_leave() {
    let link = Link::new();
    let (rules, nflog) = link.install();
    link.set_up();
    let sockets = link.container.run(|| {
        let sockets = [GROUP, OTHER].map(|group| {
            let socket = UdpSocket::bind("[::]:0").unwrap();
            sockopt::join_group(&socket, link.index, group).unwrap();
            socket
        });
        // What a process makes of it in other shapes, some of which knows the mark.
        let report = [&[REPORT_V1, 0, 0, 0, 0, 0, 0, 0][..], &OTHER.octets()].concat();
        let options = [HOP_BY_HOP, 0, 1, 4, 0, 0, 0, 0];
        let longer =
            [&[DESTINATION_OPTIONS][..], &ROUTER_ALERT[1..], &[58], &options[1..]].concat();
        let to = (QUERIER, MLDV2_ROUTERS, 1);
        for (first, headers) in [
            (HOP_BY_HOP, &ROUTER_ALERT[..]),
            (HOP_BY_HOP, &longer),
            (DESTINATION_OPTIONS, &[58, 0, 1, 4, 0, 0, 0, 0]),
            (58, &[]),
            // In a first fragment.
            (FRAGMENT, &[58, 0, 0, 1, 0, 0, 0, 1]),
        ] {
            for mark in [0, MARK] {
                let raw = raw_ipv6_sender().unwrap();
                raw.set_mark(mark).unwrap();
                let target = SocketAddrV6::new(MLDV2_ROUTERS, 0, 0, link.index);
                let sent = raw.send_to(&packet((first, headers), to, &report), &target.into());
                assert_eq!(sent.unwrap_err().raw_os_error(), Some(libc::EPERM), "{first}");
            }
        }
        sockets
    });
    assert_eq!(link.left(), [0; 0]);
    let (reports, heard) = reports_until(&nflog, REPORT_V2, OTHER);
    assert!(reports.contains(&(REPORT_V2, GROUP)), "{reports:?}");
    assert_eq!(heard, [0; 0]);
    drop(sockets.unwrap());
    assert_eq!(link.left(), [0; 0]);
    // Without the rules the container's kernel speaks for itself.
    drop((rules, nflog));
    let join = || {
        let socket = UdpSocket::bind("[::]:0").unwrap();
        sockopt::join_group(&socket, link.index, GROUP).unwrap();
        socket
    };
    let _member = link.container.run(join).unwrap();
    link.wait_for_report();
}

/// Frames of a packet socket with a report of MLDv1, in every shape.
fn forged_frames(mac: MacAddr) -> Vec<Vec<u8>> {
    let report = [&[REPORT_V1, 0, 0, 0, 0, 0, 0, 0][..], &OTHER.octets()].concat();
    let long = [&[58, 1][..], &ROUTER_ALERT[2..], &[1, 6, 0, 0, 0, 0, 0, 0]].concat();
    let both =
        [&[DESTINATION_OPTIONS][..], &ROUTER_ALERT[1..], &[58, 0, 1, 4, 0, 0, 0, 0]].concat();
    let shapes: [(u8, &[u8]); 5] = [
        (58, &[]),
        (HOP_BY_HOP, &ROUTER_ALERT),
        (HOP_BY_HOP, &long),
        (HOP_BY_HOP, &both),
        (FRAGMENT, &[58, 0, 0, 1, 0, 0, 0, 1]),
    ];
    let way = (mac.link_local_address(), MLDV2_ROUTERS, 1);
    let addresses = [&[0x33, 0x33, 0, 0, 0, 0x16][..], &mac.octets()].concat();
    let tagged = |tag: i32| [(tag as u16).to_be_bytes(), [0, 5]].concat();
    let mut frames = Vec::new();
    for tag in [Vec::new(), tagged(libc::ETH_P_8021Q), tagged(libc::ETH_P_8021AD)] {
        for shape in shapes {
            let packet = packet(shape, way, &report);
            frames.push([&addresses[..], &tag, &[0x86, 0xdd], &packet].concat());
        }
    }
    frames
}

#[test]
fn no_frame_of_mld_leaves_but_those_of_a_kernel_that_speaks_for_itself() {
    let closed = |mac| Egress {
        mac,
        addresses: Vec::new(),
        ipv6: true,
        slaac: false,
        leases_ipv6: false,
        shares_mac: false,
    };
    for (intercepted, is_closed) in [(true, false), (true, true), (false, true)] {
        let link = Link::new();
        link.set_up();
        let mac = link.mac();
        let _rules = link.install_with(intercepted, is_closed.then(|| closed(mac)));
        // What the kernel has said before.
        link.left();
        let send = || {
            let member = UdpSocket::bind("[::]:0").unwrap();
            sockopt::join_group(&member, link.index, GROUP).unwrap();
            let socket = Socket::new(Domain::PACKET, Type::RAW, None).unwrap();
            for frame in forged_frames(mac) {
                let protocol = u16::from_be_bytes([frame[12], frame[13]]);
                let _ = socket.send_to(&frame, &link_address(link.index, protocol));
            }
            member
        };
        let _member = link.container.run(send).unwrap();
        let left = if intercepted { link.left() } else { link.wait_for_report() };
        assert!(left.iter().all(|kind| !intercepted && *kind == REPORT_V2), "{left:?}");
    }
}

#[test]
fn an_injected_query_of_each_version_is_answered_and_does_not_leave() {
    let link = Link::new();
    let (_rules, nflog) = link.install();
    link.set_up();
    let (injector, _members) = link
        .container
        .run(|| {
            let injector = QueryInjector::<Ipv6Addr>::open(MARK).unwrap();
            injector.set_interface(link.index).unwrap();
            let members = [GROUP, OTHER].map(|group| {
                let socket = UdpSocket::bind("[::]:0").unwrap();
                sockopt::join_group(&socket, link.index, group).unwrap();
                socket
            });
            (injector, members)
        })
        .unwrap();
    // The kernel's first reports.
    reports_until(&nflog, REPORT_V2, OTHER);
    let general = Ipv6Addr::UNSPECIFIED;
    injector.inject(&query(2, general, ALL_NODES_OF_THE_INTERFACE)).unwrap();
    reports_until(&nflog, REPORT_V2, GROUP);
    injector.inject(&query(2, OTHER, ALL_NODES_OF_THE_INTERFACE)).unwrap();
    reports_until(&nflog, REPORT_V2, OTHER);
    injector.inject(&query(1, GROUP, ALL_NODES_OF_THE_INTERFACE)).unwrap();
    reports_until(&nflog, REPORT_V1, GROUP);
    injector.inject(&query(1, general, ALL_NODES_OF_THE_INTERFACE)).unwrap();
    reports_until(&nflog, REPORT_V1, OTHER);
    for elsewhere in [ALL_NODES, GROUP, QUERIER] {
        let refused = injector.inject(&query(2, general, elsewhere)).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput, "{elsewhere}");
    }
    assert_eq!(link.left(), [0; 0]);
}

#[test]
fn a_query_of_the_lan_is_heard_and_does_not_arrive_while_a_router_does() {
    let link = Link::new();
    let (_rules, nflog) = link.install();
    link.container.run(|| run("sysctl", "-qw net.ipv6.conf.mc0.accept_ra=2")).unwrap();
    link.set_up();
    let join = || {
        let members = [GROUP, OTHER].map(|group| {
            let socket = UdpSocket::bind("[::]:0").unwrap();
            sockopt::join_group(&socket, link.index, group).unwrap();
            socket
        });
        let injector = QueryInjector::<Ipv6Addr>::open(MARK).unwrap();
        injector.set_interface(link.index).unwrap();
        (members, injector)
    };
    let (_members, injector) = link.container.run(join).unwrap();
    reports_until(&nflog, REPORT_V2, OTHER);
    injector.inject(&query(1, OTHER, ALL_NODES_OF_THE_INTERFACE)).unwrap();
    reports_until(&nflog, REPORT_V1, OTHER);
    link.lan
        .run(|| {
            let lan = index_of("lan0");
            let raw = raw_ipv6_sender().unwrap();
            let send = |packet: &[u8], to: Ipv6Addr| {
                raw.send_to(packet, &SocketAddrV6::new(to, 0, 0, lan).into()).unwrap();
            };
            send(&query(1, GROUP, GROUP), GROUP);
            send(&query(1, GROUP, ALL_NODES), ALL_NODES);
            // A router that is there for half an hour (RFC 4861 §4.2).
            let advertisement = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
            send(&packet((58, &[]), (QUERIER, ALL_NODES, 255), &advertisement), ALL_NODES);
        })
        .unwrap();
    let routes = || std::fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap();
    let start = Instant::now();
    let router = QUERIER.octets().map(|byte| format!("{byte:02x}")).concat();
    while !link.container.run(routes).unwrap().contains(&router) {
        assert!(start.elapsed() < PATIENCE, "no default route");
        std::thread::sleep(Duration::from_millis(1));
    }
    // The queries came before the router. Had they been heard, their answers would come before this
    // one, or with it.
    injector.inject(&query(1, OTHER, ALL_NODES_OF_THE_INTERFACE)).unwrap();
    let (reports, heard) = reports_until(&nflog, REPORT_V1, OTHER);
    assert!(reports.iter().all(|report| *report == (REPORT_V1, OTHER)), "{reports:?}");
    assert_eq!(heard, [QUERY, QUERY]);
    assert_eq!(link.left(), [0; 0]);
}

/// A rule decides about the data of a group too, by its source, and about nothing else.
#[test]
fn data_that_the_policy_denies_is_dropped_and_queries_pass() {
    const PORT: u16 = 5004;
    const SOURCES: [Ipv6Addr; 2] = [
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x98),
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x99),
    ];
    // Of a scope that has no exception, and of link scope.
    let groups = [GROUP, OTHER, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 7)];
    let rules = |list: &[&str]| list.iter().map(|rule| rule.parse().unwrap()).collect();
    let policy = GroupPolicy {
        allow: rules(&["ff0e::/16"]),
        deny: rules(&["ff0e::7@fe80::98", "ff0e::8", "ff02::/16"]),
        ..GroupPolicy::default()
    };
    let link = Link::new();
    let (_rules, nflog) = link.install_policy(true, None, &policy);
    link.set_up();
    let socket = link.container.run(|| {
        let socket = UdpSocket::bind(("::", PORT)).unwrap();
        for group in groups {
            sockopt::join_group(&socket, link.index, group).unwrap();
        }
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    });
    let socket = socket.unwrap();
    let send = |packet: &[u8], to: Ipv6Addr| {
        let send = || {
            let target = SocketAddrV6::new(to, 0, 0, index_of("lan0"));
            let raw = raw_ipv6_sender().unwrap();
            raw.set_multicast_loop_v6(false).unwrap();
            raw.send_to(packet, &target.into()).unwrap();
        };
        link.lan.run(send).unwrap();
    };
    let mut expected = Vec::new();
    for (number, (group, source)) in
        groups.into_iter().flat_map(|group| SOURCES.map(|source| (group, source))).enumerate()
    {
        let payload = [number as u8; 4];
        send(&udp(source, group, PORT, &payload), group);
        if policy.apply(group, &SourceFilter::include([source])).is_ok() {
            expected.push(payload);
        }
    }
    assert_eq!(expected.len(), 3);
    let mut buffer = [0; 4];
    for payload in expected {
        socket.recv(&mut buffer).expect("what is allowed arrives");
        assert_eq!(buffer, payload);
    }
    // A query about a denied group is heard all the same.
    send(&query(2, OTHER, OTHER), OTHER);
    let mut heard = false;
    let mut buffer = vec![0; 1 << 14];
    while !heard {
        wait_for(&nflog, "the query");
        nflog.receive(&mut buffer, |logged| heard |= logged.has_arrived).unwrap();
    }
}

/// A datagram, whose checksum is right.
fn udp(source: Ipv6Addr, to: Ipv6Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len();
    let [high, low] = (length as u16).to_be_bytes();
    let [a, b] = port.to_be_bytes();
    let mut datagram = [&[a, b, a, b, high, low, 0, 0][..], payload].concat();
    let pseudo =
        [&source.octets()[..], &to.octets(), &[0, 0, high, low, 0, 0, 0, 17], &datagram].concat();
    let sum: u32 = pseudo.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(c[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
    [header(17, source, to, length, 8), datagram].concat()
}
