//! The querier role towards the container: our own general queries while the LAN has no
//! querier, else the LAN's, relayed.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::igmp::group::SpecificQuery;
use crate::igmp::router::journal::counter;
use crate::igmp::router::timer::Timer;
use crate::igmp::router::{Context, OutgoingQuery, RouterConfig};
use crate::igmp::wire::{Query, Version};
use crate::primitives::token_bucket::TokenBucket;

/// The querier of the LAN, as its last general query told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LanQuerier {
    /// Its address; never 0.0.0.0.
    pub address: Ipv4Addr,
    /// The version it speaks.
    pub version: Version,
    /// Its query interval; the default where a v3 query does not tell, `None` for v1 and v2.
    pub interval: Option<Duration>,
    /// When its last general query was heard.
    pub last_query: Instant,
}

/// General queries into the container are at least this far apart, except for startup.
const GENERAL_SPACING: Duration = Duration::from_secs(1);
/// Specific queries relayed at once, and then one each interval.
const SPECIFIC_BURST: u32 = 32;
const SPECIFIC_INTERVAL: Duration = Duration::from_millis(31);
/// Groups whose specific queries wait for a token; more are answered by a general query.
const SPECIFIC_WAITING: usize = 64;
/// Sources merged into one waiting query; more make it ask for the group.
const SOURCES_WAITING: usize = 1024;
/// Queries waiting for the caller.
const QUEUE: usize = 1024;
/// The longest response time passed on: the longest of v2 (RFC 2236 §2.2). A membership
/// interval has to hold a query interval and this.
const MAX_RESP: Duration = Duration::from_millis(25500);
/// Response time where the answer is wanted at once: the link has a single host, so there is
/// no burst of answers to be spread.
const QUICK_MAX_RESP: Duration = Duration::from_millis(500);

/// Everything about queries but the groups' own cx.timers.
#[derive(Debug, Clone)]
pub(super) struct Querier {
    link_up: bool,
    lan: Option<LanQuerier>,
    startup_left: u8,
    last_general: Option<Instant>,
    /// With the name it is counted by and its source address.
    waiting_general: Option<(&'static str, Ipv4Addr, Query)>,
    specific_bucket: TokenBucket,
    waiting_specific: BTreeMap<Ipv4Addr, (Ipv4Addr, Query)>,
    queue: VecDeque<OutgoingQuery>,
}

impl Querier {
    pub(super) fn new(now: Instant) -> Self {
        Querier {
            link_up: false,
            lan: None,
            startup_left: 0,
            last_general: None,
            waiting_general: None,
            specific_bucket: TokenBucket::new(SPECIFIC_BURST, SPECIFIC_INTERVAL, now),
            waiting_specific: BTreeMap::new(),
            queue: VecDeque::new(),
        }
    }

    pub(super) fn poll(&mut self) -> Option<OutgoingQuery> {
        self.queue.pop_front()
    }

    /// The LAN's querier, unless it has been silent for the other-querier-present interval.
    pub(super) fn lan(&self, config: &RouterConfig, now: Instant) -> Option<LanQuerier> {
        let present = config.timing.other_querier_present_interval();
        self.lan.filter(|lan| now.saturating_duration_since(lan.last_query) < present)
    }

    /// The first startup query is sent also while the LAN has a querier: it makes the
    /// container speak v3, and tells at once what it has joined.
    pub(super) fn link_up(&mut self, cx: &mut Context<'_>) {
        self.link_up = true;
        self.startup_left = cx.config.timing.startup_query_count();
        self.own_general(cx, QUICK_MAX_RESP);
    }

    /// Asks for everything at once.
    pub(super) fn requery(&mut self, cx: &mut Context<'_>) {
        if self.link_up {
            let query = Query { max_resp: QUICK_MAX_RESP, ..own_query(cx.config) };
            self.general(cx, counter::QUERIES_OWN, cx.config.querier_address, query);
        }
    }

