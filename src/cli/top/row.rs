//! A line of `mcrun top`: a group of a container, and what arrives for it.

use std::net::IpAddr;
use std::sync::Arc;

use crate::cli::containers::Container;
use crate::cli::groups::sources;
use crate::cli::memberships::{Arrived, is_wanted, memberships};
use crate::cli::output::age;
use crate::cli::queriers::{Heard, Protocol};
use crate::primitives::printable;
use crate::proxy::{GroupMembership, MembershipStatus, RelayCounts};
use crate::stream_count::{RtpCount, StreamCount};

/// A stream from which nothing has come for so many milliseconds is dead.
pub(super) const SILENCE_MS: u64 = 5_000;
/// Characters of a text that others have chosen.
const MAX_TEXT: usize = 300;

/// What a row is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// The id of the container.
    pub(super) container: String,
    /// The interface in the container.
    pub(super) interface: String,
    /// The group.
    pub(super) group: IpAddr,
}

/// A group that a container wants at an interface. All texts can be shown on a terminal.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) key: Key,
    pub(super) name: String,
    pub(super) interface: String,
    pub(super) parent: String,
    /// The sources that are wanted: `any`, or a list.
    pub(super) sources: String,
    /// IGMP or MLD version of the membership.
    pub(super) version: u8,
    pub(super) membership: MembershipStatus,
    /// The rule, the limit or the error behind the membership.
    pub(super) reason: Option<String>,
    /// Seconds since the container joined.
    pub(super) age_s: u64,
    /// What has come from the sources that are wanted; `None`: nothing is counted.
    pub(super) arrival: Option<Arrival>,
    /// What has come from each source.
    pub(super) streams: Vec<Source>,
    /// Packets of a relay.
    pub(super) relay: Option<RelayCounts>,
    pub(super) querier: Querier,
    /// What is wrong at the container.
    pub(super) warnings: Arc<[String]>,
}

/// What has come for a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) packets: u64,
    /// Packets a second; `None`: not known yet.
    pub(super) packet_rate: Option<u64>,
    /// Bytes of UDP payload a second; `None`: not counted.
    pub(super) byte_rate: Option<u64>,
    /// Milliseconds since the last packet; `None`: there was none.
    pub(super) last_packet_ms: Option<u64>,
    /// `None`: most of it is not RTP.
    pub(super) rtp: Option<RtpCount>,
}

/// What has come from one source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    pub(super) count: StreamCount,
    /// Whether the container wants it.
    pub(super) is_wanted: bool,
}

/// The querier that the proxy of an interface hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Querier {
    /// None, and that is certain.
    Gone,
    /// None was heard yet, for so many seconds. After so many more it is certain that there is none.
    Unheard { seconds: u64, gone_in_s: u64 },
    /// It has asked so many seconds ago. Unless it asks again, it is gone after so many more.
    Heard { address: IpAddr, version: u8, last_query_s: u64, gone_in_s: u64 },
    /// Nobody listens.
    Unknown,
}

/// How a row is, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Health {
    /// Joined, and nothing comes.
    Dead,
    /// Not joined, for an error.
    Failed,
    Denied,
    Limited,
    Joined,
}

impl Health {
    /// A word of at most seven letters. Dead streams are told by it alone, where there are no colours.
    pub(super) fn word(self) -> &'static str {
        match self {
            Health::Dead => "DEAD",
            Health::Failed => "failed",
            Health::Denied => "denied",
            Health::Limited => "limited",
            Health::Joined => "joined",
        }
    }
}

