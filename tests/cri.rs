//! Kubernetes' way in: `mcrun-runtime` as a runtime handler of containerd's CRI plugin.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use crate::cni::assert_has_both;
use crate::lab;
use crate::lab::{Container, Containerd, Cri, Lab, PARENT, Pod};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 6, 3, 1);
const IMAGE: &str = "lab.example/lab:1";
/// containerd's namespace of the CRI plugin.
const NAMESPACE: &str = "k8s.io";
const WISH: (&str, &str) = ("io.mcrun.mcast", "parent=lan0,ip=10.99.0.11/24");

/// A network plugin that claims to have made eth0 (CNI specification 0.4.0): what is asked of pods
/// here is beside the cluster's network.
const NETWORK_PLUGIN: &str = r#"#!/bin/sh
cat >/dev/null
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"0.4.0","supportedVersions":["0.3.1","0.4.0"]}' ;;
ADD)
    nsenter --net="$CNI_NETNS" ip link set lo up
    echo '{"cniVersion":"0.4.0","interfaces":[{"name":"'"$CNI_IFNAME"'","sandbox":"'"$CNI_NETNS"'"}],
        "ips":[{"version":"4","interface":0,"address":"10.88.0.2/16"}]}' ;;
esac
"#;

/// A lab whose container host runs containerd with the CRI plugin.
fn lab_with_cri() -> (Lab, Containerd, Cri) {
    lab_with_network(r#"{"cniVersion":"0.4.0","name":"claim","plugins":[{"type":"claim"}]}"#)
}

/// The same with this network for all pods.
fn lab_with_network(network: &str) -> (Lab, Containerd, Cri) {
    let mut lab = Lab::new(2);
    let plugins = lab.directory().join("cni/bin");
    let networks = lab.directory().join("cni/net.d");
    fs::create_dir_all(&plugins).expect("directory");
    fs::create_dir_all(&networks).expect("directory");
    fs::write(plugins.join("claim"), NETWORK_PLUGIN).expect("plugin");
    fs::set_permissions(plugins.join("claim"), fs::Permissions::from_mode(0o755)).expect("mode");
    symlink("claim", plugins.join("loopback")).expect("link");
    symlink(env!("CARGO_BIN_EXE_mcrun-cni"), plugins.join("mcrun-cni")).expect("link");
    fs::write(networks.join("10-pods.conflist"), network).expect("network");
    let containerd = Containerd::start_with(
        &mut lab,
        "",
        &format!(
            "[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"{IMAGE}\"\n  \
             # A pod's sandbox asks for a score that takes a privilege.\n  \
             restrict_oom_score_adj = true\n  netns_mounts_under_state_dir = true\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\n  bin_dir = {plugins:?}\n  conf_dir = {networks:?}\n"
        ),
    );
    containerd.import_image(&lab, NAMESPACE, IMAGE);
    let cri = Cri::new(&containerd.socket());
    (lab, containerd, cri)
}

#[test]
fn a_pod_is_attached_once_to_its_sandbox() {
    let (lab, containerd, cri) = lab_with_cri();
    let capture = lab.capture();
    let name = lab.name("cam");
    let cgroup = containerd.cgroup();
    let pod = Pod { name: &name, cgroup, annotations: &[WISH], ..Pod::default() };
    let sandbox = cri.run_pod(&pod).expect("RunPodSandbox");
    let app = cri.start_container(&pod, &sandbox, IMAGE).expect("StartContainer");

    let pid = containerd.pid(&lab, NAMESPACE, &sandbox);
    let in_app = containerd.commands(NAMESPACE, &app);
    let container = Container::of_engine(&name, &sandbox, pid, in_app);
    let mcrun = lab.exec_command(&container, &["mcrun"]);
    lab.assert_stream_arrives_by(mcrun, &container, GROUP, || {
        let shown = lab.groups(&container);
        assert_eq!(shown[0]["name"], format!("studio/{name}"), "the pod's name");
    });
    lab.wait_left(&container, GROUP);
    lab.assert_one_igmp_host(&capture.finish());

    let all = lab::json(&mut lab.mcrun(["ps", "--json"]));
    assert_eq!(all.as_array().map(Vec::len), Some(1), "the sandbox and nothing else: {all}");
    assert_eq!(all[0]["container"], sandbox, "{all}");
    assert_eq!(all[0]["interfaces"][0]["parent"], PARENT, "{all}");
    assert_eq!(all[0]["interfaces"][0]["addresses"][0], "10.99.0.11/24", "{all}");

    cri.remove_pod(&sandbox).expect("RemovePodSandbox");
    lab.assert_clean(Duration::from_secs(2));

    // The address is free again, and so is whatever else the pod had.
    let again = cri.run_pod(&pod).expect("RunPodSandbox once more");
    cri.remove_pod(&again).expect("RemovePodSandbox");
    lab.assert_clean(Duration::from_secs(2));
}

#[test]
fn a_pod_that_asks_for_nothing_is_left_alone() {
    let (lab, containerd, cri) = lab_with_cri();
    let name = lab.name("plain");
    let cgroup = containerd.cgroup();
    let pod = Pod { name: &name, cgroup, ..Pod::default() };
    let sandbox = cri.run_pod(&pod).expect("RunPodSandbox");
    let app = cri.start_container(&pod, &sandbox, IMAGE).expect("StartContainer");
    let pid = containerd.pid(&lab, NAMESPACE, &app);
    let container = Container::of_engine(&name, &app, pid, containerd.commands(NAMESPACE, &app));
    assert_eq!(container.ip("link").as_array().map(Vec::len), Some(1), "only lo");
    assert!(!lab.state_dir().exists());
    cri.remove_pod(&sandbox).expect("RemovePodSandbox");
    lab.assert_clean(Duration::from_secs(2));
}

#[test]
fn a_pod_on_the_nodes_network_is_refused() {
    let (lab, containerd, cri) = lab_with_cri();
    let name = lab.name("host");
    let cgroup = containerd.cgroup();
    let pod = Pod { name: &name, cgroup, annotations: &[WISH], host_network: true };
    cri.run_pod(&pod).expect_err("no sandbox");
    let log = containerd.log();
    assert!(
        log.contains("mcrun-runtime: the container shares the host's network namespace"),
        "{log}"
    );
    lab.assert_clean(Duration::from_secs(2));
}

/// The pod asks for nothing: its network is mcrun's.
#[test]
fn the_network_of_a_pod_is_made_by_mcruns_plugin() {
    let (lab, containerd, cri) = lab_with_network(
        r#"{"cniVersion":"1.0.0","name":"media",
            "plugins":[{"type":"mcrun-cni","parent":"lan0","ip":"10.99.0.11/24"}]}"#,
    );
    let capture = lab.capture();
    let name = lab.name("cam");
    let cgroup = containerd.cgroup();
    let pod = Pod { name: &name, cgroup, ..Pod::default() };
    let sandbox = cri.run_pod(&pod).expect("RunPodSandbox");
    let app = cri.start_container(&pod, &sandbox, IMAGE).expect("StartContainer");
    let pid = containerd.pid(&lab, NAMESPACE, &sandbox);
    let in_app = containerd.commands(NAMESPACE, &app);
    let container = Container::of_engine(&name, &sandbox, pid, in_app);
    let mcrun = lab.exec_command(&container, &["mcrun"]);
    lab.assert_stream_arrives_by(mcrun, &container, GROUP, || {
        let shown = lab.groups(&container);
        assert_eq!(shown[0]["name"], format!("studio/{name}"), "the pod's name");
        assert_eq!(shown[0]["interface"], "eth0");
    });
    cri.remove_pod(&sandbox).expect("RemovePodSandbox");
    lab.assert_clean(Duration::from_secs(2));
    lab.assert_one_igmp_host(&capture.finish());

    let again = cri.run_pod(&pod).expect("RunPodSandbox once more");
    cri.remove_pod(&again).expect("RemovePodSandbox");
    lab.assert_clean(Duration::from_secs(2));
}

#[test]
fn a_network_of_mcruns_plugin_and_an_annotation_give_a_pod_both() {
    let (lab, containerd, cri) = lab_with_network(
        r#"{"cniVersion":"1.0.0","name":"media",
            "plugins":[{"type":"mcrun-cni","parent":"lan0","ip":"10.99.0.12/24"}]}"#,
    );
    let capture = lab.capture();
    let name = lab.name("cam");
    let cgroup = containerd.cgroup();
    let pod = Pod { name: &name, cgroup, annotations: &[WISH], ..Pod::default() };
    for _ in 0..2 {
        let sandbox = cri.run_pod(&pod).expect("RunPodSandbox");
        let app = cri.start_container(&pod, &sandbox, IMAGE).expect("StartContainer");
        let pid = containerd.pid(&lab, NAMESPACE, &sandbox);
        let in_app = containerd.commands(NAMESPACE, &app);
        let container = Container::of_engine(&name, &sandbox, pid, in_app);
        assert_has_both(&lab, &container, ["eth0", "mc0"]);
        cri.remove_pod(&sandbox).expect("RemovePodSandbox");
        lab.assert_clean(Duration::from_secs(2));
    }
    lab.assert_one_igmp_host(&capture.finish());
}
