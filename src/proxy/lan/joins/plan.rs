//! Which socket joins what: a model of the kernel's state, and the steps that change it. Nothing
//! here does a system call.
//!
//! The kernel merges the filters of all sockets of the host (RFC 9776 §3.2, RFC 9777 §4.2): with
//! any EXCLUDE the result is EXCLUDE of the intersection of the EXCLUDE lists minus the union of
//! the INCLUDE lists, else it is INCLUDE of the union. So an INCLUDE list may be spread over
//! several sockets, and an EXCLUDE list must be on one.
//!
//! Steps come in such an order that the merged filter after each step lies between the old and
//! the new one: sources are added first and removed later, and a source never moves from one
//! socket to another.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::net::IpAddr;

use crate::multicast::{Address, FilterMode, SourceFilter};

/// Number of a socket among those of one [`JoinSockets`](super::JoinSockets).
pub(crate) type SocketId = u32;

/// What the host's kernel allows one socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Groups.
    pub(crate) memberships: usize,
    /// Sources in the filter of a group.
    pub(crate) sources: usize,
}

/// What bounds the memberships of a socket, by address family, for messages.
pub(crate) struct LimitNames {
    /// The sysctl of [`Limits::memberships`].
    pub(crate) memberships: &'static str,
    /// The sysctl of [`Limits::sources`].
    pub(crate) sources: &'static str,
}

/// The names for the address family `A`. The kernel counts no IPv6 memberships; the memory of a
/// socket's options bounds them.
pub(crate) fn limit_names<A: Address>() -> LimitNames {
    match A::UNSPECIFIED.into() {
        IpAddr::V4(_) => LimitNames {
            memberships: "net.ipv4.igmp_max_memberships",
            sources: "net.ipv4.igmp_max_msf",
        },
        IpAddr::V6(_) => {
            LimitNames { memberships: "net.core.optmem_max", sources: "net.ipv6.mld_max_msf" }
        }
    }
}

impl Limits {
    /// The kernel's own defaults (net/ipv4/igmp.c, net/ipv6/mcast.c). Memberships of IPv6 are not
    /// counted.
    pub(crate) fn of_kernel<A: Address>() -> Self {
        match A::UNSPECIFIED.into() {
            IpAddr::V4(_) => Limits { memberships: 20, sources: 10 },
            IpAddr::V6(_) => Limits { memberships: usize::MAX, sources: 64 },
        }
    }
}

/// A step towards a wanted filter; each is about one group on one socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step<A> {
    /// A first join with this filter, which is not `INCLUDE({})`. The socket is opened if there
    /// is none of this number.
    Join(SocketId, SourceFilter<A>),
    /// Another filter, which is not `INCLUDE({})`, in place.
    Change(SocketId, SourceFilter<A>),
    /// The end of the membership.
    Leave(SocketId),
}

/// Why no steps lead to a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlanError {
    /// An EXCLUDE list cannot be spread over sockets.
    #[error("excludes {sources} sources, one socket takes {limit}; raise {sysctl} on the host")]
    TooManyExcluded {
        /// Sources in the list.
        sources: usize,
        /// The value of the sysctl.
        limit: usize,
        /// The sysctl.
        sysctl: &'static str,
    },
    /// A limit of zero: nothing can be joined at all.
    #[error("{0} is 0 on the host; raise it")]
    LimitIsZero(&'static str),
    /// More sockets than a proxy may have.
    #[error("{sockets} sockets are in use already; raise {sysctl} on the host")]
    TooManySockets {
        /// Sockets that have joined something.
        sockets: usize,
        /// The sysctl that would let each of them take more.
        sysctl: &'static str,
    },
}

/// The most sockets that one interface of a container may need: below the usual limit of 1024
/// descriptors.
pub(crate) const MAX_SOCKETS: usize = 256;

/// Which socket has joined what: a model of the kernel's state, changed as steps succeed.
#[derive(Debug, Clone)]
pub(crate) struct Memberships<A> {
    sockets: BTreeMap<SocketId, SocketLoad>,
    /// By group first: a container may have many groups, and few sockets for each.
    filters: BTreeMap<(A, SocketId), SourceFilter<A>>,
}

