//! Ranges of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Addresses of one family from the first to the last, both included. As text `FIRST-LAST`,
/// `NETWORK/PREFIX`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

impl AddressRange {
    /// Whether an address is in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && (self.first..=self.last).contains(&address)
    }

    /// Its addresses, the lowest first, except those of other ranges.
    pub(super) fn without(self, others: &[AddressRange]) -> impl Iterator<Item = IpAddr> + '_ {
        let mut next = Some(self.first);
        std::iter::from_fn(move || {
            loop {
                let address = next.filter(|address| self.contains(*address))?;
                let other = others.iter().find(|other| other.contains(address));
                next = successor(other.map_or(address, |other| other.last));
                if other.is_none() {
                    return Some(address);
                }
            }
        })
    }

    /// Whether all of it is in a network.
    pub fn is_within(&self, net: &IpNet) -> bool {
        net.contains(&self.first) && net.contains(&self.last)
    }
}

/// The address behind another one; none behind the last of all.
fn successor(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => u32::from(address).checked_add(1).map(|n| Ipv4Addr::from(n).into()),
        IpAddr::V6(address) => u128::from(address).checked_add(1).map(|n| Ipv6Addr::from(n).into()),
    }
}

impl From<IpNet> for AddressRange {
    fn from(net: IpNet) -> Self {
        AddressRange { first: net.network(), last: net.broadcast() }
    }
}

impl FromStr for AddressRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || {
            Err("neither addresses FIRST-LAST, as in 192.0.2.10-192.0.2.99, nor a network, nor an \
                 address"
                .to_owned())
        };
        if let Ok(net) = text.parse::<IpNet>() {
            return match net.trunc() {
                whole if whole == net => Ok(net.into()),
                whole => Err(format!("bits are set behind the prefix; did you mean {whole}?")),
            };
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (Ok(first), Ok(last)) = (first.trim().parse(), last.trim().parse()) else {
            return refuse();
        };
        let (first, last): (IpAddr, IpAddr) = (first, last);
        if first.is_ipv4() != last.is_ipv4() {
            return Err("the first and the last address are of different families".into());
        }
        if first > last {
            return Err(format!("{first} is above {last}; write the lower address first"));
        }
        Ok(AddressRange { first, last })
    }
}

impl TryFrom<String> for AddressRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<AddressRange> for String {
    fn from(range: AddressRange) -> String {
        range.to_string()
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_know_what_is_in_them() {
        let range = |text: &str| text.parse::<AddressRange>();
        let ten: AddressRange = "192.0.2.10 - 192.0.2.19".parse().unwrap();
        assert_eq!(ten.to_string(), "192.0.2.10-192.0.2.19");
        for (address, is_in) in
            [("192.0.2.9", false), ("192.0.2.10", true), ("192.0.2.19", true), ("::1", false)]
        {
            assert_eq!(ten.contains(address.parse().unwrap()), is_in, "{address}");
        }
        assert_eq!(range("192.0.2.0/30").unwrap().to_string(), "192.0.2.0-192.0.2.3");
        assert_eq!(range("fd00::7").unwrap().to_string(), "fd00::7");
        for (text, words) in [
            ("", "neither addresses"),
            ("192.0.2.9-", "neither addresses"),
            ("192.0.2.9-192.0.2.1", "above"),
            ("192.0.2.9-::1", "different families"),
            ("192.0.2.9/24", "did you mean 192.0.2.0/24?"),
        ] {
            let error = range(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
