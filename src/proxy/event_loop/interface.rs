//! One interface of the container: its routers of IGMP and MLD, and the sockets on both sides of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use crate::attachment::IgmpMode;
use crate::igmp::{Igmp, Router};
use crate::mld::Mld;
use crate::multicast::{Address, SourceFilter};
use crate::net::arp_announcement::Announcer;
use crate::proxy::config::InterfaceTask;
use crate::proxy::container::injection::QueryInjector;
use crate::proxy::container::receive_filter::{ReceiveFilter, ReceiveFilterSocket};
use crate::proxy::event_loop::family::{Spoken, reporter};
use crate::proxy::event_loop::proxied::{Proxied, inject_query, new_router};
use crate::proxy::event_loop::speakers::{MldSpeaker, Mode, Speaker};
use crate::proxy::event_loop::upstreams::Upstreams;
use crate::proxy::lan::joins::JoinSockets;
use crate::proxy::process::log::Log;
use crate::proxy::relay::family::Relayed;
use crate::proxy::relay::{ContainerSockets, HostSockets, Relay};

/// Groups of one interface whose age is remembered while the interface is only observed.
pub(super) const MAX_OBSERVED_GROUPS: usize = 4096;

/// The sockets of one proxied interface, in both namespaces.
pub(crate) struct InterfaceSockets {
    /// Injects queries into the container.
    pub(crate) injector: QueryInjector,
    /// The same for MLD; `None`: the container's kernel speaks MLD itself.
    pub(crate) mld_injector: Option<QueryInjector<Ipv6Addr>>,
    /// `None`: the link carries multicast, and nothing is relayed.
    pub(crate) relay: Option<RelaySockets>,
    /// Those of IPv6; `None`: no data of IPv6 is relayed.
    pub(crate) relay_v6: Option<RelaySockets<Ipv6Addr>>,
}

/// The sockets of one relay.
pub(crate) struct RelaySockets<A: Relayed = Ipv4Addr> {
    pub(crate) container: ContainerSockets<A>,
    pub(crate) host: HostSockets<A>,
}

/// One interface.
pub(crate) struct Interface {
    pub(super) task: InterfaceTask,
    /// Since when the link is administratively up, according to the notifications; `None`: it is
    /// down.
    pub(super) up_since: Option<Instant>,
    /// When an earlier proxy began to listen for the LAN's querier; the link was up then.
    pub(super) listened_before: Option<Instant>,
    /// `None`: the interface has no receive filter, because no multicast arrives by the link.
    receive_filter: Option<ReceiveFilter>,
    /// Whether the kernel notifies of leaves. If not, the container's reports show them.
    notifies_leaves: bool,
    /// Whether the link has come, come up or changed, or its routes may have, and nobody has looked at
    /// it yet.
    pub(super) needs_look: bool,
    /// When somebody last looked at it.
    pub(super) looked_at: Option<Instant>,
    /// Why the kernel does not relay to it, where the proxy does; `None`: the kernel does, or is not to.
    pub(super) not_in_kernel: Option<&'static str>,
    /// Whether it was made for the container and is gone.
    is_lost: bool,
    /// What is wrong with the upstream interface, for people; `None`: nothing.
    upstream_problem: Option<String>,
    /// Whether the groups may differ from those that the subscribers of the control socket know.
    pub(super) has_changed: bool,
    pub(super) mode: Mode,
    /// `None`: the container's kernel speaks MLD itself, or no IPv6 at all.
    pub(super) mld: MldSpeaker,
}

impl Interface {
    /// An interface that is proxied with these sockets, and observed without.
    pub(super) fn new(
        task: InterfaceTask,
        sockets: Option<InterfaceSockets>,
        notifies_leaves: bool,
        now: Instant,
    ) -> Self {
        let receive_filter = task.relay.is_none().then(ReceiveFilter::default);
        let mut mld = None;
        let mode = match sockets {
            Some(InterfaceSockets { injector, mld_injector, relay, relay_v6 }) => {
                let relay_v6 = new_relay(&task, relay_v6, now);
                mld = mld_injector.map(|mld| Box::new(Proxied::new(&task, mld, relay_v6, now)));
                let relay = new_relay(&task, relay, now);
                Mode::Proxied(Box::new(Proxied::new(&task, injector, relay, now)))
            }
            None => Mode::Observed { joined_at: BTreeMap::new() },
        };
        Interface {
            task,
            up_since: None,
            listened_before: None,
            receive_filter,
            notifies_leaves,
            needs_look: false,
            looked_at: None,
            not_in_kernel: None,
            is_lost: false,
            upstream_problem: None,
            has_changed: false,
            mode,
            mld,
        }
    }

