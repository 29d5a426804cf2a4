//! Queriers whose version, robustness or address is not what a host expects.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::time::Duration;

use crate::lab;
use crate::lab::{Change, Family, Igmp, Lab, PARENT, PATIENCE, SOURCES, SWITCH, wait_until};
use mcrun::igmp::wire::{Message, Query, Version};
use mcrun::mld::wire as mld;
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

/// The switch asks once, and not by itself.
fn ask(lab: &Lab, query: Query) {
    lab.run_in("sw", || {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(2))).expect("raw");
        socket.set_multicast_if_v4(&SWITCH).expect("interface");
        let message = Message::Query(query);
        let to = SocketAddrV4::new(message.destination(), 0).into();
        for packet in message.emit(1500) {
            socket.send_to(&packet, &to).expect("sent");
        }
    });
}

/// The same for MLD.
fn ask_mld(lab: &Lab, query: &mld::Query) {
    let from = lab.link_local("sw", "br0").expect("an address");
    lab.run_in("sw", || {
        // The kernel leaves the header to whoever opens this one.
        let raw = Protocol::from(libc::IPPROTO_RAW);
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(raw)).expect("raw");
        let index = nix::net::if_::if_nametoindex("br0").expect("the bridge");
        let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        for packet in query.emit_ipv6(from, all, 1, 1500) {
            let to = SocketAddrV6::new(all, 0, 0, index).into();
            socket.send_to(&packet, &to).expect("sent");
        }
    });
}

/// A general query of this version, whose other values make the kernel wait for one second only
/// until it forgets an older querier.
fn general(version: Version) -> Query {
    let second = Duration::from_secs(1);
    Query { version, qrv: 1, qqi: second, ..Query::general(second) }
}

/// The version that the host's kernel speaks on the LAN.
fn hosts_version(lab: &Lab) -> String {
    let text = lab::run(lab.enter("host", "cat").arg("/proc/net/igmp"));
    let line = text.lines().find(|line| line.split_whitespace().nth(1) == Some(PARENT));
    line.and_then(|line| line.split_whitespace().last()).expect("the interface").to_owned()
}

/// A querier that speaks version 2 once makes the host speak it, and the host comes back to
/// version 3 when its kernel does: minutes before it would with the values of the standard.
#[test]
fn joins_are_reported_in_the_version_that_the_hosts_kernel_speaks() {
    report_in_the_kernels_version(true);
}

/// What makes the host's kernel come back so soon was asked before there was a proxy to hear it.
#[test]
fn joins_are_reported_in_the_kernels_version_whatever_the_kernel_learned_before_the_proxy_began() {
    report_in_the_kernels_version(false);
}

fn report_in_the_kernels_version(proxy_learns: bool) {
    let lab = Lab::new(3);
    lab.ip("sw", "link set br0 type bridge mcast_querier 0");
    if !proxy_learns {
        ask(&lab, general(Version::V3));
    }
    let container = lab.start("c", "10.99.0.11");
    let member = container.member();
    if proxy_learns {
        ask(&lab, general(Version::V3));
    }
    ask(&lab, general(Version::V2));
    wait_until("the host speaks version 2", PATIENCE, || {
        (hosts_version(&lab) == "V2").then_some(())
    });
    let capture = lab.capture();
    let reported = |group: Ipv4Addr| {
        let seen = wait_until("the host has reported the group", PATIENCE, || {
            let seen = capture.igmp();
            seen.iter().any(|frame| frame.message.groups().contains(&group)).then_some(seen)
        });
        let about = seen.into_iter().filter(|frame| frame.message.groups().contains(&group));
        about
            .map(|frame| match frame.message {
                Igmp::Report { version, .. } => version,
                Igmp::ReportV3(_) => 3,
                other => panic!("{other:?}"),
            })
            .collect::<Vec<_>>()
    };
    let old = Ipv4Addr::new(232, 54, 0, 1);
    member.change(old, &Change::JoinSource(SOURCES[0]));
    assert!(reported(old).iter().all(|version| *version == 2), "{:?}", reported(old));
    ask(&lab, general(Version::V3));
    wait_until("the host speaks version 3 again", PATIENCE, || {
        (hosts_version(&lab) == "V3").then_some(())
    });
    for n in 2..6 {
        let new = Ipv4Addr::new(232, 54, 0, n);
        member.change(new, &Change::JoinSource(SOURCES[0]));
        let versions = reported(new);
        assert!(versions.iter().all(|version| *version == 3), "{new}: {versions:?}");
    }
}

