//! Bytes as a sequence of events for the router of a protocol, and what must hold after each.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use mcrun::igmp::message::{GroupRecord, Message, Query, RecordType, Version};
use mcrun::igmp::router::{Router, RouterConfig, Status};
use mcrun::igmp::wire::{self, Ipv4Packet};
use mcrun::igmp::{Igmp, Protocol};
use mcrun::mld::Mld;
use mcrun::mld::wire::{self as mld_wire, Ipv6Packet};
use mcrun::multicast::{Address, FilterMode, GroupPolicy, SourceFilter};

use crate::input::Input;

/// A protocol as the events need it.
pub trait Fuzzed: Protocol {
    /// Groups that the bytes choose from: of any source, of named sources, of the link.
    const GROUPS: [Self::Address; 8];
    /// Rules that deny, and rules that allow.
    const RULES: [[&str; 4]; 2];

    /// One more group.
    fn other_group(number: u8) -> Self::Address;

    /// A source of a group.
    fn source(number: u8) -> Self::Address;

    /// An address that a querier may have or not have, the unspecified one among them.
    fn querier(number: u8) -> Self::Address;

    /// Packets of a message of the container.
    fn emit(message: &Message<Self::Address>) -> Vec<Vec<u8>>;

    /// The query in a packet to the container. The packet cannot leave it.
    fn query(packet: &[u8], destination: Self::Address) -> Query<Self::Address>;
}

impl Fuzzed for Igmp {
    const GROUPS: [Ipv4Addr; 8] = [
        Ipv4Addr::new(239, 1, 1, 1),
        Ipv4Addr::new(239, 1, 1, 2),
        Ipv4Addr::new(239, 2, 2, 2),
        Ipv4Addr::new(239, 3, 3, 3),
        Ipv4Addr::new(232, 1, 1, 1),
        Ipv4Addr::new(232, 2, 2, 2),
        Ipv4Addr::new(224, 0, 0, 251),
        Ipv4Addr::new(224, 0, 1, 129),
    ];
    const RULES: [[&str; 4]; 2] = [
        ["239.1.0.0/16", "239.0.0.0/8@10.0.0.1", "232.0.0.0/8@10.0.0.0/30", "224.0.0.0/4"],
        ["239.0.0.0/8", "232.1.1.1@10.0.0.2", "239.3.3.3@10.0.0.3", "239.2.0.0/16@10.0.0.0/8"],
    ];

    fn other_group(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(239, 4, 0, number)
    }

    fn source(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, number)
    }

    fn querier(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(0, 0, 0, number)
    }

    fn emit(message: &Message<Ipv4Addr>) -> Vec<Vec<u8>> {
        message.emit_ipv4(Ipv4Addr::new(192, 0, 2, 10), message.destination(), 1, 1500)
    }

    fn query(packet: &[u8], destination: Ipv4Addr) -> Query<Ipv4Addr> {
        let packet = Ipv4Packet::parse(packet).expect("a packet");
        assert_eq!((packet.ttl(), packet.dst()), (0, destination));
        match wire::parse(packet.igmp().expect("IGMP")) {
            Ok(Message::Query(query)) => query,
            other => panic!("not a query: {other:?}"),
        }
    }
}

