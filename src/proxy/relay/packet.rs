//! Packets that carry UDP over IPv4 or IPv6, changed in place. No system calls; any bytes are handled.

mod shape;

use std::marker::PhantomData;
use std::net::Ipv4Addr;

use crate::primitives::internet_checksum::{Sum, pseudo_header_of};
pub(super) use crate::proxy::relay::packet::shape::Shape;

/// Length of a UDP header (RFC 768).
const UDP_HEADER: usize = 8;
/// Protocol number of UDP.
pub(super) const UDP: u8 = 17;
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
    /// The checksum is right, or absent where it may be.
    Intact,
    /// The checksum was left to hardware and is complete now.
    Completed,
    /// The checksum is wrong.
    Damaged,
    /// A fragment of a datagram: the checksum covers the whole datagram.
    Unknown,
}

/// A packet that carries UDP, or a fragment of one, whose lengths agree with the buffer.
pub(super) struct Packet<'a, A = Ipv4Addr> {
    bytes: &'a mut [u8],
    /// Where UDP begins.
    udp: usize,
    family: PhantomData<A>,
}

impl<'a, A: Shape> Packet<'a, A> {
    /// Checks version, header length, total length, the protocol, and that the UDP header is whole
    /// and its length within the packet. Bytes behind the total length are ignored.
    pub(super) fn parse(bytes: &'a mut [u8]) -> Option<Self> {
        let (udp, total) = A::measure(bytes)?;
        let packet = Packet::of(bytes.get_mut(..total)?, udp);
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

    fn of(bytes: &'a mut [u8], udp: usize) -> Self {
        Packet { bytes, udp, family: PhantomData }
    }

    /// The whole packet.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// Its length in bytes, at most 65575.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Source address.
    pub(super) fn source(&self) -> A {
        self.address(A::SOURCE)
    }

    /// Destination address.
    pub(super) fn destination(&self) -> A {
        self.address(A::SOURCE + A::ADDRESS)
    }

    /// Whether the packet contains the UDP header: it is no fragment, or the first one.
    pub(super) fn is_first(&self) -> bool {
        self.fragment_field() & OFFSET == 0
    }

    /// Source and destination port; `None` in a later fragment.
    pub(super) fn ports(&self) -> Option<(u16, u16)> {
        self.is_first().then_some(())?;
        Some((self.udp_field(SOURCE_PORT)?, self.udp_field(DESTINATION_PORT)?))
    }

    /// Offset of the UDP payload in bytes; `None` in a later fragment.
    pub(super) fn data_offset(&self) -> Option<usize> {
        self.is_first().then_some(self.udp + UDP_HEADER)
    }

    /// The bytes that distinguish a datagram from others: addresses, ports, length and checksum, and of
    /// IPv4 the identification. A reassembled datagram and its first fragment have the same; a later
    /// fragment has none.
    pub(super) fn fingerprint(&self) -> Option<A::Fingerprint> {
        self.is_first().then_some(())?;
        A::fingerprint(self.bytes, self.udp)
    }

    /// Time to live, or hop limit.
    pub(super) fn hop_limit(&self) -> u8 {
        self.bytes[A::HOP_LIMIT]
    }

    /// Sets the identification when it is 0 (RFC 6864 §4.1: a packet that is not fragmented may
    /// have any value). IPv6 has none.
    pub(super) fn identify(&mut self, identification: u16) {
        if A::identification(self.bytes) == 0 {
            A::set_identification(self.bytes, identification.max(1));
        }
    }

    /// Sets source address and port, and corrects the UDP checksum by the difference (RFC 1624 §3).
    /// A later fragment has neither port nor checksum.
    pub(super) fn set_source(&mut self, address: A, port: u16) {
        let source = A::SOURCE..A::SOURCE + A::ADDRESS;
        let octets = address.to_number().to_be_bytes();
        let octets = &octets[octets.len() - A::ADDRESS..];
        let (old, new) = (Sum::of(&self.bytes[source.clone()]), Sum::of(octets));
        self.bytes[source].copy_from_slice(octets);
        let (Some((old_port, _)), Some(checksum)) = (self.ports(), self.udp_field(UDP_CHECKSUM))
        else {
            return;
        };
        self.set(self.udp + SOURCE_PORT, port);
        if checksum != 0 {
            let mut sum = Sum::of(&(!checksum).to_be_bytes());
            sum.subtract(old);
            sum.subtract(Sum::of(&old_port.to_be_bytes()));
            sum.add(new);
            sum.add(Sum::of(&port.to_be_bytes()));
            self.set(self.udp + UDP_CHECKSUM, sum.checksum());
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
        if stored == 0 && A::MAY_LACK_CHECKSUM {
            return Integrity::Intact;
        }
        let pseudo = self.pseudo_sum();
        let mut sum = pseudo;
        sum.add(Sum::of(self.datagram()));
        if sum.is_whole() && stored != 0 {
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
        self.set(self.udp + UDP_CHECKSUM, 0);
        let mut sum = self.pseudo_sum();
        sum.add(Sum::of(self.datagram()));
        let checksum = sum.checksum();
        self.set(self.udp + UDP_CHECKSUM, checksum);
    }

    /// Fragments the packet, which may be a fragment itself, into packets of at most `mtu` bytes
    /// (RFC 791 §3.2, RFC 8200 §4.5). An MTU without room for eight bytes of data yields nothing. The
    /// identification is for a packet of IPv6 that is no fragment yet.
    pub(super) fn fragment(
        &self,
        mtu: usize,
        identification: u32,
        mut each: impl FnMut(&mut [u8]),
    ) {
        let room = mtu.saturating_sub(A::FRAGMENT_HEADER) / 8 * 8;
        if room == 0 {
            return;
        }
        let own = self.fragment_field();
        let first_unit = usize::from(own & OFFSET);
        let mut fragment = Vec::with_capacity(A::FRAGMENT_HEADER + room);
        let mut chunks = self.payload().chunks(room).enumerate().peekable();
        while let Some((position, chunk)) = chunks.next() {
            let more = chunks.peek().is_some() || own & MORE != 0;
            let unit = first_unit + position * room / 8;
            // Past the longest possible datagram.
            let Some(unit) = u16::try_from(unit).ok().filter(|unit| *unit <= OFFSET) else {
                return;
            };
            fragment.clear();
            let field = unit | if more { MORE } else { 0 };
            let length = A::FRAGMENT_HEADER + chunk.len();
            A::begin_fragment(&mut fragment, self.bytes, self.udp, field, length, identification);
            fragment.extend_from_slice(chunk);
            each(&mut fragment);
        }
    }

    /// Number of packets that [`fragment`](Self::fragment) makes of it; 1 where it fits as it is.
    pub(super) fn fragments(&self, mtu: usize) -> usize {
        if self.len() <= mtu {
            return 1;
        }
        match mtu.saturating_sub(A::FRAGMENT_HEADER) / 8 * 8 {
            0 => 0,
            room => self.payload().len().div_ceil(room).max(1),
        }
    }

    /// Lengths of the packets that [`segment`](Self::segment) makes of it.
    pub(super) fn segment_lengths(&self, size: usize) -> impl Iterator<Item = usize> + use<A> {
        let start = self.data_offset().filter(|_| size > 0);
        let data = start.map_or(0, |start| self.bytes.len().saturating_sub(start));
        let (start, size) = (start.unwrap_or(0), size.max(1));
        (0..data.div_ceil(size)).map(move |n| start + size.min(data - n * size))
    }

    /// Splits a datagram with segmentation offload (UDP_SEGMENT, udp(7)) into datagrams of `size`
    /// payload bytes each, with ascending identifications, as `inet_gso_segment` of
    /// net/ipv4/af_inet.c does. 0 stays 0.
    pub(super) fn segment(&self, size: usize, mut each: impl FnMut(Packet<'_, A>)) {
        let (Some(start), true) = (self.data_offset(), size > 0) else { return };
        let mut segment = Vec::with_capacity(start + size);
        let first = A::identification(self.bytes);
        let chunks = self.bytes.get(start..).unwrap_or(&[]).chunks(size);
        for (position, chunk) in (0u16..=u16::MAX).zip(chunks) {
            segment.clear();
            segment.extend_from_slice(&self.bytes[..start]);
            segment.extend_from_slice(chunk);
            let total = segment.len();
            let length = (UDP_HEADER + chunk.len()) as u16;
            A::set_length(&mut segment, total);
            if first != 0 {
                A::set_identification(&mut segment, first.wrapping_add(position));
            }
            let mut part = Packet::of(&mut segment, self.udp);
            part.set(part.udp + UDP_LENGTH, length);
            part.complete();
            each(part);
        }
    }

    fn has_more(&self) -> bool {
        self.fragment_field() & MORE != 0
    }

    fn fragment_field(&self) -> u16 {
        A::fragment_field(self.bytes, self.udp)
    }

    fn payload(&self) -> &[u8] {
        &self.bytes[self.udp..]
    }

    /// The UDP header and payload by the UDP length; the whole IP payload when that length is too
    /// long.
    fn datagram(&self) -> &[u8] {
        let payload = self.payload();
        let length = usize::from(self.udp_field(UDP_LENGTH).unwrap_or(0));
        payload.get(..length).unwrap_or(payload)
    }

    fn pseudo_sum(&self) -> Sum {
        let addresses = &self.bytes[A::SOURCE..A::SOURCE + 2 * A::ADDRESS];
        pseudo_header_of(addresses, UDP, self.datagram().len() as u32)
    }

    fn address(&self, at: usize) -> A {
        let mut number = [0; size_of::<u128>()];
        let start = number.len() - A::ADDRESS;
        number[start..].copy_from_slice(&self.bytes[at..at + A::ADDRESS]);
        A::from_number(u128::from_be_bytes(number))
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
pub(super) fn build<A: Shape>(
    source: (A, u16),
    destination: (A, u16),
    hop_limit: u8,
    payload: &[u8],
) -> Vec<u8> {
    const MOST: usize = 65_507;
    let payload = &payload[..payload.len().min(MOST)];
    let mut bytes = vec![0; A::HEADER + UDP_HEADER];
    let total = bytes.len() + payload.len();
    A::begin(&mut bytes, total, hop_limit);
    for (at, address) in [(A::SOURCE, source.0), (A::SOURCE + A::ADDRESS, destination.0)] {
        let octets = address.to_number().to_be_bytes();
        bytes[at..at + A::ADDRESS].copy_from_slice(&octets[octets.len() - A::ADDRESS..]);
    }
    bytes.extend_from_slice(payload);
    let mut packet = Packet::<A>::of(&mut bytes, A::HEADER);
    packet.set(A::HEADER + SOURCE_PORT, source.1);
    packet.set(A::HEADER + DESTINATION_PORT, destination.1);
    packet.set(A::HEADER + UDP_LENGTH, (total - A::HEADER) as u16);
    packet.complete();
    bytes
}

#[cfg(any(test, feature = "fuzzing"))]
mod properties;
#[cfg(any(test, feature = "fuzzing"))]
pub use crate::proxy::relay::packet::properties::check_relayed_packet;

#[cfg(test)]
mod tests;
