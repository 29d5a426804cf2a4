//! Many groups, many sources, and a container that floods its proxy.

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io::{Read, Seek};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use crate::lab;
use crate::lab::{Change, Container, Lab, PATIENCE, wait_until};
use mcrun::multicast::SourceFilter;
use mcrun::net::netns::NetNs;
use socket2::{Domain, Protocol, Socket, Type};

const SSM: Ipv4Addr = Ipv4Addr::new(232, 6, 1, 1);

fn attached(lab: &Lab, name: &str, host: u8, rules: &str) -> Container {
    lab.start_with(name, &[&format!("parent=lan0,ip=10.99.0.{host}/24{rules}")], &[])
}

fn nth_group(n: u16) -> Ipv4Addr {
    let [high, low] = n.to_be_bytes();
    Ipv4Addr::new(239, 6, high, low)
}

#[test]
fn a_thousand_groups_are_joined_and_left() {
    let lab = Lab::new(3);
    let container = attached(&lab, "c", 11, ",max-groups=1000");
    let groups: BTreeSet<Ipv4Addr> = (0..1000).map(nth_group).collect();
    let member = container.member();
    for group in &groups {
        member.change(*group, &Change::Join);
    }
    wait_until("all are joined upstream", PATIENCE, || (lab.host_joins() == groups).then_some(()));
    wait_until("all are shown as joined", PATIENCE, || {
        let shown = lab.groups(&container);
        let joined = shown.iter().filter(|entry| entry["status"] == "joined").count();
        (joined == 1000 && shown.len() == 1000).then_some(())
    });
    drop(member);
    wait_until("all are left upstream", PATIENCE, || lab.host_joins().is_empty().then_some(()));
    wait_until("none is shown", PATIENCE, || lab.groups(&container).is_empty().then_some(()));
}

/// Joins a channel of so many sources at once, and one by one, and leaves it.
fn sources(lab: &Lab, container: &Container, count: u16) {
    let sources: Vec<Ipv4Addr> = (0..count)
        .map(|n| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 6, 0, 1)) + u32::from(n)))
        .collect();
    let all = Some(SourceFilter::include(sources.iter().copied()));
    let member = container.member();
    member.change(SSM, &Change::JoinSource(sources[0]));
    member.change(SSM, &Change::Set(SourceFilter::include(sources.iter().copied())));
    let what = format!("{count} sources are joined upstream");
    wait_until(&what, PATIENCE, || (lab.upstream(SSM) == all).then_some(()));
    let shown = lab.groups(container);
    assert_eq!(shown[0]["sources"].as_array().map(Vec::len), Some(usize::from(count)));
    assert_eq!(shown[0]["status"], "joined", "{}", shown[0]);
    for source in &sources {
        member.change(SSM, &Change::LeaveSource(*source));
    }
    wait_until("all are left", PATIENCE, || lab.upstream(SSM).is_none().then_some(()));
    lab.wait_left(container, SSM);
}

#[test]
fn sixty_four_sources_of_a_group_are_joined_and_left() {
    let lab = Lab::new(3);
    let container = attached(&lab, "c", 11, "");
    sources(&lab, &container, 64);
}

/// A report of 1500 bytes has room for a record with 365 sources: 24 bytes of IP header with Router
/// Alert, 8 of the report and 8 of the record (RFC 9776 §4.2).
#[test]
fn a_record_list_at_the_edge_of_the_mtu_is_joined_and_left() {
    let lab = Lab::new(3);
    let container = attached(&lab, "c", 11, ",max-sources=400");
    for count in [364, 365, 366, 400] {
        sources(&lab, &container, count);
    }
}

/// `/proc/net/igmp` of the container host, read without starting a program each time.
struct HostGroups(File);

impl HostGroups {
    fn open(lab: &Lab) -> HostGroups {
        let ns = NetNs::open(format!("/run/netns/{}", lab.namespace("host"))).expect("namespace");
        HostGroups(ns.run(|| File::open("/proc/thread-self/net/igmp").expect("file")).expect("in"))
    }

