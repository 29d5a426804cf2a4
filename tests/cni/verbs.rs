//! As a network's first plugin.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;

use serde_json::{Value, json};

use super::plugin::{Call, after, config, given, host_local};
use super::{assert_stream_arrives, links, shown};
use crate::lab::{Lab, PATIENCE, alive, give, json as json_of, kill, run, wait_until};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 8, 1, 1);

#[test]
fn the_versions_are_told() {
    let lab = Lab::new(2);
    let call = Call::of(&lab, "blue");
    let answer = call.mcrun("VERSION", &json!({"cniVersion": "1.0.0"}));
    assert_eq!(answer["cniVersion"], "1.0.0");
    assert_eq!(answer["supportedVersions"], json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
}

/// A life with a configuration of this version.
fn life(version: &str) {
    let lab = Lab::new(2);
    lab.empty_namespace("blue");
    let lab = lab.settled();
    let capture = lab.capture();
    let mut call = Call::of(&lab, "blue");
    call.arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=studio;K8S_POD_NAME=cam".into();
    let members = json!({"parent": "lan0", "ip": ["10.99.0.11/24"], "gw": "10.99.0.1",
                         "allow": ["239.8.0.0/16"], "dns": {"domain": "studio.example"}});
    let config = config(version, "media", &members);

    let result = call.mcrun("ADD", &config);
    let link = json_of(lab.enter("blue", "ip").args(["-j", "link", "show", "eth0"]));
    assert_eq!(
        result["interfaces"],
        json!([{"name": "eth0", "mac": link[0]["address"], "sandbox": call.netns}])
    );
    let mut ip = json!({"address": "10.99.0.11/24", "gateway": "10.99.0.1", "interface": 0});
    if version.starts_with("0.") {
        ip["version"] = json!("4");
    }
    assert_eq!(result["ips"], json!([ip]));
    assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0", "gw": "10.99.0.1"}]));
    assert_eq!((&result["cniVersion"], &result["dns"]), (&config["cniVersion"], &config["dns"]));
    assert_eq!(shown(&lab, &call.id).expect("attached")["name"], "studio/cam");

    if version != "0.3.1" {
        assert_eq!(call.mcrun("CHECK", &after(&config, &result)), Value::Null);
    }
    assert_stream_arrives(&lab, "blue", &call.id, GROUP);

    // What follows is the caller's: once, once more, and when the namespace has gone.
    assert_eq!(call.mcrun("DEL", &after(&config, &result)), Value::Null);
    assert_eq!(links(&lab, "blue"), ["lo"]);
    lab.assert_clean(PATIENCE);
    call.mcrun("DEL", &config);
    call.netns = String::new();
    call.mcrun("DEL", &config);
    lab.assert_one_igmp_host(&capture.finish());
}

#[test]
fn a_life_by_version_0_3_1() {
    life("0.3.1");
}

#[test]
fn a_life_by_version_0_4_0() {
    life("0.4.0");
}

#[test]
fn a_life_by_version_1_0_0() {
    life("1.0.0");
}

#[test]
fn a_life_by_version_1_1_0() {
    life("1.1.0");
}

#[test]
fn what_is_left_when_the_namespace_has_gone_is_removed_by_del() {
    let lab = Lab::new(2);
    lab.empty_namespace("blue");
    let lab = lab.settled();
    let call = Call::of(&lab, "blue");
    let config = config("1.0.0", "media", &json!({"parent": "lan0"}));
    call.mcrun("ADD", &config);
    run(Command::new("ip").args(["netns", "del", &lab.namespace("blue")]));
    call.mcrun("DEL", &config);
    lab.assert_clean(PATIENCE);
}

/// As nerdctl calls plugins: from a hook of the runtime.
#[test]
fn a_container_that_is_named_by_its_process_is_attached_until_the_process_ends() {
    let lab = Lab::new(2);
    let holder = lab.namespace_holder();
    let mut call = Call::of(&lab, "blue");
    call.netns = format!("/proc/{}/ns/net", holder.pid());
    let config = config("1.0.0", "media", &json!({"parent": "lan0"}));
    let result = call.mcrun("ADD", &config);
    assert_eq!(result["interfaces"][0]["sandbox"], call.netns);
    call.mcrun("CHECK", &after(&config, &result));
    let entry = shown(&lab, &call.id).expect("attached");
    assert_eq!(entry["pid"], holder.pid(), "{entry}");
    drop(holder);
    wait_until("the proxy has removed the record", PATIENCE, || {
        shown(&lab, &call.id).is_none().then_some(())
    });
    call.netns = String::new();
    call.mcrun("DEL", &config);
    lab.assert_clean(PATIENCE);
}

#[test]
fn check_tells_what_has_changed() {
    let lab = Lab::new(2);
    lab.empty_namespace("blue");
    let call = Call::of(&lab, "blue");
    let config = config("1.0.0", "media", &json!({"parent": "lan0", "ip": "10.99.0.11/24"}));
    let result = call.mcrun("ADD", &config);
    let config = after(&config, &result);
    call.mcrun("CHECK", &config);

    let mut other = config.clone();
    other["name"] = json!("other");
    let message = call.refused("CHECK", &other, 101);
    assert!(message.contains("not attached by the network other"), "{message}");

    lab.ip("blue", "addr del 10.99.0.11/24 dev eth0");
    let message = call.refused("CHECK", &config, 101);
    assert!(message.contains("10.99.0.11/24"), "{message}");
    lab.ip("blue", "addr add 10.99.0.11/24 dev eth0");
    call.mcrun("CHECK", &config);

    lab.ip("blue", "link set eth0 down");
    let message = call.refused("CHECK", &config, 101);
    assert!(message.contains("eth0 is down"), "{message}");
    lab.ip("blue", "link set eth0 up");

    let proxy = shown(&lab, &call.id).expect("attached")["proxy"]["pid"].as_i64().expect("a proxy");
    kill(proxy as i32);
    wait_until("the proxy has ended", PATIENCE, || (!alive(proxy as i32)).then_some(()));
    let message = call.refused("CHECK", &config, 101);
    assert!(message.contains("proxy"), "{message}");
    run(&mut lab.mcrun(["reload"]));
    call.mcrun("CHECK", &config);

    lab.ip("blue", "link del eth0");
    let message = call.refused("CHECK", &config, 101);
    assert!(message.contains("eth0 is not there"), "{message}");
    call.mcrun("DEL", &config);
    call.refused("CHECK", &config, 101);
}

#[test]
fn gc_removes_what_the_engine_does_not_know_and_nothing_else() {
    let lab = Lab::new(2);
    lab.empty_namespace("blue");
    lab.empty_namespace("green");
    let config = config("1.1.0", "media", &json!({"parent": "lan0"}));
    let mut other = config.clone();
    other["name"] = json!("other");
    let kept = Call { id: lab.name("kept"), ..Call::of(&lab, "blue") };
    let forgotten = Call { id: lab.name("forgotten"), ..Call::of(&lab, "green") };
    let of_other = Call { id: lab.name("other"), interface: "eth1", ..Call::of(&lab, "green") };
    kept.mcrun("ADD", &config);
    forgotten.mcrun("ADD", &config);
    of_other.mcrun("ADD", &other);
    let by_hand = format!("/run/netns/{}", lab.namespace("blue"));
    run(&mut lab.mcrun(["attach", &by_hand, "--mcast", "parent=lan0"]));

    let message = kept.refused("GC", &config, 7);
    assert!(message.contains("cni.dev/valid-attachments"), "{message}");
    let mut gc = config.clone();
    gc["cni.dev/valid-attachments"] = json!([{"containerID": kept.id, "ifname": "eth0"}]);
    kept.mcrun("GC", &gc);
    assert_eq!(links(&lab, "blue"), ["lo", "eth0", "mc0"]);
    assert_eq!(links(&lab, "green"), ["lo", "eth1"]);
    gc["cni.dev/valid-attachments"] = json!([]);
    kept.mcrun("GC", &gc);
    assert_eq!(links(&lab, "blue"), ["lo", "mc0"]);
    of_other.mcrun("DEL", &other);
}

#[test]
fn status_says_whether_a_container_can_be_attached() {
    let lab = Lab::new(2);
    let call = Call::of(&lab, "blue");
    let good = config("1.1.0", "media", &json!({"parent": "lan0"}));
    call.mcrun("STATUS", &good);
    call.mcrun("STATUS", &config("1.1.0", "media", &json!({})));
    // The address is that of a container.
    lab.empty_namespace("blue");
    let taken = config("1.1.0", "media", &json!({"parent": "lan0", "ip": "10.99.0.11/24"}));
    call.mcrun("ADD", &taken);
    call.mcrun("STATUS", &taken);
    call.mcrun("DEL", &taken);
    // As behind the plugin bridge.
    call.mcrun("STATUS", &config("1.1.0", "media", &json!({"parent": "lan0", "max-pps": 1000})));
    let absent = config("1.1.0", "media", &json!({"parent": "lan7"}));
    let message = call.refused("STATUS", &absent, 50);
    assert!(message.contains("lan7"), "{message}");
    lab.configure("[attach]\nparents = [\"lan1\"]\n");
    let message = call.refused("STATUS", &good, 50);
    assert!(message.contains("lan1"), "{message}");
}

#[test]
fn several_networks_of_one_container_come_and_go_by_themselves() {
    let lab = Lab::new(2);
    lab.empty_namespace("blue");
    let lab = lab.settled();
    let red = Call { interface: "red", ..Call::of(&lab, "blue") };
    let green = Call { interface: "green", ..Call::of(&lab, "blue") };
    let of_red = config("1.0.0", "red", &json!({"parent": "lan0", "ip": "10.99.0.11/24"}));
    let of_green = config("1.0.0", "green", &json!({"parent": "lan0"}));
    let result = red.mcrun("ADD", &of_red);
    green.mcrun("ADD", &of_green);
    let message = green.refused("ADD", &of_green, 100);
    assert!(message.contains("green"), "{message}");
    assert_eq!(links(&lab, "blue"), ["lo", "red", "green"]);
    // Another network's configuration does not delete it.
    green.mcrun("DEL", &of_red);
    assert_eq!(links(&lab, "blue"), ["lo", "red", "green"]);
    green.mcrun("DEL", &of_green);
    assert_eq!(links(&lab, "blue"), ["lo", "red"]);
    red.mcrun("CHECK", &after(&of_red, &result));
    assert_stream_arrives(&lab, "blue", &red.id, GROUP);
    red.mcrun("DEL", &of_red);
    lab.assert_clean(PATIENCE);
}

#[test]
fn an_address_plugin_gives_the_address_and_gets_it_back() {
    let lab = Lab::new(2);
    lab.empty_namespace("blue");
    let lab = lab.settled();
    let call = Call::of(&lab, "blue");
    let members = json!({"parent": "lan0", "ipam": host_local(&lab)});
    let good = config("1.0.0", "media", &members);
    let result = call.mcrun("ADD", &good);
    assert_eq!(
        result["ips"],
        json!([{"address": "10.99.0.40/24", "gateway": "10.99.0.1", "interface": 0}])
    );
    let routes = json_of(lab.enter("blue", "ip").args(["-j", "route", "show", "default"]));
    assert_eq!(routes[0]["gateway"], "10.99.0.1", "{routes}");
    assert_eq!(given(&lab, "media"), ["10.99.0.40"]);
    call.mcrun("CHECK", &after(&good, &result));
    assert_stream_arrives(&lab, "blue", &call.id, GROUP);
    call.mcrun("DEL", &good);
    lab.assert_clean(PATIENCE);
    assert!(given(&lab, "media").is_empty());
    call.mcrun("DEL", &good);

    // What fails after the address was given gives it back, too.
    let absent = config("1.0.0", "media", &json!({"parent": "lan7", "ipam": host_local(&lab)}));
    let message = call.refused("ADD", &absent, 100);
    assert!(message.contains("parent=lan7"), "{message}");
    assert!(given(&lab, "media").is_empty());
    lab.assert_clean(PATIENCE);

    let mut without = good.clone();
    without["ipam"]["type"] = json!("no-such-plugin");
    let message = call.refused("ADD", &without, 102);
    assert!(message.contains("no-such-plugin"), "{message}");
    let mut bad = good.clone();
    bad["ipam"]["ranges"] = json!([]);
    let message = give(call.command(&lab.program("mcrun-cni"), "ADD"), &bad.to_string());
    let message = String::from_utf8_lossy(&message.stdout).into_owned();
    assert!(message.contains("address plugin host-local: "), "{message}");
    lab.assert_clean(PATIENCE);
}

#[test]
fn a_pool_of_a_named_network_gives_the_address() {
    let lab = Lab::new(2);
    lab.empty_namespace("blue");
    let networks = lab.config_dir().join("networks");
    fs::create_dir_all(&networks).expect("directory");
    let file = "parent = \"lan0\"\nsubnet = \"10.99.0.0/24\"\nrange = \"10.99.0.60-10.99.0.62\"\n\
                dns = [\"10.99.0.53\", \"2001:db8::53\"]\n";
    fs::write(networks.join("media.toml"), file).expect("network");
    let call = Call::of(&lab, "blue");
    let config = config("1.0.0", "media", &json!({"net": "media", "ip": "pool"}));
    let result = call.mcrun("ADD", &config);
    assert_eq!(result["ips"][0]["address"], "10.99.0.60/24", "{result}");
    assert_eq!(result["dns"], json!({"nameservers": ["10.99.0.53", "2001:db8::53"]}));
    call.mcrun("CHECK", &after(&config, &result));
    call.mcrun("DEL", &config);
    // The configuration's own word comes first.
    let own = json!({"net": "media", "ip": "pool", "dns": {"nameservers": ["10.99.0.54"]}});
    let config = self::config("1.0.0", "media", &own);
    let result = call.mcrun("ADD", &config);
    assert_eq!(result["dns"], own["dns"]);
    call.mcrun("DEL", &config);
}

/// An engine reads the plugin's output to its end.
#[test]
fn a_proxy_has_neither_a_descriptor_nor_a_control_group_of_its_caller() {
    let lab = Lab::new(2);
    lab.empty_namespace("blue");
    let call = Call::of(&lab, "blue");
    let config = config("1.0.0", "media", &json!({"parent": "lan0"}));
    let secret = lab.directory().join("secret");
    fs::write(&secret, "").expect("a file");
    // The shell leaves a file open; the pipes are those of `give`, which reads them to their end.
    let mut command = call.command("/bin/sh".as_ref(), "ADD");
    command.args(["-c", "exec 7<\"$1\"; exec \"$2\"", "sh"]);
    command.arg(&secret).arg(lab.program("mcrun-cni"));
    let output = give(command, &config.to_string());
    assert!(output.status.success(), "{output:?}");
    let proxy = shown(&lab, &call.id).expect("attached")["proxy"]["pid"].as_i64().expect("a proxy");
    let descriptors = fs::read_dir(format!("/proc/{proxy}/fd")).expect("descriptors");
    for descriptor in descriptors.flatten() {
        let target = fs::read_link(descriptor.path()).unwrap_or_default();
        let target = target.to_string_lossy();
        assert!(*target != *secret.to_string_lossy() && !target.starts_with("pipe:"), "{target}");
    }
    let groups = fs::read_to_string(format!("/proc/{proxy}/cgroup")).expect("it runs");
    assert!(groups.lines().any(|line| line == "0::/mcrun"), "{groups}");
    call.mcrun("DEL", &config);
}
