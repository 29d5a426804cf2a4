//! One rule about groups, and how it is written.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::multicast::Address;
use crate::multicast::policy::profile::PROFILES;

/// `GROUP[/PREFIX][@SOURCE[/PREFIX]]`, as in `239.1.0.0/16`, `232.1.1.1@10.0.0.5` or
/// `ff3e::8000:1@2001:db8::5`.
///
/// Groups and sources are of one address family, and the rule is about that family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRule {
    /// Groups the rule is about.
    pub groups: IpNet,
    /// Sources it is about; any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources: Option<IpNet>,
}

impl GroupRule {
    /// Whether the rule is about this group.
    pub(super) fn covers_group(&self, group: impl Into<IpAddr>) -> bool {
        self.groups.contains(&group.into())
    }

    /// Whether the rule is about this pair of a group and a source.
    pub(super) fn covers(&self, group: impl Into<IpAddr>, source: impl Into<IpAddr>) -> bool {
        self.covers_group(group) && self.sources.is_none_or(|net| net.contains(&source.into()))
    }

    /// The single source that the rule names, if it names one.
    pub(super) fn single_source<A: Address>(&self) -> Option<A> {
        let net = self.sources.filter(is_single_address)?;
        A::from_ip(net.addr())
    }
}

/// The rules that a text stands for: those of a [profile](PROFILES), or one.
///
/// # Errors
/// When the text is neither.
pub fn rules(text: &str) -> Result<Vec<GroupRule>, RuleError> {
    match PROFILES.iter().find(|profile| profile.name == text) {
        Some(profile) => profile.groups.iter().map(|group| group.parse()).collect(),
        None => text.parse().map(|rule| vec![rule]),
    }
}

impl fmt::Display for GroupRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn net(f: &mut fmt::Formatter<'_>, n: &IpNet) -> fmt::Result {
            if is_single_address(n) { write!(f, "{}", n.addr()) } else { write!(f, "{n}") }
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
    #[error("{text:?} is not the address of a {what}; a rule is GROUP[/PREFIX][@SOURCE[/PREFIX]], such as {EXAMPLE}, or one of {profiles}", profiles = profile_names())]
    Address {
        /// What stands where the address should.
        text: String,
        /// What it should be the address of.
        what: &'static str,
    },
    /// An IPv6 address with a zone.
    #[error("{0:?} has a zone; a rule is about the interface of its attachment and names none")]
    Zone(String),
    /// A prefix length that is no number from 0 to that of an address.
    #[error("{0:?} is not a prefix length; it is a number from 0 to {1}")]
    Prefix(String, u8),
    /// Groups outside of the addresses of groups.
    #[error("{groups} is not within {all}, where multicast groups are", all = all_groups(.groups))]
    NotMulticast {
        /// What stands where the groups should.
        groups: IpNet,
    },
    /// IPv6 groups that no packet of a LAN has.
    #[error("{0}: groups of scope {1:x} {why}", why = scope_refusal(.1))]
    Scope(IpNet, u8),
    /// Sources that no packet can come from.
    #[error("{0} is not a unicast source")]
    NotUnicast(IpNet),
    /// Groups of one family with sources of the other one.
    #[error("{0} and {1} are of different address families; a group and its source are of one")]
    Families(IpNet, IpNet),
}

const EXAMPLE: &str = "239.1.0.0/16, 232.1.1.1@10.0.0.5 or ff05::1:3";

fn profile_names() -> String {
    PROFILES.iter().map(|profile| profile.name).collect::<Vec<_>>().join(", ")
}

fn all_groups(net: &IpNet) -> IpNet {
    match net {
        IpNet::V4(_) => Ipv4Addr::GROUPS,
        IpNet::V6(_) => Ipv6Addr::GROUPS,
    }
}