#[derive(Debug, Default, Clone)]
struct SocketLoad {
    /// Number of groups that it has joined.
    groups: usize,
    /// The kernel refused another group when it had so many.
    full_at: Option<usize>,
}

impl SocketLoad {
    fn has_room(&self, limits: Limits) -> bool {
        self.groups < self.full_at.unwrap_or(usize::MAX).min(limits.memberships)
    }
}

impl<A> Default for Memberships<A> {
    fn default() -> Self {
        Memberships { sockets: BTreeMap::new(), filters: BTreeMap::new() }
    }
}

impl<A: Address> Memberships<A> {
    /// Whether any socket has joined the group.
    pub(crate) fn is_joined(&self, group: A) -> bool {
        self.filters_of(group).next().is_some()
    }

    /// The filter on each socket that has joined the group.
    fn filters_of(&self, group: A) -> impl Iterator<Item = (SocketId, &SourceFilter<A>)> {
        let all = (group, SocketId::MIN)..=(group, SocketId::MAX);
        self.filters.range(all).map(|((_, id), filter)| (*id, filter))
    }

    /// The socket for the join of a group that no socket has joined, if a single step is enough.
    pub(crate) fn plan_single_join(
        &self,
        group: A,
        wanted: &SourceFilter<A>,
        limits: Limits,
    ) -> Option<SocketId> {
        let fits = limits.memberships > 0 && wanted.sources.len() <= limits.sources;
        (fits && !wanted.is_none() && !self.is_joined(group))
            .then(|| self.with_room(limits, []).next().ok())?
    }

    /// The steps that turn the filters of `group` into `wanted`; none if they are so already.
    ///
    /// # Errors
    /// When the limits do not allow it. What is joined stays then.
    pub(crate) fn plan(
        &self,
        group: A,
        wanted: &SourceFilter<A>,
        limits: Limits,
    ) -> Result<Vec<Step<A>>, PlanError> {
        let joined: Vec<(SocketId, &SourceFilter<A>)> = self.filters_of(group).collect();
        if wanted.is_none() {
            return Ok(joined.iter().map(|&(id, _)| Step::Leave(id)).collect());
        }
        if limits.memberships == 0 {
            return Err(PlanError::LimitIsZero(limit_names::<A>().memberships));
        }
        match wanted.mode {
            FilterMode::Exclude => self.plan_exclude(&joined, wanted, limits),
            FilterMode::Include => self.plan_include(&joined, wanted, limits),
        }
    }

    fn plan_exclude(
        &self,
        joined: &[(SocketId, &SourceFilter<A>)],
        wanted: &SourceFilter<A>,
        limits: Limits,
    ) -> Result<Vec<Step<A>>, PlanError> {
        if wanted.sources.len() > limits.sources {
            return Err(PlanError::TooManyExcluded {
                sources: wanted.sources.len(),
                limit: limits.sources,
                sysctl: limit_names::<A>().sources,
            });
        }
        // A socket that excludes already is the one to keep. If an INCLUDE beside it were changed
        // to EXCLUDE instead, the merged filter would be too wide until the old one is left.
        let excluding = joined.iter().position(|(_, f)| f.mode == FilterMode::Exclude);
        let Some(keep) = excluding.or((!joined.is_empty()).then_some(0)) else {
            return Ok(vec![Step::Join(self.with_room(limits, []).next()?, wanted.clone())]);
        };
        let mut steps = Vec::new();
        if joined[keep].1 != wanted {
            steps.push(Step::Change(joined[keep].0, wanted.clone()));
        }
        let others = joined.iter().enumerate().filter(|(position, _)| *position != keep);
        steps.extend(others.map(|(_, &(id, _))| Step::Leave(id)));
        Ok(steps)
    }

