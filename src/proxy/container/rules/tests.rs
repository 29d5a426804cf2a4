//! The rules for data, on the loopback interface of a new network namespace.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::multicast::GroupPolicy;
use crate::net::netns::NetNs;
use crate::proxy::container::rules::*;
use crate::sys::sockopt;

const LOOPBACK: u32 = 1;
const PATIENCE: Duration = Duration::from_secs(10);
/// A mark that no packet of these tests has.
const MARK: u32 = 0x00ff_00ff;

fn policy(deny: &[&str], allow: &[&str]) -> GroupPolicy {
    let rules = |list: &[&str]| list.iter().map(|rule| rule.parse().unwrap()).collect();
    GroupPolicy { deny: rules(deny), allow: rules(allow), ..GroupPolicy::default() }
}

/// A namespace whose loopback carries multicast.
fn namespace() -> NetNs {
    let ns = NetNs::create().unwrap();
    ns.run(|| {
        for arguments in ["link set lo up", "link set lo multicast on"] {
            let done = Command::new("ip").args(arguments.split(' ')).status().unwrap();
            assert!(done.success(), "ip {arguments}");
        }
    })
    .unwrap();
    ns
}

fn install(name: &str, policy: &GroupPolicy) -> NfSocket {
    let socket = NfSocket::open().unwrap();
    let interface = RuledInterface {
        name: "lo",
        index: LOOPBACK,
        intercepted: true,
        mld: true,
        hears_queries: true,
        data_filter: policy.data_filter(),
        data_filter_v6: policy.data_filter(),
        relayed: None,
        relayed_v6: Vec::new(),
        relayed_by_kernel: false,
        egress: None,
    };
    let intercept = Intercept { mark: MARK, group: 1 };
    super::install(&socket, name, &[interface], Some(intercept), Hooks::All).unwrap();
    socket
}

/// Sends a datagram from `source` to `group`, and asserts that it arrives, or does not.
fn assert_arrives(group: Ipv4Addr, source: Ipv4Addr, expected: bool) {
    let receiver = UdpSocket::bind((group, 0)).unwrap();
    sockopt::join_group(&receiver, LOOPBACK, group).unwrap();
    let sender = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
    sender.bind(&SocketAddrV4::new(source, 0).into()).unwrap();
    sockopt::set_multicast_interface(&sender, LOOPBACK, group.into()).unwrap();
    let port = receiver.local_addr().unwrap().port();
    sender.send_to(b"x", &SocketAddrV4::new(group, port).into()).unwrap();
    if !expected {
        // A second packet takes the same path. When it has arrived, the first would have arrived
        // too.
        let marker = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        marker.set_read_timeout(Some(PATIENCE)).unwrap();
        marker.send_to(b"y", marker.local_addr().unwrap()).unwrap();
        marker.recv(&mut [0; 8]).unwrap();
        receiver.set_nonblocking(true).unwrap();
    }
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(receiver.recv(&mut [0; 8]).is_ok(), expected, "{source} -> {group}");
}

#[test]
fn data_arrives_if_the_policy_allows_its_group_and_source() {
    let cases = [
        policy(&[], &[]),
        policy(&["239.1.0.0/16"], &[]),
        policy(&["239.1.1.1@127.0.0.2", "239.2.0.0/16@127.0.0.0/30"], &[]),
        policy(&[], &["239.1.0.0/16"]),
        policy(&["239.1.1.2"], &["239.1.1.1@127.0.0.2", "239.1.1.2", "232.0.0.0/8"]),
        policy(&["224.0.1.129"], &["239.255.255.255"]),
        policy(&[], &["239.0.0.0/8@127.0.0.2", "239.0.0.0/8@127.0.0.9"]),
    ];
    let groups = [
        "224.0.0.107",
        "224.0.0.251",
        "224.0.1.128",
        "224.0.1.129",
        "224.0.1.130",
        "232.1.1.1",
        "239.1.0.0",
        "239.1.1.1",
        "239.1.1.2",
        "239.1.255.255",
        "239.2.0.1",
        "239.255.255.255",
    ];
    for policy in cases {
        let filter = policy.data_filter::<Ipv4Addr>();
        namespace()
            .run(|| {
                let _rules = install("mcrun", &policy);
                for group in groups.map(|text| text.parse().unwrap()) {
                    for source in [1, 2, 3, 4, 9].map(|n| Ipv4Addr::new(127, 0, 0, n)) {
                        assert_arrives(group, source, filter.passes(group, source));
                    }
                }
            })
            .unwrap();
    }
}

