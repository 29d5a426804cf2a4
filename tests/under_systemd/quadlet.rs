//! A unit of podman's (podman-systemd.unit(5)): `tests/vm/systemd/receiver.container`.

use std::net::Ipv4Addr;
use std::process::Command;

use super::{number, property, systemctl, wait_for_successor};
use serde_json::json as value;

use crate::lab::{Container, EngineCommands, Lab, PATIENCE, json, kill, run, wait_until};
use crate::vm;

const UNIT: &str = "receiver.service";
/// podman's name of the unit's container.
const NAME: &str = "systemd-receiver";
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 6, 5, 1);

#[test]
#[ignore = "boots a virtual machine: make test-vm"]
fn a_unit_of_podman_is_attached_at_boot_after_a_restart_and_when_it_was_killed() {
    vm::run_with_systemd(|| {
        // This machine has booted it.
        assert_eq!(property(UNIT, "ActiveState"), "active");
        assert_eq!(number(UNIT, "NRestarts"), 0);
        let began = |unit: &str| number(unit, "ExecMainStartTimestampMonotonic");
        assert!(began(UNIT) < began("lab-tests.service"));
        let lab = Lab::on_this_machine(3);
        let first = receives(&lab);

        let before = number(UNIT, "MainPID");
        systemctl(&["restart", UNIT]);
        let main = wait_for_successor(UNIT, before);
        let second = receives(&lab);
        assert_ne!(second.id, first.id);

        kill(second.pid);
        let main = wait_for_successor(UNIT, main);
        let third = receives(&lab);
        assert_ne!(third.id, second.id);

        // All processes of the unit at once, conmon too.
        systemctl(&["kill", "--signal", "KILL", UNIT]);
        wait_for_successor(UNIT, main);
        receives(&lab);

        systemctl(&["stop", UNIT]);
        assert_eq!(property(UNIT, "Result"), "success");
        wait_until("nothing of mcrun's is left", PATIENCE, || {
            let shown = json(&mut lab.mcrun(["ps", "--json"]));
            let processes = lab.host_processes();
            let proxies = processes.iter().filter(|(_, line)| line.contains("mcrun-proxy"));
            let records = lab.state_dir().join("containers").read_dir().into_iter().flatten();
            (shown == value!([]) && proxies.count() == 0 && records.count() == 0).then_some(())
        });
        assert_eq!(lab.host_joins(), [].into());
        let links = run(Command::new("ip").args(["-o", "link", "show", "type", "macvlan"]));
        assert_eq!(links, "");
        systemctl(&["start", UNIT]);
    });
}

/// The unit's container has its attachment, is found by its name, and a stream arrives.
fn receives(lab: &Lab) -> Container {
    let entry = wait_until("the unit's container is shown", PATIENCE, || {
        let all = json(&mut lab.mcrun(["ps", "--json"]));
        all.as_array().expect("an array").iter().find(|entry| entry["name"] == NAME).cloned()
    });
    let pid = entry["pid"].as_i64().expect("a pid") as i32;
    let id = entry["container"].as_str().expect("an id");
    let container = Container::of_engine(NAME, id, pid, EngineCommands::default());
    let inspected = run(&mut lab.mcrun(["inspect", NAME]));
    assert!(inspected.contains(id), "{inspected}");
    let mcrun = container.enter(env!("CARGO_BIN_EXE_mcrun"));
    lab.assert_stream_arrives_by(mcrun, &container, GROUP, || {});
    lab.wait_left(&container, GROUP);
    container
}
