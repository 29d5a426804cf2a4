//! The state directory is lost while a container runs: nobody but its proxy knows of it then.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::lab::{
    Bundle, Container, Dockerd, Engine, Lab, PARENT, PATIENCE, Runtime, SOURCES, alive, kill, run,
    wait_until,
};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 8, 3, 1);
/// Joined after the loss.
const LATER: Ipv4Addr = Ipv4Addr::new(239, 8, 3, 2);
const MAC: &str = "02:00:5e:10:08:03";
/// Within what everything must be gone. Docker's own removal of a container is a part of it.
const LIMIT: Duration = Duration::from_secs(10);

fn attachment() -> String {
    format!("parent={PARENT},ip=10.99.0.11/24,mac={MAC}")
}

/// Loses the state directory under a container that receives: the stream goes on, and a new one can
/// be had. The process id of its proxy.
fn lose_state(lab: &Lab, container: &Container) -> i32 {
    let receive = |group, seconds| {
        let mcrun = container.enter(env!("CARGO_BIN_EXE_mcrun"));
        lab.receive_by(mcrun, group, Duration::from_secs(seconds))
    };
    let receiver = receive(GROUP, 4);
    lab.wait_joined(container, GROUP);
    let _stream = lab.send(GROUP, SOURCES[0], 1000);
    let proxy = lab.proxy_pid(container);
    fs::remove_dir_all(lab.state_dir()).expect("removed");
    // Nobody remembers it, and gc leaves it alone.
    assert_eq!(run(&mut lab.mcrun(["gc"])), "");
    assert!(lab.ps(container).is_none());
    let later = receive(LATER, 2);
    wait_until("the host joins", PATIENCE, || lab.host_joins().contains(&LATER).then_some(()));
    let _later_stream = lab.send(LATER, SOURCES[0], 1000);
    for (what, receiver) in [("joined before", receiver), ("joined after", later)] {
        let reception = receiver.finish();
        println!("{what} the loss of the state directory: {reception:?}");
        assert!(reception.packets > 500 && reception.lost == 0, "{what}: {reception:?}");
    }
    assert!(alive(proxy));
    proxy
}

/// Everything is gone, and gc thinks so too.
fn assert_gone(lab: &Lab, proxy: i32) {
    let taken = lab.assert_clean(LIMIT);
    println!("everything was gone in {taken:?}");
    assert!(!alive(proxy));
    assert_eq!(run(&mut lab.mcrun(["gc"])), "");
}

/// A new container of the same name, address and MAC address.
fn assert_works(lab: &Lab, container: &Container) {
    assert_eq!(container.ip("link show mc0")[0]["address"], MAC);
    lab.assert_stream_arrives(container, GROUP);
}

fn under_a_runtime(runtime: Runtime, end: impl Fn(&Lab, &Container)) {
    let lab = Lab::new(2);
    let capture = lab.capture();
    let mut bundle = Bundle::new(&lab, "c");
    bundle.add_hooks(&lab);
    bundle.annotate(&attachment());
    let container = bundle.start(&lab, runtime, "c");
    let proxy = lose_state(&lab, &container);
    end(&lab, &container);
    assert_gone(&lab, proxy);
    let next = bundle.start(&lab, runtime, "c");
    assert_works(&lab, &next);
    lab.delete(&next);
    lab.assert_clean(LIMIT);
    lab.assert_one_igmp_host(&capture.finish());
}

#[test]
fn a_deleted_container_of_runc_leaves_nothing_and_its_name_is_free() {
    under_a_runtime(Runtime::Runc, |lab, container| lab.delete(container));
}

#[test]
fn a_killed_container_of_crun_leaves_nothing_and_its_name_is_free() {
    under_a_runtime(Runtime::Crun, |lab, container| {
        kill(container.pid);
        wait_until("the init is gone", PATIENCE, || (!alive(container.pid)).then_some(()));
        lab.delete(container);
    });
}

#[test]
fn a_container_of_mcrun_run_leaves_nothing_and_its_name_is_free() {
    let lab = Lab::new(2);
    let capture = lab.capture();
    // Without --rm too: nobody could remove it later.
    for options in [&["--rm"][..], &[]] {
        let container = lab.start_with("c", &[&attachment()], options);
        let proxy = lose_state(&lab, &container);
        kill(container.pid);
        assert_gone(&lab, proxy);
    }
    let next = lab.start_with("c", &[&attachment()], &["--rm"]);
    assert_works(&lab, &next);
    lab.delete(&next);
    lab.assert_clean(LIMIT);
    lab.assert_one_igmp_host(&capture.finish());
}

#[test]
fn a_container_of_docker_leaves_nothing_and_its_name_is_free() {
    let mut lab = Lab::new(2);
    let daemon = Dockerd::start(&mut lab);
    let engine = Engine::docker(&lab, &daemon);
    let lab_now = lab.leftovers();
    let capture = lab.capture();
    let options = ["--network", "none", "--mcast", &attachment()];
    let container = engine.start("cam", &options);
    lose_state(&lab, &container);
    // Docker starts it again with what it knows; then it is new to mcrun.
    engine.run(&["restart", "-t", "0"], &container);
    assert_works(&lab, &engine.container("cam"));
    let proxy = lose_state(&lab, &engine.container("cam"));
    engine.run(&["rm", "-f"], &container);
    wait_until("everything is gone", LIMIT, || (lab.leftovers() == lab_now).then_some(()));
    assert!(!alive(proxy));
    assert_eq!(run(&mut lab.mcrun(["gc"])), "");
    let next = engine.start("cam", &options);
    assert_works(&lab, &next);
    engine.run(&["rm", "-f"], &next);
    wait_until("everything is gone", LIMIT, || (lab.leftovers() == lab_now).then_some(()));
    lab.assert_one_igmp_host(&capture.finish());
}
