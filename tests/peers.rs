//! Real queriers and routers on the LAN, real sockets in the container.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use crate::lab;
use crate::lab::{Change, Container, FAR, Lab, PATIENCE, ROUTER, SOURCES, SWITCH, wait_until};
use mcrun::multicast::{FilterMode, SourceFilter};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 9, 1, 1);
const SSM: Ipv4Addr = Ipv4Addr::new(232, 9, 1, 1);

fn source(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, n)
}

fn set(filter: SourceFilter) -> Change {
    Change::Set(filter)
}

/// Makes changes by several sockets of one container, and after each waits until the host's kernel
/// has joined exactly what the container's kernel then asks for.
fn follow(lab: &Lab, container: &Container, group: Ipv4Addr, changes: &[(usize, Change)]) {
    let members = [container.member(), container.member()];
    let mut filters: Vec<Option<SourceFilter>> = vec![None, None];
    for (step, (at, change)) in changes.iter().enumerate() {
        members[*at].change(group, change);
        filters[*at] = lab::after(filters[*at].take(), change);
        let asked = lab::union(&filters);
        let excluding =
            filters.iter().flatten().filter(|f| f.mode == FilterMode::Exclude).count() as u32;
        assert_eq!(
            lab.wanted(container, group, excluding),
            asked,
            "the container's kernel after step {step}, {change:?}"
        );
        let what = format!("the host has joined {asked:?} after step {step}, {change:?}");
        wait_until(&what, PATIENCE, || (lab.upstream(group) == asked).then_some(()));
    }
    // What is closed is left.
    drop(members);
    wait_until("all is left", PATIENCE, || lab.upstream(group).is_none().then_some(()));
}

fn every_operation(igmp_version: u8) {
    use Change::{Block, Join, JoinSource, Leave, LeaveSource, Unblock};
    let lab = Lab::new(igmp_version);
    let container = lab.start("c", "10.99.0.11");
    let capture = lab.capture();
    let [a, b, c, d] = [3, 4, 5, 6].map(source);
    let one = [
        Join,
        Block(a),
        Block(b),
        Unblock(a),
        Unblock(b),
        Leave,
        JoinSource(a),
        JoinSource(b),
        LeaveSource(a),
        LeaveSource(b),
        JoinSource(a),
        set(SourceFilter::include([b, c])),
        set(SourceFilter::exclude([a])),
        set(SourceFilter::exclude([a, b, c])),
        set(SourceFilter::any()),
        set(SourceFilter::include([a])),
        set(SourceFilter::none()),
        Join,
        set(SourceFilter::exclude([d])),
        Leave,
    ];
    follow(&lab, &container, GROUP, &one.map(|change| (0, change)));
    let two = [
        (0, Join),
        (0, Block(a)),
        (0, Block(b)),
        (1, JoinSource(a)),
        (1, JoinSource(c)),
        (1, set(SourceFilter::exclude([b, c]))),
        (0, Unblock(a)),
        (0, Leave),
        (1, set(SourceFilter::include([d]))),
        (0, JoinSource(a)),
        (0, JoinSource(d)),
        (1, LeaveSource(d)),
        (0, set(SourceFilter::exclude([a, d]))),
        (1, Join),
        (0, Leave),
        (0, JoinSource(b)),
    ];
    follow(&lab, &container, GROUP, &two);
    let channels = [
        (0, JoinSource(a)),
        (1, JoinSource(b)),
        (1, JoinSource(a)),
        (0, LeaveSource(a)),
        (0, JoinSource(c)),
        (1, set(SourceFilter::include([c, d]))),
        (0, Leave),
    ];
    follow(&lab, &container, SSM, &channels);
    lab.assert_one_igmp_host(&capture.finish());
}

#[test]
fn every_operation_of_a_socket_is_the_hosts_beside_a_v3_querier() {
    every_operation(3);
}

/// Without notifications one of ten runs ends with a group joined that all sockets have left: that is
/// not explained yet. See `once` in the Makefile.
mod operations {
    #[test]
    fn every_operation_of_a_socket_is_the_hosts_beside_a_v2_querier() {
        super::every_operation(2);
    }
}