    /// Whether the kernel notifies of leaves from now on.
    pub(super) fn set_notifies_leaves(&mut self, notifies_leaves: bool) {
        self.notifies_leaves = notifies_leaves;
    }

    pub(super) fn proxied(&mut self) -> Option<&mut Proxied> {
        match &mut self.mode {
            Mode::Proxied(proxied) => Some(proxied),
            Mode::Observed { .. } => None,
        }
    }

    /// What speaks a protocol for the interface, if the proxy does.
    pub(super) fn speaker<P: Speaker>(&self) -> Option<&Proxied<P>> {
        P::find(&self.mode, &self.mld)
    }

    /// The same, to be changed.
    pub(super) fn speaker_mut<P: Speaker>(&mut self) -> Option<&mut Proxied<P>> {
        P::of(&mut self.mode, &mut self.mld)
    }

    /// Whether the proxy speaks IGMP for the interface.
    pub(super) fn is_proxied(&self) -> bool {
        matches!(self.mode, Mode::Proxied(_))
    }

    /// Whether the task asks for a proxied interface, and this one is only observed.
    pub(super) fn is_degraded(&self) -> bool {
        self.task.igmp == IgmpMode::Proxy && !self.is_proxied()
    }

    /// Its router, if it is proxied. The caller may change the groups.
    pub(super) fn router(&mut self) -> Option<&mut Router> {
        self.has_changed = true;
        self.proxied().map(|proxied| &mut proxied.router)
    }

    /// The host's firewall drops what the host reports, or does so no more.
    pub(super) fn set_reports_filtered(&mut self, reports_filtered: bool) {
        self.has_changed = true;
        if let Some(proxied) = self.proxied() {
            proxied.reports_filtered = reports_filtered;
        }
    }

    /// Its relay of a family, if it has one.
    pub(super) fn relay<P: Speaker>(&mut self) -> Option<&mut Relay<P::Address>> {
        self.speaker_mut::<P>()?.relay.as_mut()
    }

    /// Turns its relays to the interface of this index.
    ///
    /// # Errors
    /// `ENODEV` when it is gone.
    pub(super) fn turn_relays(&mut self, index: u32) -> io::Result<()> {
        self.relay::<Igmp>().map_or(Ok(()), |relay| relay.set_interface(index))?;
        self.relay::<Mld>().map_or(Ok(()), |relay| relay.set_interface(index))
    }

    /// The sockets that hold its memberships in one protocol, if it is proxied.
    pub(super) fn joins<P: Speaker>(&mut self) -> Option<&mut JoinSockets<P::Address>> {
        self.speaker_mut::<P>().map(|proxied| &mut proxied.joins)
    }

    /// Relays nothing any more.
    pub(super) fn drop_relay(&mut self) {
        if let Some(proxied) = self.proxied() {
            proxied.relay = None;
        }
        if let Some(mld) = &mut self.mld {
            mld.relay = None;
        }
    }

    /// The interface exists now, and has this index.
    ///
    /// # Errors
    /// `ENODEV` or `EADDRNOTAVAIL` when it is gone again.
    pub(super) fn set_index(&mut self, index: u32) -> io::Result<()> {
        self.task.index = index;
        if let Some(mld) = &self.mld {
            mld.injector.set_interface(index)?;
        }
        let Some(proxied) = self.proxied() else { return Ok(()) };
        proxied.injector.set_interface(index)?;
        self.turn_relays(index)
    }

    /// The link is up. The first time, the interface's addresses are announced. If the link was known
    /// to be up, something else of it has changed, such as its hardware address.
    pub(super) fn handle_link_up(&mut self, now: Instant, announcer: Option<&Announcer>) {
        self.needs_look = true;
        if self.up_since.is_some() {
            return;
        }
        self.up_since = Some(now);
        let InterfaceTask { index, mac, announce, parent, upstream, upstream_index, .. } =
            &mut self.task;
        let parent = (parent == upstream).then_some(*upstream_index);
        for address in announce.drain(..) {
            if let (Some(announcer), Some(mac)) = (announcer, *mac) {
                // Without an announcement a neighbour may use a stale ARP entry until it expires.
                let _ = announcer.announce(*index, parent, address, mac);
            }
        }
        if let Some(router) = self.router() {
            router.handle_link_up(now);
        }
        if let Some(mld) = &mut self.mld {
            mld.router.handle_link_up(now);
        }
    }

