//! Real queriers and routers on the LAN, real sockets in the container.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::lab;
use crate::lab::frames::{FrameSender, Way};
use crate::lab::{Change, Container, FAR, Family, Lab, PATIENCE, ROUTER, wait_until};
use mcrun::multicast::{FilterMode, SourceFilter};
use serde_json::Value;

const SSM: Ipv4Addr = Ipv4Addr::new(232, 9, 1, 1);

/// Makes changes by several sockets of one container, and after each waits until the host's kernel
/// has joined exactly what the container's kernel then asks for.
fn follow<A: Family>(lab: &Lab, container: &Container, group: A, changes: &[(usize, Change<A>)]) {
    let members = [container.member_of::<A>(), container.member_of::<A>()];
    let mut filters: Vec<Option<SourceFilter<A>>> = vec![None, None];
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

fn every_operation<A: Family>(version: u8) {
    use Change::{Block, Join, JoinSource, Leave, LeaveSource, Set, Unblock};
    let lab = A::lab(version);
    let container = A::start(&lab, "c", 11);
    let capture = A::capture(&lab);
    let [a, b, c, d] = [3, 4, 5, 6].map(A::station);
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
        Set(SourceFilter::include([b, c])),
        Set(SourceFilter::exclude([a])),
        Set(SourceFilter::exclude([a, b, c])),
        Set(SourceFilter::any()),
        Set(SourceFilter::include([a])),
        Set(SourceFilter::none()),
        Join,
        Set(SourceFilter::exclude([d])),
        Leave,
    ];
    follow(&lab, &container, A::group(1), &one.map(|change| (0, change)));
    let two = [
        (0, Join),
        (0, Block(a)),
        (0, Block(b)),
        (1, JoinSource(a)),
        (1, JoinSource(c)),
        (1, Set(SourceFilter::exclude([b, c]))),
        (0, Unblock(a)),
        (0, Leave),
        (1, Set(SourceFilter::include([d]))),
        (0, JoinSource(a)),
        (0, JoinSource(d)),
        (1, LeaveSource(d)),
        (0, Set(SourceFilter::exclude([a, d]))),
        (1, Join),
        (0, Leave),
        (0, JoinSource(b)),
    ];
    follow(&lab, &container, A::group(1), &two);
    let channels = [
        (0, JoinSource(a)),
        (1, JoinSource(b)),
        (1, JoinSource(a)),
        (0, LeaveSource(a)),
        (0, JoinSource(c)),
        (1, Set(SourceFilter::include([c, d]))),
        (0, Leave),
    ];
    follow(&lab, &container, A::channel(1), &channels);
    A::assert_one_host(&lab, &capture);
}

#[test]
fn every_operation_of_a_socket_is_the_hosts_beside_a_v3_querier() {
    every_operation::<Ipv4Addr>(3);
}

#[test]
fn every_operation_of_a_socket_is_the_hosts_beside_a_v2_querier() {
    every_operation::<Ipv4Addr>(2);
}

#[test]
fn every_operation_of_a_socket_is_the_hosts_beside_a_querier_of_mld_v2() {
    every_operation::<Ipv6Addr>(2);
}

#[test]
fn every_operation_of_a_socket_is_the_hosts_beside_a_querier_of_mld_v1() {
    every_operation::<Ipv6Addr>(1);
}

/// A stream for two containers on a port of this kind; one leaves, one leaves and comes back.
fn a_port<A: Family>(version: u8, fast_leave: bool) {
    let lab = A::lab(version);
    let group = A::group(1);
    lab.set_fast_leave(fast_leave);
    let (stayer, leaver) = (A::start(&lab, "stayer", 11), A::start(&lab, "leaver", 12));
    let capture = A::capture(&lab);
    let forwarded = || lab.forwarded().contains(&group.to_string());
    let stays = lab.stream(&stayer, group, 500);
    lab.receive_count(&leaver, group, None, 500).assert_none_lost(500);
    lab.wait_left(&leaver, group);
    let member = leaver.member_of::<A>();
    for change in [Change::Join, Change::Leave, Change::Join] {
        member.change(group, &change);
    }
    lab.wait_joined(&leaver, group);
    // Longer than the switch would forward for a port whose last member has left.
    lab.receive_count(&stayer, group, None, 1500).assert_none_lost(1500);
    stays.assert_whole();
    lab.wait_left(&stayer, group);
    assert!(forwarded(), "one has come back");
    drop(member);
    wait_until("the switch stops", PATIENCE, || (!forwarded()).then_some(()));
    // Nobody is left to answer when the switch asks for the group, and a new join is good at once.
    lab.assert_stream_arrives(&leaver, group);
    A::assert_one_host(&lab, &capture);
}

