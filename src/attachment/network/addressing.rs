//! The addresses on a network.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::attachment::network::address_range::AddressRange;

/// The most addresses that a pool gives; an IPv6 subnet has more.
const MAX_POOL: usize = 65_536;

/// The addresses on a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addressing {
    /// Its subnets, at most one of each address family.
    pub subnets: Vec<IpNet>,
    /// What a pool gives; the whole subnet where none of its family is named.
    pub ranges: Vec<AddressRange>,
    /// What no container can have.
    pub excluded: Vec<AddressRange>,
    /// The gateways, at most one of each address family.
    pub gateways: Vec<IpAddr>,
}

impl Addressing {
    /// The addresses of the pool in a subnet, in the order of the ranges, at most 65,536 of
    /// them.
    pub fn pool(&self, subnet: IpNet) -> impl Iterator<Item = IpAddr> {
        let all = self.ranges_in(subnet).into_iter();
        let all = all.flat_map(|range| range.without(&self.excluded));
        all.filter(move |address| self.is_of_a_container(*address, &subnet)).take(MAX_POOL)
    }

    /// Whether an address is one of the pool in a subnet.
    pub fn gives(&self, address: IpAddr, subnet: IpNet) -> bool {
        self.ranges_in(subnet).iter().any(|range| range.contains(address))
            && !self.excluded.iter().any(|range| range.contains(address))
            && self.is_of_a_container(address, &subnet)
    }

    fn ranges_in(&self, subnet: IpNet) -> Vec<AddressRange> {
        let within = self.ranges.iter().filter(|range| range.is_within(&subnet));
        let ranges: Vec<AddressRange> = within.copied().collect();
        if ranges.is_empty() { vec![subnet.into()] } else { ranges }
    }

    fn is_of_a_container(&self, address: IpAddr, subnet: &IpNet) -> bool {
        is_of_a_host(address, subnet) && !self.gateways.contains(&address)
    }

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

/// Whether a host can have an address of a subnet: neither the subnet's own and the broadcast address
/// of IPv4, nor the anycast address of all routers of IPv6 (RFC 4291 §2.6.1). Subnets of two
/// addresses have none of these (RFC 3021, RFC 6164).
fn is_of_a_host(address: IpAddr, subnet: &IpNet) -> bool {
    if subnet.max_prefix_len() - subnet.prefix_len() <= 1 {
        return true;
    }
    address != subnet.network() && (address.is_ipv6() || address != subnet.broadcast())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(
        subnet: &str,
        ranges: &[&str],
        excluded: &[&str],
        gateway: Option<&str>,
    ) -> Vec<String> {
        let parsed = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
        let addressing = Addressing {
            subnets: vec![subnet.parse().unwrap()],
            ranges: parsed(ranges),
            excluded: parsed(excluded),
            gateways: gateway.iter().map(|text| text.parse().unwrap()).collect(),
        };
        let subnet: IpNet = subnet.parse().unwrap();
        let given: Vec<IpAddr> = addressing.pool(subnet).take(9).collect();
        assert!(given.iter().all(|address| addressing.gives(*address, subnet)));
        let others = excluded.iter().filter_map(|text| text.parse().ok());
        let others = others.chain(addressing.gateways.iter().copied()).chain([subnet.network()]);
        for other in others.filter(|other| !given.contains(other)) {
            assert!(!addressing.gives(other, subnet), "{other}");
        }
        given.into_iter().map(|address| address.to_string()).collect()
    }

    #[test]
    fn a_pool_gives_what_hosts_of_the_subnet_can_have() {
        let whole = pool("192.0.2.0/29", &[], &["192.0.2.3"], Some("192.0.2.1"));
        assert_eq!(whole, ["192.0.2.2", "192.0.2.4", "192.0.2.5", "192.0.2.6"]);
        assert_eq!(pool("192.0.2.8/31", &[], &[], None), ["192.0.2.8", "192.0.2.9"]);
        assert_eq!(pool("192.0.2.8/32", &[], &[], None), ["192.0.2.8"]);
        let ranges = ["192.0.2.200-192.0.2.201", "fd00::9", "192.0.2.7"];
        let some = pool("192.0.2.0/24", &ranges, &["192.0.2.201"], None);
        assert_eq!(some, ["192.0.2.200", "192.0.2.7"]);
        assert_eq!(pool("255.255.255.252/30", &[], &[], None).len(), 2, "the last address of all");
    }

    #[test]
    fn a_pool_of_ipv6_skips_what_is_excluded_however_much_that_is() {
        let first = pool("fd00::/64", &[], &["fd00::/66"], Some("fd00::4000:0:0:0"));
        assert_eq!(first[..2], ["fd00::4000:0:0:1", "fd00::4000:0:0:2"]);
        let addressing = Addressing::default();
        assert_eq!(addressing.pool("fd00::/64".parse().unwrap()).count(), MAX_POOL);
    }
}
