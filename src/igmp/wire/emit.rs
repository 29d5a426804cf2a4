//! [`Message`] to bytes.

use std::net::Ipv4Addr;

use zerocopy::IntoBytes;

use crate::igmp::lists;
use crate::igmp::packing::{self, Sizes};
use crate::igmp::wire::format::ShortMessage;
use crate::igmp::wire::ipv4;
use crate::igmp::wire::ipv4::{HEADER_LEN, checksum};
use crate::igmp::wire::{
    Message, Query, TYPE_LEAVE_V2, TYPE_QUERY, TYPE_REPORT_V1, TYPE_REPORT_V2, TYPE_REPORT_V3,
    Version, code,
};

/// Smallest MTU that packets are split at; a smaller one is taken as this (RFC 791 §3.2: every
/// link carries 68 bytes). It holds the headers and several sources.
pub const MIN_MTU: usize = 68;

const SIZES: Sizes = lists::sizes::<Ipv4Addr>();
const QUERY: usize = size_of::<ShortMessage>() + lists::QUERY_END;

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
        let room = (payload_room(mtu) - QUERY) / SIZES.source;
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
            lists::put_query_end(&mut bytes, self, sources);
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
                reports
                    .iter()
                    .map(|records| seal(lists::emit_report(TYPE_REPORT_V3, records)))
                    .collect()
            }
        }
    }
}

fn short(kind: u8, code: u8, group: Ipv4Addr) -> Vec<u8> {
    ShortMessage { kind, code, checksum: 0.into(), group: group.octets() }.as_bytes().to_vec()
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
