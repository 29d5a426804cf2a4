//! What macvlan children of a parent send reaches the containers that are relayed to from the parent, which
//! no socket of the host hears.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::lab::{
    Container, Family, HOST, Lab, PARENT, PATIENCE, Udp, assert_whole, payloads, run, stream,
    wait_until,
};
use crate::relay::relayed;
use crate::relay_ipv6;
use crate::relay_kernel::{receive_with_ttl, relay_of, wait_in_kernel};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 9, 1, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(239, 9, 1, 2);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 7, 7);
const SIBLING: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 42);
const SIBLING_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 42);
const PORT: u16 = 6700;
const END: &str = "end";
/// Longer than a packet: it is sent in fragments.
const LONG: usize = 4000;

/// A relayed container that hears the group, and a container on macvlan that has joined nothing.
fn relayed_beside_macvlan() -> (Lab, Container, Udp, Container) {
    let (lab, mut containers) = relayed(&["one"], "");
    let one = containers.remove(0);
    let ear = one.socket(PORT);
    ear.join(GROUP);
    lab.wait_joined(&one, GROUP);
    wait_in_kernel(&lab, &one);
    lab.wait_forwarded(GROUP);
    let two = lab.start("two", &SIBLING.to_string());
    (lab, one, ear, two)
}

#[test]
fn a_stream_of_a_macvlan_container_arrives_as_it_was_sent() {
    let (lab, one, ear, two) = relayed_beside_macvlan();
    let lan = lab.socket("src", Ipv4Addr::UNSPECIFIED, PORT);
    lan.join(GROUP);
    lab.wait_forwarded_to_source(GROUP);
    let sender = two.socket_on("mc0", 0);
    stream(&sender, "sibling", 2000, (GROUP, PORT));
    sender.send(b"not asked for", (OTHER, PORT));
    sender.send(END.as_bytes(), (GROUP, PORT));
    assert_whole(&ear.receive_until(END), "sibling", 2000, SIBLING);
    assert_whole(&lan.receive_until(END), "sibling", 2000, SIBLING);
    assert_eq!(relay_of(&lab, &one)["inbound"]["relayed"], 2001);
    sender.set_ttl(7);
    sender.send(b"far", (GROUP, PORT));
    assert_eq!(receive_with_ttl(&ear), (b"far".to_vec(), 7));
    let long = vec![b'l'; LONG];
    for payload in [&long[..], END.as_bytes()] {
        sender.send(payload, (GROUP, PORT));
    }
    assert_eq!(payloads(&ear.receive_until(END)), [String::from_utf8(long).unwrap()], "fragments");
}

#[test]
fn what_is_longer_than_the_containers_mtu_is_counted_as_dropped() {
    let (lab, one, ear, two) = relayed_beside_macvlan();
    run(one.enter("ip").args(["link", "set", "eth0", "mtu", "1400"]));
    let sender = two.socket_on("mc0", 0);
    let dropped = || relay_of(&lab, &one)["inbound"]["dropped"].as_u64();
    wait_until("the program knows the MTU", PATIENCE, || {
        sender.send(&[b'l'; 1420], (GROUP, PORT));
        (dropped() > Some(0)).then_some(())
    });
    let before = dropped();
    while ear.receive(Duration::from_millis(50)).is_some() {}
    sender.send(&[b'l'; 1420], (GROUP, PORT));
    sender.send(END.as_bytes(), (GROUP, PORT));
    assert_eq!(payloads(&ear.receive_until(END)), [""; 0]);
    assert_eq!(dropped(), before.map(|count| count + 1));
}

/// The host's own packets are looped back by its stack, and the proxy relays them: also when the parent has
/// another hardware address than it had.
#[test]
fn what_the_host_itself_sends_arrives_once_whatever_its_mac_is() {
    let (lab, one, ear, two) = relayed_beside_macvlan();
    let host = lab.socket("host", HOST, 0);
    let sibling = two.socket_on("mc0", 0);
    for mac in [None, Some("02:00:00:00:77:01")] {
        if let Some(mac) = mac {
            lab.ip("host", &format!("link set {PARENT} address {mac}"));
            // The proxy looks at the parent when somebody asks for its state.
            relay_of(&lab, &one);
        }
        stream(&host, "host", 100, (GROUP, PORT));
        host.send(END.as_bytes(), (GROUP, PORT));
        assert_whole(&ear.receive_until(END), "host", 100, HOST);
        stream(&sibling, "sibling", 100, (GROUP, PORT));
        sibling.send(END.as_bytes(), (GROUP, PORT));
        assert_whole(&ear.receive_until(END), "sibling", 100, SIBLING);
    }
}

/// A proxy that takes the programs over goes on.
#[test]
fn a_reload_goes_on_with_what_siblings_send() {
    let (lab, one, ear, two) = relayed_beside_macvlan();
    lab.configure("[groups]\nmax-groups = 99\n");
    run(&mut lab.mcrun(["reload"]));
    wait_in_kernel(&lab, &one);
    let sender = two.socket_on("mc0", 0);
    stream(&sender, "later", 100, (GROUP, PORT));
    sender.send(END.as_bytes(), (GROUP, PORT));
    assert_whole(&ear.receive_until(END), "later", 100, SIBLING);
}

#[test]
fn a_stream_of_ipv6_of_a_macvlan_container_arrives_once() {
    let (lab, containers) = relay_ipv6::relayed(&["one"], "", "");
    let one = &containers[0];
    let ear = one.socket_of::<Ipv6Addr>("eth0", PORT);
    ear.join(GROUP_V6);
    lab.wait_joined(one, GROUP_V6);
    relay_ipv6::wait_in_kernel(&lab, one);
    let attachment = format!("parent={PARENT},ip={SIBLING_V6}/64");
    let two = lab.start_with("two", &[&attachment], &[]);
    let sender = two.socket_of::<Ipv6Addr>("mc0", 0);
    stream(&sender, "sibling", 2000, (GROUP_V6, PORT));
    let long = vec![b'l'; LONG];
    for payload in [&long[..], END.as_bytes()] {
        sender.send(payload, (GROUP_V6, PORT));
    }
    let mut received = ear.receive_until(END);
    assert_eq!(received.pop().map(|(payload, _)| payload), Some(long), "fragments");
    assert_whole(&received, "sibling", 2000, SIBLING_V6);
    let host = lab.socket("host", Ipv6Addr::station(1), 0);
    stream(&host, "host", 100, (GROUP_V6, PORT));
    host.send(END.as_bytes(), (GROUP_V6, PORT));
    assert_eq!(payloads(&ear.receive_until(END)).len(), 100, "once");
}
