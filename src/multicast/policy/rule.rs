//! One rule about groups, and how it is written.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use crate::multicast::Address;

/// `GROUP[/PREFIX][@SOURCE[/PREFIX]]`, as in `239.1.0.0/16` or `232.1.1.1@10.0.0.5`.
///
/// Groups and sources are of one address family. The text of a rule is IPv4 only: the proxy has
/// no MLD, so that nothing would apply a rule about IPv6 groups.
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
        Ok(GroupRule { groups: groups.into(), sources: sources.map(IpNet::from) })
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

fn is_single_address(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}
