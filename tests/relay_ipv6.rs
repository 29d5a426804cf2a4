//! The relay of IPv6: what tests of the relay are about, for groups of MLD.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;

use mcrun::net::netns::NetNs;
use mcrun::sys::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

use crate::keeper::keeper;
use crate::lab::{
    Container, Family as _, HOST_PORT, Lab, PARENT, PATIENCE, json, kill, numbered, run,
    stream_while, wait_until,
};
use crate::relay_parent::{plug_in, unplug, wait_state};

const GROUP: Ipv6Addr = Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 7, 7);
const OTHER: Ipv6Addr = Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 7, 8);
const DENIED: Ipv6Addr = Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 7, 9);
const CHANNEL: Ipv6Addr = Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 7, 7);
const MDNS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
const PORT: u16 = 6500;
const END: &str = "end";
/// How that begins which is sent until the switch forwards.
const READY: &[u8] = b"ready ";
/// Addresses of the LAN: the container host's, and two of the source.
const HOST: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 1);
const SOURCES: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 5), Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 6)];
/// Longest payload of UDP that a relay can inject: less than UDP's longest by the option with the group.
const LONGEST: usize = 65_527 - 24;

/// What came, and from where.
type Received = Vec<(Vec<u8>, SocketAddrV6)>;

/// A UDP socket that sends and joins by one interface.
pub struct Udp6 {
    socket: UdpSocket,
    index: u32,
}

impl Udp6 {
    pub fn open(net: &NetNs, address: Ipv6Addr, port: u16, interface: &str) -> Udp6 {
        let open = || -> io::Result<Udp6> {
            let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_reuse_address(true)?;
            sockopt::set_int(&socket, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_ALL, 0)?;
            let _ = sockopt::grow_receive_buffer(&socket, 8 << 20)?;
            socket.bind(&SocketAddrV6::new(address, port, 0, 0).into())?;
            let index = nix::net::if_::if_nametoindex(interface)?;
            socket.set_multicast_if_v6(index)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok(Udp6 { socket: socket.into(), index })
        };
        net.run(open).expect("entered").expect("socket")
    }

    pub fn of_container(container: &Container, port: u16) -> Udp6 {
        Udp6::open(&container.namespace(), Ipv6Addr::UNSPECIFIED, port, "eth0")
    }

    fn of_source(lab: &Lab, address: Ipv6Addr, port: u16) -> Udp6 {
        Udp6::open(&lab.net("src"), address, port, PARENT)
    }

    pub fn join(&self, group: Ipv6Addr) {
        sockopt::join_group(&self.socket, self.index, group).expect("join");
    }

    pub fn send(&self, payload: &[u8], to: (Ipv6Addr, u16)) {
        let to = SocketAddrV6::new(to.0, to.1, 0, self.index);
        assert_eq!(self.socket.send_to(payload, to).expect("sent"), payload.len());
    }

    fn set_hops(&self, hops: i32) {
        let option = libc::IPV6_MULTICAST_HOPS;
        sockopt::set_int(&self.socket, libc::IPPROTO_IPV6, option, hops).expect("hops");
    }

    fn stream(&self, name: &str, count: u32, to: (Ipv6Addr, u16)) {
        for number in 0..count {
            self.send(&numbered(name, number), to);
            if number % 50 == 49 {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
    }

    fn receive(&self) -> (Vec<u8>, SocketAddrV6) {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match self.socket.recv_from(&mut buffer).expect("a datagram") {
                (length, _) if buffer[..length].starts_with(READY) => {}
                (length, SocketAddr::V6(from)) => return (buffer[..length].to_vec(), from),
                (_, other) => panic!("{other}"),
            }
        }
    }

    /// Sends until `ear` receives. A bridge that has just begun to ask forwards only when
    /// the answers to its first query may have come (`br_multicast_querier_exists`).
    pub fn send_until_heard(&self, ear: &Udp6, to: (Ipv6Addr, u16)) {
        let pause = std::time::Duration::from_millis(10);
        let own = [READY, format!("{:?}", self.socket).as_bytes()].concat();
        ear.socket.set_read_timeout(Some(pause)).expect("timeout");
        wait_until("a packet arrives", PATIENCE, || {
            // A new address is tried first, and is none until then.
            let _ = self.socket.send_to(&own, SocketAddrV6::new(to.0, to.1, 0, self.index));
            let mut heard = [0; 256];
            let length = ear.socket.recv(&mut heard).ok()?;
            (heard[..length] == own).then_some(())
        });
        ear.socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    }

    /// All that comes before the marker.
    pub fn receive_until(&self, marker: &str) -> Received {
        let mut received = Vec::new();
        loop {
            let datagram = self.receive();
            if datagram.0 == marker.as_bytes() {
                return received;
            }
            received.push(datagram);
        }
    }

    /// The next datagram, with the hop limit of its packet.
    fn receive_with_hop_limit(&self) -> (Vec<u8>, u8) {
        sockopt::set_int(&self.socket, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1).unwrap();
        let (mut bytes, mut control) = ([0u8; 2048], [0u64; 8]);
        let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        // SAFETY: an all-zero msghdr is valid; the buffers outlive the call.
        let (length, hops) = unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = size_of_val(&control) as _;
            let length = libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, 0);
            assert!(length >= 0, "{}", io::Error::last_os_error());
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            assert!(!header.is_null() && (*header).cmsg_type == libc::IPV6_HOPLIMIT);
            (length as usize, libc::CMSG_DATA(header).cast::<i32>().read_unaligned())
        };
        (bytes[..length].to_vec(), hops as u8)
    }
}

