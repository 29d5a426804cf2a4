//! What a policy lets into a container of the data on its LAN, as a few ranges of addresses.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::multicast::Address;
use crate::multicast::policy::{GroupPolicy, GroupRule};

/// Addresses from the first to the last, both included.
pub type AddressRange<A = Ipv4Addr> = RangeInclusive<A>;

/// The data that a [`GroupPolicy`] drops although the parent delivers it to the container: a
/// neighbour on the same parent may have joined the group, and the parent delivers it to all.
///
/// Data is filtered by its pair of group and source, as a join that names its sources is. So a
/// pair that is allowed passes also while a join from any source, which would receive more, is
/// denied. `max_groups` and `max_sources` do not apply to data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFilter<A = Ipv4Addr> {
    /// Groups of which some sources are dropped: ascending, without overlap, and never of link
    /// scope.
    pub groups: Vec<(AddressRange<A>, DroppedSources)>,
    /// The lists of [`DroppedSources::List`]: each is ascending, without overlap and not empty.
    pub source_lists: Vec<Vec<AddressRange<A>>>,
}

/// The sources of a group whose data is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DroppedSources {
    /// All sources.
    All,
    /// The sources in [`DataFilter::source_lists`] at this position.
    List(usize),
}

impl<A: Address> DataFilter<A> {
    /// Whether nothing is dropped.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Whether a packet from `source` to `group` passes.
    pub fn passes(&self, group: A, source: A) -> bool {
        let next = self.groups.partition_point(|(range, _)| *range.end() < group);
        match self.groups.get(next).filter(|(range, _)| range.contains(&group)) {
            None => true,
            Some((_, DroppedSources::All)) => false,
            Some((_, DroppedSources::List(position))) => {
                let list = &self.source_lists[*position];
                let next = list.partition_point(|range| *range.end() < source);
                !list.get(next).is_some_and(|range| range.contains(&source))
            }
        }
    }
}

/// The numbers of the first and the last address.
type Range = (u128, u128);

impl GroupPolicy {
    /// The data filter for the groups of one address family. It is empty for a policy without
    /// rules.
    ///
    /// The result differs only where the group range of a rule begins or ends: between two such
    /// addresses, all groups are treated alike.
    pub fn data_filter<A: Address>(&self) -> DataFilter<A> {
        let mut lists: Vec<Vec<Range>> = Vec::new();
        let mut groups: Vec<(Range, DroppedSources)> = Vec::new();
        for (first, last) in self.group_ranges::<A>() {
            let group = A::from_number(first);
            if group.is_link_scope() {
                continue;
            }
            let dropped = match self.dropped_sources(group) {
                list if list.is_empty() => continue,
                list if list == [all_sources::<A>()] => DroppedSources::All,
                list => DroppedSources::List(match lists.iter().position(|known| *known == list) {
                    Some(position) => position,
                    None => {
                        lists.push(list);
                        lists.len() - 1
                    }
                }),
            };
            match groups.last_mut() {
                Some(((_, end), same)) if *end + 1 == first && *same == dropped => *end = last,
                _ => groups.push(((first, last), dropped)),
            }
        }
        DataFilter {
            groups: groups
                .into_iter()
                .map(|(range, dropped)| (addresses(range), dropped))
                .collect(),
            source_lists: lists
                .into_iter()
                .map(|list| list.into_iter().map(addresses).collect())
                .collect(),
        }
    }

    /// All groups of an address family, split wherever another rule may apply.
    pub(super) fn group_ranges<A: Address>(&self) -> Vec<Range> {
        let (first_group, last_group) = range::<A>(&A::GROUPS).unwrap_or_default();
        let special = A::PTP_PRIMARY.iter().map(|group| (group.to_number(), group.to_number()));
        let rules = self.deny.iter().chain(&self.allow);
        let covered = rules.filter_map(|rule| range::<A>(&rule.groups));
        let mut starts = vec![first_group];
        for (first, last) in special.chain(range::<A>(&A::LINK_SCOPE)).chain(covered) {
            // Behind the last group nothing starts.
            starts.extend([Some(first), last.checked_add(1)].into_iter().flatten());
        }
        starts.retain(|start| (first_group..=last_group).contains(start));
        starts.sort_unstable();
        starts.dedup();
        let ends = starts.iter().skip(1).map(|start| start - 1).chain([last_group]);
        starts.iter().copied().zip(ends).collect()
    }

