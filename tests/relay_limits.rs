//! What a relay refuses: attacks on the LAN, on the host's ports and on the container's sockets.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Instant;

use etherparse::PacketBuilder;
use mcrun::proxy::{Event, subscribe};
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::{Container, HOST, Lab, PATIENCE, SOURCES, Udp, payloads, run, stream, wait_until};
use crate::relay::relayed;

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 7, 7, 7);
const OTHER: Ipv4Addr = Ipv4Addr::new(239, 7, 7, 8);
const THIRD: Ipv4Addr = Ipv4Addr::new(239, 7, 7, 9);
const MDNS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const PTP: Ipv4Addr = Ipv4Addr::new(224, 0, 1, 129);
const PORT: u16 = 6000;
const UDP_SEGMENT: i32 = 103;
/// The last datagram of a test, or of a part of one.
const END: &str = "end";
/// Nothing.
const NONE: [&str; 0] = [];

/// A station of the LAN that hears a group on a port.
fn ear(lab: &Lab, group: Ipv4Addr, port: u16) -> Udp {
    let ear = lab.socket("src", Ipv4Addr::UNSPECIFIED, port);
    ear.join(group);
    if group.octets()[..3] != [224, 0, 0] {
        lab.wait_forwarded_to_source(group);
    }
    ear
}

/// A count of the relay, both directions together.
fn count(lab: &Lab, container: &Container, name: &str) -> u64 {
    let ps = lab.ps(container).expect("listed");
    ps["interfaces"][0][name].as_u64().unwrap_or_else(|| panic!("{name}: {ps}"))
}

fn wait_count(lab: &Lab, container: &Container, name: &str, expected: u64) {
    wait_until(&format!("{expected} are {name}"), PATIENCE, || {
        (count(lab, container, name) == expected).then_some(())
    });
}

/// The host's port that a search of the container leaves with.
fn search(socket: &Udp, ear: &Udp) -> u16 {
    socket.send(b"search", (GROUP, PORT));
    let (question, from) = ear.receive(PATIENCE).expect("the search");
    assert_eq!((&question[..], *from.ip()), (&b"search"[..], HOST));
    from.port()
}

#[test]
fn what_a_rule_denies_is_not_sent_either() {
    // The last pair is allowed to a source that is not the host.
    for (keys, file, denied) in [
        (",deny=239.7.7.8", "", 100),
        (",allow=239.7.7.7", "", 100),
        ("", "[groups]\ndeny = [\"239.7.7.8\"]\n", 100),
        (",allow=239.7.7.7,allow=239.7.7.8@10.99.0.3", "", 100),
        (",allow=239.7.7.7,allow=239.7.7.8@10.99.0.2", "", 0),
    ] {
        let lab = Lab::new(3);
        lab.configure(file);
        lab.add_bridge();
        let container = lab.start_with("one", &[&format!("parent=lan0,driver=relay{keys}")], &[]);
        lab.plug(&container, 10);
        let [wanted, unwanted] = [GROUP, OTHER].map(|group| ear(&lab, group, PORT));
        let socket = container.socket(PORT);
        stream(&socket, "sent", 100, (OTHER, PORT));
        socket.send(END.as_bytes(), (GROUP, PORT));
        // What was sent before the marker has passed the relay.
        assert_eq!(payloads(&wanted.receive_until(END)), NONE);
        lab.socket("src", SOURCES[1], 0).send(END.as_bytes(), (OTHER, PORT));
        let heard = payloads(&unwanted.receive_until(END)).len() as u64;
        assert_eq!(heard, 100 - denied, "{keys} {file}");
        assert_eq!(count(&lab, &container, "denied"), denied);
    }
}

#[test]
fn people_are_told_once_of_each_group_that_is_not_sent_to() {
    let (lab, containers) = relayed(&["one"], ",deny=239.7.7.8/31");
    let directory = lab.state_dir().join("containers").join(&containers[0].id);
    let (_, mut events) = subscribe(&directory).expect("subscribed");
    events.set_timeout(Some(PATIENCE)).expect("a timeout");
    let socket = containers[0].socket(PORT);
    for group in [OTHER, OTHER, THIRD] {
        socket.send(b"denied", (group, PORT));
    }
    for group in [OTHER, THIRD] {
        let event = events.next_event().expect("an event in time").map(|timed| timed.event);
        let Some(Event::Notice(notice)) = event else { panic!("{event:?}") };
        assert_eq!(notice.code(), "send-denied");
        let text = format!("eth0: {group}: not sent to the LAN (deny=239.7.7.8/31)");
        assert_eq!(notice.to_string(), text);
    }
}

