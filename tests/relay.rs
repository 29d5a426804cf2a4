//! The relay: containers on a bridge that carries no multicast receive from the LAN and send to it.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::lab;
use crate::lab::{
    Container, HOST, Lab, PATIENCE, SOURCES, Udp, assert_whole, json, numbered, payloads, run,
    stream, wait_until,
};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 7, 7, 7);
const CHANNEL: Ipv4Addr = Ipv4Addr::new(232, 7, 7, 7);
const OTHER: Ipv4Addr = Ipv4Addr::new(239, 7, 7, 8);
const MDNS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const PORT: u16 = 6000;
/// The last datagram of a test, or of a part of one.
const END: &str = "end";
/// Nothing.
const NONE: [&str; 0] = [];

/// A lab, and containers of which each has `eth0` on the host's bridge.
pub fn relayed(names: &[&str], more: &str) -> (Lab, Vec<Container>) {
    relayed_in(Lab::new(3), names, more)
}

/// The same, where the proxies pass every packet on and the kernel none.
pub fn relayed_by_proxies(names: &[&str], more: &str) -> (Lab, Vec<Container>) {
    let lab = Lab::new(3);
    lab.configure("[relay]\nbpf = false\n");
    relayed_in(lab, names, more)
}

fn relayed_in(lab: Lab, names: &[&str], more: &str) -> (Lab, Vec<Container>) {
    lab.add_bridge();
    let each = names.iter().enumerate().map(|(position, name)| {
        // eth0 comes when the hooks are long done.
        let container = lab.start_with(name, &[&format!("parent=lan0,driver=relay{more}")], &[]);
        lab.plug(&container, position as u8 + 10);
        container
    });
    let containers = each.collect();
    (lab, containers)
}

#[test]
fn what_was_joined_arrives_once_and_nothing_else() {
    let (lab, containers) = relayed(&["one", "two"], ",deny=239.7.7.9");
    let [s1, s2] = SOURCES;
    let sender = lab.socket("src", s1, 0);
    let other_sender = lab.socket("src", s2, 0);
    let joined: Vec<[Udp; 2]> = containers
        .iter()
        .map(|container| {
            let (any, ssm) = (container.socket(PORT), container.socket(PORT + 1));
            any.join(GROUP);
            ssm.join_source(CHANNEL, s1);
            lab.wait_joined(container, GROUP);
            lab.wait_joined(container, CHANNEL);
            lab.wait_forwarded(GROUP);
            lab.wait_forwarded(CHANNEL);
            [any, ssm]
        })
        .collect();
    // It would hear everything that comes in.
    let unjoined = containers[0].socket(PORT);
    unjoined.join(Ipv4Addr::new(239, 7, 7, 9));
    for group in [GROUP, OTHER, Ipv4Addr::new(239, 7, 7, 9)] {
        stream(&sender, "any", 2000, (group, PORT));
    }
    stream(&sender, "channel", 2000, (CHANNEL, PORT + 1));
    stream(&other_sender, "foreign", 100, (CHANNEL, PORT + 1));
    for to in [(CHANNEL, PORT + 1), (GROUP, PORT)] {
        sender.send(END.as_bytes(), to);
    }
    for [any, ssm] in &joined {
        assert_whole(&any.receive_until(END), "any", 2000, s1);
        assert_whole(&ssm.receive_until(END), "channel", 2000, s1);
    }
    // The relay has seen all that was sent, and what it lets in is in the socket's queue: a
    // datagram of the container to itself, for the socket that was bound last, comes behind it.
    containers[0].socket(0).send(END.as_bytes(), (Ipv4Addr::new(172, 30, 0, 10), PORT));
    assert_eq!(payloads(&unjoined.receive_until(END)), NONE);
    for container in &containers {
        let entry = lab.groups(container).into_iter().find(|e| e["group"] == GROUP.to_string());
        let entry = entry.expect("the group is listed");
        assert_eq!((&entry["relayed"], &entry["dropped"]), (&2001.into(), &0.into()), "{entry}");
        let ps = lab.ps(container).expect("listed");
        assert_eq!(ps["interfaces"][0]["relayed"], 4002, "{ps}");
        assert_eq!(ps["interfaces"][0]["driver"], "relay", "{ps}");
    }
}