    /// A query heard on the LAN.
    pub(super) fn lan_query(&mut self, cx: &mut Context<'_>, src: Ipv4Addr, query: &Query) {
        cx.journal.count(counter::LAN_QUERIES);
        if src.is_multicast() || src.is_broadcast() || src.is_loopback() {
            cx.journal.count(counter::LAN_BAD_SOURCE);
            return;
        }
        if src.is_unspecified() {
            cx.journal.count(counter::LAN_PROXY_QUERIES);
        } else if query.group.is_none() {
            self.heard(cx, src, query);
        }
        if !self.link_up {
            return;
        }
        let query = for_container(cx.config, query);
        match query.group {
            None => self.general(cx, counter::QUERIES_RELAYED, src, query),
            Some(group) => {
                let waiting = !self.waiting_specific.is_empty();
                if !waiting && self.specific_bucket.take(cx.now) {
                    self.emit(cx, counter::QUERIES_RELAYED, src, &query);
                } else {
                    self.wait_specific(cx, group, src, query);
                }
            }
        }
    }

    /// A query of the group table (last member).
    pub(super) fn specific(
        &mut self,
        cx: &mut Context<'_>,
        group: Ipv4Addr,
        specific: SpecificQuery<Ipv4Addr>,
    ) {
        let query = Query {
            group: Some(group),
            max_resp: cx.config.timing.last_member_query_interval(),
            suppress: specific.suppress,
            sources: specific.sources,
            ..own_query(cx.config)
        };
        self.emit(cx, counter::QUERIES_OWN, cx.config.querier_address, &query);
    }

    pub(super) fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        if cx.timers.take_expired(Timer::OtherQuerierPresent, cx.now) {
            self.lan = None;
            if self.link_up {
                self.own_general(cx, cx.config.timing.query_response_interval());
            }
        }
        if cx.timers.take_expired(Timer::GeneralQuery, cx.now) {
            self.own_general(cx, cx.config.timing.query_response_interval());
        }
        if cx.timers.take_expired(Timer::RelayGeneral, cx.now)
            && let Some((name, src, query)) = self.waiting_general.take()
        {
            self.last_general = Some(cx.now);
            self.emit(cx, name, src, &query);
        }
        if cx.timers.take_expired(Timer::RelaySpecific, cx.now) {
            while !self.waiting_specific.is_empty() && self.specific_bucket.take(cx.now) {
                if let Some((_, (src, query))) = self.waiting_specific.pop_first() {
                    self.emit(cx, counter::QUERIES_RELAYED, src, &query);
                }
            }
            self.arm_specific(cx);
        }
    }

    /// Remembers the querier: of several the one with the lowest address, as their election
    /// does (RFC 9776 §6.6.2).
    fn heard(&mut self, cx: &mut Context<'_>, src: Ipv4Addr, query: &Query) {
        if self.lan(cx.config, cx.now).is_some_and(|known| known.address < src) {
            return;
        }
        let interval = (query.version == Version::V3).then(|| query.query_interval());
        let (address, version) = (src, query.version);
        self.lan = Some(LanQuerier { address, version, interval, last_query: cx.now });
        let silent_at = cx.now + cx.config.timing.other_querier_present_interval();
        cx.timers.set(Timer::OtherQuerierPresent, silent_at);
        cx.timers.stop(Timer::GeneralQuery);
        self.startup_left = 0;
    }

    /// Sends a general query of our own and schedules the next one, if it falls to us.
    fn own_general(&mut self, cx: &mut Context<'_>, max_resp: Duration) {
        self.last_general = Some(cx.now);
        let query = Query { max_resp, ..own_query(cx.config) };
        self.emit(cx, counter::QUERIES_OWN, cx.config.querier_address, &query);
        if self.lan(cx.config, cx.now).is_some() {
            cx.timers.stop(Timer::GeneralQuery);
            return;
        }
        self.startup_left = self.startup_left.saturating_sub(1);
        let interval = if self.startup_left > 0 {
            cx.config.timing.startup_query_interval()
        } else {
            cx.config.timing.query_interval()
        };
        cx.timers.set(Timer::GeneralQuery, cx.now + interval);
    }

