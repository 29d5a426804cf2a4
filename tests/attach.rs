//! `mcrun attach` and `mcrun detach`: containers that run already.

use std::fs;
use std::net::Ipv4Addr;
use std::process::{Command, Output};
use std::time::Duration;

use crate::lab;
use crate::lab::{
    Background, Bundle, Container, Engine, IMAGE, Lab, PARENT, PATIENCE, Runtime, kill, output,
    run, wait_until,
};
use serde_json::Value;

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 7, 1, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(239, 7, 1, 2);

fn attach(lab: &Lab, container: &str, spec: &str) -> String {
    run(&mut lab.mcrun(["attach", container, "--mcast", spec]))
}

fn refused(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{errors}");
    assert_eq!(errors.matches('\n').count(), 1, "{errors}");
    errors.strip_prefix("mcrun: ").unwrap_or_else(|| panic!("{errors}")).trim_end().to_owned()
}

fn interfaces(lab: &Lab, container: &Container) -> Vec<String> {
    let entry = lab.ps(container).expect("mcrun ps knows the container");
    let names = entry["interfaces"].as_array().expect("an array").iter();
    names.map(|i| i["name"].as_str().expect("a name").to_owned()).collect()
}

/// A container of runc that asks for nothing.
fn plain(lab: &Lab, name: &str, host_network: bool) -> Container {
    let mut bundle = Bundle::new(lab, name);
    if host_network {
        let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.retain(|namespace| namespace["type"] != "network");
    }
    bundle.start(lab, Runtime::Runc, name)
}

/// The same container under the id that mcrun gives it when it is known by a process only.
fn by_pid(container: &Container) -> Container {
    let mut container = container.clone();
    container.id = format!("pid-{}", container.pid);
    container
}

fn receive(lab: &Lab, container: &Container, group: Ipv4Addr, seconds: u64) -> lab::Receiver {
    let mcrun = container.enter(env!("CARGO_BIN_EXE_mcrun"));
    lab.receive_by(mcrun, group, Duration::from_secs(seconds))
}

/// By the number of its process: its runtime keeps its state where nobody would look.
#[test]
fn a_container_of_a_plain_runtime_is_attached_and_cleaned_up_at_its_end() {
    let lab = Lab::new(2);
    let capture = lab.capture();
    let container = plain(&lab, "c", false);
    let lab = lab.settled();
    let names = attach(&lab, &container.pid.to_string(), "parent=lan0,ip=10.99.0.11/24");
    assert_eq!(names, "mc0\n");
    let container = by_pid(&container);

    let mcrun = container.enter(env!("CARGO_BIN_EXE_mcrun"));
    lab.assert_stream_arrives_by(mcrun, &container, GROUP, || {});

    let _wants = receive(&lab, &container, GROUP, 30);
    lab.wait_joined(&container, GROUP);
    kill(container.pid);
    wait_until("the record is gone", PATIENCE, || lab.ps(&container).is_none().then_some(()));
    lab.assert_one_igmp_host(&capture.finish());
}

/// A second and a third interface, and the second taken away again, while a stream flows through
/// the first.
#[test]
fn more_interfaces_come_and_go_without_a_lost_packet() {
    let lab = Lab::new(2);
    let capture = lab.capture();
    let container = lab.start("c", "10.99.0.11");
    let stream = lab.stream(&container, GROUP, 1000);

    let first_proxy = lab.proxy_pid(&container);
    assert_eq!(attach(&lab, &container.name, "parent=lan0,ip=10.99.0.12/24"), "mc1\n");
    assert_eq!(attach(&lab, &container.name, "parent=lan0,name=red"), "red\n");
    assert_eq!(interfaces(&lab, &container), ["mc0", "mc1", "red"]);
    assert_ne!(lab.proxy_pid(&container), first_proxy);
    assert!(!lab::alive(first_proxy), "one proxy serves all");

    // The new one is served too: what is joined there is joined on the LAN.
    let mut command = container.enter(env!("CARGO_BIN_EXE_mcrun"));
    let _join = Background::start(
        command
            .args(["probe", "recv", &format!("{OTHER}:5004"), "--interface", "mc1"])
            .args(["--duration", "30s"])
            .stdout(std::process::Stdio::null()),
    );
    let on_mc1 = |groups: &[Value]| {
        groups.iter().any(|e| e["interface"] == "mc1" && e["group"] == OTHER.to_string())
    };
    wait_until("joined on mc1", PATIENCE, || {
        (on_mc1(&lab.groups(&container)) && lab.host_joins().contains(&OTHER)).then_some(())
    });

    assert_eq!(run(&mut lab.mcrun(["detach", &container.name, "mc1"])), "mc1\n");
    assert_eq!(interfaces(&lab, &container), ["mc0", "red"]);
    wait_until("its groups are left", PATIENCE, || {
        (!lab.host_joins().contains(&OTHER)).then_some(())
    });
    // The free name is used again.
    assert_eq!(attach(&lab, &container.name, "parent=lan0"), "mc1\n");

    stream.assert_whole();
    let seen = capture.finish();
    lab.assert_one_igmp_host(&seen);
    lab.delete(&container);
    lab.assert_clean(PATIENCE);
}