    /// Whether the interface is relayed to and does not exist, or was made for the container and does
    /// not exist any more.
    pub(super) fn is_missing(&self) -> bool {
        self.is_lost || (self.task.relay.is_some() && self.is_proxied() && self.task.index == 0)
    }

    /// Whether it was made for the container and is gone. Another proxy serves the one that is made
    /// in its place.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// What is wrong with the upstream interface from now on; `None`: nothing.
    pub(super) fn set_upstream_problem(&mut self, problem: Option<String>) {
        self.has_changed |= self.upstream_problem != problem;
        self.upstream_problem = problem;
    }

    /// What is wrong with the upstream interface.
    pub(super) fn upstream_problem(&self) -> Option<&str> {
        self.upstream_problem.as_deref()
    }

    /// Whether all addresses of the interface have been announced.
    pub(super) fn is_announced(&self) -> bool {
        self.task.announce.is_empty()
    }

    /// Since when this proxy, or one before it, listens for the LAN's querier; `None`: the link is
    /// down.
    pub(super) fn listening_since(&self) -> Option<Instant> {
        let up_since = self.up_since?;
        Some(self.listened_before.map_or(up_since, |before| before.min(up_since)))
    }

    /// The link is down. Memberships stay until they time out, because a link often comes up again.
    pub(super) fn handle_link_down(&mut self) {
        self.up_since = None;
        self.listened_before = None;
    }

    /// The interface is gone, and with it all memberships of the container on it.
    pub(super) fn handle_removal(&mut self, now: Instant, upstreams: &Upstreams) {
        self.has_changed = true;
        self.up_since = None;
        self.listened_before = None;
        self.is_lost = self.task.relay.as_ref().is_none_or(|relay| !relay.translate);
        self.receive_filter = self.receive_filter.take().map(|_| ReceiveFilter::default());
        match &mut self.mode {
            Mode::Proxied(proxied) => {
                proxied.router = new_router(&self.task, now);
                proxied.leave_all(now, self.task.upstream_index, upstreams);
                if let Some(relay) = &mut proxied.relay {
                    relay.clear();
                    relay.set_peer(None);
                    // Another interface of the same name may be created.
                    self.task.index = 0;
                }
            }
            Mode::Observed { joined_at } => joined_at.clear(),
        }
        if let Some(mld) = &mut self.mld {
            mld.router = new_router(&self.task, now);
            mld.leave_all(now, self.task.upstream_index, upstreams);
            if let Some(relay) = &mut mld.relay {
                relay.clear();
                relay.set_peer(None);
            }
        }
    }

    /// The container's kernel has joined a group. Tells whether the group is one for the router.
    pub(super) fn handle_join(&mut self, now: Instant, group: Ipv4Addr) -> bool {
        self.has_changed = true;
        // Nobody tells of routes and settings, on which depends what the kernel can relay.
        self.needs_look |= self.task.relay.is_some();
        if let Some(filter) = &mut self.receive_filter {
            filter.handle_join();
        }
        if let Mode::Observed { joined_at } = &mut self.mode
            && joined_at.len() < MAX_OBSERVED_GROUPS
        {
            joined_at.insert(group, now);
        }
        self.is_for_router(group)
    }

    /// The container's kernel has left a group. Tells whether the group is one for the router.
    pub(super) fn handle_leave(&mut self, now: Instant, group: Ipv4Addr) -> bool {
        self.has_changed = true;
        if let Some(filter) = &mut self.receive_filter {
            filter.handle_leave(now);
        }
        if let Mode::Observed { joined_at } = &mut self.mode {
            joined_at.remove(&group);
        }
        self.is_for_router(group)
    }

    /// The container's kernel has joined or left an IPv6 group. Tells whether the group is one for the
    /// router.
    pub(super) fn handle_mld_change(
        &mut self,
        now: Instant,
        group: Ipv6Addr,
        joined: bool,
    ) -> bool {
        self.has_changed = true;
        if let Some(filter) = &mut self.receive_filter {
            match joined {
                true => filter.handle_join(),
                false => filter.handle_leave(now),
            }
        }
        // Nobody tells of routes and settings, on which depends what the kernel can relay.
        self.needs_look |= joined && self.task.relay.is_some();
        self.mld.is_some() && group.needs_report()
    }

