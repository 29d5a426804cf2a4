//! What a router is told at its start.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::igmp::Timing;

/// How a [`Router`](crate::igmp::router::Router) works. The default is right for a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterConfig {
    /// Name of the container's interface, for notices. Default empty.
    pub interface: String,
    /// Timers and counts.
    pub timing: Timing,
    /// Act on the last leave at once, without last-member queries: the container's kernel is
    /// the only IGMP host on its link. Default on.
    pub fast_leave: bool,
    /// Drop messages without the Router Alert option, which are counted in any case
    /// (RFC 9776 §9.2). Default off.
    pub strict_router_alert: bool,
    /// Source of our own queries. The default, 0.0.0.0, makes them proxy queries
    /// (RFC 4541 §2.1.1), which no host and no switch takes for an elected querier's.
    pub querier_address: Ipv4Addr,
    /// Take joins of those groups of 224.0.0.0/24 that the policy names. Default off: they are on
    /// every link anyway.
    pub link_local: bool,
    /// MTU of the container's interface in bytes; longer queries are split. Default 1500.
    pub mtu: usize,
    /// Changes that may be handed upstream at once. Default 4096.
    pub change_burst: u32,
    /// Time after which one more may be. Default 5 ms: 200 in a second.
    pub change_interval: Duration,
    /// Messages and group records that are taken from the container at once; more are dropped,
    /// and asked for again when the storm is over. Default 16384.
    pub record_burst: u32,
    /// Time after which one more is taken. Default 50 us: 20 000 in a second, which keeps a
    /// hostile container from using more than a few percent of a processor through its proxy.
    pub record_interval: Duration,
    /// Groups that are remembered although they are denied or beyond the limit, so that they
    /// can be shown and joined when that changes. Default 1024.
    pub max_refused: usize,
}

impl Default for RouterConfig {
    fn default() -> Self {
        RouterConfig {
            interface: String::new(),
            timing: Timing::default(),
            fast_leave: true,
            strict_router_alert: false,
            querier_address: Ipv4Addr::UNSPECIFIED,
            link_local: false,
            mtu: 1500,
            change_burst: 4096,
            change_interval: Duration::from_millis(5),
            record_burst: 16384,
            record_interval: Duration::from_micros(50),
            max_refused: 1024,
        }
    }
}
