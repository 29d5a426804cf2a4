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

mod answers;
mod batch;
pub(crate) mod family;
mod handover;
mod in_hand;
mod in_kernel;
mod inbound;
mod looped_back;
mod outbound;
mod packet;
mod port_translation;
mod rate_limiter;
mod send_rules;
mod socket_filter;
mod sockets;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::multicast::{FilterMode, SourceFilter};
use crate::notice::Notice;
use crate::proxy::config::InterfaceTask;
use crate::proxy::control::status::{RelayCounts, RelayStatus, TranslatedPort};
use crate::proxy::relay::answers::Neighbourhood;
pub(crate) use crate::proxy::relay::batch::Batch;
use crate::proxy::relay::family::Relayed;
pub(crate) use crate::proxy::relay::handover::RelayHandover;
pub(crate) use crate::proxy::relay::in_hand::InHand;
use crate::proxy::relay::in_kernel::InKernel;
pub(crate) use crate::proxy::relay::in_kernel::Peer;
use crate::proxy::relay::looped_back::LoopedBack;
#[cfg(any(test, feature = "fuzzing"))]
pub use crate::proxy::relay::packet::check_relayed_packet;
use crate::proxy::relay::port_translation::PortTranslation;
use crate::proxy::relay::rate_limiter::RateLimiter;
use crate::proxy::relay::send_rules::SendRules;
pub(crate) use crate::proxy::relay::sockets::{ContainerSockets, HostSockets, RETURNS};
use crate::sys::{ifreq, sockopt};

/// Batches that are read from one socket before the event loop serves the other descriptors.
const BATCHES_PER_TURN: usize = 8;
/// Most groups that the container sends to for which packets are counted per group. Packets to
/// further groups are counted in the total only.
const MAX_SENT_GROUPS: usize = 1024;
/// How long the host's address, the MTU and the subnets are taken from memory before they are read
/// again: they may change while a container runs.
const LINK_FACTS_LIFETIME: Duration = Duration::from_secs(1);
/// Why the kernel relays no more after [`Relay::follow`].
const FOLLOWED: &str = "the parent has gone and come again since the container was started";

/// The relay of one interface, for one address family.
pub(crate) struct Relay<A: Relayed = Ipv4Addr> {
    interface: String,
    upstream: String,
    /// The name that the upstream interface has now.
    upstream_now: String,
    host: HostSockets<A>,
    container: ContainerSockets<A>,
    rules: SendRules<A>,
    /// Whether the kernel is to relay what it can.
    may_use_kernel: bool,
    /// What the kernel relays; `None`: this relay passes every packet on.
    kernel: Option<InKernel<A>>,
    /// Why the kernel relays no more, where it did.
    why_left: Option<&'static str>,
    /// The ends of the container's link, if it is one that the kernel can relay to.
    peer: Option<Peer>,
    /// Whether the receiver is that of the relay before this one.
    has_predecessors_receiver: bool,
    /// The groups that are injected into the container.
    groups: BTreeMap<A, RelayedGroup<A>>,
    /// Packets that the container sent, by group.
    sent: BTreeMap<A, RelayCounts>,
    /// Denials that nobody has been told of yet.
    notices: VecDeque<Notice>,
    inbound: Direction,
    outbound: Direction,
    looped_back: LoopedBack<A::Fingerprint>,
    /// Until then, a packet with a source of this relay is one that a dead relay has sent.
    own_sources_until: Option<Instant>,
    /// Set when the container's interface is a port of the upstream bridge itself: room for what the
    /// container sends, which is there without a relay.
    on_upstream: Option<Box<Batch<A>>>,
    /// `None` when packets leave with the container's own address (ipvlan).
    translation: Option<PortTranslation<A>>,
    /// When the address and the MTU of the upstream interface were last read.
    upstream_read_at: Option<Instant>,
    /// MTU of the upstream interface.
    mtu: usize,
    /// Who may answer.
    neighbourhood: Neighbourhood<A>,
    neighbourhood_read_at: Option<Instant>,
    identification: u16,
}

struct RelayedGroup<A> {
    filter: SourceFilter<A>,
    counts: RelayCounts,
}

struct Direction {
    rate: RateLimiter,
    total: RelayCounts,
}

impl<A: Relayed> Relay<A> {
    /// A relay that has no groups yet; `None` when the interface does not need a relay.
    pub(crate) fn new(
        config: &InterfaceTask,
        host: HostSockets<A>,
        container: ContainerSockets<A>,
        now: Instant,
    ) -> Option<Self> {
        let task = config.relay.as_ref()?;
        let direction =
            || Direction { rate: RateLimiter::new(task.rates, now), total: RelayCounts::default() };
        Some(Relay {
            interface: config.name.clone(),
            upstream: config.upstream.clone(),
            upstream_now: config.upstream.clone(),
            host,
            container,
            rules: SendRules::new(config.policy.clone()),
            may_use_kernel: task.in_kernel,
            kernel: None,
            why_left: None,
            peer: None,
            has_predecessors_receiver: false,
            groups: BTreeMap::new(),
            sent: BTreeMap::new(),
            notices: VecDeque::new(),
            inbound: direction(),
            outbound: direction(),
            looped_back: LoopedBack::default(),
            own_sources_until: None,
            on_upstream: None,
            translation: task.translate.then(|| PortTranslation::new(task.host_ports.clone())),
            upstream_read_at: None,
            mtu: usize::from(u16::MAX),
            neighbourhood: Neighbourhood::of(config.upstream_index),
            neighbourhood_read_at: None,
            identification: 1,
        })
    }

