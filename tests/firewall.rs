//! The host's firewall and the wire: a switch forwards what containers have joined, whatever the
//! host drops.

mod rule_sets;

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::lab;
use crate::lab::{Container, Igmp, Lab, PARENT, PATIENCE, Record, RecordKind, SOURCES, SWITCH};
use crate::lab::{notifications, run, wait_until};
use crate::relay::relayed;

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 17, 1, 1);
const RATE: u32 = 200;
/// The membership interval of [`facility`].
const MEMBERSHIP: Duration = Duration::from_millis(2500);

/// Rules that drop all IGMP that arrives.
pub const DEAF: &str = "table ip firewall { chain in {
    type filter hook input priority filter; policy accept; ip protocol igmp drop; }; }";
/// Rules that drop all IGMP that leaves.
const MUTE: &str = "table ip firewall { chain out {
    type filter hook output priority filter; policy accept; ip protocol igmp drop; }; }";

/// A facility whose switch asks every second, and forgets a group within [`MEMBERSHIP`].
pub fn facility(igmp_version: u8) -> Lab {
    let lab = Lab::new(igmp_version);
    shorten(&lab);
    lab
}

fn shorten(lab: &Lab) {
    lab.ip(
        "sw",
        "link set br0 type bridge mcast_query_interval 100 mcast_startup_query_interval 100 \
         mcast_query_response_interval 10 mcast_membership_interval 250",
    );
    start_querier(lab);
}

/// Makes the switch ask. It takes its own querier for present after the response interval, for which
/// the kernel has no event, and answers are to be spread over more than that.
fn start_querier(lab: &Lab) {
    lab.query();
    std::thread::sleep(Duration::from_millis(150));
    lab.ip("sw", "link set br0 type bridge mcast_query_response_interval 50");
}

fn load(lab: &Lab, rules: &str) {
    let file = lab.directory().join("firewall.nft");
    std::fs::write(&file, rules).expect("rules");
    run(lab.enter("host", "nft").arg("-f").arg(file));
}

fn flush(lab: &Lab) {
    run(lab.enter("host", "nft").args(["flush", "ruleset"]));
}

/// Codes of the notices about the firewall of a container's host.
fn notices(lab: &Lab, container: &Container) -> Vec<String> {
    let entry = lab.ps(container).expect("the container");
    let notices = entry["notices"].as_array().cloned().unwrap_or_default();
    let codes = notices.iter().map(|n| n["code"].as_str().expect("a code").to_owned());
    codes.filter(|code| code.ends_with("-filtered")).collect()
}

fn no_rules(_: &Lab) {}

/// What the host has said of the group, by kind, version 2 leaves and reports included.
fn of_group(seen: &[lab::IgmpFrame]) -> Vec<lab::IgmpFrame> {
    seen.iter().filter(|frame| frame.message.groups().contains(&GROUP)).cloned().collect()
}

/// The answers to queries that a capture has seen of the group.
fn answers(seen: &[lab::IgmpFrame]) -> usize {
    let is_answer = |frame: &&lab::IgmpFrame| match &frame.message {
        Igmp::Report { group, .. } => *group == GROUP,
        Igmp::ReportV3(records) => records.iter().any(|r| {
            r.group == GROUP && matches!(r.kind, RecordKind::IsInclude | RecordKind::IsExclude)
        }),
        _ => false,
    };
    seen.iter().filter(is_answer).count()
}

/// A stream reaches a container whole for three membership intervals.
fn a_stream_outlives_its_membership_interval(igmp_version: u8, load: impl FnOnce(&Lab)) {
    let lab = facility(igmp_version);
    load(&lab);
    // The control: a macvlan that mcrun knows nothing of, in another container.
    lab.bare("bare", "10.99.0.21");
    let control_group = Ipv4Addr::new(239, 17, 1, 2);
    let container = lab.start("walled", "10.99.0.11");
    let capture = lab.capture();
    let control = lab.receive_in("bare", control_group, Duration::from_secs(60));
    lab.wait_forwarded(control_group);
    let sender = lab.send(control_group, SOURCES[0], RATE);
    let stream = lab.stream(&container, GROUP, RATE);
    std::thread::sleep(MEMBERSHIP * 3);
    let seen = capture.igmp();
    stream.assert_whole();
    let control = control.stop();
    drop(sender);
    assert!(control.packets > 0 && control.lost == 0, "bare macvlan: {control:?}");
    // All that was said of the group came from the host.
    lab.assert_one_igmp_host(&of_group(&seen));
}

