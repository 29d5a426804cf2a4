//! ipvlan with a real runc: two containers that share their parent's MAC address.
//!
//! Not every kernel has ipvlan, so these tests run in a virtual machine with one that does; it does not
//! tell of joins either, which newer ones do.

mod lab;
mod vm;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use lab::{Container, Lab, PATIENCE, Reception, SOURCES, wait_until};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 9, 1, 1);
const CHANNEL: Ipv4Addr = Ipv4Addr::new(232, 9, 1, 1);
/// Packets of a stream that must all arrive.
const ALL: u32 = 10_000;

/// `driver=ipvlan` with what else is asked for, and an address.
fn spec(host: u8, rest: &str) -> String {
    format!("parent=lan0,driver=ipvlan,ip=10.99.0.{host}/24,{rest}")
}

fn start(lab: &Lab, name: &str, host: u8, rest: &str) -> Container {
    lab.start_with(name, &[&spec(host, rest)], &[])
}

/// Why a container with this attachment is not started.
fn refusal(lab: &Lab, name: &str, attachment: &str) -> String {
    let output = lab.try_start(name, &[attachment], &[]);
    assert!(!output.status.success(), "{attachment} is accepted");
    String::from_utf8(output.stderr).expect("text")
}

/// Waits until the switch forwards a group, or `GROUP@SOURCE`, to the container host.
fn wait_forwarded(lab: &Lab, group: &str) {
    wait_until(&format!("the switch forwards {group}"), PATIENCE, || {
        lab.forwarded().contains(group).then_some(())
    });
}

/// Asserts that so many packets came, each once.
fn assert_each_once(what: &str, reception: &Reception, packets: u32) {
    assert_eq!(
        (reception.packets, reception.lost, reception.duplicated),
        (u64::from(packets), 0, 0),
        "{what}: {reception:?}"
    );
}

/// Asserts that all frames come from the container host's own MAC address, and all IGMP from its own
/// IP address.
fn assert_one_host(lab: &Lab, capture: lab::Capture) {
    let igmp = capture.igmp();
    for frame in capture.frames() {
        let mac: Vec<_> = frame[6..12].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(mac.join(":"), lab.host_mac(), "{frame:02x?}");
    }
    lab.assert_one_igmp_host(&igmp);
    capture.finish();
}

/// Two containers receive an any-source and a source-specific stream; another source sends to the
/// same groups.
fn both_receive(mode: &str) {
    let [wanted, other] = SOURCES;
    let lab = Lab::new(3);
    let capture = lab.capture_also("ip or arp");
    let one = start(&lab, "one", 11, mode);
    let two = start(&lab, "two", 12, mode);
    let containers = [&one, &two];
    for (group, source) in [(GROUP, None), (CHANNEL, Some(wanted))] {
        let receivers = containers.map(|c| lab.receive_count(c, group, source, ALL));
        for container in containers {
            lab.wait_joined(container, group);
        }
        let channel = source.map(|source| format!("{group}@{source}"));
        wait_forwarded(&lab, &channel.unwrap_or(group.to_string()));
        let stream = lab.send_count(group, wanted, 2500, ALL);
        let noise = source.map(|_| lab.send_count(group, other, 500, ALL / 5));
        for sender in [Some(stream), noise].into_iter().flatten() {
            assert!(sender.finish(Duration::from_secs(60)).status.success());
        }
        for (receiver, container) in receivers.into_iter().zip(containers) {
            let reception = receiver.finish();
            assert_each_once(&format!("{} {group}", container.name), &reception, ALL);
            assert_eq!(reception.sources, BTreeSet::from([wanted]));
        }
    }
    for container in containers {
        lab.delete(container);
    }
    assert_one_host(&lab, capture);
    lab.assert_clean(PATIENCE);
}

#[test]
fn two_l2_containers_receive_all_of_a_stream_and_of_a_channel() {
    vm::run(|| both_receive("mode=l2"));
}

#[test]
fn two_l3_containers_receive_all_of_a_stream_and_of_a_channel() {
    vm::run(|| both_receive("mode=l3"));
}

#[test]
fn two_l3s_containers_receive_all_of_a_stream_and_of_a_channel() {
    vm::run(|| both_receive("mode=l3s"));
}

