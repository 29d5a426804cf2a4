//! What of the data on a LAN a policy lets into a container, as a few ranges of addresses.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;

use crate::multicast::policy::{GroupPolicy, PTP_PRIMARY, is_link_local};

/// Addresses from the first to the last.
pub type AddressRange = RangeInclusive<Ipv4Addr>;

/// What a [`GroupPolicy`] keeps out of a container although its kernel has joined: a neighbour on the same
/// parent may have the group, and the parent then hands it to all.
///
/// Data is judged by its pair of source and group, as a join is that names its sources. So a pair
/// that the container may have passes also while a join from any source, which would take more,
/// is denied. The limits are not about data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reception {
    /// Groups of which not all sources pass: ascending, without overlap, and never of
    /// 224.0.0.0/24.
    pub groups: Vec<(AddressRange, Blocked)>,
    /// Lists of sources that [`Blocked::Sources`] refers to: each ascending, without overlap and not empty.
    pub sources: Vec<Vec<AddressRange>>,
}

/// What of a group is kept out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocked {
    /// All of it.
    All,
    /// What comes from the sources of the list at this position.
    Sources(usize),
}

impl Reception {
    /// Whether everything passes.
    pub fn is_unrestricted(&self) -> bool {
        self.groups.is_empty()
    }

    /// Whether a packet from `source` to `group` passes.
    pub fn passes(&self, group: Ipv4Addr, source: Ipv4Addr) -> bool {
        match self.groups.iter().find(|(range, _)| range.contains(&group)) {
            None => true,
            Some((_, Blocked::All)) => false,
            Some((_, Blocked::Sources(at))) => {
                !self.sources[*at].iter().any(|range| range.contains(&source))
            }
        }
    }
}

/// An end that is included, as numbers.
type Range = (u32, u32);

const ALL_SOURCES: Range = (0, u32::MAX);
const FIRST_GROUP: u32 = u32::from_be_bytes([224, 0, 0, 0]);
const LAST_GROUP: u32 = u32::from_be_bytes([239, 255, 255, 255]);

impl GroupPolicy {
    /// What it keeps out of the container; nothing for a policy without rules.
    ///
    /// Rules only change where a group range of one begins or ends: in between, all groups are
    /// treated alike.
    pub fn reception(&self) -> Reception {
        let mut reception = Reception::default();
        let mut lists: Vec<Vec<Range>> = Vec::new();
        let mut groups: Vec<(Range, Blocked)> = Vec::new();
        for (first, last) in self.group_ranges() {
            let group = Ipv4Addr::from(first);
            if is_link_local(group) {
                continue;
            }
            let blocked = match self.blocked_sources(group) {
                list if list.is_empty() => continue,
                list if list == [ALL_SOURCES] => Blocked::All,
                list => Blocked::Sources(match lists.iter().position(|known| *known == list) {
                    Some(position) => position,
                    None => {
                        lists.push(list);
                        lists.len() - 1
                    }
                }),
            };
            match groups.last_mut() {
                Some(((_, end), same)) if *end + 1 == first && *same == blocked => *end = last,
                _ => groups.push(((first, last), blocked)),
            }
        }
        reception.groups = groups.into_iter().map(|(r, blocked)| (addresses(r), blocked)).collect();
        reception.sources =
            lists.into_iter().map(|list| list.into_iter().map(addresses).collect()).collect();
        reception
    }

    /// All groups, cut wherever another rule may hold.
    fn group_ranges(&self) -> Vec<Range> {
        let ptp = u32::from(PTP_PRIMARY);
        let link_local_end = u32::from_be_bytes([224, 0, 1, 0]);
        let mut starts = vec![FIRST_GROUP, link_local_end, ptp, ptp + 1];
        for rule in self.deny.iter().chain(&self.allow) {
            let (first, last) = range(&rule.groups);
            starts.extend([first, last + 1]);
        }
        starts.retain(|start| *start <= LAST_GROUP);
        starts.sort_unstable();
        starts.dedup();
        let ends = starts.iter().skip(1).map(|start| start - 1).chain([LAST_GROUP]);
        starts.iter().copied().zip(ends).collect()
    }

