//! Bytes as a sequence of events for a router, and what must hold after each.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use mcrun::multicast::GroupPolicy;
use mcrun::igmp::router::Status;
use mcrun::igmp::wire;
use mcrun::igmp::wire::{Ipv4Packet, Message, Query, GroupRecord, RecordType, Version};
use mcrun::multicast::{SourceFilter, FilterMode};
use mcrun::igmp::{Router, RouterConfig};

const GROUPS: [[u8; 4]; 8] = [
    [239, 1, 1, 1],
    [239, 1, 1, 2],
    [239, 2, 2, 2],
    [239, 3, 3, 3],
    [232, 1, 1, 1],
    [232, 2, 2, 2],
    [224, 0, 0, 251],
    [224, 0, 1, 129],
];

/// Takes values off the front; zeroes at the end.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((byte, rest)) => {
                self.0 = rest;
                *byte
            }
            None => 0,
        }
    }

    fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn group(&mut self) -> Ipv4Addr {
        match self.byte() {
            n @ 0..=15 => GROUPS[usize::from(n) % GROUPS.len()].into(),
            // Many groups, to reach the limits.
            n => Ipv4Addr::new(239, 4, 0, n),
        }
    }

    fn sources(&mut self) -> Vec<Ipv4Addr> {
        (0..self.byte() % 8).map(|_| Ipv4Addr::new(10, 0, 0, self.byte() % 16)).collect()
    }

    fn filter(&mut self) -> SourceFilter {
        let make = if self.byte() & 1 == 0 { SourceFilter::include } else { SourceFilter::exclude };
        make(self.sources())
    }

    fn query(&mut self) -> Query {
        let flags = self.byte();
        let version = [Version::V1, Version::V2, Version::V3][usize::from(flags % 3)];
        let group = (flags & 0x10 != 0).then(|| self.group());
        let sources = if group.is_some() { self.sources() } else { Vec::new() };
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

    fn policy(&mut self) -> GroupPolicy {
        let rules = |n: u8, list: [&str; 4]| {
            let chosen = (0..4).filter(|bit| n & 1 << bit != 0);
            chosen.map(|bit| list[bit].parse().expect("a rule")).collect()
        };
        let n = self.byte();
        GroupPolicy {
            deny: rules(
                n,
                ["239.1.0.0/16", "239.0.0.0/8@10.0.0.1", "232.0.0.0/8@10.0.0.0/30", "224.0.0.0/4"],
            ),
            allow: rules(
                n >> 4,
                [
                    "239.0.0.0/8",
                    "232.1.1.1@10.0.0.2",
                    "239.3.3.3@10.0.0.3",
                    "239.2.0.0/16@10.0.0.0/8",
                ],
            ),
            max_groups: u32::from(self.byte() % 16),
            max_sources: u32::from(self.byte() % 8),
            ssm_strict: self.byte() & 1 != 0,
        }
    }
}

/// Runs the events in `data`.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.byte();
    let config = RouterConfig {
        fast_leave: flags & 1 == 0,
        strict_router_alert: flags & 2 != 0,
        max_refused: 8,
        mtu: if flags & 4 == 0 { 1500 } else { 80 },
        change_burst: if flags & 8 == 0 { 4096 } else { 4 },
        ..RouterConfig::default()
    };
    let paced = config.change_burst < 4096;
    let start = Instant::now();
    let mut policy = input.policy();
    let mut lab = Lab {
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
                policy = input.policy();
                lab.router.set_policy(lab.now, policy.clone());
            }
            5 => {
                let src = Ipv4Addr::new(0, 0, 0, input.byte() % 3);
                let query = input.query();
                lab.router.handle_lan_query(lab.now, src, &query);
            }
            6 => {
                let (group, filter) = (input.group(), input.filter());
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
                let group = input.group();
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
                        group: input.group(),
                        sources: input.sources(),
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

struct Lab {
    now: Instant,
    router: Router,
    upstream: BTreeMap<Ipv4Addr, SourceFilter>,
}

impl Lab {
    fn send(&mut self, message: Message) {
        let src = Ipv4Addr::new(192, 0, 2, 10);
        for packet in message.emit_ipv4(src, message.destination(), 1, 1500) {
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
            let packet = Ipv4Packet::parse(&out.packet).expect("a packet");
            assert_eq!((packet.ttl(), packet.dst()), (0, out.destination));
            match wire::parse(packet.igmp().expect("IGMP")) {
                Ok(Message::Query(query)) => assert_eq!(query.version, Version::V3),
                other => panic!("not a query: {other:?}"),
            }
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
            assert!(view.group.is_multicast() && view.group.octets()[..3] != [224, 0, 0]);
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
            let named = !policy.ssm_strict || group.octets()[0] != 232;
            assert!(named || filter.mode == FilterMode::Include);
            assert_eq!(policy.apply(*group, filter).as_ref(), Ok(filter), "denied, and joined");
        }
        assert!(paced || wanted == self.upstream, "upstream was not told all");
    }
}
