//! The proxy task: what the attachment service tells a new proxy.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::os::fd::RawFd;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::attachment::IgmpMode;
use crate::multicast::{GroupPolicy, RateLimits};
use crate::primitives::{MacAddr, PortRanges};
use crate::state::Lifetime;

/// The proxy's answer when its rules and sockets are in place.
pub(super) const INSTALLED: &str = "installed";
/// The proxy's answer when it is confined and serves the container.
pub(super) const READY: &str = "ready";
/// The third line of the proxy's standard input: the record names the proxy.
pub(super) const KEEP: &str = "keep";
/// Begins the proxy's answer when it cannot start; the reason follows.
pub(super) const REFUSED: &str = "error: ";

/// Descriptor of the packet socket that refreshes macvlan's receive filter. The number is fixed and
/// has no other use, so that the system call filter can forbid to send with this socket.
pub(super) const PACKET_SOCKET: RawFd = libc::STDIN_FILENO;

/// Descriptor of the packet socket that announces addresses on a parent. The system call filter lets
/// it send only by write(2), so that every frame leaves by the interface to which the socket is
/// bound. The number is beyond those of a usual proxy. A descriptor that gets it later, when the
/// socket is closed, can still be read and written.
pub(super) const PARENT_FRAME_SOCKET: RawFd = 127;

/// Descriptors of the packet sockets that count what arrives, one for each link. The system call
/// filter lets none of them send, nor be bound to another link.
pub(super) const COUNT_SOCKETS: Range<RawFd> = 120..127;

/// Descriptors of the packet sockets that hear queries on the upstreams of relays, one for each. The
/// system call filter lets none of them send.
pub(super) const TAP_SOCKETS: Range<RawFd> = 116..120;

/// The task of one proxy: the first line on its standard input, as JSON.
///
/// The second line is a list of [`CreatedInterface`], in the order of `interfaces`. It is sent when
/// the interfaces exist. Before it arrives, the proxy opens everything that does not need an
/// interface.
///
/// The third line is `keep`. It is sent when the container's record names the proxy. Until it
/// arrives, the proxy serves nobody. At the end of its input the proxy ends: the program that
/// launched it was killed, and nobody would know of it.
///
/// The proxy answers on its standard output with the lines `installed` and `ready`, or with `error:
/// ...`, and closes it. No descriptor of the container's network namespace is passed: the proxy opens
/// it by `lifetime` while it is still root.
///
/// Both sides are of one version of mcrun, so the names of these fields may change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyTask {
    /// Full container id; also the name of the container's directory in the state directory.
    pub container: String,
    /// The container's init, in the proxy's own pid namespace, or the path of its network namespace.
    /// The proxy opens the namespace by it and ends with it.
    pub lifetime: Lifetime,
    /// Whether a join is carried out as soon as the kernel notifies of it (Linux 6.14). If not, or
    /// where the kernel does not notify, the container's report starts it.
    pub notifications: bool,
    /// Whether what arrives is counted, where the kernel can.
    #[serde(default)]
    pub count: bool,
    /// The interfaces to serve. When the second line arrives, each exists in the container's
    /// namespace and is down. A relayed interface may exist later, and may be up.
    pub interfaces: Vec<InterfaceTask>,
    /// User id and group id of the proxy once it has given up its privileges. The service has
    /// reserved them until the proxy is ready.
    pub user: u32,
    /// Mark of the packets that are injected into the container: above 65535, and a secret. A proxy
    /// that takes over uses the mark of the one before it, so that the rules of each accept what
    /// the other injects.
    pub mark: u32,
    /// What the proxy's control group lacks, for people; `None`: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_notice: Option<String>,
    /// Another proxy still relays for the container. This one starts to relay at the request
    /// `takeover` or `requery`.
    #[serde(default)]
    pub takes_over: bool,
}

/// One interface that a proxy serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceTask {
    /// Name in the container.
    pub name: String,
    /// Interface index in the container's namespace, from the second line. 0: the interface does
    /// not exist yet and will be recognised by its name.
    #[serde(skip)]
    pub index: u32,
    /// The interface's hardware address, from the second line.
    #[serde(skip)]
    pub mac: Option<MacAddr>,
    /// Addresses to announce on the LAN when the link comes up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub announce: Vec<Ipv4Addr>,
    /// Name of the LAN interface on the host, for people.
    pub parent: String,
    /// Name of the host interface on which the proxy joins.
    pub upstream: String,
    /// Index of that interface in the host's namespace.
    pub upstream_index: u32,
    /// `Proxy` or `Native`; an interface with `Off` is not part of the task.
    pub igmp: IgmpMode,
    /// Whether the proxy speaks MLD for the interface as it speaks IGMP. If not, the container's kernel
    /// speaks MLD on the LAN.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mld: bool,
    /// Which groups and sources the container may join and receive.
    pub policy: GroupPolicy,
    /// What the interface may send; absent: everything except IGMP that is intercepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<EgressTask>,
    /// The interface is made in place of one that has gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub remade: bool,
    /// Time between general queries where the LAN has no querier, from which the membership interval
    /// follows; absent: 125 s (RFC 9776 §8.2). Tests shorten it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_interval: Option<Duration>,
    /// Set where the link carries no multicast, so that the proxy relays it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<RelayTask>,
}

impl InterfaceTask {
    /// Whether the container's link is one of the interface on which the proxy joins, so that what
    /// it hears is of the same LAN.
    pub(crate) fn is_on_upstream(&self) -> bool {
        self.relay.is_none() && self.parent == self.upstream
    }
}

/// An interface of the task that exists: one element of the second line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedInterface {
    /// Interface index in the container's namespace.
    pub index: u32,
    /// Hardware address; `None` where it is not known.
    pub mac: Option<MacAddr>,
}

/// What an interface may send: IPv4, ARP, and IPv6 where it has such an address, from its own MAC
/// address, and nothing of a switch, a router or a DHCP server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressTask {
    /// The addresses that the attachment gives it, which are the only sources of their address
    /// family.
    pub addresses: Vec<IpAddr>,
    /// Whether it sends IPv6: from those addresses and from its link-local one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ipv6: bool,
    /// Whether it sends also from addresses that its kernel makes from its MAC address and the prefix
    /// of a router.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub slaac: bool,
    /// Whether a server gives it addresses of IPv6, which may change: it sends from any.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leases_ipv6: bool,
    /// Other interfaces have the same MAC address, as with ipvlan.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shares_mac: bool,
}

/// How the proxy relays the multicast data of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayTask {
    /// Whether packets of the container leave with the host's address, and possibly another port.
    /// If not, they keep the source that the container gave them.
    pub translate: bool,
    /// Upper limits of the relayed data.
    #[serde(default, skip_serializing_if = "RateLimits::is_none")]
    pub rates: RateLimits,
    /// Ports of the host that the container may take, beside those that the kernel gives away.
    #[serde(default, skip_serializing_if = "PortRanges::is_empty")]
    pub host_ports: PortRanges,
    /// Whether the kernel is to relay what it can.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_kernel: bool,
}