pub fn texts(received: &[(Vec<u8>, SocketAddrV6)]) -> Vec<String> {
    received.iter().map(|(bytes, _)| String::from_utf8_lossy(bytes).into_owned()).collect()
}

/// Asserts that a stream came whole, in order and once, from one address, and nothing else.
fn assert_whole(received: &[(Vec<u8>, SocketAddrV6)], name: &str, count: u32, from: Ipv6Addr) {
    let expected: Vec<String> = (0..count).map(|n| format!("{name} {n}")).collect();
    let got = texts(received);
    let wrong = got.iter().zip(&expected).find(|(got, expected)| got != expected);
    assert_eq!(wrong, None, "of {} packets of {name}, {count} were sent", got.len());
    assert_eq!(got.len(), expected.len(), "packets of {name}");
    let sources: BTreeSet<Ipv6Addr> = received.iter().map(|(_, from)| *from.ip()).collect();
    assert_eq!(sources, BTreeSet::from([from]));
}

/// A lab whose hosts have addresses of IPv6, and containers of which each has `eth0` on the host's
/// bridge. `config` is what the administrator says.
fn relayed(names: &[&str], more: &str, config: &str) -> (Lab, Vec<Container>) {
    let lab = Ipv6Addr::lab(2);
    lab.configure(config);
    for (node, address) in [("host", HOST), ("src", SOURCES[0]), ("src", SOURCES[1])] {
        lab.ip(node, &format!("-6 addr add {address}/64 dev {PARENT} nodad"));
    }
    lab.add_bridge();
    let each = names.iter().enumerate().map(|(position, name)| {
        let attachment = format!("parent=lan0,driver=relay,ipv6=on{more}");
        let container = lab.start_with(name, &[&attachment], &[]);
        plug(&lab, &container, position as u8 + 10);
        container
    });
    let containers = each.collect();
    (lab, containers)
}

/// Gives the container `eth0` with an address of IPv6.
fn plug(lab: &Lab, container: &Container, number: u8) -> Ipv6Addr {
    lab.plug(container, number);
    let address = inside(number);
    let words = format!("-6 addr add {address}/64 dev eth0 nodad");
    run(container.enter("ip").args(words.split(' ')));
    address
}

/// Address of a container on the bridge.
fn inside(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, number.into())
}

fn entry(lab: &Lab, container: &Container, group: Ipv6Addr) -> Option<serde_json::Value> {
    lab.groups(container).into_iter().find(|entry| entry["group"] == group.to_string())
}

pub fn wait_joined(lab: &Lab, container: &Container, group: Ipv6Addr) {
    wait_until("mcrun reports the group as joined", PATIENCE, || {
        (entry(lab, container, group)?["status"] == "joined").then_some(())
    });
}

/// The groups of IPv6 that the switch forwards to the container host.
fn forwarded(lab: &Lab) -> BTreeSet<Ipv6Addr> {
    let answer = json(lab.enter("sw", "bridge").args(["-j", "mdb", "show"]));
    let entries = answer[0]["mdb"].as_array().cloned().unwrap_or_default();
    let own = entries.iter().filter(|entry| entry["port"] == HOST_PORT);
    own.filter_map(|entry| entry["grp"].as_str()?.parse().ok()).collect()
}

