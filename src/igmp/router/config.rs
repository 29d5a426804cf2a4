//! The configuration of a router.

use std::time::Duration;

use crate::igmp::Timing;
use crate::multicast::Address;

/// The configuration of a [`Router`](crate::igmp::router::Router). The default is for a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterConfig<A> {
    /// Name of the container's interface, for notices. Default empty.
    pub interface: String,
    /// Timers and counts.
    pub timing: Timing,
    /// Act on a leave at once, without last-member queries: the container's kernel is the only
    /// host on its link. Default on.
    pub fast_leave: bool,
    /// Drop messages without the Router Alert option (RFC 9776 §9.2). They are counted in any
    /// case. Default off.
    pub strict_router_alert: bool,
    /// Source of the router's own queries. The default, the unspecified address, makes them proxy
    /// queries (RFC 4541 §2.1.1), which take no part in the querier election. MLD has none, and the
    /// protocol supplies an address of the link instead.
    pub querier_address: A,
    /// Accept joins of groups of link scope, such as those of 224.0.0.0/24, where the policy asks a
    /// relay to carry them, and no others of link scope. Default off: what needs a report is accepted,
    /// and the link delivers the rest anyway.
    pub link_scope: bool,
    /// MTU of the container's interface in bytes; longer queries are split. Default 1500.
    pub mtu: usize,
    /// The number of changes that may go upstream at once. Default 4096: four for each of a thousand
    /// groups.
    pub change_burst: u32,
    /// The time after which one more change may go upstream. Default 50 ms: 20 a second.
    pub change_interval: Duration,
    /// The fourth change of a group, and each one after it, is a repeated change, if every change
    /// came within this time after the one before it. Default 5 s.
    pub repeat_window: Duration,
    /// The number of repeated changes that may go upstream at once. Default 256: a viewer who
    /// changes channels back and forth is not delayed.
    pub repeat_burst: u32,
    /// The time after which one more repeated change may go upstream. Default 100 ms: 10 a second.
    pub repeat_interval: Duration,
    /// The number of messages and group records that are accepted from the container at once. More
    /// are dropped, and a general query asks for them again. Default 16384.
    pub record_burst: u32,
    /// The time after which one more is accepted. Default 50 us: 20 000 a second, so that a
    /// hostile container uses no more than a few percent of a processor through its proxy.
    pub record_interval: Duration,
    /// The number of groups that are stored although they are denied or beyond the limit, so that
    /// they can be shown, and joined when the policy changes. Default 1024.
    pub max_refused: usize,
}

impl<A: Address> Default for RouterConfig<A> {
    fn default() -> Self {
        RouterConfig {
            interface: String::new(),
            timing: Timing::default(),
            fast_leave: true,
            strict_router_alert: false,
            querier_address: A::UNSPECIFIED,
            link_scope: false,
            mtu: 1500,
            change_burst: 4096,
            change_interval: Duration::from_millis(50),
            repeat_window: Duration::from_secs(5),
            repeat_burst: 256,
            repeat_interval: Duration::from_millis(100),
            record_burst: 16384,
            record_interval: Duration::from_micros(50),
            max_refused: 1024,
        }
    }
}
