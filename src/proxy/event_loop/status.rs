//! What the control socket tells of the interfaces.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use crate::igmp::router::{GroupView, LanQuerier, Status};
use crate::igmp::wire::Version;
use crate::multicast::{Address, FilterMode, SourceFilter};
use crate::notice::Notice;
use crate::proxy::container::membership_files::KernelMembership;
use crate::proxy::control::status::{
    GroupMembership, InterfaceStatus, MembershipStatus, MldStatus, ProxyState, ProxyStatus,
    QuerierStatus, RelayStatus, querier_timeout_by_default,
};
use crate::proxy::event_loop::EventLoop;
use crate::proxy::event_loop::family::Spoken;
use crate::proxy::event_loop::interface::{Interface, MAX_OBSERVED_GROUPS};
use crate::proxy::event_loop::lan_notices::{
    no_mld_querier_notice, no_querier_notice, querier_notice,
};
use crate::proxy::event_loop::proxied::Proxied;
use crate::proxy::event_loop::speakers::Mode;
use crate::proxy::relay::Relay;

/// The longest time after something has happened until queriers and alarms are looked at, for
/// subscribers.
pub(super) const STATE_INTERVAL: Duration = Duration::from_secs(2);

/// The memberships that the container's kernel shows, by interface index and group.
pub(super) type KernelMemberships = BTreeMap<(u32, Ipv4Addr), KernelMembership>;

impl EventLoop {
    /// The status of the proxy.
    pub(super) fn status(&mut self, now: Instant) -> ProxyStatus {
        let is_degraded = self.interfaces.iter().any(Interface::is_degraded);
        let is_waiting = self.interfaces.iter().any(Interface::is_missing)
            || self.upstreams.list.iter().any(|upstream| upstream.problem.is_some());
        let notices = self.standing_notices(now);
        let memberships = if self.interfaces.iter().all(Interface::is_proxied) {
            KernelMemberships::new()
        } else {
            self.container.membership_files.igmp.memberships().unwrap_or_default()
        };
        let interfaces = self.interfaces.iter_mut();
        ProxyStatus {
            container: self.container.id.clone(),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            pid: std::process::id().cast_signed(),
            held: self.holding.is_complete(),
            state: match (is_degraded, is_waiting) {
                (true, _) => ProxyState::Degraded,
                (false, true) => ProxyState::Waiting,
                (false, false) => ProxyState::Running,
            },
            notices,
            interfaces: interfaces
                .map(|interface| {
                    let streams = self.streams.steady(now, &interface.task.name);
                    InterfaceStatus { streams, ..interface.status(now, &memberships) }
                })
                .collect(),
            counts: Vec::new(),
        }
    }
}

impl EventLoop {
    /// What is wrong now.
    pub(super) fn standing_notices(&self, now: Instant) -> Vec<Notice> {
        let mut notices = self.start_notices.clone();
        notices.extend(self.interfaces.iter().flat_map(|i| i.querier_notices(now)));
        notices.extend(self.upstreams.list.iter().filter_map(|u| u.problem.clone()));
        notices.extend(self.upstreams.list.iter().flat_map(|u| u.firewall_notices(now)));
        notices.extend(self.interfaces.iter().filter_map(Interface::missing_notice));
        notices.extend(self.route_notice());
        notices.extend(self.interfaces.iter().filter_map(Interface::own_bridge_notice));
        notices.extend(self.interfaces.iter().filter_map(Interface::without_ipv6_notice));
        notices.extend(self.interfaces.iter().filter_map(Interface::not_in_kernel_notice));
        notices.extend(self.streams.notices());
        notices.extend(self.queues.notices());
        notices
    }

    /// The queriers that are present, of IGMP and of MLD, by interface in the container.
    pub(super) fn queriers(&self, now: Instant) -> impl Iterator<Item = (String, QuerierStatus)> {
        self.interfaces.iter().flat_map(move |interface| {
            let igmp = interface.igmp().and_then(|proxied| proxied.querier(now));
            let mld = interface.mld.as_ref().and_then(|proxied| proxied.querier(now));
            let queriers = igmp.into_iter().chain(mld);
            queriers.map(|querier| (interface.task.name.clone(), querier))
        })
    }
}

