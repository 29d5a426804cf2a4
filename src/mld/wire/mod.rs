//! MLD messages: bytes become a checked view first ([`Ipv6Packet`]), then plain types that cannot
//! hold an invalid message ([`Message`]).
//!
//! The types are those of IGMP, whose messages MLD has under other numbers: `ReportV2` is the report
//! of MLDv1, `LeaveV2` its done, and `ReportV3` the report of MLDv2.
//!
//! ```
//! use mcrun::mld::wire::{self, Ipv6Packet, Malformed, Message};
//!
//! fn read(packet: &[u8]) -> Result<Message, Malformed> {
//!     wire::parse(&Ipv6Packet::parse(packet)?)
//! }
//! assert_eq!(read(&[]), Err(Malformed::Ipv6Header));
//! ```

use std::net::Ipv6Addr;

pub mod code;
mod emit;
mod format;
mod ipv6;
mod parse;
#[cfg(test)]
mod tests;

pub use crate::mld::wire::emit::MIN_MTU;
pub use crate::mld::wire::ipv6::{HEADERS_LEN, ICMPV6, Ipv6Packet};
pub use crate::mld::wire::parse::{parse, parse_payload};

use crate::igmp::lists::ListError;
use crate::igmp::message;
pub use crate::igmp::message::{RecordType, Version};

/// The destination of MLDv1's done (RFC 2710 §3): all routers of the link.
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// The destination of MLDv2 reports (RFC 9777 §5.2): all MLDv2-capable routers of the link.
pub const V2_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);

const TYPE_QUERY: u8 = 130;
const TYPE_REPORT_V1: u8 = 131;
const TYPE_DONE: u8 = 132;
const TYPE_REPORT_V2: u8 = 143;

/// The ICMPv6 types of MLD: query, report and done of MLDv1, report of MLDv2.
pub const TYPES: [u8; 4] = [TYPE_QUERY, TYPE_REPORT_V1, TYPE_DONE, TYPE_REPORT_V2];

/// An MLD message.
pub type Message = message::Message<Ipv6Addr>;
/// A query of MLD.
pub type Query = message::Query<Ipv6Addr>;
/// A group record ("multicast address record") of MLDv2.
pub type GroupRecord = message::GroupRecord<Ipv6Addr>;

impl Message {
    /// The destination of a message of this kind (RFC 9777 §5.1.15, §5.2; RFC 2710 §3).
    pub fn destination(&self) -> Ipv6Addr {
        match self {
            Message::Query(query) => query.destination(),
            Message::ReportV1 { group } | Message::ReportV2 { group } => *group,
            Message::LeaveV2 { .. } => ALL_ROUTERS,
            Message::ReportV3(_) => V2_ROUTERS,
        }
    }
}

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    /// Shorter than an IPv6 header, or another version.
    #[error("no IPv6 header")]
    Ipv6Header,
    /// The payload length is longer than the buffer.
    #[error("the IPv6 payload length disagrees with the packet")]
    Ipv6Length,
    /// Hop-by-hop options that are longer than the packet.
    #[error("the hop-by-hop options exceed the packet")]
    Options,
    /// A fragment: MLD is never fragmented.
    #[error("an IP fragment")]
    Fragment,
    /// Another protocol, or another extension header than hop-by-hop options.
    #[error("not MLD")]
    NotMld,
    /// Shorter than the message that its type announces: 24 bytes, or the 8 of an MLDv2 report.
    #[error("shorter than an MLD message")]
    Short,
    /// The checksum over the whole IPv6 payload and the pseudo header is wrong.
    #[error("wrong ICMPv6 checksum")]
    Checksum,
    /// Another type of ICMPv6.
    #[error("unknown MLD type")]
    UnknownType,
    /// A query of 25 to 27 bytes (RFC 9777 §8.1).
    #[error("a query of a length that no version has")]
    QueryLength,
    /// The group of a query, an MLDv1 report or a done is not in ff00::/8.
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
    /// A report whose source is neither a link-local address nor `::` (RFC 9777 §5.2).
    #[error("a report from an address that is not of the link")]
    Source,
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
            Malformed::Ipv6Header => "malformed_ipv6_header",
            Malformed::Ipv6Length => "malformed_ipv6_length",
            Malformed::Options => "malformed_ipv6_options",
            Malformed::Fragment => "malformed_fragment",
            Malformed::NotMld => "malformed_not_mld",
            Malformed::Short => "malformed_short",
            Malformed::Checksum => "malformed_checksum",
            Malformed::UnknownType => "unknown_message_type",
            Malformed::QueryLength => "malformed_query_length",
            Malformed::BadGroup => "malformed_group",
            Malformed::SourcesWithoutGroup => "malformed_sources_without_group",
            Malformed::SourceCount => "malformed_source_count",
            Malformed::RecordCount => "malformed_record_count",
            Malformed::AuxData => "malformed_aux_data",
            Malformed::Source => "malformed_source",
        }
    }
}
