//! The state of one group on one link, as a router keeps it (RFC 9776 §6.2 to §6.6). It is that
//! of MLDv2 too (RFC 9777 §7).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use crate::igmp::Timing;
use crate::igmp::message::RecordType;
use crate::multicast::{FilterMode, SourceFilter};

/// The configuration that all groups of a link share.
#[derive(Debug, Clone, Copy)]
pub struct GroupConfig {
    /// Timers and counts.
    pub timing: Timing,
    /// The link has a single host, so that no other host can answer a last-member query: what
    /// would be queried for, and dropped after the last member query time, is dropped at once.
    pub fast_leave: bool,
}

/// A query that the table calls for: group-specific without sources, else
/// group-and-source-specific.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecificQuery<A> {
    /// S flag: other routers do not lower their timers.
    pub suppress: bool,
    /// The sources that are queried.
    pub sources: Vec<A>,
}

/// One group: filter mode, source list, timers, and pending retransmissions.
///
/// Order of calls: [`apply`](Self::apply), [`replace`](Self::replace) or
/// [`handle_timeout`](Self::handle_timeout) with the time of the event, then
/// [`poll_query`](Self::poll_query) until it gives none, [`poll_timeout`](Self::poll_timeout),
/// and [`filter`](Self::filter). A group that [`is_empty`](Self::is_empty) is to be dropped.
#[derive(Debug, Clone)]
pub struct GroupState<A> {
    members: Members<A>,
    group_queries: Option<Retransmit>,
    /// Transmissions left for each source that is queried.
    source_queries: BTreeMap<A, u8>,
    /// When the next of these transmissions is due.
    source_queries_next: Option<Instant>,
    queries: VecDeque<SpecificQuery<A>>,
}

/// The router's filter mode with its source records.
#[derive(Debug, Clone)]
enum Members<A> {
    /// INCLUDE(A): each source with the end of its timer.
    Include { sources: BTreeMap<A, Instant> },
    /// EXCLUDE(X, Y) with the end of the group timer. X has running source timers; those of Y
    /// are zero.
    Exclude { requested: BTreeMap<A, Instant>, excluded: BTreeSet<A>, expires: Instant },
}

#[derive(Debug, Clone, Copy)]
struct Retransmit {
    left: u8,
    next: Instant,
}

impl<A: Ord + Copy> Default for GroupState<A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: Ord + Copy> GroupState<A> {
    /// INCLUDE({}): no member.
    pub fn new() -> Self {
        GroupState {
            members: Members::Include { sources: BTreeMap::new() },
            group_queries: None,
            source_queries: BTreeMap::new(),
            source_queries_next: None,
            queries: VecDeque::new(),
        }
    }

    /// Applies one group record: the table of RFC 9776 §6.4.1 and §6.4.2.
    ///
    /// In the comments A, B, X and Y are the sets of that table.
    pub fn apply(
        &mut self,
        now: Instant,
        config: &GroupConfig,
        kind: RecordType,
        record: &BTreeSet<A>,
    ) {
        self.expire(now);
        let gmi = now + config.timing.group_membership_interval();
        let mut query_sources = BTreeSet::new();
        let mut query_group = false;
        match (&mut self.members, kind) {
            (_, RecordType::Unknown(_)) => {}
            (Members::Include { sources }, RecordType::IsIn | RecordType::Allow) => {
                sources.extend(record.iter().map(|&s| (s, gmi)));
            }
            (Members::Include { sources }, RecordType::ToIn) => {
                // Queried: A-B.
                query_sources = sources.keys().filter(|&s| !record.contains(s)).copied().collect();
                sources.extend(record.iter().map(|&s| (s, gmi)));
            }
            (Members::Include { sources }, RecordType::Block) => {
                // Queried: A*B.
                query_sources =
                    record.iter().filter(|&s| sources.contains_key(s)).copied().collect();
            }
            (Members::Include { sources }, RecordType::IsEx | RecordType::ToEx) => {
                // X = A*B with their timers; Y = B-A.
                sources.retain(|s, _| record.contains(s));
                let requested = std::mem::take(sources);
                let excluded =
                    record.iter().filter(|&s| !requested.contains_key(s)).copied().collect();
                if kind == RecordType::ToEx {
                    query_sources = requested.keys().copied().collect();
                }
                self.members = Members::Exclude { requested, excluded, expires: gmi };
            }
            (
                Members::Exclude { requested, excluded, .. },
                RecordType::IsIn | RecordType::Allow,
            ) => {
                requested.extend(record.iter().map(|&s| (s, gmi)));
                excluded.retain(|s| !record.contains(s));
            }
            (Members::Exclude { requested, excluded, .. }, RecordType::ToIn) => {
                // Queried: X-A, and the group.
                query_sources =
                    requested.keys().filter(|&s| !record.contains(s)).copied().collect();
                query_group = true;
                requested.extend(record.iter().map(|&s| (s, gmi)));
                excluded.retain(|s| !record.contains(s));
            }
            (Members::Exclude { requested, excluded, expires }, RecordType::Block) => {
                // (A-X-Y) gets the group timer. Queried: A-Y.
                query_sources = record.difference(excluded).copied().collect();
                for &source in &query_sources {
                    requested.entry(source).or_insert(*expires);
                }
            }
            (
                Members::Exclude { requested, excluded, expires },
                RecordType::IsEx | RecordType::ToEx,
            ) => {
                // X = A-Y, where (A-X-Y) is new; Y = Y*A.
                let new = if kind == RecordType::IsEx { gmi } else { *expires };
                *requested = record
                    .difference(excluded)
                    .map(|s| (*s, requested.get(s).copied().unwrap_or(new)))
                    .collect();
                excluded.retain(|s| record.contains(s));
                *expires = gmi;
                if kind == RecordType::ToEx {
                    query_sources = requested.keys().copied().collect();
                }
            }
        }
        if config.fast_leave {
            self.drop_now(now, &query_sources, query_group);
        } else {
            self.query_sources(now, &config.timing, &query_sources);
            if query_group {
                self.query_group(now, &config.timing);
            }
        }
    }

