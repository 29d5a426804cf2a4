//! `mcrun-netavark` as podman and netavark call it: by the protocol alone, and by podman itself.

mod podman;

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::lab::{Lab, PATIENCE, SOURCES, give, run, wait_until};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 8, 4, 1);
const ID: &str = "752947ff91f961eb3cb47ffe9315016979f3ffbec09e4d96a4fae3fb03391697";

/// What podman says of a network with these options.
fn network(options: &Value, subnets: &Value) -> Value {
    json!({
        "name": "media", "id": "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9",
        "driver": "mcrun", "network_interface": "", "created": "2026-01-02T03:04:05Z",
        "subnets": subnets, "ipv6_enabled": false, "internal": false, "dns_enabled": true,
        "ipam_options": null, "options": options, "network_dns_servers": ["10.99.0.53"],
    })
}

/// The same of a container on it.
fn call(network: &Value, interface: &str, addresses: &[&str]) -> Value {
    json!({
        "container_id": ID, "container_name": "camera", "port_mappings": null, "network": network,
        "network_options": {
            "aliases": ["752947ff91f9"], "interface_name": interface, "static_ips": addresses,
            "static_mac": null,
        },
    })
}

fn try_call(lab: &Lab, arguments: &[&str], input: &str) -> Output {
    let mut command = lab.enter("host", lab.program("mcrun-netavark"));
    command.args(arguments);
    give(command, input)
}

fn succeeds(lab: &Lab, arguments: &[&str], input: &Value) -> Value {
    let output = try_call(lab, arguments, &input.to_string());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{arguments:?}: {text}");
    match text.trim() {
        "" => Value::Null,
        text => serde_json::from_str(text).expect("JSON"),
    }
}

/// The one line of a call that fails.
fn refusal(lab: &Lab, arguments: &[&str], input: &str) -> String {
    let output = try_call(lab, arguments, input);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{arguments:?} {input}: {text}");
    let error: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let message = error["error"].as_str().expect("a message");
    assert!(!message.is_empty() && !message.contains('\n'), "{message}");
    message.to_owned()
}

#[test]
fn a_network_is_made_and_a_container_set_up_and_torn_down() {
    let lab = Lab::new(2);
    lab.empty_namespace("blue");
    let lab = lab.settled();
    let info = succeeds(&lab, &["info"], &Value::Null);
    assert_eq!((&info["api_version"], info["version"].is_string()), (&json!("1.0.0"), true));
    let subnets = json!([{"subnet": "10.99.0.0/24", "gateway": "10.99.0.1", "lease_range": null}]);
    let asked = network(&json!({"parent": "lan0", "allow": "239.8.0.0/16 239.9.0.0/16"}), &subnets);
    let kept = succeeds(&lab, &["create"], &asked);
    let mut expected = asked;
    expected["dns_enabled"] = json!(false);
    expected["ipam_options"] = json!({"driver": "host-local"});
    assert_eq!(kept, expected, "all else is podman's");

    let capture = lab.capture();
    let netns = format!("/run/netns/{}", lab.namespace("blue"));
    let container = call(&kept, "eth0", &["10.99.0.11"]);
    let status = succeeds(&lab, &["setup", &netns], &container);
    let interface = &status["interfaces"]["eth0"];
    assert_eq!(interface["subnets"], json!([{"ipnet": "10.99.0.11/24", "gateway": "10.99.0.1"}]));
    assert_eq!(status["dns_server_ips"], json!(["10.99.0.53"]));
    let shown = crate::lab::json(&mut lab.mcrun(["ps", "--json"]));
    assert_eq!(shown[0]["name"], "camera", "{shown}");
    assert_eq!(shown[0]["container"], ID, "{shown}");
    assert_eq!(shown[0]["interfaces"][0]["mac"], interface["mac_address"], "{shown}");
    // A second network of the same container, without addresses of podman's.
    let second = network(&json!({"parent": "lan0"}), &Value::Null);
    let second = succeeds(&lab, &["create"], &second);
    assert_eq!(second["ipam_options"]["driver"], "none");
    let other = call(&second, "eth1", &[]);
    let status = succeeds(&lab, &["setup", &netns], &other);
    assert_eq!(status["interfaces"]["eth1"]["subnets"], json!([]));

    let receiver = lab.receive_in("blue", GROUP, PATIENCE / 4);
    wait_until("mcrun reports the group as joined", PATIENCE, || {
        let groups = crate::lab::json(&mut lab.mcrun(["groups", "--json"]));
        let mut entries = groups.as_array()?.iter();
        entries.any(|e| e["group"] == GROUP.to_string() && e["status"] == "joined").then_some(())
    });
    lab.wait_forwarded(GROUP);
    assert!(lab.send_count(GROUP, SOURCES[0], 1000, 500).finish(PATIENCE).status.success());
    let reception = receiver.finish();
    assert_eq!((reception.packets, reception.lost), (500, 0), "{reception:?}");

    assert_eq!(succeeds(&lab, &["teardown", &netns], &other), Value::Null);
    assert_eq!(succeeds(&lab, &["teardown", &netns], &container), Value::Null);
    // podman cleans up more than once, and where the namespace has gone.
    assert_eq!(succeeds(&lab, &["teardown", &netns], &container), Value::Null);
    assert_eq!(succeeds(&lab, &["teardown", "/run/netns/gone"], &container), Value::Null);
    lab.assert_clean(PATIENCE);
    lab.assert_one_igmp_host(&capture.finish());
}

