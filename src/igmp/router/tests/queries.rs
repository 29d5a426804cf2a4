//! The querier role: own queries, relayed queries, and how few wake-ups it takes.

use std::time::Duration;

use crate::igmp::RouterConfig;
use crate::igmp::Timing;
use crate::igmp::router::counter;
use crate::igmp::router::tests::lab::*;
use crate::igmp::wire::RecordType::*;
use crate::igmp::wire::{Message, Query, Version};

fn times(heard: &[Heard]) -> Vec<Duration> {
    heard.iter().map(|h| h.at).collect()
}

/// A lab whose link came up at its start.
fn up() -> Lab {
    let mut lab = Lab::new();
    lab.event(|router, now| router.handle_link_up(now));
    lab
}

#[test]
fn line_1_3_startup_queries_are_rv_of_them_a_quarter_interval_apart() {
    let mut lab = up();
    lab.pass(seconds(300));
    let queries = lab.take_queries();
    assert_eq!(times(&queries), [ms(0), ms(31_250), ms(156_250), ms(281_250)]);
    for heard in queries {
        assert_eq!(heard.src, ip("0.0.0.0"), "an elected querier would be outvoted");
        // The link has just come up: what is joined there is to be known at once.
        let max_resp = if heard.at.is_zero() { ms(500) } else { seconds(10) };
        assert_eq!(heard.query, Query::general(max_resp));
    }
}

#[test]
fn nothing_is_sent_before_the_link_is_up() {
    let mut lab = Lab::new();
    lab.lan_query(QUERIER, &general(Version::V3));
    lab.event(|router, now| router.requery(now));
    lab.pass(seconds(1000));
    assert_eq!(lab.queries, []);
}

#[test]
fn a_link_that_comes_up_again_is_asked_again() {
    let mut lab = up();
    lab.pass(seconds(500));
    lab.take_queries();
    lab.event(|router, now| router.handle_link_up(now));
    lab.pass(seconds(40));
    assert_eq!(times(&lab.take_queries()), [seconds(500), ms(531_250)]);
}

#[test]
fn line_1_3_the_lans_querier_is_relayed_instead_and_missed_after_255_s() {
    let mut lab = up();
    lab.pass(seconds(10));
    lab.take_queries();
    for _ in 0..3 {
        lab.lan_query(QUERIER, &general(Version::V3));
        lab.pass(seconds(125));
    }
    let queries = lab.take_queries();
    assert_eq!(times(&queries), [seconds(10), seconds(135), seconds(260)]);
    assert!(queries.iter().all(|h| h.src == QUERIER));
    // The last one was at 260 s.
    lab.pass_until(ms(514_999));
    assert!(lab.router.querier(lab.now).is_some());
    assert_eq!(lab.take_queries(), []);
    lab.pass_until(seconds(900));
    let queries = lab.take_queries();
    assert_eq!(times(&queries), [seconds(515), seconds(640), seconds(765), seconds(890)]);
    assert!(queries.iter().all(|h| h.src == ip("0.0.0.0")));
    assert_eq!(lab.router.querier(lab.now), None);
}

#[test]
fn a_querier_is_missed_after_the_silence_that_its_own_interval_allows() {
    let mut lab = up();
    let mut missed_after = |query: &Query| {
        lab.lan_query(QUERIER, query);
        let (heard, timeout) = (lab.now, lab.router.querier_timeout());
        assert_eq!(lab.router.querier_expiry(heard), Some(heard + timeout));
        lab.pass(timeout - ms(1));
        assert!(lab.router.querier(lab.now).is_some());
        lab.pass(ms(1));
        assert_eq!(lab.router.querier(lab.now), None);
        assert_eq!(lab.router.querier_timeout(), timeout, "known also without a querier");
        lab.now - heard
    };
    let v3 = |qrv, interval| Query { qrv, qqi: seconds(interval), ..general(Version::V3) };
    assert_eq!(missed_after(&v3(2, 600)), seconds(1205));
    assert_eq!(missed_after(&v3(3, 20)), seconds(65));
    // 0 is no value: the defaults count (RFC 9776 §4.1.6 and §4.1.7).
    assert_eq!(missed_after(&v3(0, 0)), seconds(255));
    let quick = Query { max_resp: seconds(1), ..v3(1, 1) };
    assert_eq!(missed_after(&quick), seconds(10));
    assert_eq!(missed_after(&general(Version::V2)), seconds(255));
}