    /// The socket that receives packets for the container.
    pub(crate) fn receiver(&self) -> BorrowedFd<'_> {
        self.host.receiver().as_fd()
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

    /// Says whether the container's interface is a port of the upstream bridge itself.
    pub(crate) fn set_on_upstream(&mut self, is_on_upstream: bool) {
        self.on_upstream = is_on_upstream.then(|| Box::new(Batch::new()));
    }

    /// Whether the container's interface is a port of the upstream bridge itself.
    pub(crate) fn is_on_upstream(&self) -> bool {
        self.on_upstream.is_some()
    }

    /// Relays by the upstream interface of this index from now on, which has come again under the same
    /// name.
    ///
    /// # Errors
    /// As [`HostSockets::follow`].
    pub(crate) fn follow(&mut self, index: u32) -> io::Result<()> {
        // The program went with the interface.
        self.leave_kernel(FOLLOWED);
        self.host.follow(&self.upstream, index)?;
        self.neighbourhood.upstream = index;
        self.upstream_read_at = None;
        self.neighbourhood_read_at = None;
        Ok(())
    }

    /// Sets the source filter of `group`. Call it before the group is joined upstream, and after it
    /// was left.
    ///
    /// # Errors
    /// `ENOMEM`: the kernel has no room for its filter.
    pub(crate) fn set(&mut self, group: A, wanted: &SourceFilter<A>) -> io::Result<()> {
        if let Some(kernel) = &mut self.kernel {
            kernel.set(group, wanted)?;
        }
        if wanted.is_none() {
            self.groups.remove(&group);
        } else if let Some(known) = self.groups.get_mut(&group) {
            known.filter = wanted.clone();
            return Ok(());
        } else {
            let received = RelayedGroup { filter: wanted.clone(), counts: RelayCounts::default() };
            self.groups.insert(group, received);
        }
        self.receive_groups()
    }

    /// Removes all groups.
    pub(crate) fn clear(&mut self) {
        self.groups.clear();
        if let Some(kernel) = &mut self.kernel {
            kernel.retain(|_| false);
        }
        // When this fails, packets still arrive and match no group.
        let _ = self.receive_groups();
    }

    /// Has the receiver drop the packets of all other groups.
    fn receive_groups(&self) -> io::Result<()> {
        if self.kernel.is_some() {
            // The receiver's filter follows the entries of the programs.
            return Ok(());
        }
        let groups: Vec<A> = self.groups.keys().copied().collect();
        self.host.receive_only(&groups)
    }

    /// Whether the kernel relays what it can.
    pub(crate) fn is_in_kernel(&self) -> bool {
        self.kernel.as_ref().is_some_and(|kernel| kernel.is_relaying())
    }

    /// Whether the kernel relays what it can, or would if it knew the container's link.
    pub(crate) fn has_kernel(&self) -> bool {
        self.kernel.is_some()
    }

