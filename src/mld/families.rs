//! The router is the same for both address families: one test body runs with the packets of IGMP,
//! and with those of MLD.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::igmp::message::{GroupRecord, Message, Query, RecordType, Version};
use crate::igmp::router::{Router, RouterConfig, Status, counter};
use crate::igmp::{Igmp, Protocol};
use crate::mld::Mld;
use crate::multicast::{Address, GroupPolicy, GroupRule, SourceFilter};

/// A protocol whose messages a test can send.
trait Host: Protocol {
    fn emit(message: &Message<Self::Address>) -> Vec<u8>;
}

impl Host for Igmp {
    fn emit(message: &Message<Ipv4Addr>) -> Vec<u8> {
        let source = Ipv4Addr::new(192, 0, 2, 10);
        message.emit_ipv4(source, message.destination(), 1, 1500).remove(0)
    }
}

impl Host for Mld {
    fn emit(message: &Message<Ipv6Addr>) -> Vec<u8> {
        let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xa);
        message.emit_ipv6(source, message.destination(), 1, 1500).remove(0)
    }
}

struct Lab<P: Protocol> {
    now: Instant,
    router: Router<P>,
    upstream: BTreeMap<P::Address, SourceFilter<P::Address>>,
    queries: Vec<P::Address>,
}

impl<P: Host> Lab<P> {
    fn new(policy: GroupPolicy) -> Self {
        let now = Instant::now();
        let router = Router::new(RouterConfig::default(), policy, now);
        Lab { now, router, upstream: BTreeMap::new(), queries: Vec::new() }
    }

    fn drain(&mut self) {
        while let Some(query) = self.router.poll_query() {
            self.queries.push(query.destination);
        }
        while let Some((group, filter)) = self.router.poll_change() {
            if filter.is_none() {
                assert!(self.upstream.remove(&group).is_some());
            } else {
                self.upstream.insert(group, filter);
            }
        }
    }

    fn send(&mut self, message: Message<P::Address>) {
        self.router.handle_packet(self.now, &P::emit(&message));
        self.drain();
    }

    fn record(&mut self, kind: RecordType, group: P::Address, sources: &[P::Address]) {
        let sources = sources.to_vec();
        self.send(Message::ReportV3(vec![GroupRecord { kind, group, sources }]));
    }

    fn joined(&self, group: P::Address) -> SourceFilter<P::Address> {
        self.upstream.get(&group).cloned().unwrap_or_else(SourceFilter::none)
    }

    fn status(&self, group: P::Address) -> Option<Status> {
        self.router.groups().find(|view| view.group == group).map(|view| view.status)
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.router.poll_timeout()
            && at <= end
        {
            self.now = at;
            self.router.handle_timeout(at);
            self.drain();
        }
        self.now = end;
    }
}

fn group<A: Address>(n: u128) -> A {
    A::from_number(A::PTP_PRIMARY[0].to_number() + n)
}

fn source<A: Address>(n: u128) -> A {
    A::from_number(A::DOCUMENTATION.to_number() + n)
}

fn memberships_within_policy_and_limits<P: Host>(ssm: &str, querier: &str) {
    let single = |address: IpAddr| IpNet::from(address);
    let deny = |groups, sources| GroupRule { groups, sources };
    let mut lab = Lab::<P>::new(GroupPolicy {
        deny: vec![
            deny(single(group::<P::Address>(9).into()), None),
            deny(P::Address::GROUPS, Some(single(source::<P::Address>(9).into()))),
        ],
        max_groups: 2,
        max_sources: 2,
        ssm_strict: true,
        ..GroupPolicy::default()
    });
    lab.router.handle_link_up(lab.now);
    lab.drain();
    assert_eq!(lab.queries, [P::Address::ALL_SYSTEMS]);

    let excluded = SourceFilter::exclude([source(9)]);
    let any = SourceFilter::any();
    assert_eq!(lab.router.predict_join(lab.now, group(1), &any), Some(excluded.clone()));
    lab.record(RecordType::ToEx, group(1), &[]);
    assert_eq!(lab.joined(group(1)), excluded, "a denied source is excluded");
    lab.record(RecordType::ToEx, group(9), &[]);
    assert!(matches!(lab.status(group(9)), Some(Status::Denied(_))));
    lab.record(RecordType::Allow, group(2), &[source(1)]);
    lab.record(RecordType::Allow, group(2), &[source(2), source(3)]);
    assert_eq!(lab.joined(group(2)), SourceFilter::include([source(1), source(2)]));
    assert_eq!(lab.status(group(2)), Some(Status::Limited("max-sources=2".into())));
    lab.record(RecordType::ToEx, group(3), &[]);
    assert_eq!(lab.status(group(3)), Some(Status::Limited("max-groups=2".into())));
    lab.record(RecordType::Block, group(2), &[source(1), source(2)]);
    assert_eq!(lab.joined(group(2)), SourceFilter::none());
    assert_eq!(lab.joined(group(3)), excluded, "there is room now");

    // The compatibility mode of a group ignores BLOCK.
    lab.send(Message::LeaveV2 { group: group(3) });
    lab.send(Message::ReportV2 { group: group(4) });
    lab.record(RecordType::Block, group(4), &[source(1)]);
    assert_eq!(lab.joined(group(4)), excluded);
    assert_eq!(lab.router.counters().get(counter::COMPATIBILITY_MODE), Some(&1));
    lab.send(Message::LeaveV2 { group: group(4) });
    assert_eq!(lab.joined(group(4)), SourceFilter::none());

    // Groups of the source-specific range, and those that need no report.
    let ssm: P::Address = ssm.parse().unwrap();
    lab.record(RecordType::ToEx, ssm, &[]);
    assert_eq!(lab.joined(ssm), SourceFilter::none());
    assert_eq!(lab.status(ssm), Some(Status::Denied("ssm-strict=true".into())));
    lab.record(RecordType::ToIn, ssm, &[source(1)]);
    assert_eq!(lab.joined(ssm), SourceFilter::include([source(1)]));
    lab.record(RecordType::ToEx, P::Address::ALL_SYSTEMS, &[]);
    assert_eq!(lab.status(P::Address::ALL_SYSTEMS), None);

    // The kernel's own word, and the LAN's querier.
    lab.router.handle_membership(lab.now, ssm, &SourceFilter::include([source(2)]));
    lab.drain();
    assert_eq!(lab.joined(ssm), SourceFilter::include([source(2)]));
    let querier: P::Address = querier.parse().unwrap();
    let query = Query::general(Duration::from_secs(10));
    lab.router.handle_lan_query(lab.now, group(1), &query);
    assert_eq!(lab.router.querier(lab.now), None, "a group is no querier");
    lab.router.handle_lan_query(lab.now, querier, &query);
    let known = lab.router.querier(lab.now).unwrap();
    assert_eq!((known.address, known.version), (querier, Version::V3));

    // Without reports everything ends.
    lab.pass(Duration::from_secs(600));
    assert!(lab.upstream.is_empty());
    assert_eq!(lab.router.groups().count(), 0);
}

#[test]
fn the_router_keeps_memberships_of_both_families_within_policy_and_limits() {
    memberships_within_policy_and_limits::<Igmp>("232.1.1.1", "10.0.0.1");
    memberships_within_policy_and_limits::<Mld>("ff3e::8000:1", "fe80::1");
}