#[test]
fn what_is_sent_goes_out_from_the_host_and_reaches_neighbours_once() {
    let (lab, containers) = relayed(&["one", "two"], "");
    let lan = lab.socket("src", Ipv4Addr::UNSPECIFIED, PORT);
    lan.join(GROUP);
    lab.wait_forwarded_to_source(GROUP);
    let (mut one, two) = (containers[0].socket(PORT), containers[1].socket(PORT));
    for (container, socket) in containers.iter().zip([&one, &two]) {
        socket.join(GROUP);
        lab.wait_joined(container, GROUP);
    }
    let capture = lab.capture_also("udp port 6000");
    one.set_ttl(7);
    stream(&one, "sent", 1000, (GROUP, PORT));
    one.send(END.as_bytes(), (GROUP, PORT));
    assert_whole(&lan.receive_until(END), "sent", 1000, HOST);
    assert_whole(&two.receive_until(END), "sent", 1000, HOST);
    // Its own kernel loops it to itself, as every host's does, and the relay brings no second one:
    // that would come before what the LAN sends now.
    let own = one.receive_until(END);
    assert_whole(&own, "sent", 1000, Ipv4Addr::new(172, 30, 0, 10));
    let lan_out = lab.socket("src", SOURCES[0], 0);
    lab.wait_forwarded(GROUP);
    lan_out.send(b"behind", (GROUP, PORT));
    assert_eq!(payloads(&one.receive_until("behind")), NONE);
    assert_eq!(payloads(&two.receive_until("behind")), NONE);
    assert_eq!(payloads(&lan.receive_until("behind")), NONE);
    capture.igmp();
    let frames = capture.frames();
    let udp: Vec<&Vec<u8>> = frames.iter().filter(|f| f.get(23) == Some(&17)).collect();
    assert_eq!(udp.len(), 1001, "each is on the wire once, and the marker");
    let mut ports = BTreeSet::new();
    for frame in udp {
        assert_eq!(frame[22], 7, "time to live");
        let packet = etherparse::SlicedPacket::from_ethernet(frame).expect("a frame");
        let Some(etherparse::NetSlice::Ipv4(ip)) = packet.net else { panic!("IPv4") };
        let Some(etherparse::TransportSlice::Udp(udp)) = packet.transport else { panic!("UDP") };
        ports.insert(udp.source_port());
        let header = ip.header().to_header();
        let right = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).expect("checksum");
        assert_eq!(udp.checksum(), right);
    }
    assert_eq!(ports.len(), 1, "a stream has one port");
    // With a time to live of 0 a packet stays where it is.
    one.set_ttl(0);
    one.send(b"stays", (GROUP, PORT));
    one.set_ttl(1);
    one.send(END.as_bytes(), (GROUP, PORT));
    assert_eq!(payloads(&lan.receive_until(END)), NONE);
    // The port is another one on the LAN, and answers come back to the container all the same.
    let _taken = lab.socket("host", HOST, PORT + 5);
    one = containers[0].socket(PORT + 5);
    one.send(b"who is there?", (GROUP, PORT));
    let (_, from) = lan.receive(PATIENCE).expect("the question");
    assert_eq!(*from.ip(), HOST);
    assert_ne!(from.port(), PORT + 5);
    lan.send(b"me", (*from.ip(), from.port()));
    let (answer, by) = one.receive(PATIENCE).expect("the answer");
    assert_eq!((&answer[..], by.port()), (&b"me"[..], PORT));
    let text = run(&mut lab.mcrun(["inspect", &containers[0].name]));
    let line = format!("172.30.0.10:{} sent as {HOST}:{}", PORT + 5, from.port());
    assert!(text.contains(&line), "{line}: {text}");
}

