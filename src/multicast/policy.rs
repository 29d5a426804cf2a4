//! Who may join what: `allow`, `deny` and the limits of one attachment.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use crate::multicast::policy::data_filter::{AddressRange, DataFilter, DroppedSources};
pub use crate::multicast::policy::profile::{PROFILES, Profile};
pub use crate::multicast::policy::rule::{GroupRule, RuleError, rules};
use crate::multicast::{Address, FilterMode, SourceFilter};

mod data_filter;
mod profile;
mod rule;

/// The rules of one attachment, for both address families.
///
/// A pair of a group and a source is denied if a `deny` rule covers it. If there is any `allow`
/// rule, of whichever family, a pair that no `allow` rule covers is denied too. All other pairs
/// are allowed. A rule without a source covers all sources.
///
/// # What a rule does to a join
/// - INCLUDE keeps the sources whose pairs are allowed.
/// - EXCLUDE of a group that is allowed from any source stays EXCLUDE. Sources that a `deny` rule
///   names are added to the excluded ones.
/// - EXCLUDE of a group that is allowed from named sources only becomes INCLUDE of these sources,
///   without those that the container excludes or a `deny` rule names:
///   `allow=232.1.1.1@10.0.0.5` makes it the channel (10.0.0.5, 232.1.1.1).
/// - A source prefix (`@10.0.0.0/24`) cannot be written as a source list. An `allow` rule with a
///   prefix is for INCLUDE only. A `deny` rule with a prefix denies EXCLUDE altogether.
///
/// # Families
/// A rule says something of its own family alone, with one exception: any `allow` rule makes the
/// list of what is allowed complete, for both families. So where only groups of IPv4 are allowed,
/// all of IPv6 beyond link scope are denied: a list that was written before the container spoke
/// IPv6 stays as narrow as it was meant.
///
/// A join of which nothing is left is denied, and the reason names the rule. Data is filtered by
/// pairs too: see [`DataFilter`].
///
/// # Exceptions
/// Groups of link scope, such as PTP's 224.0.0.107 and ff02::6b, are always allowed (RFC 4541
/// §2.1.2): of IPv6 the neighbours need them. PTP's primary groups, 224.0.1.129 and ff0X::181, are
/// allowed unless a `deny` rule covers it: an `allow` rule for
/// another group does not take a container's clock away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupPolicy {
    /// Groups, or sources of groups, that are denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<GroupRule>,
    /// Groups, or sources of groups, that are allowed. Empty: all that are not denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<GroupRule>,
    /// The number of groups that the container may have joined at a time.
    pub max_groups: u32,
    /// The number of sources that it may name for one group.
    pub max_sources: u32,
    /// Joins from any source in the range of source-specific multicast are denied, as RFC 4604
    /// §2.2.1 has a router ignore them. If not, they are joined as a host's kernel joins them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ssm_strict: bool,
}

impl Default for GroupPolicy {
    fn default() -> Self {
        GroupPolicy {
            deny: Vec::new(),
            allow: Vec::new(),
            max_groups: 256,
            max_sources: 64,
            ssm_strict: false,
        }
    }
}

/// The reason of a denial where there are `allow` rules and none covers the join.
const NO_ALLOW: &str = "no allow rule names it";
/// The reason of a denial of a join from any source in the range of source-specific multicast.
const SSM_STRICT: &str = "ssm-strict=true";

impl GroupPolicy {
    /// The part of a requested filter that is allowed. See the type for what rules mean. INCLUDE
    /// of nothing, which is a leave, stays as it is.
    ///
    /// # Errors
    /// The rule that denies all of it, as people are shown it: `deny=239.1.0.0/16`.
    pub fn apply<A: Address>(
        &self,
        group: A,
        requested: &SourceFilter<A>,
    ) -> Result<SourceFilter<A>, String> {
        let filter = self.apply_rules(group, requested)?;
        match filter.mode {
            FilterMode::Exclude if self.ssm_strict && group.is_ssm() => Err(SSM_STRICT.into()),
            _ => Ok(filter),
        }
    }

