//! Which socket joins what: the pure half of the upstream.
//!
//! The kernel merges all sockets of the host (RFC 9776 §3.2): any EXCLUDE gives EXCLUDE of the
//! intersection of the EXCLUDE lists minus the union of the INCLUDE lists, else INCLUDE of the
//! union. So an INCLUDE list may be spread over sockets, an EXCLUDE list must be on one.
//!
//! Operations come in an order in which every state on the way lies between the old and the
//! new one: first what is to be added, then what is to go, and a source never moves from one
//! socket to another.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::multicast::{FilterMode, SourceFilter};

/// Names a socket of the pool.
pub(crate) type SlotId = u32;

/// What the host's kernel allows one socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Groups (`net.ipv4.igmp_max_memberships`).
    pub(crate) memberships: usize,
    /// Sources in a group's filter (`net.ipv4.igmp_max_msf`).
    pub(crate) sources: usize,
}

impl Default for Limits {
    /// The kernel's own defaults (`net/ipv4/igmp.c`).
    fn default() -> Self {
        Limits { memberships: 20, sources: 10 }
    }
}

/// A step towards what is wanted; each concerns one group on one socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operation {
    /// A first join with this filter, which is not `INCLUDE({})`; the socket is opened when the
    /// pool does not have it yet.
    Join(SlotId, SourceFilter),
    /// Another filter, which is not `INCLUDE({})`, in place.
    Change(SlotId, SourceFilter),
    /// The end of the membership.
    Leave(SlotId),
}

/// Why a filter cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// An EXCLUDE list cannot be spread.
    #[error(
        "excludes {sources} sources, one socket takes {limit}; raise net.ipv4.igmp_max_msf on the host"
    )]
    TooManyExcluded {
        /// Sources in the list.
        sources: usize,
        /// What the sysctl allows.
        limit: usize,
    },
    /// A limit of zero: nothing can be joined at all.
    #[error("{0} is 0 on the host; raise it")]
    NothingAllowed(&'static str),
    /// More sockets than a proxy may have.
    #[error("{0} sockets are in use already; raise net.ipv4.igmp_max_memberships on the host")]
    TooManySockets(usize),
}

/// Sockets one interface of a container may need at most: bounded below the usual limit of
/// 1024 descriptors.
pub(crate) const MAX_SLOTS: usize = 256;

/// What is joined where: a model of the kernel's state that is changed as operations succeed.
#[derive(Debug, Default, Clone)]
pub(crate) struct Slots {
    slots: BTreeMap<SlotId, Slot>,
    /// By group first: a container may have many groups, and few sockets for each.
    joined: BTreeMap<(Ipv4Addr, SlotId), SourceFilter>,
}

#[derive(Debug, Default, Clone)]
struct Slot {
    /// How many it has joined.
    groups: usize,
    /// The kernel refused another group when it had so many.
    full_at: Option<usize>,
}

impl Slot {
    fn has_room(&self, limits: Limits) -> bool {
        self.groups < self.full_at.unwrap_or(usize::MAX).min(limits.memberships)
    }
}

impl Slots {
    /// Whether anything is joined of the group.
    pub(crate) fn has(&self, group: Ipv4Addr) -> bool {
        self.parts(group).next().is_some()
    }

    /// The filter on each socket that has the group.
    fn parts(&self, group: Ipv4Addr) -> impl Iterator<Item = (SlotId, &SourceFilter)> {
        let all = (group, SlotId::MIN)..=(group, SlotId::MAX);
        self.joined.range(all).map(|((_, id), filter)| (*id, filter))
    }

    /// The socket that joins `wanted` of a group of which nothing is joined, where that is a single step.
    pub(crate) fn first(
        &self,
        group: Ipv4Addr,
        wanted: &SourceFilter,
        limits: Limits,
    ) -> Option<SlotId> {
        let fits = limits.memberships > 0 && wanted.sources.len() <= limits.sources;
        (fits && !wanted.is_none() && !self.has(group))
            .then(|| self.free(limits, []).next().ok())?
    }