/// A stream for two containers on a port of this kind; one leaves, one leaves and comes back.
fn a_port(igmp_version: u8, fast_leave: bool) {
    let lab = Lab::new(igmp_version);
    lab.set_fast_leave(fast_leave);
    let (stayer, leaver) = (lab.start("stayer", "10.99.0.11"), lab.start("leaver", "10.99.0.12"));
    let capture = lab.capture();
    let forwarded = || lab.forwarded().contains(&GROUP.to_string());
    let stays = lab.stream(&stayer, GROUP, 500);
    lab.receive_count(&leaver, GROUP, None, 500).assert_none_lost(500);
    lab.wait_left(&leaver, GROUP);
    let member = leaver.member();
    for change in [Change::Join, Change::Leave, Change::Join] {
        member.change(GROUP, &change);
    }
    lab.wait_joined(&leaver, GROUP);
    // Longer than the switch would forward for a port whose last member has left.
    lab.receive_count(&stayer, GROUP, None, 1500).assert_none_lost(1500);
    stays.assert_whole();
    lab.wait_left(&stayer, GROUP);
    assert!(forwarded(), "one has come back");
    drop(member);
    wait_until("the switch stops", PATIENCE, || (!forwarded()).then_some(()));
    // Nobody is left to answer when the switch asks for the group, and a new join is good at once.
    lab.assert_stream_arrives(&leaver, GROUP);
    lab.assert_one_igmp_host(&capture.finish());
}

#[test]
fn a_v2_port_with_fast_leave() {
    a_port(2, true);
}

#[test]
fn a_v2_port_without_fast_leave() {
    a_port(2, false);
}

#[test]
fn a_v3_port_with_fast_leave() {
    a_port(3, true);
}

#[test]
fn a_v3_port_without_fast_leave() {
    a_port(3, false);
}

/// What `mcrun ps --json` says of the querier of the container's interface.
fn querier(lab: &Lab, container: &Container) -> Value {
    lab.ps(container).expect("mcrun ps knows the container")["interfaces"][0]["querier"].clone()
}

#[test]
fn a_querier_that_goes_away_and_comes_back_finds_everything_joined() {
    let lab = Lab::new(3);
    let container = lab.start("c", "10.99.0.11");
    let _stream = lab.send(GROUP, SOURCES[0], 500);
    let member = container.member();
    member.change(GROUP, &Change::Join);
    lab.wait_joined(&container, GROUP);
    lab.query();
    wait_until("the querier is known", PATIENCE, || {
        (querier(&lab, &container)["address"] == SWITCH.to_string()).then_some(())
    });
    let capture = lab.capture();
    lab.ip("sw", "link set br0 type bridge mcast_querier 0");
    wait_until("it has not asked for a while", PATIENCE, || {
        querier(&lab, &container)["last_query_s"].as_u64().filter(|age| *age >= 3)
    });
    assert!(lab.upstream(GROUP).is_some());
    assert_eq!(lab.groups(&container)[0]["status"], "joined");
    for frame in capture.finish() {
        if let lab::Igmp::ReportV3(records) = &frame.message {
            assert!(records.iter().all(|r| r.kind != lab::RecordKind::ToInclude), "{frame:?}");
        }
        assert!(!matches!(frame.message, lab::Igmp::Query { .. }), "nobody else asks: {frame:?}");
    }
    let capture = lab.capture();
    lab.ip("sw", "link set br0 type bridge mcast_querier 1");
    wait_until("it asks again", PATIENCE, || {
        querier(&lab, &container)["last_query_s"].as_u64().filter(|age| *age < 3)
    });
    wait_until("the host answers", PATIENCE, || {
        capture.igmp().iter().any(|f| f.message.groups().contains(&GROUP)).then_some(())
    });
    // The switch goes by what it has learned when its querier is back for half a second.
    let received = |time| lab.receive(&container, GROUP, None, time).finish();
    wait_until("the stream is back", PATIENCE, || {
        (received(Duration::from_millis(200)).packets > 0).then_some(())
    });
    lab.receive_count(&container, GROUP, None, 1000).assert_none_lost(1000);
    lab.assert_one_igmp_host(&capture.finish());
}

