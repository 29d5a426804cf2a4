//! The records of a report, and source lists that do not fit into one.
//!
//! A kernel that has filled a report continues the source list in the next one, with another record
//! of the same type and group (`add_grec` in net/ipv4/igmp.c and net/ipv6/mcast.c). Where the record
//! is the whole list (TO_IN), the second one would take away what the first one has. Other routers
//! ask before they drop sources, and the answer keeps them. Here sources are dropped at once, so the
//! parts are put together first.

use std::time::Duration;

use crate::igmp::group::SpecificQuery;
use crate::igmp::message::{GroupRecord, RecordType};
use crate::igmp::protocol::Protocol;
use crate::igmp::router::Router;
use crate::igmp::router::entry::GroupMessage;
use crate::igmp::router::timer::Timer;

/// A report that is shorter was not filled up: the smallest MTU that is in use is longer (RFC 791
/// §3.1, RFC 8200 §5).
const SHORTEST_FULL: usize = 512;
/// The next report is sent at once.
const NEXT_REPORT: Duration = Duration::from_millis(10);
/// The most sources of a list that is put together.
const MAX_OPEN: usize = 4096;
/// Groups that the container is asked for one by one. For more there is a general query.
const MAX_SPECIFIC: usize = 32;
/// The response time of such a query: the shortest that a query can tell apart from none.
const QUICK: Duration = Duration::from_millis(100);
/// When the answer to such a query is there, if there is one.
const ANSWERED: Duration = Duration::from_millis(500);
/// The same of a general query, which may have to wait for its turn.
const ALL_ANSWERED: Duration = Duration::from_millis(1700);

/// A source list that may go on in the next report.
#[derive(Debug, Clone)]
pub(super) struct OpenList<A> {
    group: A,
    /// As it stands in the report.
    kind: RecordType,
    sources: Vec<A>,
}

impl<P: Protocol> Router<P> {
    /// Applies the records of a report whose packet has `length` bytes.
    pub(super) fn receive_records(&mut self, records: &[GroupRecord<P::Address>], length: usize) {
        let now = self.now;
        let mut open = self.open_list.take();
        self.timers.stop(Timer::OpenList);
        let goes_on = |open: &mut OpenList<P::Address>| {
            records.first().is_some_and(|r| (r.group, r.kind) == (open.group, open.kind))
        };
        let continued = open.take_if(goes_on);
        if let Some(open) = open {
            self.apply(open.group, RecordType::ToIn, &open.sources);
        }
        let mut continued = continued.map(|mut open| {
            let rest = records.first().map_or(&[][..], |record| &record.sources);
            open.sources.extend(rest);
            open
        });
        for (left, record) in (0..records.len()).rev().zip(records) {
            let (kind, list) = match continued.take() {
                Some(open) => (RecordType::ToIn, open.sources),
                None => (self.table.kind_of(record.group, record.kind), Vec::new()),
            };
            let sources = if list.is_empty() { &record.sources } else { &list };
            let is_open = left == 0
                && length >= SHORTEST_FULL
                && kind == RecordType::ToIn
                && !sources.is_empty()
                && sources.len() <= MAX_OPEN
                && self.table.is_v3(now, record.group);
            if is_open {
                // What the list has for sure; what it has not is dropped when it is complete.
                self.apply(record.group, RecordType::Allow, sources);
                let (group, kind, sources) = (record.group, record.kind, sources.clone());
                self.open_list = Some(OpenList { group, kind, sources });
                self.timers.set(Timer::OpenList, now + NEXT_REPORT);
            } else {
                self.apply(record.group, kind, sources);
            }
        }
    }

    /// The list is complete: nothing more has come.
    pub(super) fn close_list(&mut self) {
        if let Some(open) = self.open_list.take() {
            self.apply(open.group, RecordType::ToIn, &open.sources);
        }
    }

    /// Asks the container for groups whose records may not have added up. One that it has left, without
    /// a record that tells so, gets no answer.
    pub(super) fn ask_for_unsettled(&mut self) {
        let groups = self.table.take_unsettled(self.now);
        let is_general = groups.len() > MAX_SPECIFIC;
        let within = if is_general { ALL_ANSWERED } else { ANSWERED };
        let (table, mut cx) = self.table_mut();
        groups.iter().for_each(|group| table.expect_answer(&mut cx, *group, within));
        let (querier, mut cx) = self.querier_mut();
        if is_general {
            querier.requery(&mut cx);
            return;
        }
        for group in groups {
            let query = SpecificQuery { suppress: false, sources: Vec::new() };
            querier.send_specific_within(&mut cx, group, query, QUICK);
        }
    }

    fn apply(&mut self, group: P::Address, kind: RecordType, sources: &[P::Address]) {
        let (table, mut cx) = self.table_mut();
        table.receive(&mut cx, group, GroupMessage::Record(kind, sources));
    }
}
