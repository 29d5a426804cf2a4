//! Relays whose interfaces go and come again, on the host and in the container.

use std::net::Ipv4Addr;

use crate::keeper::keeper;
use crate::lab::{
    Container, HOST, Igmp, IgmpFrame, Lab, PATIENCE, RecordKind, SOURCES, assert_whole, json,
    notifications, run, stream, wait_until,
};
use crate::relay::relayed;

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 7, 7, 7);
const OTHER: Ipv4Addr = Ipv4Addr::new(239, 7, 7, 8);
const PORT: u16 = 6000;
/// The last datagram of a part of a test.
const END: &str = "end";
/// How often a proxy follows its upstream interface.
const RETURNS: usize = 4;

/// The LAN interface goes, as when its adapter is unplugged.
pub fn unplug(lab: &Lab) {
    lab.ip("host", "link del lan0");
}

/// An interface of its name comes, with the same MAC address.
pub fn plug_in(lab: &Lab) {
    let host = lab.namespace("host");
    lab.ip("sw", &format!("link add p-host type veth peer name lan0 netns {host}"));
    lab.ip("sw", "link set p-host master br0 up");
    let port = ["link", "set", "dev", "p-host", "fastleave", "on", "mcast_flood", "off"];
    run(lab.enter("sw", "bridge").args(port));
    lab.ip("host", &format!("link set lan0 address {}", lab.host_mac()));
    lab.ip("host", &format!("addr add {HOST}/24 dev lan0"));
    lab.ip("host", "link set lan0 up");
    wait_until("the link comes up", PATIENCE, || {
        (lab.link("lan0")["operstate"] == "UP").then_some(())
    });
}

pub fn wait_state(lab: &Lab, container: &Container, state: &str) {
    wait_until(&format!("the proxy is {state}"), PATIENCE, || {
        (lab.ps(container)?["proxy"]["state"] == state).then_some(())
    });
}

/// The codes of what is wrong with a container's links. What the machine's control groups lack is
/// another matter, and so is that the proxy relays after the parent has come again (see `relay_kernel`).
pub fn codes(lab: &Lab, container: &Container) -> Vec<String> {
    let ps = lab.ps(container).expect("listed");
    let notices = ps["notices"].as_array().cloned().unwrap_or_default();
    let codes = notices.iter().map(|notice| notice["code"].as_str().expect("a code").to_owned());
    codes
        .filter(|code| !code.starts_with("control-group") && code != "relay-not-in-kernel")
        .collect()
}

/// Streams pass in both directions, and an answer comes back.
fn assert_relayed(lab: &Lab, container: &Container) {
    let inside = container.socket(PORT);
    inside.join(GROUP);
    lab.wait_joined(container, GROUP);
    lab.wait_forwarded(GROUP);
    let sender = lab.socket("src", SOURCES[0], 0);
    stream(&sender, "in", 200, (GROUP, PORT));
    sender.send(END.as_bytes(), (GROUP, PORT));
    assert_whole(&inside.receive_until(END), "in", 200, SOURCES[0]);
    let lan = lab.socket("src", SOURCES[1], 0);
    let ear = lab.socket("src", Ipv4Addr::UNSPECIFIED, PORT);
    ear.join(OTHER);
    lab.wait_forwarded_to_source(OTHER);
    let outside = container.socket(0);
    stream(&outside, "out", 200, (OTHER, PORT));
    outside.send(END.as_bytes(), (OTHER, PORT));
    let heard = ear.receive_until(END);
    assert_whole(&heard, "out", 200, HOST);
    lan.send(b"answer", (HOST, heard[0].1.port()));
    assert_eq!(outside.receive(PATIENCE).expect("the answer").0, b"answer");
}

/// A join is reported once more than the kernel does, which sends a report and repeats it: the proxy is
/// first. Where the kernel tells the proxy of no joins, it sends none.
fn assert_reported_early(lab: &Lab, container: &Container, round: usize) {
    if !notifications() {
        return;
    }
    let group = Ipv4Addr::new(239, 7, 8, round as u8);
    let capture = lab.capture();
    let inside = container.socket(PORT + 2);
    inside.join(group);
    let reports = || {
        let seen = capture.igmp();
        let of_join = |frame: &&IgmpFrame| match &frame.message {
            Igmp::ReportV3(records) => {
                records.iter().any(|r| r.group == group && r.kind == RecordKind::ToExclude)
            }
            _ => false,
        };
        seen.iter().filter(of_join).count()
    };
    wait_until("the kernel repeats its report", PATIENCE, || (reports() >= 3).then_some(()));
}

