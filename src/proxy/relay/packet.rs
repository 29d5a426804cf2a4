//! IPv4 packets that carry UDP, changed in place. No system calls; any bytes are handled.

use std::net::Ipv4Addr;

use crate::primitives::internet_checksum::{Sum, pseudo_header};

/// Length of an IPv4 header without options (RFC 791 §3.1).
const HEADER: usize = 20;
/// Length of a UDP header (RFC 768).
const UDP_HEADER: usize = 8;
/// Protocol number of UDP.
pub(super) const UDP: u8 = 17;

const TOTAL_LENGTH: usize = 2;
const IDENTIFICATION: usize = 4;
const FRAGMENT: usize = 6;
const TTL: usize = 8;
const PROTOCOL: usize = 9;
const HEADER_CHECKSUM: usize = 10;
const SOURCE: usize = 12;
const DESTINATION: usize = 16;
/// Within the UDP header.
const SOURCE_PORT: usize = 0;
const DESTINATION_PORT: usize = 2;
const UDP_LENGTH: usize = 4;
const UDP_CHECKSUM: usize = 6;

/// More fragments (RFC 791 §3.1), and the offset in units of eight bytes.
const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// The result of a UDP checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Integrity {
    /// The checksum is right or absent.
    Intact,
    /// The checksum was left to hardware and is complete now.
    Completed,
    /// The checksum is wrong.
    Damaged,
    /// A fragment of a datagram: the checksum covers the whole datagram.
    Unknown,
}

/// An IPv4 packet that carries UDP, or a fragment of one, whose lengths agree with the buffer.
pub(super) struct Packet<'a> {
    bytes: &'a mut [u8],
    header: usize,
}

impl<'a> Packet<'a> {
    /// Checks version, header length, total length, the protocol, and that the UDP header is whole
    /// and its length within the packet. Bytes behind the total length are ignored.
    pub(super) fn parse(bytes: &'a mut [u8]) -> Option<Self> {
        let fixed: &[u8; HEADER] = bytes.first_chunk()?;
        let header = usize::from(fixed[0] & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([fixed[TOTAL_LENGTH], fixed[TOTAL_LENGTH + 1]]));
        let plain = fixed[0] >> 4 == 4 && fixed[PROTOCOL] == UDP;
        if !plain || header < HEADER || total < header {
            return None;
        }
        let bytes = bytes.get_mut(..total)?;
        let packet = Packet { bytes, header };
        if packet.is_first() {
            let room = packet.payload().len();
            let length = usize::from(packet.udp_field(UDP_LENGTH)?);
            let whole = !packet.has_more();
            if length < UDP_HEADER || whole && length > room {
                return None;
            }
        }
        Some(packet)
    }

    /// The whole packet.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// Its length in bytes, at most 65535.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Source address.
    pub(super) fn source(&self) -> Ipv4Addr {
        self.address(SOURCE)
    }

    /// Destination address.
    pub(super) fn destination(&self) -> Ipv4Addr {
        self.address(DESTINATION)
    }

    /// Whether the packet contains the UDP header: it is no fragment, or the first one.
    pub(super) fn is_first(&self) -> bool {
        self.field(FRAGMENT) & OFFSET == 0
    }

    /// Source and destination port; `None` in a later fragment.
    pub(super) fn ports(&self) -> Option<(u16, u16)> {
        self.is_first().then_some(())?;
        Some((self.udp_field(SOURCE_PORT)?, self.udp_field(DESTINATION_PORT)?))
    }

    /// Offset of the UDP payload in bytes; `None` in a later fragment.
    pub(super) fn data_offset(&self) -> Option<usize> {
        self.is_first().then_some(self.header + UDP_HEADER)
    }

    /// Identification, addresses, ports, length and checksum, which distinguish a datagram from
    /// others. A reassembled datagram and its first fragment have the same; a later fragment has
    /// none.
    pub(super) fn fingerprint(&self) -> Option<[u8; 18]> {
        self.is_first().then_some(())?;
        let mut print = [0; 18];
        print[..2].copy_from_slice(self.bytes.get(IDENTIFICATION..IDENTIFICATION + 2)?);
        print[2..10].copy_from_slice(self.bytes.get(SOURCE..SOURCE + 8)?);
        print[10..].copy_from_slice(self.payload().get(..UDP_HEADER)?);
        Some(print)
    }

    /// Time to live.
    pub(super) fn ttl(&self) -> u8 {
        self.bytes[TTL]
    }

