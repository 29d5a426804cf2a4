//! IGMP messages: bytes become a checked view first ([`Ipv4Packet`]), then plain types that cannot
//! hold an invalid message ([`Message`]).
//!
//! ```
//! use mcrun::igmp::wire::{self, Ipv4Packet, Malformed, Message};
//!
//! fn read(packet: &[u8]) -> Result<Message, Malformed> {
//!     wire::parse(Ipv4Packet::parse(packet)?.igmp()?)
//! }
//! assert_eq!(read(&[]), Err(Malformed::Ipv4Header));
//! ```

use std::net::Ipv4Addr;

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

use crate::igmp::lists::ListError;
use crate::igmp::message;
pub use crate::igmp::message::{RecordType, Version};

/// The destination of v2 leaves (RFC 2236 §3).
pub const ALL_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);

/// The destination of v3 reports (RFC 9776 §4.2.14).
pub const V3_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);

const TYPE_QUERY: u8 = 0x11;
const TYPE_REPORT_V1: u8 = 0x12;
const TYPE_REPORT_V2: u8 = 0x16;
const TYPE_LEAVE_V2: u8 = 0x17;
const TYPE_REPORT_V3: u8 = 0x22;

/// An IGMP message.
pub type Message = message::Message<Ipv4Addr>;
/// A membership query of IGMP.
pub type Query = message::Query<Ipv4Addr>;
/// A group record of IGMPv3.
pub type GroupRecord = message::GroupRecord<Ipv4Addr>;

impl Message {
    /// The destination of a message of this kind (RFC 9776 §4.1.12, §4.2.14; RFC 2236 §3).
    pub fn destination(&self) -> Ipv4Addr {
        match self {
            Message::Query(query) => query.destination(),
            Message::ReportV1 { group } | Message::ReportV2 { group } => *group,
            Message::LeaveV2 { .. } => ALL_ROUTERS,
            Message::ReportV3(_) => V3_ROUTERS,
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

impl From<ListError> for Malformed {
    fn from(error: ListError) -> Self {
        match error {
            ListError::QueryLength => Malformed::QueryLength,
            ListError::Short => Malformed::Short,
            ListError::SourceCount => Malformed::SourceCount,
            ListError::RecordCount => Malformed::RecordCount,
            ListError::AuxData => Malformed::AuxData,
        }
    }
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
