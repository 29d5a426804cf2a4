//! One interface of the container: the router, and the sockets on both sides of it.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::time::Instant;

use crate::igmp::Router;
use crate::igmp::router::{GroupView, RouterConfig, Status};
use crate::multicast::{Address, SourceFilter};
use crate::net::arp_announcement::Announcer;
use crate::notice::Notice;
use crate::proxy::config::InterfaceTask;
use crate::proxy::container::injection::QueryInjector;
use crate::proxy::container::membership_files::KernelMembership;
use crate::proxy::container::receive_filter::{ReceiveFilter, ReceiveFilterSocket};
use crate::proxy::control::status::{
    GroupMembership, InterfaceStatus, MembershipStatus, QuerierStatus,
};
use crate::proxy::event_loop::lan_notices::querier_notice;
use crate::proxy::lan::early_report::Reporter;
use crate::proxy::lan::joins::{JoinSockets, LimitFiles};
use crate::proxy::process::log::Log;
use crate::proxy::relay::{Relay, RelayHandover};

/// One interface.
pub(crate) struct Interface {
    pub(crate) config: InterfaceTask,
    /// Since when it is administratively up, as far as was told.
    up_since: Option<Instant>,
    /// `None`: no frame of a group comes by this interface.
    receive_filter: Option<ReceiveFilter>,
    /// Its groups may be others than those that subscribers know.
    pub(crate) has_changed: bool,
    /// The kernel tells of leaves.
    hears_leaves: bool,
    /// `None`: the container's kernel speaks for itself.
    served: Option<Served>,
}

struct Served {
    router: Router,
    injector: QueryInjector,
    joins: JoinSockets<Ipv4Addr>,
    /// Carries the data where the link does not.
    relay: Option<Relay>,
}

impl Interface {
    /// With an injector it is served, else observed. Where the kernel does not tell of leaves, those count
    /// that it reports.
    pub(crate) fn new(
        config: InterfaceTask,
        injector: Option<QueryInjector>,
        relay: Option<Relay>,
        hears_leaves: bool,
        now: Instant,
    ) -> Self {
        let receive_filter = config.relay.is_none().then(ReceiveFilter::default);
        let served = injector.map(|injector| Served {
            router: new_router(&config, now),
            injector,
            joins: JoinSockets::new(config.upstream_index),
            relay,
        });
        Interface {
            config,
            up_since: None,
            receive_filter,
            has_changed: false,
            hears_leaves,
            served,
        }
    }

    /// Whether the proxy is the IGMP router on it.
    pub(crate) fn is_served(&self) -> bool {
        self.served.is_some()
    }

    /// Its router, if it is served. The caller may change the groups.
    pub(crate) fn router(&mut self) -> Option<&mut Router> {
        self.has_changed = true;
        self.served.as_mut().map(|s| &mut s.router)
    }

    /// Whether what it joins of this group is anything to its router.
    pub(crate) fn concerns(&self, group: Ipv4Addr) -> bool {
        let served = self.served.as_ref();
        served.is_some_and(|served| served.relay.is_some() || group.needs_report())
    }

    /// The container's kernel has joined a group on it.
    pub(crate) fn joined(&mut self) {
        self.has_changed = true;
        self.receive_filter.iter_mut().for_each(ReceiveFilter::handle_join);
    }

    /// The container's kernel has left a group on it.
    pub(crate) fn left(&mut self, now: Instant) {
        self.has_changed = true;
        self.receive_filter.iter_mut().for_each(|filter| filter.handle_leave(now));
    }

    /// Its relay, if it has one.
    pub(crate) fn relay(&mut self) -> Option<&mut Relay> {
        self.served.as_mut()?.relay.as_mut()
    }

