//! What differs between IGMP and MLD in the event loop.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use crate::igmp::{Igmp, Protocol};
use crate::mld::Mld;
use crate::net::link_monitor::Family;
use crate::net::link_monitor::LinkMonitor;
use crate::proxy::config::InterfaceTask;
use crate::proxy::container::membership_files::{KernelMembership, MembershipFiles, Shown};
use crate::proxy::container::rtnl_barrier::RtnlBarrier;
use crate::proxy::control::status::{InterfaceStatus, QuerierStatus};
use crate::proxy::event_loop::upstreams::{Upstream, Upstreams};
use crate::proxy::lan::early_report::EarlyReporter;
use crate::proxy::lan::family::LanFamily;
use crate::proxy::lan::host_groups::HostGroups;
use crate::proxy::lan::joins::LimitFiles;
use crate::proxy::relay::family::Relayed;

/// The longest that a join from a source, of which the kernel has told at its beginning, goes on: on another
/// processor it takes some three microseconds more, and on this one it goes on when the proxy waits.
const SOURCE_DELAY: Duration = Duration::from_micros(20);

/// What the container's kernel has joined, in both families.
pub(crate) struct AllMembershipFiles {
    pub(crate) igmp: MembershipFiles,
    /// `None`: the proxy speaks MLD for no interface.
    pub(crate) mld: Option<MembershipFiles<Ipv6Addr>>,
}

/// The sender of early reports on the upstream of this index, if it has one.
pub(super) fn reporter<P: Spoken>(
    upstreams: &Upstreams,
    index: u32,
) -> Option<&EarlyReporter<P::Address>> {
    P::reporter(upstreams.list.iter().find(|upstream| upstream.index() == index)?)
}

/// The memberships that the container's kernel shows, by interface index and group.
pub(super) type MembershipsOf<P> =
    BTreeMap<(u32, <P as Protocol>::Address), KernelMembership<<P as Protocol>::Address>>;

/// A protocol that the proxy speaks for an interface, with what the event loop has for it.
pub(super) trait Spoken: Protocol<Address: LanFamily + Shown + Relayed> {
    /// The address family.
    const FAMILY: Family;

    /// The files of what the container's kernel has joined.
    fn membership_files(files: &AllMembershipFiles) -> Option<&MembershipFiles<Self::Address>>;

    /// What the host's kernel allows a socket to join.
    fn limits(upstreams: &Upstreams) -> Option<&LimitFiles<Self::Address>>;

    /// What the host's kernel has joined.
    fn host_groups(upstreams: &Upstreams) -> Option<&HostGroups<Self::Address>>;

    /// The sender of early reports on an upstream.
    fn reporter(upstream: &Upstream) -> Option<&EarlyReporter<Self::Address>>;

    /// Something is joined on the upstream of this index.
    fn want_check(upstreams: &Upstreams, index: u32);

    /// Whether what the relay of an interface carries is of this family.
    fn is_relayed(task: &InterfaceTask) -> bool;

    /// Waits until joins that the kernel has told of are complete; `false` where that cannot be known.
    fn wait_for_joins(monitor: &LinkMonitor, barrier: &RtnlBarrier) -> bool;

    /// The querier with its timeout in seconds, and the counters, in the status of an interface.
    fn inherited(status: &InterfaceStatus) -> (Option<&QuerierStatus>, u64, BTreeMap<String, u64>);
}

impl Spoken for Igmp {
    const FAMILY: Family = Family::Ipv4;

    fn membership_files(files: &AllMembershipFiles) -> Option<&MembershipFiles> {
        Some(&files.igmp)
    }

    fn limits(upstreams: &Upstreams) -> Option<&LimitFiles> {
        Some(&upstreams.limits)
    }

    fn host_groups(upstreams: &Upstreams) -> Option<&HostGroups> {
        upstreams.host_groups.as_ref()
    }

    fn reporter(upstream: &Upstream) -> Option<&EarlyReporter> {
        upstream.reporter.as_ref()
    }

    fn want_check(upstreams: &Upstreams, index: u32) {
        upstreams.want_check(index);
    }

    fn is_relayed(task: &InterfaceTask) -> bool {
        task.relay.is_some()
    }

    fn wait_for_joins(_: &LinkMonitor, barrier: &RtnlBarrier) -> bool {
        barrier.wait()
    }

    fn inherited(status: &InterfaceStatus) -> (Option<&QuerierStatus>, u64, BTreeMap<String, u64>) {
        (status.querier.as_ref(), status.querier_timeout_s, status.counters.clone())
    }
}

impl Spoken for Mld {
    const FAMILY: Family = Family::Ipv6;

    fn membership_files(files: &AllMembershipFiles) -> Option<&MembershipFiles<Ipv6Addr>> {
        files.mld.as_ref()
    }

    fn limits(upstreams: &Upstreams) -> Option<&LimitFiles<Ipv6Addr>> {
        upstreams.mld.as_ref().map(|mld| &mld.limits)
    }

    fn host_groups(upstreams: &Upstreams) -> Option<&HostGroups<Ipv6Addr>> {
        upstreams.mld.as_ref()?.host_groups.as_ref()
    }

    fn reporter(upstream: &Upstream) -> Option<&EarlyReporter<Ipv6Addr>> {
        upstream.mld.as_ref()?.reporter.as_ref()
    }

    /// Whether the host's firewall lets reports out is looked at for IGMP.
    fn want_check(_: &Upstreams, _: u32) {}

    fn is_relayed(task: &InterfaceTask) -> bool {
        task.relay.is_some() && task.mld
    }

    /// From Linux 6.17 on no lock is held throughout the join (`ip6_mc_source` in net/ipv6/mcast.c).
    /// The thread that joins is within its system call, and goes on while this one waits.
    fn wait_for_joins(monitor: &LinkMonitor, barrier: &RtnlBarrier) -> bool {
        monitor.wait_until(Instant::now() + SOURCE_DELAY);
        barrier.wait()
    }

    fn inherited(status: &InterfaceStatus) -> (Option<&QuerierStatus>, u64, BTreeMap<String, u64>) {
        match &status.mld {
            Some(mld) => (mld.querier.as_ref(), mld.querier_timeout_s, mld.counters.clone()),
            None => (None, 0, BTreeMap::new()),
        }
    }
}
