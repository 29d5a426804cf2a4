//! `igmp=native` and `igmp=off`.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::lab;
use crate::lab::{Lab, PATIENCE, SOURCES, has_joined, run, wait_until};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 7, 1, 1);

/// The container's own reports are on the wire, from its own address, and it receives.
fn speaks_for_itself(lab: &Lab, container: &lab::Container, while_joined: impl Fn()) {
    let mac = container.ip("link show mc0")[0]["address"].as_str().expect("a MAC").to_owned();
    let _stream = lab.send(GROUP, SOURCES[0], 200);
    let capture = lab.capture();
    let receiver = lab.receive(container, GROUP, None, Duration::from_secs(4));
    wait_until("the container joins", PATIENCE, || has_joined(container.pid, GROUP).then_some(()));
    while_joined();
    let reception = receiver.finish();
    assert!(reception.packets > 0 && reception.lost == 0, "{reception:?}");
    let seen = capture.finish();
    let about_the_group: Vec<_> =
        seen.iter().filter(|frame| frame.message.groups().contains(&GROUP)).collect();
    assert!(!about_the_group.is_empty(), "{seen:?}");
    for frame in about_the_group {
        assert_eq!(frame.mac, mac, "{frame:?}");
    }
    assert_eq!(run(container.enter("nft").args(["list", "ruleset", "ip"])), "", "no interception");
}

#[test]
fn native_igmp_is_the_containers_own_and_observed() {
    let lab = Lab::new(2);
    let container = lab.start_with("c", &["parent=lan0,ip=10.99.0.11/24,igmp=native"], &[]);
    speaks_for_itself(&lab, &container, || {
        wait_until("mcrun groups shows the group", PATIENCE, || {
            let groups = lab.groups(&container);
            groups.iter().any(|entry| entry["group"] == GROUP.to_string()).then_some(())
        });
        assert!(!lab.host_joins().contains(&GROUP), "the host joins nothing");
    });
    lab.wait_left(&container, GROUP);
    lab.delete(&container);
    lab.assert_clean(Duration::from_secs(1));
}

#[test]
fn without_igmp_there_is_no_proxy() {
    let lab = Lab::new(2);
    let container = lab.start_with("c", &["parent=lan0,ip=10.99.0.11/24,igmp=off"], &[]);
    assert_eq!(
        lab.host_processes().iter().find(|(_, line)| line.contains("mcrun-proxy")),
        None,
        "no proxy"
    );
    speaks_for_itself(&lab, &container, || {});
    lab.delete(&container);
    lab.assert_clean(Duration::from_secs(1));
}
