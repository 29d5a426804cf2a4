//! The changes that wait to go upstream.

use std::collections::{BTreeMap, btree_map};

use crate::multicast::{Address, SourceFilter};

/// A queue of the groups whose source filter is not the one that went upstream last. The group
/// that changed first is the first.
///
/// A leave goes upstream before the join that waited for it, because it came first. So upstream
/// never has more groups than the limit, however long the changes wait.
#[derive(Debug, Clone)]
pub(super) struct ChangeQueue<A> {
    /// The filters that went upstream last, except those of groups that were left.
    sent: BTreeMap<A, SourceFilter<A>>,
    /// The waiting groups with their numbers in the queue.
    numbers: BTreeMap<A, u64>,
    queue: BTreeMap<u64, A>,
    next_number: u64,
}

impl<A: Address> ChangeQueue<A> {
    pub(super) fn new() -> Self {
        ChangeQueue {
            sent: BTreeMap::new(),
            numbers: BTreeMap::new(),
            queue: BTreeMap::new(),
            next_number: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Queues a group whose source filter is `wanted` now, if that is not the filter that went
    /// upstream last; else removes the group from the queue.
    pub(super) fn update(&mut self, group: A, wanted: &SourceFilter<A>) {
        let is_sent = match self.sent.get(&group) {
            Some(sent) => sent == wanted,
            None => wanted.is_none(),
        };
        if is_sent {
            if let Some(number) = self.numbers.remove(&group) {
                self.queue.remove(&number);
            }
        } else if let btree_map::Entry::Vacant(vacant) = self.numbers.entry(group) {
            vacant.insert(self.next_number);
            self.queue.insert(self.next_number, group);
            self.next_number += 1;
        }
    }

    /// The first group.
    pub(super) fn first(&self) -> Option<A> {
        self.queue.first_key_value().map(|(_, group)| *group)
    }

    /// Takes the first group. [`mark_sent`](Self::mark_sent) is to follow.
    pub(super) fn pop(&mut self) -> Option<A> {
        let (_, group) = self.queue.pop_first()?;
        self.numbers.remove(&group);
        Some(group)
    }

    /// Notes the filter that went upstream.
    pub(super) fn mark_sent(&mut self, group: A, filter: &SourceFilter<A>) {
        if filter.is_none() {
            self.sent.remove(&group);
        } else {
            self.sent.insert(group, filter.clone());
        }
    }
}
