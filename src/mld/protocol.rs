//! The packets of MLD for the router.

use std::net::Ipv6Addr;

use crate::igmp::message::{Message, Query, Version};
use crate::igmp::{Protocol, ReceivedMessage};
use crate::mld::wire::{self, Ipv6Packet, Malformed};

/// The source of queries of the router's own. A kernel takes a query from a link-local address
/// only (RFC 9777 §5.1.14), and this one, with the name of mcrun in its last bytes, is no host's.
pub const OWN_QUERIER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0x6d, 0x6372, 0x756e);

/// All nodes of the interface (RFC 4291 §2.7.1): a packet to it never leaves its host.
const INTERFACE_LOCAL_NODES: Ipv6Addr = Ipv6Addr::new(0xff01, 0, 0, 0, 0, 0, 0, 1);

/// MLD, versions 1 and 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mld;

impl Protocol for Mld {
    type Address = Ipv6Addr;

    fn parse(packet: &[u8]) -> Result<ReceivedMessage<Ipv6Addr>, &'static str> {
        let packet = Ipv6Packet::parse(packet).map_err(Malformed::name)?;
        let message = wire::parse(&packet).map_err(Malformed::name)?;
        let is_report = !matches!(message, Message::Query(_));
        // A report comes from `::` while the address of the link is tentative. Routers ignore such
        // a report, and those who snoop do not (RFC 9777 §5.2, RFC 4541 §3). Of this link the
        // proxy is the only one who hears it.
        let src = packet.src();
        if is_report && !(src.is_unspecified() || src.is_unicast_link_local()) {
            return Err(Malformed::Source.name());
        }
        Ok(ReceivedMessage {
            message,
            hop_limit: packet.hop_limit(),
            router_alert: packet.router_alert(),
        })
    }

    fn emit_query(query: &Query<Ipv6Addr>, source: Ipv6Addr, mtu: usize) -> Vec<Vec<u8>> {
        // The kernel answers a query whatever its destination, if its hop limit is 1 (`igmp6_event_query`
        // in net/ipv6/mcast.c). To the group of the link it would leave with that hop limit.
        let source = if Self::is_query_source(source) { source } else { OWN_QUERIER };
        query.emit_ipv6(source, INTERFACE_LOCAL_NODES, 1, mtu)
    }

    fn number(version: Version) -> u8 {
        match version {
            Version::V1 | Version::V2 => 1,
            Version::V3 => 2,
        }
    }

    fn is_query_source(address: Ipv6Addr) -> bool {
        address.is_unicast_link_local()
    }
}

#[cfg(test)]
mod tests;
