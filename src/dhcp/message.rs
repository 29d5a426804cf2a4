//! DHCP messages (RFC 2131 §2, RFC 2132): what a client sends, and the parts of an answer that it
//! uses.
//!
//! The crates that know the format, dhcproto and mozim, bring URLs, IDNA and a DNS library with them.
//! A client needs ten options.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::primitives::MacAddr;

/// Fixed part of a message, up to the options.
const HEADER: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Shortest message that all relays pass on (RFC 1542 §2.1).
const SHORTEST: usize = 300;
/// Most routes that are taken from an answer.
pub const MAX_ROUTES: usize = 16;

const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const ETHERNET: u8 = 1;
const BROADCAST: u16 = 0x8000;

mod option {
    pub(super) const SUBNET_MASK: u8 = 1;
    pub(super) const ROUTER: u8 = 3;
    pub(super) const HOST_NAME: u8 = 12;
    pub(super) const REQUESTED_ADDRESS: u8 = 50;
    pub(super) const LEASE_TIME: u8 = 51;
    pub(super) const OVERLOAD: u8 = 52;
    pub(super) const MESSAGE_TYPE: u8 = 53;
    pub(super) const SERVER: u8 = 54;
    pub(super) const WANTED: u8 = 55;
    pub(super) const MAX_SIZE: u8 = 57;
    pub(super) const RENEWAL_TIME: u8 = 58;
    pub(super) const REBINDING_TIME: u8 = 59;
    pub(super) const CLIENT: u8 = 61;
    pub(super) const CLASSLESS_ROUTES: u8 = 121;
    pub(super) const END: u8 = 255;
}

/// The type of a message (RFC 2132 §9.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the RFC")]
pub enum Kind {
    Discover = 1,
    Offer = 2,
    Request = 3,
    Decline = 4,
    Ack = 5,
    Nak = 6,
    Release = 7,
}

/// A message of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientMessage<'c> {
    /// Its type.
    pub kind: Kind,
    /// Transaction id.
    pub transaction: u32,
    /// Since when the client tries, in seconds.
    pub seconds: u16,
    /// The client's hardware address.
    pub mac: MacAddr,
    /// The client identifier: 2 to 255 bytes (RFC 2132 §9.14).
    pub identifier: &'c [u8],
    /// The host name option, at most 63 bytes.
    pub host_name: Option<&'c str>,
    /// The address that the client has; unspecified if none.
    pub own: Ipv4Addr,
    /// The address that it wants.
    pub requested: Option<Ipv4Addr>,
    /// The server whose offer it takes, or to which it returns the address.
    pub server: Option<Ipv4Addr>,
}

impl ClientMessage<'_> {
    /// The payload of its UDP datagram.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[0] = REQUEST;
        bytes[1] = ETHERNET;
        bytes[2] = 6;
        bytes[4..8].copy_from_slice(&self.transaction.to_be_bytes());
        bytes[8..10].copy_from_slice(&self.seconds.to_be_bytes());
        // Without an address the kernel takes no unicast. To what gives an address back nobody answers.
        let is_last = matches!(self.kind, Kind::Decline | Kind::Release);
        if self.own.is_unspecified() && !is_last {
            bytes[10..12].copy_from_slice(&BROADCAST.to_be_bytes());
        }
        bytes[12..16].copy_from_slice(&self.own.octets());
        bytes[28..34].copy_from_slice(&self.mac.octets());
        bytes.extend(COOKIE);
        let mut add = |code: u8, value: &[u8]| {
            if let Ok(length) = u8::try_from(value.len()) {
                bytes.extend([code, length]);
                bytes.extend(value);
            }
        };
        add(option::MESSAGE_TYPE, &[self.kind as u8]);
        add(option::CLIENT, self.identifier);
        if let Some(address) = self.requested {
            add(option::REQUESTED_ADDRESS, &address.octets());
        }
        if let Some(server) = self.server {
            add(option::SERVER, &server.octets());
        }
        if !is_last {
            if let Some(name) = self.host_name {
                add(option::HOST_NAME, name.as_bytes());
            }
            add(option::MAX_SIZE, &1500u16.to_be_bytes());
            // Classless routes come before routers (RFC 3442).
            let wanted = [
                option::SUBNET_MASK,
                option::CLASSLESS_ROUTES,
                option::ROUTER,
                option::LEASE_TIME,
                option::RENEWAL_TIME,
                option::REBINDING_TIME,
            ];
            add(option::WANTED, &wanted);
        }
        bytes.push(option::END);
        bytes.resize(bytes.len().max(SHORTEST), 0);
        bytes
    }
}