    fn contains(&mut self, group: Ipv4Addr) -> bool {
        let mut text = String::new();
        self.0.rewind().expect("rewind");
        self.0.read_to_string(&mut text).expect("read");
        let number = format!("{:08X}", u32::from_ne_bytes(group.octets()));
        text.lines().any(|line| line.trim_start().starts_with(&number))
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

/// The message number `n` of a hostile container: type, code, checksum and all.
fn hostile(n: u32) -> Vec<u8> {
    let [_, b, c, d] = n.wrapping_mul(2_654_435_761).to_be_bytes();
    let group = [239, b, c, d];
    let message = |head: &[u8], rest: &[u8]| {
        let mut bytes = [head, rest].concat();
        let sum: u32 = bytes
            .chunks(2)
            .map(|w| u32::from(w[0]) << 8 | u32::from(w.get(1).copied().unwrap_or(0)))
            .sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
        bytes[2..4].copy_from_slice(&checksum.to_be_bytes());
        bytes
    };
    let v3 = |count: u16, records: &[u8]| {
        let [high, low] = count.to_be_bytes();
        message(&[0x22, 0, 0, 0, 0, 0, high, low], records)
    };
    match n % 12 {
        0 => message(&[0x16, 0, 0, 0], &group),
        1 => message(&[0x12, 0, 0, 0], &group),
        2 => message(&[0x17, 0, 0, 0], &group),
        // A query, which is no business of a host.
        3 => message(&[0x11, 1, 0, 0], &group),
        // Counts that lie: of records, of sources, of auxiliary words.
        4 => v3(u16::MAX, &[]),
        5 => v3(1, &[&[4, 0, 255, 255][..], &group].concat()),
        6 => v3(1, &[&[4, 255, 0, 0][..], &group].concat()),
        // Unknown types, of a message and of a record; a bad checksum; nothing much.
        7 => message(&[b, 0, 0, 0], &group),
        8 => v3(1, &[&[c, 0, 0, 0][..], &group].concat()),
        9 => vec![0x22, 0, b, c, 0, 0, 0, 1, 4, 0, 0, 0, 239, 1, 1, 1],
        10 => vec![0x22],
        // A full one: a list of sources that is new each time.
        _ => {
            let sources: Vec<u8> = (0..=255).flat_map(|s| [10, c, d, s]).collect();
            v3(1, &[&[6 - (b % 2), 0, 1, 0, 239, 6, 0, d % 16][..], &sources].concat())
        }
    }
}

/// 20 000 messages a second, for as many seconds as `MCRUN_FLOOD_SECONDS` says, else for 8.
#[test]
fn a_flood_of_hostile_messages_is_survived_and_a_neighbour_is_served_in_time() {
    const RATE: u32 = 20_000;
    let seconds: u32 = std::env::var("MCRUN_FLOOD_SECONDS").map_or(8, |s| s.parse().expect("u32"));
    let lab = Lab::new(3);
    let attacker = attached(&lab, "attacker", 11, "");
    let neighbour = attached(&lab, "neighbour", 12, "");
    let proxy = lab.proxy_pid(&attacker);
    let capture = lab.capture();
    let raw = attacker
        .namespace()
        .run(|| {
            let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(2))).expect("raw");
            raw.set_multicast_ttl_v4(1).expect("ttl");
            raw
        })
        .expect("entered");
    let mut host = HostGroups::open(&lab);
    let member = neighbour.member();
    let to = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 22), 0);

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
                assert!(raw.send_to(&hostile(n), &to.into()).is_err(), "dropped, and said so");
            }
            started.elapsed()
        });
        while !flood.is_finished() {
            let group = nth_group((joins % 1000) as u16);
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
    let counters = &shown["status"]["interfaces"][0]["counters"];
    assert!(counters["packets"].as_u64() > Some(1000), "{counters}");
    let groups = lab.groups(&attacker);
    let joined = groups.iter().filter(|entry| entry["status"] == "joined").count();
    assert!(joined <= 256 && groups.len() <= 256 + 1024, "{joined} of {}", groups.len());
    assert!(lab.host_joins().len() <= 256 + 1);
    lab.assert_one_igmp_host(&capture.finish());
}
