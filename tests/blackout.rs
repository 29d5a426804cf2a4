//! Why mcrun exists: a switch port with immediate leave, and a neighbour that leaves.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::lab;
use crate::lab::{Lab, PATIENCE, Reception, SOURCES, wait_until};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 1, 1);
/// Packets per second.
const RATE: u32 = 1000;

fn assert_lossless(reception: &Reception) {
    assert_eq!(reception.lost, 0, "{reception:?}");
    assert!(reception.packets > u64::from(RATE), "a stream arrived: {reception:?}");
}

/// Container 2 receives; container 1 joins after it and leaves. Also that its leave changes nothing
/// on the wire: the group stays with the switch.
fn a_neighbour_leaves(igmp_version: u8) {
    let lab = Lab::new(igmp_version);
    let capture = lab.capture();
    let leaver = lab.start("leaver", "10.99.0.11");
    let stayer = lab.start("stayer", "10.99.0.12");
    let _stream = lab.send(GROUP, SOURCES[0], RATE);

    let stays = lab.receive(&stayer, GROUP, None, Duration::from_secs(10));
    lab.wait_joined(&stayer, GROUP);
    wait_until("the switch forwards", PATIENCE, || {
        lab.forwarded().contains(&GROUP.to_string()).then_some(())
    });
    let leaves = lab.receive(&leaver, GROUP, None, Duration::from_secs(2));
    lab.wait_joined(&leaver, GROUP);
    let left = leaves.finish();
    lab.wait_left(&leaver, GROUP);
    assert!(left.packets > 0, "{left:?}");
    assert!(lab.forwarded().contains(&GROUP.to_string()), "nothing is pruned that is wanted");
    let joined = capture.igmp();

    assert_lossless(&stays.finish());
    // The last one's leave is one that the switch sees.
    wait_until("the switch stops forwarding", PATIENCE, || {
        (!lab.forwarded().contains(&GROUP.to_string())).then_some(())
    });

    let seen = capture.finish();
    lab.assert_one_igmp_host(&seen);
    let prunes = |frame: &&lab::IgmpFrame| match &frame.message {
        lab::Igmp::Leave { group } => *group == GROUP,
        lab::Igmp::ReportV3(records) => records.iter().any(|r| {
            r.group == GROUP
                && matches!(r.kind, lab::RecordKind::ToInclude | lab::RecordKind::Block)
        }),
        _ => false,
    };
    assert_eq!(joined.iter().find(prunes), None, "a leave while the group was wanted");
    assert!(seen.iter().any(|frame| prunes(&frame)), "the capture would see a leave: {seen:?}");
}

#[test]
fn a_neighbours_leave_costs_no_packet_with_igmp_v2() {
    a_neighbour_leaves(2);
}

#[test]
fn a_neighbours_leave_costs_no_packet_with_igmp_v3() {
    a_neighbour_leaves(3);
}

/// The same on bare macvlan: the lab would show a blackout.
#[test]
fn bare_macvlan_goes_dark_on_the_same_port() {
    let lab = Lab::new(2);
    let capture = lab.capture();
    for (node, address) in [("leaver", "10.99.0.11"), ("stayer", "10.99.0.12")] {
        lab.bare(node, address);
    }
    let _stream = lab.send(GROUP, SOURCES[0], RATE);
    let forwards = || lab.forwarded().contains(&GROUP.to_string());

    let stays = lab.receive_in("stayer", GROUP, Duration::from_secs(10));
    wait_until("the switch forwards", PATIENCE, || forwards().then_some(()));
    let left = lab.receive_in("leaver", GROUP, Duration::from_secs(2)).finish();
    assert!(left.packets > 0, "{left:?}");
    wait_until("the leave has cut the neighbour", PATIENCE, || (!forwards()).then_some(()));
    std::thread::sleep(Duration::from_secs(1));
    lab.query();

    let stays = stays.finish();
    assert!(stays.lost > u64::from(RATE) / 2, "a blackout of a second and more: {stays:?}");
    let hosts: std::collections::BTreeSet<String> =
        capture.finish().into_iter().map(|frame| frame.mac).collect();
    assert!(hosts.len() > 1, "several IGMP hosts behind one port: {hosts:?}");
}
