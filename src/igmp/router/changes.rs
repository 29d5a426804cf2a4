//! What upstream was told, and what it is to be told next.

use std::collections::{BTreeMap, btree_map};
use std::net::Ipv4Addr;

use crate::multicast::SourceFilter;

/// Groups whose wanted state is not the one upstream was told last, in the order in which they
/// became so.
///
/// First come, first served, a leave goes before the join that got its room: upstream never
/// has more groups than the limit, however long the changes wait.
#[derive(Debug, Clone, Default)]
pub(super) struct Changes {
    /// What upstream was told last, without the groups it was told to leave.
    told: BTreeMap<Ipv4Addr, SourceFilter>,
    /// Groups that wait, with their turns.
    waiting: BTreeMap<Ipv4Addr, u64>,
    turns: BTreeMap<u64, Ipv4Addr>,
    next_turn: u64,
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// `wanted` is the state of a group now. What changed forth and back while it waited is no
    /// change.
    pub(super) fn mark(&mut self, group: Ipv4Addr, wanted: &SourceFilter) {
        let same = match self.told.get(&group) {
            Some(told) => told == wanted,
            None => wanted.is_none(),
        };
        if same {
            if let Some(turn) = self.waiting.remove(&group) {
                self.turns.remove(&turn);
            }
        } else if let btree_map::Entry::Vacant(vacant) = self.waiting.entry(group) {
            vacant.insert(self.next_turn);
            self.turns.insert(self.next_turn, group);
            self.next_turn += 1;
        }
    }

    /// The group whose turn it is; to be [`told`](Self::told) then.
    pub(super) fn next(&mut self) -> Option<Ipv4Addr> {
        let (_, group) = self.turns.pop_first()?;
        self.waiting.remove(&group);
        Some(group)
    }

    /// Upstream was told this.
    pub(super) fn told(&mut self, group: Ipv4Addr, filter: &SourceFilter) {
        if filter.is_none() {
            self.told.remove(&group);
        } else {
            self.told.insert(group, filter.clone());
        }
    }
}
