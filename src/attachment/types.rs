//! The types of an attachment. Their values are valid by construction.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::attachment::network::addressing::Addressing;
use crate::attachment::{HostLink, HostLinkKind, NetworkName};
use crate::multicast::{GroupPolicy, RateLimits};
use crate::primitives::{InterfaceName, IpvlanFlag, IpvlanMode, MacAddr, MacvlanMode};

/// Attachments of one container; a host has fewer media LANs than this.
pub const MAX_ATTACHMENTS: usize = 16;

/// One attachment of a container to a LAN, complete and checked by itself.
///
/// It is not compared with the host yet: [`crate::link`] does that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The named network, if the attachment is on one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkUse>,
    /// LAN interface on the host.
    pub parent: InterfaceName,
    /// VLAN of the parent on which the container is; untagged if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<Vlan>,
    /// How the container gets onto the LAN.
    pub driver: Driver,
    /// Addresses of the container's interface.
    pub ip: IpAssignment,
    /// Whether the interface takes addresses, a gateway and routes of IPv6 that a router advertises
    /// (RFC 4862), beside [`ip`](Self::ip).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub slaac: bool,
    /// Whether it speaks IPv6, if that was said; see [`speaks_ipv6`](Self::speaks_ipv6).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<bool>,
    /// What the addresses of a pool are chosen from. It is not recorded: what is chosen is.
    #[serde(skip)]
    pub pool: Option<Addressing>,
    /// Whether the LAN is asked for the addresses before the interface gets them.
    #[serde(default, skip_serializing_if = "ConflictDetection::is_probe")]
    pub conflict: ConflictDetection,
    /// Default gateways through this interface, at most one for each address family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
    /// Metric of the default routes; higher is less preferred.
    pub metric: u32,
    /// Further routes through this interface.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// MAC address; the kernel chooses one when absent. Always absent with ipvlan and relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// MTU in bytes, 68..=65535; the parent's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Interface name in the container; `mc0`, `mc1`... by position when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<InterfaceName>,
    /// What happens to the container's IGMP.
    pub igmp: IgmpMode,
    /// What the interface may send. Always closed with relay, where it has no effect.
    #[serde(default, skip_serializing_if = "LinkLayer::is_closed")]
    pub l2: LinkLayer,
    /// Host interface where the proxy joins; the parent when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<InterfaceName>,
    /// The groups that the container may join.
    pub policy: GroupPolicy,
    /// The most that the relay carries. No limits for a driver without a relay.
    #[serde(default, skip_serializing_if = "RateLimits::is_none")]
    pub rates: RateLimits,
    /// Length of macvlan's multicast queue in packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bcqueuelen: Option<u32>,
    /// Number of receivers of one group from which on macvlan queues packets instead of delivering
    /// them at once; -1: it never queues (`IFLA_MACVLAN_BC_CUTOFF`, Linux 6.4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bclim: Option<i32>,
    /// Whether the container may run while the parent is not there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// Whether the link is there already, made by another program with its addresses and routes. It is
    /// served like a link of mcrun's own, and neither made nor removed. [`Attachment::ip`] are the
    /// addresses that it has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
    /// Name of the CNI network whose plugin asked for the attachment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cni_network: Option<String>,
    /// Whether a network of docker's or podman's asked for the attachment, and not the container.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub engine_network: bool,
}

impl Attachment {
    /// The interface's name in the container. `position` counts the container's attachments from 0.
    pub fn interface_name(&self, position: usize) -> InterfaceName {
        match (&self.driver, &self.name) {
            (Driver::Relay { interface }, _) => interface.clone(),
            (_, Some(name)) => name.clone(),
            (_, None) => InterfaceName::numbered(position),
        }
    }

    /// Whether a recorded attachment is what is asked for now. Which addresses of a pool or
    /// of a server it has does not matter.
    pub fn is_as_asked(&self, asked: &Attachment) -> bool {
        match (&self.ip, &asked.ip) {
            (IpAssignment::Pool(_), IpAssignment::Pool(_))
            | (IpAssignment::Dhcp(_), IpAssignment::Dhcp(_))
            | (IpAssignment::Dhcp6(_), IpAssignment::Dhcp6(_)) => {
                let asked =
                    Attachment { ip: self.ip.clone(), pool: self.pool.clone(), ..asked.clone() };
                *self == asked
            }
            _ => self == asked,
        }
    }

    /// Whether a network of the container's engine asked for it: such an interface comes and goes as the
    /// engine says, beside those that the container asks for by its annotation.
    pub fn is_of_network(&self) -> bool {
        self.engine_network || self.cni_network.is_some()
    }

    /// Whether the value of a key is that of who asked for the attachment, rather than that of the
    /// administrator's network. On another LAN than the network's, all values are.
    pub fn is_own(&self, key: &str) -> bool {
        let Some(network) = &self.network else { return true };
        network.own.iter().any(|own| own == key || own == "parent" || own == "vlan")
    }

    /// Whether an address is that of a gateway of the attachment's routes.
    pub fn has_gateway(&self, address: IpAddr) -> bool {
        self.gateways.contains(&address)
            || self.routes.iter().any(|route| route.gateway == Some(address))
    }