    /// The steps that turn what is joined of `group` into `wanted`; none when it is so already.
    ///
    /// # Errors
    /// When the limits do not allow it; what is joined stays then.
    pub(crate) fn plan(
        &self,
        group: Ipv4Addr,
        wanted: &SourceFilter,
        limits: Limits,
    ) -> Result<Vec<Operation>, Refusal> {
        let parts: Vec<(SlotId, &SourceFilter)> = self.parts(group).collect();
        if wanted.is_none() {
            return Ok(parts.iter().map(|&(id, _)| Operation::Leave(id)).collect());
        }
        if limits.memberships == 0 {
            return Err(Refusal::NothingAllowed("net.ipv4.igmp_max_memberships"));
        }
        match wanted.mode {
            FilterMode::Exclude => self.plan_exclude(&parts, wanted, limits),
            FilterMode::Include => self.plan_include(&parts, wanted, limits),
        }
    }

    fn plan_exclude(
        &self,
        parts: &[(SlotId, &SourceFilter)],
        wanted: &SourceFilter,
        limits: Limits,
    ) -> Result<Vec<Operation>, Refusal> {
        if wanted.sources.len() > limits.sources {
            return Err(Refusal::TooManyExcluded {
                sources: wanted.sources.len(),
                limit: limits.sources,
            });
        }
        // One that excludes already is the one to keep: beside an INCLUDE that were changed it
        // would go on to widen the intersection.
        let keep = parts
            .iter()
            .position(|(_, f)| f.mode == FilterMode::Exclude)
            .or(if parts.is_empty() { None } else { Some(0) });
        let Some(keep) = keep else {
            let mut free = self.free(limits, []);
            return Ok(vec![Operation::Join(free.next()?, wanted.clone())]);
        };
        let mut steps = Vec::new();
        if parts[keep].1 != wanted {
            steps.push(Operation::Change(parts[keep].0, wanted.clone()));
        }
        steps.extend(
            parts
                .iter()
                .enumerate()
                .filter(|(n, _)| *n != keep)
                .map(|(_, &(id, _))| Operation::Leave(id)),
        );
        Ok(steps)
    }

    fn plan_include(
        &self,
        parts: &[(SlotId, &SourceFilter)],
        wanted: &SourceFilter,
        limits: Limits,
    ) -> Result<Vec<Operation>, Refusal> {
        if limits.sources == 0 {
            return Err(Refusal::NothingAllowed("net.ipv4.igmp_max_msf"));
        }
        // Sources stay where they are.
        let mut kept: Vec<(SlotId, &SourceFilter, BTreeSet<Ipv4Addr>)> = Vec::new();
        let mut missing = wanted.sources.clone();
        for &(id, filter) in parts {
            let stays: BTreeSet<_> = match filter.mode {
                FilterMode::Include => filter.sources.intersection(&missing).copied().collect(),
                FilterMode::Exclude => BTreeSet::new(),
            };
            missing.retain(|s| !stays.contains(s));
            kept.push((id, filter, stays));
        }
        // New ones fill the sockets that have the group, then go to others.
        let mut missing = missing.into_iter();
        for (_, _, sources) in &mut kept {
            let room = limits.sources.saturating_sub(sources.len());
            sources.extend(missing.by_ref().take(room));
        }
        let missing: Vec<_> = missing.collect();
        let mut free = self.free(limits, parts.iter().map(|&(id, _)| id));
        let mut steps = Vec::new();
        for chunk in missing.chunks(limits.sources) {
            let filter = SourceFilter::include(chunk.iter().copied());
            steps.push(Operation::Join(free.next()?, filter));
        }
        // What only grows comes before what shrinks; an EXCLUDE gives way when all the rest is there.
        let mut shrinking = Vec::new();
        for (id, old, sources) in kept {
            let new = SourceFilter::include(sources);
            if *old == new {
                continue;
            }
            let grows = old.mode == FilterMode::Include && old.sources.is_subset(&new.sources);
            let step =
                if new.is_none() { Operation::Leave(id) } else { Operation::Change(id, new) };
            if grows {
                steps.push(step);
            } else {
                shrinking.push(step);
            }
        }
        // Of those, the ones that also add come first.
        shrinking.sort_by_key(|step| matches!(step, Operation::Leave(_)));
        steps.extend(shrinking);
        Ok(steps)
    }