impl EventLoop {
    /// When queriers and alarms may be others although nothing happens.
    pub(super) fn next_state(&self, now: Instant) -> Option<Instant> {
        // The kernel does not tell the proxy of routes.
        let watches_route = self.interfaces.first().is_some_and(|i| i.task.relay.is_some());
        let route = watches_route.then(|| now + STATE_INTERVAL);
        let silences = self.interfaces.iter().filter_map(|i| i.silence_deadline(now));
        silences.chain(route).chain(self.next_look(now)).min()
    }
}

/// A group of no protocol, for the question where a join would go.
const ANY_GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 255);

impl EventLoop {
    /// A notice when the first interface is relayed to, and joins that name no interface go by
    /// another or fail. mcrun gives the first interface the route, if it exists when the container
    /// starts.
    fn route_notice(&self) -> Option<Notice> {
        let interface = self.interfaces.first()?;
        let (task, routes) = (&interface.task, self.container.routes.as_ref()?);
        if task.relay.is_none() || interface.up_since.is_none() {
            return None;
        }
        let by = match routes.interface_towards(ANY_GROUP) {
            Ok(by) => by,
            Err(error) if error.raw_os_error() == Some(libc::ENETUNREACH) => None,
            Err(_) => return None,
        };
        let interface = task.name.clone();
        (by != Some(task.index)).then_some(Notice::MulticastRouteElsewhere { interface })
    }
}

impl Interface {
    /// A notice when the interface does not exist.
    fn missing_notice(&self) -> Option<Notice> {
        let interface = self.task.name.clone();
        if self.is_lost() {
            let reason = format!("it is gone, as when its parent {} goes", self.task.parent);
            return Some(Notice::InterfaceWaiting { interface, reason });
        }
        self.is_missing().then_some(Notice::InterfaceAwaited { interface })
    }

    /// A notice when the interface is on the bridge that it is relayed to.
    pub(super) fn own_bridge_notice(&self) -> Option<Notice> {
        let Mode::Proxied(proxied) = &self.mode else { return None };
        proxied.relay.as_ref().filter(|relay| relay.is_on_upstream())?;
        let (interface, upstream) = (self.task.name.clone(), self.task.upstream.clone());
        Some(Notice::RelayOnOwnBridge { interface, upstream })
    }

    /// A notice when the interface is to be relayed to in IPv6, and has no address of IPv6.
    fn without_ipv6_notice(&self) -> Option<Notice> {
        let relay = self.mld.as_ref()?.relay.as_ref().filter(|_| self.up_since.is_some())?;
        let interface = self.task.name.clone();
        (!relay.has_address()).then_some(Notice::RelayWithoutIpv6 { interface })
    }

    /// What is spoken with IGMP, where the proxy does.
    fn igmp(&self) -> Option<&Proxied> {
        match &self.mode {
            Mode::Proxied(proxied) => Some(proxied),
            Mode::Observed { .. } => None,
        }
    }

    /// When a querier of the interface's LAN counts as gone, or as missing, if no query comes.
    fn silence_deadline(&self, now: Instant) -> Option<Instant> {
        let since = self.listening_since();
        let igmp = self.igmp().and_then(|proxied| proxied.silence_deadline(since, now));
        let mld = self.mld.as_ref().and_then(|proxied| proxied.silence_deadline(since, now));
        igmp.into_iter().chain(mld).min()
    }

    /// What is wrong with the queriers of the interface's LAN now.
    fn querier_notices(&self, now: Instant) -> impl Iterator<Item = Notice> {
        let igmp = self.igmp().and_then(|proxied| {
            self.querier_notice(proxied, now, |timeout| {
                Some(no_querier_notice(&self.task, timeout))
            })
        });
        let mld = self.mld.as_ref().and_then(|proxied| {
            self.querier_notice(proxied, now, |timeout| {
                proxied.needs_querier().then(|| no_mld_querier_notice(&self.task, timeout))
            })
        });
        igmp.into_iter().chain(mld)
    }

