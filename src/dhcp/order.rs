//! What the process that speaks to servers may ask of the one that has privileges: a small message
//! of a fixed form, which is checked again when it is read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::Ipv4Net;

use crate::dhcp::client::Lease;
use crate::dhcp::client_v6;
use crate::dhcp::message::{LeasedRoute, MAX_ROUTES, is_host};
use crate::dhcp::message_v6;
use crate::primitives::MacAddr;

const SET: u8 = 1;
const REMOVE: u8 = 2;
const DECLINED: u8 = 3;
const SET_V6: u8 = 4;
const DECLINED_V6: u8 = 5;
/// Length of an order for an address of IPv6.
const V6: usize = 25;
const HEADER: usize = 15;
const ROUTE: usize = 9;
/// Longest order in bytes.
pub const LONGEST: usize = HEADER + MAX_ROUTES * ROUTE;

/// An order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Give the interface this address, with these routes.
    Set(LeasedAddress),
    /// Give the interface this address of IPv6.
    SetV6(client_v6::Lease),
    /// Take the address away.
    Remove,
    /// Tell whoever waits for an address that a station has the one that a server gave.
    Declined {
        /// The address.
        address: IpAddr,
        /// The station.
        mac: MacAddr,
    },
}

/// An address and its routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasedAddress {
    /// The address with the length of its prefix.
    pub address: Ipv4Net,
    /// The server.
    pub server: Ipv4Addr,
    /// For how many seconds; `u32::MAX`: for ever.
    pub seconds: u32,
    /// The routes.
    pub routes: Vec<LeasedRoute>,
}

impl Order {
    /// The order that a lease needs.
    pub fn of(lease: &Lease) -> Self {
        // The kernel counts whole seconds, and takes no 0.
        let whole =
            |lifetime: Duration| lifetime.as_secs() + u64::from(lifetime.subsec_nanos() > 0);
        let seconds = lease.lifetime.map(|lifetime| u32::try_from(whole(lifetime)));
        Order::Set(LeasedAddress {
            address: lease.address,
            server: lease.server,
            seconds: seconds.and_then(Result::ok).unwrap_or(u32::MAX),
            routes: lease.routes.iter().take(MAX_ROUTES).copied().collect(),
        })
    }

    /// As it is sent.
    pub fn bytes(&self) -> Vec<u8> {
        let leased = match self {
            Order::Set(leased) => leased,
            Order::Remove => return vec![REMOVE],
            Order::SetV6(client_v6::Lease { address, preferred, valid }) => {
                let lifetimes = [*preferred, *valid].map(u32::to_be_bytes).concat();
                return [&[SET_V6][..], &address.octets(), &lifetimes].concat();
            }
            Order::Declined { address: IpAddr::V4(address), mac } => {
                return [&[DECLINED][..], &address.octets(), &mac.octets()].concat();
            }
            Order::Declined { address: IpAddr::V6(address), mac } => {
                return [&[DECLINED_V6][..], &address.octets(), &mac.octets()].concat();
            }
        };
        let mut bytes = vec![SET];
        bytes.extend(leased.address.addr().octets());
        bytes.push(leased.address.prefix_len());
        bytes.extend(leased.server.octets());
        bytes.extend(leased.seconds.to_be_bytes());
        bytes.push(leased.routes.len() as u8);
        for route in &leased.routes {
            bytes.extend(route.destination.addr().octets());
            bytes.push(route.destination.prefix_len());
            bytes.extend(route.gateway.octets());
        }
        bytes
    }

