//! podman 4 with networks of CNI.

use std::fs;
use std::net::Ipv4Addr;

use serde_json::json;

use crate::lab::{Engine, IMAGE, Lab, PATIENCE, run};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 8, 3, 1);

#[test]
fn a_container_of_podman_is_on_a_network_of_mcruns() {
    let lab = Lab::new(2);
    let engine = Engine::podman(&lab, "runc", &[]);
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
