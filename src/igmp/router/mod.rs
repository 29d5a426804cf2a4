//! The IGMP router of one container interface: its querier, and what is joined for it
//! upstream (RFC 9776 §6, RFC 4605 §4).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Instant;

mod changes;
mod config;
mod entry;
mod journal;
mod querier;
mod table;
#[cfg(test)]
mod tests;
mod timer;

pub use crate::igmp::router::config::RouterConfig;
pub use crate::igmp::router::entry::{GroupView, Status};
pub use crate::igmp::router::journal::counter;
pub use crate::igmp::router::querier::LanQuerier;

use crate::igmp::router::entry::Said;
use crate::igmp::router::journal::Journal;
use crate::igmp::router::querier::Querier;
use crate::igmp::router::table::Table;
use crate::igmp::router::timer::{Timer, TimerTable};
use crate::igmp::wire;
use crate::igmp::wire::{Ipv4Packet, Malformed, Message, Query};
use crate::multicast::GroupPolicy;
use crate::multicast::SourceFilter;
use crate::notice::Notice;
use crate::primitives::token_bucket::TokenBucket;

/// A query for the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutgoingQuery {
    /// Its destination: 224.0.0.1, or the group.
    pub destination: Ipv4Addr,
    /// A whole IPv4 packet with TTL 0, to be looped back by the container's own stack.
    pub packet: Vec<u8>,
}

/// The IGMP router of one container interface, without sockets and without a clock.
///
/// # Order of calls
/// After each `handle_*`, [`set_policy`](Self::set_policy) or [`requery`](Self::requery):
/// 1. [`poll_query`](Self::poll_query) until it gives none: packets to inject.
/// 2. [`poll_change`](Self::poll_change) until it gives none: what to join upstream.
/// 3. [`poll_notice`](Self::poll_notice) until it gives none: lines for the log.
/// 4. [`poll_timeout`](Self::poll_timeout): when to call
///    [`handle_timeout`](Self::handle_timeout) if nothing else comes before. It is `None` or a
///    time at which there is something to do; a call before it does no harm.
///
/// Time passed in never runs backwards; an earlier time than the last counts as the last.
///
/// ```
/// use std::time::Instant;
///
/// use mcrun::multicast::GroupPolicy;
/// use mcrun::multicast::SourceFilter;
/// use mcrun::igmp::router::{Router, RouterConfig};
/// use mcrun::igmp::wire::Message;
///
/// let now = Instant::now();
/// let mut router = Router::new(RouterConfig::default(), GroupPolicy::default(), now);
/// router.handle_link_up(now);
/// let query = router.poll_query().expect("the first startup query");
/// assert_eq!(query.destination.to_string(), "224.0.0.1");
///
/// let group = "239.1.2.3".parse().unwrap();
/// let report = Message::ReportV2 { group };
/// let container = "192.0.2.10".parse().unwrap();
/// for packet in report.emit_ipv4(container, report.destination(), 1, 1500) {
///     router.handle_packet(now, &packet);
/// }
/// assert_eq!(router.poll_change(), Some((group, SourceFilter::any())));
/// ```
///
/// # What is bounded
/// Groups: `max_groups` of the policy, which upstream never has more of, and `max_refused` of
/// the config. Sources of a group: `max_sources`, twice that while a replaced list is queried
/// for; what a policy adds is not counted. Changes: the token bucket of
/// the config; the newest state of a group waits, never a sequence. Records: another token
/// bucket; what comes above that is dropped, and asked for again. Relayed queries: one general
/// query a second and 32 specific ones; what comes above that is merged.
#[derive(Debug, Clone)]
pub struct Router {
    config: RouterConfig,
    now: Instant,
    timers: TimerTable,
    journal: Journal,
    table: Table,
    querier: Querier,
    changes: TokenBucket,
    records: TokenBucket,
}

/// What the parts of a router share.
struct Context<'a> {
    now: Instant,
    config: &'a RouterConfig,
    timers: &'a mut TimerTable,
    journal: &'a mut Journal,
}

impl Router {
    /// A router that knows of no group. It sends nothing before
    /// [`handle_link_up`](Self::handle_link_up).
    pub fn new(config: RouterConfig, policy: GroupPolicy, now: Instant) -> Self {
        Router {
            now,
            timers: TimerTable::default(),
            journal: Journal::new(now),
            table: Table::new(policy),
            querier: Querier::new(now),
            changes: TokenBucket::new(config.change_burst, config.change_interval, now),
            records: TokenBucket::new(config.record_burst, config.record_interval, now),
            config,
        }
    }

