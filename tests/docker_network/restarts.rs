//! What ends and starts again: containers, the driver, dockerd.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use super::{
    GROUP, assert_nothing_is_kept, create, interface, link_names, start, try_create, wait_shown,
};
use crate::lab::{
    Background, DockerDriver, Dockerd, Engine, IMAGE, Lab, PARENT, PATIENCE, alive, json, kill,
    output, run, wait_until,
};

/// daemon.json with which containers outlive dockerd.
const LIVE_RESTORE: &str = "{ \"live-restore\": true }";

#[test]
fn restarts_of_container_driver_and_dockerd_cost_no_more_than_they_must() {
    let mut lab = Lab::new(2);
    let mut driver = DockerDriver::start(&lab);
    let mut daemon = Dockerd::start_with(&mut lab, LIVE_RESTORE);
    let container = {
        let engine = Engine::docker(&lab, &daemon);
        create(&lab, &engine, "media", &[]);
        let options = ["--network", "media", "--ip", "10.99.0.11"];
        let container = start(&lab, &engine, "cam", &options);
        let before = interface(&container, "10.99.0.11");
        wait_shown(&lab, &container, 1);
        // A container that starts again has its address, and neighbours find it.
        engine.run(&["restart", "-t", "0"], &container);
        let container = engine.container("cam");
        assert_eq!(interface(&container, "10.99.0.11")["address"], before["address"]);
        lab.assert_stream_arrives(&container, GROUP);
        let proxy = lab.proxy_pid(&container);
        let stream = lab.stream(&container, GROUP, 1000);

        // Containers do not need the driver, and the next one knows their networks.
        driver.kill_and_start(&lab);
        let second = start(&lab, &engine, "second", &["--network", "media"]);
        wait_shown(&lab, &second, 1);
        engine.run(&["rm", "-f"], &second);
        wait_until("the record is gone", PATIENCE, || lab.ps(&second).is_none().then_some(()));
        assert_eq!(lab.proxy_pid(&container), proxy);
        stream.assert_whole();
        std::mem::forget(engine);
        container
    };
    let proxy = lab.proxy_pid(&container);
    let stream = lab.stream(&container, GROUP, 1000);
    daemon.restart(&lab);
    let engine = Engine::docker(&lab, &daemon);
    assert_eq!(engine.container("cam").pid, container.pid, "it ran on");
    assert_eq!(lab.proxy_pid(&container), proxy);
    stream.assert_whole();
    engine.run(&["rm", "-f"], &container);
    wait_until("the proxy is gone", PATIENCE, || (!alive(proxy)).then_some(()));
    assert_nothing_is_kept(&lab, &engine, &["media"]);
}

/// docker 28.5 takes both interfaces for one of its own, and ends in a panic when the second one is to go
/// (`RemoveInterface` in libnetwork/osl closes a channel twice). Its service manager starts it again then: all
/// that is the container's goes, and other containers lose nothing.
#[test]
fn two_networks_of_a_container_go_after_a_restart_of_dockerd() {
    let mut lab = Lab::new(2);
    let _driver = DockerDriver::start(&lab);
    let mut daemon = Dockerd::start_with(&mut lab, LIVE_RESTORE);
    let (leaves, stays) = {
        let engine = Engine::docker(&lab, &daemon);
        create(&lab, &engine, "red", &[]);
        let blue = ["-o", &format!("parent={PARENT}"), "--subnet", "10.98.0.0/24"];
        try_create(&lab, &engine, "blue", &blue).expect("a network");
        let leaves = start(&lab, &engine, "leaves", &["--network", "red"]);
        run(&mut engine.command(&["network", "connect", "blue", &leaves.name]));
        wait_shown(&lab, &leaves, 2);
        let stays = start(&lab, &engine, "stays", &["--network", "red"]);
        wait_shown(&lab, &stays, 1);
        std::mem::forget(engine);
        (leaves, stays)
    };
    let proxy = lab.proxy_pid(&leaves);
    let stream = lab.stream(&stays, GROUP, 1000);
    daemon.restart(&lab);
    let mut panics = 0;
    while panics < 2 {
        let engine = Engine::docker(&lab, &daemon);
        let removed = output(engine.command(&["rm", "-f"]).arg(&leaves.name));
        std::mem::forget(engine);
        if removed.status.success() {
            break;
        }
        let errors = String::from_utf8_lossy(&removed.stderr).into_owned();
        let log = daemon.restart_after_panic(&lab);
        assert!(log.contains("close of closed channel"), "{errors}\n{log}");
        panics += 1;
    }
    println!("dockerd has ended in a panic {panics} times");
    let engine = Engine::docker(&lab, &daemon);
    wait_until("the record is gone", PATIENCE, || lab.ps(&leaves).is_none().then_some(()));
    wait_until("the proxy is gone", PATIENCE, || (!alive(proxy)).then_some(()));
    assert_eq!(engine.container("stays").pid, stays.pid, "it ran on");
    stream.assert_whole();
    let all = run(&mut engine.command(&["ps", "--all", "--format", "{{.Names}}"]));
    assert_eq!(all.trim(), stays.name);
    engine.run(&["rm", "-f"], &stays);
    if panics == 0 {
        return assert_nothing_is_kept(&lab, &engine, &["red", "blue"]);
    }
    for network in ["red", "blue"] {
        run(&mut engine.command(&["network", "rm", network]));
    }
    wait_until("the record is gone", PATIENCE, || lab.ps(&stays).is_none().then_some(()));
    assert_no_more_than_names_is_kept(&lab);
}

