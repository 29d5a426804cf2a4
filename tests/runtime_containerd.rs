//! `mcrun-runtime` under containerd, by `ctr`.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use crate::lab;
use crate::lab::{Container, Containerd, Lab, PARENT, PATIENCE, output, run};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 6, 2, 1);
const NAMESPACE: &str = "lab";

/// Options of `ctr run` that put mcrun-runtime in runc's place.
const RUNTIME: [&str; 4] = ["run", "-d", "--runc-binary", env!("CARGO_BIN_EXE_mcrun-runtime")];

/// `ctr run` of a container that sleeps, with further options.
fn ctr_run(lab: &Lab, containerd: &Containerd, id: &str, options: [&str; 2]) -> Command {
    let mut command = containerd.ctr(lab, NAMESPACE, RUNTIME);
    command
        .arg("--fifo-dir")
        .arg(containerd.fifos())
        .args(["--cgroup", &format!("{}/{id}", containerd.cgroup()), "--env", "PATH=/bin"])
        .args(options)
        .arg("--rootfs")
        .arg(lab.rootfs())
        .args([id, "sleep", "1000"]);
    command
}

/// The same of one that is attached.
fn start(lab: &Lab, containerd: &Containerd) -> Container {
    let id = lab.name("cam");
    let wish = "io.mcrun.mcast=parent=lan0,ip=10.99.0.11/24";
    run(&mut ctr_run(lab, containerd, &id, ["--annotation", wish]));
    let pid = containerd.pid(lab, NAMESPACE, &id);
    Container::of_engine(&id, &id, pid, containerd.commands(NAMESPACE, &id))
}

#[test]
fn a_container_of_ctr_receives_and_leaves_nothing() {
    let mut lab = Lab::new(3);
    let containerd = Containerd::start(&mut lab);
    let capture = lab.capture();
    let container = start(&lab, &containerd);

    lab.assert_stream_arrives(&container, GROUP);
    lab.wait_left(&container, GROUP);
    lab.assert_one_igmp_host(&capture.finish());
    let shown = lab.ps(&container).expect("mcrun ps knows the container");
    assert_eq!(shown["name"], container.id, "{shown}");
    assert_eq!(shown["interfaces"][0]["parent"], PARENT, "{shown}");

    lab.delete(&container);
    lab.assert_clean(Duration::from_secs(2));
}

#[test]
fn a_killed_shim_leaves_nothing() {
    let mut lab = Lab::new(2);
    let containerd = Containerd::start(&mut lab);
    let container = start(&lab, &containerd);
    let stat = fs::read_to_string(format!("/proc/{}/stat", container.pid)).expect("alive");
    let after_name = stat.rsplit_once(") ").expect("a name").1;
    let shim = after_name.split(' ').nth(1).expect("a parent").parse().expect("a pid");
    let name = fs::read_to_string(format!("/proc/{shim}/comm")).expect("alive");
    assert!(name.starts_with("containerd-shim"), "{name}");
    // containerd notices, and has the runtime delete what it finds.
    lab::kill(shim);
    lab.assert_clean(PATIENCE);
    assert!(!lab::alive(container.pid));
}

#[test]
fn a_wrong_wish_is_told_in_one_line() {
    let mut lab = Lab::new(2);
    let containerd = Containerd::start(&mut lab);
    let wish = "io.mcrun.mcast=parent=lan0,drivr=x";
    let refused = output(&mut ctr_run(&lab, &containerd, &lab.name("cam"), ["--annotation", wish]));
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success());
    assert!(
        error.contains(
            "mcrun-runtime: io.mcrun.mcast: attachment key \"drivr\" is unknown; did you mean driver?"
        ),
        "{error}"
    );
    lab.assert_clean(Duration::from_secs(2));
}
