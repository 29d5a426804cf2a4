//! Byte layouts, as the RFCs draw them.

use std::net::Ipv6Addr;

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
    pub(super) source: Address,
    pub(super) destination: Address,
}

/// An address in network order.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Address([u8; 16]);

impl From<Ipv6Addr> for Address {
    fn from(address: Ipv6Addr) -> Self {
        Address(address.octets())
    }
}

impl From<Address> for Ipv6Addr {
    fn from(address: Address) -> Self {
        address.0.into()
    }
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
    pub(super) group: Address,
}

/// What an MLDv2 query adds to it (RFC 9777 §5.1).
#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct QueryV2 {
    /// Four reserved bits, S, three bits of QRV.
    pub(super) flags: u8,
    pub(super) qqic: u8,
    pub(super) sources: U16,
}

/// The beginning of an MLDv2 report (RFC 9777 §5.2).
#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct ReportV2 {
    pub(super) kind: u8,
    pub(super) reserved: u8,
    pub(super) checksum: U16,
    pub(super) flags: U16,
    pub(super) records: U16,
}

/// The beginning of a group record (RFC 9777 §5.2).
#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RecordHeader {
    pub(super) kind: u8,
    /// Auxiliary data behind the sources, in 32-bit words.
    pub(super) aux_words: u8,
    pub(super) sources: U16,
    pub(super) group: Address,
}
