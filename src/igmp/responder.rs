//! The host role: the answers to a querier's queries (RFC 9776 §5.2, RFC 2236 §3, RFC 1112
//! Appendix I), for a host whose own IGMP does not hear them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::igmp::wire::{GroupRecord, Message, Query, RecordType, Version};
use crate::multicast::{Address, FilterMode, SourceFilter};
use crate::primitives::token_bucket::TokenBucket;

/// What is joined, by group.
pub type Memberships = BTreeMap<Ipv4Addr, SourceFilter>;

/// Older-version-querier-present time: robustness 2 times 125 s, and 10 s (RFC 9776 §8.12).
const OLDER_QUERIER_PRESENT: Duration = Duration::from_secs(260);
/// Sources of a waiting answer; with more, all of the group is told.
const MAX_SOURCES: usize = 1024;
/// Messages that are sent at once: one for each of many groups, in version 2. Then one each
/// interval.
const BURST: u32 = 512;
const INTERVAL: Duration = Duration::from_millis(10);

/// Answers the queries of one LAN.
#[derive(Debug)]
pub struct Responder {
    v1_querier_until: Option<Instant>,
    v2_querier_until: Option<Instant>,
    /// When a v3 report of all groups is due.
    all_at: Option<Instant>,
    groups: BTreeMap<Ipv4Addr, Due>,
    messages: TokenBucket,
}

/// The answer of one group.
#[derive(Debug)]
struct Due {
    at: Instant,
    /// The sources that were asked for; `None`: all.
    sources: Option<BTreeSet<Ipv4Addr>>,
}

impl Responder {
    /// One that has heard nothing yet.
    pub fn new(now: Instant) -> Self {
        Responder {
            v1_querier_until: None,
            v2_querier_until: None,
            all_at: None,
            groups: BTreeMap::new(),
            messages: TokenBucket::new(BURST, INTERVAL, now),
        }
    }

    /// Receives a query. Answers wait for a part of its response time, which `random` chooses: it
    /// returns numbers from 0 up to 1.
    pub fn receive_query(
        &mut self,
        now: Instant,
        query: &Query,
        memberships: &Memberships,
        mut random: impl FnMut() -> f64,
    ) {
        self.follow_version(now, query.version);
        // The last part is for the way.
        let span = query.max_resp - query.max_resp / 8;
        let mut delay = || now + span.mul_f64(random().clamp(0.0, 1.0));
        let version = self.version(now);
        match query.group {
            None if version == Version::V3 => {
                let at = delay();
                self.all_at = Some(self.all_at.map_or(at, |before| before.min(at)));
            }
            None => {
                for group in memberships.keys().filter(|group| group.needs_report()) {
                    self.schedule(*group, delay(), None);
                }
            }
            Some(group) if memberships.contains_key(&group) && group.needs_report() => {
                let at = delay();
                if self.all_at.is_none_or(|all| at < all) {
                    let some = version == Version::V3 && !query.sources.is_empty();
                    let sources = some.then(|| query.sources.iter().copied().collect());
                    self.schedule(group, at, sources);
                }
            }
            Some(_) => {}
        }
    }

    /// Speaks an older version from now on, for as long as a querier of that version counts as
    /// present.
    pub fn follow_version(&mut self, now: Instant, version: Version) {
        match version {
            Version::V1 => self.v1_querier_until = Some(now + OLDER_QUERIER_PRESENT),
            Version::V2 => self.v2_querier_until = Some(now + OLDER_QUERIER_PRESENT),
            Version::V3 => {}
        }
    }

    /// All is to be told now: what was told before may be lost.
    pub fn report_all(&mut self, now: Instant, memberships: &Memberships) {
        match self.version(now) {
            Version::V3 => self.all_at = Some(now),
            _ => {
                for group in memberships.keys().filter(|group| group.needs_report()) {
                    self.schedule(*group, now, None);
                }
            }
        }
    }

    fn schedule(&mut self, group: Ipv4Addr, at: Instant, sources: Option<BTreeSet<Ipv4Addr>>) {
        let due = match self.groups.remove(&group) {
            None => Due { at, sources },
            Some(before) => Due {
                at: at.min(before.at),
                sources: before.sources.zip(sources).map(|(a, b)| &a | &b),
            },
        };
        let sources = due.sources.filter(|sources| sources.len() <= MAX_SOURCES);
        self.groups.insert(group, Due { at: due.at, sources });
    }

    /// When to call [`Responder::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.groups.values().map(|due| due.at).chain(self.all_at).min()
    }

    /// Sends what is due.
    pub fn handle_timeout(
        &mut self,
        now: Instant,
        memberships: &Memberships,
        mut send: impl FnMut(&Message),
    ) {
        let version = self.version(now);
        let mut records = Vec::new();
        if self.all_at.take_if(|at| *at <= now).is_some() {
            // What waits is told by this.
            self.groups.clear();
            let reported = memberships.iter().filter(|(group, _)| group.needs_report());
            records.extend(reported.filter_map(|(group, filter)| record(*group, filter, None)));
        }
        self.groups.retain(|group, due| {
            if due.at <= now
                && let Some(filter) = memberships.get(group)
            {
                records.extend(record(*group, filter, due.sources.as_ref()));
            }
            due.at > now
        });
        if records.is_empty() {
            return;
        }
        let mut send = |message: &Message| {
            if self.messages.take(now) {
                send(message);
            }
        };
        match version {
            Version::V3 => send(&Message::ReportV3(records)),
            Version::V2 => {
                records.iter().for_each(|r| send(&Message::ReportV2 { group: r.group }));
            }
            Version::V1 => {
                records.iter().for_each(|r| send(&Message::ReportV1 { group: r.group }));
            }
        }
    }

    /// The version to answer in (RFC 9776 §7.2.1).
    fn version(&self, now: Instant) -> Version {
        let present = |until: Option<Instant>| until.is_some_and(|until| now < until);
        match (present(self.v1_querier_until), present(self.v2_querier_until)) {
            (true, _) => Version::V1,
            (false, true) => Version::V2,
            (false, false) => Version::V3,
        }
    }
}

/// The record that tells of a group, or of those of its sources that were asked for (RFC 9776
/// §5.2). `None`: there is nothing to tell.
fn record(
    group: Ipv4Addr,
    filter: &SourceFilter,
    asked: Option<&BTreeSet<Ipv4Addr>>,
) -> Option<GroupRecord> {
    let (kind, sources) = match (filter.mode, asked) {
        (FilterMode::Include, None) => (RecordType::IsIn, filter.sources.clone()),
        (FilterMode::Exclude, None) => (RecordType::IsEx, filter.sources.clone()),
        (FilterMode::Include, Some(asked)) => (RecordType::IsIn, &filter.sources & asked),
        (FilterMode::Exclude, Some(asked)) => (RecordType::IsIn, asked - &filter.sources),
    };
    let tells_nothing = kind == RecordType::IsIn && sources.is_empty();
    (!tells_nothing).then(|| GroupRecord { kind, group, sources: sources.into_iter().collect() })
}

#[cfg(test)]
mod tests;
