//! What differs between the demonstrations with IPv4 and with IPv6.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The address family of the demonstration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// IPv4 with IGMPv2.
    V4,
    /// IPv6 with MLDv1.
    V6,
}

impl Family {
    /// The group and the port of the stream.
    pub(super) fn group(self) -> &'static str {
        match self {
            Family::V4 => "239.77.0.1:5004",
            Family::V6 => "[ff15::77:1]:5004",
        }
    }

    /// Address number `last` of the LAN, with its prefix.
    pub(super) fn address(self, last: u8) -> IpNet {
        match self {
            Family::V4 => Ipv4Net::new_assert(Ipv4Addr::new(10, 77, 0, last), 24).into(),
            Family::V6 => {
                let address = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, last.into());
                Ipv6Net::new_assert(address, 64).into()
            }
        }
    }

    /// How hosts tell the switch of their groups.
    pub(super) fn protocol(self) -> &'static str {
        match self {
            Family::V4 => "IGMP",
            Family::V6 => "MLD",
        }
    }

    /// The version that the switch speaks.
    pub(super) fn version(self) -> &'static str {
        match self {
            Family::V4 => "IGMPv2",
            Family::V6 => "MLDv1",
        }
    }
}
