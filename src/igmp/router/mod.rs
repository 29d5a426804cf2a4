//! The multicast router of one container interface: its group table, its querier, and the changes
//! that go upstream (RFC 9776 §6, RFC 4605 §4).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

mod changes;
mod config;
mod diagnostics;
mod entry;
mod pace;
mod querier;
mod records;
mod settling;
mod table;
#[cfg(test)]
mod tests;
mod timer;

pub use crate::igmp::router::config::RouterConfig;
pub use crate::igmp::router::diagnostics::counter;
pub use crate::igmp::router::entry::{GroupView, Status};
pub use crate::igmp::router::querier::LanQuerier;

use crate::igmp::message::{Message, Query};
use crate::igmp::protocol::{Protocol, ReceivedMessage};
use crate::igmp::router::diagnostics::Diagnostics;
use crate::igmp::router::entry::GroupMessage;
use crate::igmp::router::pace::Pace;
use crate::igmp::router::querier::Querier;
use crate::igmp::router::records::OpenList;
use crate::igmp::router::table::Table;
use crate::igmp::router::timer::{Timer, TimerTable};
use crate::multicast::{GroupPolicy, SourceFilter};
use crate::notice::Notice;
use crate::primitives::token_bucket::TokenBucket;

/// A query to the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutgoingQuery<A> {
    /// Its destination: all systems of the link, or the group.
    pub destination: A,
    /// A whole IP packet, which the container's own stack loops back.
    pub packet: Vec<u8>,
}

/// The multicast router of one container interface, without sockets and without a clock.
///
/// # Order of calls
/// After each `handle_*`, [`set_policy`](Self::set_policy) or [`requery`](Self::requery):
/// 1. [`poll_query`](Self::poll_query) until it gives `None`: packets to inject.
/// 2. [`poll_change`](Self::poll_change) until it gives `None`: source filters for upstream.
/// 3. [`poll_notice`](Self::poll_notice) until it gives `None`: notices for people.
/// 4. [`poll_timeout`](Self::poll_timeout): when to call
///    [`handle_timeout`](Self::handle_timeout) if nothing else is called before. It is `None` or
///    a time at which there is something to do. An earlier call does no harm.
///
/// An earlier time than that of the last call counts as the last.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// use mcrun::igmp::wire::Message;
/// use mcrun::igmp::{Router, RouterConfig};
/// use mcrun::multicast::{GroupPolicy, SourceFilter};
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
/// - Groups: `max_groups` of the policy upstream, and `max_refused` of the configuration beside
///   them.
/// - Sources of a group: `max_sources`, and twice that while the sources of a replaced list are
///   queried for. Sources that a policy adds are not counted.
/// - Changes: two token buckets, one of them for groups that change again and again. The newest
///   filter of a group waits, and never a sequence.
/// - Records: another token bucket. Records beyond it are dropped, and a general query asks for
///   them again.
/// - Relayed queries: one general query a second, and 32 specific queries. More are merged.
#[derive(Debug, Clone)]
pub struct Router<P: Protocol> {
    config: RouterConfig<P::Address>,
    now: Instant,
    timers: TimerTable,
    diagnostics: Diagnostics,
    table: Table<P::Address>,
    querier: Querier<P>,
    pace: Pace<P::Address>,
    records: TokenBucket,
    open_list: Option<OpenList<P::Address>>,
}

/// The fields of a router that its table and its querier use.
struct Context<'a, A> {
    now: Instant,
    config: &'a RouterConfig<A>,
    timers: &'a mut TimerTable,
    diagnostics: &'a mut Diagnostics,
}

impl<P: Protocol> Router<P> {
    /// A router without groups. It sends nothing before
    /// [`handle_link_up`](Self::handle_link_up).
    pub fn new(config: RouterConfig<P::Address>, policy: GroupPolicy, now: Instant) -> Self {
        Router {
            now,
            timers: TimerTable::default(),
            diagnostics: Diagnostics::new(now),
            table: Table::new(policy),
            querier: Querier::new(now),
            pace: Pace::new(&config, now),
            records: TokenBucket::new(config.record_burst, config.record_interval, now),
            open_list: None,
            config,
        }
    }