    /// Replaces the state by the filter of the only host of the link, which is known from its
    /// kernel and not from a report.
    pub fn replace(&mut self, now: Instant, config: &GroupConfig, filter: &SourceFilter<A>) {
        let gmi = now + config.timing.group_membership_interval();
        *self = GroupState::new();
        self.members = match filter.mode {
            FilterMode::Include => {
                Members::Include { sources: filter.sources.iter().map(|&s| (s, gmi)).collect() }
            }
            FilterMode::Exclude => Members::Exclude {
                requested: BTreeMap::new(),
                excluded: filter.sources.clone(),
                expires: gmi,
            },
        };
    }

    /// Everything that lasts longer expires at this time, unless a report tells of it before.
    pub fn expire_by(&mut self, at: Instant) {
        let timers = match &mut self.members {
            Members::Include { sources } => sources,
            Members::Exclude { requested, expires, .. } => {
                *expires = at.min(*expires);
                requested
            }
        };
        timers.values_mut().for_each(|ends| *ends = at.min(*ends));
    }

    /// Expires timers and sends the retransmissions that are due.
    pub fn handle_timeout(&mut self, now: Instant, config: &GroupConfig) {
        self.expire(now);
        if self.group_queries.is_some_and(|r| r.next <= now) {
            self.send_group_query(now, &config.timing);
        }
        if self.source_queries_next.is_some_and(|next| next <= now) {
            self.send_source_queries(now, &config.timing);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is next to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let (timers, expires) = match &self.members {
            Members::Include { sources } => (sources, None),
            Members::Exclude { requested, expires, .. } => (requested, Some(*expires)),
        };
        let retransmit = self.group_queries.map(|r| r.next);
        timers
            .values()
            .copied()
            .chain(expires)
            .chain(retransmit)
            .chain(self.source_queries_next)
            .min()
    }

    /// The next query to send now.
    pub fn poll_query(&mut self) -> Option<SpecificQuery<A>> {
        self.queries.pop_front()
    }

    /// Whether the group has no member.
    pub fn is_empty(&self) -> bool {
        matches!(&self.members, Members::Include { sources } if sources.is_empty())
    }

    /// The source filter for upstream (RFC 4605 §4.1): INCLUDE(A) gives INCLUDE(A),
    /// EXCLUDE(X, Y) gives EXCLUDE(Y).
    pub fn filter(&self) -> SourceFilter<A> {
        match &self.members {
            Members::Include { sources } => SourceFilter::include(sources.keys().copied()),
            Members::Exclude { excluded, .. } => SourceFilter::exclude(excluded.iter().copied()),
        }
    }

    /// Whether there is a source record of `source`, whether or not its timer runs.
    pub fn has_source(&self, source: &A) -> bool {
        match &self.members {
            Members::Include { sources } => sources.contains_key(source),
            Members::Exclude { requested, excluded, .. } => {
                requested.contains_key(source) || excluded.contains(source)
            }
        }
    }

    /// Whether a record that tells of a change tells nothing new.
    pub fn confirms(&self, kind: RecordType, record: &BTreeSet<A>) -> bool {
        match (&self.members, kind) {
            (Members::Include { sources }, RecordType::Allow) => {
                record.iter().all(|source| sources.contains_key(source))
            }
            (Members::Include { sources }, RecordType::ToIn) => sources.keys().eq(record),
            (Members::Exclude { requested, excluded, .. }, RecordType::ToEx) => {
                requested.is_empty() && excluded == record
            }
            _ => false,
        }
    }

    /// Number of source records.
    pub fn source_count(&self) -> usize {
        match &self.members {
            Members::Include { sources } => sources.len(),
            Members::Exclude { requested, excluded, .. } => requested.len() + excluded.len(),
        }
    }

    /// Expires timers (RFC 9776 §6.3, §6.5).
    fn expire(&mut self, now: Instant) {
        match &mut self.members {
            Members::Include { sources } => sources.retain(|_, ends| *ends > now),
            Members::Exclude { requested, excluded, expires } => {
                requested.retain(|source, ends| {
                    let running = *ends > now;
                    if !running {
                        // Its record stays, as that of an excluded source.
                        excluded.insert(*source);
                    }
                    running
                });
                if *expires <= now {
                    self.members = Members::Include { sources: std::mem::take(requested) };
                    self.group_queries = None;
                }
            }
        }
        if self.source_queries_next.is_some() {
            self.stop_queries_for_expired_sources();
        }
    }

    /// Stops queries for sources whose record is gone or has no running timer.
    fn stop_queries_for_expired_sources(&mut self) {
        let timers = match &self.members {
            Members::Include { sources } => sources,
            Members::Exclude { requested, .. } => requested,
        };
        self.source_queries.retain(|source, _| timers.contains_key(source));
        if self.source_queries.is_empty() {
            self.source_queries_next = None;
        }
    }

    /// Does at once what a query without an answer would lead to.
    fn drop_now(&mut self, now: Instant, sources: &BTreeSet<A>, group: bool) {
        for source in sources {
            if let Some(timer) = self.timer_mut(source) {
                *timer = now;
            }
        }
        if group && let Members::Exclude { expires, .. } = &mut self.members {
            *expires = now;
        }
        self.expire(now);
    }

    fn timer_mut(&mut self, source: &A) -> Option<&mut Instant> {
        match &mut self.members {
            Members::Include { sources } => sources.get_mut(source),
            Members::Exclude { requested, .. } => requested.get_mut(source),
        }
    }

    /// "Send Q(G)" (RFC 9776 §6.6.3.1).
    fn query_group(&mut self, now: Instant, timing: &Timing) {
        if let Members::Exclude { expires, .. } = &mut self.members {
            *expires = (*expires).min(now + timing.last_member_query_time());
        }
        let left = timing.last_member_query_count();
        self.group_queries = Some(Retransmit { left, next: now });
        self.send_group_query(now, timing);
    }

    fn send_group_query(&mut self, now: Instant, timing: &Timing) {
        let soon = now + timing.last_member_query_time();
        let Members::Exclude { expires, .. } = &self.members else {
            self.group_queries = None;
            return;
        };
        self.queries.push_back(SpecificQuery { suppress: *expires > soon, sources: Vec::new() });
        self.group_queries = self.group_queries.and_then(|r| {
            let left = r.left.saturating_sub(1);
            let next = now + timing.last_member_query_interval();
            (left > 0).then_some(Retransmit { left, next })
        });
    }

    /// "Send Q(G, sources)" (RFC 9776 §6.6.3.2): only timers above LMQT are lowered.
    fn query_sources(&mut self, now: Instant, timing: &Timing, sources: &BTreeSet<A>) {
        let soon = now + timing.last_member_query_time();
        let mut any = false;
        for source in sources {
            if let Some(timer) = self.timer_mut(source)
                && *timer > soon
            {
                *timer = soon;
                self.source_queries.insert(*source, timing.last_member_query_count());
                any = true;
            }
        }
        if any {
            self.send_source_queries(now, timing);
        }
    }

    /// Sends one query with the S flag for the sources whose timers were raised again, and one
    /// without for the others (RFC 9776 §6.6.3.2).
    fn send_source_queries(&mut self, now: Instant, timing: &Timing) {
        self.stop_queries_for_expired_sources();
        let soon = now + timing.last_member_query_time();
        let timers = match &self.members {
            Members::Include { sources } => sources,
            Members::Exclude { requested, .. } => requested,
        };
        let (wanted, rest): (Vec<A>, Vec<A>) = self
            .source_queries
            .keys()
            .partition(|source| timers.get(source).is_some_and(|ends| *ends > soon));
        for (suppress, sources) in [(true, wanted), (false, rest)] {
            if !sources.is_empty() {
                self.queries.push_back(SpecificQuery { suppress, sources });
            }
        }
        self.source_queries.retain(|_, left| {
            *left = left.saturating_sub(1);
            *left > 0
        });
        self.source_queries_next =
            (!self.source_queries.is_empty()).then(|| now + timing.last_member_query_interval());
    }
}

#[cfg(test)]
mod tests;
