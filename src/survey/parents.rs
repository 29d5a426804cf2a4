//! The host's interfaces that can be parents, and what limits them.

use std::fmt;
use std::path::Path;

use crate::net::messages::{CHILD_GROUP, Link};
use crate::survey::HostLinks;

/// Drivers of adapters in virtual machines. Their hypervisors know one MAC address by default.
const VIRTUAL: [&str; 5] = ["vmxnet3", "virtio_net", "hv_netvsc", "ena", "xen-netfront"];

impl HostLinks {
    /// The links that can be parents, in the order of their indexes: not the loopback interface, and
    /// no port of a bridge, bond or team, whose frames are not its own; nor the host's own leg on
    /// another parent, which mcrun has made (`mcrun shim`).
    pub fn parents(&self) -> impl Iterator<Item = &Link> {
        let is_shim =
            |link: &Link| link.group == Some(CHILD_GROUP) && link.parent_namespace.is_none();
        let links = self.links.iter().filter(|link| !link.loopback && link.port_of.is_none());
        links.filter(move |link| !is_shim(link))
    }

    /// What keeps containers on this parent from their LAN, or may.
    pub fn limits(&self, parent: &Link) -> Vec<Limit> {
        let has_v4 = self.networks_of(parent.index).any(|network| network.addr().is_ipv4());
        let directory = Path::new("/sys/class/net").join(&parent.name);
        let driver = std::fs::read_link(directory.join("device/driver")).unwrap_or_default();
        let applying = [
            (Limit::Down, !parent.up),
            (Limit::NoCarrier, parent.up && !parent.carrier),
            (Limit::NoEthernet, parent.mac.is_none()),
            (Limit::WithoutLan, self.is_bridge_without_lan(parent)),
            (Limit::NoAddress, !has_v4),
            (Limit::WiFi, directory.join("phy80211").exists()),
            (
                Limit::VirtualMachine,
                VIRTUAL.iter().any(|name| driver.file_name() == Some(name.as_ref())),
            ),
        ];
        applying.into_iter().filter(|(_, applies)| *applies).map(|(limit, _)| limit).collect()
    }
}

/// What keeps containers on a parent from their LAN, or may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// It was not set up.
    Down,
    /// It is up, and the kernel has no carrier on it.
    NoCarrier,
    /// It has no Ethernet address.
    NoEthernet,
    /// It is a bridge of a container engine, or one without ports.
    WithoutLan,
    /// It has no IPv4 address.
    NoAddress,
    /// It is a station of a wireless LAN.
    WiFi,
    /// It is the adapter of a virtual machine.
    VirtualMachine,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Limit::Down => "down: set it up first",
            Limit::NoCarrier => "no carrier",
            Limit::NoEthernet => "no Ethernet: driver=relay alone",
            Limit::WithoutLan => "a bridge that leads to no LAN",
            Limit::NoAddress => "no IPv4 address: reports come from 0.0.0.0",
            Limit::WiFi => {
                "Wi-Fi: access points drop other MAC addresses, use driver=ipvlan or relay"
            }
            Limit::VirtualMachine => {
                "of a virtual machine: its host may drop other MAC addresses, use driver=ipvlan or \
                 relay"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_the_loopback_interface_are_no_parents_and_limits_are_named() {
        let link = |index, name: &str| Link { index, name: name.to_owned(), ..Link::default() };
        let links = HostLinks {
            links: vec![
                Link { loopback: true, ..link(1, "lo") },
                Link { port_of: Some((4, "bond".into())), ..link(2, "test-eth1") },
                Link { up: true, mac: "02:00:00:00:00:01".parse().ok(), ..link(3, "test-eth2") },
                link(4, "test-bond0"),
            ],
            networks: vec![(3, "10.0.0.1/24".parse().unwrap())],
        };
        let parents: Vec<_> = links.parents().map(|link| link.name.as_str()).collect();
        assert_eq!(parents, ["test-eth2", "test-bond0"]);
        assert_eq!(links.limits(&links.links[2]), [Limit::NoCarrier]);
        assert_eq!(
            links.limits(&links.links[3]),
            [Limit::Down, Limit::NoEthernet, Limit::NoAddress]
        );
    }
}