    /// What is wrong with the querier of one protocol. `missing` tells of the time for which none
    /// was heard.
    fn querier_notice<P: Spoken>(
        &self,
        proxied: &Proxied<P>,
        now: Instant,
        missing: impl FnOnce(Duration) -> Option<Notice>,
    ) -> Option<Notice> {
        if let Some(querier) = proxied.querier(now) {
            let groups = proxied.router.groups();
            let with_sources = groups.filter(|view| !view.upstream.sources.is_empty());
            let with_sources: Vec<_> = with_sources.map(|view| view.group.into()).collect();
            let with_lists = P::number(Version::V3);
            return querier_notice(&self.task, &querier, with_lists, &with_sources);
        }
        let timeout = proxied.router.querier_timeout();
        let silence = now.saturating_duration_since(self.listening_since()?);
        if silence >= timeout { missing(timeout) } else { None }
    }

    /// The status of the interface, except its streams. Where the container's kernel speaks IGMP
    /// itself, the groups are those of `memberships`.
    fn status(&mut self, now: Instant, memberships: &KernelMemberships) -> InterfaceStatus {
        let groups = self.groups(now, memberships);
        let proxied = self.igmp();
        InterfaceStatus {
            interface: self.task.name.clone(),
            parent: self.task.parent.clone(),
            querier: proxied.and_then(|proxied| proxied.querier(now)),
            rival: proxied.and_then(|proxied| proxied.rival(now)),
            listening_s: proxied
                .and_then(|_| self.listening_since())
                .map(|since| seconds_since(since, now)),
            querier_timeout_s: proxied
                .map_or_else(querier_timeout_by_default, |p| p.router.querier_timeout().as_secs()),
            groups,
            counters: proxied.map(|proxied| proxied.counters()).unwrap_or_default(),
            mld: self.mld.as_ref().map(|mld| MldStatus {
                querier: mld.querier(now),
                rival: mld.rival(now),
                querier_timeout_s: mld.router.querier_timeout().as_secs(),
                counters: mld.counters(),
            }),
            relay: self.relay_status(),
            streams: Vec::new(),
        }
    }

    /// What its relays have carried, of both families together.
    fn relay_status(&self) -> Option<RelayStatus> {
        let ipv4 = self.igmp()?.relay.as_ref()?.status();
        let ipv6 = self.mld.as_ref().and_then(|mld| mld.relay.as_ref()).map(Relay::status);
        Some(match ipv6 {
            Some(ipv6) => ipv4.with(ipv6),
            None => ipv4,
        })
    }

    /// The groups that the container wants on the interface, by address. `memberships` as for
    /// [`status`](Self::status).
    pub(super) fn groups(
        &mut self,
        now: Instant,
        memberships: &KernelMemberships,
    ) -> Vec<GroupMembership> {
        let problem = self.upstream_problem().map(str::to_owned);
        let problem = problem.as_deref();
        let mut groups = match &mut self.mode {
            Mode::Proxied(proxied) => proxied.memberships(now, problem),
            Mode::Observed { joined_at } => {
                observed_memberships(now, self.task.index, memberships, joined_at)
            }
        };
        if let Some(mld) = &self.mld {
            groups.extend(mld.memberships(now, problem));
        }
        groups
    }
}

impl<P: Spoken> Proxied<P> {
    /// The LAN's querier, if one is present.
    fn querier(&self, now: Instant) -> Option<QuerierStatus> {
        self.router.querier(now).map(|querier| querier_status::<P>(&querier, now))
    }

    /// A querier that asks although it has lost the election.
    fn rival(&self, now: Instant) -> Option<QuerierStatus> {
        self.router.rival_querier(now).map(|rival| querier_status::<P>(&rival, now))
    }

    /// When the querier counts as gone, or as missing, if no query comes. `since` is when the proxy
    /// began to listen.
    fn silence_deadline(&self, since: Option<Instant>, now: Instant) -> Option<Instant> {
        self.router.querier_expiry(now).or_else(|| {
            let missing = since? + self.router.querier_timeout();
            (missing > now).then_some(missing)
        })
    }

