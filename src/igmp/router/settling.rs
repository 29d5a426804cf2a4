//! Groups whose source list may not be what the container's kernel has, after changes in quick
//! succession.
//!
//! A kernel merges changes that follow one another before it reports them, and the records that it
//! sends then do not always add up: a group that was left and joined again with sources is reported
//! as additions only (`igmpv3_del_delrec` in net/ipv4/igmp.c). Another router would hear the whole
//! list with the answer to the next query, or forget what is not repeated. Here the container is the
//! only host of its link, so its answer is the whole truth. It is asked for the groups that have
//! changed, once they are at rest.
//!
//! A leave may even go without any record that tells of it: where a kernel has left a group in two
//! steps, it reports the second one, and the first one is forgotten (`igmpv3_add_delrec` and
//! `igmpv3_send_cr`). And where the leave was known from a notification, a report that was made before
//! it, and is read after it, joins the group again. So a group that gets no answer expires.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// The groups are at rest when nothing has changed for so long: longer than the kernel takes to
/// repeat a change.
const REST: Duration = Duration::from_millis(150);
/// The container is asked after so long, at rest or not.
const LATEST: Duration = Duration::from_secs(1);
/// A report that was made before a leave is read within this time.
const STALE: Duration = Duration::from_secs(1);
/// Groups that were left of late, of which is known when. Of more some are forgotten.
const MAX_LEFT: usize = 1024;
/// Time for an answer to a query of the LAN that names sources, in addition to its response time.
const SLACK: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Settling<A> {
    changed: BTreeSet<A>,
    /// The container has been asked for them: its next answer is the whole list.
    awaited: BTreeSet<A>,
    first: Option<Instant>,
    at: Option<Instant>,
    /// Until then an answer may have a part of the list.
    not_before: Option<Instant>,
    /// When groups were left, as is known from notifications.
    left: BTreeMap<A, Instant>,
}

impl<A: Ord + Copy> Settling<A> {
    pub(super) fn new() -> Self {
        Settling {
            changed: BTreeSet::new(),
            awaited: BTreeSet::new(),
            first: None,
            at: None,
            not_before: None,
            left: BTreeMap::new(),
        }
    }

    /// A record has changed the group.
    pub(super) fn note(&mut self, now: Instant, group: A) {
        self.changed.insert(group);
        let first = *self.first.get_or_insert(now);
        self.at = Some((now + REST).min(first + LATEST)).max(self.not_before);
    }

    /// A notification has told that the group was left.
    pub(super) fn note_leave(&mut self, now: Instant, group: A) {
        self.left.insert(group, now);
        if self.left.len() > MAX_LEFT {
            self.left.retain(|_, at| now < *at + STALE);
        }
        if self.left.len() > MAX_LEFT {
            self.left.pop_first();
        }
    }

    /// Whether a notification has told of late that the group was left.
    pub(super) fn was_left(&self, now: Instant, group: &A) -> bool {
        self.left.get(group).is_some_and(|at| now < *at + STALE)
    }

    /// The LAN asks for sources of the group. The answer has these only.
    pub(super) fn note_partial_query(&mut self, now: Instant, group: A, max_resp: Duration) {
        self.not_before = Some(now + max_resp + SLACK).max(self.not_before);
        if self.awaited.remove(&group) {
            self.note(now, group);
        }
        self.at = self.at.max(self.not_before.filter(|_| self.at.is_some()));
    }

    /// When [`take_due`](Self::take_due) gives something.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.at
    }

    /// The groups to ask for now, of those that `exists` knows; empty before it is time.
    pub(super) fn take_due(&mut self, now: Instant, exists: impl Fn(&A) -> bool) -> Vec<A> {
        if self.at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        (self.first, self.at) = (None, None);
        let mut due = std::mem::take(&mut self.changed);
        due.retain(&exists);
        self.awaited.retain(exists);
        self.awaited.extend(&due);
        due.into_iter().collect()
    }

    /// Whether a list of the group that arrives now is the whole list.
    pub(super) fn take_answer(&mut self, group: &A) -> bool {
        self.awaited.remove(group)
    }
}
