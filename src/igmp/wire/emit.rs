//! [`Message`] to bytes.

use std::net::Ipv4Addr;

use zerocopy::IntoBytes;

use crate::igmp::packing::{self, Piece, Sizes};
use crate::igmp::wire::format::{Address, QueryV3, RecordHeader, ReportV3, ShortMessage};
use crate::igmp::wire::ipv4;
use crate::igmp::wire::ipv4::{HEADER_LEN, checksum};
use crate::igmp::wire::{
    Message, Query, TYPE_LEAVE_V2, TYPE_QUERY, TYPE_REPORT_V1, TYPE_REPORT_V2, TYPE_REPORT_V3,
    Version, code,
};

/// Smallest MTU that packets are split at; a smaller one is taken as this (RFC 791 §3.2: every
/// link carries 68 bytes). It holds the headers and several sources.
pub const MIN_MTU: usize = 68;

const SOURCE: usize = size_of::<Address>();
const QUERY: usize = size_of::<ShortMessage>() + size_of::<QueryV3>();
const SIZES: Sizes =
    Sizes { report: size_of::<ReportV3>(), record: size_of::<RecordHeader>(), source: SOURCE };

impl Query {
    /// The query as IPv4 packets that each fit `mtu` bytes, ready to send: one, or several
    /// where the source list does not fit (366 sources at 1500; RFC 9776 §4.1.8).
    ///
    /// `max_resp` and `qqi` are rounded down to what their codes can say.
    pub fn emit_ipv4(&self, src: Ipv4Addr, dst: Ipv4Addr, ttl: u8, mtu: usize) -> Vec<Vec<u8>> {
        self.emit(mtu).iter().map(|payload| ipv4::emit(src, dst, ttl, payload)).collect()
    }

    /// The payloads of these packets, for a sender who leaves the header to the kernel.
    pub fn emit(&self, mtu: usize) -> Vec<Vec<u8>> {
        let room = (payload_room(mtu) - QUERY) / SOURCE;
        if self.version < Version::V3 || self.sources.is_empty() {
            return vec![self.payload(&[])];
        }
        self.sources.chunks(room).map(|sources| self.payload(sources)).collect()
    }

    fn payload(&self, sources: &[Ipv4Addr]) -> Vec<u8> {
        let tenths = u32::try_from(self.max_resp.as_millis() / 100).unwrap_or(u32::MAX);
        let code = match self.version {
            Version::V1 => 0,
            // 0 would make it a v1 query.
            Version::V2 => tenths.clamp(1, 255) as u8,
            Version::V3 => code::encode(tenths),
        };
        let group = self.group.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let mut bytes = short(TYPE_QUERY, code, group);
        if self.version == Version::V3 {
            let seconds = u32::try_from(self.qqi.as_secs()).unwrap_or(u32::MAX);
            let v3 = QueryV3 {
                // A robustness variable above 7 does not fit, and is sent as 0 (§4.1.6).
                flags: if self.suppress { 0x08 } else { 0 }
                    | if self.qrv <= 7 { self.qrv } else { 0 },
                qqic: code::encode(seconds),
                sources: (sources.len() as u16).into(),
            };
            bytes.extend_from_slice(v3.as_bytes());
            put_addresses(&mut bytes, sources);
        }
        seal(bytes)
    }
}

impl Message {
    /// The message as IPv4 packets that each fit `mtu` bytes, ready to send.
    ///
    /// A long query or report becomes several. A long record is split. A record of type IS_EX or
    /// TO_EX is truncated instead, since each of them replaces the one before (RFC 9776 §4.2.16).
    pub fn emit_ipv4(&self, src: Ipv4Addr, dst: Ipv4Addr, ttl: u8, mtu: usize) -> Vec<Vec<u8>> {
        self.emit(mtu).iter().map(|payload| ipv4::emit(src, dst, ttl, payload)).collect()
    }

    /// The payloads of these packets, for a sender who leaves the header to the kernel.
    pub fn emit(&self, mtu: usize) -> Vec<Vec<u8>> {
        let one = |kind, group| vec![seal(short(kind, 0, group))];
        match self {
            Message::Query(query) => query.emit(mtu),
            Message::ReportV1 { group } => one(TYPE_REPORT_V1, *group),
            Message::ReportV2 { group } => one(TYPE_REPORT_V2, *group),
            Message::LeaveV2 { group } => one(TYPE_LEAVE_V2, *group),
            Message::ReportV3(records) => {
                let reports = packing::pack(records, payload_room(mtu), SIZES);
                reports.iter().map(|records| report(records)).collect()
            }
        }
    }
}

fn report(records: &[Piece<'_, Ipv4Addr>]) -> Vec<u8> {
    let header = ReportV3 {
        kind: TYPE_REPORT_V3,
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
            group: record.group.into(),
        };
        bytes.extend_from_slice(header.as_bytes());
        put_addresses(&mut bytes, sources);
    }
    seal(bytes)
}

fn short(kind: u8, code: u8, group: Ipv4Addr) -> Vec<u8> {
    ShortMessage { kind, code, checksum: 0.into(), group: group.into() }.as_bytes().to_vec()
}

fn put_addresses(bytes: &mut Vec<u8>, list: &[Ipv4Addr]) {
    for address in list {
        bytes.extend_from_slice(&address.octets());
    }
}

/// Fills in the checksum, which all messages have in the same place.
fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = checksum(&bytes);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// Bytes of IGMP that fit a packet; its counts then fit 16 bits.
fn payload_room(mtu: usize) -> usize {
    mtu.clamp(MIN_MTU, usize::from(u16::MAX)) - HEADER_LEN
}