#[test]
fn multicast_dns_works_both_ways_when_it_is_named() {
    let (lab, containers) = relayed(&["named", "other"], ",allow=224.0.0.251,allow=239.0.0.0/8");
    lab.flood();
    let silent = lab.start_with("silent", &["parent=lan0,driver=relay"], &[]);
    lab.plug(&silent, 30);
    let lan = lab.socket("src", Ipv4Addr::UNSPECIFIED, 5353);
    lan.join(MDNS);
    let responders: Vec<Udp> = containers
        .iter()
        .chain([&silent])
        .map(|container| {
            let responder = container.socket(5353);
            responder.join(MDNS);
            responder
        })
        .collect();
    for container in &containers {
        lab.wait_joined(container, MDNS);
    }
    let [named, other, unnamed] = &responders[..] else { unreachable!() };
    for text in ["query", END] {
        lan.send(text.as_bytes(), (MDNS, 5353));
    }
    for responder in [named, other] {
        assert_eq!(payloads(&responder.receive_until(END)), ["query"]);
    }
    // Its own kernel's copies: nothing of them comes back.
    assert_eq!(payloads(&lan.receive_until(END)), ["query"]);
    // Others' proxies have relayed the query. With a time to live of 0 the marker stays here.
    unnamed.set_ttl(0);
    unnamed.send(END.as_bytes(), (MDNS, 5353));
    assert_eq!(payloads(&unnamed.receive_until(END)), NONE);
    unnamed.set_ttl(1);
    // Both keep the port: mDNS takes nothing from another one.
    for (responder, neighbour, text) in [(named, other, "first"), (other, named, "second")] {
        responder.send(text.as_bytes(), (MDNS, 5353));
        responder.send(END.as_bytes(), (MDNS, 5353));
        // What went round would come now, or before what is sent next.
        let answer = lan.receive_until(END);
        assert_eq!(payloads(&answer), [text], "no loop");
        assert_eq!(answer[0].1, SocketAddrV4::new(HOST, 5353));
        // The host's own packets and those of the LAN may come on two ways.
        for ear in [neighbour, responder] {
            assert_eq!(payloads(&ear.receive_until(END)), [text], "once");
        }
        lan.send(b"behind", (MDNS, 5353));
        assert_eq!(payloads(&neighbour.receive_until("behind")), NONE);
        let own = payloads(&responder.receive_until("behind"));
        assert_eq!(own, NONE, "its own kernel's copies alone");
        assert_eq!(payloads(&lan.receive_until("behind")), NONE, "no loop");
    }
    // Its proxy does not relay this, and what another's does comes behind.
    unnamed.send(b"unnamed", (MDNS, 5353));
    named.send(END.as_bytes(), (MDNS, 5353));
    assert_eq!(payloads(&lan.receive_until(END)), NONE);
}

#[test]
fn datagrams_of_all_sizes_arrive_whole_both_ways() {
    let (lab, containers) = relayed(&["one", "two"], "");
    let lan = lab.socket("src", SOURCES[0], PORT);
    let lan_ear = lab.socket("src", Ipv4Addr::UNSPECIFIED, PORT);
    lan_ear.join(OTHER);
    lab.wait_forwarded_to_source(OTHER);
    let inside = containers[0].socket(PORT);
    inside.join(GROUP);
    let neighbour = containers[1].socket(PORT);
    neighbour.join(OTHER);
    lab.wait_joined(&containers[0], GROUP);
    lab.wait_joined(&containers[1], OTHER);
    lab.wait_forwarded(GROUP);
    lab.wait_forwarded(OTHER);
    for size in [0usize, 1, 1472, 1473, 8000, 65_507] {
        let payload: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        lan.send(&payload, (GROUP, PORT));
        // A second copy would be taken for the next.
        let (received, _) = inside.receive(PATIENCE).expect("in");
        assert!(received == payload, "{size} bytes in");
        inside.send(&payload, (OTHER, PORT));
        for ear in [&lan_ear, &neighbour] {
            let (received, from) = ear.receive(PATIENCE).expect("out");
            assert!(received == payload, "{size} bytes out");
            assert_eq!(*from.ip(), HOST);
        }
    }
    lan.send(END.as_bytes(), (GROUP, PORT));
    assert_eq!(payloads(&inside.receive_until(END)), NONE);
    inside.send(END.as_bytes(), (OTHER, PORT));
    for ear in [&lan_ear, &neighbour] {
        assert_eq!(payloads(&ear.receive_until(END)), NONE);
    }
}