fn wait_forwarded(lab: &Lab, group: Ipv6Addr) {
    wait_until("the switch forwards the group", PATIENCE, || {
        forwarded(lab).contains(&group).then_some(())
    });
}

fn wait_in_kernel(lab: &Lab, container: &Container) {
    wait_until("the kernel relays", PATIENCE, || {
        let inspected = json(&mut lab.mcrun(["inspect", "--json", &container.name]));
        let relay = &inspected["status"]["interfaces"][0]["relay"];
        (relay["in_kernel"] == true).then_some(())
    });
}

const BY_PROXIES: &str = "[relay]\nbpf = false\n";

#[test]
fn the_kernel_relays_what_was_joined_once_and_nothing_else() {
    what_was_joined_arrives("");
}

#[test]
fn proxies_relay_what_was_joined_once_and_nothing_else() {
    what_was_joined_arrives(BY_PROXIES);
}

fn what_was_joined_arrives(config: &str) {
    let (lab, containers) = relayed(&["one", "two"], &format!(",deny={DENIED}"), config);
    let [s1, s2] = SOURCES;
    let (sender, other) = (Udp6::of_source(&lab, s1, 0), Udp6::of_source(&lab, s2, 0));
    let ears: Vec<[Udp6; 2]> = containers
        .iter()
        .map(|container| {
            let [any, channel] = [PORT, PORT + 1].map(|port| Udp6::of_container(container, port));
            any.join(GROUP);
            any.join(DENIED);
            sockopt::join_source_group(&channel.socket, channel.index, CHANNEL, s1).unwrap();
            wait_joined(&lab, container, GROUP);
            wait_joined(&lab, container, CHANNEL);
            if config.is_empty() {
                wait_in_kernel(&lab, container);
            }
            [any, channel]
        })
        .collect();
    wait_forwarded(&lab, GROUP);
    wait_forwarded(&lab, CHANNEL);
    // What a bridge's port needs of the link is no business of the LAN's.
    let solicited = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 10);
    assert!(!forwarded(&lab).contains(&solicited), "{:?}", forwarded(&lab));
    for [any, channel] in &ears {
        sender.send_until_heard(any, (GROUP, PORT));
        sender.send_until_heard(channel, (CHANNEL, PORT + 1));
    }
    let relayed = |container| entry(&lab, container, GROUP).expect("listed")["relayed"].as_u64();
    let before: Vec<_> = containers.iter().map(|container| relayed(container).unwrap()).collect();
    sender.set_hops(7);
    for group in [DENIED, OTHER, GROUP] {
        sender.stream("any", 2000, (group, PORT));
    }
    sender.stream("channel", 2000, (CHANNEL, PORT + 1));
    other.stream("foreign", 100, (CHANNEL, PORT + 1));
    for to in [(CHANNEL, PORT + 1), (GROUP, PORT)] {
        sender.send(END.as_bytes(), to);
    }
    for [any, channel] in &ears {
        assert_whole(&any.receive_until(END), "any", 2000, s1);
        assert_whole(&channel.receive_until(END), "channel", 2000, s1);
    }
    for (container, before) in containers.iter().zip(before) {
        assert_eq!(relayed(container), Some(before + 2001));
        assert_eq!(entry(&lab, container, GROUP).expect("listed")["dropped"], 0);
        let ps = lab.ps(container).expect("listed");
        assert!(ps["interfaces"][0]["relayed"].as_u64() >= Some(before + 4002), "{ps}");
    }
    sender.send(b"seven", (GROUP, PORT));
    for [any, _] in &ears {
        assert_eq!(any.receive_with_hop_limit(), (b"seven".to_vec(), 7));
    }
}