    /// What `allow` and `deny` leave of a requested filter.
    fn apply_rules<A: Address>(
        &self,
        group: A,
        requested: &SourceFilter<A>,
    ) -> Result<SourceFilter<A>, String> {
        let no_rules = self.deny.is_empty() && self.allow.is_empty();
        if no_rules || requested.is_none() || group.is_link_scope() {
            return Ok(requested.clone());
        }
        match requested.mode {
            FilterMode::Include => {
                let (allowed, denied): (BTreeSet<A>, BTreeSet<A>) =
                    requested.sources.iter().partition(|s| self.check(group, **s).is_ok());
                match denied.first() {
                    Some(source) if allowed.is_empty() => {
                        Err(self.check(group, *source).err().unwrap_or_default())
                    }
                    _ => Ok(SourceFilter::include(allowed)),
                }
            }
            FilterMode::Exclude => self.apply_to_exclude(group, &requested.sources),
        }
    }

    /// Whether a join from any source of `group` is denied because of [`ssm_strict`](Self::ssm_strict)
    /// alone.
    pub fn denies_any_source<A: Address>(&self, group: A) -> bool {
        self.ssm_strict
            && self.apply(group, &SourceFilter::any()).is_err_and(|why| why == SSM_STRICT)
    }

    /// Whether an `allow` rule asks a relay to carry this group of link scope, and no `deny` rule
    /// covers it. Such groups belong to one link, and a relay connects two links: it carries only
    /// those of rules that cover nothing beyond link scope and have no source.
    pub fn relays_link_scope<A: Address>(&self, group: A) -> bool {
        let covers = |rule: &&GroupRule| {
            rule.covers_group(group)
                && A::LINK_SCOPE.contains(&rule.groups.network())
                && rule.sources.is_none()
        };
        let within = |rule: &GroupRule| A::LINK_SCOPE.contains(&rule.groups);
        self.allow.iter().filter(covers).any(within) && !self.deny.iter().any(|r| covers(&r))
    }

    /// The groups for which [`relays_link_scope`](Self::relays_link_scope) is true, as ascending
    /// ranges.
    pub fn relayed_link_scope_groups<A: Address>(&self) -> Vec<AddressRange<A>> {
        let ranges = self.group_ranges::<A>().into_iter();
        data_filter::merged(
            ranges.filter(|&(first, _)| self.relays_link_scope(A::from_number(first))),
        )
        .into_iter()
        .map(data_filter::addresses)
        .collect()
    }

    /// Whether a pair of a group and a source is allowed. Link scope has no exception here.
    ///
    /// # Errors
    /// The rule that denies it, as people are shown it: `deny=239.1.0.0/16`.
    pub fn check<A: Address>(&self, group: A, source: A) -> Result<(), String> {
        if let Some(rule) = self.deny.iter().find(|r| r.covers(group, source)) {
            return Err(format!("deny={rule}"));
        }
        if self.allows_any_source(group) || self.allow.iter().any(|r| r.covers(group, source)) {
            Ok(())
        } else {
            Err(NO_ALLOW.into())
        }
    }

    /// Whether the `allow` rules allow all sources of the group.
    fn allows_any_source<A: Address>(&self, group: A) -> bool {
        let mut covering = self.allow.iter().filter(|r| r.covers_group(group)).peekable();
        match covering.peek() {
            None => self.allow.is_empty() || A::PTP_PRIMARY.contains(&group),
            Some(_) => covering.any(|r| r.sources.is_none()),
        }
    }

    fn apply_to_exclude<A: Address>(
        &self,
        group: A,
        excluded: &BTreeSet<A>,
    ) -> Result<SourceFilter<A>, String> {
        let denying = || self.deny.iter().filter(|r| r.covers_group(group));
        if let Some(rule) = denying().find(|r| r.sources.is_none()) {
            return Err(format!("deny={rule}"));
        }
        if self.allows_any_source(group) {
            if let Some(rule) = denying().find(|r| r.single_source::<A>().is_none()) {
                return Err(format!("deny={rule}: a join from any source can't leave it out"));
            }
            let denied = denying().filter_map(GroupRule::single_source);
            return Ok(SourceFilter::exclude(excluded.iter().copied().chain(denied)));
        }
        let allowing = || self.allow.iter().filter(|r| r.covers_group(group));
        let sources: BTreeSet<A> = allowing()
            .filter_map(GroupRule::single_source)
            .filter(|s| !excluded.contains(s) && self.check(group, *s).is_ok())
            .collect();
        if !sources.is_empty() {
            return Ok(SourceFilter::include(sources));
        }
        Err(match allowing().next() {
            Some(rule) => format!("allow={rule} is for joins that name their sources"),
            None => NO_ALLOW.into(),
        })
    }
}

#[cfg(test)]
mod tests;
