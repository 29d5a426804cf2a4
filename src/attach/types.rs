//! Plain types that cannot hold nonsense: what the syntax of [`super::parse`] yields.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::GroupPolicy;

/// One attachment of a container to a LAN, complete and checked in itself.
///
/// Nothing here was compared with the host yet: that is [`crate::net`]'s facts and plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// LAN interface on the host.
    pub parent: IfName,
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
    pub name: Option<IfName>,
    /// What happens to the container's IGMP.
    pub igmp: IgmpMode,
    /// Host interface where the proxy joins; the parent when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<IfName>,
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
    pub fn interface_name(&self, position: usize) -> IfName {
        match (&self.driver, &self.name) {
            (Driver::Relay { interface }, _) => interface.clone(),
            (_, Some(name)) => name.clone(),
            (_, None) => IfName(format!("mc{position}")),
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
    pub fn upstream(&self) -> &IfName {
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
        interface: IfName,
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

/// How macvlan children of one parent reach each other (`ip-link(8)`, TYPE macvlan).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MacvlanMode {
    /// Directly.
    Bridge,
    /// Not at all.
    Private,
    /// Through the switch, which must reflect.
    Vepa,
    /// A single child, which takes over the parent's MAC address.
    Passthru,
}

impl MacvlanMode {
    /// The name as `ip link` spells it.
    pub fn name(self) -> &'static str {
        match self {
            MacvlanMode::Bridge => "bridge",
            MacvlanMode::Private => "private",
            MacvlanMode::Vepa => "vepa",
            MacvlanMode::Passthru => "passthru",
        }
    }
}

/// What ipvlan children see of the network (`ip-link(8)`, TYPE ipvlan). All children of a parent
/// have the same mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvlanMode {
    /// The LAN, with its multicast.
    L2,
    /// What the host routes to them: no multicast.
    L3,
    /// As `L3`, and the host's netfilter rules see it.
    L3s,
}

impl IpvlanMode {
    /// The name as `ip link` spells it.
    pub fn name(self) -> &'static str {
        match self {
            IpvlanMode::L2 => "l2",
            IpvlanMode::L3 => "l3",
            IpvlanMode::L3s => "l3s",
        }
    }
}

/// How ipvlan children of one parent reach each other (`ip-link(8)`, TYPE ipvlan). All children
/// of a parent have the same flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvlanFlag {
    /// Directly.
    Bridge,
    /// Not at all.
    Private,
    /// Through the switch, which must reflect.
    Vepa,
}

impl IpvlanFlag {
    /// The name as `ip link` spells it.
    pub fn name(self) -> &'static str {
        match self {
            IpvlanFlag::Bridge => "bridge",
            IpvlanFlag::Private => "private",
            IpvlanFlag::Vepa => "vepa",
        }
    }
}

/// What the relay carries for one attachment at most, in each direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimits {
    /// Packets a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<u32>,
    /// Bytes a second, IP headers included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

impl RateLimits {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == RateLimits::default()
    }

    /// The stricter of both.
    #[must_use]
    pub fn at_most(self, other: RateLimits) -> RateLimits {
        fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
            match (one, other) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            }
        }
        RateLimits {
            packets: least(self.packets, other.packets),
            bytes: least(self.bytes, other.bytes),
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

/// A network interface name the kernel accepts (`dev_valid_name` in net/core/dev.c): 1 to 15
/// bytes, not `.` or `..`, without `/`, `:` and white space. Control characters and
/// non-ASCII bytes, which the kernel would take, are refused too.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName(String);

impl IfName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IfName {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let bad = |why: &str| {
            Err(format!(
                "{why}; an interface name is 1 to 15 characters without '/', ':' and spaces"
            ))
        };
        if s.is_empty() {
            return bad("empty");
        }
        if s.len() > 15 {
            return bad(&format!("{} characters long", s.len()));
        }
        if s == "." || s == ".." {
            return bad("not a name");
        }
        match s.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '/' | ':')) {
            Some(c) => bad(&format!("has {c:?}")),
            None => Ok(IfName(s.to_owned())),
        }
    }
}

impl TryFrom<String> for IfName {
    type Error = String;
    fn try_from(s: String) -> Result<Self, String> {
        s.parse()
    }
}

impl From<IfName> for String {
    fn from(name: IfName) -> String {
        name.0
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A unicast Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// The bytes, in the order of transmission.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }

    /// From the bytes of a link-layer address attribute; `None` unless there are six.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(MacAddr)
    }
}

impl FromStr for MacAddr {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let form = "six hexadecimal bytes such as 02:00:5e:10:00:01";
        let mut octets = [0u8; 6];
        let mut parts = s.split([':', '-']);
        for octet in &mut octets {
            let part = parts.next().ok_or(format!("too short; a MAC is {form}"))?;
            if part.is_empty() || part.len() > 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(format!("{part:?} is not a byte; a MAC is {form}"));
            }
            *octet = u8::from_str_radix(part, 16).map_err(|e| e.to_string())?;
        }
        if parts.next().is_some() {
            return Err(format!("too long; a MAC is {form}"));
        }
        if octets[0] & 1 != 0 {
            return Err(
                "a multicast address; an interface needs a unicast one (even first byte)".into()
            );
        }
        if octets == [0; 6] {
            return Err("all zero; an interface needs a unicast address".into());
        }
        Ok(MacAddr(octets))
    }
}

impl TryFrom<String> for MacAddr {
    type Error = String;
    fn try_from(s: String) -> Result<Self, String> {
        s.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> String {
        mac.to_string()
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
