//! The router of a proxied interface, with the sockets that carry out its decisions.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Instant;

use crate::igmp::router::{OutgoingQuery, Router, RouterConfig};
use crate::igmp::{Igmp, Timing};
use crate::multicast::{Address, SourceFilter};
use crate::notice::Notice;
use crate::proxy::config::InterfaceTask;
use crate::proxy::container::injection::QueryInjector;
use crate::proxy::event_loop::family::{Spoken, reporter};
use crate::proxy::event_loop::upstreams::Upstreams;
use crate::proxy::lan::joins::JoinSockets;
use crate::proxy::process::log::Log;
use crate::proxy::relay::Relay;

/// A proxied interface: the proxy is the router towards the container, and a host on the LAN, in one
/// protocol.
pub(super) struct Proxied<P: Spoken = Igmp> {
    pub(super) router: Router<P>,
    pub(super) injector: QueryInjector<P::Address>,
    pub(super) joins: JoinSockets<P::Address>,
    /// Carries the data where the link carries none.
    pub(super) relay: Option<Relay<P::Address>>,
    /// Counters of the proxies before this one.
    pub(super) inherited_counters: BTreeMap<String, u64>,
    /// Whether the host's firewall drops what the host reports.
    pub(super) reports_filtered: bool,
    /// Groups whose filters are set when the upstream is up again; `None`: it is up. A kernel sets the
    /// sources of an interface aside that goes down, and takes them back when the interface comes up,
    /// in place of those that were joined meanwhile (`igmpv3_add_delrec` and `igmpv3_del_delrec` in
    /// net/ipv4/igmp.c, `mld_add_delrec` and `mld_del_delrec` in net/ipv6/mcast.c).
    pub(super) postponed: Option<BTreeSet<P::Address>>,
    /// When the upstream was last looked at, and whether it was down, for who decides next.
    pub(super) looked: Option<(Instant, bool)>,
}

impl<P: Spoken> Proxied<P> {
    /// One without groups, for an interface.
    pub(super) fn new(
        task: &InterfaceTask,
        injector: QueryInjector<P::Address>,
        relay: Option<Relay<P::Address>>,
        now: Instant,
    ) -> Self {
        Proxied {
            router: new_router(task, now),
            injector,
            joins: JoinSockets::new(task.upstream_index),
            relay,
            inherited_counters: BTreeMap::new(),
            reports_filtered: false,
            postponed: None,
            looked: None,
        }
    }

    /// Whether the upstream of this index is down at this moment. What was found while the same message
    /// was looked at before is found.
    fn is_down(&mut self, now: Instant, index: u32, upstreams: &Upstreams) -> bool {
        match self.looked.take() {
            Some((then, is_down)) if then == now => is_down,
            _ => upstreams.is_down(index),
        }
    }

    /// Sets the source filter of a group on the upstream and in the relay. The relay admits the
    /// group before the join, and until the leave is complete.
    pub(super) fn set_filter(
        &mut self,
        now: Instant,
        group: P::Address,
        filter: SourceFilter<P::Address>,
        task: &InterfaceTask,
        upstreams: &Upstreams,
        log: &mut Log,
    ) {
        let leaving = filter.is_none();
        // A new proxy has heard of no link yet, and a notification may wait to be read.
        if self.postponed.is_none() && self.is_down(now, task.upstream_index, upstreams) {
            self.postponed = Some(BTreeSet::new());
        }
        if let Some(postponed) = &mut self.postponed {
            match leaving && !self.joins.is_joined(group) {
                true => {
                    self.joins.forget_failure(group);
                    postponed.remove(&group)
                }
                false => postponed.insert(group),
            };
            let relayed = self.set_relay_filter(group, &filter);
            return tell_relay_failure(now, relayed, group.into(), task, log);
        }
        let mut relayed = if leaving { Ok(()) } else { self.set_relay_filter(group, &filter) };
        let Some(limits) = P::limits(upstreams) else { return };
        let joins = &mut self.joins;
        let joined = match reporter::<P>(upstreams, task.upstream_index) {
            Some(reporter) if !joins.is_joined(group) => {
                let wanted = filter.clone();
                reporter.join(now, group, &filter, || joins.set_filter(now, group, wanted, limits))
            }
            Some(reporter) if leaving => {
                reporter.leave(now, group, || joins.set_filter(now, group, filter, limits))
            }
            _ => joins.set_filter(now, group, filter, limits),
        };
        if !leaving {
            P::want_check(upstreams, task.upstream_index);
        }
        if leaving {
            relayed = self.set_relay_filter(group, &SourceFilter::none());
        }
        tell_relay_failure(now, relayed, group.into(), task, log);
        if let Err(error) = joined {
            let (interface, upstream) = (task.name.clone(), task.upstream.clone());
            let group = group.into();
            log.notice(now, Notice::JoinFailed { interface, upstream, group, error });
        }
    }

