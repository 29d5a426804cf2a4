//! What is counted of one packet.

use std::net::Ipv4Addr;

const UDP: u8 = 17;
const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const RTP_HEADER: usize = 12;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

/// UDP to a multicast group, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    /// The group.
    pub group: Ipv4Addr,
    /// Who sent it.
    pub source: Ipv4Addr,
    /// Destination port; 0 for a fragment that is not the first.
    pub port: u16,
    /// Datagrams: 0 for a fragment that is not the first, more than 1 where the sender or the network
    /// card has left several together.
    pub packets: u32,
    /// Bytes of the UDP payload.
    pub bytes: u32,
    /// The RTP header, if the payload begins with one.
    pub rtp: Option<Rtp>,
}

/// What is counted of an RTP header (RFC 3550 §5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rtp {
    /// Synchronisation source.
    pub ssrc: u32,
    /// Sequence number of the first datagram of the packet.
    pub sequence: u16,
    /// That of the last one.
    pub last_sequence: u16,
    /// Payload type, 0 to 127.
    pub payload_type: u8,
}

/// What the kernel says of a packet.
#[derive(Debug, Clone, Copy, Default)]
pub struct Offload {
    /// Bytes of the payload of each datagram but the last (`gso_size`); 0: the packet is one datagram.
    pub segment: u32,
}

impl Datagram {
    /// Reads a packet that begins with its IPv4 header; `None` for what is no UDP to a group, and for
    /// what the kernel would drop for its lengths.
    pub fn parse(packet: &[u8], offload: Offload) -> Option<Self> {
        let ip: &[u8; IP_HEADER] = packet.first_chunk()?;
        let at = usize::from(ip[0] & 0x0f) * 4;
        let length = usize::from(be16(ip, 2));
        if ip[0] >> 4 != 4 || at < IP_HEADER || length < at || length > packet.len() {
            return None;
        }
        if ip[9] != UDP || ip[16] & 0xf0 != 0xe0 {
            return None;
        }
        let datagram = Datagram {
            group: Ipv4Addr::new(ip[16], ip[17], ip[18], ip[19]),
            source: Ipv4Addr::new(ip[12], ip[13], ip[14], ip[15]),
            port: 0,
            packets: 0,
            bytes: (length - at) as u32,
            rtp: None,
        };
        let fragment = be16(ip, 6);
        if fragment & OFFSET_MASK != 0 {
            // The datagram was counted with its first fragment.
            return Some(datagram);
        }
        let mut udp = &packet[at..length];
        if udp.len() < UDP_HEADER {
            return None;
        }
        if fragment & MORE_FRAGMENTS == 0 {
            let stated = usize::from(be16(udp, 4));
            if stated < UDP_HEADER || stated > udp.len() {
                return None;
            }
            udp = &udp[..stated];
        }
        let payload = &udp[UDP_HEADER..];
        // What follows the stated end can be read too, as the program reads it.
        let beyond = &packet[at + UDP_HEADER..];
        let segments = segments(payload.len(), offload.segment);
        Some(Datagram {
            port: be16(udp, 2),
            packets: segments,
            bytes: payload.len() as u32,
            rtp: Rtp::parse(payload, beyond, segments, offload.segment),
            ..datagram
        })
    }
}

impl Rtp {
    fn parse(payload: &[u8], packet: &[u8], segments: u32, segment: u32) -> Option<Self> {
        let fixed: &[u8; RTP_HEADER] = payload.first_chunk()?;
        let sources = 4 * usize::from(fixed[0] & 0x0f);
        let extension = if fixed[0] & 0x10 != 0 { 4 } else { 0 };
        let payload_type = fixed[1] & 0x7f;
        // 72 to 76 is RTCP (RFC 5761 §4).
        if fixed[0] >> 6 != 2
            || payload.len() < RTP_HEADER + sources + extension
            || (72..=76).contains(&payload_type)
        {
            return None;
        }
        let sequence = be16(fixed, 2);
        let mut last_sequence = sequence;
        if segments > 1 {
            // The numbers of datagrams that were left together follow one another.
            let at = (segments - 1) as usize * segment as usize + 2;
            last_sequence = be16(packet.get(at..at + 2)?, 0);
            if last_sequence.wrapping_sub(sequence) != (segments - 1) as u16 {
                return None;
            }
        }
        let ssrc = u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]);
        Some(Rtp { ssrc, sequence, last_sequence, payload_type })
    }
}

/// Datagrams of a payload that consists of segments of this length.
fn segments(payload: usize, segment: u32) -> u32 {
    let payload = payload as u32;
    if segment > 0 && segment < payload { payload.div_ceil(segment) } else { 1 }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