/// What there is to say of groups of this scope (RFC 4291 §2.7).
fn scope_refusal(scope: &u8) -> &'static str {
    match scope {
        1 => "never leave the container, so that no rule is about them",
        _ => "are reserved (RFC 4291 section 2.7)",
    }
}

impl FromStr for GroupRule {
    type Err = RuleError;

    /// Host bits are cleared: `239.1.2.3/16` is `239.1.0.0/16`.
    fn from_str(text: &str) -> Result<Self, RuleError> {
        let (groups, sources) = match text.split_once('@') {
            Some((groups, sources)) => (groups, Some(sources)),
            None => (text, None),
        };
        let groups = net(groups, "group")?;
        if !all_groups(&groups).contains(&groups) {
            return Err(RuleError::NotMulticast { groups });
        }
        check_scope(&groups)?;
        let sources = sources.map(|text| net(text, "source")).transpose()?;
        if let Some(net) = sources {
            let address = net.addr();
            let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
            let is_unspecified = is_single_address(&net) && address.is_unspecified();
            if address.is_ipv4() != groups.addr().is_ipv4() {
                return Err(RuleError::Families(groups, net));
            }
            if address.is_multicast() || is_broadcast || is_unspecified {
                return Err(RuleError::NotUnicast(net));
            }
        }
        Ok(GroupRule { groups, sources })
    }
}

/// Refuses IPv6 groups of one scope that is reserved or never leaves a host.
fn check_scope(groups: &IpNet) -> Result<(), RuleError> {
    const SCOPE_END: u8 = 16;
    let IpNet::V6(net) = groups else { return Ok(()) };
    let scope = net.addr().octets()[1] & 0x0f;
    match scope {
        0 | 1 | 0xf if net.prefix_len() >= SCOPE_END => Err(RuleError::Scope(*groups, scope)),
        _ => Ok(()),
    }
}

fn net(text: &str, what: &'static str) -> Result<IpNet, RuleError> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| match address.split_once('%') {
        Some((bare, _)) if bare.parse::<Ipv6Addr>().is_ok() => RuleError::Zone(address.to_owned()),
        _ => RuleError::Address { text: address.to_owned(), what },
    })?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let length = match prefix {
        None => longest,
        Some(digits) => Some(digits)
            .filter(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|d| d.parse().ok())
            .filter(|n| *n <= longest)
            .ok_or_else(|| RuleError::Prefix(digits.to_owned(), longest))?,
    };
    let net =
        IpNet::new(address, length).map_err(|_| RuleError::Prefix(length.to_string(), longest))?;
    Ok(net.trunc())
}

fn is_single_address(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_has_groups_of_both_families_and_each_once() {
        for profile in PROFILES {
            let rules = rules(profile.name).unwrap_or_else(|e| panic!("{}: {e}", profile.name));
            for (position, rule) in rules.iter().enumerate() {
                assert_eq!(rule.to_string(), profile.groups[position], "{}", profile.name);
                assert!(!rules[..position].contains(rule), "{}: {rule}", profile.name);
            }
            for is_ipv4 in [true, false] {
                let has = rules.iter().any(|rule| rule.groups.addr().is_ipv4() == is_ipv4);
                assert!(has, "{}", profile.name);
            }
        }
    }

    #[test]
    fn what_is_no_profile_is_a_rule() {
        let texts = |text| {
            let rules: Vec<_> = rules(text)?.iter().map(ToString::to_string).collect();
            Ok::<_, RuleError>(rules)
        };
        assert_eq!(texts("239.1.2.3/16"), Ok(vec!["239.1.0.0/16".to_owned()]));
        assert_eq!(texts("mdns"), Ok(vec!["224.0.0.251".to_owned(), "ff02::fb".to_owned()]));
        let refusal = texts("mnds").unwrap_err().to_string();
        assert!(refusal.contains("mdns, ssdp, matter, ros2, ptp, sap"), "{refusal}");
        assert!(texts("mdns@10.0.0.1").is_err());
    }
}