    /// Reads one. `None`: it is none, or asks for what no host can have.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes == [REMOVE] {
            return Some(Order::Remove);
        }
        if let [DECLINED, a, b, c, d, mac @ ..] = bytes
            && mac.len() == 6
        {
            let address = Ipv4Addr::new(*a, *b, *c, *d).into();
            return Some(Order::Declined { address, mac: MacAddr::from_slice(mac)? });
        }
        if let [tag @ (SET_V6 | DECLINED_V6), behind @ ..] = bytes {
            return Self::parse_v6(*tag, behind);
        }
        let (header, mut rest) = bytes.split_at_checked(HEADER)?;
        let four = |at: &[u8]| -> Option<[u8; 4]> { at.get(..4)?.try_into().ok() };
        let address = Ipv4Net::new(four(&header[1..])?.into(), header[5]).ok()?;
        let count = usize::from(header[14]);
        if header[0] != SET
            || header[5] == 0
            || !is_host(address.addr())
            || count > MAX_ROUTES
            || rest.len() != count * ROUTE
        {
            return None;
        }
        let mut routes = Vec::with_capacity(count);
        while !rest.is_empty() {
            let (route, behind) = rest.split_at_checked(ROUTE)?;
            let destination = Ipv4Net::new(four(route)?.into(), route[4]).ok()?;
            let gateway = Ipv4Addr::from(four(&route[5..])?);
            if destination != destination.trunc()
                || destination.addr().is_multicast()
                || !(is_host(gateway) || gateway.is_unspecified())
            {
                return None;
            }
            routes.push(LeasedRoute { destination, gateway });
            rest = behind;
        }
        let (server, seconds) =
            (four(&header[6..])?.into(), u32::from_be_bytes(four(&header[10..])?));
        Some(Order::Set(LeasedAddress { address, server, seconds, routes }))
    }

    fn parse_v6(tag: u8, bytes: &[u8]) -> Option<Self> {
        let (address, rest) = bytes.split_first_chunk::<16>()?;
        let address = Ipv6Addr::from(*address);
        if tag == DECLINED_V6 {
            let mac = MacAddr::from_slice(rest).filter(|_| rest.len() == 6)?;
            return Some(Order::Declined { address: address.into(), mac });
        }
        let number = |at: &[u8]| Some(u32::from_be_bytes(at.try_into().ok()?));
        if bytes.len() != V6 - 1 || !message_v6::is_host(address) {
            return None;
        }
        let (preferred, valid) = (number(&rest[..4])?, number(&rest[4..])?);
        (preferred <= valid).then_some(Order::SetV6(client_v6::Lease { address, preferred, valid }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(routes: usize) -> Order {
        let route = LeasedRoute {
            destination: "10.0.0.0/8".parse().unwrap(),
            gateway: [192, 0, 2, 1].into(),
        };
        Order::Set(LeasedAddress {
            address: "192.0.2.7/24".parse().unwrap(),
            server: [192, 0, 2, 1].into(),
            seconds: 120,
            routes: vec![route; routes],
        })
    }

    #[test]
    fn an_order_is_read_as_it_was_written() {
        let declined = Order::Declined {
            address: IpAddr::from([192, 0, 2, 7]),
            mac: "02:00:00:00:00:07".parse().unwrap(),
        };
        let mac = "02:00:00:00:00:07".parse().unwrap();
        let address: Ipv6Addr = "fd00::7".parse().unwrap();
        let declined_v6 = Order::Declined { address: address.into(), mac };
        let set_v6 = Order::SetV6(client_v6::Lease { address, preferred: 60, valid: 120 });
        let all =
            [order(0), order(1), order(MAX_ROUTES), Order::Remove, declined, declined_v6, set_v6];
        for order in all {
            let bytes = order.bytes();
            assert!(bytes.len() <= LONGEST);
            assert_eq!(Order::parse(&bytes), Some(order));
        }
        assert_eq!(Order::parse(&order(MAX_ROUTES + 1).bytes()), None);
    }

    #[test]
    fn the_seconds_of_a_lease_are_rounded_up() {
        for (millis, seconds) in [(4000, 4), (3001, 4), (1, 1)] {
            let lease = Lease {
                address: "192.0.2.7/24".parse().unwrap(),
                routes: Vec::new(),
                lifetime: Some(Duration::from_millis(millis)),
                server: [192, 0, 2, 1].into(),
                server_mac: "02:00:00:00:00:01".parse().unwrap(),
            };
            let Order::Set(leased) = Order::of(&lease) else { panic!() };
            assert_eq!(leased.seconds, seconds, "{millis} ms");
        }
    }

    #[test]
    fn what_no_host_can_have_is_no_order() {
        for (at, value) in [
            (0, 3),
            (1, 127),
            (1, 224),
            (1, 0),
            (5, 0),
            (5, 33),
            (14, 2),
            (15, 225),
            (19, 3),
            (20, 255),
        ] {
            let mut bytes = order(1).bytes();
            bytes[at] = value;
            assert_eq!(Order::parse(&bytes), None, "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn no_order_is_a_surprise(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(order) = Order::parse(&bytes) {
                prop_assert_eq!(order.bytes(), bytes);
            }
        }
    }
}
