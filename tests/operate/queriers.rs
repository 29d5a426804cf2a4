//! The querier of a LAN, as each container shows it.

use crate::lab::{Lab, PATIENCE, SWITCH, run, wait_until};

/// The proxy of the second container has heard no query itself.
#[test]
fn a_container_that_starts_between_two_queries_shows_the_querier_that_its_sibling_knows() {
    let lab = Lab::new(2);
    let first = lab.start("c1", "10.99.0.11");
    lab.query();
    let querier = |container| lab.ps(container).expect("it is shown")["interfaces"][0].clone();
    wait_until("the first knows the querier", PATIENCE, || {
        (querier(&first)["querier"]["address"] == SWITCH.to_string()).then_some(())
    });
    let second = lab.start("c2", "10.99.0.12");
    let shown = querier(&second);
    assert_eq!(shown["querier"]["address"], SWITCH.to_string(), "{shown}");
    let groups = run(&mut lab.mcrun(["groups", &second.name]));
    assert!(groups.starts_with(&format!("lan0: querier {SWITCH} (IGMPv2)")), "{groups}");
}

#[test]
fn as_long_as_a_querier_may_be_silent_it_is_said_for_how_long_none_was_heard() {
    let lab = Lab::new(2);
    lab.ip("sw", "link set br0 type bridge mcast_querier 0");
    let container = lab.start("c", "10.99.0.11");
    let listening = |least: u64| {
        wait_until("the proxy listens", PATIENCE, || {
            let shown = lab.ps(&container)?["interfaces"][0].clone();
            assert!(shown["querier"].is_null(), "{shown}");
            shown["listening_s"].as_u64().filter(|seconds| *seconds >= least)
        })
    };
    listening(1);
    let ps = run(&mut lab.mcrun(["ps"]));
    assert!(ps.contains("  none heard for "), "{ps}");
    let groups = run(&mut lab.mcrun(["groups"]));
    assert!(groups.starts_with("lan0: no querier heard for "), "{groups}");
    let inspect = run(&mut lab.mcrun(["inspect", &container.name]));
    assert!(inspect.contains("querier   none heard for "), "{inspect}");
    // A new proxy goes on counting.
    let (old, heard) = (lab.proxy_pid(&container), listening(2));
    crate::lab::kill(old);
    run(&mut lab.mcrun(["reload"]));
    assert_ne!(lab.proxy_pid(&container), old);
    assert!(listening(0) < heard, "nobody told the new proxy");
    let before = listening(3);
    lab.configure("[groups]\nmax-groups = 7\n");
    run(&mut lab.mcrun(["reload"]));
    assert!(listening(0) >= before, "the new proxy goes on counting");
}