/// Where the host hears queries, its kernel answers them, and nobody else.
fn an_answered_query_is_answered_once(igmp_version: u8, load: impl FnOnce(&Lab)) {
    const QUERIES: usize = 5;
    let lab = Lab::new(igmp_version);
    // Answers come within a tenth of a second.
    lab.ip("sw", "link set br0 type bridge mcast_query_response_interval 10");
    load(&lab);
    let containers = [lab.start("one", "10.99.0.11"), lab.start("two", "10.99.0.12")];
    let members: Vec<_> = containers.iter().map(Container::member).collect();
    for member in &members {
        member.change(GROUP, &lab::Change::Join);
    }
    for container in &containers {
        lab.wait_joined(container, GROUP);
    }
    lab.wait_forwarded(GROUP);
    // The kernel repeats what it says of a join.
    let capture = lab.capture();
    let mut quiet = 0;
    wait_until("the joins have been repeated", PATIENCE, || {
        std::thread::sleep(Duration::from_millis(1200));
        let before = std::mem::replace(&mut quiet, of_group(&capture.igmp()).len());
        (before == quiet).then_some(())
    });
    let before = capture.igmp().len();
    for number in 1..=QUERIES {
        lab.query();
        wait_until("the query is answered", PATIENCE, || {
            (answers(&capture.igmp_so_far()[before..]) >= number).then_some(())
        });
        // Whoever would answer too has done so by then.
        std::thread::sleep(Duration::from_millis(200));
    }
    let seen = capture.finish();
    assert_eq!(answers(&seen[before..]), QUERIES, "{:?}", of_group(&seen[before..]));
}

#[test]
fn a_query_that_the_host_hears_is_answered_by_its_kernel_alone_in_v2() {
    an_answered_query_is_answered_once(2, no_rules);
}

#[test]
fn a_query_that_the_host_hears_is_answered_by_its_kernel_alone_in_v3() {
    an_answered_query_is_answered_once(3, no_rules);
}

/// The rules come and go while a stream runs, and each time `mcrun ps` says so.
#[test]
fn rules_that_come_and_go_cost_nothing_and_are_told_of() {
    let lab = facility(3);
    let container = lab.start("walled", "10.99.0.11");
    let stream = lab.stream(&container, GROUP, RATE);
    let told = |wanted: &[&str]| {
        wait_until(&format!("the notices are {wanted:?}"), PATIENCE, || {
            (notices(&lab, &container) == wanted).then_some(())
        });
    };
    told(&[]);
    for _ in 0..2 {
        load(&lab, DEAF);
        told(&["queries-filtered"]);
        std::thread::sleep(MEMBERSHIP);
        flush(&lab);
        told(&[]);
    }
    std::thread::sleep(MEMBERSHIP);
    stream.assert_whole();
}

/// A firewall that drops what the host reports is told of within a moment, and what was joined is
/// told to the LAN when it is gone.
#[test]
fn reports_that_do_not_get_out_are_told_of_and_made_up_for() {
    let lab = Lab::new(2);
    load(&lab, MUTE);
    let container = lab.start("mute", "10.99.0.11");
    let member = container.member();
    member.change(GROUP, &lab::Change::Join);
    let shown = wait_until("the group is shown as failed", PATIENCE, || {
        let groups = lab.groups(&container);
        let entry = groups.iter().find(|entry| entry["group"] == GROUP.to_string())?.clone();
        (entry["status"] == "failed").then_some(entry)
    });
    assert_eq!(shown["reason"], "the host's firewall drops IGMP reports", "{shown}");
    assert_eq!(notices(&lab, &container), ["reports-filtered"]);
    assert!(!lab.forwarded().contains(&GROUP.to_string()));
    flush(&lab);
    lab.wait_joined(&container, GROUP);
    lab.wait_forwarded(GROUP);
    assert_eq!(notices(&lab, &container), [""; 0]);
}

