//! The early report: the host's first report of a join, sent without the kernel's delay.
//!
//! The host's kernel joins at once and reports two or three timer ticks later (`igmp_ifc_event` and
//! `igmp_group_added` in net/ipv4/igmp.c). For these ten milliseconds or so a snooping switch does
//! not forward the stream. The early report has the content of the kernel's report and is sent at
//! once, as RFC 9776 §5.1 and RFC 9777 §6.1 ask for ("immediately transmits"). The kernel's own
//! reports follow as its retransmissions.
//!
//! An early report contains nothing that the kernel would not report. It is sent only for a group
//! that no other socket of the host has joined, in the version that the kernel uses on the
//! interface, and only if the host's merged filter cannot differ from it.
//!
//! In version 1 of MLD the kernel reports at once itself, and nothing is sent here.
//!
//! Whatever was reported is left. In version 2 the kernel sends no leave of a group that it has not
//! reported itself (`igmp_group_dropped`), nor in version 1 of MLD (`igmp6_leave_group`). So the leave
//! of a group that was reported early just now, or in a newer version only, is sent here.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::igmp::message::{GroupRecord, Message, Query, RecordType, Version};
use crate::multicast::{FilterMode, SourceFilter};
use crate::net::link_monitor::{LinkEvent, LinkMonitor};
use crate::net::sysctl::Sysctls;
use crate::proxy::lan::family::LanFamily;
use crate::proxy::lan::host_version::HostVersion;
use crate::proxy::lan::report_socket::ReportSocket;

/// Room for a notification, which has fewer than a hundred bytes.
const NOTIFICATION: usize = 512;
/// After this time the kernel has reported a group itself, however busy the host is. It does so two
/// or three timer ticks after the join.
const REPORTED_BY_KERNEL: Duration = Duration::from_secs(1);
/// Early reports that are remembered. More in so short a time come from a flood of joins.
const MAX_RECENT: usize = 4096;

/// Sends early reports on one interface of the host.
pub(crate) struct EarlyReporter<A = Ipv4Addr> {
    socket: ReportSocket<A>,
    index: u32,
    /// Receives notifications of the host's joins, only while a join is made.
    joins: LinkMonitor,
    version: HostVersion<A>,
    /// Groups that were reported early in version 2, and when: those of the last
    /// [`REPORTED_BY_KERNEL`].
    recent: RefCell<VecDeque<(A, Instant)>>,
}

impl<A: LanFamily> EarlyReporter<A> {
    /// Opens one in the caller's namespace. `None` if the kernel has no notifications of joins
    /// (before 6.14): without them it is not known which join is the host's first.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW, `ENODEV` when there is no such interface.
    pub(crate) fn open(
        name: &str,
        index: u32,
        host: &Sysctls,
        now: Instant,
    ) -> io::Result<Option<Self>> {
        let joins = LinkMonitor::open_unsubscribed(A::FAMILIES)?;
        if joins.subscribe_memberships().is_err() {
            return Ok(None);
        }
        joins.unsubscribe_memberships()?;
        let socket = ReportSocket::open(name, index)?;
        Ok(Some(EarlyReporter {
            socket,
            index,
            joins,
            version: HostVersion::open(name, index, host, now),
            recent: RefCell::default(),
        }))
    }

    /// Reports by this socket from now on, on an interface of this index that has taken the place of
    /// the one before.
    pub(crate) fn follow(&mut self, now: Instant, socket: ReportSocket<A>, index: u32) {
        self.socket = socket;
        self.index = index;
        self.version.follow(now, index);
        self.recent.get_mut().clear();
    }

    /// Receives a query of the LAN: an older querier sets the version.
    pub(crate) fn receive_query(&mut self, now: Instant, query: &Query<A>) {
        self.socket.look_up_source();
        self.version.receive_query(now, query);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.version.poll_timeout()
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.version.handle_timeout(now);
    }

    /// Calls `join`, and reports the join if it is the host's first of the group.
    ///
    /// # Errors
    /// Those of `join`. A report that cannot be sent is no error: the kernel's reports follow.
    pub(crate) fn join<E>(
        &self,
        now: Instant,
        group: A,
        filter: &SourceFilter<A>,
        join: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        if !is_early::<A>(self.version.get(now), filter) {
            return join();
        }
        let is_notified = self.joins.subscribe_memberships().is_ok();
        let result = join();
        let mut first = false;
        if is_notified {
            let awaited = LinkEvent::Joined(self.index, group.into());
            let mut buffer = [0; NOTIFICATION];
            let mut receive = |first: &mut bool| {
                let received = self.joins.receive(&mut buffer, |event| *first |= event == awaited);
                matches!(received, Ok(true))
            };
            while !first && receive(&mut first) {}
            // The kernel has chosen the version of its own reports when it joined.
            if first
                && result.is_ok()
                && let Some(message) = report(self.version.look_up(now), group, filter)
            {
                self.socket.send_whole(&message);
                if matches!(message, Message::ReportV2 { .. }) {
                    self.remember(now, group);
                }
            }
            // Notifications that came in the meantime do not belong to the next join.
            let _ = self.joins.unsubscribe_memberships();
            while receive(&mut first) {}
        }
        result
    }