#[test]
fn a_neighbour_that_leaves_costs_a_relayed_stream_nothing() {
    let (lab, containers) = relayed(&["stays", "goes"], "");
    let _stream = lab.send(GROUP, SOURCES[0], 1000);
    let stays = lab.receive(&containers[0], GROUP, None, Duration::from_secs(5));
    lab.wait_joined(&containers[0], GROUP);
    let goes = lab.receive(&containers[1], GROUP, None, Duration::from_secs(1));
    lab.wait_joined(&containers[1], GROUP);
    let gone = goes.finish();
    lab.wait_left(&containers[1], GROUP);
    let stayed = stays.finish();
    for reception in [gone, stayed] {
        assert!(reception.packets > 500, "{reception:?}");
        assert_eq!(reception.lost, 0, "{reception:?}");
    }
}

#[test]
fn a_rate_limit_is_kept_and_counted() {
    let (lab, containers) = relayed(&["slow"], ",max-pps=100");
    let inside = containers[0].socket(PORT);
    inside.join(GROUP);
    lab.wait_joined(&containers[0], GROUP);
    lab.wait_forwarded(GROUP);
    let sender = lab.socket("src", SOURCES[0], 0);
    let start = Instant::now();
    stream(&sender, "fast", 1000, (GROUP, PORT));
    let count = |name: &str| lab.groups(&containers[0])[0][name].as_u64().expect("a count");
    wait_until("the relay has seen all", PATIENCE, || {
        (count("relayed") + count("limited") == 1000).then_some(())
    });
    // A tenth of a second's worth at once, and a hundred a second. A relay that the machine has
    // kept waiting lets through less, but never less than what passes at once.
    let most = 10 + (start.elapsed().as_secs_f64() * 100.0).ceil() as u64;
    let relayed = count("relayed");
    assert!((10..=most).contains(&relayed), "{relayed} of at most {most}");
    containers[0].socket(0).send(END.as_bytes(), (GROUP, PORT));
    assert_eq!(inside.receive_until(END).len() as u64, relayed, "all that the relay counts");
}

#[test]
fn an_interface_that_goes_and_comes_again_is_relayed_to_again() {
    let (lab, containers) = relayed(&["one"], "");
    let container = &containers[0];
    let sender = lab.socket("src", SOURCES[0], 0);
    for round in 0..2u8 {
        let inside = container.socket(PORT);
        inside.join(GROUP);
        lab.wait_joined(container, GROUP);
        lab.wait_forwarded(GROUP);
        stream(&sender, "round", 100, (GROUP, PORT));
        sender.send(END.as_bytes(), (GROUP, PORT));
        assert_whole(&inside.receive_until(END), "round", 100, SOURCES[0]);
        if round == 0 {
            run(container.enter("ip").args(["link", "del", "eth0"]));
            lab.wait_left(container, GROUP);
            wait_until("the switch forgets the group", PATIENCE, || {
                (!lab.forwarded().contains(&GROUP.to_string())).then_some(())
            });
            lab.plug(container, 20);
        }
    }
}

