//! ipvlan, in a virtual machine: most machines' kernels have it, but not each on which tests run.

mod lab;
mod vm;

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use lab::{Lab, PATIENCE, SOURCES, run, wait_until};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 9, 1, 1);

#[test]
fn the_kernel_has_ipvlan() {
    vm::run(|| {
        run(Command::new("ip").args(["link", "add", "v0", "type", "veth", "peer", "name", "v1"]));
        run(Command::new("ip")
            .args(["link", "add", "link", "v0", "name", "iv0", "type", "ipvlan", "mode", "l2"]));
        run(Command::new("ip").args(["link", "del", "v0"]));
    });
}

#[test]
fn macvlan_on_a_kernel_that_does_not_tell_of_joins() {
    vm::run(|| {
        let lab = Lab::new(3);
        let capture = lab.capture();
        let container = lab.start("c", "10.99.0.11");
        let _stream = lab.send(GROUP, SOURCES[0], 1000);
        let receiver = lab.receive(&container, GROUP, None, Duration::from_secs(4));
        lab.wait_joined(&container, GROUP);
        wait_until("the switch forwards", PATIENCE, || {
            lab.forwarded().contains(&GROUP.to_string()).then_some(())
        });
        let reception = receiver.finish();
        assert!(reception.packets > 0 && reception.lost == 0, "{reception:?}");
        lab.wait_left(&container, GROUP);
        lab.assert_one_igmp_host(&capture.finish());
    });
}
