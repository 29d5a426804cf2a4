//! What people are shown outlives the proxy: ages, counters, the querier and source lists are the
//! same after `mcrun reload`, and after a keeper has replaced a proxy that was killed.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::Value;

use crate::lab::{
    Background, Container, Lab, PATIENCE, SOURCES, SWITCH, Udp, kill, run, stream, wait_until,
};

/// Joined from any source, and from one.
const ANY: Ipv4Addr = Ipv4Addr::new(239, 8, 9, 1);
const CHANNEL: Ipv4Addr = Ipv4Addr::new(239, 8, 9, 2);
const PORT: u16 = 6000;
/// Packets of each group before the change.
const COUNT: u32 = 50;
/// No group of a new proxy is as old within the time that a change takes.
const OLD: u64 = 3;

fn entry(groups: &[Value], group: Ipv4Addr) -> Value {
    let found = groups.iter().find(|entry| entry["group"] == group.to_string());
    found.unwrap_or_else(|| panic!("{group}: {groups:?}")).clone()
}

fn querier(lab: &Lab, container: &Container) -> Value {
    lab.ps(container).expect("it is shown")["interfaces"][0]["querier"].clone()
}

/// Queries that the container's proxies have relayed.
fn queries(lab: &Lab, container: &Container) -> u64 {
    let shown: Value =
        serde_json::from_str(&run(&mut lab.mcrun(["inspect", "--json", &container.id])))
            .expect("JSON");
    let counters = &shown["status"]["interfaces"][0]["counters"];
    counters["queries_relayed"].as_u64().unwrap_or(0)
}

/// A container with a relay that has joined both groups, received from both, and heard a query.
fn container(lab: &Lab) -> (Container, [Udp; 2]) {
    lab.add_bridge();
    let container = lab.start_with("c", &["parent=lan0,driver=relay"], &[]);
    lab.plug(&container, 10);
    let sockets = [PORT, PORT + 1].map(|port| container.socket_on("eth0", port));
    // While the newest group has no source list, the kernel shows none at all unless it is made to.
    sockets[1].join_source(CHANNEL, SOURCES[0]);
    sockets[0].join(ANY);
    lab.wait_joined(&container, ANY);
    lab.wait_joined(&container, CHANNEL);
    lab.wait_forwarded(ANY);
    lab.wait_forwarded(CHANNEL);
    lab.query();
    wait_until("the querier is known, and its query relayed", PATIENCE, || {
        let known = querier(lab, &container)["address"] == SWITCH.to_string();
        (known && queries(lab, &container) > 0).then_some(())
    });
    let sender = lab.socket("src", SOURCES[0], 0);
    stream(&sender, "any", COUNT, (ANY, PORT));
    stream(&sender, "channel", COUNT, (CHANNEL, PORT + 1));
    wait_until("the packets are counted, and the groups are old", PATIENCE, || {
        let groups = lab.groups(&container);
        let is_done = |group| {
            let entry = entry(&groups, group);
            entry["relayed"] == COUNT && entry["age_s"].as_u64() >= Some(OLD)
        };
        (is_done(ANY) && is_done(CHANNEL)).then_some(())
    });
    (container, sockets)
}

/// Asserts that a change of the proxy changes nothing of what is shown.
fn assert_kept(lab: &Lab, container: &Container, change: impl FnOnce()) {
    let _lists = lab.show_all_lists();
    let proxy = lab.proxy_pid(container);
    let (groups, heard) = (lab.groups(container), querier(lab, container));
    let relayed_queries = queries(lab, container);
    change();
    wait_until("another proxy serves", PATIENCE, || {
        let shown = lab.ps(container)?["proxy"].clone();
        (shown["state"] == "running" && shown["pid"] != proxy).then_some(())
    });
    lab.wait_joined(container, ANY);
    lab.wait_joined(container, CHANNEL);
    let now = lab.groups(container);
    assert_eq!(now.len(), 2, "{now:?}");
    for group in [ANY, CHANNEL] {
        let (before, after) = (entry(&groups, group), entry(&now, group));
        for member in ["mode", "sources", "version", "status", "relayed", "dropped", "limited"] {
            assert_eq!(before[member], after[member], "{member} of {group}");
        }
        assert!(before["age_s"].as_u64() <= after["age_s"].as_u64(), "{before} {after}");
    }
    let channel = entry(&now, CHANNEL);
    assert_eq!(channel["mode"], "include");
    assert_eq!(channel["sources"], serde_json::json!([SOURCES[0].to_string()]));
    let hears = querier(lab, container);
    for member in ["address", "version"] {
        assert_eq!(heard[member], hears[member], "{hears}");
    }
    assert!(heard["last_query_s"].as_u64() <= hears["last_query_s"].as_u64(), "{heard} {hears}");
    assert!(queries(lab, container) >= relayed_queries);
    // The channel was never asked for from any source.
    let filters = lab.host_filters();
    let list = filters.get(&CHANNEL).unwrap_or_else(|| panic!("{filters:?}"));
    let sources: Vec<_> = list.iter().collect();
    assert!(matches!(&sources[..], [(source, (1.., 0))] if **source == SOURCES[0]), "{sources:?}");
}

#[test]
fn reload_keeps_ages_counters_the_querier_and_source_lists() {
    let lab = Lab::new(3);
    let (container, _sockets) = container(&lab);
    assert_kept(&lab, &container, || {
        lab.configure("[groups]\nmax-groups = 7\n");
        assert_eq!(run(&mut lab.mcrun(["reload"])).trim(), container.id);
    });
}

#[test]
fn a_keeper_keeps_ages_counters_the_querier_and_source_lists_of_a_killed_proxy() {
    let lab = Lab::new(3);
    let options = ["keep", "--watchdog", "300ms", "--stable-after", "50ms"];
    let _keeper = Background::start(&mut lab.mcrun(options));
    let (container, _sockets) = container(&lab);
    lab.wait_held(&container);
    // What the keeper knows is as old as the last answer to its question.
    std::thread::sleep(Duration::from_millis(700));
    assert_kept(&lab, &container, || kill(lab.proxy_pid(&container)));
}
