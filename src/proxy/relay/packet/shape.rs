//! What differs between the headers of IPv4 and IPv6.

use std::fmt::Debug;
use std::hash::Hash;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::multicast::Address;
use crate::proxy::relay::packet::{MORE, OFFSET, UDP};

/// The header of one address family, in front of UDP.
pub(crate) trait Shape: Address {
    /// Length of the header without options.
    const HEADER: usize;
    /// Length of what stands in front of the data of a fragment.
    const FRAGMENT_HEADER: usize;
    /// Offset of the time to live, or of the hop limit.
    const HOP_LIMIT: usize;
    /// Offset of the source address. The destination follows it.
    const SOURCE: usize;
    /// Bytes of an address.
    const ADDRESS: usize;
    /// Whether a UDP checksum of 0 stands for none (RFC 768). Not so over IPv6 (RFC 8200 §8.1).
    const MAY_LACK_CHECKSUM: bool;

    /// The bytes that distinguish one datagram from others.
    type Fingerprint: Copy + Eq + Hash + Debug + AsRef<[u8]> + for<'b> TryFrom<&'b [u8]>;

    /// Where UDP begins and where the packet ends; `None` for a packet that carries no UDP, or whose
    /// header is not whole. Both are in this order, and may be beyond the bytes.
    fn measure(bytes: &[u8]) -> Option<(usize, usize)>;

    /// Offset of the packet's data in the datagram in units of eight bytes, and [`MORE`] where more
    /// follow. `udp` is where UDP begins.
    fn fragment_field(bytes: &[u8], udp: usize) -> u16;

    /// Sets the length of the packet.
    fn set_length(bytes: &mut [u8], length: usize);

    /// The identification, of a family that has one in each packet; 0: none.
    fn identification(bytes: &[u8]) -> u16;

    /// Sets it.
    fn set_identification(bytes: &mut [u8], identification: u16);

    /// Begins a fragment of `length` bytes with the [`FRAGMENT_HEADER`](Self::FRAGMENT_HEADER). `field`
    /// is as [`fragment_field`](Self::fragment_field). The identification is for a packet that has none.
    fn begin_fragment(
        fragment: &mut Vec<u8>,
        original: &[u8],
        udp: usize,
        field: u16,
        length: usize,
        identification: u32,
    );

    /// The header of a whole packet of this length, with zeros for the addresses. The rest of `header`
    /// is zero already.
    fn begin(header: &mut [u8], length: usize, hop_limit: u8);

    /// The bytes that distinguish a datagram. `udp` is where its header begins, which is whole.
    fn fingerprint(bytes: &[u8], udp: usize) -> Option<Self::Fingerprint>;
}

/// Length of the UDP header (RFC 768).
const UDP_HEADER: usize = 8;

mod v4 {
    pub(super) const TOTAL_LENGTH: usize = 2;
    pub(super) const IDENTIFICATION: usize = 4;
    pub(super) const FRAGMENT: usize = 6;
    pub(super) const PROTOCOL: usize = 9;
    pub(super) const HEADER_CHECKSUM: usize = 10;
}

/// RFC 791 §3.1.
impl Shape for Ipv4Addr {
    const HEADER: usize = 20;
    const FRAGMENT_HEADER: usize = 20;
    const HOP_LIMIT: usize = 8;
    const SOURCE: usize = 12;
    const ADDRESS: usize = 4;
    const MAY_LACK_CHECKSUM: bool = true;

    /// Identification, addresses, and the UDP header.
    type Fingerprint = [u8; 18];

    fn measure(bytes: &[u8]) -> Option<(usize, usize)> {
        let fixed: &[u8; Self::HEADER] = bytes.first_chunk()?;
        let header = usize::from(fixed[0] & 0x0f) * 4;
        let total = usize::from(short(fixed, v4::TOTAL_LENGTH));
        let plain = fixed[0] >> 4 == 4 && fixed[v4::PROTOCOL] == UDP;
        (plain && header >= Self::HEADER && total >= header).then_some((header, total))
    }

    fn fragment_field(bytes: &[u8], _: usize) -> u16 {
        short(bytes, v4::FRAGMENT)
    }

    fn set_length(bytes: &mut [u8], length: usize) {
        set_short(bytes, v4::TOTAL_LENGTH, length as u16);
    }

    fn identification(bytes: &[u8]) -> u16 {
        short(bytes, v4::IDENTIFICATION)
    }

    fn set_identification(bytes: &mut [u8], identification: u16) {
        set_short(bytes, v4::IDENTIFICATION, identification);
    }

    /// IP options are left out.
    fn begin_fragment(
        fragment: &mut Vec<u8>,
        original: &[u8],
        _: usize,
        field: u16,
        length: usize,
        _: u32,
    ) {
        fragment.extend_from_slice(&original[..Self::HEADER]);
        fragment[0] = 0x40 | (Self::HEADER / 4) as u8;
        Self::set_length(fragment, length);
        set_short(fragment, v4::FRAGMENT, field);
        set_short(fragment, v4::HEADER_CHECKSUM, 0);
    }

