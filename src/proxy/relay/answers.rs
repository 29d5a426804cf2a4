//! Unicast answers of the LAN to what a container has sent: their sockets, and who may answer.

use ipnet::IpNet;

use crate::proxy::relay::family::Relayed;

/// A unicast datagram to a port of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer<A> {
    /// Who sent it.
    pub(super) from: (A, u16),
    /// Index of the host's interface where it has arrived.
    pub(super) interface: u32,
    /// The container's address and port.
    pub(super) to: (A, u16),
    /// Bytes of the buffer that were filled.
    pub(super) length: usize,
    /// Whether a packet of the container from this port may have left the LAN.
    pub(super) reaches_far: bool,
}

/// Where the container's packets were heard.
#[derive(Debug)]
pub(super) struct Neighbourhood<A> {
    /// Index of the upstream interface.
    pub(super) upstream: u32,
    /// All addresses of the host.
    pub(super) host: Vec<A>,
    /// Subnets of the upstream interface.
    pub(super) lan: Vec<IpNet>,
    /// Subnets of the container's interface.
    pub(super) container: Vec<IpNet>,
}

impl<A: Relayed> Neighbourhood<A> {
    /// Nothing is known of it except the index of the upstream interface.
    pub(super) fn of(upstream: u32) -> Self {
        Neighbourhood { upstream, host: Vec::new(), lan: Vec::new(), container: Vec::new() }
    }

    /// Whether the sender of an answer can have heard what the container has sent. On the LAN that
    /// is each station of the link, and a station behind a router where routers forward the
    /// container's packets. On the host it is the host itself, and a container of the same network.
    /// A datagram from another network of the host is no answer: it would pass the engine's
    /// isolation of networks.
    pub(super) fn has_heard(&self, answer: &Answer<A>) -> bool {
        let (from, _) = answer.from;
        let address = from.into();
        let is_in = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&address));
        // The kernel takes no packet with an address of the host from a network.
        if self.host.contains(&from) {
            return true;
        }
        if answer.interface == self.upstream {
            return answer.reaches_far || is_in(&self.lan) || A::SELF_ASSIGNED.contains(&address);
        }
        is_in(&self.container)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};

    use super::*;

    const UPSTREAM: u32 = 7;
    const BRIDGE: u32 = 9;

    fn neighbourhood() -> Neighbourhood<Ipv4Addr> {
        let net = |text: &str| text.parse().unwrap();
        Neighbourhood {
            upstream: UPSTREAM,
            host: vec![Ipv4Addr::new(10, 0, 0, 9), Ipv4Addr::new(172, 18, 0, 1)],
            lan: vec![net("10.0.0.9/24")],
            container: vec![net("172.17.0.2/16")],
        }
    }

    fn answer(from: [u8; 4], interface: u32, reaches_far: bool) -> Answer<Ipv4Addr> {
        let (from, to) = ((from.into(), 1900), (Ipv4Addr::new(172, 17, 0, 2), 40_000));
        Answer { from, interface, to, length: 0, reaches_far }
    }

    #[test]
    fn who_cannot_have_heard_the_question_does_not_answer() {
        for (from, interface, near, far) in [
            ([10, 0, 0, 5], UPSTREAM, true, true),
            ([169, 254, 3, 4], UPSTREAM, true, true),
            // Behind a router, or on the internet.
            ([192, 0, 2, 5], UPSTREAM, false, true),
            // The host, a container of the same network, and one of another.
            ([10, 0, 0, 9], UPSTREAM, true, true),
            ([172, 18, 0, 1], BRIDGE, true, true),
            ([172, 17, 0, 3], BRIDGE, true, true),
            ([172, 18, 0, 3], BRIDGE, false, false),
        ] {
            let heard =
                [false, true].map(|far| neighbourhood().has_heard(&answer(from, interface, far)));
            assert_eq!(heard, [near, far], "{from:?} on {interface}");
        }
    }

    #[test]
    fn a_station_of_the_link_answers_from_its_link_local_address() {
        let net = |text: &str| text.parse().unwrap();
        let neighbourhood = Neighbourhood::<Ipv6Addr> {
            upstream: UPSTREAM,
            host: vec!["fd00::9".parse().unwrap()],
            lan: vec![net("fd00::9/64")],
            container: vec![net("fd01::2/64")],
        };
        for (from, interface, expected) in [
            ("fe80::5", UPSTREAM, true),
            ("fd00::5", UPSTREAM, true),
            ("2001:db8::5", UPSTREAM, false),
            ("fd00::9", BRIDGE, true),
            ("fd01::3", BRIDGE, true),
            ("fd02::3", BRIDGE, false),
        ] {
            let from: (Ipv6Addr, u16) = (from.parse().unwrap(), 1900);
            let to = ("fd01::2".parse().unwrap(), 40_000);
            let answer = Answer { from, interface, to, length: 0, reaches_far: false };
            assert_eq!(neighbourhood.has_heard(&answer), expected, "{from:?} on {interface}");
        }
    }

    #[test]
    fn a_datagram_comes_whole_or_not_at_all() {
        is_whole::<Ipv4Addr>(Ipv4Addr::LOCALHOST);
        is_whole::<Ipv6Addr>(Ipv6Addr::LOCALHOST);
    }

    fn is_whole<A: Relayed>(host: A) {
        let socket = A::open_answers(host, 0).unwrap();
        let sender = UdpSocket::bind((host.into(), 0)).unwrap();
        let payload = vec![7; 65_507];
        let mut buffer = vec![0; 65_507];
        for short in [0, 1] {
            let port = socket.local_addr().unwrap().port();
            sender.send_to(&payload, (host.into(), port)).unwrap();
            let room = buffer.len() - short;
            let arrival = A::receive_answer(&socket, &mut buffer[..room]);
            match short {
                0 => {
                    let arrival = arrival.unwrap_or_else(|error| panic!("{error}"));
                    assert_eq!((arrival.length, arrival.interface), (65_507, 1));
                    assert_eq!(arrival.from.0, host);
                }
                _ => assert_eq!(arrival.err().unwrap().raw_os_error(), Some(libc::EMSGSIZE)),
            }
        }
    }
}
