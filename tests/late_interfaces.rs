//! Interfaces that a container gets between `create` and `start`, as docker since 28 connects its
//! containers.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Output, Stdio};

use crate::lab::{
    BRIDGE, Bundle, Container, Engine, EngineCommands, Lab, PATIENCE, SOURCES, Udp, assert_whole,
    output, run, stream, wait_until,
};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 7, 7, 7);
const PORT: u16 = 6000;
/// The last datagram of a test.
const END: &str = "end";

/// `mcrun-runtime` on the container host, with runc behind it.
fn runtime(lab: &Lab, arguments: &[&str]) -> std::process::Command {
    let mut command = lab.enter("host", env!("CARGO_BIN_EXE_mcrun-runtime"));
    command.env("MCRUN_RUNTIME", "/usr/sbin/runc");
    command.arg("--root").arg(lab.directory().join("engine")).args(arguments);
    command
}

/// A container that is created and not started, and has no interfaces yet.
pub fn create(lab: &Lab, name: &str, attachment: &str) -> Container {
    let mut bundle = Bundle::new(lab, name);
    bundle.annotate(attachment);
    bundle.write();
    let name = lab.name(name);
    let pid_file = bundle.path.join("pid");
    let mut command = runtime(lab, &["create", "--bundle"]);
    command.arg(&bundle.path).arg("--pid-file").arg(&pid_file).arg(&name);
    let log = fs::File::create(bundle.path.join("log")).expect("log");
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).status();
    assert!(
        status.expect("the runtime starts").success(),
        "{:?}",
        fs::read(bundle.path.join("log"))
    );
    let pid = fs::read_to_string(pid_file).expect("pid").parse().expect("a number");
    let root = lab.directory().join("engine").display().to_string();
    let delete = ["runc", "--root", &root, "delete", "--force", &name].map(str::to_owned);
    let commands = EngineCommands { exec: Vec::new(), delete: delete.to_vec() };
    let container = Container::of_engine(&name, &name, pid, commands);
    lab.adopt(&container);
    container
}

pub fn start(lab: &Lab, container: &Container) -> Output {
    output(&mut runtime(lab, &["start", &container.name]))
}

/// A socket that names no interface when it joins.
fn join_anywhere(container: &Container) -> UdpSocket {
    container
        .namespace()
        .run(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
            socket.join_multicast_v4(&GROUP, &Ipv4Addr::UNSPECIFIED)?;
            Ok::<_, std::io::Error>(socket)
        })
        .expect("entered")
        .expect("a join that names no interface")
}

fn assert_stream_arrives(lab: &Lab, container: &Container) {
    let socket: Udp = Udp::of(join_anywhere(container));
    lab.wait_joined(container, GROUP);
    lab.wait_forwarded(GROUP);
    let sender = lab.socket("src", SOURCES[0], 0);
    stream(&sender, "late", 200, (GROUP, PORT));
    sender.send(END.as_bytes(), (GROUP, PORT));
    assert_whole(&socket.receive_until(END), "late", 200, SOURCES[0]);
}

/// Whether `mcrun ps` says that joins go elsewhere.
fn is_warned(lab: &Lab, container: &Container) -> bool {
    let ps = lab.ps(container).expect("listed");
    ps["notices"].to_string().contains("multicast-route-elsewhere")
}

#[test]
fn joins_go_by_the_relayed_interface_of_a_network_without_a_default_route() {
    let lab = Lab::new(3);
    lab.add_bridge();
    let container = create(&lab, "one", "parent=lan0,driver=relay");
    lab.plug_on("host", &container, "eth0", 10);
    let started = start(&lab, &container);
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    assert!(!is_warned(&lab, &container));
    assert_stream_arrives(&lab, &container);
}

#[test]
fn joins_go_by_the_relayed_interface_of_two() {
    let lab = Lab::new(3);
    lab.add_bridge();
    let container = create(&lab, "one", "parent=lan0,driver=relay,interface=eth1");
    lab.plug(&container, 10);
    lab.plug_on("host", &container, "eth1", 11);
    let started = start(&lab, &container);
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    assert_stream_arrives(&lab, &container);
    assert!(!is_warned(&lab, &container));
    // Where nobody can add the route, people are told.
    run(container.enter("ip").args(["route", "del", "224.0.0.0/4"]));
    wait_until("people are told", PATIENCE, || is_warned(&lab, &container).then_some(()));
}

#[test]
fn a_relay_to_the_containers_own_bridge_doubles_nothing() {
    let lab = Lab::new(3);
    lab.add_bridge();
    // A container whose interface comes when nobody can refuse it any more, and a neighbour.
    let attachment = format!("parent={BRIDGE},driver=relay");
    let container = lab.start_with("one", &[&attachment], &[]);
    lab.plug(&container, 10);
    let neighbour = lab.start("two", "10.99.0.12");
    lab.plug(&neighbour, 11);
    wait_until("people are told", PATIENCE, || {
        let ps = lab.ps(&container)?;
        ps["notices"].to_string().contains("relay-on-own-bridge").then_some(())
    });
    let (own, other) = (container.socket(PORT), neighbour.socket(PORT));
    own.join(GROUP);
    other.join(GROUP);
    lab.wait_joined(&container, GROUP);
    stream(&own, "out", 300, (GROUP, PORT));
    own.send(END.as_bytes(), (GROUP, PORT));
    let one = Ipv4Addr::new(172, 30, 0, 10);
    assert_whole(&other.receive_until(END), "out", 300, one);
    assert_whole(&own.receive_until(END), "out", 300, one);
    stream(&other, "in", 300, (GROUP, PORT));
    other.send(END.as_bytes(), (GROUP, PORT));
    let two = Ipv4Addr::new(172, 30, 0, 11);
    assert_whole(&own.receive_until(END), "in", 300, two);
    assert_whole(&other.receive_until(END), "in", 300, two);
}

#[test]
fn a_relay_to_the_containers_own_bridge_is_refused_when_its_interface_comes() {
    let lab = Lab::new(3);
    lab.add_bridge();
    let attachment = format!("parent={BRIDGE},driver=relay");
    let container = create(&lab, "one", &attachment);
    lab.plug(&container, 10);
    let refused = start(&lab, &container);
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success(), "{errors}");
    let expected =
        format!("mcrun-runtime: parent={BRIDGE}: the container's eth0 is on this bridge already");
    assert!(errors.starts_with(&expected), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
}

#[test]
fn podmans_container_with_a_user_namespace_has_its_route() {
    let lab = Lab::new(3);
    let engine = Engine::podman_with_crun(&lab);
    run(&mut engine.command(&["network", "create", "--internal", "inner"]));
    let attachment = "parent=lan0,driver=relay,allow=239.0.0.0/8";
    let options = ["--uidmap", "0:200000:65536", "--network", "inner", "--mcast", attachment];
    let container = engine.start("cam", &options);
    wait_until("the interface is served", PATIENCE, || {
        (lab.ps(&container)?["proxy"]["state"] == "running").then_some(())
    });
    wait_until("the route is there", PATIENCE, || (!is_warned(&lab, &container)).then_some(()));
    assert_stream_arrives(&lab, &container);
}
