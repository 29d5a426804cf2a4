//! Containers of a real podman: `mcrun run` in front of it, and its own commands after that.

use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::process::Stdio;

use crate::lab;
use crate::lab::{
    Container, Engine, IMAGE, Lab, PARENT, PATIENCE, alive, hooks_dir, kill, output, run,
    wait_until,
};
use serde_json::Value;

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 6, 1, 1);
const MAC: &str = "02:00:5e:10:06:01";

fn attachment() -> String {
    format!("parent={PARENT},ip=10.99.0.11/24,mac={MAC}")
}

/// The interface is there, and a stream arrives whole through a switch port that sees one host.
fn assert_receives(lab: &Lab, container: &Container) {
    let capture = lab.capture();
    let link = &container.ip("link show mc0")[0];
    assert_eq!((&link["address"], &link["operstate"]), (&MAC.into(), &"UP".into()), "{link}");
    let mcrun = lab.exec_command(container, &["mcrun"]);
    lab.assert_stream_arrives_by(mcrun, container, GROUP, || {
        let entry = lab.groups(container).into_iter().find(|e| e["group"] == GROUP.to_string());
        assert_eq!(entry.expect("joined")["name"], container.name);
    });
    lab.assert_one_igmp_host(&capture.finish());
}

fn name_in_ps(lab: &Lab, container: &Container) -> Option<Value> {
    lab.ps(container).map(|entry| entry["name"].clone())
}

fn runs_and_leaves_nothing(with_crun: bool) {
    let lab = Lab::new(2);
    let engine = match with_crun {
        false => Engine::podman(&lab, "runc", &[]),
        true => Engine::podman_with_crun(&lab),
    };
    let volume = format!("{}:/data", lab.directory().display());
    let attachment = attachment();
    let options = ["--network", "none", "-v", &volume, "--mcast", &attachment, "-e", "X=1"];
    let container = engine.start("cam", &options);
    assert_eq!(name_in_ps(&lab, &container), Some(container.name.clone().into()));
    assert_receives(&lab, &container);
    let x = run(&mut engine.exec(&container, &["sh", "-c", "echo $X; ls -d /data/rootfs"]));
    assert_eq!(x, "1\n/data/rootfs\n");
    engine.run(&["rm", "-f", "-t", "0"], &container);
    lab.assert_clean(PATIENCE);
}

#[test]
fn a_container_runs_attached_and_leaves_nothing_with_runc() {
    runs_and_leaves_nothing(false);
}

#[test]
fn a_container_runs_attached_and_leaves_nothing_with_crun() {
    runs_and_leaves_nothing(true);
}

/// The delivered device, with this lab's hook. It is podman's own command that starts the container, and it
/// knows no hooks otherwise.
#[test]
fn a_device_of_cdi_brings_the_hooks() {
    let lab = Lab::new(2);
    let engine = Engine::podman(&lab, "runc", &[]);
    let directory = lab.directory().join("cdi");
    for name in ["upper", "work"] {
        fs::create_dir_all(directory.join(name)).expect("directory");
    }
    let state = format!("MCRUN_STATE_DIR={}", lab.state_dir().display());
    let config = format!("MCRUN_CONFIG_DIR={}", lab.config_dir().display());
    let hook =
        format!("{:?}\n          env: [{state:?}, {config:?}]", env!("CARGO_BIN_EXE_mcrun-hook"));
    let delivered = include_str!("../hooks/cdi/mcrun.yaml");
    let device = delivered.replace("\"/usr/local/bin/mcrun-hook\"", &hook);
    assert_eq!(device.matches(&hook).count(), 2, "{delivered}");
    fs::write(directory.join("mcrun.yaml"), device).expect("device");
    // podman reads the machine's /etc/cdi, and this podman has one of its own.
    let script = "mount -t overlay -o lowerdir=/etc,upperdir=\"$0/upper\",workdir=\"$0/work\" cdi /etc && \
                  mkdir -p /etc/cdi && cp \"$0/mcrun.yaml\" /etc/cdi && exec \"$@\"";
    let name = lab.name("cam");
    let annotation = format!("\"io.mcrun.mcast={}\"", attachment());
    let start = ["run", "-d", "--network=none", "--device=mcrun.io/mcast=hook", "--name", &name];
    let podman = engine.command(&start);
    let mut command = lab.enter("host", "unshare");
    command.args(["-m", "sh", "-c", script]).arg(&directory).envs(engine.environment().to_vec());
    // Without its first word, nsenter, and the namespace, in which it is already.
    command.args(podman.get_args().skip(1)).args([
        "--annotation",
        &annotation,
        IMAGE,
        "sleep",
        "1000",
    ]);
    run(&mut command);
    let container = engine.container("cam");
    assert_receives(&lab, &container);
    engine.run(&["rm", "-f", "-t", "0"], &container);
    lab.assert_clean(PATIENCE);
}

