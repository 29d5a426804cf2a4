//! Containers on the engines' own bridges, which carry no multicast, as discovery protocols find
//! them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};

use crate::lab::{
    Background, Container, Dockerd, Engine, HOST, Lab, PATIENCE, SOURCES, assert_whole, output,
    payloads, stream, wait_until,
};
use crate::relay_ipv6::{hear, send_until_heard};

const ATTACHMENT: &str = "driver=relay,parent=lan0,ipv6=on,allow=mdns,allow=239.0.0.0/8";
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 9, 1, 1);
const PORT: u16 = 6000;
const MDNS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const MDNS_PORT: u16 = 5353;
const SSDP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);
const SSDP_PORT: u16 = 1900;
/// The last datagram of a part of the test.
const END: &str = "end";

#[test]
fn streams_and_discovery_reach_containers_on_dockers_default_bridge() {
    let mut lab = Lab::new(3);
    let daemon = Dockerd::start_filtering(&mut lab);
    let engine = Engine::docker(&lab, &daemon);
    streams_and_discovery_work(&lab, &engine);
}

#[test]
fn streams_and_discovery_reach_containers_on_podmans_network() {
    let lab = Lab::new(3);
    let engine = Engine::podman(&lab, "runc", &[]);
    streams_and_discovery_work(&lab, &engine);
}

fn streams_and_discovery_work(lab: &Lab, engine: &Engine<'_>) {
    lab.flood();
    let containers = [("one", "18080"), ("two", "18081")].map(|(name, port)| {
        let publish = format!("{port}:80");
        engine.start(name, &["-p", &publish, "--mcast", ATTACHMENT])
    });
    a_stream_arrives(lab, &containers);
    mdns_is_answered(lab, &containers);
    mdns_of_ipv6_is_answered(lab, &containers);
    a_search_is_answered(lab, &containers);
    for (container, port) in containers.iter().zip(["18080", "18081"]) {
        a_published_port_answers(lab, engine, container, port);
    }
    for container in &containers {
        engine.run(&["kill", "--signal", "KILL"], container);
        wait_until("nothing is left", PATIENCE, || lab.ps(container).is_none().then_some(()));
    }
}

fn a_stream_arrives(lab: &Lab, containers: &[Container]) {
    let inside = containers.iter().map(|container| {
        let socket = container.socket(PORT);
        socket.join(GROUP);
        lab.wait_joined(container, GROUP);
        socket
    });
    let inside: Vec<_> = inside.collect();
    let sender = lab.socket("src", SOURCES[0], 0);
    stream(&sender, "external", 5000, (GROUP, PORT));
    sender.send(END.as_bytes(), (GROUP, PORT));
    for socket in &inside {
        assert_whole(&socket.receive_until(END), "external", 5000, SOURCES[0]);
    }
}

/// What one says is heard once by the LAN and by the other.
fn mdns_is_answered(lab: &Lab, containers: &[Container]) {
    let querier = lab.socket("src", Ipv4Addr::UNSPECIFIED, MDNS_PORT);
    querier.join(MDNS);
    let responders: Vec<_> = containers
        .iter()
        .map(|container| {
            let responder = container.socket(MDNS_PORT);
            responder.join(MDNS);
            lab.wait_joined(container, MDNS);
            responder
        })
        .collect();
    for text in ["query", END] {
        querier.send(text.as_bytes(), (MDNS, MDNS_PORT));
    }
    for responder in &responders {
        assert_eq!(payloads(&responder.receive_until(END)), ["query"]);
    }
    assert_eq!(payloads(&querier.receive_until(END)), ["query"], "its own kernel's copy");
    for (own, text) in responders.iter().zip(["first", "second"]) {
        for text in [text, END] {
            own.send(text.as_bytes(), (MDNS, MDNS_PORT));
        }
        let answer = querier.receive_until(END);
        assert_eq!(payloads(&answer), [text]);
        assert_eq!(answer[0].1, SocketAddrV4::new(HOST, MDNS_PORT));
        for responder in &responders {
            assert_eq!(payloads(&responder.receive_until(END)), [text]);
        }
        // Whatever came back to the containers would come before this, or before the next answer.
        querier.send(b"behind", (MDNS, MDNS_PORT));
        for responder in &responders {
            assert_eq!(payloads(&responder.receive_until("behind")), [""; 0]);
        }
        assert_eq!(payloads(&querier.receive_until("behind")), [""; 0]);
    }
}

