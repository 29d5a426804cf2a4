//! Byte layouts, as the RFCs draw them.

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
    pub(super) source: [u8; 4],
    pub(super) destination: [u8; 4],
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
    pub(super) group: [u8; 4],
}
