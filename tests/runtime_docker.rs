//! `mcrun-runtime` as a runtime of dockerd.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::lab;
use crate::lab::{Dockerd, Lab, PARENT, PATIENCE, output, run, wait_until};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 6, 1, 1);
const ATTACHMENT: &str = "parent=lan0,ip=10.99.0.11/24";

/// A lab whose container host runs dockerd.
fn lab_with_docker(igmp_version: u8) -> (Lab, Dockerd) {
    let mut lab = Lab::new(igmp_version);
    let docker = Dockerd::start(&mut lab);
    (lab, docker)
}

#[test]
fn a_container_of_docker_receives_and_leaves_nothing() {
    let (lab, docker) = lab_with_docker(2);
    let capture = lab.capture();
    let container = docker.run(&lab, "cam", ATTACHMENT, &[]);

    let mcrun = lab.exec_command(&container, &["mcrun"]);
    lab.assert_stream_arrives_by(mcrun, &container, GROUP, || {
        assert_eq!(lab.groups(&container)[0]["name"], lab.name("cam"), "docker's name");
    });
    lab.wait_left(&container, GROUP);
    lab.assert_one_igmp_host(&capture.finish());

    let shown = lab.ps(&container).expect("mcrun ps knows the container");
    assert_eq!(shown["name"], lab.name("cam"), "{shown}");
    assert_eq!(shown["pid"], container.pid, "{shown}");
    assert_eq!(shown["interfaces"][0]["parent"], PARENT, "{shown}");
    // What docker made stays as it was.
    let eth0 = container.ip("addr show eth0");
    let address = eth0[0]["addr_info"][0]["local"].as_str().expect("an address");
    assert!(address.starts_with("172.30.99."), "{eth0}");
    let route = container.ip("route show default");
    assert_eq!(
        (&route[0]["dev"], &route[1]),
        (&"eth0".into(), &serde_json::Value::Null),
        "{route}"
    );

    lab.delete(&container);
    lab.assert_clean(Duration::from_secs(1));
}

#[test]
fn the_same_without_docker_network_and_after_a_restart() {
    let (lab, docker) = lab_with_docker(3);
    let first = docker.run(&lab, "cam", ATTACHMENT, &["--network", "none"]);
    assert_eq!(first.ip("link").as_array().expect("links").len(), 2, "lo and mc0");
    run(&mut docker.command(&lab, ["restart", "--time", "0", &first.id]));
    let again = docker.container(&lab, &first.name, &first.id);
    assert_ne!(first.pid, again.pid);
    let shown = lab.ps(&again).expect("attached again");
    assert_eq!(shown["pid"], again.pid, "{shown}");
    assert_eq!(shown["interfaces"][0]["addresses"][0], "10.99.0.11/24", "{shown}");

    run(&mut docker.command(&lab, ["stop", "--time", "0", &first.id]));
    lab.assert_clean(Duration::from_secs(1));
    lab.delete(&again);
}

#[test]
fn a_published_port_of_a_user_network_still_works() {
    let (lab, docker) = lab_with_docker(2);
    run(&mut docker.command(&lab, ["network", "create", "studio"]));
    let options = ["--network", "studio", "--publish", "127.0.0.1:8080:80"];
    let container = docker.run(&lab, "cam", ATTACHMENT, &options);
    let server = "while echo hello | busybox nc -l -p 80; do :; done";
    run(&mut docker.command(&lab, ["exec", "-d", &container.id, "sh", "-c", server]));
    let answer = wait_until("the published port answers", PATIENCE, || {
        let mut client = lab.enter("host", "busybox");
        let answer = output(client.args(["nc", "-w", "2", "127.0.0.1", "8080"]));
        (!answer.stdout.is_empty()).then_some(answer.stdout)
    });
    assert_eq!(answer, b"hello\n");
    let links = container.ip("link");
    let names: Vec<_> = links.as_array().expect("links").iter().map(|l| &l["ifname"]).collect();
    assert_eq!(names, ["lo", "mc0", "eth0"]);
    lab.delete(&container);
}

#[test]
fn a_restarted_dockerd_costs_no_packet_with_live_restore() {
    let mut lab = Lab::new(2);
    let mut docker = Dockerd::start_with(&mut lab, "{ \"live-restore\": true }");
    let mut container = docker.run(&lab, "cam", ATTACHMENT, &[]);
    // What docker exec runs ends with dockerd's connections.
    container.enter_by_namespace();
    let stream = lab.stream(&container, GROUP, 500);
    docker.restart(&lab);
    let again = docker.container(&lab, &container.name, &container.id);
    assert_eq!(again.pid, container.pid, "it has run all the time");
    stream.assert_whole();
    lab.delete(&again);
    wait_until("nothing is left of it", PATIENCE, || lab.ps(&again).is_none().then_some(()));
}

#[test]
fn a_container_without_a_wish_is_left_alone() {
    let (lab, docker) = lab_with_docker(2);
    let mut command = docker.command(&lab, ["run", "--rm", "--runtime", "mcrun", lab::IMAGE]);
    let printed = run(command.args(["ip", "-o", "link"]));
    assert_eq!(printed.lines().count(), 2, "lo and eth0: {printed}");
    assert!(!lab.state_dir().exists());
    lab.assert_clean(Duration::from_secs(1));
}

#[test]
fn what_cannot_be_is_refused_in_one_line() {
    let (lab, docker) = lab_with_docker(2);
    let other = docker.run(&lab, "other", ATTACHMENT, &[]);
    let shared = format!("container:{}", other.name);
    for (attachment, network, expected) in [
        ("parnt=lan0", "bridge", ": attachment key \"parnt\" is unknown"),
        ("parent=lan7", "bridge", "parent=lan7: the host has no interface of this name"),
        (ATTACHMENT, "host", "the container shares the host's network namespace"),
        (ATTACHMENT, &shared, "of another one: an attachment needs one of its own"),
    ] {
        let refused = docker.try_run(&lab, "refused", attachment, &["--network", network]);
        let error = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(125), "{error}");
        let line = error.lines().find(|line| line.contains("mcrun")).expect("a line of ours");
        assert!(line.contains(expected), "{error}");
        let origin = format!("{}{expected}", docker.origin());
        assert!(!expected.starts_with(": ") || line.contains(&origin), "{error}");
        run(&mut docker.command(&lab, ["rm", "--force", &lab.name("refused")]));
    }
    lab.delete(&other);
    lab.assert_clean(Duration::from_secs(1));
}

#[test]
fn docker_run_passes_output_and_status_through() {
    let (lab, docker) = lab_with_docker(2);
    let mut command = docker.command(&lab, ["run", "--rm", "--runtime", "mcrun"]);
    command.args(docker.request(ATTACHMENT));
    let ended = output(command.args([lab::IMAGE, "sh", "-c", "echo out; echo err >&2; exit 7"]));
    assert_eq!(ended.status.code(), Some(7));
    assert_eq!((&ended.stdout[..], &ended.stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
}