#[test]
fn the_querier_is_remembered_with_version_and_interval() {
    let mut lab = up();
    lab.pass(seconds(2));
    let querier = |lab: &Lab| {
        let q = lab.router.querier(lab.now).unwrap();
        (q.address, q.version, q.interval, lab.now - q.last_query)
    };
    lab.lan_query(QUERIER, &general(Version::V2));
    lab.pass(seconds(7));
    assert_eq!(querier(&lab), (QUERIER, Version::V2, None, seconds(7)));
    lab.lan_query(QUERIER, &Query { qqi: seconds(30), ..general(Version::V3) });
    assert_eq!(querier(&lab), (QUERIER, Version::V3, Some(seconds(30)), seconds(0)));
    // Specific queries tell nothing of the querier.
    lab.pass(seconds(3));
    lab.lan_query(QUERIER, &specific("239.1.1.1", &[]));
    assert_eq!(querier(&lab).3, seconds(3));
    // In an election the lowest address wins.
    lab.lan_query(ip("192.0.2.2"), &general(Version::V3));
    assert_eq!(querier(&lab).0, QUERIER);
    lab.lan_query(ip("192.0.2.0"), &general(Version::V3));
    assert_eq!(querier(&lab).0, ip("192.0.2.0"));
}

#[test]
fn a_querier_that_asks_although_it_has_lost_the_election_is_a_rival_until_it_is_silent() {
    let mut lab = up();
    let rival = |lab: &Lab| lab.router.rival_querier(lab.now).map(|rival| rival.address);
    lab.lan_query(ip("192.0.2.9"), &general(Version::V3));
    // The one before has not heard this one yet.
    lab.lan_query(QUERIER, &general(Version::V3));
    assert_eq!(rival(&lab), None);
    lab.lan_query(ip("0.0.0.0"), &general(Version::V3));
    assert_eq!(rival(&lab), None, "one without an address takes no part");
    lab.lan_query(ip("192.0.2.9"), &general(Version::V2));
    assert_eq!(rival(&lab), Some(ip("192.0.2.9")));
    lab.pass(seconds(125));
    lab.lan_query(QUERIER, &general(Version::V3));
    assert_eq!(rival(&lab), Some(ip("192.0.2.9")));
    lab.pass(seconds(130));
    assert_eq!(rival(&lab), None);
}

#[test]
fn a_query_from_a_source_that_no_host_has_is_ignored() {
    let mut lab = up();
    lab.pass(seconds(2));
    lab.take_queries();
    for src in ["224.0.0.1", "239.1.1.1", "255.255.255.255", "127.0.0.1"] {
        lab.lan_query(ip(src), &general(Version::V3));
    }
    assert_eq!(lab.take_queries(), []);
    assert_eq!(lab.router.querier(lab.now), None);
    assert_eq!(lab.counter(counter::LAN_BAD_SOURCE), 4);
}

/// Line 1.7: what a query does not tell has its default.
#[test]
fn line_1_7_a_querier_that_tells_no_interval_has_the_default() {
    let mut lab = up();
    lab.lan_query(QUERIER, &Query { qrv: 0, qqi: seconds(0), ..general(Version::V3) });
    assert_eq!(lab.router.querier(lab.now).unwrap().interval, Some(seconds(125)));
}

/// Also a mistake seen elsewhere: a query with sources passed on without them.
#[test]
fn relayed_queries_keep_address_and_timing_and_are_always_v3() {
    let mut lab = up();
    lab.pass(seconds(2));
    lab.take_queries();
    let v1 = general(Version::V1);
    let v2 = Query { max_resp: ms(2500), ..general(Version::V2) };
    let v3 = Query { max_resp: ms(500), qrv: 5, qqi: seconds(20), ..general(Version::V3) };
    let sources = specific("239.1.1.1", &["10.0.0.1", "10.0.0.2"]);
    let suppressed = Query { suppress: true, ..specific("239.1.1.1", &[]) };
    let mut relayed = |query: &Query| {
        lab.lan_query(QUERIER, query);
        lab.pass(seconds(2));
        let heard = lab.take_queries();
        assert_eq!(heard.len(), 1);
        assert_eq!(heard[0].src, QUERIER);
        heard[0].query.clone()
    };
    assert_eq!(relayed(&v1), Query::general(seconds(10)));
    assert_eq!(relayed(&v2), Query::general(ms(2500)));
    // The robustness is the router's own.
    assert_eq!(relayed(&v3), Query { qrv: 2, ..v3.clone() });
    assert_eq!(relayed(&sources), sources);
    assert_eq!(relayed(&suppressed), suppressed);
    // A membership interval has to hold the longest delay.
    let slow = Query { max_resp: seconds(3174), ..general(Version::V3) };
    assert!(relayed(&slow).max_resp <= ms(25_500));
}