#[test]
fn detach_of_all_leaves_the_container_running_and_nothing_else() {
    let lab = Lab::new(2);
    let container = plain(&lab, "c", false);
    let lab = lab.settled();
    let capture = lab.capture();
    let pid = container.pid.to_string();
    attach(&lab, &pid, "parent=lan0,ip=10.99.0.11/24,mac=02:00:5e:10:07:01");
    attach(&lab, &pid, "parent=lan0,ip=10.99.0.12/24");
    let id = format!("pid-{pid}");
    let known = by_pid(&container);
    let _wants = receive(&lab, &known, GROUP, 30);
    lab.wait_joined(&known, GROUP);

    // The kernel reports some milliseconds after a join, and not at all when it is left by then.
    wait_until("the host reports", PATIENCE, || (!capture.igmp().is_empty()).then_some(()));
    let removed = run(&mut lab.mcrun(["detach", &id]));
    assert_eq!(removed, "mc0\nmc1\n");
    wait_until("the host leaves", PATIENCE, || lab.host_joins().is_empty().then_some(()));
    assert!(lab::alive(container.pid));
    assert_eq!(container.ip("link").as_array().expect("links").len(), 1, "lo");
    assert!(lab.ps(&known).is_none());
    lab.assert_one_igmp_host(&capture.finish());
    // The address is free at once.
    attach(&lab, &pid, "parent=lan0,mac=02:00:5e:10:07:01");
    run(&mut lab.mcrun(["detach", &id, "mc0"]));
    let unknown = output(&mut lab.mcrun(["detach", &id]));
    assert_eq!(unknown.status.code(), Some(1));
    let error = String::from_utf8_lossy(&unknown.stderr);
    assert_eq!(error, format!("mcrun: no such container: {id}\n"));
}

/// The interface that had the route for all multicast goes: the next one has it then.
#[test]
fn what_remains_keeps_the_multicast_route() {
    let lab = Lab::new(2);
    let container = lab.start("c", "10.99.0.11");
    attach(&lab, &container.name, "parent=lan0,ip=10.99.0.12/24,name=blue");
    let device = || container.ip("route show 224.0.0.0/4")[0]["dev"].clone();
    assert_eq!(device(), "mc0");
    run(&mut lab.mcrun(["detach", &container.name, "mc0"]));
    assert_eq!(device(), "blue");
}