#[test]
fn what_is_sent_goes_out_from_the_host_and_reaches_neighbours_once() {
    let (lab, containers) = relayed(&["one", "two"], "", "");
    let lan = Udp6::of_source(&lab, Ipv6Addr::UNSPECIFIED, PORT);
    lan.join(GROUP);
    let [one, two] = [0, 1].map(|n| Udp6::of_container(&containers[n], PORT));
    for (container, socket) in containers.iter().zip([&one, &two]) {
        socket.join(GROUP);
        wait_joined(&lab, container, GROUP);
    }
    wait_forwarded_to_source(&lab, GROUP);
    one.send_until_heard(&lan, (GROUP, PORT));
    let capture = lab.capture_also("ip6 and udp port 6500");
    one.set_hops(7);
    one.stream("sent", 1000, (GROUP, PORT));
    one.send(END.as_bytes(), (GROUP, PORT));
    assert_whole(&lan.receive_until(END), "sent", 1000, HOST);
    assert_whole(&two.receive_until(END), "sent", 1000, HOST);
    // Its own kernel loops it to itself, as every host's does, and the relay brings no second one.
    assert_whole(&one.receive_until(END), "sent", 1000, inside(10));
    let from_lan = Udp6::of_source(&lab, SOURCES[0], 0);
    wait_forwarded(&lab, GROUP);
    from_lan.send_until_heard(&two, (GROUP, PORT));
    from_lan.send(b"behind", (GROUP, PORT));
    for ear in [&one, &two, &lan] {
        assert_eq!(texts(&ear.receive_until("behind")), [""; 0]);
    }
    capture.igmp();
    let frames = capture.frames();
    let udp: Vec<_> = frames.iter().filter(|frame| frame.get(20) == Some(&17)).collect();
    assert_eq!(udp.len(), 1001, "each is on the wire once, and the marker");
    for frame in udp {
        assert_eq!(frame[21], 7, "hop limit");
        let packet = etherparse::SlicedPacket::from_ethernet(frame).expect("a frame");
        let Some(etherparse::NetSlice::Ipv6(ip)) = packet.net else { panic!("IPv6") };
        let Some(etherparse::TransportSlice::Udp(udp)) = packet.transport else { panic!("UDP") };
        let header = ip.header().to_header();
        let right = udp.to_header().calc_checksum_ipv6(&header, udp.payload()).expect("checksum");
        assert_eq!(udp.checksum(), right);
    }
    // With a hop limit of 0 a packet stays where it is.
    one.set_hops(0);
    one.send(b"stays", (GROUP, PORT));
    one.set_hops(1);
    one.send(END.as_bytes(), (GROUP, PORT));
    assert_eq!(texts(&lan.receive_until(END)), [""; 0]);
    // Answers come back to the container, from both kinds of addresses.
    let asker = Udp6::of_container(&containers[0], PORT + 5);
    asker.send(b"who is there?", (GROUP, PORT));
    let (_, from) = lan.receive();
    assert_eq!(*from.ip(), HOST);
    assert_ne!(from.port(), PORT + 5);
    lan.send(b"me", (*from.ip(), from.port()));
    let (answer, by) = asker.receive();
    assert_eq!((&answer[..], by.port()), (&b"me"[..], PORT));
    let text = run(&mut lab.mcrun(["inspect", &containers[0].name]));
    let line = format!("[{}]:{} sent as [{HOST}]:{}", inside(10), PORT + 5, from.port());
    assert!(text.contains(&line), "{line}: {text}");
}

/// Waits until the switch forwards the group to the source.
fn wait_forwarded_to_source(lab: &Lab, group: Ipv6Addr) {
    wait_until("the switch forwards the group to the source", PATIENCE, || {
        let answer = json(lab.enter("sw", "bridge").args(["-j", "mdb", "show"]));
        let entries = answer[0]["mdb"].as_array().cloned().unwrap_or_default();
        let is_it = |entry: &&serde_json::Value| {
            entry["port"] != HOST_PORT && entry["grp"] == group.to_string()
        };
        entries.iter().find(is_it).map(|_| ())
    });
}

#[test]
fn datagrams_of_all_sizes_arrive_whole_both_ways() {
    for config in ["", BY_PROXIES] {
        let (lab, containers) = relayed(&["one", "two"], "", config);
        let lan = Udp6::of_source(&lab, SOURCES[0], PORT);
        let lan_ear = Udp6::of_source(&lab, Ipv6Addr::UNSPECIFIED, PORT);
        lan_ear.join(OTHER);
        let [inside, neighbour] = [0, 1].map(|n| Udp6::of_container(&containers[n], PORT));
        inside.join(GROUP);
        neighbour.join(OTHER);
        wait_joined(&lab, &containers[0], GROUP);
        wait_joined(&lab, &containers[1], OTHER);
        wait_forwarded(&lab, GROUP);
        wait_forwarded(&lab, OTHER);
        wait_forwarded_to_source(&lab, OTHER);
        lan.send_until_heard(&inside, (GROUP, PORT));
        inside.send_until_heard(&lan_ear, (OTHER, PORT));
        for size in [0, 1, 1428, 1429, 1452, 1453, 8000, LONGEST] {
            let payload: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            println!("{size} bytes, {config:?}");
            lan.send(&payload, (GROUP, PORT));
            // A second copy would be taken for the next.
            assert!(inside.receive().0 == payload, "{size} bytes in, {config:?}");
            inside.send(&payload, (OTHER, PORT));
            for ear in [&lan_ear, &neighbour] {
                let (received, from) = ear.receive();
                assert!(received == payload, "{size} bytes out, {config:?}");
                assert_eq!(*from.ip(), HOST);
            }
        }
        lan.send(END.as_bytes(), (GROUP, PORT));
        assert_eq!(texts(&inside.receive_until(END)), [""; 0]);
        inside.send(END.as_bytes(), (OTHER, PORT));
        for ear in [&lan_ear, &neighbour] {
            assert_eq!(texts(&ear.receive_until(END)), [""; 0]);
        }
    }
}

