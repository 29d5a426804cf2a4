//! Who may join what: `allow`, `deny` and the limits of one attachment.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

pub use crate::multicast::policy::reception::{AddressRange, Blocked, Reception};
use crate::multicast::{FilterMode, SourceFilter, is_link_local};

mod reception;

/// The rules of one attachment. First match wins, `deny` before `allow`; any `allow` means
/// that what no rule names is denied.
///
/// # What a rule with a source means
/// Rules judge pairs of a source and a group; a rule without a source is about all of them.
/// - A join that names its sources (INCLUDE) keeps those whose pair is let through.
/// - A join from any source (EXCLUDE) of a group that an `allow` without a source, or the
///   absence of any `allow`, lets through is kept; sources that `deny` names are added to the
///   excluded ones.
/// - A join from any source of a group that is only allowed from named sources becomes
///   INCLUDE of those, without the ones that the container excludes and those denied:
///   `allow=232.1.1.1@10.0.0.5` turns it into the channel (10.0.0.5, 232.1.1.1).
/// - A source *prefix* (`@10.0.0.0/24`) can't be written as a list. It judges joins that name
///   their sources; a join from any source that it would have to widen (`allow`) gains nothing
///   from it, and one that it would have to narrow (`deny`) is denied.
///
/// What of a join is left empty is denied, and the rule is told. Data is judged too, by its pair:
/// see [`Reception`].
///
/// # Exceptions
/// 224.0.0.0/24, with PTP's 224.0.0.107, is always allowed (RFC 4541 §2.1.2). PTP's 224.0.1.129
/// (IEEE 1588) is allowed unless a `deny` names it: an `allow` for something else does not
/// take a container's clock away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupPolicy {
    /// Groups (and sources) that are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<GroupRule>,
    /// Groups (and sources) that are let through; empty: all that is not denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<GroupRule>,
    /// Groups the container may have joined at a time.
    pub max_groups: u32,
    /// Sources it may name in one group.
    pub max_sources: u32,
}

impl Default for GroupPolicy {
    fn default() -> Self {
        GroupPolicy { deny: Vec::new(), allow: Vec::new(), max_groups: 256, max_sources: 64 }
    }
}

/// PTP over UDP/IPv4, all messages but those for peer delay (IEEE 1588 Annex C).
const PTP_PRIMARY: Ipv4Addr = Ipv4Addr::new(224, 0, 1, 129);

/// `GROUP[/PREFIX][@SOURCE[/PREFIX]]`, as in `239.1.0.0/16` or `232.1.1.1@10.0.0.5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRule {
    /// Groups the rule is about.
    pub groups: Ipv4Net,
    /// Sources it is about; any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources: Option<Ipv4Net>,
}

impl GroupRule {
    /// Whether the rule is about this pair.
    fn covers(&self, group: Ipv4Addr, source: Ipv4Addr) -> bool {
        self.groups.contains(&group) && self.sources.is_none_or(|net| net.contains(&source))
    }

    /// The single source it names, if it names one.
    fn single_source(&self) -> Option<Ipv4Addr> {
        self.sources.filter(|net| net.prefix_len() == 32).map(|net| net.addr())
    }
}

impl fmt::Display for GroupRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn net(f: &mut fmt::Formatter<'_>, n: &Ipv4Net) -> fmt::Result {
            if n.prefix_len() == 32 { write!(f, "{}", n.addr()) } else { write!(f, "{n}") }
        }
        net(f, &self.groups)?;
        if let Some(s) = &self.sources {
            f.write_str("@")?;
            net(f, s)?;
        }
        Ok(())
    }
}

/// Why a text is not a [`GroupRule`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// No address, or a bad one.
    #[error("{0:?} is not an IPv4 {1}; a rule is GROUP[/PREFIX][@SOURCE[/PREFIX]], such as {example}", example = EXAMPLE)]
    Address(String, &'static str),
    /// A prefix length that is no number from 0 to 32.
    #[error("{0:?} is not a prefix length; it is a number from 0 to 32")]
    Prefix(String),
    /// Groups outside 224.0.0.0/4.
    #[error("{0} is not within 224.0.0.0/4, where multicast groups are")]
    NotMulticast(Ipv4Net),
    /// Sources that no packet can come from.
    #[error("{0} is not a unicast source")]
    NotUnicast(Ipv4Net),
}

const EXAMPLE: &str = "239.1.0.0/16 or 232.1.1.1@10.0.0.5";

impl FromStr for GroupRule {
    type Err = RuleError;

    /// Host bits are cleared: `239.1.2.3/16` is `239.1.0.0/16`.
    fn from_str(text: &str) -> Result<Self, RuleError> {
        let (groups, sources) = match text.split_once('@') {
            Some((groups, sources)) => (groups, Some(sources)),
            None => (text, None),
        };
        let groups = net(groups, "group")?;
        if groups.prefix_len() < 4 || !groups.addr().is_multicast() {
            return Err(RuleError::NotMulticast(groups));
        }
        let sources = sources.map(|text| net(text, "source")).transpose()?;
        if let Some(net) = sources
            && (net.addr().is_multicast()
                || net.addr().is_broadcast()
                || net.prefix_len() == 32 && net.addr().is_unspecified())
        {
            return Err(RuleError::NotUnicast(net));
        }
        Ok(GroupRule { groups, sources })
    }
}