#[test]
fn a_wish_that_cannot_be_changes_nothing() {
    let lab = Lab::new(2);
    let host = plain(&lab, "host", true);
    let container = lab.start("c", "10.99.0.11");
    let neighbour =
        lab.start_with("n", &["parent=lan0,mac=02:00:5e:10:07:02,ip=10.99.0.13/24"], &[]);
    let before = (interfaces(&lab, &container), lab.proxy_pid(&container));
    let host_pid = host.pid.to_string();
    for (who, spec, expected) in [
        (host_pid.as_str(), "parent=lan0", "the container shares the host's network namespace"),
        (&container.name, "parent=lan0,name=mc0", "--mcast: name=mc0: two attachments"),
        (&container.name, "parent=lan9", "parent=lan9: the host has no interface of this name"),
        (&container.name, "parnt=lan0", "--mcast: attachment key \"parnt\" is unknown"),
    ] {
        let error = refused(&output(&mut lab.mcrun(["attach", who, "--mcast", spec])));
        assert!(error.starts_with(expected), "{who} {spec}: {error}");
        assert_eq!((interfaces(&lab, &container), lab.proxy_pid(&container)), before);
    }
    let unknown = output(&mut lab.mcrun(["attach", "nobody", "--mcast", "parent=lan0"]));
    assert_eq!(unknown.status.code(), Some(1));
    let error = String::from_utf8_lossy(&unknown.stderr);
    assert_eq!(error, "mcrun: no such container: nobody\n");
    // One that fails when the link is set up, the new proxy at work already.
    let spec = "parent=lan0,mac=02:00:5e:10:07:02";
    let error = refused(&output(&mut lab.mcrun(["attach", &container.name, "--mcast", spec])));
    assert!(error.contains("in use by another child of lan0"), "{error}");
    assert_eq!(interfaces(&lab, &container), before.0);
    assert_eq!(lab.ps(&container).expect("known")["proxy"]["state"], "running");
    assert_eq!(container.ip("link").as_array().expect("links").len(), 2, "lo and mc0");
    let error = refused(&output(&mut lab.mcrun(["detach", &container.name, "mc7"])));
    assert_eq!(error, "the container has no attached interface mc7; it has mc0");
    lab.delete(&neighbour);
    lab.delete(&container);
    lab.delete(&host);
    lab.assert_clean(PATIENCE);
}

/// A container in a user namespace, as rootless engines start them: the host's root attaches it.
#[test]
fn a_rootless_container_is_attached_by_root() {
    let lab = Lab::new(2);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "sleep", "1000"]);
    let mut container = plain(&lab, "c", false);
    let process = lab::Background::start(&mut command);
    let own = fs::read_link("/proc/self/ns/net").expect("readable");
    let its = format!("/proc/{}/ns/net", process.pid());
    wait_until("the namespace is there", PATIENCE, || {
        fs::read_link(&its).ok().filter(|link| *link != own)
    });
    container.pid = process.pid();
    let container = by_pid(&container);
    attach(&lab, &container.pid.to_string(), "parent=lan0,ip=10.99.0.11/24");
    let mcrun = container.enter(env!("CARGO_BIN_EXE_mcrun"));
    lab.assert_stream_arrives_by(mcrun, &container, Ipv4Addr::new(239, 7, 3, 9), || {});
}

/// No proxy to notice the end of the container: gc does.
#[test]
fn an_attachment_without_a_proxy_is_collected() {
    let lab = Lab::new(2);
    let container = plain(&lab, "c", false);
    attach(&lab, &container.pid.to_string(), "parent=lan0,igmp=off");
    kill(container.pid);
    wait_until("it has ended", PATIENCE, || (!lab::alive(container.pid)).then_some(()));
    let collected = run(&mut lab.mcrun(["gc"]));
    assert_eq!(collected, format!("pid-{}\n", container.pid));
    assert!(lab.state_dir().join("containers").read_dir().expect("there").next().is_none());
}

/// By name and by the beginning of the id; then once more, with podman's own command at its end.
#[test]
fn a_container_of_podman_is_found_by_its_name() {
    let lab = Lab::new(2);
    let engine = Engine::podman(&lab, "runc", &[]);
    let mut command = engine.command(&["run", "-d", "--network=none", "--name"]);
    run(command.arg(lab.name("cam")).args([IMAGE, "sleep", "1000"]));
    let container = engine.container("cam");
    assert_eq!(attach(&lab, &container.name, "parent=lan0,ip=10.99.0.11/24"), "mc0\n");
    assert_eq!(attach(&lab, &container.id[..12], &format!("parent={PARENT}")), "mc1\n");
    assert_eq!(lab.ps(&container).expect("known")["name"], container.name);

    lab.assert_stream_arrives(&container, GROUP);
    run(&mut engine.command(&["rm", "-f", "-t", "0", &container.name]));
    lab.assert_clean(PATIENCE);
}
