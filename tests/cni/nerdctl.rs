//! As nerdctl calls plugins: with the namespace of containerd before the container's id, and DEL before
//! each ADD (`fullID` and `applyNetworkSettings` in its pkg/ocihook/ocihook.go). nerdctl is in no release
//! of Debian and does not run here. The containers are containerd's, made by `ctr` with an id and an
//! annotation as nerdctl gives its own.

use serde_json::{Value, json};

use super::assert_has_both;
use super::plugin::{Call, after, config};
use crate::lab::{Container, Containerd, Lab, PATIENCE, json as json_of, run};

const NAMESPACE: &str = "default";

/// A container that sleeps, with further options for `ctr run`.
fn start(lab: &Lab, containerd: &Containerd, options: &[&str]) -> Container {
    let name = lab.name("cam");
    let digits: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    let id = format!("{:0>64}", &digits[digits.len().saturating_sub(64)..]);
    let mut command = containerd.ctr(lab, NAMESPACE, ["run", "-d"]);
    command
        .args(options)
        .arg("--fifo-dir")
        .arg(containerd.fifos())
        .args(["--cgroup", &format!("{}/{id}", containerd.cgroup()), "--env", "PATH=/bin"])
        .args(["--annotation", &format!("nerdctl/name={name}")])
        .arg("--rootfs")
        .arg(lab.rootfs())
        .args([&id, "sleep", "1000"]);
    run(&mut command);
    let pid = containerd.pid(lab, NAMESPACE, &id);
    Container::of_engine(&name, &id, pid, containerd.commands(NAMESPACE, &id))
}

fn call<'l>(lab: &'l Lab, container: &Container) -> Call<'l> {
    Call {
        id: format!("{NAMESPACE}-{}", container.id),
        netns: format!("/proc/{}/ns/net", container.pid),
        ..Call::of(lab, "blue")
    }
}

/// DEL without a namespace, as before each ADD.
fn del(lab: &Lab, container: &Container, config: &Value) {
    let call = Call { netns: String::new(), ..call(lab, container) };
    assert_eq!(call.mcrun("DEL", config), Value::Null);
}

/// The interfaces of all containers that are attached, by the container's id.
fn attached(lab: &Lab) -> Vec<(String, Vec<String>)> {
    let all = json_of(&mut lab.mcrun(["ps", "--json"]));
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let entries = all.as_array().expect("an array").iter();
    entries
        .map(|entry| {
            let interfaces = entry["interfaces"].as_array().expect("interfaces").iter();
            (text(&entry["container"]), interfaces.map(|i| text(&i["name"])).collect())
        })
        .collect()
}

#[test]
fn a_container_is_known_by_its_own_id_and_its_name() {
    let mut lab = Lab::new(2);
    let containerd = Containerd::start(&mut lab);
    let container = start(&lab, &containerd, &[]);
    let config = config("1.1.0", "media", &json!({"parent": "lan0", "ip": "10.99.0.11/24"}));
    let call = call(&lab, &container);
    let own = |interfaces: &[&str]| {
        let names = interfaces.iter().map(|name| (*name).to_owned()).collect();
        vec![(container.id.clone(), names)]
    };
    del(&lab, &container, &config);
    let result = call.mcrun("ADD", &config);
    call.mcrun("CHECK", &after(&config, &result));
    assert_eq!(attached(&lab), own(&["eth0"]));
    assert_eq!(lab.ps(&container).expect("attached")["name"], container.name);

    // Whoever names the container has the one that the plugin has attached.
    let attach = ["attach", "--engine", "nerdctl", &container.name, "--mcast", "parent=lan0"];
    run(&mut lab.mcrun(attach));
    assert_has_both(&lab, &container, ["eth0", "mc0"]);
    assert_eq!(attached(&lab), own(&["eth0", "mc0"]));

    let mut gc = config.clone();
    gc["cni.dev/valid-attachments"] = json!([{"containerID": call.id, "ifname": "eth0"}]);
    call.mcrun("GC", &gc);
    assert_eq!(attached(&lab), own(&["eth0", "mc0"]));
    gc["cni.dev/valid-attachments"] = json!([]);
    call.mcrun("GC", &gc);
    assert_eq!(attached(&lab), own(&["mc0"]));

    del(&lab, &container, &config);
    call.mcrun("ADD", &config);
    assert_eq!(attached(&lab), own(&["mc0", "eth0"]));
    del(&lab, &container, &config);
    assert_eq!(attached(&lab), own(&["mc0"]));
    lab.delete(&container);
    lab.assert_clean(PATIENCE);
}

#[test]
fn a_network_and_an_annotation_are_of_one_container() {
    let mut lab = Lab::new(2);
    let containerd = Containerd::start(&mut lab);
    let wish = "io.mcrun.mcast=parent=lan0,ip=10.99.0.12/24";
    let runtime = env!("CARGO_BIN_EXE_mcrun-runtime");
    let container = start(&lab, &containerd, &["--runc-binary", runtime, "--annotation", wish]);
    let config = config("1.0.0", "media", &json!({"parent": "lan0", "ip": "10.99.0.11/24"}));
    del(&lab, &container, &config);
    call(&lab, &container).mcrun("ADD", &config);
    assert_has_both(&lab, &container, ["mc0", "eth0"]);
    assert_eq!(attached(&lab).len(), 1);
    del(&lab, &container, &config);
    assert_eq!(attached(&lab), [(container.id.clone(), vec!["mc0".to_owned()])]);
    lab.delete(&container);
    lab.assert_clean(PATIENCE);
}
