//! What a container joins, and what the host has joined for it.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use mcrun::attachment::IgmpMode;
use mcrun::multicast::{FilterMode, GroupRule, SourceFilter};
use mcrun::proxy::{MembershipStatus, ProxyState};
use mcrun::sys::sockopt;

use super::fake_container::{FakeContainer, GROUP, SSM, source, wait_joined, wait_left};
use crate::lab;
use crate::lab::{Igmp, Lab, PARENT, PATIENCE, RecordKind, run, wait_until};

#[test]
fn a_join_and_a_leave_of_the_container_are_the_hosts_own_on_the_wire() {
    for version in [2, 3] {
        let lab = Lab::new(version);
        let capture = lab.capture();
        let container = FakeContainer::new(&lab, "c1", 11);
        let proxy = container.serve(&container.config());
        assert_eq!(proxy.status().state, ProxyState::Running, "{:?}", proxy.status().warnings());
        let socket = container.join(GROUP);
        wait_joined(&lab, GROUP);
        let text = GROUP.to_string();
        wait_until("the switch forwards", PATIENCE, || {
            lab.forwarded().contains(&text).then_some(())
        });
        let entry = proxy.wait_group(GROUP, MembershipStatus::Joined);
        assert_eq!((entry.mode, entry.version), (FilterMode::Exclude, 3));
        let querier = wait_until("a query of the switch is heard", PATIENCE, || {
            lab.query();
            proxy.status().interfaces[0].querier.clone()
        });
        assert_eq!((querier.address, querier.version), (lab::SWITCH.into(), version));

        drop(socket);
        wait_left(&lab, GROUP);
        wait_until("the switch stops", PATIENCE, || {
            (!lab.forwarded().contains(&text)).then_some(())
        });
        assert_eq!(proxy.group(GROUP), None);
        let seen = capture.finish();
        assert!(seen.iter().any(|f| f.message.groups().contains(&GROUP)));
        lab.assert_one_igmp_host(&seen);
    }
}

#[test]
fn a_source_specific_join_is_never_wider_on_the_wire() {
    let lab = Lab::new(3);
    let capture = lab.capture();
    let (first, second) = (FakeContainer::new(&lab, "c1", 11), FakeContainer::new(&lab, "c2", 12));
    let (p1, _p2) = (first.serve(&first.config()), second.serve(&second.config()));
    let one = first.join_source(SSM, source(3));
    let expect = |sources: &[u8]| {
        let wanted: BTreeSet<_> = sources.iter().map(|n| format!("{SSM}@{}", source(*n))).collect();
        wait_until(&format!("the switch forwards {wanted:?}"), PATIENCE, || {
            let of_group: BTreeSet<_> =
                lab.forwarded().into_iter().filter(|g| g.starts_with("232.")).collect();
            // The bridge lists the group itself beside its sources.
            let sources: BTreeSet<_> = of_group.into_iter().filter(|g| g.contains('@')).collect();
            (sources == wanted).then_some(())
        });
    };
    expect(&[3]);
    let entry = p1.wait_group(SSM, MembershipStatus::Joined);
    assert_eq!((entry.mode, entry.sources), (FilterMode::Include, vec![source(3).into()]));
    let two = second.join_source(SSM, source(4));
    expect(&[3, 4]);
    drop(two);
    expect(&[3]);
    drop(one);
    expect(&[]);
    let seen = capture.finish();
    lab.assert_one_igmp_host(&seen);
    for frame in &seen {
        let Igmp::ReportV3(records) = &frame.message else { panic!("{frame:?}") };
        for record in records.iter().filter(|r| r.group == SSM) {
            assert!(
                !matches!(record.kind, RecordKind::IsExclude | RecordKind::ToExclude),
                "{frame:?}"
            );
        }
    }
}

