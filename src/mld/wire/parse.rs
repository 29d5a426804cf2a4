//! Bytes to [`Message`].

use std::net::Ipv6Addr;
use std::time::Duration;

use zerocopy::FromBytes;

use crate::igmp::lists::{self, ParsedQueryEnd};
use crate::mld::wire::format::ShortMessage;
use crate::mld::wire::{
    Ipv6Packet, Malformed, Message, Query, TYPE_DONE, TYPE_QUERY, TYPE_REPORT_V1, TYPE_REPORT_V2,
    Version, code,
};
use crate::multicast::Address as _;

/// Parses an MLD message: the whole payload of an IPv6 packet.
///
/// The checksum covers all of it; bytes behind the last field are otherwise ignored
/// (RFC 9777 §5.1.12, §5.2). Every count is compared with the bytes that are there before
/// anything is allocated.
///
/// # Errors
/// The first check that failed. A message is taken whole or not at all.
pub fn parse(packet: &Ipv6Packet<'_>) -> Result<Message, Malformed> {
    parse_payload(packet.icmpv6()?)
}

/// Parses a message whose checksum the kernel has verified, as it does for a raw socket of ICMPv6.
///
/// # Errors
/// As [`parse`].
pub fn parse_payload(payload: &[u8]) -> Result<Message, Malformed> {
    let kind = *payload.first().ok_or(Malformed::Short)?;
    if kind == TYPE_REPORT_V2 {
        return Ok(Message::ReportV3(lists::parse_report(payload)?));
    }
    if ![TYPE_QUERY, TYPE_REPORT_V1, TYPE_DONE].contains(&kind) {
        return Err(Malformed::UnknownType);
    }
    let (message, rest) = ShortMessage::ref_from_prefix(payload).map_err(|_| Malformed::Short)?;
    match kind {
        TYPE_REPORT_V1 => Ok(Message::ReportV2 { group: multicast(message.group)? }),
        TYPE_DONE => Ok(Message::LeaveV2 { group: multicast(message.group)? }),
        _ => query(message, rest).map(Message::Query),
    }
}

/// The version follows from the length (RFC 9777 §8.1).
fn query(message: &ShortMessage, rest: &[u8]) -> Result<Query, Malformed> {
    let max_resp = |milliseconds: u32| Duration::from_millis(milliseconds.into());
    if rest.is_empty() {
        return Ok(Query {
            version: Version::V2,
            group: queried(message.group)?,
            max_resp: max_resp(message.max_resp.get().into()),
            suppress: false,
            qrv: 0,
            qqi: Duration::ZERO,
            sources: Vec::new(),
        });
    }
    let end: ParsedQueryEnd<_> = lists::parse_query_end(rest)?;
    let group = queried(message.group)?;
    if group.is_none() && !end.sources.is_empty() {
        return Err(Malformed::SourcesWithoutGroup);
    }
    Ok(Query {
        version: Version::V3,
        group,
        max_resp: max_resp(code::decode(message.max_resp.get())),
        suppress: end.suppress,
        qrv: end.qrv,
        qqi: end.qqi,
        sources: end.sources,
    })
}

fn queried(group: [u8; 16]) -> Result<Option<Ipv6Addr>, Malformed> {
    if Ipv6Addr::from(group).is_unspecified() { Ok(None) } else { multicast(group).map(Some) }
}

fn multicast(group: [u8; 16]) -> Result<Ipv6Addr, Malformed> {
    let group = Ipv6Addr::from(group);
    if group.is_group() { Ok(group) } else { Err(Malformed::BadGroup) }
}