#[test]
fn a_v2_port_with_fast_leave() {
    a_port::<Ipv4Addr>(2, true);
}

#[test]
fn a_v2_port_without_fast_leave() {
    a_port::<Ipv4Addr>(2, false);
}

#[test]
fn a_v3_port_with_fast_leave() {
    a_port::<Ipv4Addr>(3, true);
}

#[test]
fn a_v3_port_without_fast_leave() {
    a_port::<Ipv4Addr>(3, false);
}

#[test]
fn a_port_of_mld_v1_with_fast_leave() {
    a_port::<Ipv6Addr>(1, true);
}

#[test]
fn a_port_of_mld_v1_without_fast_leave() {
    a_port::<Ipv6Addr>(1, false);
}

#[test]
fn a_port_of_mld_v2_with_fast_leave() {
    a_port::<Ipv6Addr>(2, true);
}

#[test]
fn a_port_of_mld_v2_without_fast_leave() {
    a_port::<Ipv6Addr>(2, false);
}

/// What `mcrun ps --json` says of the querier of the container's interface.
fn querier<A: Family>(lab: &Lab, container: &Container) -> Value {
    lab.ps(container).expect("mcrun ps knows the container")["interfaces"][0][A::QUERIER].clone()
}

/// What `mcrun groups --json` says of a group.
fn shown(lab: &Lab, container: &Container, group: impl Family) -> Value {
    let groups = lab.groups(container);
    let entry = groups.into_iter().find(|entry| entry["group"] == group.to_string());
    entry.unwrap_or_else(|| panic!("mcrun groups does not know {group}"))
}

fn a_querier_goes_away_and_comes_back<A: Family>() {
    let lab = A::lab(A::VERSIONS[1]);
    let group = A::group(1);
    let container = A::start(&lab, "c", 11);
    let _stream = lab.send(group, A::station(3), 500);
    let member = container.member_of::<A>();
    member.change(group, &Change::Join);
    lab.wait_joined(&container, group);
    lab.query();
    let heard = || querier::<A>(&lab, &container);
    wait_until("the querier is known", PATIENCE, || {
        (heard()["address"] == A::querier(&lab).to_string()).then_some(())
    });
    let capture = A::capture(&lab);
    lab.ip("sw", "link set br0 type bridge mcast_querier 0");
    wait_until("it has not asked for a while", PATIENCE, || {
        heard()["last_query_s"].as_u64().filter(|age| *age >= 3)
    });
    assert!(lab.upstream(group).is_some());
    assert_eq!(shown(&lab, &container, group)["status"], "joined");
    let seen = A::seen(&capture);
    assert!(!seen.iter().any(|message| message.is_leave), "{seen:?}");
    drop(capture);
    let capture = A::capture(&lab);
    lab.ip("sw", "link set br0 type bridge mcast_querier 1");
    wait_until("it asks again", PATIENCE, || {
        heard()["last_query_s"].as_u64().filter(|age| *age < 3)
    });
    wait_until("the host answers", PATIENCE, || {
        A::seen(&capture).iter().any(|message| message.groups.contains(&group)).then_some(())
    });
    // The switch goes by what it has learned when its querier is back for half a second.
    let received = |time| lab.receive(&container, group, None, time).finish();
    wait_until("the stream is back", PATIENCE, || {
        (received(Duration::from_millis(200)).packets > 0).then_some(())
    });
    lab.receive_count(&container, group, None, 1000).assert_none_lost(1000);
    A::assert_one_host(&lab, &capture);
}

#[test]
fn a_querier_that_goes_away_and_comes_back_finds_everything_joined() {
    a_querier_goes_away_and_comes_back::<Ipv4Addr>();
}

#[test]
fn a_querier_of_mld_that_goes_away_and_comes_back_finds_everything_joined() {
    a_querier_goes_away_and_comes_back::<Ipv6Addr>();
}

