//! What a new proxy inherits from the one before it: which groups the container wanted and since
//! when, the LAN's querier, the counters. It is the status of that proxy, as it or the keeper gives
//! it. The container's kernel says what is joined now; the status settles what the kernel does not
//! show.

use std::collections::BTreeMap;
use std::io;
use std::io::Read;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::igmp::Igmp;
use crate::igmp::message::Version;
use crate::igmp::router::LanQuerier;
use crate::mld::Mld;
use crate::multicast::{Address, SourceFilter};
use crate::net::link_monitor::Family;
use crate::proxy::control::protocol::{ControlRequest, StatusPayload, parse_answer};
use crate::proxy::control::status::{InterfaceStatus, QuerierStatus};
use crate::proxy::event_loop::family::MembershipsOf;
use crate::proxy::event_loop::interface::Interface;
use crate::proxy::event_loop::speakers::{Mode, Speaker};
use crate::proxy::event_loop::status::REPORTS_FILTERED;
use crate::proxy::event_loop::stream_watch::StreamWatch;
use crate::proxy::process::container_dir::ContainerDir;

/// Bytes of a status that are read. The status of 256 groups with 64 sources each has 300,000.
const MAX_STATUS: u64 = 4 << 20;
/// The other proxy answers from memory. One that hangs is not waited for longer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// What a proxy reads of a [`ProxyStatus`](crate::proxy::control::status::ProxyStatus). To read the
/// notices too would take 0.12 MB of code.
#[derive(Debug, Deserialize)]
pub(crate) struct InheritedStatus {
    interfaces: Vec<InterfaceStatus>,
}

/// The status of the proxy that is replaced; `None` if it does not give one.
pub(crate) fn predecessors_status(container_dir: &ContainerDir) -> Option<InheritedStatus> {
    let ask = || -> io::Result<InheritedStatus> {
        let mut stream = container_dir.connect()?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        io::Write::write_all(&mut stream, ControlRequest::Status.to_line().as_bytes())?;
        let mut answer = Vec::new();
        stream.take(MAX_STATUS).read_to_end(&mut answer)?;
        let payload: StatusPayload<InheritedStatus> =
            parse_answer(&answer).map_err(io::Error::other)?;
        Ok(payload.status)
    };
    ask().ok()
}

impl Interface {
    /// Joins in one protocol what the container's kernel has joined. `status` settles what the kernel
    /// does not show.
    pub(super) fn join_existing<P: Speaker>(
        &mut self,
        now: Instant,
        memberships: &MembershipsOf<P>,
        status: Option<&InheritedStatus>,
    ) {
        let known = status.map(|status| self.inherited_filters(status)).unwrap_or_default();
        let interface_index = self.task.index;
        self.has_changed = true;
        let Some(proxied) = self.speaker_mut::<P>() else { return };
        for ((index, group), membership) in memberships {
            if *index == interface_index {
                let filter = membership.filter_after(*group, known.get(group));
                proxied.router.handle_membership(now, *group, &filter);
            }
        }
    }

    /// The source filters that the container wanted on this interface, by group.
    fn inherited_filters<A: Address>(
        &self,
        status: &InheritedStatus,
    ) -> BTreeMap<A, SourceFilter<A>> {
        let Some(own) = self.find_in(status) else { return BTreeMap::new() };
        let filters = own.groups.iter().filter_map(|membership| {
            let sources = membership.sources.iter().filter_map(|s| A::from_ip(*s)).collect();
            Some((A::from_ip(membership.group)?, SourceFilter { mode: membership.mode, sources }))
        });
        filters.collect()
    }

    /// Carries on what the other proxy knew of this interface. The groups are known by now.
    pub(super) fn inherit(&mut self, now: Instant, status: &InheritedStatus) {
        let Some(own) = self.find_in(status) else { return };
        self.listened_before = own.listening_s.and_then(|seconds| before(now, seconds));
        self.inherit_in::<Igmp>(now, own);
        self.inherit_in::<Mld>(now, own);
        if let Mode::Observed { joined_at } = &mut self.mode {
            joined_at.extend(ages(now, own));
        }
    }

    fn inherit_in<P: Speaker>(&mut self, now: Instant, own: &InterfaceStatus) {
        let Some(proxied) = self.speaker_mut::<P>() else { return };
        for (group, since) in ages(now, own) {
            proxied.router.restore_age(group, since);
        }
        let (known, timeout_s, counters) = P::inherited(own);
        if let Some(querier) = known.and_then(|known| querier::<P>(now, known, timeout_s)) {
            proxied.router.restore_querier(now, querier);
        }
        proxied.inherited_counters = counters;
    }

    /// Whether the other proxy knew that the host's firewall drops what is reported for this interface.
    pub(super) fn were_reports_filtered(&self, status: &InheritedStatus) -> bool {
        let reasons = self.find_in(status).into_iter().flat_map(|own| &own.groups);
        reasons.into_iter().any(|group| group.reason.as_deref() == Some(REPORTS_FILTERED))
    }

    /// Carries on what the other proxy has counted of relayed packets. The relay has its groups by
    /// now.
    pub(super) fn inherit_relayed<P: Speaker>(&mut self, status: &InheritedStatus) {
        let Some(own) = self.find_in(status) else { return };
        if let (Some(relay), Some(counts)) = (self.relay::<P>(), &own.relay) {
            let groups = own.groups.iter().filter_map(|membership| {
                Some((Address::from_ip(membership.group)?, membership.relay?))
            });
            // The totals of both families are told together.
            relay.restore_counts((P::FAMILY == Family::Ipv4).then_some(counts), groups);
        }
    }

    /// Carries on what the other proxy knew of the streams that arrive here.
    pub(super) fn inherit_streams(
        &self,
        now: Instant,
        status: &InheritedStatus,
        watch: &mut StreamWatch,
    ) {
        if let Some(own) = self.find_in(status) {
            watch.inherit(now, &self.task.name, &own.streams);
        }
    }

    fn find_in<'s>(&self, status: &'s InheritedStatus) -> Option<&'s InterfaceStatus> {
        status.interfaces.iter().find(|other| other.interface == self.task.name)
    }
}

/// Since when groups are joined.
fn ages<A: Address>(now: Instant, own: &InterfaceStatus) -> impl Iterator<Item = (A, Instant)> {
    own.groups.iter().filter_map(move |membership| {
        Some((A::from_ip(membership.group)?, before(now, membership.age_s)?))
    })
}

fn querier<P: Speaker>(
    now: Instant,
    querier: &QuerierStatus,
    timeout_s: u64,
) -> Option<LanQuerier<P::Address>> {
    Some(LanQuerier {
        address: P::Address::from_ip(querier.address)?,
        version: [Version::V1, Version::V2, Version::V3]
            .into_iter()
            .find(|version| P::number(*version) == querier.version)?,
        interval: querier.interval_s.map(|seconds| Duration::from_secs(seconds.into())),
        last_query: before(now, querier.last_query_s)?,
        timeout: Duration::from_secs(timeout_s),
    })
}

fn before(now: Instant, seconds: u64) -> Option<Instant> {
    now.checked_sub(Duration::from_secs(seconds))
}