    /// Sockets with room for another group, existing ones first.
    fn free(
        &self,
        limits: Limits,
        taken: impl IntoIterator<Item = SlotId>,
    ) -> FreeSlots<impl Iterator<Item = SlotId>> {
        let taken: Vec<SlotId> = taken.into_iter().collect();
        let existing: Vec<SlotId> = self
            .slots
            .iter()
            .filter(|(id, s)| !taken.contains(id) && s.has_room(limits))
            .map(|(&id, _)| id)
            .collect();
        let new = (0..).filter(|id| !self.slots.contains_key(id));
        FreeSlots { ids: existing.into_iter().chain(new), used: self.slots.len() }
    }

    /// Notes that an operation succeeded. A socket that holds nothing any more is forgotten:
    /// the caller closes it when this says `true`.
    pub(crate) fn apply(&mut self, group: Ipv4Addr, operation: &Operation) -> bool {
        match operation {
            Operation::Join(id, filter) | Operation::Change(id, filter) => {
                let slot = self.slots.entry(*id).or_default();
                if self.joined.insert((group, *id), filter.clone()).is_none() {
                    slot.groups += 1;
                }
                false
            }
            Operation::Leave(id) => {
                let Some(slot) = self.slots.get_mut(id) else { return false };
                if self.joined.remove(&(group, *id)).is_some() {
                    slot.groups -= 1;
                }
                slot.full_at = None;
                let empty = slot.groups == 0;
                if empty {
                    self.slots.remove(id);
                }
                empty
            }
        }
    }

    /// Notes that the kernel refused another group on this socket. `false` when it had none:
    /// then another socket would not take it either.
    pub(crate) fn refused(&mut self, id: SlotId) -> bool {
        match self.slots.get_mut(&id) {
            Some(slot) => {
                slot.full_at = Some(slot.groups);
                true
            }
            None => false,
        }
    }
}

/// Socket ids to use, until the bound.
struct FreeSlots<I> {
    ids: I,
    used: usize,
}

