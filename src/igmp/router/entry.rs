//! One group of a container: its entry in the table, its view for people, and its compatibility
//! mode.

use std::time::Instant;

use crate::igmp::group::GroupState;
use crate::igmp::message::{RecordType, Version};
use crate::multicast::{Address, SourceFilter};

/// A message about one group, or one record of a report.
#[derive(Debug, Clone, Copy)]
pub(super) enum GroupMessage<'a, A> {
    ReportV1,
    ReportV2,
    LeaveV2,
    Record(RecordType, &'a [A]),
}

/// What became of a container's join of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Joined upstream.
    Allowed,
    /// Not joined, by this rule: `deny=239.1.0.0/16`.
    Denied(String),
    /// Beyond this limit: not joined (`max-groups=256`), or joined with a part of the sources
    /// (`max-sources=64`).
    Limited(String),
}

/// One group, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupView<A> {
    /// The group.
    pub group: A,
    /// The source filter of the container.
    pub wanted: SourceFilter<A>,
    /// The source filter for upstream: [`SourceFilter::none`] while the join is refused.
    pub upstream: SourceFilter<A>,
    /// The version the container uses for it (RFC 9776 §7.3.2).
    pub version: Version,
    /// When the container joined.
    pub since: Instant,
    /// What became of the join.
    pub status: Status,
}

/// One group in the table.
#[derive(Debug, Clone)]
pub(super) struct Entry<A> {
    pub(super) state: GroupState<A>,
    /// End of the IGMPv1-host-present timer (RFC 9776 §7.3.2).
    pub(super) v1_host_until: Option<Instant>,
    /// End of the IGMPv2-host-present timer, and of MLDv1's (RFC 9777 §8.3.2).
    pub(super) v2_host_until: Option<Instant>,
    pub(super) since: Instant,
    pub(super) admission: Admission,
    /// The part of the container's filter that the policy allows; [`SourceFilter::none`] while the
    /// join is denied.
    pub(super) allowed: SourceFilter<A>,
    /// Sources were left out because of `max_sources`.
    pub(super) is_truncated: bool,
    /// Nothing has changed since the filter was known from the container's kernel, or from its first
    /// report.
    pub(super) is_fresh: bool,
    /// The first timer of the state, as the table's index of deadlines has it.
    pub(super) deadline: Option<Instant>,
}

/// What policy and limits have decided about a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Admission {
    /// Nothing: the group is not in the table yet.
    Undecided,
    Admitted,
    /// Allowed, and waiting until fewer than `max_groups` groups are admitted.
    Waiting,
    /// Denied by this rule.
    Denied(String),
}

impl<A: Address> Entry<A> {
    pub(super) fn new(now: Instant) -> Self {
        Entry {
            state: GroupState::new(),
            v1_host_until: None,
            v2_host_until: None,
            since: now,
            admission: Admission::Undecided,
            allowed: SourceFilter::none(),
            is_truncated: false,
            is_fresh: true,
            deadline: None,
        }
    }

    /// The compatibility mode of the group (RFC 9776 §7.3.2).
    pub(super) fn version(&self, now: Instant) -> Version {
        let running = |until: Option<Instant>| until.is_some_and(|until| until > now);
        if running(self.v1_host_until) {
            Version::V1
        } else if running(self.v2_host_until) {
            Version::V2
        } else {
            Version::V3
        }
    }
}

/// The record that a message stands for in a compatibility mode; `None` if the mode ignores the
/// message (RFC 9776 §7.3.2, RFC 9777 §8.3.2).
pub(super) fn translate<A>(
    version: Version,
    message: GroupMessage<'_, A>,
) -> Option<(RecordType, &[A])> {
    let (kind, list) = match message {
        GroupMessage::ReportV1 | GroupMessage::ReportV2 => return Some((RecordType::IsEx, &[])),
        GroupMessage::LeaveV2 => (RecordType::ToIn, &[][..]),
        GroupMessage::Record(kind, list) => (kind, list),
    };
    match (version, kind) {
        (Version::V1, RecordType::ToIn) => None,
        (Version::V1 | Version::V2, RecordType::Block) => None,
        (Version::V1 | Version::V2, RecordType::ToEx) => Some((kind, &[])),
        _ => Some((kind, list)),
    }
}

/// Whether a record adds a member to a group that has none.
pub(super) fn joins<A>(kind: RecordType, list: &[A]) -> bool {
    match kind {
        RecordType::IsEx | RecordType::ToEx => true,
        RecordType::IsIn | RecordType::ToIn | RecordType::Allow => !list.is_empty(),
        RecordType::Block | RecordType::Unknown(_) => false,
    }
}
