//! [`Message`] to bytes.

use std::net::Ipv6Addr;

use zerocopy::IntoBytes;

use crate::igmp::lists;
use crate::igmp::packing::{self, Sizes};
use crate::mld::wire::format::ShortMessage;
use crate::mld::wire::ipv6::{self, HEADERS_LEN};
use crate::mld::wire::{
    Message, Query, TYPE_DONE, TYPE_QUERY, TYPE_REPORT_V1, TYPE_REPORT_V2, Version, code,
};

/// Smallest MTU that packets are split at; a smaller one is taken as this (RFC 8200 §5: every link
/// carries 1280 bytes).
pub const MIN_MTU: usize = 1280;

const SIZES: Sizes = lists::sizes::<Ipv6Addr>();
const QUERY: usize = size_of::<ShortMessage>() + lists::QUERY_END;

impl Query {
    /// The query as IPv6 packets that each fit `mtu` bytes, ready to send: one, or several where the
    /// source list does not fit (89 sources at 1500; RFC 9777 §5.1.10).
    ///
    /// `max_resp` and `qqi` are rounded down to what their codes can say, in MLDv1 to 65.535 s.
    pub fn emit_ipv6(
        &self,
        src: Ipv6Addr,
        dst: Ipv6Addr,
        hop_limit: u8,
        mtu: usize,
    ) -> Vec<Vec<u8>> {
        let packet = |sources| ipv6::emit(src, dst, hop_limit, self.payload(sources));
        if self.version < Version::V3 || self.sources.is_empty() {
            return vec![packet(&[])];
        }
        let room = (payload_room(mtu) - QUERY) / SIZES.source;
        self.sources.chunks(room).map(packet).collect()
    }

    fn payload(&self, sources: &[Ipv6Addr]) -> Vec<u8> {
        let milliseconds = u32::try_from(self.max_resp.as_millis()).unwrap_or(u32::MAX);
        let is_v2 = self.version == Version::V3;
        let code = match is_v2 {
            true => code::encode(milliseconds),
            false => u16::try_from(milliseconds).unwrap_or(u16::MAX),
        };
        let group = self.group.unwrap_or(Ipv6Addr::UNSPECIFIED);
        let mut bytes = short(TYPE_QUERY, code, group);
        if is_v2 {
            lists::put_query_end(&mut bytes, self, sources);
        }
        bytes
    }
}

impl Message {
    /// The message as IPv6 packets that each fit `mtu` bytes, ready to send.
    ///
    /// A long query or report becomes several. A long record is split. A record of type IS_EX or
    /// TO_EX is truncated instead, since each of them replaces the one before (RFC 9777 §5.2).
    /// MLD has no message as old as IGMPv1's: such a report is MLDv1's.
    pub fn emit_ipv6(
        &self,
        src: Ipv6Addr,
        dst: Ipv6Addr,
        hop_limit: u8,
        mtu: usize,
    ) -> Vec<Vec<u8>> {
        let packet = |payload| ipv6::emit(src, dst, hop_limit, payload);
        match self {
            Message::Query(query) => query.emit_ipv6(src, dst, hop_limit, mtu),
            Message::ReportV1 { group } | Message::ReportV2 { group } => {
                vec![packet(short(TYPE_REPORT_V1, 0, *group))]
            }
            Message::LeaveV2 { group } => vec![packet(short(TYPE_DONE, 0, *group))],
            Message::ReportV3(records) => {
                let reports = packing::pack(records, payload_room(mtu), SIZES);
                reports
                    .iter()
                    .map(|records| packet(lists::emit_report(TYPE_REPORT_V2, records)))
                    .collect()
            }
        }
    }
}

fn short(kind: u8, max_resp: u16, group: Ipv6Addr) -> Vec<u8> {
    let message = ShortMessage {
        kind,
        code: 0,
        checksum: 0.into(),
        max_resp: max_resp.into(),
        reserved: 0.into(),
        group: group.octets(),
    };
    message.as_bytes().to_vec()
}

/// Bytes of MLD that fit a packet; its counts then fit 16 bits.
fn payload_room(mtu: usize) -> usize {
    mtu.clamp(MIN_MTU, usize::from(u16::MAX)) - HEADERS_LEN
}