#[test]
fn a_running_container_is_attached_and_detached_and_keeps_its_interface() {
    let (lab, _) = relayed(&[], "");
    let container = lab.start("one", "10.99.0.11");
    lab.plug(&container, 10);
    let own = format!("parent={},driver=relay", lab::BRIDGE);
    let refused = lab.mcrun(["attach", &container.name, "--mcast", &own]).output().expect("mcrun");
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && errors.contains("eth0 is on this bridge"), "{errors}");
    run(&mut lab.mcrun(["attach", &container.name, "--mcast", "parent=lan0,driver=relay"]));
    let inside = container.socket(PORT);
    inside.join(GROUP);
    lab.wait_joined(&container, GROUP);
    lab.wait_forwarded(GROUP);
    let sender = lab.socket("src", SOURCES[0], 0);
    stream(&sender, "attached", 100, (GROUP, PORT));
    sender.send(END.as_bytes(), (GROUP, PORT));
    assert_whole(&inside.receive_until(END), "attached", 100, SOURCES[0]);
    let twice =
        lab.mcrun(["attach", &container.name, "--mcast", "parent=lan0,driver=relay"]).output();
    let twice = twice.expect("mcrun");
    assert!(!twice.status.success());
    run(&mut lab.mcrun(["detach", &container.name, "eth0"]));
    assert_eq!(container.ip("link show eth0")[0]["ifname"], "eth0");
    wait_until("the group is left", PATIENCE, || {
        (!lab.forwarded().contains(&GROUP.to_string())).then_some(())
    });
    let list = json(&mut lab.mcrun(["ps", "--json"]));
    assert_eq!(list[0]["interfaces"].as_array().map(Vec::len), Some(1), "{list}");
}

#[test]
fn two_relays_of_one_container_and_a_second_host_make_no_loop() {
    let lab = Lab::new(3);
    lab.flood();
    for node in ["host", "src"] {
        lab.add_bridge_on(node);
    }
    let relays = "parent=lan0,driver=relay,allow=224.0.0.251";
    let second = format!("{relays},interface=eth1");
    let twofold = lab.start_on("host", "twofold", &[relays, &second]);
    let distant = lab.start_on("src", "distant", &[relays]);
    lab.plug_on("host", &twofold, "eth0", 10);
    lab.plug_on("host", &twofold, "eth1", 11);
    lab.plug_on("src", &distant, "eth0", 10);
    let lan = Udp::open(&lab.net("sw"), Ipv4Addr::UNSPECIFIED, 5353, "br0");
    let ears = [
        twofold.socket_on("eth0", 5353),
        twofold.socket_on("eth1", 5353),
        distant.socket_on("eth0", 5353),
    ];
    lan.join(MDNS);
    for ear in &ears {
        ear.join(MDNS);
    }
    for (container, interfaces) in [(&twofold, 2), (&distant, 1)] {
        wait_until("all interfaces have joined", PATIENCE, || {
            let groups = lab.groups(container);
            (groups.iter().filter(|e| e["status"] == "joined").count() == interfaces).then_some(())
        });
    }
    let capture = lab.capture_also("udp port 5353");
    lan.send(b"from the LAN", (MDNS, 5353));
    ears[0].send(b"from eth0", (MDNS, 5353));
    ears[2].send(b"from afar", (MDNS, 5353));
    let expected = BTreeSet::from(["from the LAN", "from eth0", "from afar"].map(String::from));
    for ear in ears.iter().chain([&lan]) {
        let heard: Vec<_> = (0..3).map_while(|_| ear.receive(PATIENCE)).collect();
        assert_eq!(payloads(&heard).into_iter().collect::<BTreeSet<_>>(), expected);
    }
    // A packet that goes round comes again before what is sent when all have heard it.
    lan.send(END.as_bytes(), (MDNS, 5353));
    for ear in ears.iter().chain([&lan]) {
        assert_eq!(payloads(&ear.receive_until(END)), NONE);
    }
    // One packet left the host.
    capture.igmp();
    let udp = capture.frames().iter().filter(|frame| frame.get(23) == Some(&17)).count();
    assert_eq!(udp, 1);
}

#[test]
fn datagrams_that_hardware_was_to_cut_are_cut() {
    const UDP_SEGMENT: i32 = 103;
    let (lab, containers) = relayed(&["one"], "");
    let lan = lab.socket("src", Ipv4Addr::UNSPECIFIED, PORT);
    lan.join(GROUP);
    lab.wait_forwarded_to_source(GROUP);
    let inside = containers[0].socket(PORT);
    inside.join(OTHER);
    lab.wait_joined(&containers[0], OTHER);
    mcrun::sys::sockopt::set_int(&inside.socket, libc::SOL_UDP, UDP_SEGMENT, 1000).expect("option");
    let payload: Vec<u8> = (0..2500u32).map(|n| (n % 251) as u8).collect();
    inside.send(&payload, (GROUP, PORT));
    inside.send(END.as_bytes(), (GROUP, PORT));
    let received = lan.receive_until(END);
    let sizes: Vec<usize> = received.iter().map(|(bytes, _)| bytes.len()).collect();
    assert_eq!(sizes, [1000, 1000, 500]);
    assert!(received.iter().flat_map(|(bytes, _)| bytes.clone()).eq(payload));
}

