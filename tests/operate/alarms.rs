//! Alarms that need all containers, or what arrives, to be known.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::lab::{Container, Lab, PATIENCE, output, wait_until};
use crate::operate::events::{follow, followed};

const PORT: u16 = 6000;

/// The notices of this code that stand at a container.
fn standing(lab: &Lab, container: &Container, code: &str) -> Vec<Value> {
    let entry = lab.ps(container).expect("it is shown");
    let notices = entry["notices"].as_array().cloned().unwrap_or_default();
    notices.into_iter().filter(|notice| notice["code"] == code).collect()
}

/// The events of this name and code, in their order.
fn told<'e>(events: &'e [Value], event: &str, code: &str) -> Vec<&'e Value> {
    events.iter().filter(|e| e["event"] == event && e["code"] == code).collect()
}

#[test]
fn groups_that_share_an_ethernet_address_are_told_of_while_both_are_joined() {
    const CODE: &str = "shared-mac";
    let (group, other) = (Ipv4Addr::new(239, 1, 1, 1), Ipv4Addr::new(239, 129, 1, 1));
    let lab = Lab::new(3);
    let one = lab.start("one", "10.99.0.11");
    let socket = one.socket_on("mc0", PORT);
    socket.join(group);
    let (_follower, path) = follow(&lab);
    let two = lab.start("two", "10.99.0.12");
    let its_socket = two.socket_on("mc0", PORT);
    // The same group is no other one, and this one has another address.
    its_socket.join(group);
    its_socket.join(Ipv4Addr::new(239, 129, 1, 2));
    lab.wait_forwarded(Ipv4Addr::new(239, 129, 1, 2));
    assert_eq!(standing(&lab, &one, CODE), Vec::<Value>::new());
    its_socket.leave(group);
    its_socket.join(other);
    let notices = wait_until("it is warned of", PATIENCE, || {
        Some(standing(&lab, &one, CODE)).filter(|notices| !notices.is_empty())
    });
    let (interface, parent, mac) = ("mc0", "lan0", "01:00:5e:01:01:01");
    let text = format!(
        "mc0: {group} has the Ethernet address of {other}, joined on lan0 by {}: each gets the \
         frames of both; choose groups that differ in the last 23 bits",
        two.name
    );
    let expected = json!({
        "code": CODE, "severity": "warning", "text": text, "interface": interface,
        "parent": parent, "group": group, "mac": mac, "others": [other],
        "containers": [two.name],
    });
    assert_eq!(notices, [expected]);
    assert_eq!(standing(&lab, &two, CODE)[0]["containers"], json!([one.name]));
    let shown = output(&mut lab.mcrun(["ps"]));
    let warnings = String::from_utf8_lossy(&shown.stderr).into_owned();
    assert!(warnings.contains(&format!("mcrun: {}: {text}", one.name)), "{warnings}");
    let events = followed(&path, "both are told", |events| told(events, "alarm", CODE).len() == 2);
    for container in [&one, &two] {
        let own = |alarm: &&Value| alarm["container"] == container.id.as_str();
        assert!(told(&events, "alarm", CODE).iter().any(own), "{events:?}");
    }

    its_socket.leave(other);
    let events = followed(&path, "its end is told", |e| told(e, "alarm-cleared", CODE).len() == 2);
    assert_eq!(told(&events, "alarm", CODE).len(), 2, "{events:?}");
    for container in [&one, &two] {
        assert_eq!(standing(&lab, container, CODE), Vec::<Value>::new());
    }
}