/// The host hears queries for the groups that any of its containers has joined, and all containers
/// are asked.
fn a_query_for_a_neighbours_group<A: Family>() {
    let lab = A::lab(A::VERSIONS[0]);
    let group = A::group(1);
    let container = A::start(&lab, "c", 11);
    let neighbour = A::start(&lab, "neighbour", 12);
    let member = neighbour.member_of::<A>();
    member.change(group, &Change::Join);
    lab.wait_joined(&neighbour, group);
    lab.wait_forwarded(group);
    let capture = A::capture(&lab);
    let of = match A::PROTOCOL {
        "IGMP" => "/interfaces/0/counters/queries_relayed",
        _ => "/interfaces/0/mld/counters/queries_relayed",
    };
    let relayed = || {
        let shown = lab::json(&mut lab.mcrun(["inspect", "--json", &container.name]));
        shown["status"].pointer(of).and_then(Value::as_u64).unwrap_or(0)
    };
    let before = relayed();
    let switch = FrameSender::open(&lab.net("sw"), "br0");
    switch.send(&A::query(&lab, group), Way::Ordinary);
    // Sooner than the switch asks by itself.
    wait_until("the query is relayed", Duration::from_secs(5), || {
        (relayed() > before).then_some(())
    });
    wait_until("the host answers", PATIENCE, || {
        A::seen(&capture).iter().any(|message| message.groups.contains(&group)).then_some(())
    });
    A::assert_one_host(&lab, &capture);
}

#[test]
fn a_query_for_a_neighbours_group_does_not_leave_the_container_that_is_not_in_it() {
    a_query_for_a_neighbours_group::<Ipv4Addr>();
}

#[test]
fn a_query_of_mld_for_a_neighbours_group_does_not_leave_the_container_that_is_not_in_it() {
    a_query_for_a_neighbours_group::<Ipv6Addr>();
}

/// What a command prints: standard output and standard error.
fn printed(lab: &Lab, arguments: &[&str]) -> (String, String) {
    let output = lab::output(&mut lab.mcrun(arguments));
    assert!(output.status.success(), "mcrun {arguments:?}: {output:?}");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(output.stdout), text(output.stderr))
}

fn an_old_querier_is_shown_and_warned_of<A: Family>() {
    let [old, new] = A::VERSIONS;
    let lab = A::lab(new);
    let (group, channel) = (A::group(1), A::channel(1));
    let switch = A::querier(&lab);
    let container = A::start(&lab, "c", 11);
    let member = container.member_of::<A>();
    member.change(channel, &Change::JoinSource(A::station(3)));
    lab.wait_joined(&container, channel);
    let speaks = |version: u8| {
        A::set_version(&lab, version);
        lab.query();
        wait_until("the querier's version is known", PATIENCE, || {
            (querier::<A>(&lab, &container)["version"] == version).then_some(())
        });
        let line = format!("{switch} v{version}");
        let (table, warned) = printed(&lab, &["ps"]);
        assert!(table.contains("QUERIER") && table.contains(&line), "{table}");
        let (header, also_warned) = printed(&lab, &["groups"]);
        let line = format!("querier {switch} ({}v{version})", A::PROTOCOL);
        assert!(header.contains(&line), "{header}");
        assert_eq!(warned, also_warned);
        let entry = lab.ps(&container).expect("shown");
        let in_groups = lab.groups(&container)[0]["warnings"].clone();
        assert_eq!(entry["warnings"], in_groups, "{entry}");
        (warned, entry["warnings"].clone())
    };
    assert_eq!(speaks(new), (String::new(), Value::Null));
    let (warned, warnings) = speaks(old);
    let expected = format!(
        "mc0: the querier {switch} on lan0 speaks {}v{old}, which has no source lists: the LAN \
         forwards {channel} from any source",
        A::PROTOCOL
    );
    assert_eq!(warnings, serde_json::json!([expected]));
    assert_eq!(warned, format!("mcrun: {}: {expected}\n", container.name));
    member.change(group, &Change::Join);
    member.change(channel, &Change::Leave);
    lab.wait_left(&container, channel);
    lab.wait_joined(&container, group);
    assert_eq!(speaks(old), (String::new(), Value::Null), "no sources, no warning");
    assert_eq!(speaks(new), (String::new(), Value::Null));
}

#[test]
fn an_old_querier_is_shown_and_warned_of_while_sources_are_wanted() {
    an_old_querier_is_shown_and_warned_of::<Ipv4Addr>();
}

#[test]
fn an_old_querier_of_mld_is_shown_and_warned_of_while_sources_are_wanted() {
    an_old_querier_is_shown_and_warned_of::<Ipv6Addr>();
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
    assert_eq!(reception.sources, BTreeSet::from([FAR.into()]));
    lab.wait_left(&container, SSM);
    wait_until("the router stops", PATIENCE, || (!lab.routed(SSM)).then_some(()));
    // pimd asks every 12 seconds.
    wait_until("the router is known as the querier", Duration::from_secs(30), || {
        let known = querier::<Ipv4Addr>(&lab, &container);
        (known["address"] == ROUTER.to_string() && known["version"] == 3).then_some(())
    });
    lab.assert_one_igmp_host(&capture.finish());
}