/// Neighbours leave while the host is deaf: a program of the host, and another container.
fn neighbours_leave_a_deaf_host(igmp_version: u8) {
    let lab = facility(igmp_version);
    load(&lab, DEAF);
    let stays = lab.start("stays", "10.99.0.11");
    let leaves = lab.start("leaves", "10.99.0.12");
    let stream = lab.stream(&stays, GROUP, RATE);
    for _ in 0..3 {
        let neighbour = leaves.member();
        neighbour.change(GROUP, &lab::Change::Join);
        lab.wait_joined(&leaves, GROUP);
        let mut command = lab.enter("host", env!("CARGO_BIN_EXE_mcrun"));
        command.args(["probe", "recv", &format!("{GROUP}:5004"), "--interface", PARENT]);
        let program = lab::Background::start(command.stdout(std::process::Stdio::null()));
        let filters = || run(lab.enter("host", "cat").arg("/proc/net/igmp"));
        let users = |number: u32| {
            wait_until(&format!("the host has {number} members"), PATIENCE, || {
                let number = number.to_string();
                let [a, b, c, d] = GROUP.octets();
                let hex = format!("{:08X}", u32::from_ne_bytes([a, b, c, d]));
                let text = filters();
                let line = text.lines().find(|line| line.trim().starts_with(&hex))?;
                (line.split_whitespace().nth(1) == Some(&number)).then_some(())
            });
        };
        users(3);
        program.signal(libc::SIGINT);
        users(2);
        neighbour.change(GROUP, &lab::Change::Leave);
        lab.wait_left(&leaves, GROUP);
        users(1);
    }
    std::thread::sleep(MEMBERSHIP);
    stream.assert_whole();
}

#[test]
fn neighbours_that_leave_a_deaf_host_cost_nothing_in_v2() {
    neighbours_leave_a_deaf_host(2);
}

#[test]
fn neighbours_that_leave_a_deaf_host_cost_nothing_in_v3() {
    neighbours_leave_a_deaf_host(3);
}

/// What a deaf host's proxy answers has the source lists of what the container asks for.
#[test]
fn the_answers_of_a_deaf_host_have_the_source_lists() {
    let lab = facility(3);
    load(&lab, DEAF);
    let container = lab.start("walled", "10.99.0.11");
    let channel = Ipv4Addr::new(232, 17, 1, 1);
    let member = container.member();
    for source in SOURCES {
        member.change(channel, &lab::Change::JoinSource(source));
    }
    lab.wait_joined(&container, channel);
    let capture = lab.capture();
    let record = wait_until("an answer", PATIENCE, || {
        let seen = capture.igmp_so_far();
        let records = seen.into_iter().filter_map(|frame| match frame.message {
            Igmp::ReportV3(records) => Some(records),
            _ => None,
        });
        records.flatten().find(|r| r.group == channel && r.kind == RecordKind::IsInclude)
    });
    let wanted = Record { kind: RecordKind::IsInclude, group: channel, sources: SOURCES.to_vec() };
    assert_eq!(record, wanted);
    std::thread::sleep(MEMBERSHIP);
    for source in SOURCES {
        assert!(lab.forwarded().contains(&format!("{channel}@{source}")), "{source}");
    }
}

fn load_rules(rules: &'static str) -> impl FnOnce(&Lab) {
    move |lab| load(lab, rules)
}

#[test]
fn a_stream_outlives_a_dropped_query_with_igmp_v2() {
    a_stream_outlives_its_membership_interval(2, load_rules(DEAF));
}

#[test]
fn a_stream_outlives_a_dropped_query_with_igmp_v3() {
    a_stream_outlives_its_membership_interval(3, load_rules(DEAF));
}

#[test]
fn a_stream_outlives_drops_in_the_raw_table() {
    const RULES: &str = "table ip raw { chain PREROUTING {
        type filter hook prerouting priority raw; policy accept; ip protocol igmp drop; }; }";
    a_stream_outlives_its_membership_interval(2, load_rules(RULES));
}

#[test]
fn a_stream_outlives_drops_of_inet_tables_at_every_priority() {
    const RULES: &str = "table inet walls {
        chain a { type filter hook prerouting priority -1500; policy accept; meta l4proto igmp drop; }
        chain b { type filter hook prerouting priority 0; policy accept; meta l4proto igmp drop; }
        chain c { type filter hook input priority -1000; policy accept; meta l4proto igmp drop; }
        chain d { type filter hook input priority 1000; policy drop; }; }";
    a_stream_outlives_its_membership_interval(3, load_rules(RULES));
}

#[test]
fn a_stream_outlives_a_querier_of_another_network_with_rp_filter() {
    a_stream_outlives_its_membership_interval(2, |lab| {
        let set = |name: &str| format!("net.ipv4.conf.{name}.rp_filter=1");
        run(lab.enter("host", "sysctl").args(["-q", "-w", &set("all"), &set(PARENT)]));
        // The querier asks from the first address.
        lab.ip("sw", "addr flush dev br0");
        lab.ip("sw", "addr add 192.168.77.1/24 dev br0");
        lab.ip("sw", &format!("addr add {SWITCH}/24 dev br0"));
    });
}