#[test]
fn each_segment_counts_for_the_rate_limits() {
    const SIZE: usize = 500;
    const SEGMENTS: usize = 60;
    const SENDS: usize = 60;
    // What passes at once, and each second.
    for (key, at_once, rate) in [("max-pps=100", 10, 100), ("max-byterate=50000", 124, 95)] {
        let (lab, containers) = relayed(&["fast"], &format!(",{key}"));
        let lan = ear(&lab, GROUP, PORT);
        let socket = containers[0].socket(PORT);
        let segment = SIZE as i32;
        mcrun::sys::sockopt::set_int(&socket.socket, libc::SOL_UDP, UDP_SEGMENT, segment)
            .expect("option");
        let start = Instant::now();
        for _ in 0..SENDS {
            socket.send(&[7; SIZE * SEGMENTS], (GROUP, PORT));
        }
        let sum = || {
            let counts = ["relayed", "limited"].map(|name| count(&lab, &containers[0], name));
            counts.iter().sum::<u64>()
        };
        let all = (SENDS * SEGMENTS) as u64;
        wait_until("all is counted", PATIENCE, || (sum() == all).then_some(()));
        let most = at_once + (start.elapsed().as_secs_f64() * f64::from(rate)).ceil() as u64;
        let relayed = count(&lab, &containers[0], "relayed");
        assert!((at_once..=most).contains(&relayed), "{key}: {relayed} of at most {most}");
        lab.socket("src", SOURCES[1], 0).send(END.as_bytes(), (GROUP, PORT));
        assert_eq!(lan.receive_until(END).len() as u64, relayed, "{key}");
    }
}

#[test]
fn ptp_leaves_in_the_hosts_name_only_where_the_administrator_says_so() {
    for (file, expected) in [("", 0), ("[relay]\nports = [319, 320]\n", 2)] {
        let lab = Lab::new(3);
        lab.configure(file);
        lab.add_bridge();
        let container = lab.start_with("one", &["parent=lan0,driver=relay"], &[]);
        lab.plug(&container, 10);
        let ears = [319, 320].map(|port| ear(&lab, PTP, port));
        let marker = ear(&lab, GROUP, PORT);
        for port in [319, 320] {
            container.socket(port).send(b"ptp", (PTP, port));
        }
        container.socket(0).send(END.as_bytes(), (GROUP, PORT));
        assert_eq!(payloads(&marker.receive_until(END)), NONE);
        for (ear, port) in ears.iter().zip([319, 320]) {
            lab.socket("src", SOURCES[1], 0).send(END.as_bytes(), (PTP, port));
            let heard = ear.receive_until(END);
            assert_eq!(heard.len(), expected / 2, "{file} {port}");
            assert!(heard.iter().all(|(_, from)| *from == SocketAddrV4::new(HOST, port)));
        }
        assert_eq!(count(&lab, &container, "denied"), 2 - expected as u64);
    }
}

#[test]
fn a_container_takes_no_port_that_a_program_of_the_host_may_want() {
    let (lab, containers) = relayed(&["one"], ",allow=224.0.0.251,allow=239.0.0.0/8");
    lab.flood();
    let lan = ear(&lab, GROUP, PORT);
    let mdns = ear(&lab, MDNS, 5353);
    let sockets = [51820, 4789, 1900, PORT].map(|port| containers[0].socket(port));
    let outside = sockets.each_ref().map(|socket| search(socket, &lan));
    let responder = containers[0].socket(5353);
    responder.send(b"mdns", (MDNS, 5353));
    let (_, from) = mdns.receive(PATIENCE).expect("the response");
    assert_eq!(from, SocketAddrV4::new(HOST, 5353), "mDNS takes nothing from another port");
    let bind = |port: u16| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port));
    let wanted = [51820, 4789, 1900, PORT, 5353];
    let free = |port: &u16| lab.net("host").run(|| bind(*port)).expect("entered").is_ok();
    let free: Vec<u16> = wanted.into_iter().filter(|port| free(port)).collect();
    assert_eq!(free, wanted, "the host has its ports");
    // Answers come back, and to nobody else.
    let device = lab.socket("src", SOURCES[0], 0);
    for (socket, port) in sockets.iter().zip(outside) {
        for text in [&format!("to {port}"), END] {
            device.send(text.as_bytes(), (HOST, port));
        }
        assert_eq!(payloads(&socket.receive_until(END)), [format!("to {port}")]);
    }
}

