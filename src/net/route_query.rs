//! Questions about one link or one route of a namespace: NETLINK_ROUTE, written and read by hand.
//!
//! A proxy asks nothing else. The parser of [`crate::net::netlink`] knows every attribute of every
//! message. In a proxy that was 0.45 MB of code, a quarter of its memory, and 9 KiB more of pages that
//! each proxy has of its own.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd};

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::net::nfnetlink::{AttributeIter, messages, receive};

const NLMSG_HEADER: usize = 16;
const NLMSG_ERROR: u16 = libc::NLMSG_ERROR as u16;
/// Length of `struct ifinfomsg`.
const IFINFOMSG: usize = 16;
/// Length of `struct rtmsg`.
const RTMSG: usize = 12;
const IFLA_ADDRESS: u16 = 1;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_STATS64: u16 = 23;
/// Offset of `rx_dropped` in `struct rtnl_link_stats64` (linux/if_link.h).
const RX_DROPPED: usize = 6 * 8;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
/// `struct rtgenmsg`, padded, and its attributes (linux/net_namespace.h).
const RTGENMSG: usize = 4;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
/// `struct netconfmsg`, padded, and its attributes (linux/netconf.h).
const NETCONFMSG: usize = 4;
const RTM_NEWNETCONF: u16 = 80;
const RTM_GETNETCONF: u16 = 82;
const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_RP_FILTER: u16 = 3;
/// For all interfaces: -1.
const NETCONFA_IFINDEX_ALL: u32 = u32::MAX;
/// Longest answer that is read, in bytes. A link without virtual functions, which the kernel does not
/// show unless asked, takes some 2 KiB.
const ANSWER: usize = 8192;

/// What a proxy has to know of a link.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkFacts {
    /// Index of its parent link, or of a veth link's other end.
    pub(crate) parent: Option<u32>,
    /// Whether it is one end of a veth link.
    pub(crate) is_veth: bool,
    /// Index of the bridge, bond or team whose port it is. A VRF is none of these.
    pub(crate) port_of: Option<u32>,
    /// Number of the network namespace that `parent` is in, as the asked namespace knows it; `None`: in
    /// the asked namespace itself.
    pub(crate) parent_namespace: Option<i32>,
    /// Hardware address, if it is one of six octets.
    pub(crate) mac: Option<[u8; 6]>,
    /// MTU in bytes.
    pub(crate) mtu: u32,
}

/// A socket that asks in one network namespace.
pub(crate) struct RouteQuery {
    socket: Socket,
}

