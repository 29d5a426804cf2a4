//! The types of values that sets hold.

use std::net::{Ipv4Addr, Ipv6Addr};

/// nft(8)'s numbers of the types of set elements. The kernel stores them, and `nft list` prints by
/// them.
const TYPE_IPV4_ADDRESS: u32 = 7;
const TYPE_IPV6_ADDRESS: u32 = 8;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_ICMPV6: u32 = 29;

/// A value that a set can hold.
pub(in crate::proxy::container::rules) trait SetKey {
    /// nft(8)'s number of the type.
    const TYPE: u32;
    /// Bytes of a value.
    const LENGTH: u32;
    /// Passes the bytes of the value on, as they stand in a packet.
    fn with(&self, use_key: impl FnOnce(&[u8]));
}

impl SetKey for Ipv4Addr {
    const TYPE: u32 = TYPE_IPV4_ADDRESS;
    const LENGTH: u32 = 4;
    fn with(&self, use_key: impl FnOnce(&[u8])) {
        use_key(&self.octets());
    }
}

impl SetKey for Ipv6Addr {
    const TYPE: u32 = TYPE_IPV6_ADDRESS;
    const LENGTH: u32 = 16;
    fn with(&self, use_key: impl FnOnce(&[u8])) {
        use_key(&self.octets());
    }
}

/// A protocol number of IPv4, or a next header of IPv6.
#[derive(Clone, Copy)]
pub(in crate::proxy::container::rules) struct IpProtocol(pub(in crate::proxy::container::rules) u8);

impl SetKey for IpProtocol {
    const TYPE: u32 = TYPE_PROTOCOL;
    const LENGTH: u32 = 1;
    fn with(&self, use_key: impl FnOnce(&[u8])) {
        use_key(&[self.0]);
    }
}

/// A type of ICMPv6 message.
#[derive(Clone, Copy)]
pub(in crate::proxy::container::rules) struct Icmpv6Type(pub(in crate::proxy::container::rules) u8);

impl SetKey for Icmpv6Type {
    const TYPE: u32 = TYPE_ICMPV6;
    const LENGTH: u32 = 1;
    fn with(&self, use_key: impl FnOnce(&[u8])) {
        use_key(&[self.0]);
    }
}