    /// The version that the host's kernel speaks.
    pub(crate) fn version(&self, now: Instant) -> Version {
        self.version.look_up(now)
    }

    /// What it sends with.
    pub(crate) fn socket(&self) -> &ReportSocket<A> {
        &self.socket
    }

    /// Calls `leave`, and sends a leave to the LAN if the group was the host's last membership and
    /// the kernel may not do so.
    ///
    /// # Errors
    /// Those of `leave`.
    pub(crate) fn leave<E>(
        &self,
        now: Instant,
        group: A,
        leave: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.must_leave(now, group) || self.joins.subscribe_memberships().is_err() {
            return leave();
        }
        let result = leave();
        let mut buffer = [0; NOTIFICATION];
        let mut is_left = false;
        let mut receive = |is_left: &mut bool| {
            let mut follow = |event| match event {
                LinkEvent::Left(index, left) if (index, left) == (self.index, group.into()) => {
                    *is_left = true;
                }
                // Somebody else of the host has joined meanwhile.
                LinkEvent::Joined(index, joined)
                    if (index, joined) == (self.index, group.into()) =>
                {
                    *is_left = false;
                }
                _ => {}
            };
            matches!(self.joins.receive(&mut buffer, &mut follow), Ok(true))
        };
        while receive(&mut is_left) {}
        if is_left {
            self.socket.send_whole(&Message::LeaveV2 { group });
        }
        // Notifications that came in the meantime do not belong to the next join.
        let _ = self.joins.unsubscribe_memberships();
        while receive(&mut is_left) {}
        result
    }

    /// The groups of which the kernel may not have sent a report of its own yet.
    pub(crate) fn recent(&self, now: Instant) -> Vec<A> {
        let recent = self.recent.borrow();
        let is_recent = |at: Instant| now.saturating_duration_since(at) < REPORTED_BY_KERNEL;
        recent.iter().filter(|(_, at)| is_recent(*at)).map(|(group, _)| *group).collect()
    }

    /// Whether the kernel may keep the leave of a group to itself.
    fn must_leave(&self, now: Instant, group: A) -> bool {
        (self.version.is_turning(now) || self.recent(now).contains(&group))
            && self.version.look_up(now) == Version::V2
    }

    #[cold]
    fn remember(&self, now: Instant, group: A) {
        let mut recent = self.recent.borrow_mut();
        while let Some((_, at)) = recent.front()
            && (now.saturating_duration_since(*at) >= REPORTED_BY_KERNEL
                || recent.len() >= MAX_RECENT)
        {
            recent.pop_front();
        }
        recent.push_back((group, now));
    }
}

/// Whether the first report of a new membership is sent here. The kernel sends it at once in version 1 of
/// MLD. EXCLUDE of a list is left to the kernel: it merges the list with those of other sockets, and the
/// list alone could block sources that they want.
fn is_early<A: LanFamily>(version: Version, filter: &SourceFilter<A>) -> bool {
    let blocks = filter.mode == FilterMode::Exclude && !filter.sources.is_empty();
    let is_left_to_kernel = match version {
        Version::V1 => false,
        Version::V2 => A::REPORTS_V2_AT_ONCE,
        Version::V3 => blocks,
    };
    !filter.is_none() && !is_left_to_kernel
}

