//! Bytes to [`Message`].

use std::net::Ipv6Addr;
use std::time::Duration;

use zerocopy::FromBytes;

use crate::igmp::wire::code as qqic;
use crate::mld::wire::format::{Address, QueryV2, RecordHeader, ReportV2, ShortMessage};
use crate::mld::wire::{
    GroupRecord, Ipv6Packet, Malformed, Message, Query, RecordType, TYPE_DONE, TYPE_QUERY,
    TYPE_REPORT_V1, TYPE_REPORT_V2, Version, code,
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
        return report(payload).map(Message::ReportV3);
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
    let (v2, rest) = QueryV2::ref_from_prefix(rest).map_err(|_| Malformed::QueryLength)?;
    let (sources, _) = addresses(rest, v2.sources.get())?;
    let group = queried(message.group)?;
    if group.is_none() && !sources.is_empty() {
        return Err(Malformed::SourcesWithoutGroup);
    }
    Ok(Query {
        version: Version::V3,
        group,
        max_resp: max_resp(code::decode(message.max_resp.get())),
        suppress: v2.flags & 0x08 != 0,
        qrv: v2.flags & 0x07,
        qqi: Duration::from_secs(qqic::decode(v2.qqic).into()),
        sources,
    })
}

fn report(payload: &[u8]) -> Result<Vec<GroupRecord>, Malformed> {
    let (header, mut rest) = ReportV2::ref_from_prefix(payload).map_err(|_| Malformed::Short)?;
    let count = usize::from(header.records.get());
    if count > rest.len() / size_of::<RecordHeader>() {
        return Err(Malformed::RecordCount);
    }
    let mut records = Vec::with_capacity(count);
    for _ in 0..count {
        let (header, behind) =
            RecordHeader::ref_from_prefix(rest).map_err(|_| Malformed::RecordCount)?;
        let (sources, behind) = addresses(behind, header.sources.get())?;
        // In words of four bytes (RFC 9777 §5.2).
        let aux = usize::from(header.aux_words) * 4;
        rest = behind.get(aux..).ok_or(Malformed::AuxData)?;
        let kind = RecordType::from(header.kind);
        records.push(GroupRecord { kind, group: header.group.into(), sources });
    }
    Ok(records)
}

/// The first `count` addresses, and what is behind them.
fn addresses(bytes: &[u8], count: u16) -> Result<(Vec<Ipv6Addr>, &[u8]), Malformed> {
    let (list, rest) = <[Address]>::ref_from_prefix_with_elems(bytes, count.into())
        .map_err(|_| Malformed::SourceCount)?;
    Ok((list.iter().map(|&a| a.into()).collect(), rest))
}

fn queried(group: Address) -> Result<Option<Ipv6Addr>, Malformed> {
    if Ipv6Addr::from(group).is_unspecified() { Ok(None) } else { multicast(group).map(Some) }
}

fn multicast(group: Address) -> Result<Ipv6Addr, Malformed> {
    let group = Ipv6Addr::from(group);
    if group.is_group() { Ok(group) } else { Err(Malformed::BadGroup) }
}