    /// Leaves everything. What was reported just now is left one by one: the kernel may have sent no
    /// report of its own, and sends no leave then.
    pub(super) fn leave_all(&mut self, now: Instant, upstream: u32, upstreams: &Upstreams) {
        let joins = &mut self.joins;
        if let Some(reporter) = reporter::<P>(upstreams, upstream)
            && let Some(limits) = P::limits(upstreams)
        {
            for group in reporter.recent(now) {
                if joins.is_joined(group) {
                    let leave = || {
                        let none = SourceFilter::none();
                        joins.set_filter(now, group, none, limits)
                    };
                    // What cannot be left goes with its socket.
                    let _ = reporter.leave(now, group, leave);
                }
            }
        }
        joins.clear();
    }

    /// The upstream is up, or down, from now on. A filter that cannot be set shows in the status, and
    /// is tried again.
    pub(super) fn set_upstream_up(&mut self, now: Instant, is_up: bool, upstreams: &Upstreams) {
        if !is_up {
            self.postponed.get_or_insert_default();
            return;
        }
        let Some(postponed) = self.postponed.take() else { return };
        let Some(limits) = P::limits(upstreams) else { return };
        let wanted = self.router.groups().filter(|view| postponed.contains(&view.group));
        let mut filters: BTreeMap<_, _> =
            postponed.iter().map(|group| (*group, SourceFilter::none())).collect();
        filters.extend(wanted.map(|view| (view.group, view.upstream)));
        for (group, filter) in filters {
            let _ = self.joins.set_filter(now, group, filter, limits);
        }
    }

    /// Tries again to join what could not be joined, once the upstream is up.
    pub(super) fn retry_joins(&mut self, now: Instant, upstream: u32, upstreams: &Upstreams) {
        if self.postponed.is_none() && !upstreams.is_down(upstream) {
            if let Some(limits) = P::limits(upstreams) {
                self.joins.retry(now, limits);
            }
            return;
        }
        let failed = self.joins.take_failures();
        self.postponed.get_or_insert_default().extend(failed);
    }

    fn set_relay_filter(
        &mut self,
        group: P::Address,
        filter: &SourceFilter<P::Address>,
    ) -> io::Result<()> {
        self.relay.as_mut().map_or(Ok(()), |relay| relay.set(group, filter))
    }
}

fn tell_relay_failure(
    now: Instant,
    relayed: io::Result<()>,
    group: IpAddr,
    task: &InterfaceTask,
    log: &mut Log,
) {
    if let Err(error) = relayed {
        let interface = task.name.clone();
        let error = error.to_string();
        log.notice(now, Notice::ReceptionFailed { interface, group, error });
    }
}

/// Injects a query into the container. The interface may be down: that is no error.
pub(super) fn inject_query<A: Address>(
    injector: &QueryInjector<A>,
    query: &OutgoingQuery<A>,
    now: Instant,
    interface: &str,
    log: &mut Log,
) {
    /// The interface is down, and its notification is not read yet. The router sends new queries
    /// when the interface is up.
    const IS_DOWN: [i32; 4] = [libc::ENETDOWN, libc::ENETUNREACH, libc::ENODEV, libc::ENXIO];
    if let Err(error) = injector.inject(&query.packet)
        && !error.raw_os_error().is_some_and(|code| IS_DOWN.contains(&code))
    {
        let (interface, error) = (interface.to_owned(), error.to_string());
        log.notice(now, Notice::QueryFailed { interface, error });
    }
}

/// A router without groups.
pub(super) fn new_router<P: Spoken>(task: &InterfaceTask, now: Instant) -> Router<P> {
    let config = RouterConfig {
        interface: task.name.clone(),
        link_scope: P::is_relayed(task),
        timing: task.query_interval.map_or_else(Timing::default, Timing::of_interval),
        // All groups that the container may have: joined, left, joined and left again.
        change_burst: task.policy.max_groups.saturating_mul(4).clamp(256, 4096),
        ..RouterConfig::default()
    };
    Router::new(config, task.policy.clone(), now)
}