impl<I: Iterator<Item = SlotId>> FreeSlots<I> {
    fn next(&mut self) -> Result<SlotId, Refusal> {
        match self.ids.next() {
            Some(id) if (id as usize) < MAX_SLOTS => Ok(id),
            _ => Err(Refusal::TooManySockets(self.used)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const G: Ipv4Addr = Ipv4Addr::new(239, 1, 1, 1);
    const LIMITS: Limits = Limits { memberships: 20, sources: 3 };

    fn s(n: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, n)
    }

    fn sources(list: impl IntoIterator<Item = u8>) -> BTreeSet<Ipv4Addr> {
        list.into_iter().map(s).collect()
    }

    /// What the kernel makes of all sockets (RFC 9776 §3.2), as a set: which of the sources
    /// 0..=31, of which the last stands for all others, are received.
    fn merged(slots: &Slots) -> BTreeSet<Ipv4Addr> {
        (0..32)
            .map(s)
            .filter(|source| {
                slots
                    .parts(G)
                    .any(|(_, f)| (f.mode == FilterMode::Include) == f.sources.contains(source))
            })
            .collect()
    }

    fn received(filter: &SourceFilter) -> BTreeSet<Ipv4Addr> {
        (0..32)
            .map(s)
            .filter(|x| (filter.mode == FilterMode::Include) == filter.sources.contains(x))
            .collect()
    }

    fn run(slots: &mut Slots, wanted: &SourceFilter) -> Vec<Operation> {
        let steps = slots.plan(G, wanted, LIMITS).unwrap();
        for step in &steps {
            slots.apply(G, step);
        }
        steps
    }

    #[test]
    fn a_plain_join_and_leave() {
        let mut slots = Slots::default();
        assert_eq!(
            run(&mut slots, &SourceFilter::any()),
            [Operation::Join(0, SourceFilter::any())]
        );
        assert_eq!(run(&mut slots, &SourceFilter::any()), []);
        assert_eq!(run(&mut slots, &SourceFilter::none()), [Operation::Leave(0)]);
        assert!(slots.slots.is_empty());
    }

    #[test]
    fn filters_change_in_place() {
        let mut slots = Slots::default();
        run(&mut slots, &SourceFilter::include([s(1)]));
        let wider = SourceFilter::include([s(1), s(2)]);
        assert_eq!(run(&mut slots, &wider), [Operation::Change(0, wider.clone())]);
        let all_but = SourceFilter::exclude([s(9)]);
        assert_eq!(run(&mut slots, &all_but), [Operation::Change(0, all_but.clone())]);
        let one = SourceFilter::include([s(3)]);
        assert_eq!(run(&mut slots, &one), [Operation::Change(0, one.clone())]);
    }

    #[test]
    fn groups_are_spread_over_sockets_and_sockets_freed_when_empty() {
        let mut slots = Slots::default();
        for n in 0..45u8 {
            let group = Ipv4Addr::new(239, 2, 0, n);
            for step in slots.plan(group, &SourceFilter::any(), LIMITS).unwrap() {
                slots.apply(group, &step);
            }
        }
        assert_eq!(slots.slots.values().map(|s| s.groups).collect::<Vec<_>>(), [20, 20, 5]);
        for n in 20..40u8 {
            slots.apply(Ipv4Addr::new(239, 2, 0, n), &Operation::Leave(1));
        }
        assert_eq!(slots.slots.len(), 2);
    }

    #[test]
    fn a_socket_that_refused_is_not_asked_again_until_it_has_left_something() {
        let mut slots = Slots::default();
        run(&mut slots, &SourceFilter::any());
        assert!(slots.refused(0));
        let other = Ipv4Addr::new(239, 3, 3, 3);
        let plan = slots.plan(other, &SourceFilter::any(), LIMITS).unwrap();
        assert_eq!(plan, [Operation::Join(1, SourceFilter::any())]);
        assert!(!slots.refused(1), "a socket without a group has no other to make room");
    }

    #[test]
    fn an_include_list_beyond_the_limit_is_spread_and_an_exclude_list_refused() {
        let mut slots = Slots::default();
        let seven = SourceFilter::include((1..=7).map(s));
        let steps = run(&mut slots, &seven);
        assert_eq!(steps.len(), 3);
        assert_eq!(merged(&slots), sources(1..=7));
        let error = slots.plan(G, &SourceFilter::exclude((1..=4).map(s)), LIMITS).unwrap_err();
        assert_eq!(error, Refusal::TooManyExcluded { sources: 4, limit: 3 });
        assert!(error.to_string().contains("net.ipv4.igmp_max_msf"), "{error}");
    }

    fn filters() -> impl Strategy<Value = SourceFilter> {
        prop_oneof![
            proptest::collection::btree_set(0u8..31, 0..9)
                .prop_map(|set| SourceFilter::include(set.into_iter().map(s))),
            proptest::collection::btree_set(0u8..31, 0..=3)
                .prop_map(|set| SourceFilter::exclude(set.into_iter().map(s))),
        ]
    }

    proptest! {
        #[test]
        fn every_state_on_the_way_lies_between_the_old_and_the_new(
            wishes in proptest::collection::vec(filters(), 1..8)
        ) {
            let mut slots = Slots::default();
            let mut old = SourceFilter::none();
            for wanted in wishes {
                let (before, after) = (received(&old), received(&wanted));
                let steps = slots.plan(G, &wanted, LIMITS).unwrap();
                let first = slots.first(G, &wanted, LIMITS);
                let single = |id: SlotId| steps == [Operation::Join(id, wanted.clone())];
                prop_assert_eq!(first.is_some(), slots.slots.is_empty() && single(0));
                prop_assert!(first.is_none_or(single));
                for step in steps {
                    // The kernel's own steps in a change: the new list is added, then the old taken.
                    slots.apply(G, &step);
                    let now = merged(&slots);
                    prop_assert!(now.is_subset(&(&before | &after)), "wider on the way: {step:?}");
                    prop_assert!(now.is_superset(&(&before & &after)), "a gap on the way: {step:?}");
                }
                prop_assert_eq!(merged(&slots), after);
                prop_assert!(slots.parts(G).all(|(_, f)| f.sources.len() <= LIMITS.sources));
                old = wanted;
            }
        }
    }
}
