//! Child links whose parents go, come again, or were never there.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::Value;

use crate::keeper::keeper;
use crate::lab::{
    Bundle, Container, Lab, PATIENCE, Runtime, SOURCES, assert_whole, notifications, output, run,
    stream, wait_until,
};
use crate::relay_parent::{codes, plug_in, unplug, wait_state};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 7, 8, 7);
const PORT: u16 = 6000;
const END: &str = "end";
const SPEC: &str =
    "parent=lan0,ip=10.99.0.11/24,gw=10.99.0.1,route=10.5.0.0/16@10.99.0.1,mtu=1400,name=red";

/// What a link is: nothing of it may change when it is made anew.
fn shape(container: &Container, name: &str) -> (Value, Vec<Value>, String) {
    let link = &container.ip(&format!("-d link show {name}"))[0];
    let fields = ["ifname", "address", "mtu", "flags", "group", "txqlen", "linkinfo"];
    let link = fields.map(|field| link[field].clone()).to_vec();
    let addresses = container.ip(&format!("addr show dev {name}"))[0]["addr_info"].clone();
    let routes = run(container.enter("ip").args(["route", "show", "table", "all", "dev", name]));
    (Value::Array(link), vec![addresses], routes)
}

/// A stream reaches a new membership of the container whole.
fn assert_receives(lab: &Lab, container: &Container, interface: &str, port: &str) {
    let socket = container.socket_on(interface, PORT);
    socket.join(GROUP);
    lab.wait_joined(container, GROUP);
    lab.wait_forwarded_to(port, &GROUP.to_string());
    let sender = lab.socket("src", SOURCES[0], 0);
    stream(&sender, "in", 200, (GROUP, PORT));
    sender.send(END.as_bytes(), (GROUP, PORT));
    assert_whole(&socket.receive_until(END), "in", 200, SOURCES[0]);
}

fn goes_and_comes(version: u8, has_keeper: bool) {
    let lab = Lab::new(version);
    let _keeper = has_keeper.then(|| keeper(&lab));
    let container = lab.start_with("c", &[SPEC], &[]);
    let before = shape(&container, "red");
    assert_receives(&lab, &container, "red", "p-host");
    for _ in 0..2 {
        let old = container.socket_on("red", PORT + 1);
        old.join(GROUP);
        lab.wait_joined(&container, GROUP);
        unplug(&lab);
        wait_state(&lab, &container, "waiting");
        wait_until("the reason is shown", PATIENCE, || {
            codes(&lab, &container).contains(&"interface-waiting".to_owned()).then_some(())
        });
        assert_eq!(lab.groups(&container).iter().find(|entry| entry["status"] == "joined"), None);
        run(&mut lab.mcrun(["gc"]));
        assert!(lab.ps(&container).is_some(), "the record of a waiting container stays");
        plug_in(&lab);
        let capture = lab.capture();
        if !has_keeper {
            assert_eq!(lab.ps(&container).expect("listed")["proxy"]["state"], "waiting");
            run(&mut lab.mcrun(["reload"]));
        }
        wait_state(&lab, &container, "running");
        assert_eq!(codes(&lab, &container), [""; 0]);
        assert_eq!(shape(&container, "red"), before);
        assert_receives(&lab, &container, "red", "p-host");
        lab.assert_one_igmp_host(&capture.finish());
    }
}

#[test]
fn a_keeper_makes_a_child_anew_whose_parent_comes_again() {
    goes_and_comes(3, true);
}

#[test]
fn a_reload_makes_a_child_anew_whose_parent_comes_again() {
    goes_and_comes(2, false);
}

/// Adds a second LAN interface to the host, down.
fn add_lan9(lab: &Lab) {
    let host = lab.namespace("host");
    lab.ip("sw", &format!("link add p-nine type veth peer name lan9 netns {host}"));
    lab.ip("sw", "link set p-nine master br0 up");
    lab.ip("host", "addr add 10.99.0.9/24 dev lan9");
}