#[test]
fn an_exclude_list_reaches_the_wire_as_it_is() {
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    let proxy = container.serve(&container.config());
    let capture = lab.capture();
    let socket = container.socket();
    sockopt::join_source_group(&socket, container.index, GROUP, source(9)).expect("join");
    sockopt::exclude_sources(&socket, container.index, GROUP, [source(9)]).expect("filter");
    wait_until("the list is told", PATIENCE, || {
        proxy.group(GROUP).filter(|g| g.mode == FilterMode::Exclude && g.sources == [source(9)])
    });
    let filters = wait_until("the host's kernel has it", PATIENCE, || {
        lab.host_filters().get(&GROUP).cloned()
    });
    assert_eq!(filters.get(&source(9)), Some(&(0, 1)), "{filters:?}");
    wait_until("the report is on the wire", PATIENCE, || {
        capture.igmp().iter().any(|f| f.message.groups().contains(&GROUP)).then_some(())
    });
    for frame in capture.finish() {
        let Igmp::ReportV3(records) = &frame.message else { panic!("{frame:?}") };
        for record in records.iter().filter(|r| r.group == GROUP) {
            let wide = matches!(record.kind, RecordKind::IsExclude | RecordKind::ToExclude)
                && record.sources.is_empty();
            assert!(!wide, "{frame:?}");
        }
    }
}

#[test]
fn groups_are_spread_over_sockets_and_too_long_lists_recover() {
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    run(container.command("sh").args([
        "-c",
        "echo 1000 >/proc/sys/net/ipv4/igmp_max_memberships; echo 64 >/proc/sys/net/ipv4/igmp_max_msf",
    ]));
    let proxy = container.serve(&container.config());
    let socket = container.socket();
    let groups: BTreeSet<_> = (0..=255).map(|n| Ipv4Addr::new(239, 5, 2, n)).collect();
    for group in &groups {
        sockopt::join_group(&socket, container.index, *group).expect("join");
    }
    wait_until("all are joined", PATIENCE, || lab.host_joins().is_superset(&groups).then_some(()));
    let status = proxy.status();
    assert_eq!(status.interfaces[0].groups.len(), 256);
    assert!(status.interfaces[0].groups.iter().all(|g| g.status == MembershipStatus::Joined));
    drop(socket);
    wait_until("all are left", PATIENCE, || lab.host_joins().is_disjoint(&groups).then_some(()));

    // 25 sources fit no socket of the host's default, but three do.
    let many = SourceFilter::include((1..=25).map(|n| Ipv4Addr::new(10, 7, 0, n)));
    let socket = container.join_source(SSM, Ipv4Addr::new(10, 7, 0, 1));
    lab::set_source_filter(&socket, container.index, SSM, &many).expect("filter");
    wait_until("all sources are joined", PATIENCE, || {
        (lab.host_filters().get(&SSM)?.len() == 25).then_some(())
    });
    drop(socket);
    wait_left(&lab, SSM);

    // 12 excluded sources fit no socket until the host allows it.
    let excluded = SourceFilter::exclude((1..=12).map(|n| Ipv4Addr::new(10, 7, 0, n)));
    let socket = container.join(GROUP);
    wait_joined(&lab, GROUP);
    lab::set_source_filter(&socket, container.index, GROUP, &excluded).expect("filter");
    let failed = proxy.wait_group(GROUP, MembershipStatus::Failed);
    assert!(failed.reason.as_ref().is_some_and(|r| r.contains("igmp_max_msf")), "{failed:?}");
    assert!(lab.host_joins().contains(&GROUP), "what was joined stays");
    run(lab.enter("host", "sh").args(["-c", "echo 20 >/proc/sys/net/ipv4/igmp_max_msf"]));
    proxy.wait_group(GROUP, MembershipStatus::Joined);
    assert_eq!(lab.host_filters().get(&GROUP).map(|f| f.len()), Some(12));
}

#[test]
fn the_frames_of_a_group_that_was_left_stay_out_while_a_neighbour_gets_them() {
    let lab = Lab::new(3);
    let (leaves, stays) = (FakeContainer::new(&lab, "c1", 11), FakeContainer::new(&lab, "c2", 12));
    let (first, _second) = (leaves.serve(&leaves.config()), stays.serve(&stays.config()));
    // How many frames arrive at one container while the neighbour gets a hundred.
    let arrive = || {
        let before = (leaves.received(), stays.received());
        wait_until("the neighbour gets the stream", PATIENCE, || {
            (stays.received() >= before.1 + 100).then_some(())
        });
        leaves.received() - before.0
    };
    let _stream = lab.send(GROUP, source(3), 1000);
    let _neighbour = stays.join(GROUP);
    // Twice, since what makes the filter anew is done and taken back in turns.
    for _ in 0..2 {
        let viewer = leaves.join(GROUP);
        first.wait_group(GROUP, MembershipStatus::Joined);
        wait_until("the stream arrives", PATIENCE, || (arrive() > 80).then_some(()));
        drop(viewer);
        // Other frames now and then are none of the stream's.
        wait_until("the stream stays out", PATIENCE, || (arrive() < 20).then_some(()));
    }
    let addresses =
        fs::read_to_string(format!("/proc/{}/net/dev_mcast", leaves.pid())).expect("file");
    assert!(!addresses.contains("01005e050101"), "{addresses}");
}

