//! Plain types that cannot hold nonsense: what the syntax of [`crate::attachment::syntax`] yields.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::multicast::{GroupPolicy, RateLimits};
use crate::primitives::{InterfaceName, IpvlanFlag, IpvlanMode, MacAddr, MacvlanMode};

/// One attachment of a container to a LAN, complete and checked in itself.
///
/// Nothing here was compared with the host yet: that is [`crate::net`]'s facts and plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// LAN interface on the host.
    pub parent: InterfaceName,
    /// How the container's interface hangs on the parent.
    pub driver: Driver,
    /// Addresses of the container's interface.
    pub ip: IpAssignment,
    /// Default gateways through this interface, at most one for each address family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
    /// Metric of the default routes; higher is less preferred.
    pub metric: u32,
    /// Further routes through this interface.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Hardware address; the kernel chooses one when absent. None with ipvlan and relay.
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
    /// Host interface where the proxy joins; the parent when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<InterfaceName>,
    /// Who may join what.
    pub policy: GroupPolicy,
    /// How much data the relay carries at most; nothing is limited where no relay carries it.
    #[serde(default, skip_serializing_if = "RateLimits::is_none")]
    pub rates: RateLimits,
    /// Length of macvlan's multicast queue in packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bcqueuelen: Option<u32>,
    /// Receivers of one group from which on macvlan queues instead of delivering at once;
    /// -1: never queue (`IFLA_MACVLAN_BC_CUTOFF`, Linux 6.4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bclim: Option<i32>,
}

impl Attachment {
    /// The interface's name in the container, when this is attachment `position` (from 0).
    pub fn interface_name(&self, position: usize) -> InterfaceName {
        match (&self.driver, &self.name) {
            (Driver::Relay { interface }, _) => interface.clone(),
            (_, Some(name)) => name.clone(),
            (_, None) => InterfaceName::numbered(position),
        }
    }

    /// Whether its proxy tells the LAN of its IPv4 addresses, as the kernel does where there is no proxy.
    pub fn is_announced_by_proxy(&self) -> bool {
        // Links of the other modes speak no ARP.
        let ethernet = match self.driver {
            Driver::Macvlan(_) => true,
            Driver::Ipvlan { mode, .. } => mode == IpvlanMode::L2,
            Driver::Relay { .. } => false,
        };
        let numbered = self.ip.addresses().iter().any(|net| net.addr().is_ipv4());
        self.igmp != IgmpMode::Off && ethernet && numbered
    }

    /// The host interface where the proxy joins.
    pub fn upstream(&self) -> &InterfaceName {
        self.upstream.as_ref().unwrap_or(&self.parent)
    }
}

/// What gives the container its multicast.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "driver", content = "mode", rename_all = "lowercase")]
pub enum Driver {
    /// A child link with a MAC address of its own.
    Macvlan(MacvlanMode),
    /// A child link with the parent's MAC address.
    Ipvlan {
        /// What of the network its children see.
        mode: IpvlanMode,
        /// How they reach each other.
        flag: IpvlanFlag,
    },
    /// An interface that the container has anyway, such as one on a bridge of the engine's.
    Relay {
        /// Its name in the container; it may appear after the hook.
        interface: InterfaceName,
    },
}

impl Driver {
    /// The driver's name as `ip link` and the attachment syntax spell it.
    pub fn name(&self) -> &'static str {
        match self {
            Driver::Macvlan(_) => "macvlan",
            Driver::Ipvlan { .. } => "ipvlan",
            Driver::Relay { .. } => "relay",
        }
    }

    /// The mode's name as `ip link` and the attachment syntax spell it; empty where there are no
    /// modes.
    pub fn mode(&self) -> &'static str {
        match self {
            Driver::Macvlan(mode) => mode.name(),
            Driver::Ipvlan { mode, .. } => mode.name(),
            Driver::Relay { .. } => "",
        }
    }

    /// Whether multicast data crosses the namespace boundary through the proxy, since the link
    /// carries none.
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
}

impl IpAssignment {
    /// The addresses known from the request alone.
    pub fn addresses(&self) -> &[IpNet] {
        match self {
            IpAssignment::None => &[],
            IpAssignment::Static(list) => list,
        }
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

/// What happens to the IGMP of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IgmpMode {
    /// Intercepted and relayed: the LAN sees one IGMP host.
    Proxy,
    /// Left to the container's kernel, and observed.
    Native,
    /// Left to the container's kernel, and no proxy is started.
    Off,
}

impl IgmpMode {
    /// The value as the attachment syntax spells it.
    pub fn name(self) -> &'static str {
        match self {
            IgmpMode::Proxy => "proxy",
            IgmpMode::Native => "native",
            IgmpMode::Off => "off",
        }
    }
}