#[test]
fn without_a_policy_there_is_no_data_chain_and_tables_end_with_their_socket() {
    let listed = || {
        let output = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    namespace()
        .run(|| {
            let plain = install("mcrun", &policy(&[], &[]));
            assert!(listed().contains("igmp") && !listed().contains("chain data"), "{}", listed());
            let strict = install("other", &policy(&["239.1.1.1"], &[]));
            assert!(listed().contains("chain data"), "{}", listed());
            drop((plain, strict));
            assert_eq!(listed(), "");
        })
        .unwrap();
}

#[test]
fn egress_rules_are_installed_and_listed_however_many_addresses_there_are() {
    let mac = "02:00:00:00:00:07".parse().unwrap();
    for (count, intercepted) in
        [(0, true), (1, true), (1, false), (15, true), (16, true), (300, true)]
    {
        let addresses = (0..count).map(|n: u16| {
            let [high, low] = n.to_be_bytes();
            Ipv4Addr::new(10, 0, high, low).into()
        });
        let interface = RuledInterface {
            name: "lo",
            index: LOOPBACK,
            intercepted,
            mld: intercepted,
            hears_queries: false,
            data_filter: policy(&[], &[]).data_filter(),
            data_filter_v6: policy(&[], &[]).data_filter(),
            relayed: None,
            relayed_v6: Vec::new(),
            relayed_by_kernel: false,
            egress: Some(Egress {
                mac,
                addresses: addresses.collect(),
                ipv6: count % 2 == 1,
                slaac: true,
                leases_ipv6: false,
                shares_mac: false,
            }),
        };
        namespace()
            .run(|| {
                let socket = NfSocket::open().unwrap();
                super::install(&socket, "mcrun", &[interface], None, Hooks::All).unwrap();
                let listed = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
                let text = String::from_utf8(listed.stdout).unwrap();
                assert_eq!(String::from_utf8(listed.stderr).unwrap(), "", "{count}: {text}");
                let senders = text.lines().filter(|line| line.contains("0806000108000604"));
                assert_eq!(senders.count(), usize::from(count) + 1, "{text}");
            })
            .unwrap();
    }
}

#[test]
fn data_must_pass_the_tables_of_both_proxies() {
    let (group, other) = (Ipv4Addr::new(239, 1, 1, 1), Ipv4Addr::new(239, 2, 1, 1));
    let source = Ipv4Addr::LOCALHOST;
    namespace()
        .run(|| {
            let old = install("mcrun", &policy(&[], &[]));
            assert_arrives(group, source, true);
            let _new = install("mcrun-2", &policy(&["239.1.1.1"], &[]));
            assert_arrives(group, source, false);
            assert_arrives(other, source, true);
            drop(old);
            assert_arrives(group, source, false);
            assert_arrives(other, source, true);
        })
        .unwrap();
}

/// As many rules as the text of an attachment can hold.
#[test]
fn thousands_of_rules_are_installed_and_a_packet_stays_cheap() {
    let deny: Vec<String> = (0..4000u16)
        .map(|n| {
            let [high, low] = (2 * n).to_be_bytes();
            match n % 4 {
                // Each of these groups has another source list.
                0 => format!("239.7.{high}.{low}@127.{high}.{low}.1"),
                _ => format!("239.7.{high}.{low}"),
            }
        })
        .collect();
    let long = policy(&deny.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    let filter = long.data_filter::<Ipv4Addr>();
    assert_eq!((filter.groups.len(), filter.source_lists.len()), (4000, 1000));
    let (open, denied) = (Ipv4Addr::new(239, 7, 0, 3), Ipv4Addr::new(239, 7, 0, 2));
    namespace()
        .run(|| {
            let before = time_per_packet(open);
            let start = Instant::now();
            let _rules = install("mcrun", &long);
            println!("4000 rules installed in {:?}", start.elapsed());
            let source = Ipv4Addr::LOCALHOST;
            assert_arrives(open, source, true);
            assert_arrives(denied, source, false);
            let by_source = Ipv4Addr::new(239, 7, 0, 0);
            assert_arrives(by_source, source, false);
            assert_arrives(by_source, Ipv4Addr::new(127, 0, 0, 2), true);
            let after = time_per_packet(open);
            println!("a packet took {before:?} without rules and {after:?} with them");
            assert!(after < 5 * before + Duration::from_micros(5), "{before:?}, {after:?}");
        })
        .unwrap();
}

/// Time to send one packet to a port that no socket is bound to; the shortest of five rounds.
fn time_per_packet(group: Ipv4Addr) -> Duration {
    const PACKETS: u32 = 5000;
    let receiver = UdpSocket::bind((group, 0)).unwrap();
    sockopt::join_group(&receiver, LOOPBACK, group).unwrap();
    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    sockopt::set_multicast_interface(&sender, LOOPBACK, group.into()).unwrap();
    let to = SocketAddrV4::new(group, 9);
    let round = |_| {
        let start = Instant::now();
        for _ in 0..PACKETS {
            sender.send_to(b"x", to).unwrap();
        }
        start.elapsed() / PACKETS
    };
    (0..5).map(round).min().unwrap()
}