    /// Takes a whole IPv4 packet that the container sent. Whatever is not a report or a leave
    /// to be acted on is counted and otherwise ignored.
    pub fn handle_packet(&mut self, now: Instant, packet: &[u8]) {
        self.advance(now);
        self.journal.count(counter::PACKETS);
        match self.read(packet) {
            Ok(Some(message)) if self.has_time_for(&message) => self.hear(&message),
            Ok(Some(_)) => {
                self.journal.count(counter::RATE_LIMITED);
                let (querier, mut cx) = self.querier_mut();
                querier.requery(&mut cx);
            }
            Ok(None) => {}
            Err(why) => self.journal.count(why.name()),
        }
        self.settle();
    }

    /// Takes a query heard on the LAN: remembers the querier (a source of 0.0.0.0 is none,
    /// RFC 4541 §2.1.1), and relays it to the container in v3.
    ///
    /// The container's timers are not lowered by it: they are those of another link.
    pub fn handle_lan_query(&mut self, now: Instant, src: Ipv4Addr, query: &Query) {
        self.advance(now);
        let (querier, mut cx) = self.querier_mut();
        querier.lan_query(&mut cx, src, query);
        self.settle();
    }

    /// The container's link came up, now or before this router was there: sends the first
    /// startup query. It asks for an answer within half a second, so that what a running
    /// container has joined is known soon.
    pub fn handle_link_up(&mut self, now: Instant) {
        self.advance(now);
        let (querier, mut cx) = self.querier_mut();
        querier.link_up(&mut cx);
        self.settle();
    }

    /// Takes what the container's kernel is known to want of a group from elsewhere than a
    /// report: a netlink notification, `/proc/net/igmp`, `/proc/net/mcfilter`. It replaces what
    /// was known. The report that follows confirms it; without one it is dropped after the
    /// group membership interval.
    pub fn handle_membership(&mut self, now: Instant, group: Ipv4Addr, filter: &SourceFilter) {
        self.advance(now);
        let (table, mut cx) = self.table_mut();
        table.learn(&mut cx, group, filter);
        self.settle();
    }

    /// What [`poll_change`](Self::poll_change) gives next if [`handle_membership`](Self::handle_membership)
    /// follows with this: a caller in a hurry may join it before all else that belongs to a change. `None` where
    /// something else comes first, and where it takes more than a look: the group is known already, or not
    /// all of its sources are taken.
    pub fn foresee(
        &self,
        now: Instant,
        group: Ipv4Addr,
        filter: &SourceFilter,
    ) -> Option<SourceFilter> {
        let now = self.now.max(now);
        let is_due = self.timers.next().is_some_and(|at| at <= now);
        let at_once = !is_due && !self.table.has_changes() && self.changes.is_ready(now);
        at_once.then(|| self.table.foresee(group, filter))?
    }

    /// Whether so many groups more would be within `max_groups`, with all that is joined now.
    pub fn has_room_for(&self, groups: usize) -> bool {
        self.table.has_room_for(groups)
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        self.settle();
    }

    /// Asks the container for all memberships, with a response time of half a second: to be
    /// called when messages were lost. Nothing is forgotten before the group membership
    /// interval ends. At most one query a second comes of it.
    pub fn requery(&mut self, now: Instant) {
        self.advance(now);
        let (querier, mut cx) = self.querier_mut();
        querier.requery(&mut cx);
        self.settle();
    }

    /// Judges everything anew: what is denied now is given up upstream, what is allowed now
    /// is wanted. Asks the container, since joins that were not even remembered may be good
    /// now.
    pub fn set_policy(&mut self, now: Instant, policy: GroupPolicy) {
        self.advance(now);
        let (table, mut cx) = self.table_mut();
        table.set_policy(&mut cx, policy);
        self.requery(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The next query to inject into the container.
    pub fn poll_query(&mut self) -> Option<OutgoingQuery> {
        self.querier.poll()
    }

    /// A group, and what is wanted of it upstream from now on; [`SourceFilter::none`]: leave it.
    /// Only the newest state of a group is told.
    pub fn poll_change(&mut self) -> Option<(Ipv4Addr, SourceFilter)> {
        if !self.table.has_changes() {
            return None;
        }
        if !self.changes.take(self.now) {
            self.journal.count(counter::CHANGES_DELAYED);
            self.timers.set_or_stop(Timer::Changes, self.changes.ready_at());
            return None;
        }
        self.journal.count(counter::CHANGES);
        self.table.poll_change()
    }

    /// The next thing to tell the operator.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.journal.poll_notice()
    }

    /// The groups the container wants, by address, refused ones included; of 224.0.0.0/24
    /// only those that the config lets in. As of the last event.
    pub fn groups(&self) -> impl Iterator<Item = GroupView> + '_ {
        self.table.views(self.now)
    }

