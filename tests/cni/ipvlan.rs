//! Behind the plugin ipvlan, in a virtual machine whose kernel has such links.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::json;

use super::chained::other;
use super::plugin::{Call, after, config, host_local};
use super::{links, shown};
use crate::lab::{Lab, PATIENCE, SOURCES, json as json_of, wait_until};
use crate::vm;

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 8, 2, 2);
const PACKETS: u32 = 300;

/// A life behind the plugin, whose links have this mode.
fn behind(mode: &str) {
    let lab = Lab::new(2);
    lab.empty_namespace("blue");
    let lab = lab.settled();
    let capture = lab.capture();
    let call = Call::of(&lab, "blue");
    let first = other("ipvlan", &json!({"master": "lan0", "mode": mode, "ipam": host_local(&lab)}));
    let made = call.other("ipvlan", "ADD", &first);
    let own = config("1.1.0", "media", &json!({"allow": ["239.8.0.0/16"]}));
    let with_link = config("1.1.0", "media", &json!({"mode": "l2"}));
    let message = call.refused("ADD", &after(&with_link, &made), 2);
    assert!(message.contains("another plugin's"), "{message}");
    let result = call.mcrun("ADD", &after(&own, &made));
    assert_eq!((&result["interfaces"], &result["ips"]), (&made["interfaces"], &made["ips"]));
    let entry = shown(&lab, &call.id).expect("attached");
    let interface = &entry["interfaces"][0];
    assert_eq!(
        (&interface["driver"], &interface["mode"]),
        (&json!("ipvlan"), &json!(mode)),
        "{entry}"
    );
    assert_eq!(
        (&interface["parent"], &interface["name"]),
        (&json!("lan0"), &json!("eth0")),
        "{entry}"
    );
    call.other("ipvlan", "CHECK", &after(&first, &made));
    call.mcrun("CHECK", &after(&own, &result));

    let receiver = lab.receive_count_in("blue", GROUP, PACKETS);
    wait_until("mcrun reports the group as joined", PATIENCE, || {
        let groups = json_of(&mut lab.mcrun(["groups", "--json"]));
        let mut entries = groups.as_array()?.iter();
        let is_it = |entry: &serde_json::Value| entry["group"] == GROUP.to_string();
        entries.any(|entry| is_it(entry) && entry["status"] == "joined").then_some(())
    });
    lab.wait_forwarded(GROUP);
    let sent = lab.send_count(GROUP, SOURCES[0], 250, PACKETS).finish(Duration::from_secs(60));
    assert!(sent.status.success(), "{sent:?}");
    receiver.assert_each_once(PACKETS);

    let mut gc = own.clone();
    gc["cni.dev/valid-attachments"] = json!([{"containerID": call.id, "ifname": "eth0"}]);
    call.mcrun("GC", &gc);
    call.mcrun("CHECK", &after(&own, &result));
    call.mcrun("DEL", &after(&own, &made));
    call.mcrun("DEL", &own);
    assert!(shown(&lab, &call.id).is_none());
    assert_eq!(links(&lab, "blue"), ["lo", "eth0"]);
    call.other("ipvlan", "CHECK", &after(&first, &made));
    call.other("ipvlan", "DEL", &first);
    lab.assert_clean(PATIENCE);
    lab.assert_one_igmp_host(&capture.finish());
}

#[test]
fn behind_ipvlan_in_l2_its_link_is_served_and_stays_the_plugins() {
    vm::run(|| behind("l2"));
}

#[test]
fn behind_ipvlan_in_l3_the_proxy_relays() {
    vm::run(|| behind("l3"));
}
