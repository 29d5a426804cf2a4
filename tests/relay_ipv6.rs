//! The relay of IPv6: what tests of the relay are about, for groups of MLD.

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::time::Duration;

use mcrun::sys::sockopt;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::keeper::keeper;
use crate::lab::frames::link_address;
use crate::lab::{
    BRIDGE, Container, Family, Lab, PARENT, PATIENCE, assert_whole, json, kill, numbered, payloads,
    run, stream, stream_while, wait_until,
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
/// Nothing.
const NONE: [&str; 0] = [];
/// Address of the container host on the LAN.
const HOST: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 1);
/// Longest payload of UDP that a relay can inject: less than UDP's longest by the option with the group.
const LONGEST: usize = 65_527 - 24;

type Udp = crate::lab::Udp<Ipv6Addr>;

/// The addresses of the sender on the LAN.
fn sources() -> [Ipv6Addr; 2] {
    [3, 4].map(Ipv6Addr::station)
}

/// Sends until `ear` receives. A bridge that has just begun to ask forwards only when the answers to its
/// first query may have come (`br_multicast_querier_exists`), and a new address is tried first. Whoever
/// hears it receives by [`hear`] and [`next`].
pub fn send_until_heard(socket: &Udp, ear: &Udp, to: (Ipv6Addr, u16)) {
    let own = [READY, format!("{:?}", socket.socket).as_bytes()].concat();
    wait_until("a packet arrives", PATIENCE, || {
        let _ = socket.try_send(&own, to);
        (ear.receive(Duration::from_millis(10))?.0 == own).then_some(())
    });
}

/// The next datagram.
fn next(ear: &Udp) -> (Vec<u8>, SocketAddrV6) {
    loop {
        let datagram = ear.receive(PATIENCE).expect("a datagram");
        if !datagram.0.starts_with(READY) {
            return datagram;
        }
    }
}

/// All that comes before the marker.
pub fn hear(ear: &Udp, marker: &str) -> Vec<(Vec<u8>, SocketAddrV6)> {
    let all = ear.receive_until(marker).into_iter();
    all.filter(|(payload, _)| !payload.starts_with(READY)).collect()
}

/// The next datagram, with the hop limit of its packet.
fn next_with_hop_limit(ear: &Udp) -> (Vec<u8>, u8) {
    sockopt::set_int(&ear.socket, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1).unwrap();
    let (mut bytes, mut control) = ([0u8; 2048], [0u64; 8]);
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: an all-zero msghdr is valid; the buffers outlive the call.
    let (length, hops) = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        let length = libc::recvmsg(ear.socket.as_raw_fd(), &raw mut message, 0);
        assert!(length >= 0, "{}", io::Error::last_os_error());
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        assert!(!header.is_null() && (*header).cmsg_type == libc::IPV6_HOPLIMIT);
        (length as usize, libc::CMSG_DATA(header).cast::<i32>().read_unaligned())
    };
    (bytes[..length].to_vec(), hops as u8)
}

/// A lab whose hosts have addresses of IPv6, and containers of which each has `eth0` on the host's
/// bridge. `config` is what the administrator says.
pub fn relayed(names: &[&str], more: &str, config: &str) -> (Lab, Vec<Container>) {
    let lab = Ipv6Addr::lab(2);
    lab.configure(config);
    lab.ip("host", &format!("-6 addr add {HOST}/64 dev {PARENT} nodad"));
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

pub fn wait_in_kernel(lab: &Lab, container: &Container) {
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
    let [s1, s2] = sources();
    let (sender, other) = (lab.socket("src", s1, 0), lab.socket("src", s2, 0));
    let ears: Vec<[Udp; 2]> = containers
        .iter()
        .map(|container| {
            let [any, channel] = [PORT, PORT + 1].map(|port| container.socket_of("eth0", port));
            any.join(GROUP);
            any.join(DENIED);
            channel.join_source(CHANNEL, s1);
            lab.wait_joined(container, GROUP);
            lab.wait_joined(container, CHANNEL);
            if config.is_empty() {
                wait_in_kernel(&lab, container);
            }
            [any, channel]
        })
        .collect();
    lab.wait_forwarded(GROUP);
    lab.wait_forwarded(CHANNEL);
    // What a bridge's port needs of the link is no business of the LAN's.
    let solicited = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 10);
    assert!(!lab.forwarded().contains(&solicited.to_string()), "{:?}", lab.forwarded());
    for [any, channel] in &ears {
        send_until_heard(&sender, any, (GROUP, PORT));
        send_until_heard(&sender, channel, (CHANNEL, PORT + 1));
    }
    let relayed = |container| entry(&lab, container, GROUP).expect("listed")["relayed"].as_u64();
    let before: Vec<_> = containers.iter().map(|container| relayed(container).unwrap()).collect();
    sender.set_ttl(7);
    for group in [DENIED, OTHER, GROUP] {
        stream(&sender, "any", 2000, (group, PORT));
    }
    stream(&sender, "channel", 2000, (CHANNEL, PORT + 1));
    stream(&other, "foreign", 100, (CHANNEL, PORT + 1));
    for to in [(CHANNEL, PORT + 1), (GROUP, PORT)] {
        sender.send(END.as_bytes(), to);
    }
    for [any, channel] in &ears {
        assert_whole(&hear(any, END), "any", 2000, s1);
        assert_whole(&hear(channel, END), "channel", 2000, s1);
    }
    for (container, before) in containers.iter().zip(before) {
        assert_eq!(relayed(container), Some(before + 2001));
        assert_eq!(entry(&lab, container, GROUP).expect("listed")["dropped"], 0);
        let ps = lab.ps(container).expect("listed");
        assert!(ps["interfaces"][0]["relayed"].as_u64() >= Some(before + 4002), "{ps}");
    }
    sender.send(b"seven", (GROUP, PORT));
    for [any, _] in &ears {
        assert_eq!(next_with_hop_limit(any), (b"seven".to_vec(), 7));
    }
}

