//! Lines of the conformance checklist for the router that speaks MLD: 1 timers and encodings, 2 validation,
//! 3 downstream state (RFC 9777 §7 to §9). Those of the packets are beside the packets.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use crate::igmp::message::RecordType::{Allow, Block, IsEx, ToEx, ToIn};
use crate::igmp::router::{Status, counter};
use crate::mld::wire::{GroupRecord, Ipv6Packet, Message, Query, RecordType, parse};
use crate::mld::{OWN_QUERIER, Router, RouterConfig};
use crate::multicast::{GroupPolicy, SourceFilter};

const GROUP: &str = "ff05::101";
const A: &str = "2001:db8::a";
const B: &str = "2001:db8::b";

fn ip(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn include(sources: &[&str]) -> SourceFilter<Ipv6Addr> {
    SourceFilter::include(sources.iter().map(|source| ip(source)))
}

fn exclude(sources: &[&str]) -> SourceFilter<Ipv6Addr> {
    SourceFilter::exclude(sources.iter().map(|source| ip(source)))
}

struct Lab {
    start: Instant,
    now: Instant,
    router: Router,
    joined: SourceFilter<Ipv6Addr>,
    /// When, by whom, and what is asked.
    queries: Vec<(Duration, Ipv6Addr, Query)>,
}

impl Lab {
    fn new(config: RouterConfig) -> Lab {
        let start = Instant::now();
        let router = Router::new(config, GroupPolicy::default(), start);
        Lab { start, now: start, router, joined: SourceFilter::none(), queries: Vec::new() }
    }

    fn slow_leave() -> Lab {
        Lab::new(RouterConfig { fast_leave: false, ..RouterConfig::default() })
    }

    fn drain(&mut self) {
        while let Some(query) = self.router.poll_query() {
            let packet = Ipv6Packet::parse(&query.packet).unwrap();
            let Ok(Message::Query(query)) = parse(&packet) else { panic!("no query") };
            self.queries.push((self.now - self.start, packet.src(), query));
        }
        while let Some((group, filter)) = self.router.poll_change() {
            assert_eq!(group, ip(GROUP));
            self.joined = filter;
        }
    }

    fn packet(&mut self, packet: &[u8]) {
        self.router.handle_packet(self.now, packet);
        self.drain();
    }

    fn report(&mut self, kind: RecordType, sources: &[&str]) {
        self.packet(&report(kind, sources));
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

    fn times(&self) -> Vec<Duration> {
        self.queries.iter().map(|(at, ..)| *at).collect()
    }
}

fn report(kind: RecordType, sources: &[&str]) -> Vec<u8> {
    let sources = sources.iter().map(|source| ip(source)).collect();
    let message = Message::ReportV3(vec![GroupRecord { kind, group: ip(GROUP), sources }]);
    message.emit_ipv6(ip("fe80::a"), message.destination(), 1, 1500).remove(0)
}

#[test]
fn line_1_2_a_membership_ends_270_s_after_its_last_report() {
    let mut lab = Lab::new(RouterConfig::default());
    lab.report(ToEx, &[]);
    lab.pass(seconds(200));
    lab.report(IsEx, &[]);
    lab.pass(ms(269_999));
    assert_eq!(lab.joined, SourceFilter::any());
    lab.pass(ms(1));
    assert_eq!(lab.joined, SourceFilter::none());
}

/// The lowest link-local address is the querier (RFC 9777 §7.6.2).
#[test]
fn line_1_3_the_lans_querier_is_relayed_instead_of_startup_queries_and_missed_after_255_s() {
    let mut lab = Lab::new(RouterConfig::default());
    lab.router.handle_link_up(lab.now);
    lab.drain();
    lab.pass(seconds(40));
    let general = Query::general(seconds(10));
    for querier in ["fe80::9", "fe80::5", "fe80::7"] {
        lab.router.handle_lan_query(lab.now, ip(querier), &general);
        lab.pass(seconds(10));
    }
    let elected = lab.router.querier(lab.now).map(|querier| querier.address);
    assert_eq!(elected, Some(ip("fe80::5")));
    // The one that was elected has asked at 50 s.
    lab.pass(ms(234_999));
    assert!(lab.router.querier(lab.now).is_some());
    lab.pass(ms(1));
    assert_eq!(lab.router.querier(lab.now), None);
    let own = |(at, from, _): &(Duration, Ipv6Addr, Query)| (*from == OWN_QUERIER).then_some(*at);
    let own: Vec<_> = lab.queries.iter().filter_map(own).collect();
    assert_eq!(own, [ms(0), ms(31_250), seconds(305)]);
    assert_eq!(lab.times().len(), own.len() + 3);
}

#[test]
fn line_1_5_a_listener_of_version_1_counts_for_260_s() {
    let mut lab = Lab::new(RouterConfig::default());
    let old = Message::ReportV2 { group: ip(GROUP) };
    lab.packet(&old.emit_ipv6(ip("fe80::a"), old.destination(), 1, 1500)[0]);
    lab.pass(ms(259_999));
    lab.report(Block, &[A]);
    assert_eq!(lab.joined, SourceFilter::any());
    lab.pass(ms(1));
    lab.report(Block, &[A]);
    assert_eq!(lab.joined, exclude(&[A]));
}

#[test]
fn line_2_2_a_hop_limit_other_than_1_is_dropped_and_counted() {
    let mut lab = Lab::new(RouterConfig::default());
    for hop_limit in [0, 2, 64, 255] {
        let mut packet = report(ToEx, &[]);
        packet[7] = hop_limit;
        lab.packet(&packet);
    }
    assert_eq!(lab.joined, SourceFilter::none());
    assert_eq!(lab.router.counters().get(counter::BAD_TTL), Some(&4));
    lab.report(ToEx, &[]);
    assert_eq!(lab.joined, SourceFilter::any());
}

#[test]
fn line_2_3_a_report_without_router_alert_is_counted_and_dropped_when_strict() {
    let mut packet = report(ToEx, &[]);
    // An option of padding stands where Router Alert was.
    packet[42..48].copy_from_slice(&[1, 4, 0, 0, 0, 0]);
    for (strict, joined) in [(false, SourceFilter::any()), (true, SourceFilter::none())] {
        let config = RouterConfig { strict_router_alert: strict, ..RouterConfig::default() };
        let mut lab = Lab::new(config);
        lab.packet(&packet);
        assert_eq!(lab.joined, joined);
        assert_eq!(lab.router.counters().get(counter::NO_ROUTER_ALERT), Some(&1));
    }
}

#[test]
fn line_3_1_sources_end_one_by_one_and_the_end_of_the_group_timer_leaves_those_that_run() {
    let mut lab = Lab::slow_leave();
    lab.report(Allow, &[A]);
    lab.pass(seconds(100));
    lab.report(Allow, &[B]);
    lab.pass(seconds(170));
    assert_eq!(lab.joined, include(&[B]));
    lab.report(IsEx, &[]);
    lab.pass(seconds(200));
    lab.report(Allow, &[A]);
    assert_eq!(lab.joined, SourceFilter::any());
    lab.pass(seconds(70));
    assert_eq!(lab.joined, include(&[A]));
    lab.pass(seconds(200));
    assert_eq!(lab.joined, SourceFilter::none());
}

#[test]
fn line_3_2_without_fast_leave_the_group_is_asked_for_and_left_after_2_s() {
    let mut lab = Lab::slow_leave();
    lab.report(ToEx, &[]);
    lab.report(ToIn, &[]);
    lab.pass(ms(1999));
    assert_eq!(lab.joined, SourceFilter::any());
    lab.pass(ms(1));
    assert_eq!(lab.joined, SourceFilter::none());
    assert_eq!(lab.times(), [ms(0), seconds(1)]);
    for (_, from, query) in &lab.queries {
        assert_eq!((*from, query.group), (OWN_QUERIER, Some(ip(GROUP))));
        assert_eq!(query.max_resp, seconds(1));
        assert!(!query.suppress && query.sources.is_empty());
    }
}

#[test]
fn line_3_3_without_fast_leave_blocked_sources_are_asked_for() {
    let mut lab = Lab::slow_leave();
    lab.report(Allow, &[A, B]);
    lab.report(Block, &[A]);
    assert_eq!(lab.queries.len(), 1);
    assert_eq!(lab.queries[0].2.sources, [ip(A)]);
    lab.pass(seconds(2));
    assert_eq!(lab.joined, include(&[B]));
}

#[test]
fn line_3_4_fast_leave_acts_at_once_and_asks_nothing() {
    let mut lab = Lab::new(RouterConfig::default());
    lab.report(ToEx, &[]);
    lab.report(ToIn, &[]);
    assert_eq!(lab.joined, SourceFilter::none());
    lab.report(Allow, &[A, B]);
    lab.report(Block, &[A]);
    assert_eq!(lab.joined, include(&[B]));
    assert_eq!(lab.queries, []);
}

/// The range is ff3x::/32 (RFC 4607 §1, RFC 9777 §7.4 by RFC 4604 §2.2.2).
#[test]
fn line_3_6_in_the_ssm_range_a_join_from_any_source_is_denied_when_strict() {
    let now = Instant::now();
    let policy = GroupPolicy { ssm_strict: true, ..GroupPolicy::default() };
    let mut router = Router::new(RouterConfig::default(), policy, now);
    for (group, is_denied) in [("ff3e::8000:1", true), ("ff35::8000:1", true), ("ff0e::1", false)] {
        let records = vec![GroupRecord { kind: ToEx, group: ip(group), sources: vec![] }];
        let message = Message::ReportV3(records);
        let packet = message.emit_ipv6(ip("fe80::a"), message.destination(), 1, 1500).remove(0);
        router.handle_packet(now, &packet);
        let view = router.groups().find(|view| view.group == ip(group)).unwrap();
        assert_eq!(matches!(view.status, Status::Denied(_)), is_denied, "{group}");
    }
}