/// A querier that trusts its LAN little (robustness 7) makes hosts say everything seven times. A
/// container that has just died says its leaves when its rules are gone.
#[test]
fn nothing_of_dying_containers_leaves_with_their_mac_under_a_querier_of_robustness_7() {
    let second = Duration::from_secs(1);
    let ask = |lab: &Lab| ask(lab, Query { qrv: 7, ..Query::general(second) });
    leave_nothing_of_dying_containers::<Ipv4Addr>(3, ask, "/counters/queries_relayed");
}

#[test]
fn nothing_of_dying_containers_leaves_with_their_mac_under_an_mld_querier_of_robustness_7() {
    let second = Duration::from_secs(1);
    let ask = |lab: &Lab| ask_mld(lab, &mld::Query { qrv: 7, ..mld::Query::general(second) });
    leave_nothing_of_dying_containers::<Ipv6Addr>(2, ask, "/mld/counters/queries_relayed");
}

/// `counter` is where the status of an interface has the number of queries that were relayed.
fn leave_nothing_of_dying_containers<A: Family>(version: u8, ask: impl Fn(&Lab), counter: &str) {
    const CONTAINERS: u8 = 8;
    let lab = A::lab(version);
    let capture = A::capture(&lab);
    let containers: Vec<_> =
        (1..=CONTAINERS).map(|n| A::start(&lab, &format!("c{n}"), 20 + n)).collect();
    let relayed = |container: &lab::Container| {
        let shown = lab::json(&mut lab.mcrun(["inspect", "--json", &container.name]));
        shown["status"]["interfaces"][0].pointer(counter).and_then(Value::as_u64).unwrap_or(0)
    };
    let before: Vec<_> = containers.iter().map(relayed).collect();
    ask(&lab);
    for (container, before) in containers.iter().zip(before) {
        wait_until("the query is relayed", PATIENCE, || {
            (relayed(container) > before).then_some(())
        });
    }
    let members: Vec<_> = containers.iter().map(lab::Container::member_of::<A>).collect();
    for (member, first) in members.iter().zip((0..).step_by(8)) {
        for m in 0..8 {
            member.change(A::group(first + m), &Change::Join);
        }
    }
    lab.wait_forwarded(A::group(CONTAINERS * 8 - 1));
    drop(members);
    for container in &containers {
        lab.delete(container);
    }
    lab.assert_clean(PATIENCE);
    A::assert_one_host(&lab, &capture);
}

/// The default of the Linux bridge and of many switches: a querier without an address takes no part
/// in an election, and the switches that only snoop live on it.
#[test]
fn a_querier_without_an_address_is_shown_as_one() {
    let lab = Lab::new(3);
    lab.ip("sw", "link set br0 type bridge mcast_query_use_ifaddr 0");
    let container = lab.start("c", "10.99.0.11");
    lab.query();
    let querier = wait_until("the querier is shown", PATIENCE, || {
        let querier = lab.ps(&container)?["interfaces"][0]["querier"].clone();
        querier.is_object().then_some(querier)
    });
    assert_eq!(querier["address"], "0.0.0.0", "{querier}");
    assert_eq!(querier["version"], 3, "{querier}");
    let ps = lab::run(&mut lab.mcrun(["ps"]));
    assert!(ps.contains("0.0.0.0 v3 (proxy querier)"), "{ps}");
    let groups = lab::run(&mut lab.mcrun(["groups"]));
    assert!(groups.contains("lan0: querier 0.0.0.0 (proxy querier, IGMPv3)"), "{groups}");
    let inspect = lab::run(&mut lab.mcrun(["inspect", &container.name]));
    assert!(inspect.contains("querier   0.0.0.0 IGMPv3 (proxy querier)"), "{inspect}");
    // One with an address wins, whatever the other says.
    lab.ip("sw", "link set br0 type bridge mcast_query_use_ifaddr 1");
    lab.query();
    wait_until("the other querier is shown", PATIENCE, || {
        let shown = lab.ps(&container)?["interfaces"][0]["querier"]["address"].clone();
        (shown == SWITCH.to_string()).then_some(())
    });
}