#[test]
fn denied_groups_stay_off_the_lan_and_are_shown() {
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    let mut config = container.config();
    config.interfaces[0].policy.deny =
        vec![GroupRule { groups: "239.5.0.0/16".parse().expect("net"), sources: None }];
    let proxy = container.serve(&config);
    let _denied = container.join(GROUP);
    let allowed = Ipv4Addr::new(239, 6, 1, 1);
    let _allowed = container.join(allowed);
    wait_joined(&lab, allowed);
    let entry = proxy.wait_group(GROUP, MembershipStatus::Denied);
    assert!(entry.reason.as_ref().is_some_and(|r| r.contains("239.5.0.0/16")), "{entry:?}");
    assert!(!lab.host_joins().contains(&GROUP));
}

#[test]
fn a_native_interface_is_left_alone_and_observed() {
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    let mut config = container.config();
    config.interfaces[0].igmp = IgmpMode::Native;
    let proxy = container.serve(&config);
    let capture = lab.capture();
    let _asm = container.join(GROUP);
    let _ssm = container.join_source(SSM, source(3));
    let entry = proxy.wait_group(SSM, MembershipStatus::Joined);
    assert_eq!((entry.mode, entry.sources), (FilterMode::Include, vec![source(3).into()]));
    assert_eq!(proxy.group(GROUP).map(|g| g.mode), Some(FilterMode::Exclude));
    assert_eq!(proxy.status().state, ProxyState::Running);
    assert_eq!(run(container.command("nft").args(["list", "ruleset"])), "");
    assert!(!lab.host_joins().contains(&GROUP));
    wait_until("the container reports by itself", PATIENCE, || {
        capture.igmp().iter().any(|f| f.mac != lab.host_mac()).then_some(())
    });
}

#[test]
fn two_interfaces_of_a_container_are_told_apart() {
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    let pid = container.pid();
    let second = format!("link add link {PARENT} name mc1 netns {pid} type macvlan mode bridge");
    lab.ip("host", &second);
    let mut config = container.config();
    let mut other = config.interfaces[0].clone();
    other.name = "mc1".into();
    other.index = container
        .ns
        .run(|| nix::net::if_::if_nametoindex("mc1").expect("the link"))
        .expect("entered");
    let index = other.index;
    config.interfaces.push(other);
    let proxy = container.serve(&config);
    container.ip("link set mc1 up");
    let narrow = container.join_source(SSM, source(3));
    let socket = container.socket();
    sockopt::join_source_group(&socket, index, SSM, source(4)).expect("join");
    let both: BTreeSet<_> = [source(3), source(4)].into();
    let sources = || lab.host_filters().get(&SSM).map(|f| f.keys().copied().collect());
    wait_until("both are joined", PATIENCE, || (sources() == Some(both.clone())).then_some(()));
    let interfaces = proxy.status().interfaces;
    let told = |at: usize| -> Vec<Vec<IpAddr>> {
        interfaces[at].groups.iter().map(|g| g.sources.clone()).collect()
    };
    assert_eq!((told(0), told(1)), (vec![vec![source(3).into()]], vec![vec![source(4).into()]]));
    drop(narrow);
    wait_until("one is left", PATIENCE, || (sources() == Some([source(4)].into())).then_some(()));
}

#[test]
fn an_upstream_without_an_address_is_warned_of() {
    let lab = Lab::new(3);
    lab.ip("host", &format!("addr flush dev {PARENT}"));
    let container = FakeContainer::new(&lab, "c1", 11);
    let proxy = container.serve(&container.config());
    let warnings = proxy.status().warnings();
    assert!(warnings.iter().any(|w| w.contains("0.0.0.0") && w.contains(PARENT)), "{warnings:?}");
    let _socket = container.join(GROUP);
    wait_joined(&lab, GROUP);
}
