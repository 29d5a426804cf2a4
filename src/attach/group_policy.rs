//! Who may join what: `allow`, `deny` and the limits of one attachment.

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// The rules of one attachment. First match wins, `deny` before `allow`; any `allow` means
/// that what no rule names is denied.
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

/// `GROUP[/PREFIX][@SOURCE[/PREFIX]]`, as in `239.1.0.0/16` or `232.1.1.1@10.0.0.5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRule {
    /// Groups the rule is about.
    pub groups: Ipv4Net,
    /// Sources it is about; any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources: Option<Ipv4Net>,
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

/// What the policy says to a join of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Join as asked.
    Allowed,
    /// Keep it off the LAN; the text names the rule, as in `deny=239.1.0.0/16`.
    Denied(String),
}

impl GroupPolicy {
    /// Judges a join of `group` from any source.
    ///
    /// 224.0.0.0/24 is always allowed: it is never pruned (RFC 4541 §2.1.2).
    pub fn judge(&self, group: Ipv4Addr) -> Verdict {
        if group.octets()[..3] == [224, 0, 0] {
            return Verdict::Allowed;
        }
        let hit = |rules: &[GroupRule]| {
            rules.iter().find(|r| r.sources.is_none() && r.groups.contains(&group)).copied()
        };
        if let Some(rule) = hit(&self.deny) {
            return Verdict::Denied(format!("deny={rule}"));
        }
        if self.allow.is_empty() || hit(&self.allow).is_some() {
            return Verdict::Allowed;
        }
        Verdict::Denied("no allow rule names it".into())
    }
}

impl std::str::FromStr for GroupRule {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let (group, source) = s.split_once('@').map_or((s, None), |(g, s)| (g, Some(s)));
        let net = |text: &str| -> Option<Ipv4Net> {
            text.parse().ok().or_else(|| text.parse::<Ipv4Addr>().ok().map(Ipv4Net::from))
        };
        let groups = net(group)
            .filter(|n| n.addr().is_multicast() && n.prefix_len() >= 4)
            .ok_or("not a group or range of groups in 224.0.0.0/4, as in 239.1.0.0/16")?
            .trunc();
        let sources = match source {
            Some(text) => Some(net(text).ok_or("not a source address behind the @")?.trunc()),
            None => None,
        };
        Ok(GroupRule { groups, sources })
    }
}