/// The host hears queries for the groups that any of its containers has joined, and all containers
/// are asked.
#[test]
fn a_query_for_a_neighbours_group_does_not_leave_the_container_that_is_not_in_it() {
    let lab = Lab::new(2);
    let container = lab.start("c", "10.99.0.11");
    let neighbour = lab.start("neighbour", "10.99.0.12");
    let member = neighbour.member();
    member.change(GROUP, &Change::Join);
    lab.wait_joined(&neighbour, GROUP);
    wait_until("the switch forwards", PATIENCE, || {
        lab.forwarded().contains(&GROUP.to_string()).then_some(())
    });
    let capture = lab.capture();
    let relayed = || {
        let shown = lab::json(&mut lab.mcrun(["inspect", "--json", &container.name]));
        shown["status"]["interfaces"][0]["counters"]["queries_relayed"].as_u64().unwrap_or(0)
    };
    let before = relayed();
    // A version 2 query for 239.9.1.1, with its checksum, from the switch.
    let query = [0x11, 10, 0xfe, 0xea, 239, 9, 1, 1];
    let send = || {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(2))).expect("raw");
        socket.set_multicast_if_v4(&SWITCH).expect("interface");
        socket.send_to(&query, &SocketAddrV4::new(GROUP, 0).into()).expect("sent");
    };
    lab.run_in("sw", send);
    // Sooner than the switch asks by itself.
    wait_until("the query is relayed", Duration::from_secs(5), || {
        (relayed() > before).then_some(())
    });
    wait_until("the host answers", PATIENCE, || {
        capture.igmp().iter().any(|f| f.message.groups().contains(&GROUP)).then_some(())
    });
    lab.assert_one_igmp_host(&capture.finish());
}

/// What a command prints: standard output and standard error.
fn printed(lab: &Lab, arguments: &[&str]) -> (String, String) {
    let output = lab::output(&mut lab.mcrun(arguments));
    assert!(output.status.success(), "mcrun {arguments:?}: {output:?}");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(output.stdout), text(output.stderr))
}

#[test]
fn an_old_querier_is_shown_and_warned_of_while_sources_are_wanted() {
    let lab = Lab::new(3);
    let container = lab.start("c", "10.99.0.11");
    let member = container.member();
    member.change(SSM, &Change::JoinSource(SOURCES[0]));
    lab.wait_joined(&container, SSM);
    let speaks = |version: u8| {
        lab.ip("sw", &format!("link set br0 type bridge mcast_igmp_version {version}"));
        lab.query();
        wait_until("the querier's version is known", PATIENCE, || {
            (querier(&lab, &container)["version"] == version).then_some(())
        });
        let line = format!("{SWITCH} v{version}");
        let (table, warned) = printed(&lab, &["ps"]);
        assert!(table.contains("QUERIER") && table.contains(&line), "{table}");
        let (header, also_warned) = printed(&lab, &["groups"]);
        assert!(header.contains(&format!("querier {SWITCH} (IGMPv{version})")), "{header}");
        assert_eq!(warned, also_warned);
        let shown = lab.ps(&container).expect("shown");
        let in_groups = lab.groups(&container)[0]["warnings"].clone();
        assert_eq!(shown["warnings"], in_groups, "{shown}");
        (warned, shown["warnings"].clone())
    };
    assert_eq!(speaks(3), (String::new(), Value::Null));
    let (warned, warnings) = speaks(2);
    let expected = format!(
        "mc0: the querier {SWITCH} on lan0 speaks IGMPv2, which has no source lists: the LAN \
         forwards {SSM} from any source"
    );
    assert_eq!(warnings, serde_json::json!([expected]));
    assert_eq!(warned, format!("mcrun: {}: {expected}\n", container.name));
    member.change(GROUP, &Change::Join);
    member.change(SSM, &Change::Leave);
    lab.wait_left(&container, SSM);
    lab.wait_joined(&container, GROUP);
    assert_eq!(speaks(2), (String::new(), Value::Null), "no sources, no warning");
    assert_eq!(speaks(3), (String::new(), Value::Null));
}

#[test]
fn pimd_routes_a_channel_to_the_container_for_as_long_as_it_is_wanted() {
    let lab = Lab::new(3);
    let capture = lab.capture();
    let _router = lab.start_router();
    let container = lab.start("c", "10.99.0.11");
    let _stream = lab.send_from_far(SSM, 200);
    let receiver = lab.receive_count(&container, SSM, Some(FAR), 500);
    lab.wait_joined(&container, SSM);
    wait_until("the router forwards", PATIENCE, || lab.routed(SSM).then_some(()));
    let reception = receiver.finish();
    assert!(reception.packets >= 500, "{reception:?}");
    assert_eq!((reception.lost, reception.duplicated), (0, 0), "{reception:?}");
    assert_eq!(reception.sources, BTreeSet::from([FAR]));
    lab.wait_left(&container, SSM);
    wait_until("the router stops", PATIENCE, || (!lab.routed(SSM)).then_some(()));
    // pimd asks every 12 seconds.
    wait_until("the router is known as the querier", Duration::from_secs(30), || {
        let known = querier(&lab, &container);
        (known["address"] == ROUTER.to_string() && known["version"] == 3).then_some(())
    });
    lab.assert_one_igmp_host(&capture.finish());
}