    /// Sets the TTL. The kernel computes the header checksum when it sends.
    pub(super) fn set_ttl(&mut self, ttl: u8) {
        self.bytes[TTL] = ttl;
    }

    /// Sets the identification when it is 0 (RFC 6864 §4.1: a packet that is not fragmented may
    /// have any value).
    pub(super) fn identify(&mut self, identification: u16) {
        if self.field(IDENTIFICATION) == 0 {
            self.set(IDENTIFICATION, identification.max(1));
        }
    }

    /// Sets source address and port, and corrects the UDP checksum by the difference (RFC 1624 §3).
    /// A later fragment has neither port nor checksum.
    pub(super) fn set_source(&mut self, address: Ipv4Addr, port: u16) {
        let old = Sum::of(&self.source().octets());
        let new = Sum::of(&address.octets());
        self.bytes[SOURCE..SOURCE + 4].copy_from_slice(&address.octets());
        let (Some((old_port, _)), Some(checksum)) = (self.ports(), self.udp_field(UDP_CHECKSUM))
        else {
            return;
        };
        self.set(self.header + SOURCE_PORT, port);
        if checksum != 0 {
            let mut sum = Sum::of(&(!checksum).to_be_bytes());
            sum.subtract(old);
            sum.subtract(Sum::of(&old_port.to_be_bytes()));
            sum.add(new);
            sum.add(Sum::of(&port.to_be_bytes()));
            self.set(self.header + UDP_CHECKSUM, sum.checksum());
        }
    }

    /// Checks the UDP checksum of a received packet. A sender on the same host may leave the
    /// checksum to hardware that the packet never passes: the field then holds the sum of the
    /// pseudo header (`udp_send_skb` in net/ipv4/udp.c, CHECKSUM_PARTIAL), and the checksum is
    /// completed here.
    pub(super) fn check(&mut self) -> Integrity {
        if !self.is_first() || self.has_more() {
            return Integrity::Unknown;
        }
        let Some(stored) = self.udp_field(UDP_CHECKSUM) else { return Integrity::Damaged };
        if stored == 0 {
            return Integrity::Intact;
        }
        let pseudo = self.pseudo_sum();
        let mut sum = pseudo;
        sum.add(Sum::of(self.datagram()));
        if sum.is_whole() {
            return Integrity::Intact;
        }
        if stored == pseudo.folded() {
            self.complete();
            return Integrity::Completed;
        }
        Integrity::Damaged
    }

    /// Computes the UDP checksum. A fragment keeps its field: the rest of the datagram is not here.
    pub(super) fn complete(&mut self) {
        if !self.is_first() || self.has_more() {
            return;
        }
        self.set(self.header + UDP_CHECKSUM, 0);
        let mut sum = self.pseudo_sum();
        sum.add(Sum::of(self.datagram()));
        let checksum = sum.checksum();
        self.set(self.header + UDP_CHECKSUM, checksum);
    }

    /// Fragments the packet, which may be a fragment itself, into packets of at most `mtu` bytes
    /// (RFC 791 §3.2). IP options are left out. An MTU without room for eight bytes of data yields
    /// nothing.
    pub(super) fn fragment(&self, mtu: usize, mut each: impl FnMut(&mut [u8])) {
        let room = mtu.saturating_sub(HEADER) / 8 * 8;
        if room == 0 {
            return;
        }
        let own = self.field(FRAGMENT);
        let first_unit = usize::from(own & OFFSET);
        let mut fragment = Vec::with_capacity(HEADER + room);
        let mut chunks = self.payload().chunks(room).enumerate().peekable();
        while let Some((position, chunk)) = chunks.next() {
            let more = chunks.peek().is_some() || own & MORE != 0;
            let unit = first_unit + position * room / 8;
            // Past the longest possible datagram.
            let Some(unit) = u16::try_from(unit).ok().filter(|unit| *unit <= OFFSET) else {
                return;
            };
            fragment.clear();
            fragment.extend_from_slice(&self.bytes[..HEADER]);
            fragment.extend_from_slice(chunk);
            let total = fragment.len() as u16;
            let mut part = Packet { bytes: &mut fragment, header: HEADER };
            part.bytes[0] = 0x40 | (HEADER / 4) as u8;
            part.set(TOTAL_LENGTH, total);
            part.set(FRAGMENT, unit | if more { MORE } else { 0 });
            part.set(HEADER_CHECKSUM, 0);
            each(part.bytes);
        }
    }