    /// Its relay, if it has one, carries on where another has stopped.
    pub(crate) fn inherit(&mut self, now: Instant, from: RelayHandover, sockets: Vec<OwnedFd>) {
        let index = self.config.index;
        let Some(relay) = self.relay() else { return };
        relay.take_over(now, from, sockets);
        if index != 0 {
            // One that is gone again is told as gone.
            let _ = relay.set_interface(index);
        }
    }

    /// Relays nothing any more.
    pub(crate) fn drop_relay(&mut self) {
        if let Some(served) = &mut self.served {
            served.relay = None;
        }
    }

    /// It is there now, as an interface of this index.
    ///
    /// # Errors
    /// `ENODEV` or `EADDRNOTAVAIL` when it is gone again.
    pub(crate) fn appear(&mut self, index: u32) -> io::Result<()> {
        self.config.index = index;
        let Some(served) = &mut self.served else { return Ok(()) };
        served.injector.set_interface(index)?;
        served.relay.as_mut().map_or(Ok(()), |relay| relay.set_interface(index))
    }

    /// The link is up; nothing happens if that was known. The first time its addresses are announced, if they
    /// are to be.
    pub(crate) fn link_up(&mut self, now: Instant, announcer: Option<&Announcer>) {
        if self.up_since.is_some() {
            return;
        }
        self.up_since = Some(now);
        let InterfaceTask { index, mac, announce, parent, upstream, upstream_index, .. } =
            &mut self.config;
        let parent = (parent == upstream).then_some(*upstream_index);
        for address in announce.drain(..) {
            if let (Some(announcer), Some(mac)) = (announcer, *mac) {
                // A lost one costs a neighbour its cache's lifetime.
                let _ = announcer.announce(*index, parent, address, mac);
            }
        }
        if let Some(served) = &mut self.served {
            served.router.handle_link_up(now);
        }
    }

    /// Whether the LAN has been told of all its addresses that it is to be told of.
    pub(crate) fn is_announced(&self) -> bool {
        self.config.announce.is_empty()
    }

    /// The link is down: what is joined stays until its time is over, link_monitor often come back.
    pub(crate) fn link_down(&mut self) {
        self.up_since = None;
    }

    /// The interface is gone: so is all that the container wanted of it.
    pub(crate) fn gone(&mut self, now: Instant) {
        self.has_changed = true;
        self.up_since = None;
        self.receive_filter = self.receive_filter.take().map(|_| ReceiveFilter::default());
        if let Some(served) = &mut self.served {
            served.router = new_router(&self.config, now);
            served.joins.clear();
            if let Some(relay) = &mut served.relay {
                relay.clear();
                // Another of the same name may come in its place.
                self.config.index = 0;
            }
        }
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(
        &mut self,
        now: Instant,
        limits: &LimitFiles,
        receive_filter_socket: Option<&ReceiveFilterSocket>,
    ) {
        if let Some(filter) = &mut self.receive_filter {
            filter.handle_timeout(now, receive_filter_socket, self.config.index);
        }
        let Some(served) = &mut self.served else { return };
        if served.router.poll_timeout().is_some_and(|at| at <= now) {
            served.router.handle_timeout(now);
            self.has_changed = true;
        }
        if served.joins.poll_retry().is_some_and(|at| at <= now) {
            self.has_changed = true;
            served.joins.retry(now, limits);
        }
        if let Some(relay) = &mut served.relay
            && relay.poll_timeout().is_some_and(|at| at <= now)
        {
            relay.handle_timeout(now);
        }
    }

    /// When [`Interface::handle_timeout`] is to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let receive_filter = self.receive_filter.as_ref().and_then(ReceiveFilter::poll_timeout);
        let served = self.served.as_ref().map_or([None; 3], |served| {
            let relay = served.relay.as_ref().and_then(Relay::poll_timeout);
            [served.router.poll_timeout(), served.joins.poll_retry(), relay]
        });
        served.into_iter().chain([receive_filter]).flatten().min()
    }

