//! Many groups, many sources, and a container that floods its proxy.

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io::{Read, Seek};
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::{Duration, Instant};

use crate::lab;
use crate::lab::frames::checksum;
use crate::lab::{Change, Container, Family, Lab, PATIENCE, wait_until};
use mcrun::multicast::SourceFilter;
use mcrun::net::netns::NetNs;
use socket2::{Domain, Protocol, Socket, Type};

fn attached<A: Family>(lab: &Lab, name: &str, host: u8, rules: &str) -> Container {
    let (address, length) = (A::station(host), A::PREFIX);
    lab.start_with(name, &[&format!("parent=lan0,ip={address}/{length}{rules}")], &[])
}

fn nth_group<A: Family>(n: u16) -> A {
    A::from_number(A::group(0).to_number() + u128::from(n))
}

/// What the host has joined except for its own neighbour discovery.
fn host_joins<A: Family>(lab: &Lab) -> BTreeSet<A> {
    lab.host_groups::<A>().into_iter().filter(|group| !group.is_link_scope()).collect()
}

#[test]
fn a_thousand_groups_are_joined_and_left() {
    thousand_groups::<Ipv4Addr>(3, 1000);
}

#[test]
fn a_thousand_groups_of_ipv6_are_joined_and_left() {
    // Neighbour discovery needs two more: of the link-local address, and of the other one.
    thousand_groups::<Ipv6Addr>(2, 1002);
}

fn thousand_groups<A: Family>(version: u8, limit: u32) {
    let lab = A::lab(version);
    let container = attached::<A>(&lab, "c", 11, &format!(",max-groups={limit}"));
    let groups: BTreeSet<A> = (0..1000).map(nth_group).collect();
    let member = container.member_of::<A>();
    for group in &groups {
        member.change(*group, &Change::Join);
    }
    wait_until("all are joined upstream", PATIENCE, || {
        (host_joins::<A>(&lab) == groups).then_some(())
    });
    // Those of link scope are of neighbour discovery; IPv4 has no scopes.
    let shown = || {
        let all = lab.groups(&container).into_iter();
        all.filter(|entry| entry["scope"] != "link").collect::<Vec<_>>()
    };
    wait_until("all are shown as joined", PATIENCE, || {
        let shown = shown();
        let joined = shown.iter().filter(|entry| entry["status"] == "joined").count();
        (joined == 1000 && shown.len() == 1000).then_some(())
    });
    drop(member);
    wait_until("all are left upstream", PATIENCE, || {
        host_joins::<A>(&lab).is_empty().then_some(())
    });
    wait_until("none is shown", PATIENCE, || shown().is_empty().then_some(()));
}

/// Joins a channel of so many sources at once, and one by one, and leaves it.
fn sources<A: Family>(lab: &Lab, container: &Container, count: u16) {
    let channel = A::channel(1);
    let sources: Vec<A> = (0..count)
        .map(|n| A::from_number(A::DOCUMENTATION.to_number() + 1 + u128::from(n)))
        .collect();
    let all = Some(SourceFilter::include(sources.iter().copied()));
    let member = container.member_of::<A>();
    member.change(channel, &Change::JoinSource(sources[0]));
    member.change(channel, &Change::Set(SourceFilter::include(sources.iter().copied())));
    let what = format!("{count} sources are joined upstream");
    wait_until(&what, PATIENCE, || (lab.upstream(channel) == all).then_some(()));
    let shown = lab.groups(container);
    let shown = shown.iter().find(|entry| entry["group"] == channel.to_string()).expect("listed");
    assert_eq!(shown["sources"].as_array().map(Vec::len), Some(usize::from(count)));
    assert_eq!(shown["status"], "joined", "{shown}");
    for source in &sources {
        member.change(channel, &Change::LeaveSource(*source));
    }
    wait_until("all are left", PATIENCE, || lab.upstream(channel).is_none().then_some(()));
    lab.wait_left(container, channel);
}

#[test]
fn sixty_four_sources_of_a_group_are_joined_and_left() {
    let lab = Lab::new(3);
    let container = attached::<Ipv4Addr>(&lab, "c", 11, "");
    sources::<Ipv4Addr>(&lab, &container, 64);
}

/// No socket of IPv6 may name more (`mld_max_msf`).
#[test]
fn sixty_four_sources_of_an_ipv6_group_are_joined_and_left() {
    let lab = Ipv6Addr::lab(2);
    let container = attached::<Ipv6Addr>(&lab, "c", 11, "");
    sources::<Ipv6Addr>(&lab, &container, 64);
}

/// A report of 1500 bytes has room for a record with 365 sources: 24 bytes of IP header with Router
/// Alert, 8 of the report and 8 of the record (RFC 9776 §4.2).
#[test]
fn a_record_list_at_the_edge_of_the_mtu_is_joined_and_left() {
    let lab = Lab::new(3);
    let container = attached::<Ipv4Addr>(&lab, "c", 11, ",max-sources=400");
    for count in [364, 365, 366, 400] {
        sources::<Ipv4Addr>(&lab, &container, count);
    }
}