#[test]
fn general_queries_are_relayed_once_a_second_at_most() {
    let mut lab = up();
    lab.pass(seconds(10));
    lab.take_queries();
    for _ in 0..9_500 {
        lab.lan_query(QUERIER, &general(Version::V2));
        lab.pass(ms(1));
    }
    let heard = lab.take_queries();
    assert!((9..=10).contains(&heard.len()), "{} relayed in 9.5 s", heard.len());
    assert!(heard.windows(2).all(|w| w[1].at - w[0].at >= seconds(1)));
    lab.pass(seconds(5));
    assert_eq!(lab.take_queries().len(), 1, "the last one is not lost");
    assert!(lab.counter(counter::QUERIES_MERGED) > 9_000);
}

#[test]
fn merged_general_queries_have_the_shortest_response_time() {
    let mut lab = up();
    lab.lan_query(QUERIER, &Query { max_resp: ms(300), ..general(Version::V3) });
    lab.lan_query(QUERIER, &general(Version::V3));
    lab.take_queries();
    lab.pass(seconds(1));
    assert_eq!(lab.take_queries()[0].query.max_resp, ms(300));
}

#[test]
fn specific_queries_of_a_storm_are_merged() {
    let mut lab = up();
    lab.pass(seconds(10));
    lab.take_queries();
    for n in 0..20_000u32 {
        let source = format!("10.0.{}.{}", n / 200 % 100, n % 200 + 1);
        lab.lan_query(QUERIER, &specific("239.1.1.1", &[&source]));
    }
    let at_once = lab.take_queries().len();
    assert!((1..=32).contains(&at_once), "{at_once} at once");
    lab.pass(seconds(1));
    let later = lab.take_queries();
    assert_eq!(later.len(), 1);
    assert_eq!(later[0].query.group, Some(ip("239.1.1.1")));
    assert!(later[0].query.sources.is_empty(), "the whole group, not 19 968 sources");
    lab.pass(seconds(10));
    assert_eq!(lab.take_queries(), []);
}

#[test]
fn waiting_specific_queries_keep_their_sources_together() {
    let mut lab = up();
    for n in 0..32 {
        lab.lan_query(QUERIER, &specific(&format!("239.1.1.{n}"), &[]));
    }
    lab.take_queries();
    lab.lan_query(QUERIER, &specific("239.2.2.2", &["10.0.0.2"]));
    lab.lan_query(QUERIER, &specific("239.2.2.2", &["10.0.0.1", "10.0.0.2"]));
    assert_eq!(lab.take_queries(), []);
    lab.pass(seconds(1));
    let heard = lab.take_queries();
    assert_eq!(heard.len(), 1);
    assert_eq!(heard[0].query, specific("239.2.2.2", &["10.0.0.1", "10.0.0.2"]));
}

/// One of them wants the timers of other routers lowered.
#[test]
fn merged_specific_queries_have_s_only_if_all_have_it() {
    let mut lab = up();
    for n in 0..32 {
        lab.lan_query(QUERIER, &specific(&format!("239.1.1.{n}"), &[]));
    }
    for (group, flags) in [("239.2.2.1", [true, false]), ("239.2.2.2", [true, true])] {
        for suppress in flags {
            lab.lan_query(QUERIER, &Query { suppress, ..specific(group, &[]) });
        }
    }
    lab.take_queries();
    lab.pass(seconds(1));
    let heard = lab.take_queries();
    assert_eq!(heard.iter().map(|h| h.query.suppress).collect::<Vec<_>>(), [false, true]);
}

/// Startup is over once the LAN's querier was heard: when it is missed, no second one follows.
#[test]
fn a_lost_querier_is_replaced_without_another_startup() {
    let timing = Timing::new(3, seconds(125), seconds(10), seconds(1)).unwrap();
    let config = RouterConfig { timing, ..RouterConfig::default() };
    let mut lab = Lab::with(config, Default::default());
    lab.event(|router, now| router.handle_link_up(now));
    lab.lan_query(QUERIER, &general(Version::V2));
    lab.pass(seconds(100));
    lab.take_queries();
    lab.pass_until(seconds(600));
    assert_eq!(times(&lab.take_queries()), [seconds(380), seconds(505)]);
}

