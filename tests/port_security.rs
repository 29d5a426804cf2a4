//! A switch port that lets in frames from the host's own MAC address only.

use std::net::{Ipv4Addr, UdpSocket};

use crate::lab::{Lab, PATIENCE, SOURCES, has_joined, wait_until};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 2, 1, 1);
/// UDP port of the broadcast that is sent behind the stream: it passes the switch port.
const MARKER: u16 = 5999;

fn receive_through_a_secure_port(igmp_version: u8) {
    let lab = Lab::new(igmp_version);
    lab.secure_port();
    // A bare macvlan container reports from its own address, and so in vain.
    lab.bare("bare", "10.99.0.21");
    let marker = lab.run_in("bare", || UdpSocket::bind(("0.0.0.0", MARKER)).expect("bound"));
    let bare = lab.receive_count_in("bare", GROUP, 1);
    wait_until("the bare container joins", PATIENCE, || {
        has_joined(bare.pid(), GROUP).then_some(())
    });
    wait_until("the port refuses its report", PATIENCE, || {
        (lab.refused_frames() > 0).then_some(())
    });
    let sent = lab.send_count(GROUP, SOURCES[0], 1000, 500).finish(PATIENCE);
    assert!(sent.status.success(), "{sent:?}");
    lab.run_in("src", || {
        let socket = UdpSocket::bind((SOURCES[0], 0)).expect("bound");
        socket.set_broadcast(true).expect("broadcast");
        socket.send_to(b"marker", ("10.99.0.255", MARKER)).expect("sent");
    });
    marker.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    let mut text = [0; 16];
    let length = marker.recv(&mut text).expect("the marker arrives");
    assert_eq!(&text[..length], b"marker");
    assert_eq!(bare.stop().packets, 0, "the port is secure");

    let containers = [lab.start("one", "10.99.0.11"), lab.start("two", "10.99.0.12")];
    let receivers = containers.each_ref().map(|container| {
        let receiver = lab.receive_count(container, GROUP, None, 500);
        lab.wait_joined(container, GROUP);
        receiver
    });
    lab.wait_forwarded(GROUP);
    let sender = lab.send_count(GROUP, SOURCES[0], 1000, 500);
    for receiver in receivers {
        receiver.assert_each_once(500);
    }
    assert!(sender.finish(PATIENCE).status.success());
}

#[test]
fn containers_receive_through_a_secure_port_with_igmp_v2() {
    receive_through_a_secure_port(2);
}

#[test]
fn containers_receive_through_a_secure_port_with_igmp_v3() {
    receive_through_a_secure_port(3);
}