fn state_of(lab: &Lab, container: &Container) -> String {
    let ps = lab.ps(container).expect("listed");
    ps["proxy"]["state"].as_str().expect("a state").to_owned()
}

#[test]
fn an_optional_parent_may_come_later() {
    let lab = Lab::new(3);
    let refused = lab.try_start("no", &["parent=lan9"], &[]);
    assert!(!refused.status.success());
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("parent=lan9: the host has no interface of this name"), "{text}");
    let optional = "parent=lan9,optional=true,ip=10.99.0.12/24,name=blue";
    let both = lab.start_with("both", &["parent=lan0,ip=10.99.0.11/24", optional], &[]);
    let bundle = {
        let mut bundle = Bundle::new(&lab, "alone");
        bundle.add_hooks(&lab);
        bundle.annotate("parent=lan9,optional=true,ip=10.99.0.13/24");
        bundle.write();
        bundle
    };
    let alone = bundle.start(&lab, Runtime::Runc, &lab.name("alone"));
    for container in [&both, &alone] {
        assert_eq!(state_of(&lab, container), "waiting");
        assert_eq!(codes(&lab, container), ["interface-waiting"]);
    }
    let shown = lab.ps(&both).expect("listed");
    assert_eq!(shown["interfaces"][1]["waiting"], "the host has no interface lan9");
    assert_receives(&lab, &both, "mc0", "p-host");
    run(&mut lab.mcrun(["gc"]));
    run(&mut lab.mcrun(["reload"]));
    let _keeper = keeper(&lab);
    add_lan9(&lab);
    wait_until("the reason has changed", PATIENCE, || {
        (lab.ps(&both)?["interfaces"][1]["waiting"] == "lan9 is down").then_some(())
    });
    lab.ip("host", "link set lan9 up");
    for (container, name) in [(&both, "blue"), (&alone, "mc0")] {
        wait_state(&lab, container, "running");
        let interfaces = lab.ps(container).expect("listed")["interfaces"].clone();
        let last = interfaces.as_array().expect("a list").last().expect("one").clone();
        assert_eq!((last["name"].as_str(), last["waiting"].as_str()), (Some(name), None));
        assert_receives(&lab, container, name, "p-nine");
    }
    // An interface that still waits is detached like any other.
    lab.ip("host", "link del lan9");
    wait_state(&lab, &both, "waiting");
    run(&mut lab.mcrun(["detach", &both.name, "blue"]));
    wait_state(&lab, &both, "running");
    lab.delete(&alone);
    lab.delete(&both);
    wait_until("the keeper has nothing", PATIENCE, || {
        let left = std::fs::read_dir(lab.state_dir().join("containers")).expect("there").count();
        (left == 0).then_some(())
    });
}

/// A kernel forgets a source that is joined while the interface is down and that was joined before: with
/// the leave of one of two containers the other one would lose the stream.
#[test]
fn a_source_that_is_joined_while_the_parent_is_down_stays_when_a_neighbour_leaves() {
    let group = Ipv4Addr::new(232, 7, 8, 7);
    let lab = Lab::new(3);
    let containers = [lab.start("c0", "10.99.0.11"), lab.start("c1", "10.99.0.12")];
    let [first, second] = containers.each_ref().map(|c| c.socket_on("mc0", PORT));
    first.join_source(group, SOURCES[0]);
    lab.wait_joined(&containers[0], group);
    lab.wait_forwarded(group);
    lab.ip("host", "link set lan0 down");
    for container in &containers {
        wait_state(&lab, container, "waiting");
    }
    second.join_source(group, SOURCES[0]);
    if notifications() {
        wait_until("the group is shown", PATIENCE, || {
            lab.groups(&containers[1]).iter().any(|g| g["status"] == "failed").then_some(())
        });
    }
    lab.ip("host", "link set lan0 up");
    lab.wait_joined(&containers[1], group);
    lab.wait_forwarded(group);
    drop(second);
    wait_until("the neighbour has left", PATIENCE, || {
        lab.groups(&containers[1]).is_empty().then_some(())
    });
    let sender = lab.socket("src", SOURCES[0], 0);
    stream(&sender, "in", 200, (group, PORT));
    sender.send(END.as_bytes(), (group, PORT));
    assert_whole(&first.receive_until(END), "in", 200, SOURCES[0]);
}