#[test]
fn output_status_and_input_are_podmans_own() {
    let lab = Lab::new(2);
    let engine = Engine::podman(&lab, "runc", &[]);
    let attachment = attachment();
    for (script, options) in [
        ("echo out; echo err >&2; exit 7", &["--rm"][..]),
        ("cat; exit 137", &["-i", "--rm"]),
        ("echo $A-$0", &["--rm", "-e", "A=--mcast"]),
    ] {
        let results = [false, true].map(|attached| {
            let mut command = if attached {
                let mut command = engine.mcrun(&["run", "--mcast", &attachment]);
                command.args(options).args(["--network=none"]);
                command
            } else {
                let mut command = engine.command(&["run", "--network=none"]);
                command.args(options);
                command
            };
            command.args([IMAGE, "sh", "-c", script, "--engine"]).stdin(Stdio::piped());
            let mut child =
                command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
            // A container that does not read may have ended.
            let _ = child.stdin.take().expect("piped").write_all(b"input\n");
            let output = child.wait_with_output().expect("ends");
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            (output.status.code(), text(&output.stdout), text(&output.stderr))
        });
        assert_eq!(results[0], results[1], "{script}");
        assert_ne!(results[1].1, "", "{script} printed something");
    }
    let unattached = output(engine.mcrun(&["run", "--rm", "--network=none"]).args([
        IMAGE,
        "sh",
        "-c",
        "ip link show mc0",
    ]));
    assert_ne!(unattached.status.code(), Some(0), "nothing is attached that was not asked for");
    lab.assert_clean(PATIENCE);
}

