//! A switch port that lets in frames from the host's own MAC address only.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::lab::{Lab, PATIENCE, SOURCES, wait_until};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 2, 1, 1);

fn receive_through_a_secure_port(igmp_version: u8) {
    let lab = Lab::new(igmp_version);
    lab.secure_port();
    let _stream = lab.send(GROUP, SOURCES[0], 200);

    // A bare macvlan container reports from its own address, and so in vain.
    lab.bare("bare", "10.99.0.21");
    let bare = lab.receive_in("bare", GROUP, Duration::from_secs(2)).finish();
    assert_eq!(bare.packets, 0, "the port is secure: {bare:?}");
    assert!(lab.refused_frames() > 0);

    let containers = [lab.start("one", "10.99.0.11"), lab.start("two", "10.99.0.12")];
    let receivers = containers.each_ref().map(|container| {
        let receiver = lab.receive(container, GROUP, None, Duration::from_secs(4));
        lab.wait_joined(container, GROUP);
        receiver
    });
    wait_until("the switch forwards", PATIENCE, || {
        lab.forwarded().contains(&GROUP.to_string()).then_some(())
    });
    for receiver in receivers {
        let reception = receiver.finish();
        assert!(reception.packets > 0, "{reception:?}");
        assert_eq!(reception.lost, 0, "{reception:?}");
    }
}

#[test]
fn containers_receive_through_a_secure_port_with_igmp_v2() {
    receive_through_a_secure_port(2);
}

#[test]
fn containers_receive_through_a_secure_port_with_igmp_v3() {
    receive_through_a_secure_port(3);
}
