//! `mcrun-cni` as a program that knows CNI calls it: the verbs, the versions of the specification,
//! other plugins before it and behind it.

mod chained;
mod errors;
mod plugin;
mod podman;
mod verbs;

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::Value;

use crate::lab::{Lab, PATIENCE, SOURCES, json, run, wait_until};

/// The directory of Debian's plugins (package containernetworking-plugins).
const PLUGINS: &str = "/usr/lib/cni";

/// What `mcrun ps --json` says of a container.
fn shown(lab: &Lab, id: &str) -> Option<Value> {
    let entries = json(&mut lab.mcrun(["ps", "--json"]));
    entries.as_array()?.iter().find(|entry| entry["container"] == id).cloned()
}

/// A stream from the LAN arrives in the namespace of `node`, through a switch that sends only what is
/// joined.
fn assert_stream_arrives(lab: &Lab, node: &'static str, id: &str, group: Ipv4Addr) {
    const PACKETS: u32 = 500;
    let receiver = lab.receive_in(node, group, Duration::from_secs(4));
    wait_until("mcrun reports the group as joined", PATIENCE, || {
        let groups = json(&mut lab.mcrun(["groups", "--json"]));
        let mut entries = groups.as_array()?.iter();
        let entry = entries.find(|entry| entry["group"] == group.to_string())?;
        (entry["container"] == id && entry["status"] == "joined").then_some(())
    });
    lab.wait_forwarded(group);
    let sent = lab.send_count(group, SOURCES[0], 1000, PACKETS).finish(PATIENCE);
    assert!(sent.status.success(), "{sent:?}");
    let reception = receiver.finish();
    assert_eq!((reception.packets, reception.lost), (PACKETS.into(), 0), "{reception:?}");
}

/// The names of the links in a namespace of the lab.
fn links(lab: &Lab, node: &str) -> Vec<String> {
    let links = json(lab.enter(node, "ip").args(["-j", "link"]));
    let names = links.as_array().expect("links").iter();
    names.map(|link| link["ifname"].as_str().expect("a name").to_owned()).collect()
}

/// Sends what names no interface through this one.
fn route_multicast(lab: &Lab, node: &str, interface: &str) {
    let mut command = lab.enter(node, "ip");
    run(command.args(["route", "replace", "224.0.0.0/4", "dev", interface]));
}
