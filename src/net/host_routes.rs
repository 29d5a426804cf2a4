//! Builds and reads rtnetlink messages of routes to single hosts, and of neighbours whose MAC address
//! is given. Nothing is sent here.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteProtocol, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::net::messages::new_route;
use crate::primitives::MacAddr;

/// A route to one address on the link of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostRoute {
    /// The address.
    pub to: IpAddr,
    /// The source address of packets whose sender has chosen none; `None`: the kernel chooses.
    pub source: Option<IpAddr>,
}

/// Adds a route through the interface of this index.
pub fn new_host_route(index: u32, route: HostRoute) -> RouteNetlinkMessage {
    let mut message = new_route(index, IpNet::from(route.to), None, 0);
    if let (RouteNetlinkMessage::NewRoute(new), Some(source)) = (&mut message, route.source) {
        new.attributes.push(RouteAttribute::PrefSource(source.into()));
    }
    message
}

/// Reads a route to one address from an answer, with the index of its interface; `None` when the
/// answer is about another kind of route, or one that the kernel has made.
pub fn read_host_route(message: RouteNetlinkMessage) -> Option<(u32, HostRoute)> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    let whole = match message.header.address_family {
        AddressFamily::Inet => 32,
        AddressFamily::Inet6 => 128,
        _ => return None,
    };
    if message.header.destination_prefix_length != whole
        || message.header.kind != RouteType::Unicast
        || message.header.protocol != RouteProtocol::Static
    {
        return None;
    }
    let (mut index, mut to, mut source) = (None, None, None);
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => index = Some(oif),
            RouteAttribute::Destination(address) => to = ip(&address),
            RouteAttribute::PrefSource(address) => source = ip(&address),
            _ => {}
        }
    }
    Some((index?, HostRoute { to: to?, source }))
}

/// Says which MAC address a neighbour has, for as long as the interface exists: nobody is asked.
pub fn new_permanent_neighbour(index: u32, address: IpAddr, mac: MacAddr) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewNeighbour(permanent_neighbour(index, address, Some(mac)))
}

/// Takes away what [`new_permanent_neighbour`] adds.
pub fn delete_neighbour(index: u32, address: IpAddr) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelNeighbour(permanent_neighbour(index, address, None))
}

fn permanent_neighbour(index: u32, address: IpAddr, mac: Option<MacAddr>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    let (family, destination) = match address {
        IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
    };
    message.header.family = family;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::Destination(destination));
    let mac = mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec()));
    message.attributes.extend(mac);
    message
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_to_a_host_is_read_as_it_was_built() {
        for (to, source) in [
            ("192.0.2.7", Some("192.0.2.1")),
            ("192.0.2.7", None),
            ("2001:db8::7", Some("2001:db8::1")),
        ] {
            let route = HostRoute {
                to: to.parse().unwrap(),
                source: source.map(|source| source.parse().unwrap()),
            };
            assert_eq!(read_host_route(new_host_route(7, route)), Some((7, route)));
        }
        let wide = new_route(7, "192.0.2.0/24".parse().unwrap(), None, 0);
        assert_eq!(read_host_route(wide), None);
    }
}