    /// Sends a general query now, or as soon as the last one is old enough; those that come
    /// in the meantime become one, with the shortest of their response times.
    fn general(
        &mut self,
        cx: &mut Context<'_>,
        name: &'static str,
        src: Ipv4Addr,
        mut query: Query,
    ) {
        let ready = self.last_general.map_or(cx.now, |last| last + GENERAL_SPACING);
        if ready <= cx.now && self.waiting_general.is_none() {
            self.last_general = Some(cx.now);
            self.emit(cx, name, src, &query);
            return;
        }
        if let Some((_, _, waiting)) = &self.waiting_general {
            query.max_resp = query.max_resp.min(waiting.max_resp);
            cx.journal.count(counter::QUERIES_MERGED);
        }
        self.waiting_general = Some((name, src, query));
        cx.timers.set(Timer::RelayGeneral, ready.max(cx.now));
    }

    /// Keeps a specific query until there is a token.
    fn wait_specific(
        &mut self,
        cx: &mut Context<'_>,
        group: Ipv4Addr,
        src: Ipv4Addr,
        query: Query,
    ) {
        if let Some((waiting_src, waiting)) = self.waiting_specific.get_mut(&group) {
            cx.journal.count(counter::QUERIES_MERGED);
            *waiting_src = src;
            waiting.max_resp = waiting.max_resp.min(query.max_resp);
            waiting.suppress &= query.suppress;
            if waiting.sources.is_empty() || query.sources.is_empty() {
                waiting.sources.clear();
            } else {
                waiting.sources.extend(query.sources);
                waiting.sources.sort_unstable();
                waiting.sources.dedup();
                if waiting.sources.len() > SOURCES_WAITING {
                    waiting.sources.clear();
                }
            }
        } else if self.waiting_specific.len() < SPECIFIC_WAITING {
            self.waiting_specific.insert(group, (src, query));
        } else {
            // One general query asks for all of them.
            cx.journal.add(counter::QUERIES_MERGED, self.waiting_specific.len() as u64 + 1);
            self.waiting_specific.clear();
            let general = Query { group: None, sources: Vec::new(), suppress: false, ..query };
            self.general(cx, counter::QUERIES_RELAYED, src, general);
        }
        self.arm_specific(cx);
    }

    fn arm_specific(&self, cx: &mut Context<'_>) {
        let at = (!self.waiting_specific.is_empty())
            .then(|| self.specific_bucket.ready_at().map_or(cx.now, |at| at.max(cx.now)));
        cx.timers.set_or_stop(Timer::RelaySpecific, at);
    }

    /// TTL 0: the container's kernel hears it, and the wire does not.
    fn emit(&mut self, cx: &mut Context<'_>, name: &'static str, src: Ipv4Addr, query: &Query) {
        let destination = query.destination();
        for packet in query.emit_ipv4(src, destination, 0, cx.config.mtu) {
            if self.queue.len() < QUEUE {
                cx.journal.count(name);
                self.queue.push_back(OutgoingQuery { destination, packet });
            } else {
                cx.journal.count(counter::QUERIES_DROPPED);
            }
        }
    }
}

fn own_query(config: &RouterConfig) -> Query {
    Query {
        qrv: config.timing.robustness(),
        qqi: config.timing.query_interval(),
        ..Query::general(config.timing.query_response_interval())
    }
}

/// The same question in v3, so that the container's kernel stays in v3 (RFC 9776 §7.2.1).
fn for_container(config: &RouterConfig, query: &Query) -> Query {
    let mut relayed =
        Query { version: Version::V3, max_resp: query.max_resp.min(MAX_RESP), ..query.clone() };
    if query.version < Version::V3 {
        relayed.qrv = config.timing.robustness();
        relayed.qqi = config.timing.query_interval();
    }
    relayed
}