#[test]
fn a_port_that_the_administrator_gives_is_kept_with_its_answers() {
    let lab = Lab::new(3);
    lab.configure("[relay]\nports = [5353, \"6000-6100\"]\n");
    lab.add_bridge();
    let spec = "parent=lan0,driver=relay,allow=224.0.0.251,allow=239.0.0.0/8";
    let container = lab.start_with("one", &[spec], &[]);
    lab.plug(&container, 10);
    lab.flood();
    let lan = ear(&lab, GROUP, PORT);
    let mdns = ear(&lab, MDNS, 5353);
    let (socket, responder) = (container.socket(6100), container.socket(5353));
    assert_eq!(search(&socket, &lan), 6100);
    responder.send(b"mdns", (MDNS, 5353));
    mdns.receive(PATIENCE).expect("the query");
    for (socket, port) in [(&socket, 6100), (&responder, 5353)] {
        mdns.send(END.as_bytes(), (HOST, port));
        // Its own kernel's copy of the mDNS query comes first.
        assert!(payloads(&socket.receive_until(END)).iter().all(|text| text == "mdns"));
    }
    assert_ne!(search(&container.socket(6101), &lan), 6101);
}

#[test]
fn reserved_ports_are_left_alone() {
    let (lab, containers) = relayed(&["one"], "");
    let set = |name: &str, value: &str| {
        let script = format!("echo {value} > /proc/sys/net/ipv4/{name}");
        run(lab.enter("host", "sh").args(["-c", &script]));
    };
    set("ip_local_port_range", "40000 40007");
    set("ip_local_reserved_ports", "40000-40006");
    let lan = ear(&lab, GROUP, PORT);
    assert_eq!(search(&containers[0].socket(40000), &lan), 40007);
    // There is no other port: nothing is sent from one that is not to be had.
    containers[0].socket(40001).send(b"search", (GROUP, PORT));
    wait_count(&lab, &containers[0], "dropped", 1);
    lab.socket("src", SOURCES[1], 0).send(END.as_bytes(), (GROUP, PORT));
    assert_eq!(payloads(&lan.receive_until(END)), NONE);
}

#[test]
fn only_who_can_have_heard_the_question_answers() {
    const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 5);
    const OTHER_NETWORK: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 9);
    let (lab, containers) = relayed(&["one", "two"], "");
    lab.ip("src", &format!("addr add {FAR}/32 dev lo"));
    // A neighbour on another network of the host.
    lab.ip(
        "host",
        &format!("link add other type veth peer name other netns {}", lab.namespace("sw")),
    );
    lab.ip("host", "addr add 172.31.0.1/24 dev other");
    lab.ip("sw", &format!("addr add {OTHER_NETWORK}/24 dev other"));
    for node in ["host", "sw"] {
        lab.ip(node, "link set other up");
    }
    lab.ip("sw", &format!("route add {HOST}/32 via 172.31.0.1"));
    // A stranger's datagram gets as far as the host's sockets.
    let script = "for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $file; done";
    run(lab.enter("host", "sh").args(["-c", script]));
    let lan = ear(&lab, GROUP, PORT);
    let socket = containers[0].socket(0);
    let port = search(&socket, &lan);
    let from = |node: &str, address| lab.socket(node, address, 0);
    let neighbour = Udp::open(&lab.net("sw"), OTHER_NETWORK, 0, "other");
    let strangers = [from("src", FAR), neighbour];
    let heard = [
        from("src", SOURCES[0]),
        from("host", HOST),
        from("host", Ipv4Addr::new(172, 31, 0, 1)),
        // Another container of the network.
        containers[1].socket(0),
    ];
    for stranger in &strangers {
        stranger.send(b"stranger", (HOST, port));
    }
    for device in &heard {
        device.send(END.as_bytes(), (HOST, port));
        assert_eq!(payloads(&socket.receive_until(END)), NONE);
    }
    assert_eq!(count(&lab, &containers[0], "denied"), 2);
    // A packet that routers forward may have been heard behind them.
    socket.set_ttl(2);
    assert_eq!(search(&socket, &lan), port);
    for stranger in &strangers {
        stranger.send(b"stranger", (HOST, port));
    }
    strangers[0].send(END.as_bytes(), (HOST, port));
    assert_eq!(payloads(&socket.receive_until(END)), ["stranger"]);
    assert_eq!(count(&lab, &containers[0], "denied"), 3);
}

#[test]
fn answers_of_all_sizes_arrive_whole() {
    let (lab, containers) = relayed(&["one"], "");
    let lan = ear(&lab, GROUP, PORT);
    let socket = containers[0].socket(0);
    let port = search(&socket, &lan);
    let device = lab.socket("src", SOURCES[0], 0);
    for lo_mtu in ["65536", "1500"] {
        run(containers[0].enter("ip").args(["link", "set", "lo", "mtu", lo_mtu]));
        for size in [0usize, 1, 1472, 1473, 16_384, 16_385, 40_000, 65_507] {
            let payload: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            device.send(&payload, (HOST, port));
            let (received, _) = socket.receive(PATIENCE).expect("the answer");
            assert_eq!(received.len(), size);
            assert!(received == payload, "{size} bytes");
        }
    }
}

