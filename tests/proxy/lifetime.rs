//! How a proxy starts, is followed by another, and ends.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use mcrun::multicast::FilterMode;
use mcrun::proxy::{GroupMembership, ProxyTask, requery};
use mcrun::state::Lifetime;
use mcrun::sys::process::ProcessRef;

use super::fake_container::{CHILD, FakeContainer, GROUP, SSM, source, wait_joined, wait_left};
use crate::lab::{Igmp, Lab, PATIENCE, alive, run, wait_until};

#[test]
fn what_cannot_be_served_is_refused_with_the_reason() {
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    let refused = |config: &ProxyTask, why: &str| {
        let answer = container.start(config).err().expect("refused");
        let last = answer.lines().last().unwrap_or_default();
        assert!(last.starts_with("error: ") && last.contains(why), "{answer}");
        // Some things are found out when the rules are in place: the hook is told, and they go.
        assert_eq!(answer.trim_start_matches("installed\n").lines().count(), 1, "{answer}");
        assert_eq!(run(container.command("nft").args(["list", "ruleset"])), "");
        assert!(!container.directory().join("control.sock").exists());
    };
    let mut config = container.config();
    let process = config.lifetime.process().expect("a process");
    config.lifetime = Lifetime::Process(ProcessRef { start: process.start + 1, ..process });
    refused(&config, &format!("process {}", process.pid));
    let mut config = container.config();
    config.lifetime = Lifetime::NamespacePath("/run/netns/no-such-namespace".into());
    refused(&config, "/run/netns/no-such-namespace");
    let mut config = container.config();
    config.interfaces.clear();
    refused(&config, "interfaces");
    let mut config = container.config();
    config.interfaces[0].upstream = "nosuch0".into();
    refused(&config, "nosuch0");
    let mut config = container.config();
    config.interfaces[0].index = 7777;
    refused(&config, CHILD);
    let mut config = container.config();
    config.container = "no-such-container".into();
    refused(&config, "no-such-container");
}

#[test]
fn the_end_of_the_container_ends_the_proxy_and_all_that_it_held() {
    let lab = Lab::new(3);
    let mut container = FakeContainer::new(&lab, "c1", 11);
    let mut proxy = container.serve(&container.config());
    let _socket = container.join(GROUP);
    wait_joined(&lab, GROUP);
    assert!(container.directory().join("control.sock").exists());
    container.process.signal(libc::SIGKILL);
    container.process.wait(PATIENCE);
    let died = Instant::now();
    proxy.ended_within(Duration::from_secs(1));
    assert!(!container.directory().exists(), "the state directory is removed");
    wait_left(&lab, GROUP);
    assert!(died.elapsed() < Duration::from_secs(1), "{:?}", died.elapsed());
}

#[test]
fn the_end_of_the_proxy_leaves_a_container_that_speaks_for_itself() {
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    let mut proxy = container.serve(&container.config());
    let _first = container.join(GROUP);
    wait_joined(&lab, GROUP);
    let rules = |c: &FakeContainer<'_>| run(c.command("nft").args(["list", "ruleset"]));
    assert!(rules(&container).contains("log"), "{}", rules(&container));
    proxy.child.kill().expect("killed");
    proxy.ended_within(PATIENCE);
    wait_left(&lab, GROUP);
    assert_eq!(rules(&container), "");
    let capture = lab.capture();
    let native = Ipv4Addr::new(239, 5, 1, 2);
    let _second = container.join(native);
    wait_until("the container's own report is on the wire", PATIENCE, || {
        capture
            .igmp()
            .iter()
            .any(|f| f.mac != lab.host_mac() && f.message.groups().contains(&native))
            .then_some(())
    });
}

#[test]
fn a_new_proxy_takes_over_without_a_leave_on_the_wire() {
    let lab = Lab::new(2);
    let container = FakeContainer::new(&lab, "c1", 11);
    let mut old = container.serve(&container.config());
    let _asm = container.join(GROUP);
    let _ssm = container.join_source(SSM, source(3));
    let wanted = BTreeSet::from([GROUP, SSM]);
    wait_until("both are joined", PATIENCE, || lab.host_joins().is_superset(&wanted).then_some(()));
    let capture = lab.capture();
    let mut new = container.start(&container.config()).expect("ready");
    // Ready means joined: the old one may end now.
    old.child.kill().expect("killed");
    old.ended_within(PATIENCE);
    assert!(lab.host_joins().is_superset(&wanted));
    requery(&container.directory()).expect("answered");
    // It intercepts, and hears the container.
    let third = Ipv4Addr::new(239, 5, 1, 3);
    let _third = container.join(third);
    wait_joined(&lab, third);
    wait_until("the container has answered", PATIENCE, || {
        new.status().interfaces[0].counters.get("reports_v3").filter(|n| **n > 1).map(drop)
    });
    let sources = |g: GroupMembership| (g.mode, g.sources);
    assert_eq!(new.group(SSM).map(sources), Some((FilterMode::Include, vec![source(3).into()])));
    assert_eq!(new.group(GROUP).map(sources), Some((FilterMode::Exclude, vec![])));
    // Without notifications the host's kernel waits up to a second with its report.
    lab.wait_forwarded(third);
    let seen = capture.finish();
    lab.assert_one_igmp_host(&seen);
    assert!(!seen.iter().any(|f| matches!(f.message, Igmp::Leave { .. })), "{seen:?}");
    assert!(container.directory().exists());
    new.child.kill().expect("killed");
    new.ended_within(PATIENCE);
}

#[test]
fn a_lost_link_and_a_new_one_are_survived() {
    let lab = Lab::new(2);
    let container = FakeContainer::new(&lab, "c1", 11);
    let proxy = container.serve(&container.config());
    let _socket = container.join(GROUP);
    wait_joined(&lab, GROUP);
    container.ip(&format!("link set {CHILD} down"));
    container.ip(&format!("link set {CHILD} up"));
    let _other = container.join(SSM.to_string().replace("232", "239").parse().expect("group"));
    wait_until("the kernel still speaks v3", PATIENCE, || {
        proxy.status().interfaces[0].groups.iter().all(|g| g.version == 3).then_some(())
    });
    container.ip(&format!("link del {CHILD}"));
    wait_left(&lab, GROUP);
    assert!(alive(proxy.pid()));
    assert_eq!(proxy.status().interfaces[0].groups, []);
}