#[test]
fn a_datagram_that_its_sender_has_cut_too_small_arrives_once() {
    for config in ["", BY_PROXIES] {
        let (lab, containers) = relayed(&["one"], "", config);
        let inside = Udp6::of_container(&containers[0], PORT);
        inside.join(GROUP);
        wait_joined(&lab, &containers[0], GROUP);
        wait_forwarded(&lab, GROUP);
        if config.is_empty() {
            wait_in_kernel(&lab, &containers[0]);
        }
        let sender = Udp6::of_source(&lab, SOURCES[0], 0);
        sender.send_until_heard(&inside, (GROUP, PORT));
        // Fragments of 1280 bytes make datagrams that would fit.
        run(lab.enter("src", "ip").args(["link", "set", PARENT, "mtu", "1280"]));
        for size in [1300, 1400, 1300] {
            let payload = vec![7; size];
            sender.send(&payload, (GROUP, PORT));
            assert_eq!(inside.receive().0.len(), size);
        }
        sender.send(END.as_bytes(), (GROUP, PORT));
        assert_eq!(texts(&inside.receive_until(END)), [""; 0]);
    }
}

#[test]
fn multicast_dns_works_both_ways_where_it_is_named() {
    let (lab, containers) = relayed(&["named", "other"], ",allow=mdns,allow=ff0e::/16", "");
    let silent = lab.start_with("silent", &["parent=lan0,driver=relay,ipv6=on"], &[]);
    plug(&lab, &silent, 30);
    let lan = Udp6::of_source(&lab, Ipv6Addr::UNSPECIFIED, 5353);
    lan.join(MDNS);
    let ears: Vec<Udp6> = containers
        .iter()
        .chain([&silent])
        .map(|container| {
            let ear = Udp6::of_container(container, 5353);
            ear.join(MDNS);
            ear
        })
        .collect();
    for container in &containers {
        wait_joined(&lab, container, MDNS);
    }
    wait_forwarded(&lab, MDNS);
    wait_forwarded_to_source(&lab, MDNS);
    assert_eq!(entry(&lab, &silent, MDNS), None, "not named");
    let [named, other, unnamed] = &ears[..] else { unreachable!() };
    for ear in [named, other] {
        lan.send_until_heard(ear, (MDNS, 5353));
        ear.send_until_heard(&lan, (MDNS, 5353));
    }
    for text in ["query", END] {
        lan.send(text.as_bytes(), (MDNS, 5353));
    }
    for ear in [named, other] {
        assert_eq!(texts(&ear.receive_until(END)), ["query"]);
    }
    assert_eq!(texts(&lan.receive_until(END)), ["query"]);
    for (ear, neighbour, text) in [(named, other, "first"), (other, named, "second")] {
        ear.send(text.as_bytes(), (MDNS, 5353));
        ear.send(END.as_bytes(), (MDNS, 5353));
        let answer = lan.receive_until(END);
        assert_eq!(texts(&answer), [text], "no loop");
        // To a group of the link it comes from the link, and mDNS keeps its port.
        assert!(answer[0].1.ip().is_unicast_link_local(), "{answer:?}");
        assert_eq!(answer[0].1.port(), 5353);
        for ear in [neighbour, ear] {
            assert_eq!(texts(&ear.receive_until(END)), [text], "once");
        }
        lan.send(b"behind", (MDNS, 5353));
        for ear in [neighbour, ear, &lan] {
            assert_eq!(texts(&ear.receive_until("behind")), [""; 0], "no loop");
        }
    }
    unnamed.send(b"unnamed", (MDNS, 5353));
    named.send(END.as_bytes(), (MDNS, 5353));
    assert_eq!(texts(&lan.receive_until(END)), [""; 0]);
}