    /// Takes what the container's kernel is known to want of a group, and carries out what follows. The first
    /// join of a group, for which a viewer waits, goes out before all else that belongs to it.
    pub(crate) fn follow(
        &mut self,
        now: Instant,
        (group, filter): (Ipv4Addr, &SourceFilter),
        limits: &LimitFiles,
        reporters: &[Reporter],
        log: &mut Log,
    ) {
        let Some(Served { router, joins, relay, .. }) = &mut self.served else { return };
        // A relay is to let through first what will come.
        if relay.is_none()
            && let Some(wanted) = router.foresee(now, group, filter)
            && let Some(reporter) = reporter_of(&self.config, reporters)
        {
            joins.join_ahead(group, &wanted, limits, |join| {
                reporter.join(now, group, &wanted, join)
            });
        }
        router.handle_membership(now, group, filter);
        self.has_changed = true;
        self.pump(now, limits, reporters, log);
    }

    /// Gets ready for the next join; to be called when there is time.
    pub(crate) fn stock(&mut self, limits: &LimitFiles) {
        if let Some(served) = &mut self.served {
            served.joins.prepare(limits);
        }
    }

    /// Carries out what the router has decided.
    pub(crate) fn pump(
        &mut self,
        now: Instant,
        limits: &LimitFiles,
        reporters: &[Reporter],
        log: &mut Log,
    ) {
        let Some(served) = &mut self.served else { return };
        let name = &self.config.name;
        let reporter = reporter_of(&self.config, reporters);
        while let Some(query) = served.router.poll_query() {
            if let Err(e) = served.injector.inject(&query.packet) {
                // Down between two notifications: it is asked anew when it is up.
                let down = [libc::ENETDOWN, libc::ENETUNREACH, libc::ENODEV, libc::ENXIO];
                if !e.raw_os_error().is_some_and(|code| down.contains(&code)) {
                    let interface = name.clone();
                    log.notice(now, Notice::QueryFailed { interface, error: e.to_string() });
                }
            }
        }
        while let Some((group, filter)) = served.router.poll_change() {
            // What comes of the group is let through before it comes, and until it comes no more.
            let leaving = filter.is_none();
            if !self.hears_leaves {
                self.receive_filter.iter_mut().for_each(|receive_filter| match leaving {
                    true => receive_filter.handle_leave(now),
                    false => receive_filter.handle_join(),
                });
            }
            let mut admitted = if leaving { Ok(()) } else { served.admit(group, &filter) };
            let joins = &mut served.joins;
            let joined = match reporter {
                Some(reporter) if !joins.is_joined(group) => {
                    let wanted = filter.clone();
                    reporter
                        .join(now, group, &filter, || joins.set_filter(now, group, wanted, limits))
                }
                _ => joins.set_filter(now, group, filter, limits),
            };
            if leaving {
                admitted = served.admit(group, &SourceFilter::none());
            }
            if let Err(error) = admitted {
                let (interface, group) = (name.clone(), group.into());
                let error = error.to_string();
                log.notice(now, Notice::ReceptionFailed { interface, group, error });
            }
            if let Err(reason) = joined {
                let (interface, upstream) = (name.clone(), self.config.upstream.clone());
                let (group, error) = (group.into(), reason.to_string());
                log.notice(now, Notice::JoinFailed { interface, upstream, group, error });
            }
        }
        while let Some(notice) = served.router.poll_notice() {
            log.notice(now, notice);
        }
    }

    /// What is wrong with the querier of its LAN now.
    pub(crate) fn querier_notice(&self, now: Instant) -> Option<Notice> {
        let served = self.served.as_ref()?;
        let with_sources: Vec<_> = served
            .router
            .groups()
            .filter(|view| !view.upstream.sources.is_empty())
            .map(|view| view.group.into())
            .collect();
        let querier = served.querier(now);
        querier_notice(now, &self.config, self.up_since, querier.as_ref(), &with_sources)
    }

