//! The seam between the router and the packets of a protocol.

use std::fmt;
use std::net::Ipv4Addr;

use crate::igmp::message::{Message, Query, Version};
use crate::igmp::wire::{self, Ipv4Packet, Malformed};
use crate::multicast::Address;

/// A protocol in which hosts report memberships to routers.
///
/// The router with its group table and its querier is generic over it. A protocol supplies the
/// packets: [`Igmp`] those of IPv4. MLD (RFC 9777) has the same messages, the same states of a
/// group and the same timers.
pub trait Protocol: Copy + fmt::Debug + 'static {
    /// The address family.
    type Address: Address;

    /// Parses a whole IP packet that a host sent.
    ///
    /// # Errors
    /// The stable name of the counter for what is wrong with the packet.
    fn parse(packet: &[u8]) -> Result<ReceivedMessage<Self::Address>, &'static str>;

    /// The packets of a query, each of `mtu` bytes at most. The host's own stack loops them back
    /// as if they had arrived, and they never leave the host.
    fn emit_query(query: &Query<Self::Address>, source: Self::Address, mtu: usize) -> Vec<Vec<u8>>;

    /// The number of a version, as people know it.
    fn number(version: Version) -> u8 {
        version.number()
    }

    /// Whether a query can come from this address, the unspecified one included.
    fn is_query_source(address: Self::Address) -> bool;
}

/// A message, and what is checked of the IP header in front of it (RFC 9776 §9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedMessage<A> {
    /// The message.
    pub message: Message<A>,
    /// Time to live, or hop limit.
    pub hop_limit: u8,
    /// Whether the packet has the Router Alert option.
    pub router_alert: bool,
}

/// IGMP, versions 1 to 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Igmp;

impl Protocol for Igmp {
    type Address = Ipv4Addr;

    fn parse(packet: &[u8]) -> Result<ReceivedMessage<Ipv4Addr>, &'static str> {
        let packet = Ipv4Packet::parse(packet).map_err(Malformed::name)?;
        let message = packet.igmp().and_then(wire::parse).map_err(Malformed::name)?;
        Ok(ReceivedMessage {
            message,
            hop_limit: packet.ttl(),
            router_alert: packet.router_alert(),
        })
    }

    fn emit_query(query: &Query<Ipv4Addr>, source: Ipv4Addr, mtu: usize) -> Vec<Vec<u8>> {
        // With TTL 0 the kernel loops the packet back and sends nothing.
        query.emit_ipv4(source, query.destination(), 0, mtu)
    }

    fn is_query_source(address: Ipv4Addr) -> bool {
        !(address.is_multicast() || address.is_broadcast() || address.is_loopback())
    }
}