    /// Receives a whole IP packet that the container sent. A packet that is no valid report or
    /// leave is counted and otherwise ignored.
    pub fn handle_packet(&mut self, now: Instant, packet: &[u8]) {
        self.advance(now);
        self.diagnostics.count(counter::PACKETS);
        match self.parse(packet) {
            Ok(Some(message)) if self.take_tokens_for(&message) => {
                self.receive(&message, packet.len());
            }
            Ok(Some(_)) => {
                self.diagnostics.count(counter::RATE_LIMITED);
                let (querier, mut cx) = self.querier_mut();
                querier.requery(&mut cx);
            }
            Ok(None) => {}
            Err(counter) => self.diagnostics.count(counter),
        }
        self.finish_event();
    }

    /// Receives a query of the LAN: remembers the querier (a source of 0.0.0.0 takes no part in the
    /// election, RFC 4541 §2.1.1), and relays the query to the container in v3.
    ///
    /// The query does not lower the timers of the container's groups, which are those of another
    /// link.
    pub fn handle_lan_query(&mut self, now: Instant, src: P::Address, query: &Query<P::Address>) {
        self.advance(now);
        let (querier, mut cx) = self.querier_mut();
        querier.receive_lan_query(&mut cx, src, query);
        if let Some(group) = query.group.filter(|_| !query.sources.is_empty()) {
            self.table.note_partial_query(self.now, group, query.max_resp);
        }
        self.finish_event();
    }

    /// The container's link came up, now or before this router existed: sends the first startup
    /// query. Its response time is half a second, so that the groups of a running container are
    /// known soon.
    pub fn handle_link_up(&mut self, now: Instant) {
        self.advance(now);
        let (querier, mut cx) = self.querier_mut();
        querier.handle_link_up(&mut cx);
        self.finish_event();
    }

    /// Replaces the state of a group by the source filter that the container's kernel has, which is
    /// known from a netlink notification, `/proc/net/igmp` or `/proc/net/mcfilter`. The report that
    /// follows confirms it. Without a report the group is dropped after the group membership
    /// interval.
    pub fn handle_membership(
        &mut self,
        now: Instant,
        group: P::Address,
        filter: &SourceFilter<P::Address>,
    ) {
        self.advance(now);
        let (table, mut cx) = self.table_mut();
        table.set_membership(&mut cx, group, filter, true);
        self.finish_event();
    }

    /// The groups of which something expires by now, with their source filters: of those no report has
    /// told for the group membership interval. [`handle_timeout`](Self::handle_timeout), and any
    /// `handle_*` with this time, drops them.
    pub fn expiring(&self, now: Instant) -> Vec<(P::Address, SourceFilter<P::Address>)> {
        self.table.expiring(self.now.max(now))
    }

    /// The container's kernel has this filter for a group that is about to expire: it stays for
    /// another membership interval. A firewall of the container that drops IGMP keeps its kernel from
    /// hearing queries.
    pub fn confirm(&mut self, now: Instant, group: P::Address, filter: &SourceFilter<P::Address>) {
        // What is due by now does not expire first.
        self.now = self.now.max(now);
        self.diagnostics.count(counter::CONFIRMED);
        let (table, mut cx) = self.table_mut();
        table.set_membership(&mut cx, group, filter, false);
        self.finish_event();
    }

    /// The container has joined a group of the table at this time already, which another router has
    /// seen.
    pub fn restore_age(&mut self, group: P::Address, since: Instant) {
        self.table.set_since(group, since);
    }

    /// Another router has heard the LAN's querier. If that was too long ago, nothing happens.
    pub fn restore_querier(&mut self, now: Instant, querier: LanQuerier<P::Address>) {
        self.advance(now);
        let (own, mut cx) = self.querier_mut();
        own.restore_lan(&mut cx, querier);
        self.finish_event();
    }