#[test]
fn a_relay_follows_its_parent_that_goes_and_comes_again() {
    let (lab, containers) = relayed(&["one"], "");
    let container = &containers[0];
    let kept = container.socket(PORT + 1);
    kept.join(GROUP);
    assert_relayed(&lab, container);
    for round in 0..=RETURNS {
        unplug(&lab);
        wait_state(&lab, container, "waiting");
        assert_eq!(codes(&lab, container), ["upstream-gone"]);
        let status = |entry: &serde_json::Value| entry["status"].clone();
        let groups: Vec<_> = lab.groups(container).iter().map(status).collect();
        assert_eq!(groups, ["failed"], "nothing is joined");
        plug_in(&lab);
        if round == RETURNS {
            wait_until("the proxy gives up", PATIENCE, || {
                (codes(&lab, container) == ["upstream-not-followed"]).then_some(())
            });
            let before = lab.proxy_pid(container);
            run(&mut lab.mcrun(["reload"]));
            assert_ne!(lab.proxy_pid(container), before);
        }
        wait_state(&lab, container, "running");
        assert_eq!(codes(&lab, container), [""; 0]);
        assert_reported_early(&lab, container, round);
        assert_relayed(&lab, container);
    }
    // The record has the index of the interface that is there.
    let pid = lab.proxy_pid(container);
    run(&mut lab.mcrun(["reload"]));
    assert_eq!(lab.proxy_pid(container), pid);
}

#[test]
fn a_relay_goes_on_when_its_parent_is_renamed() {
    let (lab, containers) = relayed(&["one"], "");
    assert_relayed(&lab, &containers[0]);
    for (name, new) in [("lan0", "wan0"), ("wan0", "lan0")] {
        lab.ip("host", &format!("link set {name} down"));
        lab.ip("host", &format!("link set {name} name {new}"));
        lab.ip("host", &format!("link set {new} up"));
        wait_until("the link comes up", PATIENCE, || {
            (lab.link(new)["operstate"] == "UP").then_some(())
        });
        assert_relayed(&lab, &containers[0]);
        assert_eq!(codes(&lab, &containers[0]), [""; 0]);
    }
}

#[test]
fn an_interface_that_is_not_there_is_shown_as_awaited() {
    let lab = Lab::new(3);
    lab.add_bridge();
    let container = lab.start_with("one", &["parent=lan0,driver=relay,interface=eth9"], &[]);
    lab.plug(&container, 10);
    assert_eq!(lab.ps(&container).expect("listed")["proxy"]["state"], "waiting");
    assert_eq!(codes(&lab, &container), ["interface-awaited"]);
    let list = json(&mut lab.mcrun(["ps", "--json"]));
    let warning = list[0]["warnings"][0].as_str().expect("a warning");
    assert!(warning.contains("no interface eth9"), "{warning}");
    lab.plug_on("host", &container, "eth9", 11);
    wait_state(&lab, &container, "running");
    run(container.enter("ip").args(["link", "del", "eth9"]));
    wait_state(&lab, &container, "waiting");
}

#[test]
fn a_keeper_replaces_a_relay_whose_parent_has_come_again() {
    let (lab, containers) = relayed(&["one"], "");
    let container = &containers[0];
    let _keeper = keeper(&lab);
    lab.wait_held(container);
    assert_relayed(&lab, container);
    // More often than one proxy can follow.
    for _ in 0..RETURNS + 2 {
        let before = lab.proxy_pid(container);
        unplug(&lab);
        wait_state(&lab, container, "waiting");
        plug_in(&lab);
        wait_until("the keeper replaces the proxy", PATIENCE, || {
            (lab.ps(container)?["proxy"]["pid"] != before).then_some(())
        });
        wait_state(&lab, container, "running");
        assert_eq!(codes(&lab, container), [""; 0]);
    }
    assert_relayed(&lab, container);
    // What the proxy tells of its own goes by the new interface.
    let socket = container.socket(PORT);
    socket.join(GROUP);
    lab.wait_joined(container, GROUP);
    lab.ip("sw", "link set br0 type bridge mcast_querier 0");
    lab.ip("sw", "link set p-host down");
    wait_state(&lab, container, "waiting");
    lab.ip("sw", "link set p-host up");
    lab.wait_forwarded(GROUP);
}

#[test]
fn a_parent_that_becomes_a_port_of_a_bridge_is_told_of() {
    let (lab, containers) = relayed(&["one"], "");
    let container = &containers[0];
    let kept = container.socket(PORT + 1);
    kept.join(GROUP);
    assert_relayed(&lab, container);
    lab.ip("host", "link add br9 type bridge");
    lab.ip("host", "link set lan0 master br9");
    wait_until("it is told of", PATIENCE, || {
        (codes(&lab, container) == ["upstream-bridged"]).then_some(())
    });
    wait_state(&lab, container, "waiting");
    let groups = lab.groups(container);
    assert_eq!(groups[0]["status"], "failed");
    let reason = groups[0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("lan0 is a port of br9 now"), "{reason}");
    lab.ip("host", "link set lan0 nomaster");
    wait_state(&lab, container, "running");
    assert_eq!(codes(&lab, container), [""; 0]);
    assert_relayed(&lab, container);
}
