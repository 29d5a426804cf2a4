//! What is wrong with a call or a configuration is named, with the code of the specification, and
//! leaves nothing.

use serde_json::json;

use super::plugin::{Call, after, config, refusal};
use crate::lab::{Lab, PATIENCE, give, json as json_of};

#[test]
fn a_bad_configuration_is_named() {
    let lab = Lab::new(2);
    lab.empty_namespace("blue");
    let lab = lab.settled();
    let call = Call::of(&lab, "blue");
    for (members, code, expected) in [
        (json!({}), 7, "parent= is missing"),
        (json!({"parnt": "lan0"}), 2, "did you mean parent?"),
        (json!({"master": "lan0"}), 2, "it is called parent here"),
        (json!({"parent": "lan0", "ip": "10.99.0.11"}), 7, "ip=10.99.0.11"),
        (json!({"parent": "lan0", "driver": "bridge"}), 7, "driver=bridge"),
        (json!({"parent": "lan0", "driver": "relay"}), 7, "behind the plugin bridge"),
        (json!({"parent": "lan0", "optional": true}), 2, "promises an interface"),
        (json!({"parent": "lan0", "net": "nosuch"}), 7, "nosuch"),
        (json!({"parent": "lan7"}), 100, "did you mean lan0?"),
        (json!({"parent": "lan0", "ip": "10.99.0.2/24"}), 100, "host's own address"),
        (
            json!({"parent": "lan0", "ip": "pool", "ipam": {"type": "static"}}),
            7,
            "leave one of the two out",
        ),
    ] {
        let config = config("1.0.0", "media", &members);
        let message = call.refused("ADD", &config, code);
        assert!(message.contains(expected), "{members}: {message}");
        lab.assert_clean(PATIENCE);
    }
    // What kept a container from being attached is shown.
    let shown = json_of(&mut lab.mcrun(["doctor", "--json"]));
    assert!(shown.to_string().contains("leave one of the two out"), "{shown}");
    for (version, code, expected) in [("2.0.0", 1, "1.1.0"), ("0.2.0", 1, "0.4.0")] {
        let config = config(version, "media", &json!({"parent": "lan0"}));
        let message = call.refused("ADD", &config, code);
        assert!(message.contains(expected), "{message}");
    }
    for (text, code) in [("", 6), ("{", 6), ("[]", 6), (r#"{"cniVersion":"1.0.0"}"#, 7)] {
        refusal(&give(call.command(&lab.program("mcrun-cni"), "ADD"), text), code);
    }
}

#[test]
fn a_bad_call_is_named() {
    let lab = Lab::new(2);
    lab.empty_namespace("blue");
    let lab = lab.settled();
    let call = Call::of(&lab, "blue");
    let config = config("1.0.0", "media", &json!({"parent": "lan0"}));
    let with = |name: &str, value: &str, verb: &str| {
        let mut command = call.command(&lab.program("mcrun-cni"), verb);
        command.env(name, value);
        give(command, &config.to_string())
    };
    for (name, value, code) in [
        ("CNI_COMMAND", "MAKE", 4),
        ("CNI_COMMAND", "", 4),
        ("CNI_CONTAINERID", "", 4),
        ("CNI_CONTAINERID", "../c", 4),
        ("CNI_IFNAME", "", 4),
        ("CNI_IFNAME", "lo", 4),
        ("CNI_IFNAME", "an-interface-name", 4),
        ("CNI_NETNS", "", 4),
        ("CNI_NETNS", "/run/netns/no-such-namespace", 3),
        ("CNI_NETNS", "/dev/null", 3),
        ("CNI_NETNS", "/proc/self/ns/net", 100),
    ] {
        let message = refusal(&with(name, value, "ADD"), code);
        assert!(value.is_empty() || message.contains(value), "{name}={value}: {message}");
    }
    refusal(&with("CNI_CONTAINERID", "", "DEL"), 4);
    let message = call.refused("CHECK", &config, 7);
    assert!(message.contains("prevResult"), "{message}");
    let behind_nothing = after(&config, &json!({"cniVersion": "1.0.0"}));
    let message = call.refused("ADD", &behind_nothing, 7);
    assert!(message.contains("no interface eth0"), "{message}");
    lab.assert_clean(PATIENCE);
}

#[test]
fn the_administrators_limits_hold() {
    let lab = Lab::new(2);
    lab.empty_namespace("blue");
    lab.configure("[attach]\nparents = [\"media*\"]\n");
    let lab = lab.settled();
    let call = Call::of(&lab, "blue");
    let config = config("1.0.0", "media", &json!({"parent": "lan0"}));
    let message = call.refused("ADD", &config, 100);
    assert!(message.contains("parent=lan0") && message.contains("media*"), "{message}");
    lab.assert_clean(PATIENCE);
}