fn net(text: &str, what: &'static str) -> Result<Ipv4Net, RuleError> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: Ipv4Addr =
        address.parse().map_err(|_| RuleError::Address(address.to_owned(), what))?;
    let length = match prefix {
        None => 32,
        Some(digits) => Some(digits)
            .filter(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|d| d.parse().ok())
            .filter(|n| *n <= 32)
            .ok_or_else(|| RuleError::Prefix(digits.to_owned()))?,
    };
    let net = Ipv4Net::new(address, length).map_err(|_| RuleError::Prefix(length.to_string()))?;
    Ok(net.trunc())
}

/// Said where `allow` rules exist and none is about the join.
const NO_ALLOW: &str = "no allow rule names it";

impl GroupPolicy {
    /// What of a wish for a group is let through; see the type for what rules mean. A wish for
    /// nothing gives nothing.
    ///
    /// # Errors
    /// The rule that denies all of it, as people are shown it: `deny=239.1.0.0/16`.
    pub fn apply(&self, group: Ipv4Addr, wish: &SourceFilter) -> Result<SourceFilter, String> {
        let no_rules = self.deny.is_empty() && self.allow.is_empty();
        if no_rules || wish.is_none() || is_link_local(group) {
            return Ok(wish.clone());
        }
        match wish.mode {
            FilterMode::Include => {
                let (kept, refused): (BTreeSet<_>, BTreeSet<_>) =
                    wish.sources.iter().partition(|s| self.judge_pair(group, **s).is_ok());
                match refused.first() {
                    Some(source) if kept.is_empty() => {
                        Err(self.judge_pair(group, *source).err().unwrap_or_default())
                    }
                    _ => Ok(SourceFilter::include(kept)),
                }
            }
            FilterMode::Exclude => self.apply_any_source(group, &wish.sources),
        }
    }

    /// Whether `group` is allowed from named sources only, so that a join from any source
    /// becomes one of those.
    pub fn names_sources(&self, group: Ipv4Addr) -> bool {
        matches!(self.apply(group, &SourceFilter::any()), Ok(f) if f.mode == FilterMode::Include)
    }

    /// Whether an `allow` names this group of 224.0.0.0/24, by a rule about nothing beyond these groups. They
    /// are every link's own, and no relay carries them between two links unless it is told so.
    pub fn names_link_local(&self, group: Ipv4Addr) -> bool {
        let about = |rule: &&GroupRule| {
            rule.groups.contains(&group)
                && is_link_local(rule.groups.addr())
                && rule.sources.is_none()
        };
        let within = |rule: &GroupRule| rule.groups.prefix_len() >= 24;
        self.allow.iter().filter(about).any(within) && !self.deny.iter().any(|rule| about(&rule))
    }

    /// The groups that [`names_link_local`](Self::names_link_local) is true of, as ascending ranges.
    pub fn link_local_groups(&self) -> Vec<AddressRange> {
        let mut ranges: Vec<AddressRange> = Vec::new();
        for last in 0..=u8::MAX {
            let group = Ipv4Addr::new(224, 0, 0, last);
            if !self.names_link_local(group) {
                continue;
            }
            match ranges.last_mut() {
                Some(range) if u32::from(*range.end()) + 1 == u32::from(group) => {
                    *range = *range.start()..=group;
                }
                _ => ranges.push(group..=group),
            }
        }
        ranges
    }

    fn judge_pair(&self, group: Ipv4Addr, source: Ipv4Addr) -> Result<(), String> {
        if let Some(rule) = self.deny.iter().find(|r| r.covers(group, source)) {
            return Err(format!("deny={rule}"));
        }
        if self.allows_any_source(group) || self.allow.iter().any(|r| r.covers(group, source)) {
            Ok(())
        } else {
            Err(NO_ALLOW.into())
        }
    }

    fn allows_any_source(&self, group: Ipv4Addr) -> bool {
        let mut named = self.allow.iter().filter(|r| r.groups.contains(&group)).peekable();
        match named.peek() {
            None => self.allow.is_empty() || group == PTP_PRIMARY,
            Some(_) => named.any(|r| r.sources.is_none()),
        }
    }

    fn apply_any_source(
        &self,
        group: Ipv4Addr,
        excluded: &BTreeSet<Ipv4Addr>,
    ) -> Result<SourceFilter, String> {
        let denying = || self.deny.iter().filter(|r| r.groups.contains(&group));
        if let Some(rule) = denying().find(|r| r.sources.is_none()) {
            return Err(format!("deny={rule}"));
        }
        if self.allows_any_source(group) {
            if let Some(rule) = denying().find(|r| r.single_source().is_none()) {
                return Err(format!("deny={rule}: a join from any source can't leave it out"));
            }
            let denied = denying().filter_map(GroupRule::single_source);
            return Ok(SourceFilter::exclude(excluded.iter().copied().chain(denied)));
        }
        let rules = || self.allow.iter().filter(|r| r.groups.contains(&group));
        let sources: BTreeSet<Ipv4Addr> = rules()
            .filter_map(GroupRule::single_source)
            .filter(|s| !excluded.contains(s) && self.judge_pair(group, *s).is_ok())
            .collect();
        if !sources.is_empty() {
            return Ok(SourceFilter::include(sources));
        }
        Err(match rules().next() {
            Some(rule) => format!("allow={rule} is for joins that name their sources"),
            None => NO_ALLOW.into(),
        })
    }
}

#[cfg(test)]
mod tests;
