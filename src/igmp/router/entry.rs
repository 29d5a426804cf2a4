//! One group of a container: what is kept of it, what is shown of it, and what messages of
//! any version say of it.

use std::net::Ipv4Addr;
use std::time::Instant;

use crate::igmp::group::GroupState;
use crate::igmp::wire::{RecordType, Version};
use crate::multicast::SourceFilter;

/// What a message says of a group.
#[derive(Debug, Clone, Copy)]
pub(super) enum Said<'a> {
    ReportV1,
    ReportV2,
    LeaveV2,
    Record(RecordType, &'a [Ipv4Addr]),
}

/// What became of a container's wish for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Wanted upstream.
    Allowed,
    /// Kept off the LAN by this rule, such as `deny=239.1.0.0/16`.
    Denied(String),
    /// Beyond this limit, such as `max-groups=256`: not wanted upstream, or, by `max-sources`,
    /// wanted with a part of the sources.
    Limited(String),
}

/// One group as people are shown it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupView {
    /// The group.
    pub group: Ipv4Addr,
    /// What the container wants.
    pub wanted: SourceFilter,
    /// What is wanted upstream for it: [`SourceFilter::none`] while it is refused.
    pub upstream: SourceFilter,
    /// The version the container uses for it (RFC 9776 §7.3.2).
    pub version: Version,
    /// When the container joined.
    pub since: Instant,
    /// What became of the wish.
    pub status: Status,
}

/// One group in the table.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) state: GroupState<Ipv4Addr>,
    /// Ends of the older-host-present timers (RFC 9776 §7.3.2).
    pub(super) v1_until: Option<Instant>,
    pub(super) v2_until: Option<Instant>,
    pub(super) since: Instant,
    pub(super) standing: Standing,
    /// What the policy leaves of the wish; [`SourceFilter::none`] while denied.
    pub(super) judged: SourceFilter,
    /// Sources were left out because of the limit.
    pub(super) cut: bool,
    /// Under which it is in the index of deadlines.
    pub(super) deadline: Option<Instant>,
}

/// Where a group stands with policy and limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// Not yet in the table.
    New,
    Admitted,
    /// For room.
    Waiting,
    Denied(String),
}

impl Entry {
    pub(super) fn new(now: Instant) -> Self {
        Entry {
            state: GroupState::new(),
            v1_until: None,
            v2_until: None,
            since: now,
            standing: Standing::New,
            judged: SourceFilter::none(),
            cut: false,
            deadline: None,
        }
    }

    pub(super) fn version(&self, now: Instant) -> Version {
        let running = |until: Option<Instant>| until.is_some_and(|until| until > now);
        if running(self.v1_until) {
            Version::V1
        } else if running(self.v2_until) {
            Version::V2
        } else {
            Version::V3
        }
    }
}

/// Older messages as records, and what the compatibility mode of the group ignores as `None`
/// (RFC 9776 §7.3.2).
pub(super) fn translate(version: Version, said: Said<'_>) -> Option<(RecordType, &[Ipv4Addr])> {
    let (kind, list) = match said {
        Said::ReportV1 | Said::ReportV2 => return Some((RecordType::IsEx, &[])),
        Said::LeaveV2 => (RecordType::ToIn, &[][..]),
        Said::Record(kind, list) => (kind, list),
    };
    match (version, kind) {
        (Version::V1, RecordType::ToIn) => None,
        (Version::V1 | Version::V2, RecordType::Block) => None,
        (Version::V1 | Version::V2, RecordType::ToEx) => Some((kind, &[])),
        _ => Some((kind, list)),
    }
}

/// Whether a record makes a member of a group that has none.
pub(super) fn joins(kind: RecordType, list: &[Ipv4Addr]) -> bool {
    match kind {
        RecordType::IsEx | RecordType::ToEx => true,
        RecordType::IsIn | RecordType::ToIn | RecordType::Allow => !list.is_empty(),
        RecordType::Block | RecordType::Unknown(_) => false,
    }
}
