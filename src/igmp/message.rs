//! What the messages of IGMP and MLD say, apart from their bytes.
//!
//! Both protocols have the same messages with the addresses of their family (RFC 9777 §1).

use std::time::Duration;

use crate::igmp::Timing;
use crate::multicast::Address;

/// A version of IGMP, ordered by age. MLDv1 has the messages of `V2`, and MLDv2 those of `V3`
/// (RFC 9777 §1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// IGMPv1 (RFC 1112).
    V1,
    /// IGMPv2 (RFC 2236), MLDv1 (RFC 2710).
    V2,
    /// IGMPv3 (RFC 9776), MLDv2 (RFC 9777).
    V3,
}

impl Version {
    /// The number of the IGMP version: 1, 2 or 3.
    pub fn number(self) -> u8 {
        match self {
            Version::V1 => 1,
            Version::V2 => 2,
            Version::V3 => 3,
        }
    }
}

/// One message. The names are those of IGMP; MLD has the same messages, one version younger: its
/// version 1 has the variants with `V2`, and its version 2 those with `V3`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<A> {
    /// Membership query of any version.
    Query(Query<A>),
    /// IGMPv1 report.
    ReportV1 {
        /// The group that is joined.
        group: A,
    },
    /// IGMPv2 or MLDv1 report.
    ReportV2 {
        /// The group that is joined.
        group: A,
    },
    /// IGMPv2 leave or MLDv1 done.
    LeaveV2 {
        /// The group that is left.
        group: A,
    },
    /// IGMPv3 or MLDv2 report.
    ReportV3(Vec<GroupRecord<A>>),
}

/// A membership query (RFC 9776 §4.1, RFC 2236 §2, RFC 1112 Appendix I; RFC 9777 §5.1, RFC 2710 §3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query<A> {
    /// By length and code of the message (RFC 9776 §7.1), in MLD by its length (RFC 9777 §8.1).
    pub version: Version,
    /// The queried group; `None` in a general query and in every v1 query.
    pub group: Option<A>,
    /// The longest time that a host may wait before it answers. 10 s in IGMPv1. In tenths of a
    /// second in IGMPv2, up to 25.5 s, and in IGMPv3, up to 3174.4 s. In milliseconds in MLDv1, up to
    /// 65.535 s, and in MLDv2, up to 8387.584 s.
    pub max_resp: Duration,
    /// S flag: routers do not lower their timers. v3 only.
    pub suppress: bool,
    /// The querier's robustness variable, 1 to 7; 0 where the query does not tell.
    pub qrv: u8,
    /// The querier's query interval in whole seconds, up to 31744 s; zero where the query
    /// does not tell.
    pub qqi: Duration,
    /// The queried sources; not empty in a group-and-source-specific query. v3 only.
    pub sources: Vec<A>,
}

impl<A: Address> Query<A> {
    /// A v3 general query with default robustness and interval.
    pub fn general(max_resp: Duration) -> Self {
        Query {
            version: Version::V3,
            group: None,
            max_resp,
            suppress: false,
            qrv: Timing::default().robustness(),
            qqi: Timing::default().query_interval(),
            sources: Vec::new(),
        }
    }

    /// The querier's robustness variable; the default, 2, where the query does not tell
    /// (RFC 9776 §4.1.6).
    pub fn robustness(&self) -> u8 {
        if self.qrv == 0 { Timing::default().robustness() } else { self.qrv }
    }

    /// The querier's query interval; the default, 125 s, where the query does not tell
    /// (RFC 9776 §4.1.7).
    pub fn query_interval(&self) -> Duration {
        if self.qqi.is_zero() { Timing::default().query_interval() } else { self.qqi }
    }

    /// The destination: all systems of the link, or the group (RFC 9776 §4.1.12).
    pub fn destination(&self) -> A {
        self.group.unwrap_or(A::ALL_SYSTEMS)
    }
}

/// One group record of an IGMPv3 or MLDv2 report (RFC 9776 §4.2.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRecord<A> {
    /// Its type.
    pub kind: RecordType,
    /// The group. Not checked to be multicast: a bad record does not spoil the others.
    pub group: A,
    /// Its source list.
    pub sources: Vec<A>,
}

/// The type of a group record (RFC 9776 §4.2.13; MLDv2 uses the same values).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordType {
    /// MODE_IS_INCLUDE: the answer to a query.
    IsIn,
    /// MODE_IS_EXCLUDE: the answer to a query.
    IsEx,
    /// CHANGE_TO_INCLUDE_MODE; with no sources: a leave.
    ToIn,
    /// CHANGE_TO_EXCLUDE_MODE.
    ToEx,
    /// ALLOW_NEW_SOURCES.
    Allow,
    /// BLOCK_OLD_SOURCES.
    Block,
    /// A type that no RFC knows; to be ignored.
    Unknown(u8),
}

impl RecordType {
    /// The number on the wire.
    pub fn number(self) -> u8 {
        match self {
            RecordType::IsIn => 1,
            RecordType::IsEx => 2,
            RecordType::ToIn => 3,
            RecordType::ToEx => 4,
            RecordType::Allow => 5,
            RecordType::Block => 6,
            RecordType::Unknown(number) => number,
        }
    }
}

impl From<u8> for RecordType {
    fn from(number: u8) -> Self {
        match number {
            1 => RecordType::IsIn,
            2 => RecordType::IsEx,
            3 => RecordType::ToIn,
            4 => RecordType::ToEx,
            5 => RecordType::Allow,
            6 => RecordType::Block,
            other => RecordType::Unknown(other),
        }
    }
}