#[test]
fn a_pool_of_a_named_network_gives_the_address_and_its_name_servers() {
    let lab = Lab::new(2);
    lab.empty_namespace("blue");
    let lab = lab.settled();
    let create = ["network", "create", "studio", "--mcast", "parent=lan0,ip=pool", "--dns"];
    let more = ["10.99.0.54", "--subnet", "10.99.0.0/24", "--range", "10.99.0.70-10.99.0.71"];
    run(lab.mcrun(create).args(more));
    let netns = format!("/run/netns/{}", lab.namespace("blue"));
    for (given, expected) in [(json!([]), "10.99.0.54"), (json!(["10.99.0.53"]), "10.99.0.53")] {
        let mut asked = network(&json!({"net": "studio"}), &Value::Null);
        asked["network_dns_servers"] = given;
        let kept = succeeds(&lab, &["create"], &asked);
        let container = call(&kept, "eth0", &[]);
        let status = succeeds(&lab, &["setup", &netns], &container);
        let subnets = &status["interfaces"]["eth0"]["subnets"];
        assert_eq!(subnets, &json!([{"ipnet": "10.99.0.70/24"}]), "the same, since it is free");
        assert_eq!(status["dns_server_ips"], json!([expected]));
        succeeds(&lab, &["teardown", &netns], &container);
    }
    lab.assert_clean(PATIENCE);
}

#[test]
fn what_is_wrong_is_named_and_leaves_nothing() {
    let lab = Lab::new(2);
    lab.empty_namespace("blue");
    let lab = lab.settled();
    let subnets = json!([{"subnet": "10.99.0.0/24"}]);
    for (options, subnets, expected) in [
        (json!({}), &Value::Null, "parent is missing"),
        (json!({"parent": "lan7"}), &Value::Null, "did you mean lan0?"),
        (json!({"parnt": "lan0", "net": "x"}), &Value::Null, "did you mean parent?"),
        (json!({"parent": "lan0", "ip": "pool"}), &subnets, "leave one of the two out"),
        (json!({"parent": "lan0", "driver": "relay"}), &Value::Null, "driver=relay"),
    ] {
        let asked = network(&options, subnets);
        let message = refusal(&lab, &["create"], &asked.to_string());
        assert!(message.contains(expected), "{options}: {message}");
    }
    let mut by_server = network(&json!({"parent": "lan0"}), &Value::Null);
    by_server["ipam_options"] = json!({"driver": "dhcp"});
    assert!(refusal(&lab, &["create"], &by_server.to_string()).contains("-o ip=dhcp"));

    let network = network(&json!({"parent": "lan0"}), &subnets);
    let netns = format!("/run/netns/{}", lab.namespace("blue"));
    for (address, path, expected) in [
        ("10.99.0.2", netns.as_str(), "10.99.0.2 is the host's own address"),
        ("10.99.0.3", &netns, "10.99.0.3 is in use on lan0, by"),
        ("10.98.0.3", &netns, "it is in no subnet of the network"),
        ("10.99.0.11", "/run/netns/none-of-this-name", "No such file"),
    ] {
        let container = call(&network, "eth0", &[address]);
        let message = refusal(&lab, &["setup", path], &container.to_string());
        assert!(message.contains(expected), "{address}: {message}");
        lab.assert_clean(PATIENCE);
    }
    for text in ["", "{", "[]", "{}", "null", r#"{"container_id":7}"#] {
        for arguments in [&["setup", &netns][..], &["teardown", &netns], &["create"]] {
            refusal(&lab, arguments, text);
        }
    }
    for arguments in [&[][..], &["setup"], &["teardown", ""], &["create", "x"], &["destroy"]] {
        let output = try_call(&lab, arguments, "{}");
        assert!(!output.status.success() && output.stderr.starts_with(b"mcrun-netavark: usage"));
    }
    // What kept a container from being attached is shown.
    let shown = crate::lab::json(&mut lab.mcrun(["doctor", "--json"]));
    assert!(shown.to_string().contains("none-of-this-name"), "{shown}");
    lab.assert_clean(PATIENCE);
    assert!(Path::new(&netns).exists());
    run(lab.enter("blue", "ip").args(["link", "show", "lo"]));
}
