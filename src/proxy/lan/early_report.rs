//! The early report: the host's first report of a join, sent without the kernel's delay.
//!
//! The host's kernel joins at once and reports two or three timer ticks later (`igmp_ifc_event` and
//! `igmp_group_added` in net/ipv4/igmp.c). For these ten milliseconds or so a snooping switch does
//! not forward the stream. The early report has the content of the kernel's report and is sent at
//! once, as RFC 9776 §5.1 asks for ("immediately transmits"). The kernel's own reports follow as
//! its retransmissions.
//!
//! An early report contains nothing that the kernel would not report. It is sent only for a group
//! that no other socket of the host has joined, in the version that the kernel uses on the
//! interface, and only if the host's merged filter cannot differ from it.

use std::fs::File;
use std::io;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::igmp::wire::{GroupRecord, Message, Query, RecordType, Version};
use crate::multicast::{FilterMode, SourceFilter};
use crate::net::link_monitor::{LinkEvent, LinkMonitor};
use crate::net::sysctl::Sysctls;
use crate::sys::sockopt;

/// Router Alert (RFC 2113 §2.1), as the socket option takes it.
const ROUTER_ALERT: [u8; 4] = [148, 4, 0, 0];
/// Internetwork control (RFC 9776 §4).
const TOS: u32 = 0xc0;
/// Bytes of an IP packet. The kernel reports a source list that does not fit, in several packets.
const MTU: usize = 1500;
/// Bytes of one read: the kernel returns no more of a file in /proc.
const PAGE: usize = 4096;
/// Room for a notification, which has fewer than a hundred bytes.
const NOTIFICATION: usize = 512;
/// Older-version-querier-present time: robustness 2 times 125 s, and 10 s (RFC 9776 §8.12, and
/// `igmp_heard_query`).
const OLDER_QUERIER_PRESENT: Duration = Duration::from_secs(260);

/// Sends early reports on one interface of the host.
pub(crate) struct EarlyReporter {
    socket: Socket,
    index: u32,
    /// Receives notifications of the host's joins, only while a join is made.
    joins: LinkMonitor,
    /// `force_igmp_version` of the interface.
    forced: Option<Version>,
    v1_querier_until: Option<Instant>,
    v2_querier_until: Option<Instant>,
}

impl EarlyReporter {
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
        let joins = LinkMonitor::open_unsubscribed()?;
        if joins.subscribe_memberships().is_err() {
            return Ok(None);
        }
        joins.unsubscribe_memberships()?;
        let igmp = Protocol::from(libc::IPPROTO_IGMP);
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(igmp))?;
        sockopt::receive_nothing(&socket)?;
        socket.bind_device(Some(name.as_bytes()))?;
        sockopt::set_multicast_interface(&socket, index, Ipv4Addr::UNSPECIFIED.into())?;
        socket.set_multicast_ttl_v4(1)?;
        socket.set_multicast_loop_v4(false)?;
        socket.set_tos_v4(TOS)?;
        sockopt::set_bytes(&socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &ROUTER_ALERT)?;
        let (v1, v2) = match version_now(index) {
            Some(Version::V1) => (true, false),
            Some(Version::V2) => (false, true),
            _ => (false, false),
        };
        let until = now + OLDER_QUERIER_PRESENT;
        Ok(Some(EarlyReporter {
            socket,
            index,
            joins,
            forced: forced_version(name, host),
            v1_querier_until: v1.then_some(until),
            v2_querier_until: v2.then_some(until),
        }))
    }

    /// Receives a query of the LAN: an older querier sets the version.
    pub(crate) fn receive_query(&mut self, now: Instant, query: &Query) {
        match query.version {
            Version::V1 => self.v1_querier_until = Some(now + OLDER_QUERIER_PRESENT),
            Version::V2 => self.v2_querier_until = Some(now + OLDER_QUERIER_PRESENT),
            Version::V3 => {}
        }
    }

    /// Calls `join`, and reports the join if it is the host's first of the group.
    ///
    /// # Errors
    /// Those of `join`. A report that cannot be sent is no error: the kernel's reports follow.
    pub(crate) fn join<E>(
        &self,
        now: Instant,
        group: Ipv4Addr,
        filter: &SourceFilter,
        join: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(message) = report(self.version(now), group, filter) else { return join() };
        let is_notified = self.joins.subscribe_memberships().is_ok();
        let result = join();
        let mut first = false;
        if is_notified {
            let awaited = LinkEvent::Joined(self.index, group);
            let mut buffer = [0; NOTIFICATION];
            let mut receive = |first: &mut bool| {
                let received = self.joins.receive(&mut buffer, |event| *first |= event == awaited);
                matches!(received, Ok(true))
            };
            while !first && receive(&mut first) {}
            if first && result.is_ok() {
                self.send(&message);
            }
            // Notifications that came in the meantime do not belong to the next join.
            let _ = self.joins.unsubscribe_memberships();
            while receive(&mut first) {}
        }
        result
    }

    fn send(&self, message: &Message) {
        if let [payload] = message.emit(MTU).as_slice() {
            let target = SocketAddrV4::new(message.destination(), 0);
            let _ = self.socket.send_to(payload, &target.into());
        }
    }

    /// The version that the kernel uses on the interface (`IGMP_V1_SEEN` and `IGMP_V2_SEEN`).
    fn version(&self, now: Instant) -> Version {
        let present = |until: Option<Instant>| until.is_some_and(|until| now < until);
        match self.forced {
            Some(version) => version,
            None if present(self.v1_querier_until) => Version::V1,
            None if present(self.v2_querier_until) => Version::V2,
            None => Version::V3,
        }
    }
}