#[test]
fn specific_queries_for_many_groups_become_a_general_one() {
    let mut lab = up();
    lab.pass(seconds(10));
    lab.take_queries();
    for n in 0..10_000u32 {
        let group = format!("239.1.{}.{}", n / 250, n % 250);
        lab.lan_query(QUERIER, &specific(&group, &[]));
    }
    lab.pass(seconds(30));
    let heard = lab.take_queries();
    let general = heard.iter().filter(|h| h.query.group.is_none()).count();
    assert!((1..=3).contains(&general), "{general} general queries");
    assert!(heard.len() < 150, "{} queries", heard.len());
}

#[test]
fn a_requery_asks_for_a_quick_answer_and_not_more_than_once_a_second() {
    let mut lab = up();
    lab.pass(seconds(10));
    lab.take_queries();
    for _ in 0..1000 {
        lab.event(|router, now| router.requery(now));
    }
    let heard = lab.take_queries();
    assert_eq!(heard.len(), 1);
    assert_eq!(heard[0].query.group, None);
    assert!(heard[0].query.max_resp <= seconds(1));
    lab.pass(seconds(10));
    assert_eq!(lab.take_queries().len(), 1);
}

#[test]
fn a_requery_forgets_nothing() {
    let mut lab = up();
    lab.join("239.1.1.1");
    lab.event(|router, now| router.requery(now));
    lab.pass(seconds(20));
    assert_eq!(lab.changes.len(), 1);
}

/// Line 1.8: split at the MTU of the container's interface.
#[test]
fn line_1_8_long_queries_are_split_at_the_containers_mtu() {
    let config = RouterConfig { mtu: 100, ..RouterConfig::default() };
    let mut lab = Lab::with(config, Default::default());
    lab.event(|router, now| router.handle_link_up(now));
    lab.take_queries();
    let sources: Vec<_> = (1..=40).map(|n| format!("10.0.0.{n}")).collect();
    let sources: Vec<_> = sources.iter().map(String::as_str).collect();
    let query = specific("239.1.1.1", &sources);
    lab.lan_query(QUERIER, &query);
    let heard = lab.take_queries();
    assert_eq!(heard.len(), 3);
    let all: Vec<_> = heard.iter().flat_map(|h| h.query.sources.clone()).collect();
    assert_eq!(all, query.sources);
}

#[test]
fn an_idle_router_sleeps_between_its_own_queries() {
    let mut lab = up();
    lab.pass(seconds(3600));
    assert_eq!(lab.wakeups, lab.queries.len() - 1);
    assert_eq!(lab.wakeups, 29);
}

#[test]
fn with_a_querier_on_the_lan_an_idle_router_is_never_woken() {
    let mut lab = up();
    lab.join("239.1.1.1");
    lab.lan_query(QUERIER, &general(Version::V3));
    lab.pass(seconds(2));
    lab.wakeups = 0;
    for _ in 0..50 {
        lab.lan_query(QUERIER, &general(Version::V3));
        lab.report(IsEx, "239.1.1.1", &[]);
        lab.pass(seconds(125));
    }
    assert_eq!(lab.wakeups, 0);
    assert_eq!(lab.changes.len(), 1);
}

/// Mistake: the host's queries reach the LAN, and it wins the election. The lab asserts of
/// every query that its TTL is 0; and no query is made of what the container sends.
#[test]
fn line_5_no_query_could_reach_the_lan() {
    let mut lab = up();
    lab.send(Message::Query(general(Version::V3)));
    lab.join("239.1.1.1");
    lab.leave("239.1.1.1");
    lab.pass(seconds(1));
    assert_eq!(lab.take_queries().len(), 1);
}

#[test]
fn queries_nobody_takes_do_not_pile_up() {
    let mut lab = up();
    let mut now = lab.now;
    for _ in 0..10_000 {
        now += seconds(130);
        lab.router.handle_timeout(now);
    }
    let waiting = std::iter::from_fn(|| lab.router.poll_query()).count();
    assert!(waiting <= 1024, "{waiting}");
    assert!(lab.counter(counter::QUERIES_DROPPED) > 0);
}
