//! Byte layouts, as the RFCs draw them.

use std::net::Ipv4Addr;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// An IPv4 header without options (RFC 791 §3.1).
#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Ipv4Header {
    /// Version in the high, header length in 32-bit words in the low four bits.
    pub(super) version_ihl: u8,
    pub(super) tos: u8,
    pub(super) total_length: U16,
    pub(super) identification: U16,
    /// Reserved, DF, MF and 13 bits of fragment offset.
    pub(super) fragment: U16,
    pub(super) ttl: u8,
    pub(super) protocol: u8,
    pub(super) checksum: U16,
    pub(super) source: Address,
    pub(super) destination: Address,
}

/// An address in network order.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Address([u8; 4]);

impl From<Ipv4Addr> for Address {
    fn from(address: Ipv4Addr) -> Self {
        Address(address.octets())
    }
}

impl From<Address> for Ipv4Addr {
    fn from(address: Address) -> Self {
        address.0.into()
    }
}

/// What every message but a v3 report begins with (RFC 1112 Appendix I, RFC 2236 §2,
/// RFC 9776 §4.1).
#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct ShortMessage {
    pub(super) kind: u8,
    /// Max Resp Time or Max Resp Code.
    pub(super) code: u8,
    pub(super) checksum: U16,
    pub(super) group: Address,
}

/// What a v3 query adds to it (RFC 9776 §4.1).
#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct QueryV3 {
    /// Four reserved bits, S, three bits of QRV.
    pub(super) flags: u8,
    pub(super) qqic: u8,
    pub(super) sources: U16,
}

/// The beginning of a v3 report (RFC 9776 §4.2).
#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct ReportV3 {
    pub(super) kind: u8,
    pub(super) reserved: u8,
    pub(super) checksum: U16,
    pub(super) flags: U16,
    pub(super) records: U16,
}

/// The beginning of a group record (RFC 9776 §4.2.4).
#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RecordHeader {
    pub(super) kind: u8,
    /// Auxiliary data behind the sources, in 32-bit words.
    pub(super) aux_words: u8,
    pub(super) sources: U16,
    pub(super) group: Address,
}