/// The kernel's report of a new membership. `None` for EXCLUDE of a list, which is left to the
/// kernel: it merges the list with those of other sockets, and the list alone could block sources
/// that they want.
fn report(version: Version, group: Ipv4Addr, filter: &SourceFilter) -> Option<Message> {
    if filter.is_none() {
        return None;
    }
    match version {
        Version::V1 => Some(Message::ReportV1 { group }),
        Version::V2 => Some(Message::ReportV2 { group }),
        Version::V3 => {
            let kind = match filter.mode {
                FilterMode::Include => RecordType::Allow,
                FilterMode::Exclude if filter.sources.is_empty() => RecordType::ToEx,
                FilterMode::Exclude => return None,
            };
            let sources = filter.sources.iter().copied().collect();
            Some(Message::ReportV3(vec![GroupRecord { kind, group, sources }]))
        }
    }
}

/// `net.ipv4.conf.*.force_igmp_version` of the host; 3 stands for none (`IGMP_V2_SEEN` in
/// net/ipv4/igmp.c).
fn forced_version(name: &str, host: &Sysctls) -> Option<Version> {
    let read = |interface| host.number(&format!("ipv4/conf/{interface}/force_igmp_version"));
    ["all", name].into_iter().filter_map(read).find_map(|version| match version {
        1 => Some(Version::V1),
        2 => Some(Version::V2),
        _ => None,
    })
}

/// The version of an interface as `/proc/net/igmp` of the caller's namespace shows it. The groups
/// of the interface, which may be many, follow its line and are not read.
fn version_now(index: u32) -> Option<Version> {
    let file = File::open("/proc/thread-self/net/igmp").ok()?;
    version_in(BufReader::with_capacity(PAGE, file), index)
}

fn version_in(text: impl BufRead, index: u32) -> Option<Version> {
    let own = |line: &String| {
        let first = line.split_ascii_whitespace().next();
        line.starts_with(|c: char| c.is_ascii_digit()) && first == Some(&index.to_string())
    };
    let line = text.lines().map_while(Result::ok).find(own)?;
    match line.split_ascii_whitespace().last()? {
        "V1" => Some(Version::V1),
        "V2" => Some(Version::V2),
        _ => Some(Version::V3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn the_version_of_an_interface_is_read() {
        let text = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
                    1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n\
                    12\tlan0      :     2      V2\n\t\t\t\t010000E0     1 0:00000000\t\t0\n";
        assert_eq!(version_in(text.as_bytes(), 1), Some(Version::V3));
        assert_eq!(version_in(text.as_bytes(), 12), Some(Version::V2));
        assert_eq!(version_in(text.as_bytes(), 2), None);
    }
}
