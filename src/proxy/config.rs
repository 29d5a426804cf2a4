//! What the hook tells a proxy at its start.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::attachment::IgmpMode;
use crate::multicast::{GroupPolicy, RateLimits};
use crate::primitives::MacAddr;

/// What the second line has of each interface.
pub(super) type Made = (u32, Option<MacAddr>);

/// What a proxy answers when its rules and sockets are in place.
pub(super) const INSTALLED: &str = "installed";
/// What it answers when it is confined and serves.
pub(super) const READY: &str = "ready";
/// What it answers, with the reason, when it cannot.
pub(super) const REFUSED: &str = "error: ";

/// The task of one proxy: the first line on its standard input, as JSON. The second follows when the
/// interfaces are there, and lists their indexes and hardware addresses; between the two the proxy opens
/// all that does not need them.
///
/// It answers on its standard output with the lines `installed` and `ready`, or `error: ...`, and closes it.
/// A file descriptor of the container's namespaces does not appear: the proxy opens them from
/// `pid` while it is still root, and checks `pid_start` after opening the pidfd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyConfig {
    /// Full container id; it also names the directory in the state directory.
    pub container: String,
    /// Process id of the container's init, in the proxy's own pid namespace.
    pub pid: i32,
    /// Start time of that process in clock ticks since boot (`/proc/PID/stat`, field 22):
    /// tells a reused pid.
    pub pid_start: u64,
    /// Whether joins are followed as soon as the kernel tells of them (Linux 6.14); else, as where it does
    /// not tell, at the container's report.
    pub notifications: bool,
    /// The interfaces to serve. When the second line comes each exists in the container's namespace, still
    /// down, but for those of a relay.
    pub interfaces: Vec<ProxyInterface>,
    /// Mark of what is put into the container, above 65535 and known to nobody else. It is the same for a
    /// proxy that follows another, so that the rules of each let pass what the other relays.
    pub mark: u32,
    /// Another proxy relays for the container still: this one begins with the request `requery`.
    #[serde(default)]
    pub follows: bool,
}

/// One interface that a proxy serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyInterface {
    /// Name in the container.
    pub name: String,
    /// Interface index in the container's namespace, from the second line; 0 when the interface is yet to
    /// come, and is to be known by its name.
    #[serde(skip)]
    pub index: u32,
    /// Its hardware address, from the second line too.
    #[serde(skip)]
    pub mac: Option<MacAddr>,
    /// Addresses of which the LAN is to be told when the link comes up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub announce: Vec<Ipv4Addr>,
    /// Name of the LAN interface on the host, for people.
    pub parent: String,
    /// Where to join: the host interface's name.
    pub upstream: String,
    /// Its index in the host's namespace.
    pub upstream_index: u32,
    /// `Proxy` or `Native`; an `Off` interface is not handed to the proxy.
    pub igmp: IgmpMode,
    /// Who may join what.
    pub policy: GroupPolicy,
    /// Set where the link carries no multicast, and the proxy is to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<RelayTask>,
}

/// How the proxy is to carry multicast data of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayTask {
    /// What the container sends goes out from the host's address, and its port may be another; else
    /// it keeps what the container gave it.
    pub translate: bool,
    /// What may be carried at most.
    #[serde(default, skip_serializing_if = "RateLimits::is_none")]
    pub rates: RateLimits,
}