    fn plan_include(
        &self,
        joined: &[(SocketId, &SourceFilter<A>)],
        wanted: &SourceFilter<A>,
        limits: Limits,
    ) -> Result<Vec<Step<A>>, PlanError> {
        if limits.sources == 0 {
            return Err(PlanError::LimitIsZero(limit_names::<A>().sources));
        }
        // Sources stay on their sockets.
        let mut kept: Vec<(SocketId, &SourceFilter<A>, BTreeSet<A>)> = Vec::new();
        let mut missing = wanted.sources.clone();
        for &(id, filter) in joined {
            let stays: BTreeSet<A> = match filter.mode {
                FilterMode::Include => filter.sources.intersection(&missing).copied().collect(),
                FilterMode::Exclude => BTreeSet::new(),
            };
            missing.retain(|source| !stays.contains(source));
            kept.push((id, filter, stays));
        }
        // New sources fill the sockets that have joined the group, then go to others.
        let mut missing = missing.into_iter();
        for (_, _, sources) in &mut kept {
            let room = limits.sources.saturating_sub(sources.len());
            sources.extend(missing.by_ref().take(room));
        }
        let missing: Vec<_> = missing.collect();
        let mut with_room = self.with_room(limits, joined.iter().map(|&(id, _)| id));
        let mut steps = Vec::new();
        for chunk in missing.chunks(limits.sources) {
            let filter = SourceFilter::include(chunk.iter().copied());
            steps.push(Step::Join(with_room.next()?, filter));
        }
        // Filters that only grow come first. An EXCLUDE is replaced when all sources are there.
        let mut shrinking = Vec::new();
        for (id, old, sources) in kept {
            let new = SourceFilter::include(sources);
            if *old == new {
                continue;
            }
            let grows = old.mode == FilterMode::Include && old.sources.is_subset(&new.sources);
            let step = if new.is_none() { Step::Leave(id) } else { Step::Change(id, new) };
            if grows {
                steps.push(step);
            } else {
                shrinking.push(step);
            }
        }
        // A change may add sources too, so that it comes before a leave.
        shrinking.sort_by_key(|step| matches!(step, Step::Leave(_)));
        steps.extend(shrinking);
        Ok(steps)
    }

    /// Sockets with room for another group, existing ones first.
    fn with_room(
        &self,
        limits: Limits,
        taken: impl IntoIterator<Item = SocketId>,
    ) -> WithRoom<A, impl Iterator<Item = SocketId>> {
        let taken: Vec<SocketId> = taken.into_iter().collect();
        let existing: Vec<SocketId> = self
            .sockets
            .iter()
            .filter(|(id, load)| !taken.contains(id) && load.has_room(limits))
            .map(|(&id, _)| id)
            .collect();
        let new = (0..).filter(|id| !self.sockets.contains_key(id));
        WithRoom {
            ids: existing.into_iter().chain(new),
            used: self.sockets.len(),
            family: PhantomData,
        }
    }

    /// Notes that a step succeeded. `true`: the socket holds no membership any more and is
    /// forgotten, so that the caller may close it.
    pub(crate) fn apply(&mut self, group: A, step: &Step<A>) -> bool {
        match step {
            Step::Join(id, filter) | Step::Change(id, filter) => {
                let load = self.sockets.entry(*id).or_default();
                if self.filters.insert((group, *id), filter.clone()).is_none() {
                    load.groups += 1;
                }
                false
            }
            Step::Leave(id) => {
                let Some(load) = self.sockets.get_mut(id) else { return false };
                if self.filters.remove(&(group, *id)).is_some() {
                    load.groups -= 1;
                }
                load.full_at = None;
                let empty = load.groups == 0;
                if empty {
                    self.sockets.remove(id);
                }
                empty
            }
        }
    }

    /// The leaves that end all memberships.
    pub(crate) fn leave_all(&self) -> Vec<(A, Step<A>)> {
        self.filters.keys().map(|(group, id)| (*group, Step::Leave(*id))).collect()
    }

