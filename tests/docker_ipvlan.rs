//! docker's networks with `-o driver=ipvlan`, in a virtual machine whose kernel has such links. There is no docker:
//! the driver is asked as docker 28 asks it.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::docker_network::protocol::post;
use crate::lab::{Container, DockerDriver, EngineCommands, Lab, PATIENCE, SOURCES, run};
use crate::vm;

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 8, 9, 20);
const PACKETS: u32 = 300;

/// What the driver answers; it has no error.
fn asked(socket: &Path, method: &str, body: &Value) -> Value {
    let (status, answer) = post(socket, &format!("NetworkDriver.{method}"), &body.to_string());
    assert_eq!(status, "200", "{method} {body}: {answer}");
    serde_json::from_str(&answer).expect("JSON")
}

fn refused(socket: &Path, method: &str, body: &Value) -> String {
    let (_, answer) = post(socket, &format!("NetworkDriver.{method}"), &body.to_string());
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    answer["Err"].as_str().unwrap_or_else(|| panic!("{method} {body}: {answer}")).to_owned()
}

/// The life of a network and of a container on it.
fn life(mode: &str) {
    let lab = Lab::new(3);
    let driver = DockerDriver::start(&lab);
    let socket = driver.socket();
    let lab_before = lab.leftovers();
    let capture = lab.capture();
    let holder = lab.namespace_holder();
    let sandbox = lab.directory().join("sandbox");
    fs::write(&sandbox, "").expect("a file");
    let namespace = format!("/proc/{}/ns/net", holder.pid());
    run(Command::new("mount").args(["--bind", &namespace]).arg(&sandbox));

    let options = json!({"parent": "lan0", "driver": "ipvlan", "mode": mode});
    let network = json!({
        "NetworkID": "aa", "Options": {"com.docker.network.generic": options},
        "IPv4Data": [{"AddressSpace": "l", "Pool": "10.99.0.0/24", "Gateway": "10.99.0.1/24"}],
    });
    asked(socket, "CreateNetwork", &network);
    let endpoint = |mac: &str| {
        let interface = json!({"Address": "10.99.0.70/24", "AddressIPv6": "", "MacAddress": mac});
        json!({"NetworkID": "aa", "EndpointID": "ee", "Interface": interface, "Options": {}})
    };
    let error = refused(socket, "CreateEndpoint", &endpoint("02:00:5e:10:09:0d"));
    assert!(error.contains("ipvlan"), "{error}");
    let made = asked(socket, "CreateEndpoint", &endpoint(""));
    assert_eq!(made, json!({}), "the MAC address is the parent's");
    let join = json!({"NetworkID": "aa", "EndpointID": "ee", "SandboxKey": sandbox, "Options": {}});
    let joined = asked(socket, "Join", &join);
    assert_eq!(joined["InterfaceName"]["DstPrefix"], "mc", "{joined}");

    let id = format!("pid-{}", holder.pid());
    let container = Container::of_engine(&id, &id, holder.pid(), EngineCommands::default());
    let link = &container.ip("-d link show mc0")[0];
    assert_eq!(link["linkinfo"]["info_kind"], "ipvlan", "{link}");
    assert_eq!(link["linkinfo"]["info_data"]["mode"], mode, "{link}");
    assert_eq!(link["address"], lab.host_mac(), "{link}");
    let receiver = lab.receive_count(&container, GROUP, None, PACKETS);
    lab.wait_joined(&container, GROUP);
    lab.wait_forwarded(GROUP);
    let sent = lab.send_count(GROUP, SOURCES[0], 250, PACKETS).finish(Duration::from_secs(60));
    assert!(sent.status.success(), "{sent:?}");
    receiver.assert_each_once(PACKETS);

    let names = json!({"NetworkID": "aa", "EndpointID": "ee"});
    for method in ["Leave", "DeleteEndpoint", "DeleteNetwork"] {
        asked(socket, method, &names);
    }
    assert_eq!(lab.ps(&container), None);
    run(Command::new("umount").arg(&sandbox));
    drop(holder);
    lab.assert_one_igmp_host(&capture.finish());
    crate::lab::wait_until("everything is gone", PATIENCE, || {
        (lab.leftovers() == lab_before).then_some(())
    });
}

#[test]
fn a_container_receives_on_a_network_of_ipvlan_links_in_l2() {
    vm::run(|| life("l2"));
}

#[test]
fn a_container_receives_on_a_network_of_ipvlan_links_in_l3() {
    vm::run(|| life("l3"));
}