    /// Number of packets that [`fragment`](Self::fragment) makes of it.
    pub(super) fn fragments(&self, mtu: usize) -> usize {
        match mtu.saturating_sub(HEADER) / 8 * 8 {
            0 => 0,
            room => self.payload().len().div_ceil(room).max(1),
        }
    }

    /// Lengths of the packets that [`segment`](Self::segment) makes of it.
    pub(super) fn segment_lengths(&self, size: usize) -> impl Iterator<Item = usize> + use<> {
        let start = self.data_offset().filter(|_| size > 0);
        let data = start.map_or(0, |start| self.bytes.len().saturating_sub(start));
        let (start, size) = (start.unwrap_or(0), size.max(1));
        (0..data.div_ceil(size)).map(move |n| start + size.min(data - n * size))
    }

    /// Splits a datagram with segmentation offload (UDP_SEGMENT, udp(7)) into datagrams of `size`
    /// payload bytes each, with ascending identifications, as `inet_gso_segment` of
    /// net/ipv4/af_inet.c does. 0 stays 0.
    pub(super) fn segment(&self, size: usize, mut each: impl FnMut(Packet<'_>)) {
        let (Some(start), true) = (self.data_offset(), size > 0) else { return };
        let mut segment = Vec::with_capacity(start + size);
        let first = self.field(IDENTIFICATION);
        let chunks = self.bytes.get(start..).unwrap_or(&[]).chunks(size);
        for (position, chunk) in (0u16..=u16::MAX).zip(chunks) {
            segment.clear();
            segment.extend_from_slice(&self.bytes[..start]);
            segment.extend_from_slice(chunk);
            let total = segment.len() as u16;
            let length = (UDP_HEADER + chunk.len()) as u16;
            let mut part = Packet { bytes: &mut segment, header: self.header };
            part.set(TOTAL_LENGTH, total);
            part.set(part.header + UDP_LENGTH, length);
            if first != 0 {
                part.set(IDENTIFICATION, first.wrapping_add(position));
            }
            part.complete();
            each(part);
        }
    }

    fn has_more(&self) -> bool {
        self.field(FRAGMENT) & MORE != 0
    }

    fn payload(&self) -> &[u8] {
        &self.bytes[self.header..]
    }

    /// The UDP header and payload by the UDP length; the whole IP payload when that length is too
    /// long.
    fn datagram(&self) -> &[u8] {
        let payload = self.payload();
        let length = usize::from(self.udp_field(UDP_LENGTH).unwrap_or(0));
        payload.get(..length).unwrap_or(payload)
    }

    fn pseudo_sum(&self) -> Sum {
        let length = self.datagram().len() as u16;
        pseudo_header(self.source(), self.destination(), UDP, length)
    }

    fn address(&self, at: usize) -> Ipv4Addr {
        Ipv4Addr::new(self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3])
    }

    fn field(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn udp_field(&self, at: usize) -> Option<u16> {
        let field = self.payload().get(..UDP_HEADER)?.get(at..at + 2)?;
        Some(u16::from_be_bytes([field[0], field[1]]))
    }

    fn set(&mut self, at: usize, value: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }
}

/// Builds a packet with a UDP payload of at most 65507 bytes; a longer payload is cut.
pub(super) fn build(
    source: (Ipv4Addr, u16),
    destination: (Ipv4Addr, u16),
    ttl: u8,
    payload: &[u8],
) -> Vec<u8> {
    const MOST: usize = u16::MAX as usize - HEADER - UDP_HEADER;
    let payload = &payload[..payload.len().min(MOST)];
    let mut bytes = vec![0; HEADER + UDP_HEADER];
    bytes[0] = 0x40 | (HEADER / 4) as u8;
    bytes[TTL] = ttl;
    bytes[PROTOCOL] = UDP;
    bytes[SOURCE..SOURCE + 4].copy_from_slice(&source.0.octets());
    bytes[DESTINATION..DESTINATION + 4].copy_from_slice(&destination.0.octets());
    bytes.extend_from_slice(payload);
    let total = bytes.len() as u16;
    let mut packet = Packet { bytes: &mut bytes, header: HEADER };
    packet.set(TOTAL_LENGTH, total);
    packet.set(HEADER + SOURCE_PORT, source.1);
    packet.set(HEADER + DESTINATION_PORT, destination.1);
    packet.set(HEADER + UDP_LENGTH, total - HEADER as u16);
    packet.complete();
    bytes
}

#[cfg(any(test, feature = "fuzzing"))]
mod properties;
#[cfg(any(test, feature = "fuzzing"))]
pub use crate::proxy::relay::packet::properties::check_relayed_packet;

#[cfg(test)]
mod tests;