    /// The sources whose data to the group is dropped.
    fn dropped_sources<A: Address>(&self, group: A) -> Vec<Range> {
        let sources = |rule: &GroupRule| match &rule.sources {
            Some(net) => range::<A>(net),
            None => Some(all_sources::<A>()),
        };
        let covering = |rules: &[GroupRule]| -> Vec<Range> {
            rules.iter().filter(|rule| rule.covers_group(group)).filter_map(sources).collect()
        };
        let mut dropped = covering(&self.deny);
        if !self.allows_any_source(group) {
            dropped.extend(complement::<A>(&merged(covering(&self.allow))));
        }
        merged(dropped)
    }
}

fn all_sources<A: Address>() -> Range {
    (0, A::LARGEST.to_number())
}

/// The range of a network; `None` for a network of the other address family.
fn range<A: Address>(net: &IpNet) -> Option<Range> {
    Some((A::from_ip(net.network())?.to_number(), A::from_ip(net.broadcast())?.to_number()))
}

pub(super) fn addresses<A: Address>((first, last): Range) -> AddressRange<A> {
    A::from_number(first)..=A::from_number(last)
}

/// The ranges in ascending order and without overlap. Ranges that touch become one.
pub(super) fn merged(ranges: impl IntoIterator<Item = Range>) -> Vec<Range> {
    let mut ranges: Vec<Range> = ranges.into_iter().collect();
    ranges.sort_unstable();
    let mut merged: Vec<Range> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    merged
}