/// A route that a server gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeasedRoute {
    /// The destination, with host bits clear.
    pub destination: Ipv4Net,
    /// The next hop; unspecified: on the link.
    pub gateway: Ipv4Addr,
}

/// What a client uses of a server's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerMessage {
    /// Its type.
    pub kind: Kind,
    /// Transaction id.
    pub transaction: u32,
    /// Whom it is for.
    pub mac: MacAddr,
    /// The address that it gives.
    pub address: Ipv4Addr,
    /// The server's identifier.
    pub server: Option<Ipv4Addr>,
    /// Length of the network's prefix, 1 to 32.
    pub prefix: Option<u8>,
    /// How long the address is the client's, in seconds; `u32::MAX`: for ever.
    pub lifetime: Option<u32>,
    /// When to ask this server for more, in seconds.
    pub renewal: Option<u32>,
    /// When to ask any server, in seconds.
    pub rebinding: Option<u32>,
    /// The routes, that of the router among them, each of a sensible destination.
    pub routes: Vec<LeasedRoute>,
}

impl ServerMessage {
    /// Parses the payload of a UDP datagram. `None`: it is no message of a server to a client on
    /// Ethernet, or contradicts itself.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..HEADER)?;
        if header[..3] != [REPLY, ETHERNET, 6] || bytes.get(HEADER..HEADER + 4)? != COOKIE {
            return None;
        }
        let options = Options::parse(header, &bytes[HEADER + 4..])?;
        let kind = match options.get(option::MESSAGE_TYPE)? {
            [2] => Kind::Offer,
            [5] => Kind::Ack,
            [6] => Kind::Nak,
            _ => return None,
        };
        let number = |at: usize| {
            u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let routes = match options.get(option::CLASSLESS_ROUTES) {
            Some(value) => classless_routes(value)?,
            None => options.first_address(option::ROUTER).map(default_route).into_iter().collect(),
        };
        Some(ServerMessage {
            kind,
            transaction: number(4),
            mac: MacAddr::from_slice(&header[28..34])?,
            address: number(16).into(),
            server: options.first_address(option::SERVER),
            prefix: options.first_address(option::SUBNET_MASK).and_then(prefix_length),
            lifetime: options.number(option::LEASE_TIME),
            renewal: options.number(option::RENEWAL_TIME),
            rebinding: options.number(option::REBINDING_TIME),
            routes: routes.into_iter().filter(is_sensible).take(MAX_ROUTES).collect(),
        })
    }
}

/// The options by their code. Several of one code are one long one (RFC 3396).
struct Options(BTreeMap<u8, Vec<u8>>);

impl Options {
    /// Those of the options field, and of the fields of file and server name where the message says
    /// so (RFC 2132 §9.3).
    fn parse(header: &[u8], field: &[u8]) -> Option<Self> {
        let mut all = Options(BTreeMap::new());
        all.add(field)?;
        let overload = match all.get(option::OVERLOAD) {
            Some([bits]) => *bits,
            _ => 0,
        };
        if overload & 1 != 0 {
            all.add(&header[108..236])?;
        }
        if overload & 2 != 0 {
            all.add(&header[44..108])?;
        }
        Some(all)
    }

