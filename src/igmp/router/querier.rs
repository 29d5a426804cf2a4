//! The querier role towards the container: the router's own general queries while the LAN has no
//! querier, else the queries of the LAN's querier, relayed.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::igmp::group::SpecificQuery;
use crate::igmp::message::{Query, Version};
use crate::igmp::protocol::Protocol;
use crate::igmp::router::diagnostics::counter;
use crate::igmp::router::timer::Timer;
use crate::igmp::router::{Context, OutgoingQuery, RouterConfig};
use crate::multicast::Address;
use crate::primitives::token_bucket::TokenBucket;

/// The querier of the LAN, as in its last general query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LanQuerier<A> {
    /// Its address; the unspecified one of a proxy querier (RFC 4541 §2.1.1), which has none.
    pub address: A,
    /// The version it speaks.
    pub version: Version,
    /// Its query interval; `None` for v1 and v2, whose queries do not have it.
    pub interval: Option<Duration>,
    /// When its last general query arrived.
    pub last_query: Instant,
    /// After a silence of this length it is gone (RFC 9776 §8.5). The robustness and the interval are
    /// those that it told with its last general query (§4.1.6, §4.1.7), if it told them.
    pub timeout: Duration,
}

impl<A> LanQuerier<A> {
    fn is_present(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_query) < self.timeout
    }
}

/// The least time between two general queries into the container, except for startup.
const GENERAL_SPACING: Duration = Duration::from_secs(1);
/// The number of specific queries that are relayed at once; then one each interval.
const SPECIFIC_BURST: u32 = 32;
const SPECIFIC_INTERVAL: Duration = Duration::from_millis(31);
/// The number of groups whose specific queries wait for a token; for more there is a general query.
const SPECIFIC_WAITING: usize = 64;
/// The number of sources of a waiting query; with more it becomes group-specific.
const SOURCES_WAITING: usize = 1024;
/// The number of queries that wait for the caller.
const QUEUE: usize = 1024;
/// A querier that asks more than once in this time is not gone before this time has passed: its
/// queries may be late.
const SHORTEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest response time of a relayed query: the longest of v2 (RFC 2236 §2.2). The group
/// membership interval is longer than the query interval and this together.
const MAX_RESP: Duration = Duration::from_millis(25500);
/// The response time of a query that is to be answered at once. The link has a single host, so
/// that no burst of answers has to be spread.
const QUICK_MAX_RESP: Duration = Duration::from_millis(500);