/// Streams go both ways while `changes` run; each packet arrives once.
fn assert_whole_both_ways(lab: &Lab, containers: &[Container], changes: impl FnOnce()) {
    let [one, two] = containers else { panic!("two containers") };
    let lan_in = Udp6::of_source(lab, SOURCES[0], 0);
    let lan = Udp6::of_source(lab, Ipv6Addr::UNSPECIFIED, PORT);
    lan.join(OTHER);
    let (inside_one, neighbour) = (Udp6::of_container(one, PORT), Udp6::of_container(two, PORT));
    inside_one.join(GROUP);
    neighbour.join(OTHER);
    wait_joined(lab, one, GROUP);
    wait_joined(lab, two, OTHER);
    wait_forwarded(lab, GROUP);
    wait_forwarded(lab, OTHER);
    wait_forwarded_to_source(lab, OTHER);
    let out = Udp6::of_container(one, 0);
    lan_in.send_until_heard(&inside_one, (GROUP, PORT));
    out.send_until_heard(&lan, (OTHER, PORT));
    let send = |number| {
        lan_in.send(&numbered("in", number), (GROUP, PORT));
        out.send(&numbered("out", number), (OTHER, PORT));
    };
    let end = || {
        lan_in.send(END.as_bytes(), (GROUP, PORT));
        out.send(END.as_bytes(), (OTHER, PORT));
    };
    let receivers =
        [&inside_one, &neighbour, &lan].iter().map(|ear| || ear.receive_until(END)).collect();
    let (sent, received) = stream_while(send, end, receivers, changes);
    assert_whole(&received[0], "in", sent, SOURCES[0]);
    assert_whole(&received[1], "out", sent, HOST);
    assert_whole(&received[2], "out", sent, HOST);
}

#[test]
fn a_proxy_that_is_replaced_costs_no_packet_and_doubles_none() {
    for config in ["", BY_PROXIES] {
        let (lab, containers) = relayed(&["one", "two"], "", config);
        assert_whole_both_ways(&lab, &containers, || {
            for limit in 100..103 {
                let before: Vec<_> = containers.iter().map(|c| lab.proxy_pid(c)).collect();
                lab.configure(&format!("{config}[groups]\nmax-groups = {limit}\n"));
                run(&mut lab.mcrun(["reload"]));
                assert!(containers.iter().all(|c| !before.contains(&lab.proxy_pid(c))));
            }
        });
    }
}

#[test]
fn a_killed_proxy_costs_no_packet_where_a_keeper_holds() {
    for config in ["", BY_PROXIES] {
        let (lab, containers) = relayed(&["one", "two"], "", config);
        let _keeper = keeper(&lab);
        assert_whole_both_ways(&lab, &containers, || {
            for _ in 0..3 {
                for container in &containers {
                    let proxy = lab.wait_held(container);
                    kill(proxy);
                    wait_until("a successor is held", PATIENCE, || {
                        (lab.wait_held(container) != proxy).then_some(())
                    });
                }
            }
        });
    }
}

#[test]
fn an_interface_that_goes_and_a_parent_that_comes_again_are_relayed_again() {
    let (lab, containers) = relayed(&["one"], "", "");
    let container = &containers[0];
    let sender = Udp6::of_source(&lab, SOURCES[0], 0);
    for round in 0..3u8 {
        let ear = Udp6::of_container(container, PORT);
        ear.join(GROUP);
        wait_joined(&lab, container, GROUP);
        wait_forwarded(&lab, GROUP);
        sender.send_until_heard(&ear, (GROUP, PORT));
        sender.stream("round", 100, (GROUP, PORT));
        sender.send(END.as_bytes(), (GROUP, PORT));
        assert_whole(&ear.receive_until(END), "round", 100, SOURCES[0]);
        if round == 0 {
            run(container.enter("ip").args(["link", "del", "eth0"]));
            wait_until("the group is left", PATIENCE, || {
                (!forwarded(&lab).contains(&GROUP)).then_some(())
            });
            plug(&lab, container, 20);
        }
        if round == 1 {
            unplug(&lab);
            wait_state(&lab, container, "waiting");
            plug_in(&lab);
            wait_state(&lab, container, "running");
        }
    }
}
