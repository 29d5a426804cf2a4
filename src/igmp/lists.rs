//! What IGMPv3 and MLDv2 have in common on the wire: lists of sources, the end of a query, and reports
//! (RFC 9776 §4.1 and §4.2, RFC 9777 §5). Only the length of an address differs.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::igmp::message::{GroupRecord, Query, RecordType};
use crate::igmp::packing::{Piece, Sizes};
use crate::igmp::wire::code;
use crate::multicast::Address;

/// An address with its bytes on the wire.
pub(crate) trait WireAddress: Address {
    /// The bytes in network order.
    type Bytes: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned + Copy + Into<Self>;

    /// The address in network order.
    fn bytes(self) -> Self::Bytes;
}

impl WireAddress for Ipv4Addr {
    type Bytes = [u8; 4];

    fn bytes(self) -> [u8; 4] {
        self.octets()
    }
}

impl WireAddress for Ipv6Addr {
    type Bytes = [u8; 16];

    fn bytes(self) -> [u8; 16] {
        self.octets()
    }
}

/// What a query with sources adds to an older one (RFC 9776 §4.1, RFC 9777 §5.1).
#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct QueryEnd {
    /// Four reserved bits, S, three bits of QRV.
    flags: u8,
    qqic: u8,
    sources: U16,
}

/// The beginning of a report (RFC 9776 §4.2, RFC 9777 §5.2).
#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ReportHeader {
    kind: u8,
    reserved: u8,
    checksum: U16,
    flags: U16,
    records: U16,
}

/// The beginning of a group record (RFC 9776 §4.2.4, RFC 9777 §5.2).
#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RecordHeader<B> {
    kind: u8,
    /// Auxiliary data behind the sources, in 32-bit words.
    aux_words: u8,
    sources: U16,
    group: B,
}

/// Bytes that the end of a query has in front of its sources.
pub(crate) const QUERY_END: usize = size_of::<QueryEnd>();

/// Why bytes are not the list that they announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListError {
    /// Too short for the end of a query.
    QueryLength,
    /// Too short for a report.
    Short,
    /// More sources announced than there are bytes.
    SourceCount,
    /// More records announced than there are bytes.
    RecordCount,
    /// More auxiliary data announced than there are bytes.
    AuxData,
}

/// The end of a query with sources.
pub(crate) struct ParsedQueryEnd<A> {
    pub(crate) suppress: bool,
    pub(crate) qrv: u8,
    pub(crate) qqi: Duration,
    pub(crate) sources: Vec<A>,
}

/// Parses the end of a query with sources.
///
/// # Errors
/// [`ListError::QueryLength`] or [`ListError::SourceCount`].
pub(crate) fn parse_query_end<A: WireAddress>(
    bytes: &[u8],
) -> Result<ParsedQueryEnd<A>, ListError> {
    let (end, rest) = QueryEnd::ref_from_prefix(bytes).map_err(|_| ListError::QueryLength)?;
    let (sources, _) = addresses(rest, end.sources.get())?;
    Ok(ParsedQueryEnd {
        suppress: end.flags & 0x08 != 0,
        qrv: end.flags & 0x07,
        qqi: Duration::from_secs(code::decode(end.qqic).into()),
        sources,
    })
}

/// Appends the end of a query, with these sources.
pub(crate) fn put_query_end<A: WireAddress>(bytes: &mut Vec<u8>, query: &Query<A>, sources: &[A]) {
    let seconds = u32::try_from(query.qqi.as_secs()).unwrap_or(u32::MAX);
    let end = QueryEnd {
        // A robustness variable above 7 does not fit, and is sent as 0 (RFC 9776 §4.1.6).
        flags: if query.suppress { 0x08 } else { 0 } | if query.qrv <= 7 { query.qrv } else { 0 },
        qqic: code::encode(seconds),
        sources: (sources.len() as u16).into(),
    };
    bytes.extend_from_slice(end.as_bytes());
    put_addresses(bytes, sources);
}

/// Parses a report. Every count is compared with the bytes that are there before anything is
/// allocated.
///
/// # Errors
/// The first check that failed.
pub(crate) fn parse_report<A: WireAddress>(
    payload: &[u8],
) -> Result<Vec<GroupRecord<A>>, ListError> {
    let (header, mut rest) =
        ReportHeader::ref_from_prefix(payload).map_err(|_| ListError::Short)?;
    let count = usize::from(header.records.get());
    if count > rest.len() / size_of::<RecordHeader<A::Bytes>>() {
        return Err(ListError::RecordCount);
    }
    let mut records = Vec::with_capacity(count);
    for _ in 0..count {
        let (header, behind) =
            RecordHeader::<A::Bytes>::ref_from_prefix(rest).map_err(|_| ListError::RecordCount)?;
        let (sources, behind) = addresses(behind, header.sources.get())?;
        // In words of four bytes (RFC 9776 §4.2.6).
        let aux = usize::from(header.aux_words) * 4;
        rest = behind.get(aux..).ok_or(ListError::AuxData)?;
        let kind = RecordType::from(header.kind);
        records.push(GroupRecord { kind, group: header.group.into(), sources });
    }
    Ok(records)
}

/// A report with these records, without its checksum.
pub(crate) fn emit_report<A: WireAddress>(kind: u8, records: &[Piece<'_, A>]) -> Vec<u8> {
    let header = ReportHeader {
        kind,
        reserved: 0,
        checksum: 0.into(),
        flags: 0.into(),
        records: (records.len() as u16).into(),
    };
    let mut bytes = header.as_bytes().to_vec();
    for (record, sources) in records {
        let header = RecordHeader {
            kind: record.kind.number(),
            aux_words: 0,
            sources: (sources.len() as u16).into(),
            group: record.group.bytes(),
        };
        bytes.extend_from_slice(header.as_bytes());
        put_addresses(&mut bytes, sources);
    }
    bytes
}

/// The sizes of a report's parts.
pub(crate) const fn sizes<A: WireAddress>() -> Sizes {
    Sizes {
        report: size_of::<ReportHeader>(),
        record: size_of::<RecordHeader<A::Bytes>>(),
        source: size_of::<A::Bytes>(),
    }
}

/// The first `count` addresses, and what is behind them.
fn addresses<A: WireAddress>(bytes: &[u8], count: u16) -> Result<(Vec<A>, &[u8]), ListError> {
    let (list, rest) = <[A::Bytes]>::ref_from_prefix_with_elems(bytes, count.into())
        .map_err(|_| ListError::SourceCount)?;
    Ok((list.iter().map(|&bytes| bytes.into()).collect(), rest))
}

fn put_addresses<A: WireAddress>(bytes: &mut Vec<u8>, list: &[A]) {
    for address in list {
        bytes.extend_from_slice(address.bytes().as_bytes());
    }
}