/// The kernel's report of a new membership; `None`: it is left to the kernel.
fn report<A: LanFamily>(
    version: Version,
    group: A,
    filter: &SourceFilter<A>,
) -> Option<Message<A>> {
    is_early(version, filter).then(|| match version {
        Version::V1 => Message::ReportV1 { group },
        Version::V2 => Message::ReportV2 { group },
        Version::V3 => {
            let kind = match filter.mode {
                FilterMode::Include => RecordType::Allow,
                FilterMode::Exclude => RecordType::ToEx,
            };
            let sources = filter.sources.iter().copied().collect();
            Message::ReportV3(vec![GroupRecord { kind, group, sources }])
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::multicast::Address as _;

    const GROUP: Ipv4Addr = Ipv4Addr::new(232, 1, 1, 1);
    const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);

    #[test]
    fn a_report_has_the_sources_of_the_join_and_no_more() {
        let record = |filter: &SourceFilter| match report(Version::V3, GROUP, filter) {
            Some(Message::ReportV3(records)) => Some((records[0].kind, records[0].sources.clone())),
            _ => None,
        };
        assert_eq!(record(&SourceFilter::any()), Some((RecordType::ToEx, vec![])));
        assert_eq!(
            record(&SourceFilter::include([SOURCE])),
            Some((RecordType::Allow, vec![SOURCE]))
        );
        assert_eq!(record(&SourceFilter::exclude([SOURCE])), None);
        for version in [Version::V1, Version::V2, Version::V3] {
            assert_eq!(report(version, GROUP, &SourceFilter::none()), None);
        }
        let v2 = report(Version::V2, GROUP, &SourceFilter::include([SOURCE]));
        assert_eq!(v2, Some(Message::ReportV2 { group: GROUP }));
    }

    /// The early report and the early leave on the wire, in the version of the LAN. The kernel's own
    /// follow later and are the same, so what comes first is looked at.
    #[test]
    fn the_first_join_of_an_ipv6_group_is_on_the_wire_before_the_kernels_report() {
        use std::net::Ipv6Addr;

        use crate::mld::wire::{Ipv6Packet, parse};
        use crate::proxy::lan::joins::{JoinSockets, LimitFiles};
        use crate::proxy::lan::veth::Veth;

        let veth = Veth::new();
        let capture = veth.run(Veth::capture_on_b);
        veth.run(|| {
            let index = nix::net::if_::if_nametoindex("lan-a").unwrap();
            let (sysctls, now) = (Sysctls::default(), Instant::now());
            let limits = LimitFiles::open(&sysctls);
            let reporter = EarlyReporter::<Ipv6Addr>::open("lan-a", index, &sysctls, now).unwrap();
            // Kernels before 6.14 do not notify of joins.
            let Some(mut reporter) = reporter else { return };
            let group: Ipv6Addr = "ff05::101".parse().unwrap();
            let mut joins = JoinSockets::<Ipv6Addr>::new(index);
            let next = |joins: &mut JoinSockets<Ipv6Addr>,
                        filter: &SourceFilter<Ipv6Addr>,
                        reporter: &EarlyReporter<Ipv6Addr>| {
                let set = || joins.set_filter(now, group, filter.clone(), &limits);
                match filter.is_none() {
                    true => reporter.leave(now, group, set).unwrap(),
                    false => reporter.join(now, group, filter, set).unwrap(),
                }
                loop {
                    let packet = Veth::waiting(&capture).expect("sent by now");
                    let Ok(packet) = Ipv6Packet::parse(&packet) else { continue };
                    let Ok(message) = parse(&packet) else { continue };
                    let is_about = match &message {
                        Message::ReportV3(records) => records.iter().any(|r| r.group == group),
                        Message::ReportV2 { group: of } | Message::LeaveV2 { group: of } => {
                            *of == group
                        }
                        _ => false,
                    };
                    if is_about {
                        assert!(packet.src().is_unicast_link_local(), "{packet:?}");
                        assert_eq!((packet.hop_limit(), packet.router_alert()), (1, true));
                        assert_eq!(packet.dst(), message.destination());
                        return message;
                    }
                }
            };
            let of_source = SourceFilter::include(["2001:db8::5".parse().unwrap()]);
            let record =
                |kind, sources| Message::ReportV3(vec![GroupRecord { kind, group, sources }]);
            let first = next(&mut joins, &of_source, &reporter);
            assert_eq!(first, record(RecordType::Allow, vec!["2001:db8::5".parse().unwrap()]));
            joins.set_filter(now, group, SourceFilter::none(), &limits).unwrap();

            // A querier of MLDv1.
            let query = Query { version: Version::V2, ..Query::general(Duration::from_secs(1)) };
            let to = Ipv6Addr::ALL_SYSTEMS;
            let packet = query.emit_ipv6("fe80::99".parse().unwrap(), to, 1, 1500).remove(0);
            veth.send_from_b(&packet);
            reporter.receive_query(now, &query);
            let group: Ipv6Addr = "ff05::102".parse().unwrap();
            let set = || joins.set_filter(now, group, SourceFilter::any(), &limits);
            reporter.join(now, group, &SourceFilter::any(), set).unwrap();
            let set = || joins.set_filter(now, group, SourceFilter::none(), &limits);
            reporter.leave(now, group, set).unwrap();
            let mut seen = Vec::new();
            while seen.len() < 2 {
                let packet = Veth::receive(&capture);
                let Ok(packet) = Ipv6Packet::parse(&packet) else { continue };
                match parse(&packet) {
                    Ok(Message::ReportV2 { group: of }) if of == group => {
                        seen.push((packet.dst(), true))
                    }
                    Ok(Message::LeaveV2 { group: of }) if of == group => {
                        seen.push((packet.dst(), false))
                    }
                    _ => {}
                }
            }
            // One report, which is the kernel's, and one leave to all routers.
            assert_eq!(seen, [(group, true), ("ff02::2".parse().unwrap(), false)]);
        });
    }
}