/// The groups of the container host, read without starting a program each time.
struct HostGroups<A>(File, PhantomData<A>);

impl<A: Family> HostGroups<A> {
    fn open(lab: &Lab) -> Self {
        let ns = NetNs::open(format!("/run/netns/{}", lab.namespace("host"))).expect("namespace");
        let path = format!("/proc/thread-self/net/{}", A::GROUPS_FILE);
        HostGroups(ns.run(|| File::open(path).expect("file")).expect("in"), PhantomData)
    }

    fn contains(&mut self, group: A) -> bool {
        let mut text = String::new();
        self.0.rewind().expect("rewind");
        self.0.read_to_string(&mut text).expect("read");
        A::memberships(&text).iter().any(|joined| joined.group == group)
    }
}

/// Anonymous memory of a process in KiB.
fn anonymous_memory(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("it runs");
    let line = text.lines().find(|line| line.starts_with("Pss_Anon:")).expect("field");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("KiB")
}

/// Processor time of a process.
fn processor_time(pid: i32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, fields) = stat.rsplit_once(") ").expect("fields");
    // utime and stime, 14 and 15 of all, in hundredths of a second (USER_HZ).
    let ticks: u64 =
        fields.split(' ').skip(11).take(2).map(|n| n.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 10)
}

/// A protocol in whose messages a container lies.
trait Hostile: Family {
    /// Where its own counters are in the status of an interface.
    const COUNTERS: &'static str;
    /// The types of messages for one group, a query among them.
    const SHORT: [u8; 4];
    /// The type of a report with records.
    const LONG: u8;
    /// How many sources fit in a report.
    const MANY: u8;

    /// A raw socket of the container, and where reports go.
    fn raw(container: &Container) -> (Socket, SocketAddr);

    /// A message for one group: type, checksum and all.
    fn short(kind: u8, group: Self) -> Vec<u8>;

    /// A message of an unknown type, where the protocol has such.
    fn unknown(kind: u8, group: Self) -> Vec<u8>;

    /// A report that says that it has so many records.
    fn long(kind: u8, count: u16, records: &[u8]) -> Vec<u8>;
}

fn with_checksum(mut message: Vec<u8>) -> Vec<u8> {
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

fn report_of(kind: u8, count: u16, records: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0, 0][..], &count.to_be_bytes(), records].concat()
}

impl Hostile for Ipv4Addr {
    const COUNTERS: &'static str = "/counters";
    const SHORT: [u8; 4] = [0x16, 0x12, 0x17, 0x11];
    const LONG: u8 = 0x22;
    const MANY: u8 = 255;

    fn raw(container: &Container) -> (Socket, SocketAddr) {
        let open = || {
            let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(2))).expect("raw");
            raw.set_multicast_ttl_v4(1).expect("ttl");
            raw
        };
        let to = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 22), 0);
        (container.namespace().run(open).expect("entered"), to.into())
    }

    fn short(kind: u8, group: Self) -> Vec<u8> {
        with_checksum([&[kind, 0, 0, 0][..], &group.octets()].concat())
    }

    fn unknown(kind: u8, group: Self) -> Vec<u8> {
        Self::short(kind, group)
    }

    fn long(kind: u8, count: u16, records: &[u8]) -> Vec<u8> {
        with_checksum(report_of(kind, count, records))
    }
}

/// The kernel puts the checksums in.
impl Hostile for Ipv6Addr {
    const COUNTERS: &'static str = "/mld/counters";
    const SHORT: [u8; 4] = [131, 131, 132, 130];
    const LONG: u8 = 143;
    const MANY: u8 = 80;

    fn raw(container: &Container) -> (Socket, SocketAddr) {
        let icmpv6 = Some(Protocol::ICMPV6);
        let open = || {
            let raw = Socket::new(Domain::IPV6, Type::RAW, icmpv6).expect("raw");
            raw.set_multicast_hops_v6(1).expect("hop limit");
            (raw, nix::net::if_::if_nametoindex("mc0").expect("the interface"))
        };
        let (raw, index) = container.namespace().run(open).expect("entered");
        let routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
        (raw, SocketAddrV6::new(routers, 0, 0, index).into())
    }

    fn short(kind: u8, group: Self) -> Vec<u8> {
        [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &group.octets()].concat()
    }

    /// Others are no messages of MLD, and leave the container.
    fn unknown(_: u8, group: Self) -> Vec<u8> {
        Self::short(Self::LONG, group)
    }

    fn long(kind: u8, count: u16, records: &[u8]) -> Vec<u8> {
        report_of(kind, count, records)
    }
}