    fn begin(header: &mut [u8], length: usize, hop_limit: u8) {
        header[0] = 0x40 | (Self::HEADER / 4) as u8;
        Self::set_length(header, length);
        header[Self::HOP_LIMIT] = hop_limit;
        header[v4::PROTOCOL] = UDP;
    }

    fn fingerprint(bytes: &[u8], udp: usize) -> Option<Self::Fingerprint> {
        let mut print = [0; 18];
        print[..2].copy_from_slice(bytes.get(v4::IDENTIFICATION..v4::IDENTIFICATION + 2)?);
        print[2..10].copy_from_slice(bytes.get(Self::SOURCE..Self::SOURCE + 8)?);
        print[10..].copy_from_slice(bytes.get(udp..udp + UDP_HEADER)?);
        Some(print)
    }
}

mod v6 {
    pub(super) const PAYLOAD_LENGTH: usize = 4;
    pub(super) const NEXT_HEADER: usize = 6;
    /// The next header of fragments (RFC 8200 §4.5).
    pub(super) const FRAGMENT: u8 = 44;
    /// Length of its header, and the offset of its field for the offset.
    pub(super) const FRAGMENT_HEADER: usize = 8;
    pub(super) const FRAGMENT_FIELD: usize = 2;
    pub(super) const FRAGMENT_IDENTIFICATION: usize = 4;
}

/// RFC 8200 §3. The only extension header is that of fragments: a raw socket gives none (`rawv6_rcv` in
/// net/ipv6/raw.c), and what a container sends with others is dropped.
impl Shape for Ipv6Addr {
    const HEADER: usize = 40;
    const FRAGMENT_HEADER: usize = Self::HEADER + v6::FRAGMENT_HEADER;
    const HOP_LIMIT: usize = 7;
    const SOURCE: usize = 8;
    const ADDRESS: usize = 16;
    const MAY_LACK_CHECKSUM: bool = false;

    /// Addresses, and the UDP header, whose checksum covers the data.
    type Fingerprint = [u8; 40];

    fn measure(bytes: &[u8]) -> Option<(usize, usize)> {
        let fixed: &[u8; Self::HEADER] = bytes.first_chunk()?;
        let total = Self::HEADER + usize::from(short(fixed, v6::PAYLOAD_LENGTH));
        if fixed[0] >> 4 != 6 {
            return None;
        }
        let udp = match fixed[v6::NEXT_HEADER] {
            UDP => Self::HEADER,
            v6::FRAGMENT if *bytes.get(Self::HEADER)? == UDP => Self::FRAGMENT_HEADER,
            _ => return None,
        };
        (total >= udp).then_some((udp, total))
    }

    fn fragment_field(bytes: &[u8], udp: usize) -> u16 {
        if udp < Self::FRAGMENT_HEADER {
            return 0;
        }
        // The offset is in the upper bits here (RFC 8200 §4.5).
        let field = short(bytes, Self::HEADER + v6::FRAGMENT_FIELD);
        field >> 3 | if field & 1 == 0 { 0 } else { MORE }
    }

    fn set_length(bytes: &mut [u8], length: usize) {
        set_short(bytes, v6::PAYLOAD_LENGTH, length.saturating_sub(Self::HEADER) as u16);
    }

    fn identification(_: &[u8]) -> u16 {
        0
    }

    fn set_identification(_: &mut [u8], _: u16) {}

    fn begin_fragment(
        fragment: &mut Vec<u8>,
        original: &[u8],
        udp: usize,
        field: u16,
        length: usize,
        identification: u32,
    ) {
        fragment.extend_from_slice(&original[..Self::HEADER]);
        Self::set_length(fragment, length);
        fragment[v6::NEXT_HEADER] = v6::FRAGMENT;
        let own = Self::HEADER + v6::FRAGMENT_IDENTIFICATION;
        let own = original.get(own..own + 4).filter(|_| udp == Self::FRAGMENT_HEADER);
        let own = own.and_then(|own| own.try_into().ok()).map(u32::from_be_bytes);
        let more = u16::from(field & MORE != 0);
        fragment.extend_from_slice(&[UDP, 0]);
        fragment.extend_from_slice(&((field & OFFSET) << 3 | more).to_be_bytes());
        fragment.extend_from_slice(&own.unwrap_or(identification).to_be_bytes());
    }

    fn begin(header: &mut [u8], length: usize, hop_limit: u8) {
        header[0] = 0x60;
        Self::set_length(header, length);
        header[v6::NEXT_HEADER] = UDP;
        header[Self::HOP_LIMIT] = hop_limit;
    }

    fn fingerprint(bytes: &[u8], udp: usize) -> Option<Self::Fingerprint> {
        let mut print = [0; 40];
        print[..32].copy_from_slice(bytes.get(Self::SOURCE..Self::HEADER)?);
        print[32..].copy_from_slice(bytes.get(udp..udp + UDP_HEADER)?);
        Some(print)
    }
}

fn short(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn set_short(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
