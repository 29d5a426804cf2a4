//! docker's networks of mcrun's driver, with a real docker.

pub mod protocol;
mod restarts;

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::lab::{
    Background, Container, DockerDriver, Dockerd, Engine, HOST, IMAGE, IgmpFrame, Lab, PARENT,
    PATIENCE, output, run, wait_until,
};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 8, 9, 1);
const OTHER_GROUP: Ipv4Addr = Ipv4Addr::new(239, 8, 9, 2);
const SUBNET: &str = "10.99.0.0/24";
/// Those of the subnet that containers may have: the rest are the LAN's.
const RANGE: &str = "10.99.0.64/26";

/// `docker network create` with the lab's driver; may fail.
fn try_create(lab: &Lab, engine: &Engine<'_>, name: &str, options: &[&str]) -> Result<(), String> {
    let driver = lab.name(DockerDriver::NAME);
    let mut command = engine.command(&["network", "create", "-d", &driver]);
    let output = output(command.args(options).arg(name));
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

fn create(lab: &Lab, engine: &Engine<'_>, name: &str, options: &[&str]) {
    let parent = format!("parent={PARENT}");
    let all = [&["-o", &parent, "--subnet", SUBNET, "--ip-range", RANGE], options].concat();
    try_create(lab, engine, name, &all).expect("a network");
}

/// `docker run -d` of a container that sleeps, or of another command.
fn start(lab: &Lab, engine: &Engine<'_>, name: &str, options: &[&str]) -> Container {
    start_command(lab, engine, name, options, &["sleep", "1000"])
}

fn start_command(
    lab: &Lab,
    engine: &Engine<'_>,
    name: &str,
    options: &[&str],
    arguments: &[&str],
) -> Container {
    let mut command = engine.command(&["run", "-d", "--name", &lab.name(name)]);
    run(command.args(options).arg(IMAGE).args(arguments));
    engine.container(name)
}

/// The interface of a container with this address, as `ip -j` tells. docker before 28 has a container
/// attached while it is being created, and does not wait for that.
fn interface(container: &Container, address: &str) -> serde_json::Value {
    wait_until("the container has its interface", PATIENCE, || {
        let links = container.ip("addr show");
        let has = |link: &&serde_json::Value| {
            let addresses = link["addr_info"].as_array().into_iter().flatten();
            addresses.into_iter().any(|entry| entry["local"] == address)
        };
        links.as_array()?.iter().find(has).cloned()
    })
}

fn wait_shown(lab: &Lab, container: &Container, interfaces: usize) {
    wait_until("mcrun ps shows the container", PATIENCE, || {
        let count = |entry: serde_json::Value| entry["interfaces"].as_array().map(Vec::len);
        (lab.ps(container).and_then(count).unwrap_or(0) == interfaces).then_some(())
    });
}

#[test]
fn a_network_that_cannot_be_is_refused_in_one_line() {
    let mut lab = Lab::new(2);
    let _driver = DockerDriver::start(&lab);
    let daemon = Dockerd::start(&mut lab);
    let engine = Engine::docker(&lab, &daemon);
    lab.configure("[attach]\nparents = [\"lan*\"]\ngw = [\"10.99.0.1\"]\n");
    let parent = &format!("parent={PARENT}");
    let subnet = ["--subnet", SUBNET];
    for (options, reason) in [
        (
            &["-o", "parent=lan9"][..],
            "parent=lan9: the host has no interface of this name; did you mean lan0?",
        ),
        (&["-o", parent, "-o", "vlan=5000"], "vlan=5000: "),
        (
            &["-o", parent, "-o", "alow=239.1.1.1"],
            "attachment key \"alow\" is unknown; did you mean allow?",
        ),
        (&["-o", parent, "-o", "ip=10.99.0.5/24"], "ip=10.99.0.5/24: docker gives the address"),
        (
            &["-o", parent, "-o", "driver=relay"],
            "driver=relay: a docker network makes an interface",
        ),
        (&["-o", parent, "-o", "l2=open"], "l2=open: "),
        (&["-o", "parent=eth0"], "parent=eth0: the administrator allows lan*"),
        (&[], "parent is missing: name the LAN interface of the host"),
    ] {
        let name = lab.name("bad");
        let error = try_create(&lab, &engine, &name, &[options, &subnet].concat()).unwrap_err();
        assert!(error.contains(reason), "{options:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(!run(&mut engine.command(&["network", "ls"])).contains(&name));
    }
    // What nobody has asked for needs no permission.
    lab.configure("[attach]\nparents = [\"lan*\"]\nip = [\"10.99.0.0/24\"]\n");
    let out = ["-o", parent, "--subnet", SUBNET];
    let error = try_create(&lab, &engine, "inside", &out).unwrap_err();
    assert!(error.contains("gw=10.99.0.1: the administrator allows none"), "{error}");
    create(&lab, &engine, "inside", &["--internal"]);
    let container = start(&lab, &engine, "inside", &["--network", "inside"]);
    wait_shown(&lab, &container, 1);
    assert!(container.ip("route show default").as_array().is_none_or(Vec::is_empty));
    engine.run(&["rm", "-f"], &container);
    run(&mut engine.command(&["network", "rm", "inside"]));
    lab.configure("");
    // An address that somebody has is refused to the container, by name.
    create(&lab, &engine, "media", &[]);
    let taken = HOST.to_string();
    let mut command = engine.command(&["run", "--rm", "--network", "media", "--ip", &taken]);
    let refused = output(command.args([IMAGE, "true"]));
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(error.contains("10.99.0.2 is the host's own address, on lan0"), "{error}");
    assert_eq!(refused.status.code(), Some(125), "{error}");
    run(&mut engine.command(&["network", "rm", "media"]));
    let kept = lab.directory().join("lib/docker/networks");
    assert_eq!(fs::read_dir(kept).expect("the directory").count(), 0);
}

#[test]
fn services_receive_and_publish_and_a_neighbours_leave_loses_nothing() {
    let mut lab = Lab::new(2);
    let _driver = DockerDriver::start(&lab);
    let daemon = Dockerd::start(&mut lab);
    let engine = Engine::docker(&lab, &daemon);
    let lab_now = lab.leftovers();
    create(&lab, &engine, "media", &["--gateway", "10.99.0.1", "-o", "allow=239.0.0.0/8"]);
    let capture = lab.capture();
    let mac = "02:00:5e:10:09:0c";
    let leaver = start(&lab, &engine, "leaver", &["--network", "media", "--ip", "10.99.0.11"]);
    // A published port is the default bridge's. docker before 25 connects a container to one network
    // when it is made.
    let name = lab.name("stayer");
    let options = ["--name", &name, "-p", "18090:80"];
    let mut command = engine.command(&["create"]);
    run(command.args(options).args([IMAGE, "sleep", "1000"]));
    run(&mut engine.command(&["network", "connect", "--ip", "10.99.0.12", "media", &name]));
    run(&mut engine.command(&["start", &name]));
    let stayer = engine.container("stayer");
    let link = interface(&stayer, "10.99.0.12");
    assert_eq!((&link["ifname"], &link["operstate"]), (&"mc0".into(), &"UP".into()), "{link}");
    let default = stayer.ip("route show default");
    assert_eq!(default[0]["dev"], "eth0", "the bridge's gateway counts: {default}");
    // docker shows what the container has.
    let format = "{{(index .NetworkSettings.Networks \"media\").IPAddress}} \
                  {{(index .NetworkSettings.Networks \"media\").MacAddress}}";
    let shown = engine.inspect(&stayer.name, format);
    assert_eq!(shown, format!("10.99.0.12 {}", link["address"].as_str().expect("a MAC")));
    let alone = interface(&leaver, "10.99.0.11");
    assert_eq!(alone["ifname"], "mc0");
    assert_eq!(leaver.ip("route show default")[0]["gateway"], "10.99.0.1");
    let links = link_names(&leaver);
    assert_eq!(links, ["lo", "mc0"], "there is no docker_gwbridge");

    // One that leaves costs the other nothing, at a port with immediate leave.
    let stays = lab.stream(&stayer, GROUP, 1000);
    let leaves = lab.receive(&leaver, GROUP, None, Duration::from_secs(2));
    lab.wait_joined(&leaver, GROUP);
    let groups = lab.groups(&leaver);
    assert_eq!(
        (&groups[0]["name"], &groups[0]["group"]),
        (&leaver.name.as_str().into(), &GROUP.to_string().into())
    );
    assert!(leaves.finish().packets > 0);
    lab.wait_left(&leaver, GROUP);
    lab.assert_stream_arrives(&leaver, OTHER_GROUP);
    stays.assert_whole();
    // A group that the network does not allow is denied.
    let denied = Ipv4Addr::new(238, 1, 1, 1);
    let socket = leaver.socket_on("mc0", 5000);
    socket.join(denied);
    wait_until("the group is denied", PATIENCE, || {
        let groups = lab.groups(&leaver);
        groups
            .iter()
            .any(|g| g["group"] == denied.to_string() && g["status"] == "denied")
            .then_some(())
    });
    drop(socket);

    let serve = "while :; do echo published | busybox nc -l -p 80; done";
    let _server = Background::start(&mut engine.exec(&stayer, &["sh", "-c", serve]));
    wait_until("the published port answers", PATIENCE, || {
        let ask = ["sh", "-c", "echo | busybox nc -w 1 127.0.0.1 18090"];
        let mut command = lab.enter("host", ask[0]);
        let answer = output(command.args(&ask[1..]));
        String::from_utf8_lossy(&answer.stdout).contains("published").then_some(())
    });
    // A MAC address of the user's, by the client that belongs to the daemon: a newer one asks for more.
    let mut command = lab.enter("host", "/usr/bin/docker");
    command.envs(engine.environment().iter().cloned());
    command.args(["run", "-d", "--name", &lab.name("third"), "--network", "media"]);
    run(command.args(["--mac-address", mac, IMAGE, "sleep", "1000"]));
    let third = engine.container("third");
    wait_shown(&lab, &third, 1);
    assert_eq!(third.ip("link show mc0")[0]["address"], mac);

    for container in [&leaver, &stayer, &third] {
        engine.run(&["rm", "-f"], container);
    }
    run(&mut engine.command(&["network", "rm", "media"]));
    wait_until("everything is gone", PATIENCE, || (lab.leftovers() == lab_now).then_some(()));
    lab.assert_one_igmp_host(&capture.finish());
}

/// Names of a container's links.
fn link_names(container: &Container) -> Vec<String> {
    let links = container.ip("link show");
    let names = links.as_array().expect("links").iter().map(|link| link["ifname"].as_str());
    let mut names: Vec<_> = names.map(|name| name.expect("a name").to_owned()).collect();
    names.sort();
    names
}

/// The first thing that an application does may be to join.
#[test]
fn the_first_join_of_a_command_is_the_proxys() {
    let mut lab = Lab::new(2);
    let driver = DockerDriver::start(&lab);
    let daemon = Dockerd::start(&mut lab);
    let engine = Engine::docker(&lab, &daemon);
    create(&lab, &engine, "media", &[]);
    let capture = lab.capture();
    for number in 0..5 {
        let name = format!("c{number}");
        let group = Ipv4Addr::new(239, 8, 9, 100 + number);
        let arguments = ["mcrun", "probe", "recv", &group.to_string(), "--duration", "60s"];
        let container = start_command(&lab, &engine, &name, &["--network", "media"], &arguments);
        lab.wait_joined(&container, group);
        lab.wait_forwarded(group);
        engine.run(&["rm", "-f"], &container);
    }
    let seen: Vec<IgmpFrame> = capture.finish();
    lab.assert_one_igmp_host(&seen);
    wait_until("the driver has no dead children", PATIENCE, || {
        (driver.dead_children() == 0).then_some(())
    });
}

#[test]
fn a_running_container_is_connected_and_disconnected() {
    let mut lab = Lab::new(3);
    let _driver = DockerDriver::start(&lab);
    let daemon = Dockerd::start(&mut lab);
    let engine = Engine::docker(&lab, &daemon);
    create(&lab, &engine, "red", &[]);
    try_create(
        &lab,
        &engine,
        "blue",
        &["-o", &format!("parent={PARENT}"), "-o", "name=blue0", "--subnet", "10.98.0.0/24"],
    )
    .expect("a network");
    let container = start(&lab, &engine, "cam", &[]);
    assert_eq!(lab.ps(&container), None);
    let connect = |network: &str, address: &str| {
        run(&mut engine.command(&[
            "network",
            "connect",
            "--ip",
            address,
            network,
            &container.name,
        ]));
    };
    let disconnect = |network: &str| {
        run(&mut engine.command(&["network", "disconnect", network, &container.name]));
    };
    connect("red", "10.99.0.11");
    // docker waits for it, so that it is there at once.
    assert_eq!(interface(&container, "10.99.0.11")["ifname"], "mc0");
    lab.assert_stream_arrives(&container, GROUP);
    let stream = lab.stream(&container, GROUP, 500);
    connect("blue", "10.98.0.11");
    assert_eq!(interface(&container, "10.98.0.11")["ifname"], "blue0");
    wait_shown(&lab, &container, 2);
    disconnect("blue");
    wait_shown(&lab, &container, 1);
    assert_eq!(link_names(&container), ["eth0", "lo", "mc0"]);
    stream.assert_whole();
    disconnect("red");
    wait_until("the record is gone", PATIENCE, || lab.ps(&container).is_none().then_some(()));
    assert_eq!(link_names(&container), ["eth0", "lo"]);

    // Both at once, in the order of docker, with the default routes of both behind the bridge's.
    connect("red", "10.99.0.11");
    connect("blue", "10.98.0.11");
    engine.run(&["restart", "-t", "0"], &container);
    let container = engine.container("cam");
    interface(&container, "10.99.0.11");
    interface(&container, "10.98.0.11");
    wait_shown(&lab, &container, 2);
    let routes = container.ip("route show default");
    let devices: Vec<_> = routes.as_array().expect("routes").iter().map(|r| &r["dev"]).collect();
    assert_eq!((devices.len(), devices[0]), (3, &"eth0".into()), "{routes}");
    engine.run(&["rm", "-f"], &container);
    wait_until("the record is gone", PATIENCE, || lab.ps(&container).is_none().then_some(()));
}

/// docker says nothing of it to mcrun.
#[test]
fn answers_leave_by_a_bridge_network_that_is_connected_later() {
    let mut lab = Lab::new(3);
    let mut driver = DockerDriver::start(&lab);
    let daemon = Dockerd::start(&mut lab);
    let engine = Engine::docker(&lab, &daemon);
    create(&lab, &engine, "red", &[]);
    let container = start(&lab, &engine, "cam", &["--network", "red", "--ip", "10.99.0.11"]);
    interface(&container, "10.99.0.11");
    let network = |action: &str| {
        run(&mut engine.command(&["network", action, "bridge", &container.name]));
    };
    for restarted in [false, true] {
        if restarted {
            driver.kill_and_start(&lab);
        }
        network("connect");
        let asked = |link: &&serde_json::Value| {
            link["ifname"].as_str().is_some_and(|n| n.starts_with("eth"))
        };
        let addresses = container.ip("-4 address");
        let link = addresses.as_array().expect("links").iter().find(asked).expect("eth0").clone();
        let from = link["addr_info"][0]["local"].as_str().expect("an address").to_owned();
        wait_until("the rules are there", PATIENCE, || {
            let route = container.ip(&format!("route get 10.99.0.3 from {from}"));
            (route[0]["dev"] == link["ifname"]).then_some(())
        });
        assert_eq!(container.ip("route get 10.99.0.3")[0]["dev"], "mc0");
        network("disconnect");
    }
    engine.run(&["rm", "-f"], &container);
    wait_until("the record is gone", PATIENCE, || lab.ps(&container).is_none().then_some(()));
}

/// By its annotation, or by its variable.
#[test]
fn what_a_container_asks_for_itself_is_beside_its_networks() {
    let mut lab = Lab::new(2);
    let _driver = DockerDriver::start(&lab);
    let daemon = Dockerd::start(&mut lab);
    let engine = Engine::docker(&lab, &daemon);
    create(&lab, &engine, "media", &[]);
    let [option, request] = daemon.request("parent=lan0,ip=10.99.0.31/24,name=own0");
    let options = ["--runtime", "mcrun", "--network", "media", "--ip", "10.99.0.70", &option];
    let container = start(&lab, &engine, "cam", &[&options[..], &[&request]].concat());
    let has_both = |container: &Container| {
        assert_eq!(interface(container, "10.99.0.31")["ifname"], "own0");
        let of_network = interface(container, "10.99.0.70")["ifname"].clone();
        wait_shown(&lab, container, 2);
        for name in ["own0", of_network.as_str().expect("a name")] {
            let group = Ipv4Addr::new(239, 8, 9, if name == "own0" { 3 } else { 4 });
            let socket = container.socket_on(name, 5000);
            socket.join(group);
            lab.wait_joined(container, group);
            lab.wait_forwarded(group);
        }
    };
    has_both(&container);
    for _ in 0..3 {
        engine.run(&["restart", "-t", "0"], &container);
        has_both(&engine.container("cam"));
    }
    // One goes, and the other one stays.
    let container = engine.container("cam");
    run(&mut engine.command(&["network", "disconnect", "media", &container.name]));
    wait_shown(&lab, &container, 1);
    lab.assert_stream_arrives(&container, GROUP);
    run(&mut engine.command(&[
        "network",
        "connect",
        "--ip",
        "10.99.0.70",
        "media",
        &container.name,
    ]));
    has_both(&container);
    engine.run(&["rm", "-f"], &container);
    wait_until("the record is gone", PATIENCE, || lab.ps(&container).is_none().then_some(()));
    assert_nothing_is_kept(&lab, &engine, &["media"]);
}

/// Removes the networks; there is nothing of them and of their containers then.
fn assert_nothing_is_kept(lab: &Lab, engine: &Engine<'_>, networks: &[&str]) {
    for network in networks {
        run(&mut engine.command(&["network", "rm", network]));
    }
    let links = run(lab.enter("host", "ip").args(["link", "show"]));
    assert!(!links.contains("mc0") && !links.contains("mc1"), "{links}");
    wait_until("no file is left", PATIENCE, || {
        let count =
            |path: &str| fs::read_dir(lab.directory().join(path)).map_or(0, Iterator::count);
        (count("lib/docker/networks") + count("state/docker/endpoints") == 0).then_some(())
    });
}

#[test]
fn a_container_has_the_addresses_that_docker_gives_or_none() {
    let mut lab = Lab::new(3);
    let _driver = DockerDriver::start(&lab);
    let daemon = Dockerd::start(&mut lab);
    let engine = Engine::docker(&lab, &daemon);
    let parent = format!("parent={PARENT}");
    let null = ["-o", &parent, "--ipam-driver", "null"];
    try_create(&lab, &engine, "bare", &null).expect("a network");
    let container = start(&lab, &engine, "bare", &["--network", "bare"]);
    wait_shown(&lab, &container, 1);
    let addresses = container.ip("addr show mc0")[0]["addr_info"].clone();
    assert_eq!(addresses.as_array().map(Vec::len), Some(0), "{addresses}");
    lab.assert_stream_arrives(&container, GROUP);
    engine.run(&["rm", "-f"], &container);

    let both = ["--ipv6", "--subnet", "fd00:99::/64"];
    create(&lab, &engine, "both", &both);
    let options = ["--network", "both", "--ip", "10.99.0.11", "--ip6", "fd00:99::11"];
    let container = start(&lab, &engine, "both", &options);
    let link = interface(&container, "fd00:99::11");
    let addresses = link["addr_info"].as_array().expect("addresses");
    assert!(addresses.iter().any(|address| address["local"] == "10.99.0.11"), "{link}");
    engine.run(&["rm", "-f"], &container);
    assert_nothing_is_kept(&lab, &engine, &["bare", "both"]);
}