/// The bytes of an address.
fn octets<A: Family>(address: A) -> Vec<u8> {
    match address.into() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The message number `n` of a hostile container.
fn hostile<A: Hostile>(n: u32) -> Vec<u8> {
    let [_, b, c, d] = n.wrapping_mul(2_654_435_761).to_be_bytes();
    let group =
        A::from_number(A::group(0).to_number() + u128::from(u32::from_be_bytes([0, b, c, d]) >> 4));
    let record = |head: [u8; 4], sources: &[u8]| [&head[..], &octets(group), sources].concat();
    match n % 12 {
        // A query, which is no business of a host, among them.
        short @ 0..4 => A::short(A::SHORT[short as usize], group),
        // Counts that lie: of records, of sources, of auxiliary words.
        4 => A::long(A::LONG, u16::MAX, &[]),
        5 => A::long(A::LONG, 1, &record([4, 0, 255, 255], &[])),
        6 => A::long(A::LONG, 1, &record([4, 255, 0, 0], &[])),
        // Unknown types, of a message and of a record; a bad checksum; nothing much.
        7 => A::unknown(b, group),
        8 => A::long(A::LONG, 1, &record([c, 0, 0, 0], &[])),
        9 => [&[A::LONG, 0, b, c, 0, 0, 0, 1][..], &record([4, 0, 0, 0], &[])].concat(),
        10 => vec![A::LONG],
        // A full one: a list of sources that is new each time.
        _ => {
            let first = A::DOCUMENTATION.to_number() + u128::from(u16::from_be_bytes([c, d])) * 256;
            let sources = (0..A::MANY).map(|s| octets(A::from_number(first + u128::from(s))));
            let few = A::from_number(A::group(0).to_number() + u128::from(d % 16));
            let head = [6 - (b % 2), 0, 0, A::MANY];
            let records = [&head[..], &octets(few), &sources.collect::<Vec<_>>().concat()].concat();
            A::long(A::LONG, 1, &records)
        }
    }
}

#[test]
fn a_flood_of_hostile_messages_is_survived_and_a_neighbour_is_served_in_time() {
    hostile_flood::<Ipv4Addr>(3);
}

#[test]
fn a_flood_of_hostile_messages_of_mld_is_survived_and_a_neighbour_is_served_in_time() {
    hostile_flood::<Ipv6Addr>(2);
}

/// 20 000 messages a second, for as many seconds as `MCRUN_FLOOD_SECONDS` says, else for 8.
fn hostile_flood<A: Hostile>(version: u8) {
    const RATE: u32 = 20_000;
    let seconds: u32 = std::env::var("MCRUN_FLOOD_SECONDS").map_or(8, |s| s.parse().expect("u32"));
    let lab = A::lab(version);
    let attacker = attached::<A>(&lab, "attacker", 11, "");
    let neighbour = attached::<A>(&lab, "neighbour", 12, "");
    let proxy = lab.proxy_pid(&attacker);
    let capture = A::capture(&lab);
    let (raw, to) = A::raw(&attacker);
    let to = to.into();
    let mut host = HostGroups::<A>::open(&lab);
    let member = neighbour.member_of::<A>();

    let started = Instant::now();
    let before = processor_time(proxy);
    let (mut slowest, mut joins) = (Duration::ZERO, 0u32);
    let mut memory = Vec::new();
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            for n in 0..RATE * seconds {
                // Bursts of 1 ms keep to the rate.
                if n % (RATE / 1000) == 0 {
                    let due = started + Duration::from_millis((n / (RATE / 1000)).into());
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                }
                assert!(raw.send_to(&hostile::<A>(n), &to).is_err(), "dropped, and said so");
            }
            started.elapsed()
        });
        while !flood.is_finished() {
            let group = nth_group::<A>((joins % 1000) as u16);
            let asked = Instant::now();
            member.change(group, &Change::Join);
            while !host.contains(group) {
                assert!(asked.elapsed() < PATIENCE, "the neighbour's join of {group} is lost");
                std::thread::sleep(Duration::from_micros(500));
            }
            slowest = slowest.max(asked.elapsed());
            joins += 1;
            member.change(group, &Change::Leave);
            memory.push(anonymous_memory(proxy));
            std::thread::sleep(Duration::from_millis(50));
        }
        let taken = flood.join().expect("the flood was sent");
        let used = processor_time(proxy).saturating_sub(before);
        println!(
            "{} messages in {taken:?}: the proxy used {used:?} of processor time; {joins} joins of \
             the neighbour, the slowest after {slowest:?}; memory {} KiB to {} KiB",
            RATE * seconds,
            memory.iter().min().expect("measured"),
            memory.iter().max().expect("measured"),
        );
    });
    assert!(joins > 20, "{joins} joins");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    // Its tables are bounded. They fill slowly, since the proxy reads 500 of the messages a second.
    let most = memory.iter().copied().max().expect("measured");
    assert!(most < 2048, "{memory:?}");

    assert_eq!(lab.proxy_pid(&attacker), proxy, "the same proxy still answers");
    let shown = lab::json(&mut lab.mcrun(["inspect", "--json", &attacker.name]));
    let interface = &shown["status"]["interfaces"][0];
    let counters = interface.pointer(A::COUNTERS).expect("counted");
    assert!(counters["packets"].as_u64() > Some(1000), "{counters}");
    let groups = lab.groups(&attacker);
    let joined = groups.iter().filter(|entry| entry["status"] == "joined").count();
    assert!(joined <= 256 && groups.len() <= 256 + 1024, "{joined} of {}", groups.len());
    assert!(host_joins::<A>(&lab).len() <= 256 + 1);
    A::assert_one_host(&lab, &capture);
}