    /// Notes that the kernel refused another group on this socket. `false` if the socket has
    /// joined none: then another socket would not take the group either.
    pub(crate) fn mark_full(&mut self, id: SocketId) -> bool {
        match self.sockets.get_mut(&id) {
            Some(load) => {
                load.full_at = Some(load.groups);
                true
            }
            None => false,
        }
    }
}

/// Numbers of sockets with room for another group, until [`MAX_SOCKETS`].
struct WithRoom<A, I> {
    ids: I,
    used: usize,
    family: PhantomData<A>,
}

impl<A: Address, I: Iterator<Item = SocketId>> WithRoom<A, I> {
    fn next(&mut self) -> Result<SocketId, PlanError> {
        match self.ids.next() {
            Some(id) if (id as usize) < MAX_SOCKETS => Ok(id),
            _ => Err(PlanError::TooManySockets {
                sockets: self.used,
                sysctl: limit_names::<A>().memberships,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { memberships: 20, sources: 3 };

    /// A group behind the first group of all scopes that are wider than the link.
    fn group<A: Address>(n: u8) -> A {
        A::from_number(A::PTP_PRIMARY[0].to_number() + u128::from(n))
    }

    fn s<A: Address>(n: u8) -> A {
        A::from_number(A::DOCUMENTATION.to_number() + u128::from(n))
    }

    fn sources<A: Address>(list: impl IntoIterator<Item = u8>) -> BTreeSet<A> {
        list.into_iter().map(s).collect()
    }

    /// What the kernel makes of all sockets (RFC 9776 §3.2), as a set: which of the sources
    /// 0..=31, of which the last stands for all others, are received.
    fn merged<A: Address>(memberships: &Memberships<A>) -> BTreeSet<A> {
        (0..32)
            .map(s)
            .filter(|source| {
                memberships
                    .filters_of(group(0))
                    .any(|(_, f)| (f.mode == FilterMode::Include) == f.sources.contains(source))
            })
            .collect()
    }

    fn received<A: Address>(filter: &SourceFilter<A>) -> BTreeSet<A> {
        (0..32)
            .map(s)
            .filter(|x| (filter.mode == FilterMode::Include) == filter.sources.contains(x))
            .collect()
    }

    fn run<A: Address>(memberships: &mut Memberships<A>, wanted: &SourceFilter<A>) -> Vec<Step<A>> {
        let steps = memberships.plan(group(0), wanted, LIMITS).unwrap();
        for step in &steps {
            memberships.apply(group(0), step);
        }
        steps
    }

    fn a_plain_join_and_leave_of<A: Address>() {
        let mut memberships = Memberships::<A>::default();
        let join = Step::Join(0, SourceFilter::any());
        assert_eq!(run(&mut memberships, &SourceFilter::any()), [join]);
        assert_eq!(run(&mut memberships, &SourceFilter::any()), []);
        assert_eq!(run(&mut memberships, &SourceFilter::none()), [Step::Leave(0)]);
        assert!(memberships.sockets.is_empty());
    }

    #[test]
    fn a_plain_join_and_leave() {
        a_plain_join_and_leave_of::<Ipv4Addr>();
        a_plain_join_and_leave_of::<Ipv6Addr>();
    }

    fn filters_change_in_place_of<A: Address>() {
        let mut memberships = Memberships::<A>::default();
        run(&mut memberships, &SourceFilter::include([s(1)]));
        for wanted in [
            SourceFilter::include([s(1), s(2)]),
            SourceFilter::exclude([s(9)]),
            SourceFilter::include([s(3)]),
        ] {
            assert_eq!(run(&mut memberships, &wanted), [Step::Change(0, wanted.clone())]);
        }
    }

    #[test]
    fn filters_change_in_place() {
        filters_change_in_place_of::<Ipv4Addr>();
        filters_change_in_place_of::<Ipv6Addr>();
    }

    #[test]
    fn groups_are_spread_over_sockets_and_sockets_freed_when_empty() {
        let mut memberships = Memberships::<Ipv4Addr>::default();
        for n in 0..45u8 {
            for step in memberships.plan(group(n), &SourceFilter::any(), LIMITS).unwrap() {
                memberships.apply(group(n), &step);
            }
        }
        let loads: Vec<_> = memberships.sockets.values().map(|load| load.groups).collect();
        assert_eq!(loads, [20, 20, 5]);
        for n in 20..40u8 {
            memberships.apply(group(n), &Step::Leave(1));
        }
        assert_eq!(memberships.sockets.len(), 2);
    }

    #[test]
    fn a_socket_that_refused_is_not_asked_again_until_it_has_left_something() {
        let mut memberships = Memberships::<Ipv4Addr>::default();
        run(&mut memberships, &SourceFilter::any());
        assert!(memberships.mark_full(0));
        let plan = memberships.plan(group(3), &SourceFilter::any(), LIMITS).unwrap();
        assert_eq!(plan, [Step::Join(1, SourceFilter::any())]);
        assert!(!memberships.mark_full(1), "a socket without a group has no other to make room");
    }

    fn an_include_list_is_spread_and_an_exclude_list_refused<A: Address>(sysctl: &str) {
        let mut memberships = Memberships::<A>::default();
        let seven = SourceFilter::include((1..=7).map(s));
        let steps = run(&mut memberships, &seven);
        assert_eq!(steps.len(), 3);
        assert_eq!(merged(&memberships), sources(1..=7));
        let four = SourceFilter::exclude((1..=4).map(s));
        let error = memberships.plan(group(0), &four, LIMITS).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("excludes 4 sources, one socket takes 3; raise {sysctl} on the host")
        );
    }

    #[test]
    fn an_include_list_beyond_the_limit_is_spread_and_an_exclude_list_refused() {
        an_include_list_is_spread_and_an_exclude_list_refused::<Ipv4Addr>("net.ipv4.igmp_max_msf");
        an_include_list_is_spread_and_an_exclude_list_refused::<Ipv6Addr>("net.ipv6.mld_max_msf");
    }

    fn filters<A: Address>() -> impl Strategy<Value = SourceFilter<A>> {
        prop_oneof![
            proptest::collection::btree_set(0u8..31, 0..9)
                .prop_map(|set| SourceFilter::include(set.into_iter().map(s))),
            proptest::collection::btree_set(0u8..31, 0..=3)
                .prop_map(|set| SourceFilter::exclude(set.into_iter().map(s))),
        ]
    }

    fn every_state_lies_between_the_old_and_the_new<A: Address>(filters: Vec<SourceFilter<A>>) {
        let mut memberships = Memberships::default();
        let mut old = SourceFilter::none();
        for wanted in filters {
            let (before, after) = (received(&old), received(&wanted));
            let steps = memberships.plan(group(0), &wanted, LIMITS).unwrap();
            let single = memberships.plan_single_join(group(0), &wanted, LIMITS);
            let is_single = |id: SocketId| steps == [Step::Join(id, wanted.clone())];
            assert_eq!(single.is_some(), memberships.sockets.is_empty() && is_single(0));
            assert!(single.is_none_or(is_single));
            for step in steps {
                // The kernel's own steps in a change: the new list is added, then the old removed.
                memberships.apply(group(0), &step);
                let now = merged(&memberships);
                assert!(now.is_subset(&(&before | &after)), "wider on the way: {step:?}");
                assert!(now.is_superset(&(&before & &after)), "a gap on the way: {step:?}");
            }
            assert_eq!(merged(&memberships), after);
            let within = |f: &SourceFilter<A>| f.sources.len() <= LIMITS.sources;
            assert!(memberships.filters_of(group(0)).all(|(_, f)| within(f)));
            old = wanted;
        }
    }

    proptest! {
        #[test]
        fn every_state_on_the_way_lies_between_the_old_and_the_new(
            v4 in proptest::collection::vec(filters::<Ipv4Addr>(), 1..8),
            v6 in proptest::collection::vec(filters::<Ipv6Addr>(), 1..8),
        ) {
            every_state_lies_between_the_old_and_the_new(v4);
            every_state_lies_between_the_old_and_the_new(v6);
        }
    }
}
