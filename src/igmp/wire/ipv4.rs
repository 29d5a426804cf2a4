//! The IPv4 packet around a message: read as a checked view, and written.

use std::net::Ipv4Addr;

use zerocopy::{FromBytes, IntoBytes};

use crate::igmp::wire::Malformed;
use crate::igmp::wire::format::Ipv4Header;
use crate::primitives::internet_checksum::Sum;

/// IP protocol number of IGMP.
pub const PROTOCOL: u8 = 2;

/// Bytes of the IPv4 header of emitted packets: 20 and the Router Alert option.
pub const HEADER_LEN: usize = 24;

/// Router Alert, to be examined by every router (RFC 2113 §2.1).
const ROUTER_ALERT: [u8; 4] = [148, 4, 0, 0];

/// Internetwork control (RFC 9776 §4).
const TOS: u8 = 0xc0;

/// Don't fragment.
const DF: u16 = 0x4000;

/// More fragments, or a fragment offset.
const FRAGMENT: u16 = 0x3fff;

/// A whole IPv4 packet whose lengths agree with the buffer.
///
/// The header checksum is not looked at: packets come from the kernel, which has checked it
/// or, on output, not yet computed it.
#[derive(Debug, Clone, Copy)]
pub struct Ipv4Packet<'a> {
    header: &'a Ipv4Header,
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Ipv4Packet<'a> {
    /// Checks version, header length, total length, and that it is no fragment. Bytes behind
    /// the total length (padding of the link) are left out.
    ///
    /// # Errors
    /// The first check that failed.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) =
            Ipv4Header::ref_from_prefix(bytes).map_err(|_| Malformed::Ipv4Header)?;
        let header_len = usize::from(header.version_ihl & 0x0f) * 4;
        let fixed = size_of::<Ipv4Header>();
        if header.version_ihl >> 4 != 4 || header_len < fixed {
            return Err(Malformed::Ipv4Header);
        }
        let total = usize::from(header.total_length.get());
        if total < header_len || total > bytes.len() {
            return Err(Malformed::Ipv4Length);
        }
        if header.fragment.get() & FRAGMENT != 0 {
            return Err(Malformed::Fragment);
        }
        let (options, payload) = rest[..total - fixed].split_at(header_len - fixed);
        Ok(Ipv4Packet { header, options, payload })
    }

    /// Header length in bytes, options included: 20 to 60.
    pub fn header_len(&self) -> usize {
        size_of::<Ipv4Header>() + self.options.len()
    }

    /// Length of header and payload in bytes.
    pub fn total_len(&self) -> usize {
        self.header_len() + self.payload.len()
    }

    /// Time to live.
    pub fn ttl(&self) -> u8 {
        self.header.ttl
    }

    /// Type of service: DSCP and ECN.
    pub fn tos(&self) -> u8 {
        self.header.tos
    }

    /// IP protocol number.
    pub fn protocol(&self) -> u8 {
        self.header.protocol
    }

    /// Source address.
    pub fn src(&self) -> Ipv4Addr {
        self.header.source.into()
    }

    /// Destination address.
    pub fn dst(&self) -> Ipv4Addr {
        self.header.destination.into()
    }

    /// Whether the Router Alert option is there (RFC 2113). Options that can't be walked
    /// count as absent.
    pub fn router_alert(&self) -> bool {
        let mut options = self.options;
        loop {
            match *options {
                // End of the list, or of the header.
                [] | [0, ..] => return false,
                [1, ref rest @ ..] => options = rest,
                [kind, len, ..] if usize::from(len) >= 2 && usize::from(len) <= options.len() => {
                    if kind == ROUTER_ALERT[0] && len == ROUTER_ALERT[1] {
                        return true;
                    }
                    options = &options[usize::from(len)..];
                }
                _ => return false,
            }
        }
    }

    /// What the header is followed by.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The payload of a packet that is IGMP.
    ///
    /// # Errors
    /// [`Malformed::NotIgmp`] for another protocol.
    pub fn igmp(&self) -> Result<&'a [u8], Malformed> {
        if self.protocol() == PROTOCOL { Ok(self.payload) } else { Err(Malformed::NotIgmp) }
    }
}

/// A packet that carries `payload` as IGMP is sent (RFC 9776 §4): TOS 0xc0, Router Alert,
/// don't-fragment, and a header checksum.
///
/// `payload` holds at most 65511 bytes; the callers in this module split at the MTU before.
pub(super) fn emit(src: Ipv4Addr, dst: Ipv4Addr, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let total = HEADER_LEN + payload.len();
    debug_assert!(total <= usize::from(u16::MAX));
    let header = Ipv4Header {
        version_ihl: 0x40 | (HEADER_LEN / 4) as u8,
        tos: TOS,
        total_length: (total as u16).into(),
        identification: 0.into(),
        fragment: DF.into(),
        ttl,
        protocol: PROTOCOL,
        checksum: 0.into(),
        source: src.octets(),
        destination: dst.octets(),
    };
    let mut packet = Vec::with_capacity(total);
    packet.extend_from_slice(header.as_bytes());
    packet.extend_from_slice(&ROUTER_ALERT);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

/// The Internet checksum (RFC 1071): 0 for bytes that hold their own right checksum.
pub(super) fn checksum(bytes: &[u8]) -> u16 {
    !Sum::of(bytes).folded()
}