    /// Whether the proxy announces the IPv4 addresses by ARP. Without a proxy the kernel does it.
    pub fn is_announced_by_proxy(&self) -> bool {
        self.igmp != IgmpMode::Off && self.ethernet_addresses().any(|address| address.is_ipv4())
    }

    /// Whether the interface speaks IPv6. Without a word about it, it does where it has an address of
    /// IPv6 or takes one.
    pub fn speaks_ipv6(&self) -> bool {
        let pool = self.pool.iter().flat_map(|pool| &pool.subnets);
        let mut addresses = self.ip.addresses().iter().chain(pool);
        self.ipv6.unwrap_or(self.hears_routers() || addresses.any(|net| net.addr().is_ipv6()))
    }

    /// Whether the interface goes by what routers advertise: addresses with `ip=slaac`, and default
    /// routes also with `ip=dhcp6`, whose servers give none (RFC 8415 §1.2).
    pub fn hears_routers(&self) -> bool {
        self.slaac || matches!(self.ip, IpAssignment::Dhcp6(_))
    }

    /// Whether the proxy speaks MLD on the LAN for the interface, as it speaks IGMP. The relay of
    /// ipvlan relays data of IPv4 alone.
    pub fn is_mld_proxied(&self) -> bool {
        let carries = self.driver.is_relay() || !self.driver.is_relayed();
        self.speaks_ipv6() && self.igmp == IgmpMode::Proxy && carries
    }

    /// Whether the link-local address is made from the MAC address alone. Links of ipvlan share their
    /// MAC address, and the kernel adds a number.
    pub fn has_plain_link_local(&self) -> bool {
        self.speaks_ipv6() && self.makes_link() && matches!(self.driver, Driver::Macvlan(_))
    }

    /// The addresses that the LAN is asked for before the interface gets them (RFC 5227 §2.1,
    /// RFC 4862 §5.4). The link-local address is one of them where it follows from a MAC address that
    /// was asked for: one that the kernel chooses is nobody else's.
    pub fn probed_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let link_local = self.mac.filter(|_| self.has_plain_link_local());
        let link_local = link_local.map(|mac| IpAddr::V6(mac.link_local_address()));
        self.ethernet_addresses().chain(link_local).filter(|_| self.conflict.is_probe())
    }

    /// The addresses for which a link of mcrun's answers ARP or neighbour solicitations. Links of the
    /// ipvlan modes l3 and l3s do not.
    fn ethernet_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let ethernet = match self.driver {
            Driver::Macvlan(_) => true,
            Driver::Ipvlan { mode, .. } => mode == IpvlanMode::L2,
            Driver::Relay { .. } => false,
        };
        let ours = ethernet && self.makes_link();
        self.ip.fixed().iter().filter(move |_| ours).map(IpNet::addr)
    }

    /// Whether a link is made for it. A relay uses an interface that the container has anyway, and an
    /// adopted link is another program's.
    pub fn makes_link(&self) -> bool {
        !self.driver.is_relay() && !self.adopted
    }

    /// Whether what the interface sends is limited to IPv4 and ARP, and to IPv6 where it speaks it,
    /// from its own addresses.
    pub fn is_limited(&self) -> bool {
        self.l2.is_closed() && !matches!(self.driver, Driver::Relay { .. })
    }

    /// The host's link that the container is attached to: the parent, or its VLAN link.
    pub fn parent_link(&self) -> &InterfaceName {
        self.vlan.as_ref().map_or(&self.parent, |vlan| &vlan.link)
    }

    /// The host interface where the proxy joins.
    pub fn upstream(&self) -> &InterfaceName {
        self.upstream.as_ref().unwrap_or(self.parent_link())
    }

    /// The link of the host that this attachment may share with others.
    pub fn host_link(&self) -> Option<HostLink> {
        let vlan = self.vlan.as_ref()?;
        let kind = HostLinkKind::Vlan { parent: self.parent.clone(), id: vlan.id };
        Some(HostLink { name: vlan.link.clone(), kind })
    }
}

/// The network that an attachment is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkUse {
    /// Its name.
    pub name: NetworkName,
    /// The attachment keys that were written beside it. The others are the administrator's word.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own: Vec<String>,
}

/// A VLAN of the parent (IEEE 802.1Q).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vlan {
    /// VLAN id, 1..=4094.
    pub id: u16,
    /// Name of the parent's tagged sub-interface: `PARENT.ID`.
    pub link: InterfaceName,
}

impl Vlan {
    /// A VLAN of a parent.
    ///
    /// # Errors
    /// If the name of its link is too long for an interface.
    pub fn new(parent: &InterfaceName, id: u16) -> Result<Self, String> {
        let name = format!("{}.{id}", parent.as_str());
        let link = name.parse().map_err(|_| {
            format!(
                "its link would be called {name}, of {} characters; an interface name has at most 15",
                name.len()
            )
        })?;
        Ok(Vlan { id, link })
    }
}