/// The counter, the source address and the query.
type WaitingGeneral<A> = (&'static str, A, Query<A>);
/// The source address and the query.
type WaitingSpecific<A> = (A, Query<A>);

/// All queries into the container. When a group's last-member queries are due is part of the
/// state of the group.
#[derive(Debug, Clone)]
pub(super) struct Querier<P: Protocol> {
    link_up: bool,
    lan: Option<LanQuerier<P::Address>>,
    /// The querier without an address that was heard last.
    proxy: Option<LanQuerier<P::Address>>,
    /// One that has lost the election and asks all the same.
    rival: Option<LanQuerier<P::Address>>,
    /// Of the querier that was elected last, also when it is gone.
    last_timeout: Option<Duration>,
    startup_left: u8,
    last_general: Option<Instant>,
    waiting_general: Option<WaitingGeneral<P::Address>>,
    specific_bucket: TokenBucket,
    /// By group.
    waiting_specific: BTreeMap<P::Address, WaitingSpecific<P::Address>>,
    queue: VecDeque<OutgoingQuery<P::Address>>,
}

impl<P: Protocol> Querier<P> {
    pub(super) fn new(now: Instant) -> Self {
        Querier {
            link_up: false,
            lan: None,
            proxy: None,
            rival: None,
            last_timeout: None,
            startup_left: 0,
            last_general: None,
            waiting_general: None,
            specific_bucket: TokenBucket::new(SPECIFIC_BURST, SPECIFIC_INTERVAL, now),
            waiting_specific: BTreeMap::new(),
            queue: VecDeque::new(),
        }
    }

    pub(super) fn poll(&mut self) -> Option<OutgoingQuery<P::Address>> {
        self.queue.pop_front()
    }

    /// The LAN's querier; if there is none, a proxy querier. `None` if it has been silent for the
    /// other-querier-present interval.
    pub(super) fn present(&self, now: Instant) -> Option<LanQuerier<P::Address>> {
        self.lan(now).or(self.proxy.filter(|proxy| proxy.is_present(now)))
    }

    /// After a silence of this length the LAN has no querier.
    pub(super) fn timeout(&self, config: &RouterConfig<P::Address>) -> Duration {
        let known = self.lan.or(self.proxy).map(|querier| querier.timeout);
        known.or(self.last_timeout).unwrap_or(config.timing.other_querier_present_interval())
    }

    /// A querier that asks although another one of a lower address does, which should have silenced
    /// it (RFC 9776 §6.6.2).
    pub(super) fn rival(&self, now: Instant) -> Option<LanQuerier<P::Address>> {
        let elected = self.lan(now)?;
        self.rival.filter(|rival| rival.is_present(now) && rival.address != elected.address)
    }

    /// The LAN's elected querier, unless it has been silent for the other-querier-present interval.
    fn lan(&self, now: Instant) -> Option<LanQuerier<P::Address>> {
        self.lan.filter(|lan| lan.is_present(now))
    }

    /// Another router of this container knew the LAN's querier.
    pub(super) fn restore_lan(
        &mut self,
        cx: &mut Context<'_, P::Address>,
        lan: LanQuerier<P::Address>,
    ) {
        if lan.address == P::Address::UNSPECIFIED {
            self.proxy = Some(lan);
            return;
        }
        self.last_timeout = Some(lan.timeout);
        self.lan = Some(lan).filter(|lan| lan.is_present(cx.now));
        if self.lan.is_some() {
            cx.timers.set(Timer::OtherQuerierPresent, lan.last_query + lan.timeout);
        }
    }

    /// Sends the first startup query, also while the LAN has a querier: it makes the container
    /// use v3, and its answer is all that the container has joined.
    pub(super) fn handle_link_up(&mut self, cx: &mut Context<'_, P::Address>) {
        self.link_up = true;
        self.startup_left = cx.config.timing.startup_query_count();
        self.send_own_general(cx, QUICK_MAX_RESP);
    }

    /// Sends a general query that is to be answered at once.
    pub(super) fn requery(&mut self, cx: &mut Context<'_, P::Address>) {
        if self.link_up {
            let query = Query { max_resp: QUICK_MAX_RESP, ..own_query(cx.config) };
            self.send_general(cx, counter::QUERIES_OWN, cx.config.querier_address, query);
        }
    }

    /// Relays a query of the LAN, and remembers the LAN's querier.
    pub(super) fn receive_lan_query(
        &mut self,
        cx: &mut Context<'_, P::Address>,
        src: P::Address,
        query: &Query<P::Address>,
    ) {
        cx.diagnostics.count(counter::LAN_QUERIES);
        if !P::is_query_source(src) {
            cx.diagnostics.count(counter::LAN_BAD_SOURCE);
            return;
        }
        if src == P::Address::UNSPECIFIED {
            cx.diagnostics.count(counter::LAN_PROXY_QUERIES);
            if query.group.is_none() {
                self.proxy = Some(lan_querier(cx, src, query));
            }
        } else if query.group.is_none() {
            self.update_lan_querier(cx, src, query);
        }
        if !self.link_up {
            return;
        }
        let query = for_container(cx.config, query);
        match query.group {
            None => self.send_general(cx, counter::QUERIES_RELAYED, src, query),
            Some(group) => {
                let waiting = !self.waiting_specific.is_empty();
                if !waiting && self.specific_bucket.take(cx.now) {
                    self.enqueue(cx, counter::QUERIES_RELAYED, src, &query);
                } else {
                    self.queue_specific(cx, group, src, query);
                }
            }
        }
    }

    /// Sends a last-member query of a group.
    pub(super) fn send_specific(
        &mut self,
        cx: &mut Context<'_, P::Address>,
        group: P::Address,
        specific: SpecificQuery<P::Address>,
    ) {
        let max_resp = cx.config.timing.last_member_query_interval();
        self.send_specific_within(cx, group, specific, max_resp);
    }

    /// Sends a query of a group with this response time.
    pub(super) fn send_specific_within(
        &mut self,
        cx: &mut Context<'_, P::Address>,
        group: P::Address,
        specific: SpecificQuery<P::Address>,
        max_resp: Duration,
    ) {
        let query = Query {
            group: Some(group),
            max_resp,
            suppress: specific.suppress,
            sources: specific.sources,
            ..own_query(cx.config)
        };
        self.enqueue(cx, counter::QUERIES_OWN, cx.config.querier_address, &query);
    }

    pub(super) fn handle_timeout(&mut self, cx: &mut Context<'_, P::Address>) {
        if cx.timers.take_expired(Timer::OtherQuerierPresent, cx.now) {
            self.lan = None;
            if self.link_up {
                self.send_own_general(cx, cx.config.timing.query_response_interval());
            }
        }
        if cx.timers.take_expired(Timer::GeneralQuery, cx.now) {
            self.send_own_general(cx, cx.config.timing.query_response_interval());
        }
        if cx.timers.take_expired(Timer::RelayGeneral, cx.now)
            && let Some((name, src, query)) = self.waiting_general.take()
        {
            self.last_general = Some(cx.now);
            self.enqueue(cx, name, src, &query);
        }
        if cx.timers.take_expired(Timer::RelaySpecific, cx.now) {
            while !self.waiting_specific.is_empty() && self.specific_bucket.take(cx.now) {
                if let Some((_, (src, query))) = self.waiting_specific.pop_first() {
                    self.enqueue(cx, counter::QUERIES_RELAYED, src, &query);
                }
            }
            self.set_specific_timer(cx);
        }
    }

    /// Remembers the LAN's querier: of several the one with the lowest address, which wins their
    /// election (RFC 9776 §6.6.2).
    fn update_lan_querier(
        &mut self,
        cx: &mut Context<'_, P::Address>,
        src: P::Address,
        query: &Query<P::Address>,
    ) {
        let querier = lan_querier(cx, src, query);
        if self.lan(cx.now).is_some_and(|known| known.address < src) {
            self.rival = Some(querier);
            return;
        }
        self.lan = Some(querier);
        self.last_timeout = Some(querier.timeout);
        cx.timers.set(Timer::OtherQuerierPresent, cx.now + querier.timeout);
        cx.timers.stop(Timer::GeneralQuery);
        self.startup_left = 0;
    }

    /// Sends an own general query. Schedules the next one if the LAN has no querier.
    fn send_own_general(&mut self, cx: &mut Context<'_, P::Address>, max_resp: Duration) {
        self.last_general = Some(cx.now);
        let query = Query { max_resp, ..own_query(cx.config) };
        self.enqueue(cx, counter::QUERIES_OWN, cx.config.querier_address, &query);
        if self.lan(cx.now).is_some() {
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

    /// Sends a general query now, or when the last one is [`GENERAL_SPACING`] old. Queries of the
    /// meantime are merged, with the shortest of their response times.
    fn send_general(
        &mut self,
        cx: &mut Context<'_, P::Address>,
        name: &'static str,
        src: P::Address,
        mut query: Query<P::Address>,
    ) {
        let ready = self.last_general.map_or(cx.now, |last| last + GENERAL_SPACING);
        if ready <= cx.now && self.waiting_general.is_none() {
            self.last_general = Some(cx.now);
            self.enqueue(cx, name, src, &query);
            return;
        }
        if let Some((_, _, waiting)) = &self.waiting_general {
            query.max_resp = query.max_resp.min(waiting.max_resp);
            cx.diagnostics.count(counter::QUERIES_MERGED);
        }
        self.waiting_general = Some((name, src, query));
        cx.timers.set(Timer::RelayGeneral, ready.max(cx.now));
    }

    /// Queues a specific query until there is a token.
    fn queue_specific(
        &mut self,
        cx: &mut Context<'_, P::Address>,
        group: P::Address,
        src: P::Address,
        query: Query<P::Address>,
    ) {
        if let Some((waiting_src, waiting)) = self.waiting_specific.get_mut(&group) {
            cx.diagnostics.count(counter::QUERIES_MERGED);
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
            // One general query stands for all of them.
            cx.diagnostics.add(counter::QUERIES_MERGED, self.waiting_specific.len() as u64 + 1);
            self.waiting_specific.clear();
            let general = Query { group: None, sources: Vec::new(), suppress: false, ..query };
            self.send_general(cx, counter::QUERIES_RELAYED, src, general);
        }
        self.set_specific_timer(cx);
    }

    fn set_specific_timer(&self, cx: &mut Context<'_, P::Address>) {
        let at = (!self.waiting_specific.is_empty())
            .then(|| self.specific_bucket.ready_at().map_or(cx.now, |at| at.max(cx.now)));
        cx.timers.set_or_stop(Timer::RelaySpecific, at);
    }

    fn enqueue(
        &mut self,
        cx: &mut Context<'_, P::Address>,
        name: &'static str,
        src: P::Address,
        query: &Query<P::Address>,
    ) {
        let destination = query.destination();
        for packet in P::emit_query(query, src, cx.config.mtu) {
            if self.queue.len() < QUEUE {
                cx.diagnostics.count(name);
                self.queue.push_back(OutgoingQuery { destination, packet });
            } else {
                cx.diagnostics.count(counter::QUERIES_DROPPED);
            }
        }
    }
}

fn lan_querier<A: Address>(cx: &Context<'_, A>, address: A, query: &Query<A>) -> LanQuerier<A> {
    let interval = (query.version == Version::V3).then(|| query.query_interval());
    let timeout = match interval {
        Some(interval) => interval * query.robustness().into() + query.max_resp / 2,
        None => cx.config.timing.other_querier_present_interval(),
    };
    let timeout = timeout.max(SHORTEST_TIMEOUT);
    LanQuerier { address, version: query.version, interval, last_query: cx.now, timeout }
}

fn own_query<A: Address>(config: &RouterConfig<A>) -> Query<A> {
    Query {
        qrv: config.timing.robustness(),
        qqi: config.timing.query_interval(),
        ..Query::general(config.timing.query_response_interval())
    }
}

/// The same query in v3, so that the container's kernel stays in v3 (RFC 9776 §7.2.1). Its robustness
/// is the router's own: the container's kernel repeats its reports as often, and between the two
/// nothing is lost. What it would still repeat after the end of the container would leave with the
/// container's own MAC address.
fn for_container<A: Address>(config: &RouterConfig<A>, query: &Query<A>) -> Query<A> {
    let mut relayed =
        Query { version: Version::V3, max_resp: query.max_resp.min(MAX_RESP), ..query.clone() };
    relayed.qrv = config.timing.robustness();
    if query.version < Version::V3 {
        relayed.qqi = config.timing.query_interval();
    }
    relayed
}