    /// Whether the router keeps state of a group. Groups of 224.0.0.0/24 stay on the link, so the
    /// router has them only where the link's data is relayed.
    fn is_for_router(&self, group: Ipv4Addr) -> bool {
        match &self.mode {
            Mode::Proxied(proxied) => proxied.relay.is_some() || group.needs_report(),
            Mode::Observed { .. } => false,
        }
    }

    /// Does what is due. Tells whether the sockets of a relay may have changed.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        upstreams: &Upstreams,
        receive_filter_socket: Option<&ReceiveFilterSocket>,
    ) -> bool {
        if let Some(filter) = &mut self.receive_filter {
            filter.handle_timeout(now, receive_filter_socket, self.task.index);
        }
        self.handle_timeout_of::<Mld>(now, upstreams);
        if self.handle_timeout_of::<Igmp>(now, upstreams) {
            // The kernel tells the proxy of no routes, so they are looked at with each query.
            self.needs_look |= self.up_since.is_some();
        }
        let expired = self.expire_ports::<Igmp>(now);
        self.expire_ports::<Mld>(now) || expired
    }

    /// Frees ports of a relay that were idle for too long. Tells whether it was time to.
    fn expire_ports<P: Speaker>(&mut self, now: Instant) -> bool {
        let relay = self.relay::<P>();
        let due = relay.filter(|relay| relay.poll_timeout().is_some_and(|at| at <= now));
        due.map(|relay| relay.handle_timeout(now)).is_some()
    }

    /// Does what is due in one protocol. Tells whether something of the router was.
    fn handle_timeout_of<P: Speaker>(&mut self, now: Instant, upstreams: &Upstreams) -> bool {
        let upstream = self.task.upstream_index;
        let Some(proxied) = self.speaker_mut::<P>() else { return false };
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let (router, joins) =
            (is_due(proxied.router.poll_timeout()), is_due(proxied.joins.poll_retry()));
        if router {
            proxied.router.handle_timeout(now);
        }
        if joins {
            proxied.retry_joins(now, upstream, upstreams);
        }
        self.has_changed |= router || joins;
        router
    }

    /// When to call [`Interface::handle_timeout`].
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let receive_filter = self.receive_filter.as_ref().and_then(ReceiveFilter::poll_timeout);
        let proxied = match &self.mode {
            Mode::Proxied(proxied) => {
                let relay = proxied.relay.as_ref().and_then(Relay::poll_timeout);
                [proxied.router.poll_timeout(), proxied.joins.poll_retry(), relay]
            }
            Mode::Observed { .. } => [None; 3],
        };
        let mld = self.mld.as_ref();
        let mld = mld.map(|mld| {
            let relay = mld.relay.as_ref().and_then(Relay::poll_timeout);
            [mld.router.poll_timeout(), mld.joins.poll_retry(), relay]
        });
        proxied.into_iter().chain(mld.into_iter().flatten()).chain([receive_filter]).flatten().min()
    }

    /// Tells the router the source filter that the container's kernel has for a group, and carries
    /// out what the router decides. A first join of a group is made and reported before the
    /// router's state is updated, so that the stream starts as early as possible.
    pub(super) fn handle_membership<P: Speaker>(
        &mut self,
        now: Instant,
        (group, filter): (P::Address, &SourceFilter<P::Address>),
        upstreams: &Upstreams,
        log: &mut Log,
    ) {
        let index = self.task.upstream_index;
        let Some(proxied) = self.speaker_mut::<P>() else { return };
        let Proxied { router, joins, relay, postponed, looked, .. } = proxied;
        // A relay must admit the group before it is joined.
        if relay.is_none()
            && postponed.is_none()
            && !looked.insert((now, upstreams.is_down(index))).1
            && let Some(wanted) = router.predict_join(now, group, filter)
            && let Some(reporter) = reporter::<P>(upstreams, index)
            && let Some(limits) = P::limits(upstreams)
        {
            joins.join_ahead(group, &wanted, limits, |join| {
                reporter.join(now, group, &wanted, join)
            });
        }
        router.handle_membership(now, group, filter);
        self.has_changed = true;
        self.process_output_of::<P>(now, upstreams, log);
    }

    /// Joins all groups again, on the upstream interface of this index. The sockets of the last one
    /// hold nothing any more. A join that fails shows in the status, and is tried again.
    pub(super) fn rejoin(&mut self, now: Instant, upstream: u32, upstreams: &Upstreams) {
        self.task.upstream_index = upstream;
        self.has_changed = true;
        self.rejoin_in::<Igmp>(now, upstream, upstreams);
        self.rejoin_in::<Mld>(now, upstream, upstreams);
    }

    fn rejoin_in<P: Speaker>(&mut self, now: Instant, upstream: u32, upstreams: &Upstreams) {
        let Some(proxied) = self.speaker_mut::<P>() else { return };
        let Proxied { router, joins, postponed, .. } = proxied;
        *postponed = None;
        joins.turn_to(upstream);
        let Some(limits) = P::limits(upstreams) else { return };
        for view in router.groups().filter(|view| !view.upstream.is_none()) {
            let _ = joins.set_filter(now, view.group, view.upstream, limits);
        }
    }

    /// The groups that are to be joined on the upstream.
    pub(super) fn wanted_groups<P: Speaker>(&mut self) -> Vec<P::Address> {
        let Some(Proxied { router, .. }) = self.speaker_mut::<P>() else { return Vec::new() };
        let wanted = router.groups().filter(|view| !view.upstream.is_none());
        wanted.map(|view| view.group).collect()
    }

    /// Joins again those of its groups that the host's kernel has lost. Nothing is left on the LAN.
    pub(super) fn rejoin_missing<P: Speaker>(
        &mut self,
        now: Instant,
        missing: &BTreeSet<P::Address>,
        upstreams: &Upstreams,
    ) {
        let Some(limits) = P::limits(upstreams) else { return };
        let Some(Proxied { router, joins, .. }) = self.speaker_mut::<P>() else { return };
        let mut has_changed = false;
        let wanted = router.groups().filter(|view| !view.upstream.is_none());
        for view in wanted.filter(|view| missing.contains(&view.group)) {
            has_changed = true;
            // The kernel has forgotten it, and the socket has not. A join that fails shows in the
            // status, and is tried again.
            let _ = joins.set_filter(now, view.group, SourceFilter::none(), limits);
            let _ = joins.set_filter(now, view.group, view.upstream, limits);
        }
        self.has_changed |= has_changed;
    }

    /// Opens a spare socket for the next join, if there is none. Call it when nothing else is
    /// urgent.
    pub(super) fn prepare_spare_join(&mut self, upstreams: &Upstreams) {
        if let Some(proxied) = self.proxied() {
            proxied.joins.prepare(&upstreams.limits);
        }
        if let (Some(mld), Some(limits)) = (&mut self.mld, Mld::limits(upstreams)) {
            mld.joins.prepare(limits);
        }
    }

    /// Carries out what the routers have decided: injects queries, joins and leaves groups, logs
    /// notices.
    pub(super) fn process_router_output(
        &mut self,
        now: Instant,
        upstreams: &Upstreams,
        log: &mut Log,
    ) {
        self.process_output_of::<Igmp>(now, upstreams, log);
        self.process_output_of::<Mld>(now, upstreams, log);
    }

    fn process_output_of<P: Speaker>(
        &mut self,
        now: Instant,
        upstreams: &Upstreams,
        log: &mut Log,
    ) {
        let Interface { task, receive_filter, notifies_leaves, mode, mld, .. } = self;
        let Some(proxied) = P::of(mode, mld) else { return };
        while let Some(query) = proxied.router.poll_query() {
            inject_query(&proxied.injector, &query, now, &task.name, log);
        }
        while let Some((group, filter)) = proxied.router.poll_change() {
            if let Some(receive_filter) = receive_filter
                && !*notifies_leaves
            {
                match filter.is_none() {
                    true => receive_filter.handle_leave(now),
                    false => receive_filter.handle_join(),
                }
            }
            proxied.set_filter(now, group, filter, task, upstreams, log);
        }
        while let Some(notice) = proxied.router.poll_notice() {
            log.notice(now, notice);
        }
    }
}

fn new_relay<A: Relayed>(
    task: &InterfaceTask,
    sockets: Option<RelaySockets<A>>,
    now: Instant,
) -> Option<Relay<A>> {
    sockets.and_then(|sockets| Relay::new(task, sockets.host, sockets.container, now))
}
