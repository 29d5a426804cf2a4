//! The addresses on a network.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::attachment::network::address_range::AddressRange;

/// The addresses on a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addressing {
    /// Its subnets, at most one of each address family.
    pub subnets: Vec<IpNet>,
    /// What no container can have.
    pub excluded: Vec<AddressRange>,
    /// The gateways, at most one of each address family.
    pub gateways: Vec<IpAddr>,
}

impl Addressing {
    /// Why a container cannot have an address with this prefix; `None`: it can, as far as the
    /// network goes.
    pub(in crate::attachment) fn refusal(&self, net: &IpNet) -> Option<String> {
        let address = net.addr();
        let is_same_family = |subnet: &&IpNet| subnet.addr().is_ipv4() == address.is_ipv4();
        if let Some(subnet) = self.subnets.iter().find(is_same_family)
            && (!subnet.contains(&address) || subnet.prefix_len() != net.prefix_len())
        {
            return Some(format!("the subnet is {subnet}"));
        }
        if self.gateways.contains(&address) {
            return Some("this is its gateway".into());
        }
        let excluded = self.excluded.iter().find(|range| range.contains(address))?;
        Some(format!("exclude = \"{excluded}\" keeps it from containers"))
    }
}
