//! IGMP as it stands on the wire, read independently of mcrun's own parser.

use std::net::Ipv4Addr;

/// One IGMP message of a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgmpFrame {
    /// Ethernet source, as `02:00:5e:10:00:01`.
    pub mac: String,
    /// IP source.
    pub source: Ipv4Addr,
    /// IP destination.
    pub destination: Ipv4Addr,
    /// IP time to live.
    pub ttl: u8,
    /// The message.
    pub message: Igmp,
}

/// An IGMP message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Igmp {
    /// A query of any version; the group is 0.0.0.0 in a general one.
    Query { group: Ipv4Addr, sources: Vec<Ipv4Addr> },
    /// A version 1 or 2 report.
    Report { version: u8, group: Ipv4Addr },
    /// A version 2 leave.
    Leave { group: Ipv4Addr },
    /// A version 3 report.
    ReportV3(Vec<Record>),
    /// Anything else: type and length.
    Other { kind: u8, length: usize },
}

/// A group record of a version 3 report (RFC 9776 §4.2.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub kind: RecordKind,
    pub group: Ipv4Addr,
    pub sources: Vec<Ipv4Addr>,
}

/// RFC 9776 §4.2.13.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    IsInclude,
    IsExclude,
    ToInclude,
    ToExclude,
    Allow,
    Block,
}

impl IgmpFrame {
    /// Whether it tells the switch that somebody wants a group or a source no more.
    pub fn is_leave(&self) -> bool {
        match &self.message {
            Igmp::Leave { .. } => true,
            Igmp::ReportV3(records) => records.iter().any(|record| {
                matches!(record.kind, RecordKind::Block)
                    || record.kind == RecordKind::ToInclude && record.sources.is_empty()
            }),
            _ => false,
        }
    }

    /// Reads an Ethernet frame; `None` when it is not IGMP over IPv4.
    ///
    /// Panics on IGMP that is cut short or lies about its counts: a capture has none.
    pub fn parse(frame: &[u8]) -> Option<IgmpFrame> {
        if frame.get(12..14)? != [0x08, 0x00] || *frame.get(14 + 9)? != 2 {
            return None;
        }
        let parsed = IgmpFrame::parse_igmp(frame);
        Some(parsed.unwrap_or_else(|| panic!("malformed IGMP: {frame:02x?}")))
    }

    fn parse_igmp(frame: &[u8]) -> Option<IgmpFrame> {
        let mac = frame.get(6..12)?;
        let ip = frame.get(14..)?;
        let header = usize::from(ip.first()? & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
        let payload = ip.get(header..total)?;
        Some(IgmpFrame {
            mac: mac.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":"),
            source: address(ip, 12)?,
            destination: address(ip, 16)?,
            ttl: *ip.get(8)?,
            message: Igmp::parse(payload)?,
        })
    }
}

impl Igmp {
    fn parse(payload: &[u8]) -> Option<Igmp> {
        let kind = *payload.first()?;
        Some(match kind {
            0x11 => Igmp::Query {
                group: address(payload, 4)?,
                sources: match payload.get(10..12) {
                    Some(count) => addresses(payload, 12, count)?,
                    None => Vec::new(),
                },
            },
            0x12 => Igmp::Report { version: 1, group: address(payload, 4)? },
            0x16 => Igmp::Report { version: 2, group: address(payload, 4)? },
            0x17 => Igmp::Leave { group: address(payload, 4)? },
            0x22 => Igmp::ReportV3(records(payload)?),
            _ => Igmp::Other { kind, length: payload.len() },
        })
    }

    /// Groups that the message speaks of.
    pub fn groups(&self) -> Vec<Ipv4Addr> {
        match self {
            Igmp::Query { group, .. } | Igmp::Report { group, .. } | Igmp::Leave { group } => {
                vec![*group]
            }
            Igmp::ReportV3(records) => records.iter().map(|r| r.group).collect(),
            Igmp::Other { .. } => Vec::new(),
        }
    }
}

fn records(payload: &[u8]) -> Option<Vec<Record>> {
    let count = u16::from_be_bytes([*payload.get(6)?, *payload.get(7)?]);
    let mut at = 8;
    let mut records = Vec::new();
    for _ in 0..count {
        let kind = match *payload.get(at)? {
            1 => RecordKind::IsInclude,
            2 => RecordKind::IsExclude,
            3 => RecordKind::ToInclude,
            4 => RecordKind::ToExclude,
            5 => RecordKind::Allow,
            6 => RecordKind::Block,
            _ => return None,
        };
        let auxiliary = usize::from(*payload.get(at + 1)?) * 4;
        let sources = addresses(payload, at + 8, payload.get(at + 2..at + 4)?)?;
        let group = address(payload, at + 4)?;
        at += 8 + sources.len() * 4 + auxiliary;
        records.push(Record { kind, group, sources });
    }
    Some(records)
}

fn addresses(bytes: &[u8], at: usize, count: &[u8]) -> Option<Vec<Ipv4Addr>> {
    let count = usize::from(u16::from_be_bytes(count.try_into().ok()?));
    (0..count).map(|i| address(bytes, at + 4 * i)).collect()
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(octets.into())
}