    /// Its status. `observed` are the groups that the kernel shows, with the time at which each was
    /// first seen.
    pub(crate) fn status(
        &self,
        now: Instant,
        observed: &BTreeMap<(u32, Ipv4Addr), (KernelMembership, Instant)>,
    ) -> InterfaceStatus {
        let served = self.served.as_ref();
        let counters = served.map(|served| served.router.counters().iter());
        InterfaceStatus {
            interface: self.config.name.clone(),
            parent: self.config.parent.clone(),
            querier: served.and_then(|served| served.querier(now)),
            groups: self.groups(now, observed),
            counters: counters.into_iter().flatten().map(|(&name, &n)| (name.into(), n)).collect(),
            relay: served.and_then(|served| served.relay.as_ref()).map(Relay::status),
        }
    }

    /// The groups that the container wants on it, by address. `observed` as for
    /// [`status`](Self::status).
    pub(crate) fn groups(
        &self,
        now: Instant,
        observed: &BTreeMap<(u32, Ipv4Addr), (KernelMembership, Instant)>,
    ) -> Vec<GroupMembership> {
        let age = |since: Instant| now.saturating_duration_since(since).as_secs();
        let Some(served) = &self.served else {
            let index = self.config.index;
            let own = observed.range((index, Ipv4Addr::UNSPECIFIED)..=(index, Ipv4Addr::BROADCAST));
            let shown = own.filter(|((_, group), _)| group.needs_report());
            return shown
                .map(|((_, group), (seen, since))| GroupMembership {
                    group: (*group).into(),
                    mode: seen.filter.mode,
                    sources: seen.filter.sources.iter().copied().map(IpAddr::from).collect(),
                    version: seen.version,
                    status: MembershipStatus::Joined,
                    reason: None,
                    age_s: age(*since),
                    relay: None,
                })
                .collect();
        };
        let membership = |view: GroupView| {
            let (status, reason) = match view.status {
                Status::Denied(rule) => (MembershipStatus::Denied, Some(rule)),
                Status::Limited(limit) => (MembershipStatus::Limited, Some(limit)),
                Status::Allowed => match served.joins.failure(view.group) {
                    Some(reason) => (MembershipStatus::Failed, Some(reason.to_owned())),
                    None => (MembershipStatus::Joined, None),
                },
            };
            GroupMembership {
                group: view.group.into(),
                mode: view.wanted.mode,
                sources: view.wanted.sources.into_iter().map(IpAddr::from).collect(),
                version: view.version.number(),
                status,
                reason,
                age_s: age(view.since),
                relay: served.relay.as_ref().and_then(|relay| relay.counts(view.group)),
            }
        };
        served.router.groups().map(membership).collect()
    }
}

impl Served {
    /// Makes what the relay lets through of a group what is wanted.
    fn admit(&mut self, group: Ipv4Addr, filter: &SourceFilter) -> io::Result<()> {
        self.relay.as_mut().map_or(Ok(()), |relay| relay.set(group, filter))
    }

    /// The LAN's querier, if one is present.
    fn querier(&self, now: Instant) -> Option<QuerierStatus> {
        self.router.querier(now).map(|lan| QuerierStatus {
            address: lan.address.into(),
            version: lan.version.number(),
            interval_s: lan.interval.and_then(|i| u32::try_from(i.as_secs()).ok()),
            last_query_s: now.saturating_duration_since(lan.last_query).as_secs(),
        })
    }
}

/// Who reports on its upstream, where the kernel tells of joins.
fn reporter_of<'r>(config: &InterfaceTask, reporters: &'r [Reporter]) -> Option<&'r Reporter> {
    reporters.iter().find(|reporter| reporter.index() == config.upstream_index)
}

fn new_router(config: &InterfaceTask, now: Instant) -> Router {
    let router = RouterConfig {
        interface: config.name.clone(),
        link_local: config.relay.is_some(),
        ..RouterConfig::default()
    };
    Router::new(router, config.policy.clone(), now)
}