    /// Sources from which data of the group is kept out.
    fn blocked_sources(&self, group: Ipv4Addr) -> Vec<Range> {
        let all = Some(ALL_SOURCES);
        let of = |net: &Option<Ipv4Net>| net.as_ref().map(range).or(all);
        let about_it = |rules| rules_of(rules, group).filter_map(|rule| of(&rule.sources));
        let mut blocked: Vec<Range> = about_it(&self.deny).collect();
        if !self.allows_any_source(group) {
            blocked.extend(complement(&merged(about_it(&self.allow).collect())));
        }
        merged(blocked)
    }
}

fn rules_of(
    rules: &[crate::multicast::policy::GroupRule],
    group: Ipv4Addr,
) -> impl Iterator<Item = &crate::multicast::policy::GroupRule> {
    rules.iter().filter(move |rule| rule.groups.contains(&group))
}

fn range(net: &Ipv4Net) -> Range {
    (u32::from(net.network()), u32::from(net.broadcast()))
}

fn addresses((first, last): Range) -> AddressRange {
    Ipv4Addr::from(first)..=Ipv4Addr::from(last)
}

/// Ascending and without overlap; ranges that touch become one.
fn merged(mut ranges: Vec<Range>) -> Vec<Range> {
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

/// What merged ranges leave out.
fn complement(ranges: &[Range]) -> Vec<Range> {
    let mut gaps = Vec::with_capacity(ranges.len() + 1);
    let mut next = Some(0);
    for (first, last) in ranges {
        if let Some(start) = next
            && start < *first
        {
            gaps.push((start, first - 1));
        }
        next = last.checked_add(1);
    }
    gaps.extend(next.map(|start| (start, u32::MAX)));
    gaps
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::multicast::GroupRule;

    fn policy(deny: &[&str], allow: &[&str]) -> GroupPolicy {
        let rules = |list: &[&str]| list.iter().map(|rule| rule.parse().unwrap()).collect();
        GroupPolicy { deny: rules(deny), allow: rules(allow), ..GroupPolicy::default() }
    }

    /// `FIRST-LAST` of each restricted range, with the blocked sources.
    fn shown(deny: &[&str], allow: &[&str]) -> Vec<String> {
        let reception = policy(deny, allow).reception();
        let text = |r: &AddressRange| format!("{}-{}", r.start(), r.end());
        let groups = reception.groups.iter().map(|(range, blocked)| match blocked {
            Blocked::All => text(range),
            Blocked::Sources(at) => {
                let sources: Vec<_> = reception.sources[*at].iter().map(text).collect();
                format!("{} from {}", text(range), sources.join(" "))
            }
        });
        groups.collect()
    }

    #[test]
    fn without_rules_everything_passes() {
        assert!(policy(&[], &[]).reception().is_unrestricted());
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

    /// Few groups and sources, so that rules meet.
    fn rule() -> impl Strategy<Value = GroupRule> {
        let group = (prop_oneof![Just(24u8), Just(30), Just(32), Just(4)], 0u8..8, any::<bool>());
        let source = proptest::option::of((prop_oneof![Just(0u8), Just(30), Just(32)], 0u8..8));
        (group, source).prop_map(|((length, host, ptp), source)| {
            let group = if ptp { [224, 0, 1, 126 + host] } else { [224, 0, 0, host] };
            let net = |address: [u8; 4], length| {
                Ipv4Net::new(address.into(), length).expect("a length up to 32").trunc()
            };
            GroupRule {
                groups: net(group, length),
                sources: source.map(|(length, host)| net([10, 0, 0, host], length)),
            }
        })
    }

    proptest! {
        #[test]
        fn data_passes_exactly_where_a_join_that_names_its_source_is_allowed(
            deny in proptest::collection::vec(rule(), 0..4),
            allow in proptest::collection::vec(rule(), 0..4),
        ) {
            let policy = GroupPolicy { deny, allow, ..GroupPolicy::default() };
            let reception = policy.reception();
            for pair in reception.groups.windows(2) {
                prop_assert!(pair[0].0.end() < pair[1].0.start());
            }
            let groups = (0..=255u8).flat_map(|n| [[224, 0, 1, n], [224, 0, 0, n]]);
            for group in groups.chain([[239, 255, 255, 255], [225, 0, 0, 0]]) {
                for source in (0..10u8).map(|n| [10, 0, 0, n]).chain([[0; 4], [255; 4]]) {
                    let (group, source) = (group.into(), source.into());
                    let wish = crate::multicast::SourceFilter::include([source]);
                    prop_assert_eq!(
                        reception.passes(group, source),
                        policy.apply(group, &wish).is_ok(),
                        "{} {}", group, source
                    );
                }
            }
        }
    }
}