impl RouteQuery {
    /// Opens a socket in the caller's namespace.
    ///
    /// # Errors
    /// Those of socket(2), bind(2) and connect(2).
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(RouteQuery { socket })
    }

    /// The link of this index.
    ///
    /// # Errors
    /// The kernel's, such as `ENODEV`; `ENOMSG` when the answer is not understood.
    pub(crate) fn link(&self, index: u32) -> io::Result<LinkFacts> {
        let mut body = [0; IFINFOMSG];
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        self.ask(libc::RTM_GETLINK, libc::RTM_NEWLINK, &body, |payload| {
            Some(link_facts(AttributeIter::new(payload.get(IFINFOMSG..)?)))
        })
    }

    /// The number by which the asked namespace knows another one; `None`: it does not know it.
    ///
    /// # Errors
    /// The kernel's; `ENOMSG` when the answer is not understood.
    pub(crate) fn namespace_number(&self, namespace: impl AsFd) -> io::Result<Option<i32>> {
        let mut body = [0; RTGENMSG + 8];
        let attribute = &mut body[RTGENMSG..];
        attribute[..2].copy_from_slice(&8u16.to_ne_bytes());
        attribute[2..4].copy_from_slice(&NETNSA_FD.to_ne_bytes());
        let descriptor = namespace.as_fd().as_raw_fd();
        attribute[4..].copy_from_slice(&descriptor.to_ne_bytes());
        self.ask(libc::RTM_GETNSID, libc::RTM_NEWNSID, &body, |payload| {
            let mut attributes = AttributeIter::new(payload.get(RTGENMSG..)?);
            let (_, value) = attributes.find(|(kind, _)| *kind == NETNSA_NSID)?;
            Some(number(value).map(u32::cast_signed).filter(|number| *number >= 0))
        })
    }

    /// Frames that the link of this name has received and dropped.
    ///
    /// # Errors
    /// The kernel's, such as `ENODEV`; `ENOMSG` when the answer is not understood.
    pub(crate) fn dropped(&self, name: &str) -> io::Result<u64> {
        let mut body = [0; IFINFOMSG].to_vec();
        let length = (4 + name.len() + 1) as u16;
        body.extend_from_slice(&length.to_ne_bytes());
        body.extend_from_slice(&libc::IFLA_IFNAME.to_ne_bytes());
        body.extend_from_slice(name.as_bytes());
        // The name ends with a zero.
        body.push(0);
        body.resize(body.len().next_multiple_of(4), 0);
        self.ask(libc::RTM_GETLINK, libc::RTM_NEWLINK, &body, |payload| {
            let mut attributes = AttributeIter::new(payload.get(IFINFOMSG..)?);
            let (_, stats) = attributes.find(|(kind, _)| *kind == IFLA_STATS64)?;
            Some(u64::from_ne_bytes(*stats.get(RX_DROPPED..)?.first_chunk()?))
        })
    }

    /// `rp_filter` of an interface.
    ///
    /// # Errors
    /// The kernel's, such as `EINVAL` where there is no such interface; `ENOMSG` when the answer is not
    /// understood.
    pub(crate) fn reverse_path_filter(&self, index: u32) -> io::Result<u32> {
        self.setting(index, NETCONFA_RP_FILTER)
    }

    /// `rp_filter` that holds for all interfaces beside their own.
    ///
    /// # Errors
    /// As [`RouteQuery::reverse_path_filter`].
    pub(crate) fn reverse_path_filter_of_all(&self) -> io::Result<u32> {
        self.setting(NETCONFA_IFINDEX_ALL, NETCONFA_RP_FILTER)
    }

    /// A setting of an interface for IPv4.
    fn setting(&self, index: u32, setting: u16) -> io::Result<u32> {
        let mut body = [0; NETCONFMSG + 8];
        body[0] = libc::AF_INET as u8;
        let attribute = &mut body[NETCONFMSG..];
        attribute[..2].copy_from_slice(&8u16.to_ne_bytes());
        attribute[2..4].copy_from_slice(&NETCONFA_IFINDEX.to_ne_bytes());
        attribute[4..].copy_from_slice(&index.to_ne_bytes());
        self.ask(RTM_GETNETCONF, RTM_NEWNETCONF, &body, |payload| {
            let mut attributes = AttributeIter::new(payload.get(NETCONFMSG..)?);
            attributes.find(|(kind, _)| *kind == setting).and_then(|(_, value)| number(value))
        })
    }

    /// Index of the interface by which packets to this address leave; `None` where the route has none.
    ///
    /// # Errors
    /// The kernel's, such as `ENETUNREACH`; `ENOMSG` when the answer is not understood.
    pub(crate) fn interface_towards(
        &self,
        destination: impl Into<IpAddr>,
    ) -> io::Result<Option<u32>> {
        self.interface(destination.into(), None)
    }

    /// Index of the interface by which packets from an address of the asked namespace to this address
    /// leave; `None` where the route has none.
    ///
    /// # Errors
    /// As [`RouteQuery::interface_towards`].
    pub(crate) fn interface_from(
        &self,
        source: Ipv4Addr,
        destination: Ipv4Addr,
    ) -> io::Result<Option<u32>> {
        self.interface(destination.into(), Some(source.into()))
    }

    fn interface(&self, destination: IpAddr, source: Option<IpAddr>) -> io::Result<Option<u32>> {
        let octets = |address: IpAddr| match address {
            IpAddr::V4(address) => (libc::AF_INET, address.octets().to_vec()),
            IpAddr::V6(address) => (libc::AF_INET6, address.octets().to_vec()),
        };
        let mut body = [0; RTMSG].to_vec();
        let attributes = [(libc::RTA_DST, Some(destination)), (libc::RTA_SRC, source)];
        for (position, (kind, address)) in attributes.into_iter().enumerate() {
            let Some(address) = address else { continue };
            let (family, octets) = octets(address);
            body[0] = family as u8;
            body[1 + position] = octets.len() as u8 * 8;
            body.extend_from_slice(&(4 + octets.len() as u16).to_ne_bytes());
            body.extend_from_slice(&kind.to_ne_bytes());
            body.extend_from_slice(&octets);
        }
        self.ask(libc::RTM_GETROUTE, libc::RTM_NEWROUTE, &body, |payload| {
            let mut attributes = AttributeIter::new(payload.get(RTMSG..)?);
            Some(attributes.find(|(kind, _)| *kind == libc::RTA_OIF).and_then(|(_, v)| number(v)))
        })
    }

    /// Sends a request, and reads the answer of the kind `answer`. The kernel handles a request before
    /// sendto(2) returns, so that the answer is there, and nothing is left of it for the next one.
    fn ask<T>(
        &self,
        request: u16,
        answer: u16,
        body: &[u8],
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> io::Result<T> {
        let mut bytes = [0; NLMSG_HEADER].to_vec();
        bytes.extend_from_slice(body);
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes[4..6].copy_from_slice(&request.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
        self.socket.send(&bytes, 0)?;
        let mut result = Err(libc::ENOMSG);
        let mut buffer = [0; ANSWER];
        while let Some(datagram) = receive(self.socket.as_fd(), &mut buffer)? {
            for message in messages(datagram) {
                if message.kind == answer {
                    result = read(message.payload).ok_or(libc::ENOMSG);
                } else if message.kind == NLMSG_ERROR {
                    let code = number(message.payload.get(..4).unwrap_or(&[])).unwrap_or(0);
                    result = Err(code.cast_signed().wrapping_neg());
                }
            }
        }
        result.map_err(io::Error::from_raw_os_error)
    }
}

fn link_facts(attributes: AttributeIter<'_>) -> LinkFacts {
    let mut place = LinkFacts::default();
    let mut is_in_vrf = false;
    for (kind, value) in attributes {
        match kind {
            IFLA_ADDRESS => place.mac = value.try_into().ok(),
            IFLA_MTU => place.mtu = number(value).unwrap_or(0),
            IFLA_LINK => place.parent = number(value),
            IFLA_LINK_NETNSID => place.parent_namespace = number(value).map(u32::cast_signed),
            IFLA_MASTER => place.port_of = number(value),
            IFLA_LINKINFO => {
                for (kind, value) in AttributeIter::new(value) {
                    match kind {
                        IFLA_INFO_KIND => place.is_veth = text(value) == b"veth",
                        IFLA_INFO_SLAVE_KIND => is_in_vrf = text(value) == b"vrf",
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if is_in_vrf {
        place.port_of = None;
    }
    place
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

/// A string without its final zero.
fn text(value: &[u8]) -> &[u8] {
    value.strip_suffix(&[0]).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::net::netns::NetNs;

    #[test]
    fn a_link_a_missing_link_and_a_missing_route() {
        let query = NetNs::create().unwrap().run(RouteQuery::open).unwrap().unwrap();
        let missing = query.link(77).unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(libc::ENODEV));
        // The loopback interface.
        let expected = LinkFacts { mac: Some([0; 6]), mtu: 65536, ..LinkFacts::default() };
        assert_eq!(query.link(1).unwrap(), expected);
        assert_eq!(query.dropped("lo").unwrap(), 0);
        let missing = query.dropped("a-name-of-15-by").unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(libc::ENODEV));
        assert!(query.reverse_path_filter(1).unwrap() <= 2);
        assert!(query.reverse_path_filter_of_all().unwrap() <= 2);
        assert!(query.reverse_path_filter(77).is_err());
        let unreachable = query.interface_towards(Ipv4Addr::new(239, 1, 1, 1)).unwrap_err();
        assert_eq!(unreachable.raw_os_error(), Some(libc::ENETUNREACH));
        let group = Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 0, 1);
        assert!(!matches!(query.interface_towards(group), Ok(Some(_))));
    }

    #[test]
    fn a_port_of_a_bridge_is_one_and_a_member_of_a_vrf_is_none() {
        let attribute = |kind: u16, value: &[u8]| {
            let mut bytes = [(4 + value.len() as u16).to_ne_bytes(), kind.to_ne_bytes()].concat();
            bytes.extend_from_slice(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let place = |port_kind: &[u8]| {
            let info =
                [attribute(IFLA_INFO_KIND, b"veth\0"), attribute(IFLA_INFO_SLAVE_KIND, port_kind)];
            let link = [
                attribute(IFLA_LINK, &5u32.to_ne_bytes()),
                attribute(IFLA_MASTER, &9u32.to_ne_bytes()),
                attribute(IFLA_LINKINFO, &info.concat()),
            ];
            link_facts(AttributeIter::new(&link.concat()))
        };
        let port_of =
            |port_of| LinkFacts { parent: Some(5), is_veth: true, port_of, ..LinkFacts::default() };
        assert_eq!(place(b"bridge\0"), port_of(Some(9)));
        assert_eq!(place(b"vrf\0"), port_of(None));
    }
}