/// How the container gets onto the LAN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "driver", content = "mode", rename_all = "lowercase")]
pub enum Driver {
    /// A child link with a MAC address of its own.
    Macvlan(MacvlanMode),
    /// A child link with the parent's MAC address.
    Ipvlan {
        /// The ipvlan mode.
        mode: IpvlanMode,
        /// How child links of one parent reach each other.
        flag: IpvlanFlag,
    },
    /// An interface that the container has already, such as one on the engine's bridge.
    Relay {
        /// The interface's name in the container. It may appear after the hook has run.
        interface: InterfaceName,
    },
}

impl Driver {
    /// The driver's name in `ip link` and in the attachment syntax.
    pub fn name(&self) -> &'static str {
        match self {
            Driver::Macvlan(_) => "macvlan",
            Driver::Ipvlan { .. } => "ipvlan",
            Driver::Relay { .. } => "relay",
        }
    }

    /// The mode's name in `ip link` and in the attachment syntax; empty for a driver without modes.
    pub fn mode(&self) -> &'static str {
        match self {
            Driver::Macvlan(mode) => mode.name(),
            Driver::Ipvlan { mode, .. } => mode.name(),
            Driver::Relay { .. } => "",
        }
    }

    /// Whether the attachment is a relay to an interface that mcrun has not made.
    pub fn is_relay(&self) -> bool {
        matches!(self, Driver::Relay { .. })
    }

    /// Whether the proxy relays multicast data into and out of the container, because no link
    /// delivers it.
    pub fn is_relayed(&self) -> bool {
        match self {
            Driver::Macvlan(_) | Driver::Ipvlan { mode: IpvlanMode::L2, .. } => false,
            Driver::Ipvlan { .. } | Driver::Relay { .. } => true,
        }
    }
}

/// Where the addresses of the container's interface come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpAssignment {
    /// No address: the interface carries multicast to sockets that join, and nothing else.
    None,
    /// These addresses, each with its prefix length; never empty.
    Static(Vec<IpNet>),
    /// Addresses that a server of DHCP has leased. Empty as long as there is none.
    Dhcp(Vec<IpNet>),
    /// The same of a server of DHCPv6.
    Dhcp6(Vec<IpNet>),
    /// Addresses of the network's pool. Empty until they are chosen, and never so in a record.
    Pool(Vec<IpNet>),
}

impl IpAssignment {
    /// The addresses.
    pub fn addresses(&self) -> &[IpNet] {
        match self {
            IpAssignment::None => &[],
            IpAssignment::Static(list)
            | IpAssignment::Pool(list)
            | IpAssignment::Dhcp(list)
            | IpAssignment::Dhcp6(list) => list,
        }
    }

    /// The addresses that stay as they are for as long as the container runs.
    pub fn fixed(&self) -> &[IpNet] {
        match self {
            IpAssignment::Dhcp(_) | IpAssignment::Dhcp6(_) => &[],
            _ => self.addresses(),
        }
    }

    /// Whether the address is leased from a server.
    pub fn is_dhcp(&self) -> bool {
        matches!(self, IpAssignment::Dhcp(_) | IpAssignment::Dhcp6(_))
    }
}

/// What is done so that no station of the LAN loses its address to the container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConflictDetection {
    /// The LAN is asked first, and an address that somebody has is not taken (RFC 5227 §2.1, RFC 4862
    /// §5.4).
    #[default]
    Probe,
    /// The address is taken.
    Off,
}

impl ConflictDetection {
    /// The value in the attachment syntax.
    pub fn name(self) -> &'static str {
        match self {
            ConflictDetection::Probe => "probe",
            ConflictDetection::Off => "off",
        }
    }

    /// Whether it is the default.
    pub fn is_probe(&self) -> bool {
        *self == ConflictDetection::Probe
    }
}

/// A route through the container's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination, with host bits clear.
    pub destination: IpNet,
    /// Next hop; on-link when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.gateway {
            Some(gateway) => write!(f, "{}@{gateway}", self.destination),
            None => write!(f, "{}", self.destination),
        }
    }
}

/// What an interface may send.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkLayer {
    /// IPv4 and ARP, and IPv6 where the interface speaks it, untagged and from its own addresses;
    /// nothing of a router, a switch or a DHCP server.
    #[default]
    Closed,
    /// Everything except intercepted IGMP and MLD.
    Open,
}

impl LinkLayer {
    /// The value in the attachment syntax.
    pub fn name(self) -> &'static str {
        match self {
            LinkLayer::Closed => "closed",
            LinkLayer::Open => "open",
        }
    }

    /// Whether it is the default.
    pub fn is_closed(&self) -> bool {
        *self == LinkLayer::Closed
    }
}

/// What happens to the IGMP of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IgmpMode {
    /// The proxy intercepts it and joins on the LAN, which sees one IGMP host.
    Proxy,
    /// The container's kernel speaks IGMP on the LAN, and a proxy observes it.
    Native,
    /// The container's kernel speaks IGMP on the LAN, and no proxy is started.
    Off,
}

impl IgmpMode {
    /// The value in the attachment syntax.
    pub fn name(self) -> &'static str {
        match self {
            IgmpMode::Proxy => "proxy",
            IgmpMode::Native => "native",
            IgmpMode::Off => "off",
        }
    }
}