impl Fuzzed for Mld {
    const GROUPS: [Ipv6Addr; 8] = [
        Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 1, 1),
        Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 1, 2),
        Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 2, 2),
        Ipv6Addr::new(0xff08, 0, 0, 0, 0, 0, 3, 3),
        Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0x8000, 1),
        Ipv6Addr::new(0xff35, 0, 0, 0, 0, 0, 0x8000, 2),
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 7),
    ];
    const RULES: [[&str; 4]; 2] = [
        ["ff0e::1:0/112", "ff00::/8@fd00::1", "ff3e::/16@fd00::/126", "ff00::/8"],
        ["ff0e::/16", "ff3e::8000:1@fd00::2", "ff08::3:3@fd00::3", "ff05::/16@fd00::/8"],
    ];

    fn other_group(number: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 4, number.into())
    }

    fn source(number: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into())
    }

    fn querier(number: u8) -> Ipv6Addr {
        let prefix = [0, 0xfe80, 0xfd00][usize::from(number % 3)];
        Ipv6Addr::new(prefix, 0, 0, 0, 0, 0, 0, number.into())
    }

    fn emit(message: &Message<Ipv6Addr>) -> Vec<Vec<u8>> {
        let src = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 10);
        message.emit_ipv6(src, message.destination(), 1, 1500)
    }

    fn query(packet: &[u8], _: Ipv6Addr) -> Query<Ipv6Addr> {
        let packet = Ipv6Packet::parse(packet).expect("a packet");
        let to_this_interface = Ipv6Addr::new(0xff01, 0, 0, 0, 0, 0, 0, 1);
        assert_eq!((packet.hop_limit(), packet.dst()), (1, to_this_interface));
        match mld_wire::parse(&packet) {
            Ok(Message::Query(query)) => query,
            other => panic!("not a query: {other:?}"),
        }
    }
}

impl Input<'_> {
    fn group<P: Fuzzed>(&mut self) -> P::Address {
        match self.byte() {
            n @ 0..=15 => P::GROUPS[usize::from(n) % P::GROUPS.len()],
            // Many groups, to reach the limits.
            n => P::other_group(n),
        }
    }

    fn sources<P: Fuzzed>(&mut self) -> Vec<P::Address> {
        (0..self.byte() % 8).map(|_| P::source(self.byte() % 16)).collect()
    }

    fn filter<P: Fuzzed>(&mut self) -> SourceFilter<P::Address> {
        let make = if self.byte() & 1 == 0 { SourceFilter::include } else { SourceFilter::exclude };
        make(self.sources::<P>())
    }

    fn query<P: Fuzzed>(&mut self) -> Query<P::Address> {
        let flags = self.byte();
        let version = [Version::V1, Version::V2, Version::V3][usize::from(flags % 3)];
        let group = (flags & 0x10 != 0).then(|| self.group::<P>());
        let sources = if group.is_some() { self.sources::<P>() } else { Vec::new() };
        Query {
            version,
            group,
            max_resp: Duration::from_millis(u64::from(self.byte()) * 100),
            suppress: flags & 0x20 != 0,
            qrv: self.byte() & 7,
            qqi: Duration::from_secs(self.byte().into()),
            sources,
        }
    }

    fn policy<P: Fuzzed>(&mut self) -> GroupPolicy {
        let rules = |n: u8, list: [&str; 4]| {
            let chosen = (0..4).filter(|bit| n & 1 << bit != 0);
            chosen.map(|bit| list[bit].parse().expect("a rule")).collect()
        };
        let n = self.byte();
        GroupPolicy {
            deny: rules(n, P::RULES[0]),
            allow: rules(n >> 4, P::RULES[1]),
            max_groups: u32::from(self.byte() % 16),
            max_sources: u32::from(self.byte() % 8),
            ssm_strict: self.byte() & 1 != 0,
        }
    }
}

/// More changes than an input makes, also of groups that change again and again: none waits.
const UNPACED: u32 = 1 << 20;

