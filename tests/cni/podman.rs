//! podman 4 with networks of CNI.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::json;

use super::assert_has_both;
use crate::lab::{Engine, IMAGE, Lab, PATIENCE, hooks_dir, kill, output, run, wait_until};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 8, 3, 1);

/// podman that has CNI, and the network `media` of mcrun's plugin.
fn engine<'l>(lab: &'l Lab, hooks: &[&Path]) -> Engine<'l> {
    let engine = Engine::podman(lab, "runc", hooks);
    let base = lab.directory().join("podman");
    let file = base.join("containers.conf");
    let plugins = lab.program("mcrun-cni");
    let plugins = plugins.parent().expect("a directory");
    let backend = format!(
        "[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [{plugins:?}, {:?}]\n",
        super::PLUGINS
    );
    let text = fs::read_to_string(&file).expect("containers.conf");
    fs::write(&file, text.replace("[network]\n", &backend)).expect("containers.conf");
    let networks = base.join("networks");
    fs::create_dir_all(&networks).expect("directory");
    let network = json!({"cniVersion": "0.4.0", "name": "media", "plugins": [
        {"type": "mcrun-cni", "parent": "lan0", "ip": "10.99.0.11/24"}]});
    fs::write(networks.join("media.conflist"), network.to_string()).expect("network");
    engine
}

#[test]
fn a_container_of_podman_is_on_a_network_of_mcruns() {
    let lab = Lab::new(2);
    let engine = engine(&lab, &[]);
    let capture = lab.capture();
    let name = lab.name("c");
    let start = ["run", "-d", "--network", "media", "--name", &name, IMAGE, "sleep", "1000"];
    run(&mut engine.command(&start));
    let container = engine.container("c");
    lab.assert_stream_arrives(&container, GROUP);
    let entry = lab.ps(&container).expect("attached");
    assert_eq!(entry["interfaces"][0]["name"], "eth0", "{entry}");
    assert_eq!(entry["interfaces"][0]["addresses"][0], "10.99.0.11/24", "{entry}");
    run(&mut engine.command(&["rm", "--force", "--time", "0", &name]));
    lab.assert_clean(PATIENCE);
    lab.assert_one_igmp_host(&capture.finish());
}

/// Whatever ends and starts the container. podman keeps its namespace, and so the network's interface,
/// where its policy starts it again.
#[test]
fn a_network_and_an_annotation_give_a_container_both() {
    let lab = Lab::new(2);
    let hooks = hooks_dir(&lab);
    let engine = engine(&lab, &[&hooks]);
    let capture = lab.capture();
    let name = lab.name("c");
    let annotation = |parent: &str| format!("\"io.mcrun.mcast=parent={parent},ip=10.99.0.12/24\"");
    let options = ["run", "-d", "--network", "media", "--restart", "on-failure:1", "--name", &name];
    let start = |parent: &str| {
        let mut command = engine.command(&options);
        command.args(["--annotation", &annotation(parent), IMAGE, "sleep", "1000"]);
        command
    };
    run(&mut start("lan0"));
    let container = engine.container("c");
    assert_has_both(&lab, &container, ["eth0", "mc0"]);
    assert_eq!(lab.ps(&container).expect("attached")["name"], name, "the hook knows it");
    lab.assert_stream_arrives(&container, GROUP);

    run(&mut engine.command(&["restart", "--time", "0", &name]));
    let container = engine.container("c");
    assert_has_both(&lab, &container, ["eth0", "mc0"]);
    kill(container.pid);
    let container = wait_until("podman starts it again", PATIENCE, || {
        let now = engine.container("c");
        (now.pid > 0 && now.pid != container.pid).then_some(now)
    });
    assert_has_both(&lab, &container, ["eth0", "mc0"]);
    lab.assert_stream_arrives(&container, GROUP);
    run(&mut engine.command(&["stop", "--time", "0", &name]));
    lab.assert_clean(PATIENCE);
    run(&mut engine.command(&["start", &name]));
    assert_has_both(&lab, &engine.container("c"), ["eth0", "mc0"]);
    run(&mut engine.command(&["rm", "--force", "--time", "0", &name]));
    lab.assert_clean(PATIENCE);

    // One that cannot be made fails the start, and the network's goes too.
    let refused = output(&mut start("lan9"));
    assert!(!refused.status.success(), "{refused:?}");
    run(&mut engine.command(&["rm", "--force", "--time", "0", &name]));
    lab.assert_clean(PATIENCE);
    lab.assert_one_igmp_host(&capture.finish());
}

/// The network's interface is the pod's, and the first member that asks adds to it.
#[test]
fn the_members_of_a_pod_share_the_network_and_what_they_ask_for() {
    let lab = Lab::new(2);
    let hooks = hooks_dir(&lab);
    let engine = engine(&lab, &[&hooks]);
    let capture = lab.capture();
    let pod = lab.name("pod");
    run(engine.command(&["pod", "create", "--network", "media", "--name"]).arg(&pod));
    let member = |name: &str, attachment: &str| {
        let annotation = format!("\"io.mcrun.mcast={attachment}\"");
        let mut command = engine.command(&["run", "-d", "--pod", &pod, "--name", &lab.name(name)]);
        output(command.args(["--annotation", &annotation, IMAGE, "sleep", "1000"]))
    };
    let assert_started = |started: std::process::Output| {
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    };
    assert_started(member("first", "parent=lan0,ip=10.99.0.12/24"));
    let ids = run(&mut engine.command(&["ps", "-q", "--no-trunc", "--filter", "name=-infra$"]));
    let infra = engine.container_of_any_name(ids.trim());
    assert_has_both(&lab, &infra, ["eth0", "mc0"]);
    assert_started(member("second", "parent=lan0,ip=10.99.0.12/24"));
    let refused = member("third", "parent=lan0,ip=10.99.0.13/24");
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert!(errors.contains("is attached to something else"), "{errors}");

    let first = engine.container("first");
    engine.run(&["rm", "-f", "-t", "0"], &first);
    assert_has_both(&lab, &infra, ["eth0", "mc0"]);
    run(engine.command(&["pod", "rm", "-f", "-t", "0"]).arg(&pod));
    lab.assert_clean(PATIENCE);
    lab.assert_one_igmp_host(&capture.finish());
}