/// The same for IPv6, where the engine leaves it on: one that gives the container its interface after the
/// hook switches IPv6 off there.
fn mdns_of_ipv6_is_answered(lab: &Lab, containers: &[Container]) {
    const MDNS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
    let are_off = containers.iter().filter(|container| {
        let ps = lab.ps(container).expect("listed");
        let notices = ps["notices"].as_array().cloned().unwrap_or_default();
        notices.iter().any(|notice| notice["code"] == "relay-without-ipv6")
    });
    let are_off = are_off.count();
    if are_off > 0 {
        assert_eq!(are_off, containers.len());
        for container in containers {
            // ip(8) of Debian 12 prints an empty object there, that of sid none.
            let shown = container.ip("-6 addr show dev eth0");
            let addresses = shown.as_array().expect("a list").iter().map(|link| &link["addr_info"]);
            assert_eq!(addresses.filter(|addresses| !addresses.is_null()).count(), 0, "{shown}");
        }
        println!("the engine has switched IPv6 off on eth0: mDNS over IPv6 is not tested");
        return;
    }
    let querier = lab.socket("src", Ipv6Addr::UNSPECIFIED, MDNS_PORT);
    querier.join(MDNS);
    let responders = containers.iter().map(|container| {
        let responder = container.socket_of("eth0", MDNS_PORT);
        responder.join(MDNS);
        lab.wait_joined(container, MDNS);
        responder
    });
    let responders: Vec<_> = responders.collect();
    for responder in &responders {
        send_until_heard(&querier, responder, (MDNS, MDNS_PORT));
        send_until_heard(responder, &querier, (MDNS, MDNS_PORT));
    }
    for text in ["query", END] {
        querier.send(text.as_bytes(), (MDNS, MDNS_PORT));
    }
    for ear in responders.iter().chain([&querier]) {
        assert_eq!(payloads(&hear(ear, END)), ["query"]);
    }
    for (own, text) in responders.iter().zip(["first", "second"]) {
        for text in [text, END] {
            own.send(text.as_bytes(), (MDNS, MDNS_PORT));
        }
        for ear in responders.iter().chain([&querier]) {
            assert_eq!(payloads(&hear(ear, END)), [text], "once");
        }
    }
}

fn a_search_is_answered(lab: &Lab, containers: &[Container]) {
    let device = lab.socket("src", Ipv4Addr::UNSPECIFIED, SSDP_PORT);
    device.join(SSDP);
    lab.wait_forwarded_to_source(SSDP);
    let searchers: Vec<_> = containers.iter().map(|container| container.socket(0)).collect();
    for (number, searcher) in searchers.iter().enumerate() {
        searcher.send(format!("search {number}").as_bytes(), (SSDP, SSDP_PORT));
    }
    // Two proxies carry them: either may be the first.
    for _ in &searchers {
        let (search, from) = device.receive(PATIENCE).expect("the search");
        assert_eq!(*from.ip(), HOST);
        device.send(&[b"found by ", &search[..]].concat(), (HOST, from.port()));
    }
    for (number, searcher) in searchers.iter().enumerate() {
        let (answer, from) = searcher.receive(PATIENCE).expect("the answer");
        assert_eq!(answer, format!("found by search {number}").into_bytes());
        assert_eq!(from, SocketAddrV4::new(SOURCES[0], SSDP_PORT));
    }
}

fn a_published_port_answers(lab: &Lab, engine: &Engine<'_>, container: &Container, port: &str) {
    let serve = format!("while :; do echo {port} | busybox nc -l -p 80; done");
    let _server = Background::start(&mut engine.exec(container, &["sh", "-c", &serve]));
    wait_until("the published port answers", PATIENCE, || {
        let mut client = lab.enter("src", "busybox");
        let answer = output(client.args(["nc", "-w", "1", &HOST.to_string(), port]));
        (answer.stdout == format!("{port}\n").into_bytes()).then_some(())
    });
}
