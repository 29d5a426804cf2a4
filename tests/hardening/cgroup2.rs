//! The control group where cgroup2 has all controllers, as on today's distributions: in the virtual
//! machine.

use std::fs;

use super::attached;
use super::control_group::group;
use crate::lab::{Lab, PATIENCE, json, wait_until};
use crate::vm;

const GROUP: &str = "/sys/fs/cgroup/mcrun";

#[test]
fn the_group_has_its_limits_and_stays_when_its_proxies_end() {
    vm::run(|| {
        let lab = Lab::new(3);
        let containers = [11, 12].map(|host| attached(&lab, &format!("c{host}"), host));
        let read = |file: &str| fs::read_to_string(format!("{GROUP}/{file}")).expect(file);
        for container in &containers {
            assert_eq!(group(lab.proxy_pid(container)), "/mcrun");
            let shown = lab.ps(container).expect("shown");
            let notices = shown["notices"].to_string();
            assert!(!notices.contains("control-group-incomplete"), "{notices}");
        }
        assert_eq!(read("memory.max"), "1073741824\n");
        assert_eq!(read("cpu.weight"), "200\n");
        assert_eq!(read("cgroup.procs").lines().count(), 2);
        for container in &containers {
            lab.delete(container);
        }
        wait_until("the group is empty", PATIENCE, || {
            read("cgroup.procs").is_empty().then_some(())
        });
        let memory: u64 = read("memory.current").trim().parse().expect("a number");
        println!("memory of the empty group: {memory}");
        let again = attached(&lab, "again", 13);
        assert_eq!(group(lab.proxy_pid(&again)), "/mcrun");
        assert!(json(&mut lab.mcrun(["ps", "--json"])).is_array());
    });
}