#[test]
fn a_parent_that_is_down_or_moved_is_shown_and_joined_again() {
    let lab = Lab::new(3);
    let _keeper = keeper(&lab);
    let container = lab.start_with("c", &[SPEC], &[]);
    let socket = container.socket_on("red", PORT);
    socket.join(GROUP);
    lab.wait_joined(&container, GROUP);
    lab.wait_forwarded(GROUP);
    let index = container.ip("link show red")[0]["ifindex"].clone();
    let works = || {
        wait_state(&lab, &container, "running");
        lab.wait_joined(&container, GROUP);
        assert!(lab.host_joins().contains(&GROUP));
        lab.wait_forwarded(GROUP);
        let sender = lab.socket("src", SOURCES[0], 0);
        stream(&sender, "in", 50, (GROUP, PORT));
        sender.send(END.as_bytes(), (GROUP, PORT));
        assert_whole(&socket.receive_until(END), "in", 50, SOURCES[0]);
        assert_eq!(codes(&lab, &container), [""; 0]);
        assert_eq!(container.ip("link show red")[0]["ifindex"], index, "the same link");
    };
    let is_failed = |code: &str| {
        wait_state(&lab, &container, "waiting");
        assert_eq!(codes(&lab, &container), [code]);
        assert_eq!(lab.groups(&container)[0]["status"], "failed");
    };
    works();
    lab.ip("host", "link set lan0 down");
    is_failed("upstream-down");
    lab.ip("host", "link set lan0 up");
    works();
    // Without a carrier.
    lab.ip("sw", "link set p-host down");
    is_failed("upstream-down");
    lab.ip("sw", "link set p-host up");
    works();
    // To another network namespace and back.
    lab.ip(
        "host",
        &format!("link set lan0 netns {}", lab.namespace("src")).replace("lan0", "lan0 name lan7"),
    );
    is_failed("upstream-gone");
    lab.ip("src", &format!("link set lan7 netns {} name lan0", lab.namespace("host")));
    lab.ip("host", "addr add 10.99.0.2/24 dev lan0");
    lab.ip("host", "link set lan0 up");
    works();
    // The MTU and the address change.
    lab.ip("host", "link set lan0 mtu 1450");
    works();
    lab.ip("host", "addr add 10.99.0.99/24 dev lan0");
    lab.ip("host", "link set lan0 address 02:99:00:00:00:77");
    works();
    // The kernel does not give a parent with child links to a bridge.
    lab.add_bridge();
    let refused =
        output(lab.enter("host", "ip").args(["link", "set", "lan0", "master", "engine0"]));
    assert!(!refused.status.success());
    works();
    // The carrier is there again, and no querier asks: the host's kernel says nothing.
    lab.ip("sw", "link set br0 type bridge mcast_querier 0");
    lab.ip("sw", "link set p-host down");
    is_failed("upstream-down");
    lab.ip("sw", "link set p-host up");
    lab.wait_forwarded(GROUP);
}

/// A switch forgets what is joined at a port that goes down, and a host's kernel tells of its carrier
/// once a second at the most: one that goes and comes in between looks as if nothing had happened.
#[test]
fn a_port_that_goes_and_comes_in_a_moment_costs_no_membership() {
    let lab = Lab::new(3);
    let container = lab.start_with("c", &[SPEC], &[]);
    let socket = container.socket_on("red", PORT);
    socket.join(GROUP);
    lab.wait_joined(&container, GROUP);
    lab.wait_forwarded(GROUP);
    for _ in 0..3 {
        lab.ip("sw", "link set p-host down");
        assert!(!lab.forwarded().contains(&GROUP.to_string()));
        lab.ip("sw", "link set p-host up");
        // The switch asks every 20 s.
        wait_until("the switch forwards again", Duration::from_secs(3), || {
            lab.forwarded().contains(&GROUP.to_string()).then_some(())
        });
    }
}