/// The addresses that merged ranges leave out.
fn complement<A: Address>(ranges: &[Range]) -> Vec<Range> {
    let last_address = A::LARGEST.to_number();
    let mut gaps = Vec::with_capacity(ranges.len() + 1);
    let mut next = Some(0);
    for (first, last) in ranges {
        if let Some(start) = next
            && start < *first
        {
            gaps.push((start, first - 1));
        }
        next = last.checked_add(1).filter(|next| *next <= last_address);
    }
    gaps.extend(next.map(|start| (start, last_address)));
    gaps
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::multicast::SourceFilter;

    fn policy(deny: &[&str], allow: &[&str]) -> GroupPolicy {
        let rules = |list: &[&str]| list.iter().map(|rule| rule.parse().unwrap()).collect();
        GroupPolicy { deny: rules(deny), allow: rules(allow), ..GroupPolicy::default() }
    }

    /// `FIRST-LAST` of each restricted range, with the blocked sources.
    fn shown(deny: &[&str], allow: &[&str]) -> Vec<String> {
        let filter = policy(deny, allow).data_filter::<Ipv4Addr>();
        let text = |r: &AddressRange| format!("{}-{}", r.start(), r.end());
        let groups = filter.groups.iter().map(|(range, dropped)| match dropped {
            DroppedSources::All => text(range),
            DroppedSources::List(at) => {
                let sources: Vec<_> = filter.source_lists[*at].iter().map(text).collect();
                format!("{} from {}", text(range), sources.join(" "))
            }
        });
        groups.collect()
    }

    #[test]
    fn without_rules_everything_passes() {
        assert!(policy(&[], &[]).data_filter::<Ipv4Addr>().is_empty());
        assert_eq!(shown(&[], &["224.0.0.0/4"]), [""; 0]);
        assert_eq!(shown(&["224.0.0.0/24"], &[]), [""; 0], "224.0.0.0/24 is never kept out");
    }

    #[test]
    fn a_deny_keeps_out_what_it_names() {
        assert_eq!(
            shown(&["239.1.0.0/16", "239.2.0.0/16", "239.9.9.9", "239.1.1.1"], &[]),
            ["239.1.0.0-239.2.255.255", "239.9.9.9-239.9.9.9"],
            "ranges that touch are one"
        );
        assert_eq!(
            shown(&["239.1.1.1@10.0.0.5"], &[]),
            ["239.1.1.1-239.1.1.1 from 10.0.0.5-10.0.0.5"]
        );
    }

    #[test]
    fn an_allow_keeps_out_the_rest_but_ptp() {
        assert_eq!(
            shown(&[], &["239.1.0.0/16"]),
            ["224.0.1.0-224.0.1.128", "224.0.1.130-239.0.255.255", "239.2.0.0-239.255.255.255"]
        );
        assert_eq!(
            shown(&["224.0.1.129"], &["239.0.0.0/8"]),
            ["224.0.1.0-238.255.255.255"],
            "a deny that names PTP holds"
        );
    }

    #[test]
    fn an_allow_of_named_sources_keeps_out_the_others() {
        let shown = shown(&["232.1.1.1@10.0.0.7"], &["224.0.0.0/4", "232.1.1.2@10.0.0.0/24"]);
        assert_eq!(shown, ["232.1.1.1-232.1.1.1 from 10.0.0.7-10.0.0.7"], "the wider allow holds");
        let shown = self::shown(&[], &["232.1.1.1@10.0.0.5", "232.1.1.1@10.0.0.6"]);
        assert!(
            shown.contains(
                &"232.1.1.1-232.1.1.1 from 0.0.0.0-10.0.0.4 10.0.0.7-255.255.255.255".to_owned()
            ),
            "{shown:?}"
        );
    }

    /// Few groups and sources, so that rules meet. Prefix lengths count from the end.
    fn rule<A: Address>() -> impl Strategy<Value = GroupRule> {
        let group = (prop_oneof![Just(8u8), Just(2), Just(0), Just(28)], 0u8..8, any::<bool>());
        let source = proptest::option::of((prop_oneof![Just(32u8), Just(2), Just(0)], 0u8..8));
        (group, source).prop_map(|((host_bits, host, ptp), source)| {
            let group = if ptp { near_ptp::<A>(i16::from(host) - 3) } else { link_scope(host) };
            let net = |address: A, host_bits| {
                let address: IpAddr = address.into();
                let net = IpNet::from(address);
                IpNet::new(address, net.max_prefix_len() - host_bits).unwrap().trunc()
            };
            // The widest is all groups.
            let groups = if host_bits == 28 { A::GROUPS } else { net(group, host_bits) };
            GroupRule {
                groups,
                sources: source.map(|(host_bits, host)| net(self::source(host), host_bits)),
            }
        })
    }

    fn link_scope<A: Address>(last: u8) -> A {
        A::from_number(A::ALL_SYSTEMS.to_number() - 1 + u128::from(last))
    }

    fn near_ptp<A: Address>(distance: i16) -> A {
        let number = A::PTP_PRIMARY[0].to_number().checked_add_signed(distance.into());
        A::from_number(number.unwrap())
    }

    fn source<A: Address>(last: u8) -> A {
        A::from_number((A::DOCUMENTATION.to_number() & !0xff) + u128::from(last))
    }

    fn data_passes_where_a_join_that_names_its_source_is_allowed<A: Address>(policy: &GroupPolicy) {
        let filter = policy.data_filter::<A>();
        for pair in filter.groups.windows(2) {
            assert!(pair[0].0.end() < pair[1].0.start());
        }
        let (first, last) = range::<A>(&A::GROUPS).unwrap();
        // All groups near which a rule begins or ends.
        let ptp = (-130..=-128).chain(-5..=6).chain(125..=128).map(near_ptp);
        let link_scope = (0..=10).chain([255]).map(link_scope);
        let groups = ptp.chain(link_scope).chain([first, last].map(A::from_number));
        let sources = (0..10).map(source).chain([A::UNSPECIFIED, A::LARGEST]);
        for group in groups {
            for source in sources.clone() {
                assert_eq!(
                    filter.passes(group, source),
                    policy.apply(group, &SourceFilter::include([source])).is_ok(),
                    "{group} {source} {policy:?}"
                );
            }
        }
        for range in policy.relayed_link_scope_groups::<A>() {
            assert!(policy.relays_link_scope(*range.start()));
            assert!(policy.relays_link_scope(*range.end()));
        }
        let relayed = policy.relayed_link_scope_groups::<A>();
        for group in (0..=255).map(self::link_scope::<A>) {
            let listed = relayed.iter().any(|range| range.contains(&group));
            assert_eq!(listed, policy.relays_link_scope(group), "{group} {policy:?}");
        }
    }

    fn policies<A: Address>() -> impl Strategy<Value = GroupPolicy> {
        let rules = || proptest::collection::vec(rule::<A>(), 0..4);
        (rules(), rules()).prop_map(|(deny, allow)| GroupPolicy {
            deny,
            allow,
            ..GroupPolicy::default()
        })
    }

    proptest! {
        #[test]
        fn data_and_joins_are_treated_alike(
            v4 in policies::<Ipv4Addr>(),
            v6 in policies::<Ipv6Addr>(),
        ) {
            data_passes_where_a_join_that_names_its_source_is_allowed::<Ipv4Addr>(&v4);
            data_passes_where_a_join_that_names_its_source_is_allowed::<Ipv6Addr>(&v6);
            // Rules of the other family cover nothing.
            data_passes_where_a_join_that_names_its_source_is_allowed::<Ipv4Addr>(&v6);
        }
    }
}
