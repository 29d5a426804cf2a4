//! Behind other plugins.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::plugin::{Call, after, config, host_local};
use super::{assert_stream_arrives, links, route_multicast, shown};
use crate::lab::{Capture, Lab, PATIENCE, json as json_of, run};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 8, 2, 1);

/// The configuration of another plugin in the same network.
pub fn other(plugin: &str, members: &Value) -> Value {
    let mut other = config("1.0.0", "media", members);
    other["type"] = json!(plugin);
    other
}

#[test]
fn behind_macvlan_its_link_is_served_and_stays_the_plugins() {
    let lab = Lab::new(2);
    lab.empty_namespace("blue");
    let lab = lab.settled();
    let capture = lab.capture();
    let call = Call::of(&lab, "blue");
    let first = other("macvlan", &json!({"master": "lan0", "ipam": host_local(&lab)}));
    let made = call.other("macvlan", "ADD", &first);
    let before = json_of(lab.enter("blue", "ip").args(["-j", "addr", "show", "eth0"]));

    let own = config("1.0.0", "media", &json!({"allow": ["239.8.0.0/16"]}));
    let message =
        call.refused("ADD", &after(&config("1.0.0", "media", &json!({"ip": "pool"})), &made), 2);
    assert!(message.contains("another plugin's"), "{message}");
    let result = call.mcrun("ADD", &after(&own, &made));
    assert_eq!(result, made);
    let entry = shown(&lab, &call.id).expect("attached");
    assert_eq!(entry["interfaces"][0]["parent"], "lan0", "{entry}");
    assert_eq!(entry["interfaces"][0]["driver"], "macvlan", "{entry}");
    let now = json_of(lab.enter("blue", "ip").args(["-j", "addr", "show", "eth0"]));
    assert_eq!(now[0]["address"], before[0]["address"]);
    call.mcrun("CHECK", &after(&own, &result));
    assert_stream_arrives(&lab, "blue", &call.id, GROUP);

    // Neither a new proxy nor garbage collection takes the link for one of mcrun's.
    run(&mut lab.mcrun(["reload"]));
    run(&mut lab.mcrun(["gc"]));
    call.mcrun("CHECK", &after(&own, &result));
    call.mcrun("DEL", &after(&own, &made));
    assert_eq!(links(&lab, "blue"), ["lo", "eth0"]);
    assert!(shown(&lab, &call.id).is_none());
    call.other("macvlan", "DEL", &first);
    assert_eq!(links(&lab, "blue"), ["lo"]);
    lab.assert_clean(PATIENCE);
    // When the plugin before has removed the link, the rest goes all the same.
    let made = call.other("macvlan", "ADD", &first);
    call.mcrun("ADD", &after(&own, &made));
    call.other("macvlan", "DEL", &first);
    call.refused("CHECK", &after(&own, &made), 101);
    call.mcrun("DEL", &own);
    lab.assert_clean(PATIENCE);
    lab.assert_one_igmp_host(&capture.finish());
}

#[test]
fn behind_bridge_the_proxy_relays() {
    let lab = Lab::new(2);
    lab.empty_namespace("blue");
    let capture = lab.capture();
    let call = Call::of(&lab, "blue");
    let subnet = json!([[{"subnet": "10.88.0.0/24"}]]);
    let directory = lab.directory().join("host-local");
    let ipam = json!({"type": "host-local", "dataDir": directory, "ranges": subnet,
                      "routes": [{"dst": "0.0.0.0/0"}]});
    let first = other("bridge", &json!({"bridge": "cni0", "isGateway": true, "ipam": ipam}));
    let made = call.other("bridge", "ADD", &first);
    let lab_before = links(&lab, "host");

    let own = config("1.0.0", "media", &json!({"parent": "lan0"}));
    let without = config("1.0.0", "media", &json!({}));
    let message = call.refused("ADD", &after(&without, &made), 7);
    assert!(message.contains("parent"), "{message}");
    let onto_itself = config("1.0.0", "media", &json!({"parent": "cni0"}));
    let message = call.refused("ADD", &after(&onto_itself, &made), 100);
    assert!(message.contains("cni0"), "{message}");
    let result = call.mcrun("ADD", &after(&own, &made));
    assert_eq!(result, made);
    let entry = shown(&lab, &call.id).expect("attached");
    assert_eq!(entry["interfaces"][0]["driver"], "relay", "{entry}");
    assert_eq!(entry["interfaces"][0]["name"], "eth0", "{entry}");
    call.mcrun("CHECK", &after(&own, &result));
    route_multicast(&lab, "blue", "eth0");
    assert_stream_arrives(&lab, "blue", &call.id, GROUP);
    call.mcrun("DEL", &after(&own, &made));
    assert_eq!(links(&lab, "host"), lab_before);
    assert!(shown(&lab, &call.id).is_none());
    call.other("bridge", "DEL", &first);
    lab.assert_one_igmp_host(&capture.finish());
}

