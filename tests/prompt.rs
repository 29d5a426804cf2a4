//! The first report of a join: sent by the proxy without delay, followed by the kernel's own, and
//! never for a group that the host has joined already. Without notifications there are the kernel's
//! alone.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::lab;
use crate::lab::{Capture, Change, Igmp, IgmpFrame, Lab, PATIENCE, RecordKind, run, wait_until};

const FIRST: Ipv4Addr = Ipv4Addr::new(239, 6, 1, 1);
const MARKER: Ipv4Addr = Ipv4Addr::new(239, 6, 1, 2);
/// Reports of a new membership by the kernel (robustness variable 2).
const KERNELS: usize = 2;

/// And the proxy's, which takes a notification.
fn reports() -> usize {
    KERNELS + usize::from(lab::notifications())
}

/// Unsolicited joins of a group that were seen.
fn joins(capture: &Capture, wanted: Ipv4Addr) -> usize {
    let of = |message: &Igmp| match message {
        Igmp::Report { version, group } => usize::from(*group == wanted && *version == 2),
        Igmp::ReportV3(records) => records
            .iter()
            .filter(|record| record.group == wanted)
            .inspect(|record| assert!(record.sources.is_empty(), "{record:?}"))
            .filter(|record| record.kind == RecordKind::ToExclude)
            .count(),
        _ => 0,
    };
    capture.igmp().iter().map(|frame| of(&frame.message)).sum()
}

fn wait_reported(capture: &Capture, group: Ipv4Addr, times: usize) {
    wait_until("the join is reported and repeated", PATIENCE, || {
        (joins(capture, group) >= times).then_some(())
    });
}

#[test]
fn only_the_hosts_first_join_is_reported() {
    let lab = Lab::new(3);
    let (one, two) = (lab.start("one", "10.99.0.11"), lab.start("two", "10.99.0.12"));
    let capture = lab.capture();
    let long = Duration::from_secs(60);
    let _first = lab.receive(&one, FIRST, None, long);
    wait_reported(&capture, FIRST, reports());
    let _second = lab.receive(&two, FIRST, None, long);
    lab.wait_joined(&two, FIRST);
    // What is said of the marker is said after anything that could be said of the second join.
    let _marker = lab.receive(&two, MARKER, None, long);
    wait_reported(&capture, MARKER, reports());
    assert_eq!(joins(&capture, FIRST), reports());
    assert_eq!(joins(&capture, MARKER), reports());
    lab.assert_one_igmp_host(&capture.finish());
}

#[test]
fn a_join_is_reported_in_the_version_of_the_lans_querier() {
    let lab = Lab::new(2);
    let container = lab.start("one", "10.99.0.11");
    let capture = lab.capture();
    let _receiver = lab.receive(&container, FIRST, None, Duration::from_secs(60));
    wait_reported(&capture, FIRST, reports());
    let seen = capture.finish();
    assert!(!seen.iter().any(|frame| matches!(frame.message, Igmp::ReportV3(_))), "{seen:?}");
    lab.assert_one_igmp_host(&seen);
}

#[test]
fn without_notifications_the_containers_report_is_followed_until_they_are_turned_on() {
    let lab = Lab::new(3);
    let set = |on: bool| {
        let text = format!("[proxy]\nnotifications = {on}\n");
        fs::write(lab.config_dir().join("mcrun.toml"), text).expect("mcrun.toml");
    };
    set(false);
    let container = lab.start("one", "10.99.0.11");
    let capture = lab.capture();
    let member = container.member();
    let report_of = |group, times| {
        member.change(group, &Change::Join);
        lab.wait_joined(&container, group);
        wait_reported(&capture, group, times);
        member.change(group, &Change::Leave);
        wait_until("it is left", PATIENCE, || lab.upstream(group).is_none().then_some(()));
        assert_eq!(joins(&capture, group), times, "{group}");
    };
    report_of(FIRST, KERNELS);

    let before = lab.proxy_pid(&container);
    assert_eq!(run(&mut lab.mcrun(["reload"])), "", "nothing has changed");
    set(true);
    assert_eq!(run(&mut lab.mcrun(["reload"])).trim(), container.id);
    assert_ne!(lab.proxy_pid(&container), before);
    report_of(MARKER, KERNELS + 1);
    lab.assert_one_igmp_host(&capture.finish());
}

#[test]
fn who_zaps_has_the_new_stream_asked_for_before_the_old_one_is_left() {
    let lab = Lab::new(2);
    for (name, more, join_first) in [("free", "", true), ("limited", ",max-groups=1", false)] {
        let attachment = format!("parent=lan0,ip=10.99.0.11/24{more}");
        let container = lab.start_with(name, &[&attachment], &[]);
        let capture = lab.capture();
        let member = container.member();
        member.change(FIRST, &Change::Join);
        lab.wait_joined(&container, FIRST);
        wait_reported(&capture, FIRST, reports());
        let before = joins(&capture, FIRST);
        let seen = capture.igmp().len();
        // The proxy finds both at once, as it does when the container is quick.
        let proxy = lab.proxy_pid(&container);
        signal(proxy, libc::SIGSTOP);
        member.change(FIRST, &Change::Leave);
        member.change(MARKER, &Change::Join);
        signal(proxy, libc::SIGCONT);
        wait_reported(&capture, MARKER, reports());
        wait_until("the old one is left", PATIENCE, || {
            let left = |frame: &IgmpFrame| frame.message == Igmp::Leave { group: FIRST };
            capture.igmp().iter().any(left).then_some(())
        });
        let order: Vec<_> = capture
            .igmp()
            .split_off(seen)
            .into_iter()
            .filter_map(|frame| match frame.message {
                Igmp::Leave { group } => Some((false, group)),
                Igmp::Report { group, .. } => Some((true, group)),
                _ => None,
            })
            .collect();
        let first = |said| order.iter().position(|seen| *seen == said).expect("on the wire");
        // Without notifications the container's report says both, in the order of its kernel.
        if lab::notifications() {
            let join_was_first = first((true, MARKER)) < first((false, FIRST));
            assert_eq!(join_was_first, join_first, "{name}: {order:?}");
        }
        assert_eq!(joins(&capture, FIRST), before, "{name}: nothing more of what is left");
        lab.assert_one_igmp_host(&capture.finish());
        lab.delete(&container);
    }
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: no pointers are passed.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}