/// A container sends: the LAN has it, and so has the other container; the sender's own sockets do not,
/// since they did not ask for it.
fn one_sends(mode: &str) {
    const PACKETS: u32 = 1000;
    let lab = Lab::new(3);
    let capture = lab.capture_also("ip or arp");
    let sender = start(&lab, "sender", 11, mode);
    let sibling = start(&lab, "sibling", 12, mode);
    let address = BTreeSet::from([Ipv4Addr::new(10, 99, 0, 11)]);
    let own = lab.receive_count(&sender, GROUP, None, PACKETS);
    let theirs = lab.receive_count(&sibling, GROUP, None, PACKETS);
    let lan = lab.receive_count_on_lan(GROUP, PACKETS);
    lab.wait_joined(&sender, GROUP);
    lab.wait_joined(&sibling, GROUP);
    wait_forwarded(&lab, &GROUP.to_string());
    lab.send_from(&sender, GROUP, 1000, PACKETS);
    let [lan, theirs, own] = [lan.finish(), theirs.finish(), own.stop()];
    assert_each_once("on the LAN", &lan, PACKETS);
    assert_eq!(lan.sources, address);
    assert_each_once("in the sibling", &theirs, PACKETS);
    assert_eq!(theirs.sources, address);
    assert_eq!(own.packets, 0, "the sender hears itself: {own:?}");
    for container in [&sender, &sibling] {
        lab.delete(container);
    }
    assert_one_host(&lab, capture);
}

#[test]
fn what_an_l2_container_sends_arrives_on_the_lan_and_in_its_sibling_once() {
    vm::run(|| one_sends("mode=l2"));
}

#[test]
fn what_an_l3_container_sends_arrives_on_the_lan_and_in_its_sibling_once() {
    vm::run(|| one_sends("mode=l3"));
}

#[test]
fn what_an_l3s_container_sends_arrives_on_the_lan_and_in_its_sibling_once() {
    vm::run(|| one_sends("mode=l3s"));
}

/// A container that may not have a group does not get it when its sibling has it.
fn denied(mode: &str) {
    let lab = Lab::new(3);
    let capture = lab.capture_also("ip or arp");
    let restricted = start(&lab, "restricted", 11, &format!("{mode},deny={GROUP}"));
    let sibling = start(&lab, "sibling", 12, mode);
    let refused = lab.receive_count(&restricted, GROUP, None, 1000);
    wait_until("the group is denied", PATIENCE, || {
        (lab.groups(&restricted).first()?["status"] == "denied").then_some(())
    });
    let had = lab.receive_count(&sibling, GROUP, None, 1000);
    lab.wait_joined(&sibling, GROUP);
    wait_forwarded(&lab, &GROUP.to_string());
    let sent = lab.send_count(GROUP, SOURCES[0], 1000, 1000).finish(Duration::from_secs(60));
    assert!(sent.status.success());
    assert_each_once("in the sibling", &had.finish(), 1000);
    assert_eq!(refused.stop().packets, 0);
    assert_one_host(&lab, capture);
}

#[test]
fn a_denied_group_does_not_arrive_in_l2() {
    vm::run(|| denied("mode=l2"));
}

#[test]
fn a_denied_group_does_not_arrive_in_l3() {
    vm::run(|| denied("mode=l3"));
}

#[test]
fn a_denied_group_does_not_arrive_in_l3s() {
    vm::run(|| denied("mode=l3s"));
}

#[test]
fn a_leave_takes_nothing_from_the_sibling() {
    vm::run(|| {
        let lab = Lab::new(2);
        let stays = start(&lab, "stays", 11, "mode=l2");
        let leaves = start(&lab, "leaves", 12, "mode=l2");
        let had = lab.receive_count(&stays, GROUP, None, 4000);
        lab.wait_joined(&stays, GROUP);
        // The last to report is the one that leaves.
        let gone = lab.receive_count(&leaves, GROUP, None, 1000);
        lab.wait_joined(&leaves, GROUP);
        wait_forwarded(&lab, &GROUP.to_string());
        let stream = lab.send_count(GROUP, SOURCES[0], 1000, 4000);
        assert_each_once("who leaves", &gone.finish(), 1000);
        assert!(stream.finish(Duration::from_secs(60)).status.success());
        assert_each_once("who stays", &had.finish(), 4000);
        lab.wait_left(&leaves, GROUP);
    });
}

#[test]
fn the_flags_are_the_kernels() {
    vm::run(|| {
        let lab = Lab::new(3);
        for (mode, flag) in [("l2", "private"), ("l3", "vepa"), ("l3s", "bridge")] {
            let container = start(&lab, mode, 11, &format!("mode={mode},flag={flag}"));
            let link = container.ip("-d link show mc0");
            let info = &link[0]["linkinfo"];
            assert_eq!(info["info_kind"], "ipvlan", "{link}");
            assert_eq!(info["info_data"]["mode"], mode, "{link}");
            for name in ["private", "vepa"] {
                let flags = info["info_data"].to_string();
                assert_eq!(flags.contains(name), flag == name, "{link}");
            }
            assert_eq!(link[0]["address"], lab.host_mac(), "{link}");
            let shown = &lab.ps(&container).expect("shown")["interfaces"][0];
            assert_eq!((&shown["driver"], &shown["mode"]), (&"ipvlan".into(), &mode.into()));
            lab.delete(&container);
            lab.assert_clean(PATIENCE);
        }
    });
}