/// Sends to a group, 1000 packets a second, until told to stop; how many.
fn stream_until(stop: &AtomicBool, socket: &Udp, name: &str, to: (Ipv4Addr, u16)) -> u32 {
    let start = Instant::now();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        socket.send(&numbered(name, number), to);
        number += 1;
        let next = start + Duration::from_millis(number.into());
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    number
}

#[test]
fn a_proxy_that_is_replaced_costs_no_packet_and_doubles_none() {
    let (lab, containers) = relayed(&["one", "two"], "");
    let [one, two] = &containers[..] else { unreachable!() };
    let lan_in = lab.socket("src", SOURCES[0], 0);
    let lan = lab.socket("src", Ipv4Addr::UNSPECIFIED, PORT);
    lan.join(OTHER);
    lab.wait_forwarded_to_source(OTHER);
    let inside = one.socket(PORT);
    inside.join(GROUP);
    lab.wait_joined(one, GROUP);
    let (own, neighbour, sender) = (one.socket(PORT), two.socket(PORT), one.socket(0));
    for (container, socket) in [(one, &own), (two, &neighbour)] {
        socket.join(OTHER);
        lab.wait_joined(container, OTHER);
    }
    // A search, whose answer comes when another proxy is there.
    let searcher = one.socket(0);
    searcher.send(b"search", (OTHER, PORT));
    let (_, asked_by) = lan.receive(PATIENCE).expect("the search");
    for ear in [&neighbour, &own] {
        assert_eq!(payloads(&ear.receive(PATIENCE).into_iter().collect::<Vec<_>>()), ["search"]);
    }

    let stop = AtomicBool::new(false);
    let (count_in, count_out) = std::thread::scope(|scope| {
        let going_in = scope.spawn(|| stream_until(&stop, &lan_in, "in", (GROUP, PORT)));
        let going_out = scope.spawn(|| stream_until(&stop, &sender, "out", (OTHER, PORT)));
        let changes = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for limit in 100..104 {
                let before = [one, two].map(|container| lab.proxy_pid(container));
                lab.configure(&format!("[groups]\nmax-groups = {limit}\n"));
                run(&mut lab.mcrun(["reload"]));
                let after = [one, two].map(|container| lab.proxy_pid(container));
                assert!(before.iter().all(|pid| !after.contains(pid)), "both are replaced");
            }
            run(&mut lab.mcrun(["attach", &one.name, "--mcast", "parent=lan0"]));
            run(&mut lab.mcrun(["detach", &one.name, "mc0"]));
        }));
        stop.store(true, Ordering::Relaxed);
        let counts = [going_in, going_out].map(|sender| sender.join().expect("it has sent"));
        changes.expect("the proxies are replaced");
        (counts[0], counts[1])
    });
    lan_in.send(END.as_bytes(), (GROUP, PORT));
    sender.send(END.as_bytes(), (OTHER, PORT));
    assert_whole(&inside.receive_until(END), "in", count_in, SOURCES[0]);
    assert_whole(&lan.receive_until(END), "out", count_out, HOST);
    assert_whole(&neighbour.receive_until(END), "out", count_out, HOST);
    assert_whole(&own.receive_until(END), "out", count_out, Ipv4Addr::new(172, 30, 0, 10));
    for answer in ["found", END] {
        lan_in.send(answer.as_bytes(), (*asked_by.ip(), asked_by.port()));
    }
    assert_eq!(payloads(&searcher.receive_until(END)), ["found"]);
}
