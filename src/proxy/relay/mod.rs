//! The relay: multicast data across the namespace boundary, for links that carry none.
//!
//! What the proxy has joined upstream is received there by a raw socket and put into the container,
//! and what the container sends to a group goes out of the upstream interface:
//!
//! ```text
//!   LAN -> upstream -> receiver (groups, sources) -> injector (TTL 0) -> container's sockets
//!   container -> its interface -> tap -> translation -> sender -> upstream -> LAN
//! ```
//!
//! No loop can come of it: what is injected has a time to live of 0 and never leaves the container,
//! and the tap sees only what the container itself sends. The host's kernel loops what is sent to
//! all who have joined on the host, so that each neighbour's relay has it once; one's own comes back
//! too and is known by its fingerprint ([`echo`]). What arrives at the container's interface otherwise
//! is kept out by the filter, so that nothing is delivered twice.

mod batch;
mod echo;
mod group_filter;
mod inbound;
mod inheritance;
mod outbound;
mod packet;
mod rate;
mod sockets;
mod translation;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use crate::multicast::GroupPolicy;
use crate::multicast::{FilterMode, SourceFilter, is_link_local};
use crate::proxy::config::ProxyInterface;
use crate::proxy::control::status::{RelayCounts, RelayStatus, TranslatedPort};
pub(crate) use crate::proxy::relay::batch::Batch;
use crate::proxy::relay::echo::Echoes;
pub(crate) use crate::proxy::relay::inheritance::Inheritance;
#[doc(hidden)]
pub use crate::proxy::relay::packet::check_relayed_packet;
use crate::proxy::relay::rate::RateLimiter;
pub(crate) use crate::proxy::relay::sockets::{ContainerSockets, HostSockets};
use crate::proxy::relay::translation::Translation;
use crate::sys::sockopt;

/// Batches of one socket before the others have their turn.
const TURN: usize = 8;
/// Groups that the container sends to and are counted one by one.
const MOST_SENT: usize = 1024;

/// The relay of one interface.
pub(crate) struct Relay {
    interface: String,
    upstream: String,
    host: HostSockets,
    container: ContainerSockets,
    policy: GroupPolicy,
    /// What is received, by group.
    groups: BTreeMap<Ipv4Addr, Received>,
    /// What was sent, by group.
    sent: BTreeMap<Ipv4Addr, RelayCounts>,
    inbound: Direction,
    outbound: Direction,
    echoes: Echoes,
    /// None where the container's own address is kept.
    translation: Option<Translation>,
    /// When the host's address was last looked at.
    address_read: Option<Instant>,
    identification: u16,
}

struct Received {
    filter: SourceFilter,
    counts: RelayCounts,
}

struct Direction {
    rate: RateLimiter,
    total: RelayCounts,
}

impl Relay {
    /// A relay that receives nothing yet; `None` when the interface has no need of one.
    pub(crate) fn new(
        config: &ProxyInterface,
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
            echoes: Echoes::default(),
            translation: task.translate.then(Translation::default),
            address_read: None,
            identification: 1,
        })
    }

    /// What is readable when something has arrived for the container.
    pub(crate) fn receiver(&self) -> BorrowedFd<'_> {
        self.host.receiver.as_fd()
    }

    /// What is readable when the container has sent something.
    pub(crate) fn tap(&self) -> BorrowedFd<'_> {
        self.container.tap.as_fd()
    }

    /// Relays to and from the container's interface of this index from now on.
    ///
    /// # Errors
    /// `ENODEV` when it is gone.
    pub(crate) fn turn_to(&mut self, index: u32) -> io::Result<()> {
        self.container.turn_to(index)
    }

    /// Makes what is received of `group` what is wanted; to be called before it is joined, and after it
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
            let received = Received { filter: wanted.clone(), counts: RelayCounts::default() };
            self.groups.insert(group, received);
        }
        let groups: Vec<Ipv4Addr> = self.groups.keys().copied().collect();
        self.host.receiver.attach_filter(&group_filter::only(&groups))
    }

    /// Receives nothing any more.
    pub(crate) fn clear(&mut self) {
        self.groups.clear();
        // Where it fails, what comes is of no group.
        let _ = self.host.receiver.attach_filter(&group_filter::only(&[]));
    }

    /// When [`Relay::handle_timeout`] is to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.translation.as_ref()?.poll_timeout()
    }

    /// Gives up ports that were not used for long.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if let Some(translation) = &mut self.translation {
            translation.expire(now);
        }
    }

    /// What became of a group's packets in both directions; none when it is not relayed.
    pub(crate) fn counts(&self, group: Ipv4Addr) -> Option<RelayCounts> {
        let received = self.groups.get(&group).map(|received| received.counts)?;
        Some(received + self.sent.get(&group).copied().unwrap_or_default())
    }

    /// What is to be told of it.
    pub(crate) fn status(&self) -> RelayStatus {
        let lines = self.translation.iter().flat_map(Translation::lines);
        // What the sockets had no room for was never seen, and is of no known group.
        let overrun = |socket: BorrowedFd<'_>| u64::from(sockopt::dropped(socket).unwrap_or(0));
        RelayStatus {
            inbound: self.inbound.total,
            outbound: self.outbound.total,
            overruns: overrun(self.receiver()) + overrun(self.tap()),
            ports: lines
                .map(|line| TranslatedPort {
                    inside: SocketAddrV4::new(line.inside.0, line.inside.1),
                    outside: SocketAddrV4::new(line.outside.0, line.outside.1),
                    answered: line.answered,
                })
                .collect(),
        }
    }

    /// Whether the relay has to do with a group: with those of 224.0.0.0/24 only where a rule names
    /// them, since they are every link's own.
    fn concerns(&self, group: Ipv4Addr) -> bool {
        !is_link_local(group) || self.policy.names_link_local(group)
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

/// Watches a socket that takes answers for a port of the container.
pub(crate) type Watch<'w> = &'w mut dyn FnMut(&UdpSocket, u16);