#[test]
fn a_stream_outlives_ufw_with_igmp_v2() {
    a_stream_outlives_its_membership_interval(2, rule_sets::load_ufw);
}

#[test]
fn a_stream_outlives_ufw_with_igmp_v3() {
    a_stream_outlives_its_membership_interval(3, rule_sets::load_ufw);
}

#[test]
fn a_stream_outlives_firewalld_with_igmp_v2() {
    a_stream_outlives_its_membership_interval(2, rule_sets::load_firewalld);
}

#[test]
fn a_stream_outlives_firewalld_with_igmp_v3() {
    a_stream_outlives_its_membership_interval(3, rule_sets::load_firewalld);
}

/// What a docker with its own rules does to the host changes nothing.
fn a_stream_outlives_dockers_own_rules(igmp_version: u8) {
    let mut lab = facility(igmp_version);
    let _docker = lab::Dockerd::start_filtering(&mut lab);
    let rules = run(&mut lab.enter("host", "iptables-save"));
    assert!(rules.contains("-A FORWARD -j DOCKER-USER"), "docker's rules: {rules}");
    let container = lab.start("beside", "10.99.0.11");
    let stream = lab.stream(&container, GROUP, RATE);
    std::thread::sleep(MEMBERSHIP * 3);
    stream.assert_whole();
    assert_eq!(notices(&lab, &container), [""; 0]);
}

#[test]
fn a_stream_outlives_dockers_own_rules_with_igmp_v2() {
    a_stream_outlives_dockers_own_rules(2);
}

#[test]
fn a_stream_outlives_dockers_own_rules_with_igmp_v3() {
    a_stream_outlives_dockers_own_rules(3);
}

/// Sends a query of version 1, which a host that believes it speaks from then on, from the caller's
/// network namespace.
fn send_query(to: Ipv4Addr, ttl: u32) {
    let igmp = socket2::Protocol::from(libc::IPPROTO_IGMP);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(igmp))
        .expect("a raw socket");
    socket.set_multicast_loop_v4(true).expect("loop");
    socket.set_multicast_ttl_v4(ttl).expect("ttl");
    let query = [0x11, 0x00, 0xee, 0xff, 0, 0, 0, 0];
    // Rules of the sender's namespace may refuse it.
    let _ = socket.send_to(&query, &std::net::SocketAddrV4::new(to, 0).into());
}

/// The proxy of a container takes a query that `send` makes for none of its LAN, and the host's
/// firewall for open.
fn a_query_is_not_believed(send: impl FnOnce(&Lab, &Container)) {
    let lab = facility(3);
    let container = lab.start("asked", "10.99.0.11");
    let member = container.member();
    member.change(GROUP, &lab::Change::Join);
    lab.wait_joined(&container, GROUP);
    lab.wait_forwarded(GROUP);
    send(&lab, &container);
    let capture = lab.capture();
    std::thread::sleep(MEMBERSHIP);
    let seen = of_group(&capture.finish());
    let is_v3 = |frame: &lab::IgmpFrame| matches!(frame.message, Igmp::ReportV3(_));
    assert!(!seen.is_empty() && seen.iter().all(is_v3), "{seen:?}");
    assert_eq!(notices(&lab, &container), [""; 0]);
    let querier = &lab.ps(&container).expect("the container")["interfaces"][0]["querier"];
    assert_eq!((&querier["address"], &querier["version"]), (&SWITCH.to_string().into(), &3.into()));
}

/// The container's own queries are dropped where they would leave, and so are not looped back.
#[test]
fn a_query_that_the_container_forges_is_answered_by_nobody() {
    a_query_is_not_believed(|_, container| {
        let everybody = Ipv4Addr::new(224, 0, 0, 1);
        let forge = || [0, 1, 64].into_iter().for_each(|ttl| send_query(everybody, ttl));
        container.namespace().run(forge).expect("entered");
    });
}

/// A query to the container's address alone never comes to the host, and says nothing of the host's
/// firewall.
#[test]
fn a_query_to_the_container_alone_says_nothing_of_the_firewall() {
    a_query_is_not_believed(|lab, _| {
        lab.run_in("src", || send_query(Ipv4Addr::new(10, 99, 0, 11), 1));
    });
}

