//! A router, its clock, and what comes out of it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::igmp::router::{GroupView, Status};
use crate::igmp::wire::{self, GroupRecord, Ipv4Packet, Message, Query, RecordType, Version};
use crate::igmp::{Router, RouterConfig};
use crate::multicast::{GroupPolicy, SourceFilter};
use crate::notice::Notice;

/// The container's address.
pub(super) const CONTAINER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The LAN's querier.
pub(super) const QUERIER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

pub(super) fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

pub(super) fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(super) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(super) fn include(sources: &[&str]) -> SourceFilter {
    SourceFilter::include(sources.iter().map(|s| ip(s)))
}

pub(super) fn exclude(sources: &[&str]) -> SourceFilter {
    SourceFilter::exclude(sources.iter().map(|s| ip(s)))
}

pub(super) fn policy(deny: &[&str], allow: &[&str]) -> GroupPolicy {
    let rules = |list: &[&str]| list.iter().map(|rule| rule.parse().unwrap()).collect();
    GroupPolicy { deny: rules(deny), allow: rules(allow), ..GroupPolicy::default() }
}

pub(super) fn record(kind: RecordType, group: &str, sources: &[&str]) -> GroupRecord {
    GroupRecord { kind, group: ip(group), sources: sources.iter().map(|s| ip(s)).collect() }
}

pub(super) fn general(version: Version) -> Query {
    match version {
        Version::V3 => Query::general(seconds(10)),
        version => Query { version, qrv: 0, qqi: Duration::ZERO, ..Query::general(seconds(10)) },
    }
}

pub(super) fn specific(group: &str, sources: &[&str]) -> Query {
    let sources = sources.iter().map(|s| ip(s)).collect();
    Query { group: Some(ip(group)), sources, ..Query::general(seconds(1)) }
}

/// A query as the container hears it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heard {
    /// Since the lab's start.
    pub(super) at: Duration,
    pub(super) src: Ipv4Addr,
    pub(super) query: Query,
}

pub(super) struct Lab {
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) router: Router,
    /// What was asked of upstream, and not given up.
    pub(super) upstream: BTreeMap<Ipv4Addr, SourceFilter>,
    /// All that upstream was told.
    pub(super) changes: Vec<(Ipv4Addr, SourceFilter)>,
    /// Queries since they were last taken.
    pub(super) queries: Vec<Heard>,
    pub(super) notices: Vec<Notice>,
    /// Calls of `handle_timeout`.
    pub(super) wakeups: usize,
}

impl Lab {
    pub(super) fn new() -> Self {
        Self::with(RouterConfig::default(), GroupPolicy::default())
    }

    pub(super) fn with_policy(policy: GroupPolicy) -> Self {
        Self::with(RouterConfig::default(), policy)
    }

    pub(super) fn slow_leave() -> Self {
        let config = RouterConfig { fast_leave: false, ..RouterConfig::default() };
        Self::with(config, GroupPolicy::default())
    }

    pub(super) fn with(config: RouterConfig, policy: GroupPolicy) -> Self {
        let start = Instant::now();
        Lab {
            start,
            now: start,
            router: Router::new(config, policy, start),
            upstream: BTreeMap::new(),
            changes: Vec::new(),
            queries: Vec::new(),
            notices: Vec::new(),
            wakeups: 0,
        }
    }

    /// Something happens to the router, now.
    pub(super) fn event(&mut self, event: impl FnOnce(&mut Router, Instant)) {
        event(&mut self.router, self.now);
        self.drain();
    }

    pub(super) fn send(&mut self, message: Message) {
        for packet in message.emit_ipv4(CONTAINER, message.destination(), 1, 1500) {
            self.packet(&packet);
        }
    }

    pub(super) fn packet(&mut self, packet: &[u8]) {
        self.event(|router, now| router.handle_packet(now, packet));
    }

    /// A v3 report of one record.
    pub(super) fn report(&mut self, kind: RecordType, group: &str, sources: &[&str]) {
        self.send(Message::ReportV3(vec![record(kind, group, sources)]));
    }

    pub(super) fn join(&mut self, group: &str) {
        self.report(RecordType::ToEx, group, &[]);
    }

    pub(super) fn leave(&mut self, group: &str) {
        self.report(RecordType::ToIn, group, &[]);
    }

    pub(super) fn lan_query(&mut self, src: Ipv4Addr, query: &Query) {
        self.event(|router, now| router.handle_lan_query(now, src, query));
    }

    /// Lets time pass, waking the router when it wants to be.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.router.poll_timeout()
            && at <= end
        {
            self.now = self.now.max(at);
            self.wakeups += 1;
            self.event(|router, now| router.handle_timeout(now));
            let next = self.router.poll_timeout();
            assert!(next.is_none_or(|next| next > self.now), "what was due was not done");
        }
        self.now = end;
    }

    pub(super) fn pass_until(&mut self, since_start: Duration) {
        self.pass(self.start + since_start - self.now);
    }

    fn drain(&mut self) {
        while let Some(out) = self.router.poll_query() {
            let packet = Ipv4Packet::parse(&out.packet).unwrap();
            assert_eq!(packet.ttl(), 0, "a query that could leave the container");
            assert!(packet.router_alert());
            assert_eq!(packet.dst(), out.destination);
            let Ok(Message::Query(query)) = wire::parse(packet.igmp().unwrap()) else {
                panic!("not a query: {packet:?}")
            };
            assert_eq!(query.version, Version::V3, "the container would fall back");
            self.queries.push(Heard { at: self.now - self.start, src: packet.src(), query });
        }
        while let Some((group, filter)) = self.router.poll_change() {
            if filter.is_none() {
                assert!(self.upstream.remove(&group).is_some(), "{group} left twice");
            } else {
                let before = self.upstream.insert(group, filter.clone());
                assert_ne!(before.as_ref(), Some(&filter), "{group} told twice");
            }
            self.changes.push((group, filter));
        }
        while let Some(notice) = self.router.poll_notice() {
            self.notices.push(notice);
        }
    }

    pub(super) fn take_queries(&mut self) -> Vec<Heard> {
        std::mem::take(&mut self.queries)
    }

    /// What is joined upstream for a group.
    pub(super) fn joined(&self, group: &str) -> SourceFilter {
        self.upstream.get(&ip(group)).cloned().unwrap_or_else(SourceFilter::none)
    }

    pub(super) fn view(&self, group: &str) -> Option<GroupView<Ipv4Addr>> {
        self.router.groups().find(|view| view.group == ip(group))
    }

    pub(super) fn status(&self, group: &str) -> Option<Status> {
        self.view(group).map(|view| view.status)
    }

    pub(super) fn counter(&self, name: &str) -> u64 {
        self.router.counters().get(name).copied().unwrap_or(0)
    }
}