#[test]
fn a_datagram_longer_than_the_containers_mtu_arrives_whole() {
    let lab = Lab::new(3);
    for (node, link) in
        [("sw", "p-src"), ("sw", "p-host"), ("sw", "br0"), ("src", "lan0"), ("host", "lan0")]
    {
        lab.ip(node, &format!("link set {link} mtu 9000"));
    }
    lab.add_bridge();
    let container = lab.start_with("one", &["parent=lan0,driver=relay"], &[]);
    lab.plug(&container, 10);
    let inside = container.socket(PORT);
    inside.join(GROUP);
    lab.wait_joined(&container, GROUP);
    lab.wait_forwarded(GROUP);
    let sender = lab.socket("src", SOURCES[0], 0);
    for size in [1473usize, 8000, 8972] {
        // Linux gives such a packet no identification, which its fragments need.
        let payload: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        sender.send(&payload, (GROUP, PORT));
        let (received, _) = inside.receive(PATIENCE).expect("the datagram");
        assert!(received == payload, "{size} bytes");
    }
}

#[test]
fn what_another_namespace_left_to_be_cut_does_not_arrive_as_one_datagram() {
    let (lab, containers) = relayed(&["one"], "");
    let inside = containers[0].socket(PORT);
    inside.join(GROUP);
    lab.wait_joined(&containers[0], GROUP);
    lab.wait_forwarded(GROUP);
    let sender = lab.socket("src", SOURCES[0], 0);
    mcrun::sys::sockopt::set_int(&sender.socket, libc::SOL_UDP, UDP_SEGMENT, 1000).expect("option");
    sender.send(&[7; 2500], (GROUP, PORT));
    sender.send(END.as_bytes(), (GROUP, PORT));
    let sizes: Vec<usize> = inside.receive_until(END).iter().map(|(b, _)| b.len()).collect();
    // A link that cuts them makes three.
    assert!(sizes.is_empty() || sizes == [1000, 1000, 500], "{sizes:?}");
    if sizes.is_empty() {
        assert_eq!(count(&lab, &containers[0], "dropped"), 1);
    }
}

#[test]
fn thousands_of_segments_come_back_to_nobody() {
    const SENDS: usize = 150;
    const SEGMENTS: usize = 60;
    let (lab, containers) = relayed(&["one"], "");
    let socket = containers[0].socket(PORT);
    socket.join(GROUP);
    lab.wait_joined(&containers[0], GROUP);
    lab.wait_forwarded(GROUP);
    mcrun::sys::sockopt::set_int(&socket.socket, libc::SOL_UDP, UDP_SEGMENT, 10).expect("option");
    for _ in 0..SENDS {
        socket.send(&[7; 10 * SEGMENTS], (GROUP, PORT));
    }
    let all = (SENDS * SEGMENTS) as u64;
    wait_until("all are relayed", PATIENCE, || {
        (count(&lab, &containers[0], "relayed") >= all).then_some(())
    });
    lab.socket("src", SOURCES[0], 0).send(END.as_bytes(), (GROUP, PORT));
    // Its own kernel's copies alone.
    assert_eq!(socket.receive_until(END).len() as u64, all);
}

#[test]
fn nobody_speaks_with_an_address_that_is_not_the_containers() {
    let (lab, containers) = relayed(&["one"], "");
    let lan = ear(&lab, GROUP, PORT);
    let container = &containers[0];
    let raw = container.namespace().run(|| {
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        let index = nix::net::if_::if_nametoindex("eth0")?;
        mcrun::sys::sockopt::set_multicast_interface(&raw, index, GROUP.into())?;
        std::io::Result::Ok(raw)
    });
    let raw = raw.expect("entered").expect("a raw socket");
    for source in [SOURCES[0], HOST, Ipv4Addr::new(172, 30, 0, 1)] {
        let builder = PacketBuilder::ipv4(source.octets(), GROUP.octets(), 7).udp(PORT, PORT);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, b"not me").expect("a packet");
        raw.send_to(&bytes, &SocketAddrV4::new(GROUP, 0).into()).expect("sent");
    }
    container.socket(PORT).send(END.as_bytes(), (GROUP, PORT));
    assert_eq!(payloads(&lan.receive_until(END)), NONE);
    assert_eq!(count(&lab, container, "denied"), 3);
}