#[test]
fn one_parent_has_one_mode_and_one_flag() {
    vm::run(|| {
        let lab = Lab::new(3);
        let first = start(&lab, "first", 11, "mode=l2");
        let error = refusal(&lab, "second", &spec(12, "mode=l3"));
        assert!(
            error.contains(&format!(
                "mode=l3: lan0 has ipvlan children of mode l2, such as mc0 of container {}",
                first.name
            )),
            "{error}"
        );
        let error = refusal(&lab, "third", &spec(13, "mode=l2,flag=private"));
        assert!(
            error.contains(&format!(
                "flag=private: lan0 has ipvlan children of flag bridge, such as mc0 of container {}",
                first.name
            )),
            "{error}"
        );
        // Nothing has changed for who was there.
        let link = first.ip("-d link show mc0");
        assert_eq!(link[0]["linkinfo"]["info_data"]["mode"], "l2", "{link}");
        let same = start(&lab, "same", 14, "mode=l2");
        for container in [&first, &same] {
            lab.delete(container);
        }
        // The parent is free again.
        start(&lab, "other", 15, "mode=l3");
    });
}

#[test]
fn children_that_others_have_made_are_found_in_every_namespace() {
    vm::run(|| {
        let lab = Lab::new(3);
        let by_hand = "link add link lan0 name by-hand type ipvlan mode l3";
        let expected = "mode=l2: lan0 has ipvlan children of mode l3, such as by-hand";
        lab.ip("host", by_hand);
        let error = refusal(&lab, "a", &spec(11, "mode=l2"));
        assert!(error.contains(&format!("{expected} of the host")), "{error}");
        // In a namespace that has a name only, and in one that has a process only.
        lab.bare("bare", "10.99.0.30");
        lab.ip("bare", "link del bare");
        let namespace = lab.namespace("bare");
        lab.ip("host", &format!("link set by-hand netns {namespace}"));
        let error = refusal(&lab, "b", &spec(11, "mode=l2"));
        assert!(error.contains(&format!("{expected} in /run/netns/{namespace}")), "{error}");
        let holder = lab.namespace_holder();
        lab.ip("bare", &format!("link set by-hand netns {}", holder.pid()));
        let error = refusal(&lab, "c", &spec(11, "mode=l2"));
        let process = format!("{expected} of process {} (sleep)", holder.pid());
        assert!(error.contains(&process), "{error}");
        start(&lab, "d", 11, "mode=l3");
    });
}

#[test]
fn a_parent_of_macvlan_is_no_parent_of_ipvlan() {
    vm::run(|| {
        let lab = Lab::new(3);
        let macvlan = lab.start("macvlan", "10.99.0.11");
        let error = refusal(&lab, "ipvlan", &spec(12, "mode=l2"));
        let expected = "parent=lan0: it cannot have ipvlan children, since it has macvlan children, such as mc0 of container";
        assert!(error.contains(&format!("{expected} {}", macvlan.name)), "{error}");
        lab.delete(&macvlan);
        let ipvlan = start(&lab, "ipvlan-first", 12, "mode=l2");
        let error = refusal(&lab, "macvlan-second", "parent=lan0,ip=10.99.0.13/24");
        let expected = "parent=lan0: it cannot have macvlan children, since it has ipvlan children, such as mc0 of container";
        assert!(error.contains(&format!("{expected} {}", ipvlan.name)), "{error}");
        lab.delete(&ipvlan);
        lab.ip("host", "link add link lan0 name by-hand type macvlan");
        let error = refusal(&lab, "ipvlan-third", &spec(12, "mode=l2"));
        assert!(error.contains("such as by-hand of the host"), "{error}");
    });
}

#[test]
fn macvlan_on_a_kernel_that_does_not_tell_of_joins() {
    vm::run(|| {
        let lab = Lab::new(3);
        let capture = lab.capture();
        let container = lab.start("c", "10.99.0.11");
        let receiver = lab.receive_count(&container, GROUP, None, ALL);
        lab.wait_joined(&container, GROUP);
        wait_forwarded(&lab, &GROUP.to_string());
        let stream = lab.send_count(GROUP, SOURCES[0], 2500, ALL);
        assert!(stream.finish(Duration::from_secs(60)).status.success());
        assert_each_once("the container", &receiver.finish(), ALL);
        lab.wait_left(&container, GROUP);
        lab.assert_one_igmp_host(&capture.finish());
    });
}
