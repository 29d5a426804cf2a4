//! `mcrun-cni` as a program that knows CNI calls it: the verbs, the versions of the specification,
//! other plugins before it and behind it.

mod chained;
mod errors;
mod ipvlan;
mod nerdctl;
mod plugin;
mod podman;
mod verbs;

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::Value;

use crate::lab::{Container, Lab, PATIENCE, SOURCES, json, run, wait_until};

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
    assert_eq!(reception.duplicated, 0, "{reception:?}");
}

/// A container has two interfaces of these names, by one record and one proxy, and joins by each.
pub fn assert_has_both(lab: &Lab, container: &Container, names: [&str; 2]) {
    let entry = wait_until("the container has both interfaces", PATIENCE, || {
        let entry = lab.ps(container)?;
        (entry["interfaces"].as_array()?.len() == 2).then_some(entry)
    });
    let interfaces = entry["interfaces"].as_array().expect("interfaces").iter();
    let shown: Vec<_> = interfaces.map(|i| i["name"].as_str().expect("a name")).collect();
    assert_eq!(shown, names, "{entry}");
    assert_eq!(entry["proxy"]["state"], "running", "{entry}");
    for (name, last) in names.iter().zip([61, 62]) {
        let group = Ipv4Addr::new(239, 8, 3, last);
        let socket = container.socket_on(name, 5000);
        socket.join(group);
        wait_until("the group is joined by this interface", PATIENCE, || {
            let is_it = |entry: &Value| {
                entry["group"] == group.to_string()
                    && entry["interface"] == **name
                    && entry["status"] == "joined"
            };
            lab.groups(container).iter().any(is_it).then_some(())
        });
        lab.wait_forwarded(group);
    }
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
