//! A node as kubeadm makes it: containerd by its unit, with the systemd driver of control groups, and pods in
//! the slices that kubelet makes for them.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::{number, property, systemctl, wait_for_successor};
use crate::lab;
use crate::lab::{
    Container, Cri, EngineCommands, Lab, PATIENCE, Pod, assert_whole_while, run, wait_until,
};
use crate::vm;

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 6, 4, 1);
const PORT: u16 = 6000;
const IMAGE: &str = "lab.example/lab:1";
const UNIT: &str = "containerd.service";
const SOCKET: &str = "/run/containerd/containerd.sock";
const CONFIG: &str = "/etc/containerd/config.toml";
const WISH: (&str, &str) = ("io.mcrun.mcast", "parent=lan0,ip=10.99.0.11/24");

/// The cluster's network of the pods.
const NETWORK: &str = r#"{
    "cniVersion": "1.0.0", "name": "pods",
    "plugins": [{
        "type": "bridge", "bridge": "cni0", "isGateway": true,
        "ipam": { "type": "host-local", "subnet": "10.88.0.0/16", "routes": [{ "dst": "0.0.0.0/0" }] }
    }]
}"#;

#[test]
#[ignore = "boots a virtual machine: make test-vm"]
fn a_pod_of_the_systemd_driver_is_where_kubelet_looks_and_outlives_containerd() {
    vm::run_with_systemd(|| {
        let mut lab = Lab::on_this_machine(3);
        set_up_node(&lab);
        let cri = Cri::new(Path::new(SOCKET));

        // What the node's default runtime does with a pod is what mcrun's does.
        let plain_slice = slice("plain");
        let plain = Pod { name: "plain", cgroup: &plain_slice, ..Pod::default() };
        let sandbox = cri.run_pod_by("", &plain).expect("RunPodSandbox");
        assert_eq!(cgroup_of(pid_of(&sandbox)), scope(&plain_slice, &sandbox));
        cri.remove_pod(&sandbox).expect("RemovePodSandbox");
        // The cluster's bridge stays.
        lab.settle();

        let pod_slice = slice("cam");
        let annotations = &[WISH];
        let pod = Pod { name: "cam", annotations, cgroup: &pod_slice, ..Pod::default() };
        let sandbox = cri.run_pod(&pod).expect("RunPodSandbox");
        let app = cri.start_container(&pod, &sandbox, IMAGE).expect("StartContainer");
        for id in [&sandbox, &app] {
            assert_eq!(cgroup_of(pid_of(id)), scope(&pod_slice, id));
        }

        let pid = pid_of(&sandbox);
        let container = Container::of_engine("cam", &sandbox, pid, EngineCommands::default());
        let proxy = lab.proxy_pid(&container);
        let proxy_group = cgroup_of(proxy);
        assert!(!proxy_group.contains("kubepods"), "the pod does not pay for it: {proxy_group}");
        let socket = container.socket_on("mc0", PORT);
        socket.join(GROUP);
        lab.wait_joined(&container, GROUP);
        lab.wait_forwarded(GROUP);
        let capture = lab.capture();
        assert_whole_while(
            &lab,
            &[&socket],
            (GROUP, PORT),
            |_| {},
            || {
                let before = number(UNIT, "MainPID");
                systemctl(&["restart", UNIT]);
                wait_for_successor(UNIT, before);
                wait_until("containerd knows the pod", PATIENCE, || {
                    tasks().contains(&sandbox).then_some(())
                });
                assert_eq!(pid_of(&sandbox), pid);
                assert_eq!(lab.proxy_pid(&container), proxy);
            },
        );
        lab.assert_nothing_was_left(&capture.finish());
        let shown = lab.groups(&container);
        assert_eq!(shown[0]["name"], "studio/cam", "{shown:?}");

        // containerd, as it runs now, ends the pod.
        drop(socket);
        cri.remove_pod(&sandbox).expect("RemovePodSandbox");
        lab.assert_clean(PATIENCE);
        wait_until("the pod's scopes are gone", PATIENCE, || {
            let scopes =
                Path::new("/sys/fs/cgroup").join(scope(&pod_slice, &sandbox)[1..].trim_end());
            (!scopes.exists()).then_some(())
        });
        assert_eq!(property(UNIT, "ActiveState"), "active");
    });
}

/// containerd's own defaults with what kubeadm's documentation changes, and then what mcrun's tells to do.
fn set_up_node(lab: &Lab) {
    let defaults = run(Command::new("containerd").args(["config", "default"]));
    let (without, with) = ("SystemdCgroup = false", "SystemdCgroup = true");
    assert!(defaults.contains(without), "{defaults}");
    let lines = defaults.replace(without, with);
    let lines = lines.lines().map(|line| match line.trim_start().starts_with("sandbox = ") {
        true => format!("sandbox = {IMAGE:?}\n"),
        false => format!("{line}\n"),
    });
    let config: String = lines.collect();
    assert!(config.contains(IMAGE), "{config}");
    fs::write(CONFIG, config).expect("config.toml");
    fs::create_dir_all("/opt/cni").expect("directory");
    if !Path::new("/opt/cni/bin").exists() {
        symlink("/usr/lib/cni", "/opt/cni/bin").expect("link");
    }
    fs::create_dir_all("/etc/cni/net.d").expect("directory");
    fs::write("/etc/cni/net.d/10-pods.conflist", NETWORK).expect("network");
    run(&mut lab.mcrun(["setup", "containerd"]));
    systemctl(&["restart", UNIT]);
    let archive = lab::oci_archive(lab, &lab.directory().join("image"), IMAGE);
    run(ctr(&["images", "import"]).arg(archive));
}

/// The slice that kubelet makes for a pod without guarantees.
fn slice(uid: &str) -> String {
    format!("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{uid}.slice")
}

/// Where kubelet looks for a container of a pod, as /proc/PID/cgroup has it.
fn scope(slice: &str, id: &str) -> String {
    format!("{slice}/cri-containerd-{id}.scope")
}

fn cgroup_of(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    text.trim().trim_start_matches("0::").to_owned()
}

fn ctr(arguments: &[&str]) -> Command {
    let mut command = Command::new("ctr");
    command.args(["--namespace", "k8s.io"]).args(arguments);
    command
}

fn tasks() -> String {
    run(&mut ctr(&["task", "ls"]))
}

fn pid_of(id: &str) -> i32 {
    let list = tasks();
    let line = list.lines().find(|line| line.starts_with(id));
    let pid = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    pid.unwrap_or_else(|| panic!("no task {id}: {list}"))
}
