//! The relay: multicast data across the namespace boundary, for links that carry none.
//!
//! A raw socket on the upstream interface receives the groups that the proxy has joined there; the
//! relay injects these packets into the container. A packet socket in the container captures what
//! the container sends to a group; the relay sends it out of the upstream interface.
//!
//! ```text
//!   LAN -> upstream -> receiver (groups, sources) -> injector (TTL 0) -> container's sockets
//!   container -> its interface -> capture -> port translation -> sender -> upstream -> LAN
//! ```
//!
//! A forwarding loop is impossible: an injected packet has TTL 0 and never leaves the container,
//! and the capture socket sees only what the container itself sends. The host's kernel loops a sent
//! packet back to every socket of the host that has joined the group. So each neighbour's relay
//! receives it once, and this relay receives its own packet too, which [`looped_back`] recognises
//! by its fingerprint. The nf_tables rules drop UDP multicast that reaches the container's
//! interface in any other way, so that no packet is delivered twice.

mod batch;
mod handover;
mod inbound;
mod looped_back;
mod outbound;
mod packet;
mod port_translation;
mod rate_limiter;
mod socket_filter;
mod sockets;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use crate::multicast::GroupPolicy;
use crate::multicast::{Address, FilterMode, SourceFilter};
use crate::proxy::config::InterfaceTask;
use crate::proxy::control::status::{RelayCounts, RelayStatus, TranslatedPort};
pub(crate) use crate::proxy::relay::batch::Batch;
pub(crate) use crate::proxy::relay::handover::RelayHandover;
use crate::proxy::relay::looped_back::LoopedBack;
#[cfg(any(test, feature = "fuzzing"))]
pub use crate::proxy::relay::packet::check_relayed_packet;
use crate::proxy::relay::port_translation::PortTranslation;
use crate::proxy::relay::rate_limiter::RateLimiter;
pub(crate) use crate::proxy::relay::sockets::{ContainerSockets, HostSockets};
use crate::sys::sockopt;

/// Batches that are read from one socket before the event loop serves the other descriptors.
const BATCHES_PER_TURN: usize = 8;
/// Most groups that the container sends to for which packets are counted per group. Packets to
/// further groups are counted in the total only.
const MAX_SENT_GROUPS: usize = 1024;

/// The relay of one interface.
pub(crate) struct Relay {
    interface: String,
    upstream: String,
    host: HostSockets,
    container: ContainerSockets,
    policy: GroupPolicy,
    /// The groups that are injected into the container.
    groups: BTreeMap<Ipv4Addr, RelayedGroup>,
    /// Packets that the container sent, by group.
    sent: BTreeMap<Ipv4Addr, RelayCounts>,
    inbound: Direction,
    outbound: Direction,
    looped_back: LoopedBack,
    /// `None` when packets leave with the container's own address (ipvlan).
    translation: Option<PortTranslation>,
    /// When the address of the upstream interface was last read.
    host_address_read_at: Option<Instant>,
    identification: u16,
}

struct RelayedGroup {
    filter: SourceFilter,
    counts: RelayCounts,
}

struct Direction {
    rate: RateLimiter,
    total: RelayCounts,
}

impl Relay {
    /// A relay that has no groups yet; `None` when the interface does not need a relay.
    pub(crate) fn new(
        config: &InterfaceTask,
        host: HostSockets,
        container: ContainerSockets,
        now: Instant,
    ) -> Option<Self> {
        let task = config.relay.as_ref()?;
        let direction =
            || Direction { rate: RateLimiter::new(task.rates, now), total: RelayCounts::default() };
        Some(Relay {
            interface: config.name.clone(),
            upstream: config.upstream.clone(),
            host,
            container,
            policy: config.policy.clone(),
            groups: BTreeMap::new(),
            sent: BTreeMap::new(),
            inbound: direction(),
            outbound: direction(),
            looped_back: LoopedBack::default(),
            translation: task.translate.then(PortTranslation::default),
            host_address_read_at: None,
            identification: 1,
        })
    }

