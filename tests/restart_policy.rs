//! Containers that engines start anew by themselves.

use std::net::Ipv4Addr;
use std::time::Instant;

use crate::lab::{
    Container, Dockerd, Engine, IMAGE, Lab, PARENT, PATIENCE, SOURCES, hooks_dir, kill, run,
    wait_until,
};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 8, 2, 1);
const ADDRESS: &str = "10.99.0.11";
const MAC: &str = "02:00:5e:10:08:02";
/// Packets per second.
const RATE: u32 = 1000;

/// The interface is as it was asked for, and the running stream arrives whole.
fn assert_receives(lab: &Lab, container: &Container) {
    let addresses = &container.ip("-4 addr show mc0")[0]["addr_info"];
    assert_eq!(addresses[0]["local"], ADDRESS, "{addresses}");
    let link = &container.ip("link show mc0")[0];
    assert_eq!((&link["address"], &link["operstate"]), (&MAC.into(), &"UP".into()), "{link}");
    let reception = lab.receive_count(container, GROUP, None, 500).finish();
    // The receiver reads in batches, so that a few more than it waits for may come.
    let is_whole = reception.lost == 0 && reception.duplicated == 0;
    assert!(reception.packets >= 500 && is_whole, "{reception:?}");
}

#[test]
fn a_container_that_docker_restarts_by_its_policy_has_all_it_had() {
    let mut lab = Lab::new(2);
    let daemon = Dockerd::start(&mut lab);
    let engine = Engine::docker(&lab, &daemon);
    let lab_now = lab.leftovers();
    let _stream = lab.send(GROUP, SOURCES[0], RATE);
    let capture = lab.capture();
    let attachment = format!("parent={PARENT},ip={ADDRESS}/24,mac={MAC}");
    let volume = format!("{}:/data", lab.directory().display());
    let received = lab.directory().join("received");
    // Tells of the first packet of each of its lives.
    let script = format!("mcrun probe recv {GROUP} -c 1 >/data/received; exec sleep 1000");
    for policy in ["on-failure:2", "always"] {
        let name = lab.name(policy.split(':').next().expect("a word"));
        let mut command = engine.mcrun(&["run", "-d", "--name", &name, "-v", &volume]);
        command.args(["--restart", policy, "--mcast", &attachment, IMAGE, "sh", "-c", &script]);
        run(&mut command);
        let wait_received = || {
            wait_until("a packet has come", PATIENCE, || {
                let text = std::fs::read_to_string(&received).ok()?;
                text.contains("packets").then(|| std::fs::remove_file(&received).expect("removed"))
            });
        };
        wait_received();
        let short = policy.split(':').next().expect("a word");
        let mut container = engine.container(short);
        for count in 1..=2 {
            kill(container.pid);
            let start = Instant::now();
            wait_received();
            let taken = start.elapsed();
            println!(
                "{policy}, restart {count}: a packet came {taken:?} after the kill: {} lost",
                taken.as_millis() * u128::from(RATE) / 1000
            );
            let restarted = engine.container(short);
            assert_eq!(engine.inspect(&name, "{{.RestartCount}}"), count.to_string());
            assert_eq!(restarted.id, container.id);
            assert_ne!(restarted.pid, container.pid);
            container = restarted;
            assert_receives(&lab, &container);
        }
        if policy == "on-failure:2" {
            // Not a third time: the container is kept, and what it had on the host is not.
            kill(container.pid);
            wait_until("docker gives up", PATIENCE, || {
                (engine.inspect(&name, "{{.State.Status}}") == "exited").then_some(())
            });
            wait_until("everything is gone", PATIENCE, || {
                (lab.leftovers() == lab_now).then_some(())
            });
        }
        engine.run(&["rm", "-f"], &container);
        wait_until("everything is gone", PATIENCE, || (lab.leftovers() == lab_now).then_some(()));
    }
    lab.assert_one_igmp_host(&capture.finish());
}

#[test]
fn a_container_that_podman_restarts_by_its_policy_has_all_it_had() {
    let lab = Lab::new(2);
    let hooks = hooks_dir(&lab);
    let engine = Engine::podman(&lab, "runc", &[&hooks]);
    let capture = lab.capture();
    let attachment = format!("parent={PARENT},ip={ADDRESS}/24,mac={MAC}");
    let options = ["--network", "none", "--restart", "on-failure:2", "--mcast", &attachment];
    let container = engine.start("cam", &options);
    let _stream = lab.send(GROUP, SOURCES[0], RATE);
    assert_receives(&lab, &container);
    kill(container.pid);
    let start = Instant::now();
    let restarted = wait_until("podman restarts it", PATIENCE, || {
        let state = engine.inspect(&container.name, "{{.State.Status}} {{.State.Pid}}");
        let pid = state.strip_prefix("running ")?;
        (pid != container.pid.to_string()).then(|| engine.container("cam"))
    });
    println!("podman: running {:?} after the kill", start.elapsed());
    assert_receives(&lab, &restarted);
    engine.run(&["rm", "-f", "-t", "0"], &restarted);
    lab.assert_clean(PATIENCE);
    lab.assert_one_igmp_host(&capture.finish());
}