    /// Why the kernel relays no more, where it did.
    pub(crate) fn why_left(&self) -> Option<&'static str> {
        self.why_left
    }

    /// Whether the kernel could relay if it knew the container's link.
    pub(crate) fn wants_peer(&self) -> bool {
        self.kernel.is_some() && self.peer.is_none()
    }

    /// Has the kernel relay what it can. Needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN.
    ///
    /// # Errors
    /// As [`InKernel::load`]; everything is relayed as before then.
    pub(crate) fn enter_kernel(&mut self) -> io::Result<()> {
        let kernel = InKernel::load(self.neighbourhood.upstream, &self.inbound.rate)?;
        self.use_kernel(kernel)
    }

    /// Has these programs relay what they can.
    fn use_kernel(&mut self, mut kernel: InKernel<A>) -> io::Result<()> {
        kernel.retain(|group| self.groups.contains_key(&group));
        let groups = self.groups.iter().map(|(group, received)| (*group, &received.filter));
        kernel.set_all(groups)?;
        self.inbound.rate.share(kernel.limits()?);
        // The filter leaves everything to the proxy until the next step.
        kernel.programs().filter(self.host.receiver())?;
        kernel.set_peer(self.peer)?;
        self.kernel = Some(kernel);
        self.why_left = None;
        Ok(())
    }

    /// Relays everything without the kernel's help from now on, for this reason.
    fn leave_kernel(&mut self, reason: &'static str) {
        let Some(kernel) = self.kernel.take() else { return };
        self.why_left = Some(reason);
        for (group, received) in &mut self.groups {
            received.counts = received.counts + kernel.counts(*group);
        }
        self.inbound.total = self.inbound.total + kernel.total();
        self.inbound.rate.unshare();
    }

    /// The container's interface is at the end of this link from now on; `None`: of one that the kernel
    /// cannot relay to.
    pub(crate) fn set_peer(&mut self, peer: Option<Peer>) {
        if self.peer == peer {
            return;
        }
        self.peer = peer;
        if let Some(kernel) = &mut self.kernel
            && kernel.set_peer(peer).is_err()
        {
            // They may relay to a link that is not the container's any more.
            self.leave_kernel("the kernel refuses changes of its program");
            let _ = self.receive_groups();
        }
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
    pub(crate) fn counts(&self, group: A) -> Option<RelayCounts> {
        let received = self.groups.get(&group).map(|received| received.counts)?;
        let in_kernel = self.kernel.as_ref().map(|kernel| kernel.counts(group));
        let received = received + in_kernel.unwrap_or_default();
        Some(received + self.sent.get(&group).copied().unwrap_or_default())
    }

    /// The relay's part of the proxy's status.
    pub(crate) fn status(&self) -> RelayStatus {
        let address = |(address, port): (A, u16)| (address.into(), port).into();
        let mappings = self.translation.iter().flat_map(|translation| translation.mappings());
        // Packets that a full socket buffer dropped were never read: their group is unknown.
        let in_kernel = self.kernel.as_ref().map(|kernel| kernel.total());
        let overrun = |socket: BorrowedFd<'_>| u64::from(sockopt::dropped(socket).unwrap_or(0));
        RelayStatus {
            inbound: self.inbound.total + in_kernel.unwrap_or_default(),
            outbound: self.outbound.total,
            in_kernel: self.is_in_kernel(),
            overruns: overrun(self.receiver()) + overrun(self.capture()),
            ports: mappings
                .map(|mapping| TranslatedPort {
                    inside: address(mapping.inside),
                    outside: address(mapping.outside),
                    answered: mapping.answered,
                })
                .collect(),
        }
    }

    /// Adds what an earlier relay of the interface has counted. The groups are known by now.
    pub(crate) fn restore_counts(
        &mut self,
        status: Option<&RelayStatus>,
        groups: impl Iterator<Item = (A, RelayCounts)>,
    ) {
        if let Some(status) = status {
            self.inbound.total = self.inbound.total + status.inbound;
            self.outbound.total = self.outbound.total + status.outbound;
        }
        for (group, counts) in groups {
            if let Some(received) = self.groups.get_mut(&group) {
                received.counts = received.counts + counts;
            }
        }
    }

    /// Whether the container's interface has an address; `true` if that cannot be read.
    pub(crate) fn has_address(&self) -> bool {
        self.container.networks(&self.interface).map_or(true, |networks| !networks.is_empty())
    }

    /// The next thing that people are to be told.
    pub(crate) fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// The upstream interface has changed: it may have another name, and other addresses.
    pub(crate) fn forget_link_facts(&mut self) {
        self.upstream_read_at = None;
        self.neighbourhood_read_at = None;
    }

    /// Reads the address and the MTU of the upstream interface, unless they were read just now.
    fn refresh_upstream(&mut self, now: Instant) {
        if is_fresh(self.upstream_read_at, now) {
            return;
        }
        self.upstream_read_at = Some(now);
        // It may have another name meanwhile.
        if let Ok(name) = ifreq::name(&self.host.sender, self.neighbourhood.upstream) {
            self.upstream_now = name;
        }
        if let Ok(mtu) = ifreq::mtu(&self.host.sender, &self.upstream_now) {
            self.mtu = mtu;
        }
        if let Some(translation) = &mut self.translation {
            translation.set_host(self.host.addresses_of(&self.upstream_now));
        }
    }

    /// Reads the subnets whose stations may answer, unless they were read just now.
    fn refresh_neighbourhood(&mut self, now: Instant) {
        if is_fresh(self.neighbourhood_read_at, now) {
            return;
        }
        self.neighbourhood_read_at = Some(now);
        self.refresh_upstream(now);
        let Relay { host, container, upstream_now, interface, neighbourhood, .. } = self;
        neighbourhood.host = host.all_addresses().unwrap_or_default();
        neighbourhood.lan = host.networks(upstream_now).unwrap_or_default();
        neighbourhood.container = container.networks(interface).unwrap_or_default();
    }
}

/// The next IPv4 identification.
fn next(identification: &mut u16) -> u16 {
    *identification = identification.wrapping_add(1).max(1);
    *identification
}

/// Whether what was read at some time still holds.
fn is_fresh(read_at: Option<Instant>, now: Instant) -> bool {
    read_at.is_some_and(|read| now.saturating_duration_since(read) < LINK_FACTS_LIFETIME)
}

/// Whether a filter lets a source through (RFC 9776 §3.2).
fn admits<A: Ord>(filter: &SourceFilter<A>, source: A) -> bool {
    let listed = filter.sources.contains(&source);
    match filter.mode {
        FilterMode::Include => listed,
        FilterMode::Exclude => !listed,
    }
}

/// Adds a new answer socket, and the container's port that it serves, to the event loop.
pub(crate) type Watch<'w> = &'w mut dyn FnMut(&UdpSocket, u16);