    /// Whether a group is joined that reaches beyond the link. Those of the link alone are joined
    /// wherever there is IPv6.
    fn needs_querier(&self) -> bool {
        let is_joined = |status: &Status| matches!(status, Status::Allowed);
        self.router.groups().any(|view| is_joined(&view.status) && !view.group.is_link_scope())
    }

    /// What was counted, also by the proxies before this one.
    fn counters(&self) -> BTreeMap<String, u64> {
        let mut counters = self.inherited_counters.clone();
        for (&name, &count) in self.router.counters() {
            let counter = counters.entry(name.to_owned()).or_default();
            *counter = counter.saturating_add(count);
        }
        counters
    }

    /// All groups as people are shown them. `problem` is what is wrong with the upstream interface.
    fn memberships(&self, now: Instant, problem: Option<&str>) -> Vec<GroupMembership> {
        self.router.groups().map(|view| self.membership(now, view, problem)).collect()
    }

    /// A group as people are shown it. `problem` is what is wrong with the upstream interface.
    fn membership(
        &self,
        now: Instant,
        view: GroupView<P::Address>,
        problem: Option<&str>,
    ) -> GroupMembership {
        let (status, reason) = match view.status {
            Status::Denied(rule) => (MembershipStatus::Denied, Some(rule)),
            Status::Limited(limit) => (MembershipStatus::Limited, Some(limit)),
            Status::Allowed => match problem.or(self.joins.failure(view.group)) {
                Some(reason) => (MembershipStatus::Failed, Some(reason.to_owned())),
                None if self.reports_filtered => {
                    (MembershipStatus::Failed, Some(REPORTS_FILTERED.to_owned()))
                }
                None => (MembershipStatus::Joined, any_source_note(view.group, &view.upstream)),
            },
        };
        GroupMembership {
            group: view.group.into(),
            mode: view.wanted.mode,
            sources: view.wanted.sources.into_iter().map(Into::into).collect(),
            version: P::number(view.version),
            status,
            reason,
            age_s: seconds_since(view.since, now),
            relay: self.relay.as_ref().and_then(|relay| relay.counts(view.group)),
        }
    }
}

fn querier_status<P: Spoken>(querier: &LanQuerier<P::Address>, now: Instant) -> QuerierStatus {
    QuerierStatus {
        address: querier.address.into(),
        version: P::number(querier.version),
        interval_s: querier.interval.and_then(|i| u32::try_from(i.as_secs()).ok()),
        last_query_s: seconds_since(querier.last_query, now),
    }
}

/// What people are told of a group that is joined, and that the LAN does not hear of.
pub(super) const REPORTS_FILTERED: &str = "the host's firewall drops IGMP reports";

/// What people are told of a join from any source in the range of source-specific multicast.
fn any_source_note<A: Address>(group: A, joined: &SourceFilter<A>) -> Option<String> {
    let any_source = group.is_ssm() && joined.mode == FilterMode::Exclude;
    any_source.then(|| format!("any source in {}", A::SSM_RANGE))
}

/// The groups of an interface that is only observed. `joined_at` is brought up to date with them.
fn observed_memberships(
    now: Instant,
    index: u32,
    memberships: &KernelMemberships,
    joined_at: &mut BTreeMap<Ipv4Addr, Instant>,
) -> Vec<GroupMembership> {
    joined_at.retain(|group, _| memberships.contains_key(&(index, *group)));
    memberships
        .range((index, Ipv4Addr::UNSPECIFIED)..=(index, Ipv4Addr::BROADCAST))
        .filter(|((_, group), _)| group.needs_report())
        .take(MAX_OBSERVED_GROUPS)
        .map(|((_, group), membership)| GroupMembership {
            group: (*group).into(),
            mode: membership.filter.mode,
            sources: membership.filter.sources.iter().copied().map(IpAddr::from).collect(),
            version: membership.version,
            status: MembershipStatus::Joined,
            reason: None,
            age_s: seconds_since(*joined_at.entry(*group).or_insert(now), now),
            relay: None,
        })
        .collect()
}

fn seconds_since(time: Instant, now: Instant) -> u64 {
    now.saturating_duration_since(time).as_secs()
}