impl Row {
    /// The rows of these containers.
    pub(super) fn of(containers: &[Container]) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for (container, interface, entry) in memberships(containers) {
            let id = container.record.container.id.as_str();
            // The groups of one container follow one another.
            let before = rows.last().filter(|row| row.key.container == id);
            let warnings = match before {
                Some(row) => Arc::clone(&row.warnings),
                None => container.warnings().iter().map(|w| printable(w, MAX_TEXT)).collect(),
            };
            let protocol = Protocol::of(entry.group);
            let has_same =
                |row: &&Row| row.key.interface == interface.interface && row.protocol() == protocol;
            let querier = match before.filter(has_same) {
                Some(row) => row.querier.clone(),
                None => {
                    let listening = container.listening(&interface.interface);
                    Querier::of(listening.and_then(|entry| Heard::of(entry, protocol)))
                }
            };
            let arrived = Arrived::of(container, interface, entry);
            let streams = each_source(entry, arrived.as_ref());
            rows.push(Row {
                key: Key {
                    container: id.to_owned(),
                    interface: interface.interface.clone(),
                    group: entry.group,
                },
                name: printable(&container.record.container.name, MAX_TEXT),
                interface: printable(&interface.interface, MAX_TEXT),
                parent: printable(&interface.parent, MAX_TEXT),
                sources: sources(entry),
                version: entry.version,
                membership: entry.status,
                reason: entry.reason.as_deref().map(|reason| printable(reason, MAX_TEXT)),
                age_s: entry.age_s,
                arrival: arrived.as_ref().map(|arrived| Arrival::of(arrived, &streams)),
                streams,
                relay: entry.relay,
                querier,
                warnings,
            });
        }
        rows
    }

    /// The protocol in which the group is joined.
    pub(super) fn protocol(&self) -> Protocol {
        Protocol::of(self.key.group)
    }

    pub(super) fn health(&self) -> Health {
        match self.membership {
            MembershipStatus::Joined if self.is_silent() => Health::Dead,
            MembershipStatus::Joined => Health::Joined,
            MembershipStatus::Denied => Health::Denied,
            MembershipStatus::Limited => Health::Limited,
            MembershipStatus::Failed => Health::Failed,
        }
    }

    /// Whether nothing has come for long. A stream has as much time to come as it may be silent.
    fn is_silent(&self) -> bool {
        let Some(arrival) = &self.arrival else { return false };
        self.age_s * 1000 >= SILENCE_MS && arrival.last_packet_ms.is_none_or(|ms| ms >= SILENCE_MS)
    }

    /// How long ago the last packet came.
    pub(super) fn last(&self) -> String {
        match &self.arrival {
            None => "-".into(),
            Some(Arrival { last_packet_ms: None, .. }) => "never".into(),
            Some(Arrival { last_packet_ms: Some(ms), .. }) => age(ms / 1000),
        }
    }

    /// What an RTP receiver would tell.
    pub(super) fn rtp(&self) -> Option<&RtpCount> {
        self.arrival.as_ref()?.rtp.as_ref()
    }
}

fn each_source(entry: &GroupMembership, arrived: Option<&Arrived<'_>>) -> Vec<Source> {
    let streams = arrived.into_iter().flat_map(|arrived| &arrived.streams);
    let source =
        |stream: &&StreamCount| Source { count: **stream, is_wanted: is_wanted(entry, stream) };
    streams.map(source).collect()
}

impl Arrival {
    fn of(arrived: &Arrived<'_>, streams: &[Source]) -> Self {
        let wanted = || streams.iter().filter(|s| s.is_wanted).map(|s| s.count);
        Arrival {
            packets: arrived.sum(|s| s.packets),
            packet_rate: Some(wanted().map(|s| s.packet_rate).sum()),
            byte_rate: Some(wanted().map(|s| s.byte_rate).sum()),
            last_packet_ms: arrived.wanted.as_ref().map(|s| s.last_packet_ms),
            rtp: arrived.wanted.as_ref().and_then(|s| s.rtp),
        }
    }
}

impl Querier {
    fn of(heard: Option<Heard<'_>>) -> Self {
        let Some(heard) = heard else { return Querier::Unknown };
        let gone_in_s = |silence| heard.timeout_s.saturating_sub(silence);
        match (heard.querier, heard.listening_s) {
            (Some(q), _) => Querier::Heard {
                address: q.address,
                version: q.version,
                last_query_s: q.last_query_s,
                gone_in_s: gone_in_s(q.last_query_s),
            },
            (None, Some(seconds)) if !heard.is_missing() => {
                Querier::Unheard { seconds, gone_in_s: gone_in_s(seconds) }
            }
            (None, _) => Querier::Gone,
        }
    }

    /// Seconds until it is certain that there is none, unless it asks before (RFC 9776 §8.5); `None`:
    /// nobody listens.
    pub(super) fn gone_in(&self) -> Option<u64> {
        match self {
            Querier::Gone => Some(0),
            Querier::Unheard { gone_in_s, .. } | Querier::Heard { gone_in_s, .. } => {
                Some(*gone_in_s)
            }
            Querier::Unknown => None,
        }
    }
}