    fn add(&mut self, mut field: &[u8]) -> Option<()> {
        loop {
            match field {
                [] | [option::END, ..] => return Some(()),
                [0, rest @ ..] => field = rest,
                [code, length, rest @ ..] => {
                    let (value, behind) = rest.split_at_checked(usize::from(*length))?;
                    self.0.entry(*code).or_default().extend(value);
                    field = behind;
                }
                [_] => return None,
            }
        }
    }

    fn get(&self, code: u8) -> Option<&[u8]> {
        self.0.get(&code).map(Vec::as_slice)
    }

    fn number(&self, code: u8) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(code)?.try_into().ok()?))
    }

    fn first_address(&self, code: u8) -> Option<Ipv4Addr> {
        let octets: [u8; 4] = self.get(code)?.get(..4)?.try_into().ok()?;
        Some(octets.into())
    }
}

/// `None`: the bits of the mask are not in one piece, or there is none.
fn prefix_length(mask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(mask);
    (bits != 0 && bits.leading_ones() + bits.trailing_zeros() == 32)
        .then_some(bits.leading_ones() as u8)
}

fn default_route(gateway: Ipv4Addr) -> LeasedRoute {
    LeasedRoute { destination: Ipv4Net::default(), gateway }
}

/// RFC 3442: the length of the prefix, as many bytes of the destination as it needs, the router.
fn classless_routes(mut value: &[u8]) -> Option<Vec<LeasedRoute>> {
    let mut routes = Vec::new();
    while let [length, rest @ ..] = value {
        let (significant, rest) = rest.split_at_checked(usize::from(*length).div_ceil(8))?;
        let (gateway, rest) = rest.split_at_checked(4)?;
        let mut octets = [0; 4];
        octets.get_mut(..significant.len())?.copy_from_slice(significant);
        let destination = Ipv4Net::new(octets.into(), *length).ok()?.trunc();
        let gateway: [u8; 4] = gateway.try_into().ok()?;
        routes.push(LeasedRoute { destination, gateway: gateway.into() });
        value = rest;
    }
    Some(routes)
}

/// Whether a server may give such a route.
fn is_sensible(route: &LeasedRoute) -> bool {
    let destination = route.destination.addr();
    let default = route.destination.prefix_len() == 0;
    let somewhere = !destination.is_multicast()
        && !destination.is_loopback()
        && destination.octets()[0] != 0
        && destination.octets()[0] < 240;
    (default || somewhere)
        && (is_host(route.gateway) || (route.gateway.is_unspecified() && !default))
}

/// Whether a host can have an address.
pub fn is_host(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    (1..224).contains(&first) && first != 127
}

