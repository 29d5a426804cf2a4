//! A container whose own firewall drops IGMP, as VPN clients' do: its kernel hears no query and
//! reports nothing.

use std::net::Ipv4Addr;
use std::time::Duration;

use mcrun::proxy::MembershipStatus;

use super::fake_container::{CHILD, FakeContainer, GROUP, SSM, source, wait_left};
use crate::firewall::{DEAF, facility};
use crate::lab::{PATIENCE, Udp, assert_whole_while, run, wait_until};

const PORT: u16 = 6000;
/// The shortest query interval.
const QUERY_INTERVAL: Duration = Duration::from_secs(1);
/// The membership interval that follows (RFC 9776 §8.4).
const MEMBERSHIP: Duration = Duration::from_secs(3);

/// The stream goes on for as long as the container's kernel has joined it. A bare macvlan behind the
/// same firewall loses it.
#[test]
fn what_a_firewall_in_the_container_keeps_from_being_reported_stays_joined() {
    let lab = facility(3);
    let rules = lab.directory().join("inside.nft");
    std::fs::write(&rules, DEAF).expect("rules");
    lab.bare("bare", "10.99.0.21");
    run(lab.enter("bare", "nft").arg("-f").arg(&rules));
    let control = Ipv4Addr::new(239, 5, 1, 9);
    let bare = Udp::open(&lab.net("bare"), Ipv4Addr::UNSPECIFIED, PORT, "bare");
    bare.join(control);
    lab.wait_forwarded(control);

    let container = FakeContainer::new(&lab, "c1", 11);
    run(container.command("nft").arg("-f").arg(&rules));
    let mut task = container.config();
    task.interfaces[0].query_interval = Some(QUERY_INTERVAL);
    let proxy = container.serve(&task);
    let udp = Udp::open(&container.ns, Ipv4Addr::UNSPECIFIED, PORT, CHILD);
    udp.join(GROUP);
    let channel = container.join_source(SSM, source(3));
    lab.wait_forwarded(GROUP);
    let group = proxy.wait_group(GROUP, MembershipStatus::Joined);
    let sources = proxy.wait_group(SSM, MembershipStatus::Joined).sources;
    assert_whole_while(
        &lab,
        &[&udp],
        (GROUP, PORT),
        |_| {},
        || std::thread::sleep(MEMBERSHIP * 2 + QUERY_INTERVAL),
    );
    let now = proxy.group(GROUP).expect("it is joined");
    assert!(now.age_s >= group.age_s + 6, "{group:?}, then {now:?}");
    let now = proxy.group(SSM).expect("it is joined");
    assert_eq!((now.status, now.sources), (MembershipStatus::Joined, sources));
    let forwarded = lab.forwarded();
    assert!(!forwarded.contains(&control.to_string()), "bare macvlan: {forwarded:?}");

    // What has been left is left.
    drop((udp, channel));
    wait_left(&lab, GROUP);
    wait_left(&lab, SSM);
    wait_until("the switch stops", PATIENCE, || {
        (!lab.forwarded().contains(&GROUP.to_string())).then_some(())
    });
}
