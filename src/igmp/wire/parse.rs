//! Bytes to [`Message`].

use std::net::Ipv4Addr;
use std::time::Duration;

use zerocopy::FromBytes;

use crate::igmp::lists::{self, ParsedQueryEnd};
use crate::igmp::wire::format::ShortMessage;
use crate::igmp::wire::ipv4::checksum;
use crate::igmp::wire::{
    Malformed, Message, Query, TYPE_LEAVE_V2, TYPE_QUERY, TYPE_REPORT_V1, TYPE_REPORT_V2,
    TYPE_REPORT_V3, Version, code,
};

/// The response time of a v1 query, which has no field for it (RFC 9776 §7.2.1, RFC 2236 §4).
const V1_MAX_RESP: Duration = Duration::from_secs(10);

/// Parses an IGMP message: the whole payload of an IP packet.
///
/// The checksum covers all of it; bytes behind the last field are otherwise ignored
/// (RFC 9776 §4.1.11, §4.2.11). Every count is compared with the bytes that are there before
/// anything is allocated.
///
/// # Errors
/// The first check that failed. A message is taken whole or not at all.
pub fn parse(payload: &[u8]) -> Result<Message, Malformed> {
    let (message, rest) = ShortMessage::ref_from_prefix(payload).map_err(|_| Malformed::Short)?;
    if checksum(payload) != 0 {
        return Err(Malformed::Checksum);
    }
    match message.kind {
        TYPE_QUERY => query(message, rest).map(Message::Query),
        TYPE_REPORT_V1 => Ok(Message::ReportV1 { group: multicast(message.group)? }),
        TYPE_REPORT_V2 => Ok(Message::ReportV2 { group: multicast(message.group)? }),
        TYPE_LEAVE_V2 => Ok(Message::LeaveV2 { group: multicast(message.group)? }),
        TYPE_REPORT_V3 => Ok(Message::ReportV3(lists::parse_report(payload)?)),
        _ => Err(Malformed::UnknownType),
    }
}

/// The version follows from length and code (RFC 9776 §7.1).
fn query(message: &ShortMessage, rest: &[u8]) -> Result<Query, Malformed> {
    let tenths = |n: u32| Duration::from_millis(u64::from(n) * 100);
    let old = |version, group, max_resp| Query {
        version,
        group,
        max_resp,
        suppress: false,
        qrv: 0,
        qqi: Duration::ZERO,
        sources: Vec::new(),
    };
    if rest.is_empty() {
        return if message.code == 0 {
            // The group field is to be ignored (RFC 1112 Appendix I).
            Ok(old(Version::V1, None, V1_MAX_RESP))
        } else {
            Ok(old(Version::V2, queried(message.group)?, tenths(message.code.into())))
        };
    }
    let end: ParsedQueryEnd<_> = lists::parse_query_end(rest)?;
    let group = queried(message.group)?;
    if group.is_none() && !end.sources.is_empty() {
        return Err(Malformed::SourcesWithoutGroup);
    }
    Ok(Query {
        version: Version::V3,
        group,
        max_resp: tenths(code::decode(message.code)),
        suppress: end.suppress,
        qrv: end.qrv,
        qqi: end.qqi,
        sources: end.sources,
    })
}

fn queried(group: [u8; 4]) -> Result<Option<Ipv4Addr>, Malformed> {
    if Ipv4Addr::from(group).is_unspecified() { Ok(None) } else { multicast(group).map(Some) }
}

fn multicast(group: [u8; 4]) -> Result<Ipv4Addr, Malformed> {
    let group = Ipv4Addr::from(group);
    if group.is_multicast() { Ok(group) } else { Err(Malformed::BadGroup) }
}