    /// The LAN's querier, if one was heard within the other-querier-present interval.
    pub fn querier(&self, now: Instant) -> Option<LanQuerier> {
        self.querier.lan(&self.config, now)
    }

    /// What happened how often, by stable names: those of [`counter`] and of
    /// [`Malformed::name`]. What never happened is left out.
    pub fn counters(&self) -> &BTreeMap<&'static str, u64> {
        &self.journal.counters
    }

    /// Time goes on, and what was due by then comes first.
    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        if self.timers.next().is_none_or(|at| at > self.now) {
            return;
        }
        if self.timers.take_expired(Timer::Groups, self.now) {
            let (table, mut cx) = self.table_mut();
            table.handle_timeout(&mut cx);
        }
        let (querier, mut cx) = self.querier_mut();
        querier.handle_timeout(&mut cx);
        // The token that was waited for is there: the caller polls.
        self.timers.take_expired(Timer::Changes, self.now);
        self.settle();
    }

    /// After an event: queries of groups go out, and the timer of the groups is set.
    fn settle(&mut self) {
        for (group, query) in self.table.take_queries() {
            let (querier, mut cx) = self.querier_mut();
            querier.specific(&mut cx, group, query);
        }
        self.timers.set_or_stop(Timer::Groups, self.table.poll_timeout());
        if !self.table.has_changes() {
            self.timers.stop(Timer::Changes);
        }
    }

    /// Checks that a packet of the container is a message to be acted on (RFC 9776 §9).
    fn read(&mut self, packet: &[u8]) -> Result<Option<Message>, Malformed> {
        let packet = Ipv4Packet::parse(packet)?;
        let message = wire::parse(packet.igmp()?)?;
        let kind = match &message {
            Message::Query(_) => counter::CONTAINER_QUERIES,
            Message::ReportV1 { .. } => counter::REPORTS_V1,
            Message::ReportV2 { .. } => counter::REPORTS_V2,
            Message::LeaveV2 { .. } => counter::LEAVES_V2,
            Message::ReportV3(_) => counter::REPORTS_V3,
        };
        self.journal.count(kind);
        if let Message::Query(_) = message {
            return Ok(None);
        }
        if packet.ttl() != 1 {
            self.journal.count(counter::BAD_TTL);
            return Ok(None);
        }
        if !packet.router_alert() {
            self.journal.count(counter::NO_ROUTER_ALERT);
            if self.config.strict_router_alert {
                return Ok(None);
            }
        }
        Ok(Some(message))
    }

    fn has_time_for(&mut self, message: &Message) -> bool {
        let records = match message {
            Message::ReportV3(records) => u32::try_from(records.len()).unwrap_or(u32::MAX).max(1),
            _ => 1,
        };
        self.records.take_many(self.now, records)
    }

    fn hear(&mut self, message: &Message) {
        let (table, mut cx) = self.table_mut();
        match message {
            Message::Query(_) => {}
            Message::ReportV1 { group } => table.hear(&mut cx, *group, Said::ReportV1),
            Message::ReportV2 { group } => table.hear(&mut cx, *group, Said::ReportV2),
            Message::LeaveV2 { group } => table.hear(&mut cx, *group, Said::LeaveV2),
            Message::ReportV3(records) => {
                for record in records {
                    let said = Said::Record(record.kind, &record.sources);
                    table.hear(&mut cx, record.group, said);
                }
            }
        }
    }

    fn table_mut(&mut self) -> (&mut Table, Context<'_>) {
        let Router { config, now, timers, journal, table, .. } = self;
        (table, Context { now: *now, config, timers, journal })
    }

    fn querier_mut(&mut self) -> (&mut Querier, Context<'_>) {
        let Router { config, now, timers, journal, querier, .. } = self;
        (querier, Context { now: *now, config, timers, journal })
    }
}
