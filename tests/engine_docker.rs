//! Containers of a real docker: `mcrun run` in front of it, and what happens to them after that.

use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;

use crate::lab::{
    Background, Container, Dockerd, Engine, HOST, IMAGE, Lab, PARENT, PATIENCE, SOURCES, alive,
    kill, output, run, wait_until,
};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 8, 1, 1);
const MAC: &str = "02:00:5e:10:08:01";

fn attachment() -> String {
    format!("parent={PARENT},ip=10.99.0.11/24,mac={MAC}")
}

/// The interface is there, and a stream arrives whole.
fn assert_receives(lab: &Lab, container: &Container) {
    let link = &container.ip("link show mc0")[0];
    assert_eq!((&link["address"], &link["operstate"]), (&MAC.into(), &"UP".into()), "{link}");
    lab.assert_stream_arrives(container, GROUP);
}

#[test]
fn mcrun_run_behaves_as_docker_run_and_the_container_is_attached_all_its_life() {
    let mut lab = Lab::new(2);
    let daemon = Dockerd::start(&mut lab);
    let engine = Engine::docker(&lab, &daemon);
    let lab_now = lab.leftovers();
    let attachment = attachment();
    let volume = format!("{}:/data", lab.directory().display());

    // Output, input and exit status.
    for (script, options) in
        [("echo out; echo err >&2; exit 7", &["--rm"][..]), ("cat; exit 3", &["-i", "--rm"])]
    {
        let results = [&["--mcast", attachment.as_str()][..], &[]].map(|own| {
            let mut command = engine.mcrun(&["run"]);
            command.args(own).args(options).args([IMAGE, "sh", "-c", script]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().expect("starts");
            // A container that does not read may have ended.
            use std::io::Write;
            let _ = child.stdin.take().expect("piped").write_all(b"input\n");
            let output = child.wait_with_output().expect("ends");
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            (output.status.code(), text(&output.stdout), text(&output.stderr))
        });
        assert_eq!(results[0], results[1], "{script}");
        assert_ne!(results[0].1, "");
    }

    let options = ["-v", &volume, "--mcast", &attachment, "-e", "X=1"];
    let container = engine.start("cam", &options);
    let capture = lab.capture();
    assert_receives(&lab, &container);
    let x = run(&mut engine.exec(&container, &["sh", "-c", "echo $X; ls -d /data/rootfs"]));
    assert_eq!(x, "1\n/data/rootfs\n");

    engine.run(&["pause"], &container);
    assert!(lab.ps(&container).is_some());
    engine.run(&["unpause"], &container);
    // With the same address at once.
    engine.run(&["restart", "-t", "0"], &container);
    let container = engine.container("cam");
    assert_receives(&lab, &container);
    let new = lab.name("renamed");
    run(engine.command(&["rename", &container.name]).arg(&new));
    assert_eq!(lab.ps(&container).expect("known")["name"], new);
    let container = engine.container("renamed");
    engine.run(&["rm", "-f"], &container);
    wait_until("everything is gone", PATIENCE, || (lab.leftovers() == lab_now).then_some(()));
    lab.assert_one_igmp_host(&capture.finish());
}

#[test]
fn dockerd_restarted_with_live_restore_costs_the_stream_nothing() {
    let mut lab = Lab::new(2);
    let mut daemon = Dockerd::start_with(&mut lab, "{ \"live-restore\": true }");
    let container = Engine::docker(&lab, &daemon).container_kept("cam", &attachment());
    let _stream = lab.send(GROUP, SOURCES[0], 1000);
    let mcrun = container.enter(env!("CARGO_BIN_EXE_mcrun"));
    let receiver = lab.receive_by(mcrun, GROUP, Duration::from_secs(10));
    lab.wait_joined(&container, GROUP);
    let proxy = lab.proxy_pid(&container);

    daemon.restart(&lab);
    let engine = Engine::docker(&lab, &daemon);
    assert_eq!(engine.container("cam").pid, container.pid, "it ran on");
    assert_eq!(lab.proxy_pid(&container), proxy);
    let reception = receiver.finish();
    assert!(reception.packets > 5000 && reception.lost == 0, "{reception:?}");

    engine.run(&["rm", "-f"], &container);
    wait_until("the record is gone", PATIENCE, || lab.ps(&container).is_none().then_some(()));
    wait_until("the proxy is gone", PATIENCE, || (!alive(proxy)).then_some(()));
}

#[test]
fn a_killed_shim_leaves_nothing() {
    let mut lab = Lab::new(2);
    let daemon = Dockerd::start(&mut lab);
    let engine = Engine::docker(&lab, &daemon);
    let lab_now = lab.leftovers();
    let container = engine.start("cam", &["--network=none", "--mcast", &attachment()]);
    assert_receives(&lab, &container);
    let is_shim = |line: &str| line.contains("containerd-shim") && line.contains(&container.id);
    let processes = lab.host_processes();
    let (shim, _) = processes.iter().find(|(_, line)| is_shim(line)).expect("a shim");
    kill(*shim);
    wait_until("docker notices", PATIENCE, || {
        (engine.inspect(&container.name, "{{.State.Running}}") == "false").then_some(())
    });
    wait_until("everything is gone", PATIENCE, || (lab.leftovers() == lab_now).then_some(()));
    // The address is free, and the container can be started again.
    engine.run(&["start"], &container);
    assert_receives(&lab, &engine.container("cam"));
}

#[test]
fn networks_routes_and_published_ports_are_untouched() {
    let mut lab = Lab::new(2);
    let daemon = Dockerd::start(&mut lab);
    let engine = Engine::docker(&lab, &daemon);
    run(&mut engine.command(&["network", "create", "--subnet", "172.30.98.0/24", "own"]));
    let serve = "while :; do echo published | busybox nc -l -p 80; done";
    // Clients have an answer also from a container with an address in their subnet.
    for (network, port, more) in [
        ("bridge", "18080", ""),
        ("own", "18081", ",ip=10.99.0.11/24"),
        ("bridge", "18082", ",ip=10.99.0.11/24,gw=10.99.0.1,metric=1"),
    ] {
        let plain = engine.start(&format!("plain-{port}"), &["--network", network]);
        let publish = format!("{port}:80");
        let attachment = format!("parent={PARENT},mac={MAC}{more}");
        let options = ["--network", network, "-p", &publish, "--mcast", &attachment];
        let container = engine.start(&format!("cam-{port}"), &options);
        let default = |c: &Container| c.ip("route show default dev eth0");
        assert_eq!(default(&container), default(&plain));
        let subnet =
            |c: &Container| c.ip("-4 addr show eth0")[0]["addr_info"][0]["prefixlen"].clone();
        assert_eq!(subnet(&container), subnet(&plain));
        assert_receives(&lab, &container);
        let _server = Background::start(&mut engine.exec(&container, &["sh", "-c", serve]));
        wait_until("the published port answers", PATIENCE, || {
            let mut client = lab.enter("src", "busybox");
            let answer = output(client.args(["nc", "-w", "1", &HOST.to_string(), port]));
            (answer.stdout == b"published\n").then_some(())
        });
        engine.run(&["rm", "-f"], &container);
    }
    for network in ["host", "container:x"] {
        let output = engine.try_start("c", &["--network", network, "--mcast", "parent=lan0"]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125));
        assert!(
            errors.starts_with(&format!("mcrun: --network {network}: an attachment")),
            "{errors}"
        );
    }

    // One that docker has started without mcrun, by its name.
    let name = lab.name("plain-18080");
    assert_eq!(run(&mut lab.mcrun(["attach", &name, "--mcast", &attachment()])), "mc0\n");
    let container = engine.container("plain-18080");
    assert_eq!(lab.ps(&container).expect("known")["name"], name);
    assert_receives(&lab, &container);
    assert_eq!(run(&mut lab.mcrun(["detach", &name])), "mc0\n");
    assert!(alive(container.pid));
}