/// Runs the events in `data`.
pub fn run<P: Fuzzed>(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.byte();
    let paced = flags & 8 != 0;
    let config = RouterConfig {
        fast_leave: flags & 1 == 0,
        strict_router_alert: flags & 2 != 0,
        max_refused: 8,
        mtu: if flags & 4 == 0 { 1500 } else { 80 },
        change_burst: if paced { 4 } else { UNPACED },
        repeat_burst: if paced {
            RouterConfig::<P::Address>::default().repeat_burst
        } else {
            UNPACED
        },
        ..RouterConfig::default()
    };
    let start = Instant::now();
    let mut policy = input.policy::<P>();
    let mut lab = Lab::<P> {
        now: start,
        router: Router::new(config, policy.clone(), start),
        upstream: BTreeMap::new(),
    };
    while !input.0.is_empty() {
        match input.byte() % 12 {
            0 => lab.pass(Duration::from_millis(input.byte().into())),
            1 => lab.pass(Duration::from_secs(input.byte().into())),
            2 => lab.router.handle_link_up(lab.now),
            3 => lab.router.requery(lab.now),
            4 => {
                policy = input.policy::<P>();
                lab.router.set_policy(lab.now, policy.clone());
            }
            5 => {
                let src = P::querier(input.byte() % 3);
                let query = input.query::<P>();
                lab.router.handle_lan_query(lab.now, src, &query);
            }
            6 => {
                let (group, filter) = (input.group::<P>(), input.filter::<P>());
                let predicted = lab.router.predict_join(lab.now, group, &filter);
                lab.router.handle_membership(lab.now, group, &filter);
                lab.drain();
                assert!(predicted.is_none() || predicted.as_ref() == lab.upstream.get(&group));
            }
            7 => {
                let n = usize::from(input.byte());
                lab.router.handle_packet(lab.now, input.bytes(n));
            }
            8 => {
                let group = input.group::<P>();
                lab.send(match input.byte() % 3 {
                    0 => Message::ReportV1 { group },
                    1 => Message::ReportV2 { group },
                    _ => Message::LeaveV2 { group },
                });
            }
            _ => {
                let records = (0..input.byte() % 4)
                    .map(|_| GroupRecord {
                        kind: RecordType::from(input.byte() % 8),
                        group: input.group::<P>(),
                        sources: input.sources::<P>(),
                    })
                    .collect();
                lab.send(Message::ReportV3(records));
            }
        }
        lab.drain();
        lab.check(&policy, paced);
    }
    // In silence everything ends.
    lab.pass(Duration::from_secs(600));
    lab.drain();
    assert!(lab.upstream.is_empty());
    assert_eq!(lab.router.groups().count(), 0);
}

struct Lab<P: Fuzzed> {
    now: Instant,
    router: Router<P>,
    upstream: BTreeMap<P::Address, SourceFilter<P::Address>>,
}

impl<P: Fuzzed> Lab<P> {
    fn send(&mut self, message: Message<P::Address>) {
        for packet in P::emit(&message) {
            self.router.handle_packet(self.now, &packet);
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.router.poll_timeout()
            && at <= end
        {
            self.now = self.now.max(at);
            self.router.handle_timeout(self.now);
            self.drain();
            let next = self.router.poll_timeout();
            assert!(next.is_none_or(|next| next > self.now), "what was due was not done");
        }
        self.now = end;
    }

    fn drain(&mut self) {
        while let Some(out) = self.router.poll_query() {
            assert_eq!(P::query(&out.packet, out.destination).version, Version::V3);
        }
        while let Some((group, filter)) = self.router.poll_change() {
            let before = if filter.is_none() {
                self.upstream.remove(&group)
            } else {
                self.upstream.insert(group, filter.clone())
            };
            assert_ne!(before.unwrap_or_else(SourceFilter::none), filter, "no change");
        }
        while self.router.poll_notice().is_some() {}
    }

    fn check(&self, policy: &GroupPolicy, paced: bool) {
        let mut wanted = BTreeMap::new();
        let mut refused = 0;
        for view in self.router.groups() {
            assert!(view.group.is_group() && view.group.needs_report());
            assert!(!view.wanted.is_none());
            assert!(view.wanted.sources.len() <= 2 * 8, "{}", view.wanted.sources.len());
            if view.upstream.is_none() {
                refused += 1;
                assert_ne!(view.status, Status::Allowed);
            } else {
                wanted.insert(view.group, view.upstream);
            }
        }
        assert!(refused <= 8 + 16, "{refused} refused groups remembered");
        assert!(wanted.len() <= policy.max_groups as usize);
        for (group, filter) in &wanted {
            let rules = policy.deny.len() + policy.allow.len();
            assert!(filter.sources.len() <= policy.max_sources as usize + rules);
            let named = !policy.ssm_strict || !group.is_ssm();
            assert!(named || filter.mode == FilterMode::Include);
            assert_eq!(policy.apply(*group, filter).as_ref(), Ok(filter), "denied, and joined");
        }
        assert!(paced || wanted == self.upstream, "upstream was not told all");
    }
}
