//! Whether the host hears the queries of its LAN.
//!
//! The host's IGMP and the proxy's raw socket both stand behind the host's firewall, and hear the
//! same. The container's link is served before it. A query that is heard there and not by the host
//! is one that nobody would answer.

use std::collections::VecDeque;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::igmp::Timing;
use crate::igmp::wire::Query;

/// How long the host may take longer than the container's link. The link is usually the later one:
/// macvlan and ipvlan pass multicast on by a work queue.
pub(crate) const HOST_DELAY: Duration = Duration::from_millis(20);
/// Within this time two queries of the same content are taken for one.
const SAME_QUERY: Duration = Duration::from_millis(500);
/// Queries that are remembered, and those that wait.
const MAX_QUERIES: usize = 64;

/// What was heard on one LAN, and by whom.
#[derive(Debug, Default)]
pub(crate) struct Hearing {
    /// What was heard, and is not to be answered again.
    known: VecDeque<(Instant, u64)>,
    /// Queries that the container's link has heard.
    waiting: Vec<Waiting>,
    /// More was heard than can be remembered: until then nothing is said of the host.
    overflown_until: Option<Instant>,
    unheard: Option<Unheard>,
}

#[derive(Debug)]
struct Waiting {
    at: Instant,
    print: u64,
    source: Ipv4Addr,
    query: Query,
}

/// The last query that the host has not heard.
#[derive(Debug, Clone, Copy)]
struct Unheard {
    at: Instant,
    source: Ipv4Addr,
}

impl Hearing {
    /// The host has heard a query.
    pub(crate) fn heard_by_host(&mut self, now: Instant, source: Ipv4Addr, query: &Query) {
        self.unheard = None;
        let print = print(source, query);
        self.waiting.retain(|waiting| waiting.print != print);
        self.remember(now, print);
    }

    /// A link of the container has heard a query.
    pub(crate) fn heard_on_link(&mut self, now: Instant, source: Ipv4Addr, query: Query) {
        if self.overflown_until.is_some_and(|until| now < until) {
            return;
        }
        let print = print(source, &query);
        let is_known =
            self.known.iter().any(|(at, known)| *known == print && now < *at + SAME_QUERY);
        let is_waiting = self.waiting.iter().any(|waiting| waiting.print == print);
        if !is_known && !is_waiting && self.waiting.len() < MAX_QUERIES {
            self.waiting.push(Waiting { at: now + HOST_DELAY, print, source, query });
        }
    }

    /// When to call [`Hearing::take_unheard`].
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.at).min()
    }

    /// A query that the host has not heard. Call it until it returns `None`.
    pub(crate) fn take_unheard(&mut self, now: Instant) -> Option<(Ipv4Addr, Query)> {
        let due = self.waiting.iter().position(|waiting| waiting.at <= now)?;
        let Waiting { print, source, query, .. } = self.waiting.remove(due);
        self.unheard = Some(Unheard { at: now, source });
        // Another link of the container may hear it later.
        self.remember(now, print);
        Some((source, query))
    }

    /// Who asked last, where the host does not hear it. After the other-querier-present interval
    /// (RFC 9776 §8.5) that is not known any more.
    pub(crate) fn unheard_querier(&self, now: Instant) -> Option<Ipv4Addr> {
        let known_for = Timing::default().other_querier_present_interval();
        self.unheard.filter(|unheard| now < unheard.at + known_for).map(|unheard| unheard.source)
    }

    fn remember(&mut self, now: Instant, print: u64) {
        while self.known.front().is_some_and(|(at, _)| *at + SAME_QUERY <= now) {
            self.known.pop_front();
        }
        if self.known.len() >= MAX_QUERIES {
            self.known.pop_front();
            self.overflown_until = Some(now + SAME_QUERY);
        }
        self.known.push_back((now, print));
    }
}

/// A number for all that a query says. Whoever makes two queries of the same number gets one answer.
fn print(source: Ipv4Addr, query: &Query) -> u64 {
    let mut hasher = DefaultHasher::new();
    (source, query.version, query.group, query.max_resp, &query.sources).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERIER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn general() -> Query {
        Query::general(Duration::from_secs(10))
    }

    fn of(group: u8) -> Query {
        Query { group: Some(Ipv4Addr::new(239, 1, 1, group)), ..general() }
    }

    #[test]
    fn a_query_that_both_hear_is_not_answered_whoever_is_first() {
        let start = Instant::now();
        let ms = |ms| start + Duration::from_millis(ms);
        let mut hearing = Hearing::default();
        hearing.heard_by_host(ms(0), QUERIER, &general());
        hearing.heard_on_link(ms(3), QUERIER, general());
        assert_eq!(hearing.poll_timeout(), None);
        hearing.heard_on_link(ms(1000), QUERIER, general());
        hearing.heard_by_host(ms(1004), QUERIER, &general());
        assert_eq!(hearing.take_unheard(ms(2000)), None);
        assert_eq!(hearing.unheard_querier(ms(2000)), None);
    }

    #[test]
    fn a_query_that_only_the_links_hear_is_answered_once() {
        let start = Instant::now();
        let ms = |ms| start + Duration::from_millis(ms);
        let mut hearing = Hearing::default();
        hearing.heard_by_host(ms(0), QUERIER, &of(1));
        hearing.heard_on_link(ms(1), QUERIER, general());
        hearing.heard_on_link(ms(2), QUERIER, general());
        hearing.heard_on_link(ms(2), QUERIER, of(1));
        assert_eq!(hearing.poll_timeout(), Some(ms(21)));
        assert_eq!(hearing.take_unheard(ms(20)), None);
        assert_eq!(hearing.take_unheard(ms(21)), Some((QUERIER, general())));
        assert_eq!(hearing.take_unheard(ms(22)), None);
        assert_eq!(hearing.unheard_querier(ms(22)), Some(QUERIER));
        hearing.heard_on_link(ms(100), QUERIER, general());
        assert_eq!(hearing.poll_timeout(), None, "another link heard the same later");
        assert_eq!(hearing.unheard_querier(ms(21 + 255_000)), None);
        hearing.heard_by_host(ms(30_000), QUERIER, &general());
        assert_eq!(hearing.unheard_querier(ms(30_000)), None, "the host hears again");
    }

    #[test]
    fn a_flood_says_nothing_of_the_host() {
        let start = Instant::now();
        let mut hearing = Hearing::default();
        for group in 0..=200 {
            hearing.heard_by_host(start, QUERIER, &of(group));
        }
        for group in 0..=200 {
            hearing.heard_on_link(start, QUERIER, of(group));
        }
        assert_eq!(hearing.poll_timeout(), None);
        let mut hearing = Hearing::default();
        for group in 0..=200 {
            hearing.heard_on_link(start, QUERIER, of(group));
        }
        let later = start + HOST_DELAY;
        let unheard = std::iter::from_fn(|| hearing.take_unheard(later)).count();
        assert_eq!(unheard, MAX_QUERIES);
    }
}
