//! Byte layouts, as the RFCs draw them.

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// An IPv6 header (RFC 8200 §3).
#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Ipv6Header {
    /// Four bits of version, eight of traffic class, twenty of flow label.
    pub(super) version_class_flow: U32,
    pub(super) payload_length: U16,
    pub(super) next_header: u8,
    pub(super) hop_limit: u8,
    pub(super) source: [u8; 16],
    pub(super) destination: [u8; 16],
}

/// What every message except an MLDv2 report begins with (RFC 2710 §3, RFC 9777 §5.1).
#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct ShortMessage {
    pub(super) kind: u8,
    pub(super) code: u8,
    pub(super) checksum: U16,
    /// Maximum Response Delay or Maximum Response Code.
    pub(super) max_resp: U16,
    pub(super) reserved: U16,
    pub(super) group: [u8; 16],
}