    /// The filter that [`poll_change`](Self::poll_change) gives next if
    /// [`handle_membership`](Self::handle_membership) follows with the same arguments, so that the
    /// caller can join upstream first. `None` if another change comes first, the group is in the
    /// table already, or not all sources are within the limit.
    ///
    /// This states admission a second time, and the tests hold both together. It is there for
    /// speed: without it the median from a join to the switch port is 12 to 16 % longer (0.128
    /// instead of 0.113 ms; 1600 joins each in turns, IGMPv2 and v3, kernel 6.18).
    pub fn predict_join(
        &self,
        now: Instant,
        group: P::Address,
        filter: &SourceFilter<P::Address>,
    ) -> Option<SourceFilter<P::Address>> {
        let now = self.now.max(now);
        let is_due = self.timers.next().is_some_and(|at| at <= now);
        let at_once = !is_due && !self.table.has_changes() && self.pace.is_ready(now, group);
        at_once.then(|| self.table.predict_join(group, filter))?
    }

    /// Whether this number of groups, in addition to all that are joined now, is within
    /// `max_groups`.
    pub fn has_room_for(&self, groups: usize) -> bool {
        self.table.has_room_for(groups)
    }

    /// Expires timers and does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        self.finish_event();
    }

    /// Sends a general query with a response time of half a second; to be called when messages were
    /// lost. No group is dropped before the group membership interval ends. There is at most one
    /// such query a second.
    pub fn requery(&mut self, now: Instant) {
        self.advance(now);
        let (querier, mut cx) = self.querier_mut();
        querier.requery(&mut cx);
        self.finish_event();
    }

    /// Applies another policy: groups that it denies are left upstream, groups that it allows are
    /// joined. A general query follows, since it may allow joins that were not even stored.
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
    pub fn poll_query(&mut self) -> Option<OutgoingQuery<P::Address>> {
        self.querier.poll()
    }

    /// A group and its source filter for upstream; [`SourceFilter::none`] leaves the group. Of
    /// several changes of a group only the newest is given.
    pub fn poll_change(&mut self) -> Option<(P::Address, SourceFilter<P::Address>)> {
        let group = self.table.next_change()?;
        if !self.pace.take(self.now, group) {
            self.diagnostics.count(counter::CHANGES_DELAYED);
            self.timers.set_or_stop(Timer::Changes, self.pace.ready_at(self.now, group));
            if self.pace.takes_notice(self.now) {
                let interface = self.config.interface.clone();
                self.diagnostics.notice(self.now, Notice::ChangesDelayed { interface });
            }
            return None;
        }
        self.diagnostics.count(counter::CHANGES);
        self.table.poll_change()
    }

    /// The next thing to tell the operator.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.diagnostics.poll_notice()
    }

    /// The groups of the container at the last event, by address, refused ones included. Groups
    /// that need no report are left out, except as the configuration's `link_scope` says.
    pub fn groups(&self) -> impl Iterator<Item = GroupView<P::Address>> + '_ {
        self.table.views(self.now)
    }

    /// The LAN's querier, if a query of it came within the other-querier-present interval. Where none
    /// takes part in the election, one without an address counts: switches live on it.
    pub fn querier(&self, now: Instant) -> Option<LanQuerier<P::Address>> {
        self.querier.present(now)
    }

    /// When the LAN's querier counts as gone if no other query comes; `None` without one.
    pub fn querier_expiry(&self, now: Instant) -> Option<Instant> {
        self.querier(now).map(|querier| querier.last_query + querier.timeout)
    }

    /// After a silence of this length the LAN has no querier: the other-querier-present interval with
    /// what the last querier told (RFC 9776 §8.5).
    pub fn querier_timeout(&self) -> Duration {
        self.querier.timeout(&self.config)
    }

    /// A second querier, which asks although the elected one does (RFC 9776 §6.6.2).
    pub fn rival_querier(&self, now: Instant) -> Option<LanQuerier<P::Address>> {
        self.querier.rival(now)
    }

    /// Counters by stable names: those of [`counter`] and of
    /// [`Malformed::name`](crate::igmp::wire::Malformed::name). Zeros are left out.
    pub fn counters(&self) -> &BTreeMap<&'static str, u64> {
        &self.diagnostics.counters
    }

    /// Sets the time, and does first what is due by then.
    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        if self.timers.next().is_none_or(|at| at > self.now) {
            return;
        }
        if self.timers.take_expired(Timer::Groups, self.now) {
            let (table, mut cx) = self.table_mut();
            table.handle_timeout(&mut cx);
        }
        if self.timers.take_expired(Timer::OpenList, self.now) {
            self.close_list();
        }
        self.ask_for_unsettled();
        let (querier, mut cx) = self.querier_mut();
        querier.handle_timeout(&mut cx);
        // If a change waited for a token, the caller polls it now.
        self.timers.take_expired(Timer::Changes, self.now);
        self.finish_event();
    }

    /// After an event: sends the queries of groups, and sets the timer of the groups.
    fn finish_event(&mut self) {
        for (group, query) in self.table.take_queries() {
            let (querier, mut cx) = self.querier_mut();
            querier.send_specific(&mut cx, group, query);
        }
        self.timers.set_or_stop(Timer::Groups, self.table.poll_timeout());
        self.timers.set_or_stop(Timer::Settling, self.table.poll_settling());
        if !self.table.has_changes() {
            self.timers.stop(Timer::Changes);
        }
    }

    /// Parses a packet of the container and checks it (RFC 9776 §9). `None`: to be ignored.
    fn parse(&mut self, packet: &[u8]) -> Result<Option<Message<P::Address>>, &'static str> {
        let ReceivedMessage { message, hop_limit, router_alert } = P::parse(packet)?;
        let kind = match &message {
            Message::Query(_) => counter::CONTAINER_QUERIES,
            Message::ReportV1 { .. } => counter::REPORTS_V1,
            Message::ReportV2 { .. } => counter::REPORTS_V2,
            Message::LeaveV2 { .. } => counter::LEAVES_V2,
            Message::ReportV3(_) => counter::REPORTS_V3,
        };
        self.diagnostics.count(kind);
        if let Message::Query(_) = message {
            return Ok(None);
        }
        if hop_limit != 1 {
            self.diagnostics.count(counter::BAD_TTL);
            return Ok(None);
        }
        if !router_alert {
            self.diagnostics.count(counter::NO_ROUTER_ALERT);
            if self.config.strict_router_alert {
                return Ok(None);
            }
        }
        Ok(Some(message))
    }

    /// Takes a token for each record of a message. `false`: there were too many records of late.
    fn take_tokens_for(&mut self, message: &Message<P::Address>) -> bool {
        let records = match message {
            Message::ReportV3(records) => u32::try_from(records.len()).unwrap_or(u32::MAX).max(1),
            _ => 1,
        };
        self.records.take_many(self.now, records)
    }

    /// Applies a report or a leave to the groups. Its packet has `length` bytes.
    fn receive(&mut self, message: &Message<P::Address>, length: usize) {
        let (table, mut cx) = self.table_mut();
        match message {
            Message::Query(_) => {}
            Message::ReportV1 { group } => table.receive(&mut cx, *group, GroupMessage::ReportV1),
            Message::ReportV2 { group } => table.receive(&mut cx, *group, GroupMessage::ReportV2),
            Message::LeaveV2 { group } => table.receive(&mut cx, *group, GroupMessage::LeaveV2),
            Message::ReportV3(records) => self.receive_records(records, length),
        }
    }

    fn table_mut(&mut self) -> (&mut Table<P::Address>, Context<'_, P::Address>) {
        let Router { config, now, timers, diagnostics, table, .. } = self;
        (table, Context { now: *now, config, timers, diagnostics })
    }

    fn querier_mut(&mut self) -> (&mut Querier<P>, Context<'_, P::Address>) {
        let Router { config, now, timers, diagnostics, querier, .. } = self;
        (querier, Context { now: *now, config, timers, diagnostics })
    }
}