/// The verbs behind a plugin whose interface carries none of the LAN's multicast, or is to carry none.
fn relayed_behind(lab: &Lab, plugin: &str, members: &Value) {
    let call = Call::of(lab, "blue");
    let capture = lab.capture();
    let first = other(plugin, members);
    let made = call.other(plugin, "ADD", &first);
    let before = links(lab, "host");

    let own = config("1.1.0", "media", &json!({"parent": "lan0", "max-pps": 5000}));
    call.mcrun("STATUS", &own);
    let without = config("1.1.0", "media", &json!({}));
    let message = call.refused("ADD", &after(&without, &made), 7);
    assert!(message.contains("parent"), "{message}");
    let behind = after(&own, &made);
    let result = call.mcrun("ADD", &behind);
    for member in ["interfaces", "ips", "routes"] {
        assert_eq!(result[member], made[member], "{member}");
    }
    assert_eq!(links(lab, "host"), before);
    let entry = shown(lab, &call.id).expect("attached");
    let shown_interface = &entry["interfaces"][0];
    assert_eq!(
        (&shown_interface["driver"], &shown_interface["name"]),
        (&json!("relay"), &json!("eth0"))
    );
    call.other(plugin, "CHECK", &after(&first, &made));
    call.mcrun("CHECK", &after(&own, &result));
    assert_stream_arrives(lab, "blue", &call.id, GROUP);

    // Its interface is the other plugin's: GC and DEL take the relay alone, and more than once.
    let gc = |valid: Value| {
        let mut gc = own.clone();
        gc["cni.dev/valid-attachments"] = valid;
        call.mcrun("GC", &gc);
    };
    gc(json!([{"containerID": call.id, "ifname": "eth0"}]));
    call.mcrun("CHECK", &after(&own, &result));
    gc(json!([]));
    assert!(shown(lab, &call.id).is_none());
    call.refused("CHECK", &after(&own, &result), 101);
    call.other(plugin, "CHECK", &after(&first, &made));
    call.mcrun("ADD", &behind);
    call.mcrun("DEL", &behind);
    call.mcrun("DEL", &behind);
    assert!(shown(lab, &call.id).is_none());
    assert_eq!(links(lab, "blue"), ["lo", "eth0"]);
    call.other(plugin, "DEL", &first);
    assert_eq!(links(lab, "blue"), ["lo"]);
    lab.assert_clean(PATIENCE);
    lab.assert_one_igmp_host(&capture.finish());
}

#[test]
fn behind_ptp_the_proxy_relays() {
    let lab = Lab::new(2);
    lab.empty_namespace("blue");
    // The plugin has the host forward.
    let lab = lab.settled();
    let ipam = json!({"type": "host-local", "dataDir": lab.directory().join("host-local"),
                      "ranges": [[{"subnet": "10.88.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]});
    relayed_behind(&lab, "ptp", &json!({"ipMasq": false, "ipam": ipam}));
}

/// As sriov-cni does with a virtual function: a link of the host that reaches the LAN by itself is moved
/// into the container. There is no such hardware here; one end of a pair has the place of the function, and
/// a port of the switch that of the adapter's own switch.
#[test]
fn behind_host_device_the_proxy_relays_and_nothing_comes_twice() {
    let lab = Lab::new(2);
    lab.empty_namespace("blue");
    let switch = lab.namespace("sw");
    lab.ip("host", &format!("link add vf0 type veth peer name p-vf netns {switch}"));
    lab.ip("sw", "link set p-vf master br0 up");
    // The adapter gives the function what its filter lets in: the stream comes by itself, too.
    let entry =
        ["mdb", "add", "dev", "br0", "port", "p-vf", "grp", &GROUP.to_string(), "permanent"];
    run(lab.enter("sw", "bridge").args(entry));
    let lab = lab.settled();
    let reports = Capture::start(&lab, "p-vf", "igmp");
    relayed_behind(&lab, "host-device", &json!({"device": "vf0", "ipam": host_local(&lab)}));
    assert_eq!(reports.igmp_so_far(), [], "the host speaks for the container");
    let link = json_of(lab.enter("host", "ip").args(["-j", "-s", "link", "show", "vf0"]));
    let received = link[0]["stats64"]["rx"]["packets"].as_u64().expect("a count");
    assert!(received >= 500, "the stream came by itself, too: {received}");
}

#[test]
fn an_interface_that_has_no_parent_here_is_refused() {
    let lab = Lab::new(2);
    lab.empty_namespace("blue");
    let call = Call::of(&lab, "blue");
    lab.ip("blue", "link add eth0 type bridge");
    let own = config("1.0.0", "media", &json!({"parent": "lan0"}));
    let message = call.refused("ADD", &after(&own, &json!({"cniVersion": "1.0.0"})), 7);
    assert!(message.contains("kind bridge"), "{message}");
}