#[cfg(any(test, feature = "fuzzing"))]
/// Asserts what must be true of every answer, whatever the bytes.
///
/// # Panics
/// When it is not.
pub fn check_answer(bytes: &[u8]) {
    let Some(message) = ServerMessage::parse(bytes) else { return };
    assert!(message.routes.len() <= MAX_ROUTES);
    assert!(message.prefix.is_none_or(|prefix| (1..=32).contains(&prefix)));
    for route in message.routes {
        assert_eq!(route.destination, route.destination.trunc());
        assert!(!route.destination.addr().is_multicast());
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mac() -> MacAddr {
        "02:00:00:00:00:07".parse().unwrap()
    }

    /// A server's message with these options behind its type.
    pub(in crate::dhcp) fn answer(
        kind: Kind,
        transaction: u32,
        mac: MacAddr,
        address: Ipv4Addr,
        options: &[(u8, &[u8])],
    ) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[..3].copy_from_slice(&[REPLY, ETHERNET, 6]);
        bytes[4..8].copy_from_slice(&transaction.to_be_bytes());
        bytes[16..20].copy_from_slice(&address.octets());
        bytes[28..34].copy_from_slice(&mac.octets());
        bytes.extend(COOKIE);
        bytes.extend([option::MESSAGE_TYPE, 1, kind as u8]);
        for (code, value) in options {
            bytes.extend([*code, value.len() as u8]);
            bytes.extend(*value);
        }
        bytes.push(option::END);
        bytes
    }

    #[test]
    fn an_answer_is_read_with_its_routes() {
        let address = Ipv4Addr::new(192, 0, 2, 7);
        let options: &[(u8, &[u8])] = &[
            (54, &[192, 0, 2, 1]),
            (1, &[255, 255, 255, 0]),
            (3, &[192, 0, 2, 254]),
            (51, &120u32.to_be_bytes()),
            (58, &30u32.to_be_bytes()),
            // Two parts of one option, and a route of multicast, which is not taken.
            (121, &[16, 10, 1, 192, 0]),
            (121, &[2, 3, 0, 192, 0, 2, 2, 4, 224, 192, 0, 2, 3, 24, 10, 9, 8, 0, 0, 0, 0]),
        ];
        let message = ServerMessage::parse(&answer(Kind::Ack, 9, mac(), address, options)).unwrap();
        let route = |net: &str, gateway: [u8; 4]| LeasedRoute {
            destination: net.parse().unwrap(),
            gateway: gateway.into(),
        };
        assert_eq!((message.kind, message.transaction), (Kind::Ack, 9));
        assert_eq!((message.address, message.prefix), (address, Some(24)));
        assert_eq!(
            (message.lifetime, message.renewal, message.rebinding),
            (Some(120), Some(30), None)
        );
        // Where there are classless routes, the router does not count (RFC 3442).
        assert_eq!(
            message.routes,
            [
                route("10.1.0.0/16", [192, 0, 2, 3]),
                route("0.0.0.0/0", [192, 0, 2, 2]),
                route("10.9.8.0/24", [0; 4]),
            ]
        );
        let plain = answer(Kind::Offer, 9, mac(), address, &options[..3]);
        assert_eq!(
            ServerMessage::parse(&plain).unwrap().routes,
            [route("0.0.0.0/0", [192, 0, 2, 254])]
        );
    }

    #[test]
    fn options_may_stand_in_the_fields_of_file_and_name() {
        let mut bytes = answer(Kind::Offer, 1, mac(), [192, 0, 2, 7].into(), &[(52, &[3])]);
        bytes[108..115].copy_from_slice(&[1, 4, 255, 255, 0, 0, 255]);
        bytes[44..51].copy_from_slice(&[54, 4, 192, 0, 2, 1, 255]);
        let message = ServerMessage::parse(&bytes).unwrap();
        assert_eq!((message.prefix, message.server), (Some(16), Some([192, 0, 2, 1].into())));
    }

    #[test]
    fn what_is_no_answer_of_a_server_is_none() {
        let good = answer(Kind::Ack, 1, mac(), [192, 0, 2, 7].into(), &[]);
        assert!(ServerMessage::parse(&good).is_some());
        for (at, value) in [(0, 1), (1, 6), (2, 8), (HEADER, 0), (HEADER + 6, 4)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(ServerMessage::parse(&bad), None, "byte {at}");
        }
        for length in 0..good.len() - 4 {
            assert_eq!(ServerMessage::parse(&good[..length]), None, "{length} bytes");
        }
        assert_eq!(prefix_length([255, 0, 255, 0].into()), None);
    }

    proptest! {
        #[test]
        fn no_answer_is_a_surprise(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            options in proptest::collection::vec((1u8..130, proptest::collection::vec(any::<u8>(), 0..40)), 0..12),
        ) {
            check_answer(&bytes);
            let options: Vec<_> = options.iter().map(|(code, value)| (*code, value.as_slice())).collect();
            let address = Ipv4Addr::new(192, 0, 2, 7);
            check_answer(&answer(Kind::Ack, 5, mac(), address, &options));
        }
    }
}
