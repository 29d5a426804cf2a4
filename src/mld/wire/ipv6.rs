//! The IPv6 packet around a message: read as a checked view, and written.

use std::net::Ipv6Addr;

use zerocopy::{FromBytes, IntoBytes};

use crate::mld::wire::Malformed;
use crate::mld::wire::format::Ipv6Header;
use crate::primitives::internet_checksum::{Sum, pseudo_header_v6};

/// Next header number of ICMPv6 (RFC 4443 §1).
pub const ICMPV6: u8 = 58;

/// Next header number of hop-by-hop options (RFC 8200 §4.3).
const HOP_BY_HOP: u8 = 0;
/// Next header number of the fragment header (RFC 8200 §4.5).
const FRAGMENT: u8 = 44;

/// Bytes in front of the message in packets that are sent: the IPv6 header and the hop-by-hop
/// options.
pub const HEADERS_LEN: usize = size_of::<Ipv6Header>() + OPTIONS.len();

/// The hop-by-hop options of MLD: ICMPv6 follows, no more than eight bytes, Router Alert with the
/// value for MLD (RFC 2711 §2.1), and PadN of two bytes.
const OPTIONS: [u8; 8] = [ICMPV6, 0, ROUTER_ALERT, 2, 0, 0, 1, 0];
const ROUTER_ALERT: u8 = 5;

/// A whole IPv6 packet whose lengths agree with the buffer, with at most one extension header:
/// hop-by-hop options.
#[derive(Debug, Clone, Copy)]
pub struct Ipv6Packet<'a> {
    header: &'a Ipv6Header,
    options: &'a [u8],
    next_header: u8,
    payload: &'a [u8],
}

impl<'a> Ipv6Packet<'a> {
    /// Checks version, payload length, the length of hop-by-hop options, and that the packet is no
    /// fragment. Bytes behind the payload (padding of the link) are left out.
    ///
    /// # Errors
    /// The first check that failed.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) =
            Ipv6Header::ref_from_prefix(bytes).map_err(|_| Malformed::Ipv6Header)?;
        if header.version_class_flow.get() >> 28 != 6 {
            return Err(Malformed::Ipv6Header);
        }
        let rest =
            rest.get(..usize::from(header.payload_length.get())).ok_or(Malformed::Ipv6Length)?;
        let (next_header, options, payload) = match (header.next_header, rest) {
            (HOP_BY_HOP, &[next, words, ..]) => {
                let len = (usize::from(words) + 1) * 8;
                let (options, payload) = rest.split_at_checked(len).ok_or(Malformed::Options)?;
                (next, options.get(2..).unwrap_or_default(), payload)
            }
            (HOP_BY_HOP, _) => return Err(Malformed::Options),
            (next, payload) => (next, &[][..], payload),
        };
        if next_header == FRAGMENT {
            return Err(Malformed::Fragment);
        }
        Ok(Ipv6Packet { header, options, next_header, payload })
    }

    /// Hop limit.
    pub fn hop_limit(&self) -> u8 {
        self.header.hop_limit
    }

    /// Source address.
    pub fn src(&self) -> Ipv6Addr {
        self.header.source.into()
    }

    /// Destination address.
    pub fn dst(&self) -> Ipv6Addr {
        self.header.destination.into()
    }

    /// Length of the headers and the payload in bytes.
    pub fn total_len(&self) -> usize {
        size_of::<Ipv6Header>() + usize::from(self.header.payload_length.get())
    }

    /// Whether the Router Alert option for MLD is there (RFC 2711). Options that can't be walked
    /// count as absent.
    pub fn router_alert(&self) -> bool {
        let mut options = self.options;
        loop {
            match *options {
                [] => return false,
                // Pad1, the only option without a length.
                [0, ref rest @ ..] => options = rest,
                [ROUTER_ALERT, 2, 0, 0, ..] => return true,
                [_, len, ref rest @ ..] if usize::from(len) <= rest.len() => {
                    options = &rest[usize::from(len)..];
                }
                _ => return false,
            }
        }
    }

    /// The payload of a packet that is ICMPv6 with the right checksum.
    ///
    /// # Errors
    /// [`Malformed::NotMld`] for another protocol or another extension header,
    /// [`Malformed::Checksum`].
    pub(super) fn icmpv6(&self) -> Result<&'a [u8], Malformed> {
        if self.next_header != ICMPV6 {
            return Err(Malformed::NotMld);
        }
        let length = u32::try_from(self.payload.len()).map_err(|_| Malformed::Ipv6Length)?;
        let mut sum = pseudo_header_v6(self.src(), self.dst(), ICMPV6, length);
        sum.add(Sum::of(self.payload));
        if sum.is_whole() { Ok(self.payload) } else { Err(Malformed::Checksum) }
    }
}

/// A packet that carries `payload` as MLD is sent (RFC 9777 §5): with Router Alert, and with the
/// checksum in the third and fourth byte of the payload, where all messages have it.
///
/// `payload` holds at most 65527 bytes; the callers in this module split at the MTU before.
pub(super) fn emit(src: Ipv6Addr, dst: Ipv6Addr, hop_limit: u8, mut payload: Vec<u8>) -> Vec<u8> {
    let length = OPTIONS.len() + payload.len();
    debug_assert!(length <= usize::from(u16::MAX));
    let header = Ipv6Header {
        version_class_flow: (6 << 28).into(),
        payload_length: (length as u16).into(),
        next_header: HOP_BY_HOP,
        hop_limit,
        source: src.octets(),
        destination: dst.octets(),
    };
    let mut sum = pseudo_header_v6(src, dst, ICMPV6, payload.len() as u32);
    sum.add(Sum::of(&payload));
    payload[2..4].copy_from_slice(&(!sum.folded()).to_be_bytes());
    [header.as_bytes(), &OPTIONS, &payload].concat()
}