/// The dockerd of now takes an interface of mcrun's for its own, and does not find it.
#[test]
fn networks_come_and_go_after_a_restart_of_dockerd() {
    let mut lab = Lab::new(2);
    let _driver = DockerDriver::start(&lab);
    let mut daemon = Dockerd::start_with(&mut lab, LIVE_RESTORE);
    let container = {
        let engine = Engine::docker(&lab, &daemon);
        create(&lab, &engine, "media", &[]);
        let container = start(&lab, &engine, "cam", &["--network", "media"]);
        wait_shown(&lab, &container, 1);
        std::mem::forget(engine);
        container
    };
    daemon.restart(&lab);
    let engine = Engine::docker(&lab, &daemon);
    run(&mut engine.command(&["network", "disconnect", "media", &container.name]));
    assert_eq!(link_names(&container), ["lo"]);
    run(&mut engine.command(&["network", "connect", "media", &container.name]));
    lab.assert_stream_arrives(&container, GROUP);
    engine.run(&["rm", "-f"], &container);
    assert_nothing_is_kept(&lab, &engine, &["media"]);
}

#[test]
fn a_driver_that_is_killed_at_any_time_leaves_nothing() {
    let mut lab = Lab::new(2);
    let mut driver = DockerDriver::start(&lab);
    let daemon = Dockerd::start(&mut lab);
    let engine = Engine::docker(&lab, &daemon);
    create(&lab, &engine, "media", &[]);
    let name = lab.name("cam");
    for milliseconds in [0, 20, 60, 100, 140, 180, 220, 260, 320] {
        let mut command = engine.command(&["run", "-d", "--name", &name, "--network", "media"]);
        command.args([IMAGE, "sleep", "1000"]).stdout(Stdio::null()).stderr(Stdio::null());
        let starts = Background::start(&mut command);
        std::thread::sleep(Duration::from_millis(milliseconds));
        driver.kill_and_start(&lab);
        let started = starts.finish(PATIENCE).status.success();
        let container = engine.container("cam");
        if started {
            // The next driver has done what the killed one has not.
            wait_shown(&lab, &container, 1);
            lab.assert_stream_arrives(&container, GROUP);
        }
        engine.run(&["rm", "-f"], &container);
        run(&mut lab.mcrun(["gc"]));
        assert_eq!(lab.ps(&container), None);
    }
    run(&mut engine.command(&["network", "rm", "media"]));
    assert_no_more_than_names_is_kept(&lab);
}

/// Between the requests of a start, too, such as `Join` and what dockerd does after it.
#[test]
fn a_dockerd_that_is_killed_at_any_time_leaves_nothing() {
    let mut lab = Lab::new(2);
    let _driver = DockerDriver::start(&lab);
    let mut daemon = Dockerd::start(&mut lab);
    let engine = Engine::docker(&lab, &daemon);
    create(&lab, &engine, "media", &[]);
    std::mem::forget(engine);
    let name = lab.name("cam");
    let mut started = 0;
    for milliseconds in [100, 160, 220, 280, 400] {
        let mut command =
            daemon.command(&lab, ["run", "-d", "--name", &name, "--network", "media"]);
        command.args([IMAGE, "sleep", "1000"]).stdout(Stdio::null()).stderr(Stdio::null());
        let starts = Background::start(&mut command);
        std::thread::sleep(Duration::from_millis(milliseconds));
        daemon.kill_and_start(&lab);
        started += u32::from(starts.finish(PATIENCE).status.success());
        // It may not know the container, or have ended it.
        output(&mut daemon.command(&lab, ["rm", "-f", &name]));
        run(&mut lab.mcrun(["gc"]));
        // docker 28.5 may have a process left of a container that it has forgotten, which keeps what is its.
        let shown = json(&mut lab.mcrun(["ps", "--json"]));
        for container in shown.as_array().expect("a list") {
            println!("{milliseconds} ms: docker has forgotten {}", container["container"]);
            kill(container["pid"].as_i64().and_then(|pid| pid.try_into().ok()).expect("a pid"));
        }
        wait_until("nobody is attached", PATIENCE, || {
            let shown = json(&mut lab.mcrun(["ps", "--json"]));
            (shown == serde_json::json!([])).then_some(())
        });
        run(&mut lab.mcrun(["gc"]));
    }
    println!("{started} of 5 starts were over before dockerd was killed");
    run(&mut daemon.command(&lab, ["network", "rm", "media"]));
    assert_no_more_than_names_is_kept(&lab);
}

/// Neither a network nor a container. An endpoint whose interface was not made, which docker has asked for and then
/// not been told of, or does not know any more, holds nothing, and goes with a later gc.
fn assert_no_more_than_names_is_kept(lab: &Lab) {
    let files = |path: &str| {
        let entries = fs::read_dir(lab.directory().join(path)).expect("the directory");
        entries.map(|entry| entry.expect("an entry").path()).collect::<Vec<_>>()
    };
    assert_eq!(files("lib/docker/networks"), Vec::<PathBuf>::new());
    assert_eq!(files("state/containers"), Vec::<PathBuf>::new());
    for endpoint in files("state/docker/endpoints") {
        let kept = fs::read_to_string(&endpoint).expect("readable");
        let interface = ["\"interface\":null", "\"made\":false"];
        assert!(interface.iter().any(|none| kept.contains(none)), "{kept}");
    }
}