#[test]
fn a_mistake_is_told_in_one_line_and_nothing_is_started() {
    let lab = Lab::new(2);
    let engine = Engine::podman(&lab, "runc", &[]);
    for (options, expected) in [
        (&["--mcast", "parnt=lan0"][..], "--mcast: attachment key \"parnt\" is unknown"),
        (&["--net=host", "--mcast", "parent=lan0"], "--network host: an attachment needs"),
        (&["--network", "container:x", "--mcast=parent=lan0"], "--network container:x: "),
        (&["--restart=always", "--mcast=parent=lan0"], "--restart: podman forgets the hooks"),
    ] {
        let output = engine.try_start("c", options);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{errors}");
        let line = errors.strip_prefix("mcrun: ").unwrap_or_else(|| panic!("{errors}"));
        assert!(line.starts_with(expected) && line.matches('\n').count() == 1, "{errors}");
    }
    // What only the hook can see, in the engine's own words around it.
    let output = engine.try_start("c", &["--network=none", "--mcast", "parent=lan9"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(errors.contains("parent=lan9: the host has no interface of this name"), "{errors}");
    lab.assert_clean(PATIENCE);
}

/// Without the wrapper, as after `mcrun setup podman`.
#[test]
fn the_hook_refuses_a_namespace_that_is_not_the_containers_own() {
    let lab = Lab::new(2);
    let hooks = hooks_dir(&lab);
    let engine = Engine::podman(&lab, "runc", &[&hooks]);
    let other = engine.start("other", &["--network=none"]);
    let container = format!("container:{}", other.name);
    for (network, expected) in [
        ("host", "the container shares the host's network namespace"),
        (&container, "the container shares the network namespace /proc/"),
    ] {
        let output = output(&mut engine.command(&[
            "run",
            "--rm",
            "--network",
            network,
            "--annotation",
            "io.mcrun.mcast=parent=lan0",
            IMAGE,
            "true",
        ]));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains(expected), "{network}: {errors}");
    }
    engine.run(&["rm", "-f", "-t", "0"], &other);
    lab.assert_clean(PATIENCE);
}

/// Before 5.0 podman splits an annotation at its commas unless it is quoted; since then the quotes
/// are a part of it.
#[test]
fn the_quoted_annotation_of_podman_4_counts_on_every_podman() {
    let lab = Lab::new(2);
    let hooks = hooks_dir(&lab);
    let engine = Engine::podman(&lab, "runc", &[&hooks]);
    let annotation = format!("\"io.mcrun.mcast={}\"", attachment());
    let name = lab.name("cam");
    let mut command = engine.command(&["run", "-d", "--network=none", "--name", &name]);
    run(command.args(["--annotation", &annotation, IMAGE, "sleep", "1000"]));
    let container = engine.container("cam");
    assert_receives(&lab, &container);
    engine.run(&["rm", "-f", "-t", "0"], &container);
    lab.assert_clean(PATIENCE);
}

/// Restart, pause, rename; with hooks that podman is configured to read.
#[test]
fn a_container_is_attached_through_all_of_its_life() {
    let lab = Lab::new(2);
    let hooks = hooks_dir(&lab);
    let engine = Engine::podman(&lab, "runc", &[&hooks]);
    let container = engine.start("cam", &["--network=none", "--mcast", &attachment()]);
    assert_receives(&lab, &container);

    engine.run(&["pause"], &container);
    assert!(lab.ps(&container).is_some());
    engine.run(&["unpause"], &container);
    assert_receives(&lab, &container);

    // With the same address at once.
    engine.run(&["restart", "-t", "0"], &container);
    let container = engine.container("cam");
    assert_receives(&lab, &container);

    let new = lab.name("renamed");
    run(engine.command(&["rename", &container.name]).arg(&new));
    assert_eq!(name_in_ps(&lab, &container), Some(new.into()));
    let container = engine.container("renamed");

    engine.run(&["stop", "-t", "0"], &container);
    lab.assert_clean(PATIENCE);
    engine.run(&["start"], &container);
    let container = engine.container("renamed");
    assert_receives(&lab, &container);
    engine.run(&["rm", "-f", "-t", "0"], &container);
    lab.assert_clean(PATIENCE);
}

/// Where podman is not set up, `mcrun start` gives it the hooks that it has forgotten.
#[test]
fn mcrun_create_and_start_attach_without_any_setup() {
    let lab = Lab::new(2);
    let engine = Engine::podman(&lab, "runc", &[]);
    let name = lab.name("cam");
    let attachment = attachment();
    let mut command = engine.mcrun(&["create", "--name", &name, "--network=none", "--mcast"]);
    run(command.arg(&attachment).args([IMAGE, "sleep", "1000"]));
    run(&mut engine.mcrun(&["start", &name]));
    let container = engine.container("cam");
    assert_receives(&lab, &container);
    engine.run(&["rm", "-f", "-t", "0"], &container);
    lab.assert_clean(PATIENCE);
}

#[test]
fn conmon_killed_leaves_the_stream_alone_and_the_container_removable() {
    let lab = Lab::new(2);
    let engine = Engine::podman(&lab, "runc", &[]);
    let container = engine.start("cam", &["--network=none", "--mcast", &attachment()]);
    let conmon = engine.inspect(&container.name, "{{.State.ConmonPid}}").parse().expect("a pid");
    kill(conmon);
    wait_until("conmon is dead", PATIENCE, || (!alive(conmon)).then_some(()));
    // podman itself cannot exec there any more.
    let mcrun = container.enter(env!("CARGO_BIN_EXE_mcrun"));
    lab.assert_stream_arrives_by(mcrun, &container, GROUP, || {});
    kill(container.pid);
    lab.assert_clean(PATIENCE);
}

/// The engine's own network stays as it is.
#[test]
fn the_bridge_network_its_route_and_its_ports_are_untouched() {
    let lab = Lab::new(2);
    let engine = Engine::podman(&lab, "runc", &[]);
    let plain = engine.start("plain", &[]);
    let (links, routes) = (plain.ip("addr show eth0"), plain.ip("route show default"));
    engine.run(&["rm", "-f", "-t", "0"], &plain);

    // Without an address on the LAN: with one, what answers a client of that network leaves there.
    let attachment = format!("parent={PARENT},mac={MAC}");
    let container = engine.start("cam", &["-p", "18080:80", "--mcast", &attachment]);
    assert_eq!(container.ip("route show default"), routes);
    let address = |links: &Value| links[0]["addr_info"][0]["prefixlen"].clone();
    assert_eq!(address(&container.ip("addr show eth0")), address(&links));
    assert_receives(&lab, &container);
    let serve = "while :; do echo published | busybox nc -l -p 80; done";
    let _server = lab::Background::start(&mut engine.exec(&container, &["sh", "-c", serve]));
    wait_until("the published port answers", PATIENCE, || {
        let mut client = lab.enter("src", "busybox");
        let answer = output(client.args(["nc", "-w", "1", &lab::HOST.to_string(), "18080"]));
        (answer.stdout == b"published\n").then_some(())
    });
    engine.run(&["rm", "-f", "-t", "0"], &container);
}

/// Also where the container has an address in the client's subnet, and a default route there.
#[test]
fn a_published_port_answers_clients_in_the_subnet_of_the_attachment() {
    let lab = Lab::new(2);
    let engine = Engine::podman(&lab, "runc", &[]);
    let serve = "while :; do echo published | busybox nc -l -p 80; done";
    let answer = |host: &str, port: &str| {
        output(lab.enter("src", "busybox").args(["nc", "-w", "1", host, port])).stdout
    };
    for (name, more) in [("cam", ""), ("gateway", ",gw=10.99.0.1,metric=1")] {
        let attachment = attachment() + more;
        let started = engine.try_start(name, &["-p", "18081:80", "--mcast", &attachment]);
        let told = String::from_utf8_lossy(&started.stderr);
        assert!(started.status.success() && !told.contains("published"), "{told}");
        let container = engine.container(name);
        let _server = lab::Background::start(&mut engine.exec(&container, &["sh", "-c", serve]));
        for (host, port) in [("10.99.0.11", "80"), (&lab::HOST.to_string(), "18081")] {
            wait_until("the container answers", PATIENCE, || {
                (answer(host, port) == b"published\n").then_some(())
            });
        }
        engine.run(&["rm", "-f", "-t", "0"], &container);
    }

    // The kernel chooses the address from which a program answers over UDP.
    let started = engine.try_start("udp", &["-p", "18081:80/udp", "--mcast", &attachment()]);
    let told = String::from_utf8_lossy(&started.stderr);
    let expected = "mcrun: mc0: no host of 10.99.0.0/24 gets an answer from a published UDP port, unless the \
                    program answers from the address that was asked; the container itself is there at \
                    10.99.0.11\n";
    assert!(started.status.success() && told.contains(expected), "{told}");
    engine.run(&["rm", "-f", "-t", "0"], &engine.container("udp"));
}

/// podman gives annotations to the members of a pod only, and they share the network namespace of
/// the pod's infra container.
#[test]
fn a_pod_is_attached_by_the_first_of_its_members_that_asks() {
    let lab = Lab::new(2);
    let hooks = hooks_dir(&lab);
    let engine = Engine::podman(&lab, "runc", &[&hooks]);
    let pod = lab.name("pod");
    run(engine.command(&["pod", "create", "--network=none", "--name"]).arg(&pod));
    let member =
        |name: &str, attachment: &str| {
            let annotation = format!("\"io.mcrun.mcast={attachment}\"");
            output(
                engine
                    .command(&["run", "--detach", "--pod", &pod, "--name", &lab.name(name)])
                    .args(["--annotation", &annotation, IMAGE, "sleep", "1000"]),
            )
        };
    assert!(member("first", &attachment()).status.success());
    let infra = infra_of_the_pod(&engine);
    let first = engine.container("first");
    assert_receives_in_pod(&lab, &first, &infra);

    // Another member asks for the same, a third for something else.
    assert!(member("second", &attachment()).status.success());
    assert_receives_in_pod(&lab, &engine.container("second"), &infra);
    let refused = member("third", &format!("parent={PARENT},ip=10.99.0.12/24"));
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert!(errors.contains("the pod of container"), "{errors}");
    assert!(errors.contains("is attached to something else"), "{errors}");

    // The attachment is the pod's, whoever of its members ends.
    engine.run(&["rm", "-f", "-t", "0"], &first);
    assert_receives_in_pod(&lab, &engine.container("second"), &infra);
    run(engine.command(&["pod", "rm", "-f", "-t", "0"]).arg(&pod));
    lab.assert_clean(PATIENCE);
}

fn infra_of_the_pod(engine: &Engine) -> Container {
    let list = &["ps", "-q", "--no-trunc", "--filter", "name=-infra$"];
    engine.container_of_any_name(run(&mut engine.command(list)).trim())
}

/// A stream reaches a member, and the only attachment is that of the pod.
fn assert_receives_in_pod(lab: &Lab, member: &Container, infra: &Container) {
    let entries = lab::json(&mut lab.mcrun(["ps", "--json"]));
    let entries = entries.as_array().expect("an array");
    let ids: Vec<_> = entries.iter().filter_map(|entry| entry["container"].as_str()).collect();
    assert_eq!(ids, [&infra.id]);
    let name = entries[0]["name"].as_str().expect("a name");
    assert!(name.ends_with("-infra"), "{name}");
    let mcrun = member.enter(env!("CARGO_BIN_EXE_mcrun"));
    lab.assert_stream_arrives_by(mcrun, infra, GROUP, || {});
}

/// A pod as Kubernetes describes it: its annotation is for all of its containers.
#[test]
fn a_pod_of_kube_play_is_attached_by_its_annotation() {
    let lab = Lab::new(2);
    let hooks = hooks_dir(&lab);
    let engine = Engine::podman(&lab, "runc", &[&hooks]);
    let pod = lab.name("pod");
    let file = lab.directory().join("pod.yaml");
    let container = |name: &str| {
        format!(
            "  - name: {name}\n    image: {IMAGE}\n    imagePullPolicy: Never\n    \
             command: [/bin/sleep, \"1000\"]\n"
        )
    };
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {pod}\n  annotations:\n    \
         io.mcrun.mcast: {}\nspec:\n  containers:\n{}{}",
        attachment(),
        container("a"),
        container("b")
    );
    std::fs::write(&file, text).expect("written");
    run(engine.command(&["kube", "play", "--network=none"]).arg(&file));
    let infra = infra_of_the_pod(&engine);
    for name in ["pod-a", "pod-b"] {
        assert_receives_in_pod(&lab, &engine.container(name), &infra);
    }
    run(engine.command(&["kube", "down"]).arg(&file));
    lab.assert_clean(PATIENCE);
}