    /// The socket that receives packets for the container.
    pub(crate) fn receiver(&self) -> BorrowedFd<'_> {
        self.host.receiver.as_fd()
    }

    /// The socket that captures what the container sends.
    pub(crate) fn capture(&self) -> BorrowedFd<'_> {
        self.container.capture.as_fd()
    }

    /// Relays to and from the container's interface of this index from now on.
    ///
    /// # Errors
    /// `ENODEV` when it is gone.
    pub(crate) fn set_interface(&mut self, index: u32) -> io::Result<()> {
        self.container.set_interface(index)
    }

    /// Sets the source filter of `group`. Call it before the group is joined upstream, and after it
    /// was left.
    ///
    /// # Errors
    /// `ENOMEM`: the kernel has no room for its filter.
    pub(crate) fn set(&mut self, group: Ipv4Addr, wanted: &SourceFilter) -> io::Result<()> {
        if wanted.is_none() {
            self.groups.remove(&group);
        } else if let Some(known) = self.groups.get_mut(&group) {
            known.filter = wanted.clone();
            return Ok(());
        } else {
            let received = RelayedGroup { filter: wanted.clone(), counts: RelayCounts::default() };
            self.groups.insert(group, received);
        }
        let groups: Vec<Ipv4Addr> = self.groups.keys().copied().collect();
        self.host.receiver.attach_filter(&socket_filter::only(&groups))
    }

    /// Removes all groups.
    pub(crate) fn clear(&mut self) {
        self.groups.clear();
        // When this fails, packets still arrive and match no group.
        let _ = self.host.receiver.attach_filter(&socket_filter::only(&[]));
    }

    /// When [`Relay::handle_timeout`] is to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.translation.as_ref()?.poll_timeout()
    }

    /// Frees the host ports that were idle for too long.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if let Some(translation) = &mut self.translation {
            translation.expire(now);
        }
    }

    /// Packet counts of a group, both directions; `None` when the group is not relayed.
    pub(crate) fn counts(&self, group: Ipv4Addr) -> Option<RelayCounts> {
        let received = self.groups.get(&group).map(|received| received.counts)?;
        Some(received + self.sent.get(&group).copied().unwrap_or_default())
    }

    /// The relay's part of the proxy's status.
    pub(crate) fn status(&self) -> RelayStatus {
        let mappings = self.translation.iter().flat_map(PortTranslation::mappings);
        // Packets that a full socket buffer dropped were never read: their group is unknown.
        let overrun = |socket: BorrowedFd<'_>| u64::from(sockopt::dropped(socket).unwrap_or(0));
        RelayStatus {
            inbound: self.inbound.total,
            outbound: self.outbound.total,
            overruns: overrun(self.receiver()) + overrun(self.capture()),
            ports: mappings
                .map(|mapping| TranslatedPort {
                    inside: (mapping.inside.0, mapping.inside.1).into(),
                    outside: (mapping.outside.0, mapping.outside.1).into(),
                    answered: mapping.answered,
                })
                .collect(),
        }
    }

    /// Whether packets to a group are relayed. Groups of 224.0.0.0/24 have link scope: they are
    /// relayed only when an `allow` rule names them.
    fn is_relayed(&self, group: Ipv4Addr) -> bool {
        !group.is_link_scope() || self.policy.relays_link_scope(group)
    }
}

/// Whether a filter lets a source through (RFC 9776 §3.2).
fn admits(filter: &SourceFilter, source: Ipv4Addr) -> bool {
    let listed = filter.sources.contains(&source);
    match filter.mode {
        FilterMode::Include => listed,
        FilterMode::Exclude => !listed,
    }
}

/// Adds a new answer socket, and the container's port that it serves, to the event loop.
pub(crate) type Watch<'w> = &'w mut dyn FnMut(&UdpSocket, u16);