/// A relay hears behind the firewall. Where the firewall lets streams in and no IGMP, the proxy
/// reports what is joined without being asked; the stream goes on.
#[test]
fn a_relays_stream_outlives_dropped_queries() {
    const PORT: u16 = 6100;
    let (lab, containers) = relayed(&["relayed"], "");
    let container = &containers[0];
    shorten(&lab);
    lab.ip("sw", "link set br0 type bridge mcast_membership_interval 600");
    load(&lab, DEAF);
    let inside = container.socket(PORT);
    inside.join(GROUP);
    lab.wait_joined(container, GROUP);
    lab.wait_forwarded(GROUP);
    wait_until("the firewall is told of", PATIENCE, || {
        (notices(&lab, container) == ["arrivals-filtered"]).then_some(())
    });
    lab::assert_whole_while(
        &lab,
        &[&inside],
        (GROUP, PORT),
        |_| {},
        || {
            std::thread::sleep(Duration::from_secs(13));
        },
    );
    flush(&lab);
    wait_until("the host hears again", PATIENCE, || {
        notices(&lab, container).is_empty().then_some(())
    });
}

/// A switch that knows IGMPv2 only ignores reports of version 3. The Linux bridge does not, so that a
/// rule keeps these from its ports.
const ONLY_V2: &str = "table bridge old { chain in {
    type filter hook prerouting priority -300; policy accept;
    ip protocol igmp @th,0,8 0x22 drop; }; }";

/// Where the LAN speaks version 2, the relay of a deaf host hears so at the link, and answers in it.
#[test]
fn a_relays_stream_outlives_dropped_queries_of_a_switch_that_speaks_v2_only() {
    const PORT: u16 = 6102;
    let (lab, containers) = relayed(&["relayed"], "");
    let container = &containers[0];
    shorten(&lab);
    lab.ip("sw", "link set br0 type bridge mcast_igmp_version 2");
    load(&lab, DEAF);
    let rules = lab.directory().join("old.nft");
    std::fs::write(&rules, ONLY_V2).expect("rules");
    run(lab.enter("sw", "nft").arg("-f").arg(rules));
    let inside = container.socket(PORT);
    inside.join(GROUP);
    lab.wait_joined(container, GROUP);
    // The reports of before the first query are in version 3.
    lab.wait_forwarded(GROUP);
    let capture = lab.capture();
    lab::assert_whole_while(
        &lab,
        &[&inside],
        (GROUP, PORT),
        |_| {},
        || {
            std::thread::sleep(MEMBERSHIP * 3);
        },
    );
    let seen = of_group(&capture.igmp());
    assert!(answers(&seen) >= 2, "{seen:?}");
    let version_3 = seen.iter().filter(|frame| matches!(frame.message, Igmp::ReportV3(_)));
    assert_eq!(version_3.count(), 0, "{seen:?}");
    lab.assert_one_igmp_host(&seen);

    // What is joined from here on is reported in version 2 at once.
    let later = Ipv4Addr::new(239, 17, 1, 9);
    inside.join(later);
    lab.wait_forwarded(later);
    let asked = |entry: &serde_json::Value| entry["querier"]["version"] == 2;
    wait_until("the querier is shown", PATIENCE, || {
        lab.ps(container)?["interfaces"].as_array()?.iter().any(asked).then_some(())
    });
}

/// Where the firewall drops the stream too, people are told within a moment. The kernel relays before the
/// firewall, a proxy behind it.
#[test]
fn a_relay_behind_ufw_says_so_within_a_moment() {
    const PORT: u16 = 6101;
    let (lab, containers) = relayed(&["relayed"], "");
    let container = &containers[0];
    rule_sets::load_ufw(&lab);
    let inside = container.socket(PORT);
    inside.join(GROUP);
    lab.wait_joined(container, GROUP);
    lab.wait_forwarded(GROUP);
    // One check a second is made.
    wait_until("the firewall is told of", Duration::from_secs(3), || {
        (notices(&lab, container) == ["arrivals-filtered"]).then_some(())
    });
    let sender = lab.socket("src", SOURCES[0], 0);
    sender.send(b"dropped by ufw", (GROUP, PORT));
    let accept = ["-I", "INPUT", "-p", "udp", "--dport", "6101", "-j", "ACCEPT"];
    run(lab.enter("host", "iptables").args(accept));
    sender.send(b"let in", (GROUP, PORT));
    if notifications() {
        assert_eq!(inside.receive(PATIENCE).expect("a packet").0, b"dropped by ufw");
    }
    assert_eq!(inside.receive(PATIENCE).expect("a packet").0, b"let in");
}
