//! IGMP messages: checked views of bytes first ([`Ipv4Packet`]), plain types that can't hold
//! nonsense then ([`Message`]).
//!
//! ```
//! use mcrun::igmp::wire::{self, Ipv4Packet, Malformed, Message};
//!
//! fn read(packet: &[u8]) -> Result<Message, Malformed> {
//!     wire::parse(Ipv4Packet::parse(packet)?.igmp()?)
//! }
//! assert_eq!(read(&[]), Err(Malformed::Ipv4Header));
//! ```

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

pub mod code;
mod emit;
mod format;
mod ipv4;
mod parse;
#[cfg(test)]
mod tests;

pub use crate::igmp::wire::emit::MIN_MTU;
pub use crate::igmp::wire::ipv4::{HEADER_LEN, Ipv4Packet, PROTOCOL};
pub use crate::igmp::wire::parse::parse;

/// Where general queries go (RFC 9776 §4.1.12).
pub const ALL_SYSTEMS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);

/// Where v2 leaves go (RFC 2236 §3).
pub const ALL_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);

/// Where v3 reports go (RFC 9776 §4.2.14).
pub const V3_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);

const TYPE_QUERY: u8 = 0x11;
const TYPE_REPORT_V1: u8 = 0x12;
const TYPE_REPORT_V2: u8 = 0x16;
const TYPE_LEAVE_V2: u8 = 0x17;
const TYPE_REPORT_V3: u8 = 0x22;

/// A version of the protocol, ordered by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// RFC 1112.
    V1,
    /// RFC 2236.
    V2,
    /// RFC 9776.
    V3,
}

impl Version {
    /// 1, 2 or 3.
    pub fn number(self) -> u8 {
        match self {
            Version::V1 => 1,
            Version::V2 => 2,
            Version::V3 => 3,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IGMPv{}", self.number())
    }
}

/// One IGMP message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Membership query of any version.
    Query(Query),
    /// RFC 1112 report.
    ReportV1 {
        /// The group that is joined.
        group: Ipv4Addr,
    },
    /// RFC 2236 report.
    ReportV2 {
        /// The group that is joined.
        group: Ipv4Addr,
    },
    /// RFC 2236 leave.
    LeaveV2 {
        /// The group that is left.
        group: Ipv4Addr,
    },
    /// RFC 9776 report.
    ReportV3(Vec<Record>),
}

impl Message {
    /// Where a message of this kind is sent (RFC 9776 §4.1.12, §4.2.14; RFC 2236 §3).
    pub fn destination(&self) -> Ipv4Addr {
        match self {
            Message::Query(query) => query.destination(),
            Message::ReportV1 { group } | Message::ReportV2 { group } => *group,
            Message::LeaveV2 { .. } => ALL_ROUTERS,
            Message::ReportV3(_) => V3_ROUTERS,
        }
    }
}

/// A membership query (RFC 9776 §4.1, RFC 2236 §2, RFC 1112 Appendix I).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// By length and code of the message (RFC 9776 §7.1).
    pub version: Version,
    /// The group asked for; `None` in a general query and in all of v1.
    pub group: Option<Ipv4Addr>,
    /// Longest time to wait before answering. 10 s in v1; in tenths of a second on the wire,
    /// up to 25.5 s in v2 and 3174.4 s in v3.
    pub max_resp: Duration,
    /// S: routers shall not lower their timers for it. v3 only.
    pub suppress: bool,
    /// The querier's robustness variable, 1 to 7; 0 where the query does not tell.
    pub qrv: u8,
    /// The querier's query interval in whole seconds, up to 31744 s; zero where the query
    /// does not tell.
    pub qqi: Duration,
    /// The sources asked for; not empty in a group-and-source-specific query. v3 only.
    pub sources: Vec<Ipv4Addr>,
}

impl Query {
    /// A v3 general query with default robustness and interval.
    pub fn general(max_resp: Duration) -> Self {
        Query {
            version: Version::V3,
            group: None,
            max_resp,
            suppress: false,
            qrv: crate::igmp::Timing::default().robustness(),
            qqi: crate::igmp::Timing::default().query_interval(),
            sources: Vec::new(),
        }
    }

    /// The querier's robustness variable; the default, 2, where the query does not tell
    /// (RFC 9776 §4.1.6).
    pub fn robustness(&self) -> u8 {
        if self.qrv == 0 { crate::igmp::Timing::default().robustness() } else { self.qrv }
    }

    /// The querier's query interval; the default, 125 s, where the query does not tell
    /// (RFC 9776 §4.1.7).
    pub fn query_interval(&self) -> Duration {
        if self.qqi.is_zero() { crate::igmp::Timing::default().query_interval() } else { self.qqi }
    }

    /// Where it is sent: 224.0.0.1 or the group (RFC 9776 §4.1.12).
    pub fn destination(&self) -> Ipv4Addr {
        self.group.unwrap_or(ALL_SYSTEMS)
    }
}

/// One group record of a v3 report (RFC 9776 §4.2.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it says of the group.
    pub kind: RecordType,
    /// The group. Not checked to be multicast: a bad record does not spoil the others.
    pub group: Ipv4Addr,
    /// Its source list.
    pub sources: Vec<Ipv4Addr>,
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

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    /// Shorter than an IPv4 header, another version, or a header length below 20.
    #[error("no IPv4 header")]
    Ipv4Header,
    /// The total length is shorter than the header or longer than the buffer.
    #[error("the IPv4 total length disagrees with the packet")]
    Ipv4Length,
    /// A fragment: IGMP is never fragmented.
    #[error("an IP fragment")]
    Fragment,
    /// Another IP protocol.
    #[error("not IGMP")]
    NotIgmp,
    /// Shorter than 8 bytes.
    #[error("shorter than the 8 bytes of an IGMP message")]
    Short,
    /// The checksum over the whole IP payload is wrong.
    #[error("wrong IGMP checksum")]
    Checksum,
    /// A type that no version knows.
    #[error("unknown IGMP type")]
    UnknownType,
    /// A query of 9 to 11 bytes (RFC 9776 §7.1).
    #[error("a query of a length that no version has")]
    QueryLength,
    /// The group of a query, a v1 or v2 report or a leave is not in 224.0.0.0/4.
    #[error("the group is not a multicast address")]
    BadGroup,
    /// A general query with a source list.
    #[error("a general query with sources")]
    SourcesWithoutGroup,
    /// More sources announced than there are bytes.
    #[error("the source count exceeds the message")]
    SourceCount,
    /// More records announced than there are bytes.
    #[error("the record count exceeds the message")]
    RecordCount,
    /// More auxiliary data announced than there are bytes.
    #[error("the auxiliary data exceeds the message")]
    AuxData,
}

impl Malformed {
    /// A stable name for counters.
    pub fn name(self) -> &'static str {
        match self {
            Malformed::Ipv4Header => "malformed_ipv4_header",
            Malformed::Ipv4Length => "malformed_ipv4_length",
            Malformed::Fragment => "malformed_fragment",
            Malformed::NotIgmp => "malformed_not_igmp",
            Malformed::Short => "malformed_short",
            Malformed::Checksum => "malformed_checksum",
            Malformed::UnknownType => "unknown_message_type",
            Malformed::QueryLength => "malformed_query_length",
            Malformed::BadGroup => "malformed_group",
            Malformed::SourcesWithoutGroup => "malformed_sources_without_group",
            Malformed::SourceCount => "malformed_source_count",
            Malformed::RecordCount => "malformed_record_count",
            Malformed::AuxData => "malformed_aux_data",
        }
    }
}