#[test]
fn what_is_sent_goes_out_from_the_host_and_reaches_neighbours_once() {
    let (lab, containers) = relayed(&["one", "two"], "", "");
    let lan = lab.socket("src", Ipv6Addr::UNSPECIFIED, PORT);
    lan.join(GROUP);
    let [one, two] = [0, 1].map(|n| containers[n].socket_of("eth0", PORT));
    for (container, socket) in containers.iter().zip([&one, &two]) {
        socket.join(GROUP);
        lab.wait_joined(container, GROUP);
    }
    lab.wait_forwarded_to_source(GROUP);
    send_until_heard(&one, &lan, (GROUP, PORT));
    let capture = lab.capture_also("ip6 and udp port 6500");
    one.set_ttl(7);
    stream(&one, "sent", 1000, (GROUP, PORT));
    one.send(END.as_bytes(), (GROUP, PORT));
    assert_whole(&hear(&lan, END), "sent", 1000, HOST);
    assert_whole(&hear(&two, END), "sent", 1000, HOST);
    // Its own kernel loops it to itself, as every host's does, and the relay brings no second one.
    assert_whole(&hear(&one, END), "sent", 1000, inside(10));
    let from_lan = lab.socket("src", sources()[0], 0);
    lab.wait_forwarded(GROUP);
    send_until_heard(&from_lan, &two, (GROUP, PORT));
    from_lan.send(b"behind", (GROUP, PORT));
    for ear in [&one, &two, &lan] {
        assert_eq!(payloads(&hear(ear, "behind")), NONE);
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
    one.set_ttl(0);
    one.send(b"stays", (GROUP, PORT));
    one.set_ttl(1);
    one.send(END.as_bytes(), (GROUP, PORT));
    assert_eq!(payloads(&hear(&lan, END)), NONE);
    // Answers come back to the container.
    let asker = containers[0].socket_of("eth0", PORT + 5);
    asker.send(b"who is there?", (GROUP, PORT));
    let (_, from) = next(&lan);
    assert_eq!(*from.ip(), HOST);
    assert_ne!(from.port(), PORT + 5);
    lan.send(b"me", (*from.ip(), from.port()));
    let (answer, by) = next(&asker);
    assert_eq!((&answer[..], by.port()), (&b"me"[..], PORT));
    let text = run(&mut lab.mcrun(["inspect", &containers[0].name]));
    let line = format!("[{}]:{} sent as [{HOST}]:{}", inside(10), PORT + 5, from.port());
    assert!(text.contains(&line), "{line}: {text}");
}

#[test]
fn datagrams_of_all_sizes_arrive_whole_both_ways() {
    for config in ["", BY_PROXIES] {
        let (lab, containers) = relayed(&["one", "two"], "", config);
        let lan = lab.socket("src", sources()[0], PORT);
        let lan_ear = lab.socket("src", Ipv6Addr::UNSPECIFIED, PORT);
        lan_ear.join(OTHER);
        let [inside, neighbour] = [0, 1].map(|n| containers[n].socket_of("eth0", PORT));
        inside.join(GROUP);
        neighbour.join(OTHER);
        lab.wait_joined(&containers[0], GROUP);
        lab.wait_joined(&containers[1], OTHER);
        lab.wait_forwarded(GROUP);
        lab.wait_forwarded(OTHER);
        lab.wait_forwarded_to_source(OTHER);
        send_until_heard(&lan, &inside, (GROUP, PORT));
        send_until_heard(&inside, &lan_ear, (OTHER, PORT));
        for size in [0, 1, 1428, 1429, 1452, 1453, 8000, LONGEST] {
            let payload: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            println!("{size} bytes, {config:?}");
            lan.send(&payload, (GROUP, PORT));
            // A second copy would be taken for the next.
            assert!(next(&inside).0 == payload, "{size} bytes in, {config:?}");
            inside.send(&payload, (OTHER, PORT));
            for ear in [&lan_ear, &neighbour] {
                let (received, from) = next(ear);
                assert!(received == payload, "{size} bytes out, {config:?}");
                assert_eq!(*from.ip(), HOST);
            }
        }
        lan.send(END.as_bytes(), (GROUP, PORT));
        assert_eq!(payloads(&hear(&inside, END)), NONE);
        inside.send(END.as_bytes(), (OTHER, PORT));
        for ear in [&lan_ear, &neighbour] {
            assert_eq!(payloads(&hear(ear, END)), NONE);
        }
    }
}

#[test]
fn a_datagram_that_its_sender_has_cut_too_small_arrives_once() {
    for config in ["", BY_PROXIES] {
        let (lab, containers) = relayed(&["one"], "", config);
        let inside = containers[0].socket_of("eth0", PORT);
        inside.join(GROUP);
        lab.wait_joined(&containers[0], GROUP);
        lab.wait_forwarded(GROUP);
        if config.is_empty() {
            wait_in_kernel(&lab, &containers[0]);
        }
        let sender = lab.socket("src", sources()[0], 0);
        send_until_heard(&sender, &inside, (GROUP, PORT));
        // Fragments of 1280 bytes make datagrams that would fit.
        run(lab.enter("src", "ip").args(["link", "set", PARENT, "mtu", "1280"]));
        for size in [1300, 1400, 1300] {
            let payload = vec![7; size];
            sender.send(&payload, (GROUP, PORT));
            assert_eq!(next(&inside).0.len(), size);
        }
        sender.send(END.as_bytes(), (GROUP, PORT));
        assert_eq!(payloads(&hear(&inside, END)), NONE);
    }
}

#[test]
fn multicast_dns_works_both_ways_where_it_is_named() {
    let (lab, containers) = relayed(&["named", "other"], ",allow=mdns,allow=ff0e::/16", "");
    let silent = lab.start_with("silent", &["parent=lan0,driver=relay,ipv6=on"], &[]);
    plug(&lab, &silent, 30);
    let lan = lab.socket("src", Ipv6Addr::UNSPECIFIED, 5353);
    lan.join(MDNS);
    let ears: Vec<Udp> = containers
        .iter()
        .chain([&silent])
        .map(|container| {
            let ear = container.socket_of("eth0", 5353);
            ear.join(MDNS);
            ear
        })
        .collect();
    for container in &containers {
        lab.wait_joined(container, MDNS);
    }
    lab.wait_forwarded(MDNS);
    lab.wait_forwarded_to_source(MDNS);
    assert_eq!(entry(&lab, &silent, MDNS), None, "not named");
    let [named, other, unnamed] = &ears[..] else { unreachable!() };
    for ear in [named, other] {
        send_until_heard(&lan, ear, (MDNS, 5353));
        send_until_heard(ear, &lan, (MDNS, 5353));
    }
    for text in ["query", END] {
        lan.send(text.as_bytes(), (MDNS, 5353));
    }
    for ear in [named, other] {
        assert_eq!(payloads(&hear(ear, END)), ["query"]);
    }
    assert_eq!(payloads(&hear(&lan, END)), ["query"]);
    for (ear, neighbour, text) in [(named, other, "first"), (other, named, "second")] {
        ear.send(text.as_bytes(), (MDNS, 5353));
        ear.send(END.as_bytes(), (MDNS, 5353));
        let answer = hear(&lan, END);
        assert_eq!(payloads(&answer), [text], "no loop");
        // To a group of the link it comes from the link, and mDNS keeps its port.
        assert!(answer[0].1.ip().is_unicast_link_local(), "{answer:?}");
        assert_eq!(answer[0].1.port(), 5353);
        for ear in [neighbour, ear] {
            assert_eq!(payloads(&hear(ear, END)), [text], "once");
        }
        lan.send(b"behind", (MDNS, 5353));
        for ear in [neighbour, ear, &lan] {
            assert_eq!(payloads(&hear(ear, "behind")), NONE, "no loop");
        }
    }
    unnamed.send(b"unnamed", (MDNS, 5353));
    named.send(END.as_bytes(), (MDNS, 5353));
    assert_eq!(payloads(&hear(&lan, END)), NONE);
}

/// Those of the link and those beyond.
#[test]
fn the_groups_of_named_protocols_go_both_ways() {
    let rules = ",allow=ssdp,allow=matter,allow=ros2";
    for config in ["", BY_PROXIES] {
        let (lab, containers) = relayed(&["one"], rules, config);
        for (group, port) in [
            ("ff02::c", 1900),
            ("ff05::c", 1900),
            ("ff05::fa", 5540),
            ("ff35:40:fd01:203:405:607:0:100", 5540),
            ("ff02::ffff:efff:1", 7400),
            ("ff1e::ffff:efff:1", 7400),
        ] {
            let group: Ipv6Addr = group.parse().expect("a group");
            let lan = lab.socket("src", Ipv6Addr::UNSPECIFIED, port);
            let inside = containers[0].socket_of("eth0", port);
            lan.join(group);
            inside.join(group);
            lab.wait_joined(&containers[0], group);
            lab.wait_forwarded(group);
            lab.wait_forwarded_to_source(group);
            send_until_heard(&lan, &inside, (group, port));
            send_until_heard(&inside, &lan, (group, port));
            for (sender, text) in [(&lan, "of the LAN"), (&inside, "of the container")] {
                for text in [text, END] {
                    sender.send(text.as_bytes(), (group, port));
                }
                for ear in [&lan, &inside] {
                    assert_eq!(payloads(&hear(ear, END)), [text], "{group}");
                }
            }
        }
    }
}

#[test]
fn two_relays_of_one_container_and_a_second_host_make_no_loop() {
    let lab = Ipv6Addr::lab(2);
    lab.flood();
    for node in ["host", "src"] {
        lab.add_bridge_on(node);
    }
    let relays = "parent=lan0,driver=relay,ipv6=on,allow=mdns";
    let twofold = lab.start_on("host", "twofold", &[relays, &format!("{relays},interface=eth1")]);
    let distant = lab.start_on("src", "distant", &[relays]);
    lab.plug_on("host", &twofold, "eth0", 10);
    lab.plug_on("host", &twofold, "eth1", 11);
    lab.plug_on("src", &distant, "eth0", 10);
    let lan = Udp::open(&lab.net("sw"), Ipv6Addr::UNSPECIFIED, 5353, "br0");
    let ears: [Udp; 3] = [
        twofold.socket_of("eth0", 5353),
        twofold.socket_of("eth1", 5353),
        distant.socket_of("eth0", 5353),
    ];
    // By whatever interface a packet comes, a socket hears it that has joined its group by any
    // (`inet6_mc_check` in net/ipv6/mcast.c), if it is not bound to one.
    for (ear, interface) in ears.iter().zip(["eth0", "eth1", "eth0"]) {
        let socket = SockRef::from(&ear.socket);
        socket.bind_device(Some(interface.as_bytes())).expect("bound");
    }
    for ear in ears.iter().chain([&lan]) {
        ear.join(MDNS);
    }
    for (container, interfaces) in [(&twofold, 2), (&distant, 1)] {
        wait_until("all interfaces have joined", PATIENCE, || {
            let groups = lab.groups(container).into_iter();
            let joined =
                groups.filter(|e| e["group"] == MDNS.to_string() && e["status"] == "joined");
            (joined.count() == interfaces).then_some(())
        });
    }
    lab.wait_forwarded_to_source(MDNS);
    for ear in &ears {
        send_until_heard(&lan, ear, (MDNS, 5353));
        send_until_heard(ear, &lan, (MDNS, 5353));
    }
    // A packet that goes round comes again before what is sent when all have heard it.
    for (sender, text) in [
        (&lan, "from the LAN"),
        (&ears[0], "from eth0"),
        (&ears[1], "from eth1"),
        (&ears[2], "from afar"),
    ] {
        sender.send(text.as_bytes(), (MDNS, 5353));
        for ear in ears.iter().chain([&lan]) {
            assert_eq!(next(ear).0, text.as_bytes());
        }
        lan.send(END.as_bytes(), (MDNS, 5353));
        for ear in ears.iter().chain([&lan]) {
            assert_eq!(payloads(&hear(ear, END)), NONE, "{text}");
        }
    }
}

/// A socket that sees what passes the bridge of the containers.
fn on_bridge(lab: &Lab) -> Socket {
    let open = || {
        // Without a protocol it receives nothing of another interface before it is bound.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(0))).unwrap();
        let index = nix::net::if_::if_nametoindex(BRIDGE).expect("the bridge");
        socket.bind(&link_address(index, [0; 6], libc::ETH_P_ALL as u16)).expect("bound");
        sockopt::grow_receive_buffer(&socket, 8 << 20).expect("buffer");
        socket.set_nonblocking(true).expect("nonblocking");
        socket
    };
    lab.run_in("host", open)
}

/// How many packets to the group have passed the bridge, or to the address of injected ones.
fn data_among(frames: &Socket) -> usize {
    let mut buffer = [0u8; 2048];
    // SAFETY: the buffer outlives the call, which writes at most its length.
    let receive = |buffer: &mut [u8]| unsafe {
        libc::recv(frames.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0)
    };
    let mut count = 0;
    while let Ok(length) = usize::try_from(receive(&mut buffer)) {
        let destination = buffer[..length].get(24..40).unwrap_or_default();
        let is_data = destination == GROUP.octets() || destination.starts_with(&[0xff, 0x01]);
        count += usize::from(buffer[0] >> 4 == 6 && is_data);
    }
    count
}

#[test]
fn nothing_is_injected_past_a_group_that_is_left() {
    let (lab, containers) = relayed(&["one"], "", BY_PROXIES);
    let sender = lab.socket("src", sources()[0], 0);
    let ear = containers[0].socket_of("eth0", PORT);
    ear.join(GROUP);
    lab.wait_joined(&containers[0], GROUP);
    send_until_heard(&sender, &ear, (GROUP, PORT));
    let frames = on_bridge(&lab);
    let send = |number| sender.send(&numbered("data", number), (GROUP, PORT));
    let (_, _) = stream_while(
        send,
        || (),
        Vec::<fn() -> Vec<()>>::new(),
        || {
            for _ in 0..20 {
                ear.leave(GROUP);
                ear.join(GROUP);
                next(&ear);
            }
        },
    );
    assert_eq!(data_among(&frames), 0);
    // The socket sees what a container sends.
    containers[0].socket_of("eth0", 0).send(b"out", (GROUP, PORT));
    wait_until("it is seen", PATIENCE, || (data_among(&frames) > 0).then_some(()));
}

/// Streams go both ways while `changes` run; each packet arrives once.
fn assert_whole_both_ways(lab: &Lab, containers: &[Container], changes: impl FnOnce()) {
    let [one, two] = containers else { panic!("two containers") };
    let lan_in = lab.socket("src", sources()[0], 0);
    let lan = lab.socket("src", Ipv6Addr::UNSPECIFIED, PORT);
    lan.join(OTHER);
    let (inside_one, neighbour) = (one.socket_of("eth0", PORT), two.socket_of("eth0", PORT));
    inside_one.join(GROUP);
    neighbour.join(OTHER);
    lab.wait_joined(one, GROUP);
    lab.wait_joined(two, OTHER);
    lab.wait_forwarded(GROUP);
    lab.wait_forwarded(OTHER);
    lab.wait_forwarded_to_source(OTHER);
    let out = one.socket_of("eth0", 0);
    send_until_heard(&lan_in, &inside_one, (GROUP, PORT));
    send_until_heard(&out, &lan, (OTHER, PORT));
    let send = |number| {
        lan_in.send(&numbered("in", number), (GROUP, PORT));
        out.send(&numbered("out", number), (OTHER, PORT));
    };
    let end = || {
        lan_in.send(END.as_bytes(), (GROUP, PORT));
        out.send(END.as_bytes(), (OTHER, PORT));
    };
    let ears = [&inside_one, &neighbour, &lan];
    let receivers = ears.iter().map(|ear| || hear(ear, END)).collect();
    let (sent, received) = stream_while(send, end, receivers, changes);
    assert_whole(&received[0], "in", sent, sources()[0]);
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
    let sender = lab.socket("src", sources()[0], 0);
    for round in 0..3u8 {
        let ear = container.socket_of("eth0", PORT);
        ear.join(GROUP);
        lab.wait_joined(container, GROUP);
        lab.wait_forwarded(GROUP);
        send_until_heard(&sender, &ear, (GROUP, PORT));
        stream(&sender, "round", 100, (GROUP, PORT));
        sender.send(END.as_bytes(), (GROUP, PORT));
        assert_whole(&hear(&ear, END), "round", 100, sources()[0]);
        if round == 0 {
            run(container.enter("ip").args(["link", "del", "eth0"]));
            wait_until("the group is left", PATIENCE, || {
                (!lab.forwarded().contains(&GROUP.to_string())).then_some(())
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
