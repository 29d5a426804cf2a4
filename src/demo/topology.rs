//! The facility: namespaces without a name on disk, and the links between them.
//!
//! ```text
//! src                 sw                           host
//! eth0 ------------ src-port  bridge "lan"  host-port ------------ lan0
//! 10.77.0.1           querier 10.77.0.254                          10.77.0.2
//! or fd77::1          fd77::fe                                     fd77::2
//! ```
//!
//! A namespace lives as long as its descriptor, its processes and its sockets, and a veth pair
//! goes with either end: nothing has to be taken down, however the program ends.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind,
    InfoVeth, LinkAttribute, LinkInfo, LinkMessage, State,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::demo::family::Family;
use crate::net::messages;
use crate::net::messages::{Link, Macvlan};
use crate::net::netlink::{NLM_F_CREATE, NLM_F_EXCL, NetlinkError, RouteSocket};
use crate::net::netns::NetNs;
use crate::primitives::MacAddr;
use crate::primitives::MacvlanMode;

/// The time between two general queries of the switch.
pub(super) const QUERY_INTERVAL: Duration = Duration::from_secs(6);
/// The time hosts have to answer one.
pub(super) const RESPONSE_INTERVAL: Duration = Duration::from_secs(1);
/// The LAN interface of the container host, in its namespace.
pub(super) const PARENT: &str = "lan0";
/// The interface of the sender, in its namespace.
pub(super) const SOURCE_LINK: &str = "eth0";
/// The switch port of the container host.
pub(super) const HOST_PORT: &str = "host-port";

const SOURCE_PORT: &str = "src-port";
const BRIDGE: &str = "lan";

/// Why the facility cannot be built.
#[derive(Debug, thiserror::Error)]
pub(super) enum BuildError {
    #[error("cannot make a network namespace (this needs root)")]
    Namespace(#[source] io::Error),
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
    #[error("cannot {what}")]
    Link { what: String, source: NetlinkError },
}

/// The facility.
pub(super) struct Facility {
    /// The switch.
    pub(super) switch: NetNs,
    /// The container host.
    pub(super) host: NetNs,
    /// The sender.
    pub(super) source: NetNs,
    /// Hardware address of the host's LAN interface.
    pub(super) host_mac: MacAddr,
}

impl Facility {
    /// Builds it and sets all links up; they carry traffic a moment later.
    pub(super) fn build(family: Family) -> Result<Self, BuildError> {
        let namespace = || NetNs::create().map_err(BuildError::Namespace);
        let (switch, host, source) = (namespace()?, namespace()?, namespace()?);

        let mut sw = Route::open(&switch)?;
        sw.add("make the switch", bridge())?;
        let lan = sw.link(BRIDGE)?.index;
        sw.set("make the switch a querier", querier(lan))?;
        sw.address(lan, family.address(254))?;
        sw.set("set the switch up", messages::set_up(lan))?;
        for (port, peer, namespace) in
            [(HOST_PORT, PARENT, &host), (SOURCE_PORT, SOURCE_LINK, &source)]
        {
            sw.add(&format!("make the link of {port}"), veth(port, peer, namespace))?;
            let index = sw.link(port)?.index;
            let mut plug = LinkMessage::default();
            plug.header.index = index;
            plug.attributes.push(LinkAttribute::Controller(lan));
            sw.set(&format!("plug {port} in"), RouteNetlinkMessage::SetLink(plug))?;
            sw.set(&format!("set {port} up"), messages::set_up(index))?;
        }
        let port = sw.link(HOST_PORT)?.index;
        sw.set("configure the host's port", media_port(port))?;

        let mut route = Route::open(&source)?;
        let index = route.link(SOURCE_LINK)?.index;
        route.address(index, family.address(1))?;
        route.set("set the sender's link up", messages::set_up(index))?;

        let mut route = Route::open(&host)?;
        let lan0 = route.link(PARENT)?;
        route.address(lan0.index, family.address(2))?;
        route.set("set lan0 up", messages::set_up(lan0.index))?;
        let host_mac = lan0.mac.ok_or_else(|| garbled("lan0 has no hardware address"))?;
        Ok(Facility { switch, host, source, host_mac })
    }

    /// A namespace with a plain macvlan child of the host's LAN interface in it, `mc0`: what
    /// people use today.
    pub(super) fn bare_macvlan(&self, address: IpNet) -> Result<NetNs, BuildError> {
        let namespace = NetNs::create().map_err(BuildError::Namespace)?;
        let mut host = Route::open(&self.host)?;
        let parent = host.link(PARENT)?.index;
        // The kernel's defaults for the broadcast queue (MACVLAN_DEFAULT_BC_QUEUE_LEN and
        // bc_cutoff in drivers/net/macvlan.c).
        let child = Macvlan {
            name: "mc0",
            parent,
            mode: MacvlanMode::Bridge,
            mac: None,
            mtu: None,
            bcqueuelen: 1000,
            bclim: 1,
        };
        host.add("make a macvlan", messages::new_macvlan(&child, namespace.as_fd()))?;
        let mut route = Route::open(&namespace)?;
        let index = route.link("mc0")?.index;
        route.address(index, address)?;
        route.set("set the macvlan up", messages::set_up(index))?;
        Ok(namespace)
    }
}

/// Waits until a link of `namespace` carries traffic: a cable comes up some time after both
/// of its ends are set up.
pub(super) fn wait_until_up(
    namespace: &NetNs,
    name: &str,
    patience: Duration,
) -> Result<(), BuildError> {
    const RTMGRP_LINK: u32 = 1;
    let news = namespace
        .run(|| -> io::Result<_> {
            let mut socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_ROUTE)?;
            socket.bind(&netlink_sys::SocketAddr::new(0, RTMGRP_LINK))?;
            Ok(socket)
        })
        .flatten()
        .map_err(BuildError::Socket)?;
    let mut route = Route::open(namespace)?;
    let deadline = Instant::now() + patience;
    loop {
        if route.is_up(name)? {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        let timeout = PollTimeout::from(u16::try_from(left).unwrap_or(u16::MAX));
        // SAFETY: the descriptor is open as long as `news` is, which outlives the call.
        let fd = unsafe { BorrowedFd::borrow_raw(news.as_raw_fd()) };
        if matches!(poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout), Ok(0)) {
            return Err(garbled(&format!("{name} does not come up within {patience:?}")));
        }
        news.recv_from_full().map_err(BuildError::Socket)?;
    }
}

/// A netlink socket whose errors say what was tried.
struct Route(RouteSocket);

impl Route {
    fn open(namespace: &NetNs) -> Result<Self, BuildError> {
        RouteSocket::open_in(namespace).map(Route).map_err(BuildError::Socket)
    }

    fn set(&mut self, what: &str, message: RouteNetlinkMessage) -> Result<(), BuildError> {
        self.request(what, message, 0)
    }

    fn add(&mut self, what: &str, message: RouteNetlinkMessage) -> Result<(), BuildError> {
        self.request(what, message, NLM_F_CREATE | NLM_F_EXCL)
    }

    fn address(&mut self, index: u32, address: IpNet) -> Result<(), BuildError> {
        let message = messages::new_address(index, address);
        self.add(&format!("add the address {address}"), message)
    }

    fn link(&mut self, name: &str) -> Result<Link, BuildError> {
        let failed = |source| BuildError::Link { what: format!("find the link {name}"), source };
        let answer = self.0.get(messages::get_link(name)).map_err(failed)?;
        messages::read_link(answer).ok_or_else(|| garbled("the answer is not a link"))
    }

    /// Whether the link carries traffic.
    fn is_up(&mut self, name: &str) -> Result<bool, BuildError> {
        let failed = |source| BuildError::Link { what: format!("find the link {name}"), source };
        let answer = self.0.get(messages::get_link(name)).map_err(failed)?;
        let RouteNetlinkMessage::NewLink(link) = answer else { return Ok(false) };
        Ok(link.attributes.contains(&LinkAttribute::OperState(State::Up)))
    }

    fn request(
        &mut self,
        what: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), BuildError> {
        let failed = |source| BuildError::Link { what: what.to_owned(), source };
        self.0.request(message, flags).map_err(failed)
    }
}

fn garbled(text: &str) -> BuildError {
    let source = NetlinkError { errno: 0, message: Some(text.into()) };
    BuildError::Link { what: "read a link".into(), source }
}

/// A snooping switch that speaks IGMPv2 and MLDv1.
fn bridge() -> RouteNetlinkMessage {
    // The kernel takes USER_HZ, hundredths of a second.
    let ticks = |time: Duration| time.as_millis() as u64 / 10;
    let options = vec![
        InfoBridge::StpState(BridgeStpState::Disabled),
        InfoBridge::MulticastSnooping(true),
        InfoBridge::MulticastIgmpVersion(2),
        InfoBridge::MulticastMldVersion(1),
        InfoBridge::MulticastQueryInterval(ticks(QUERY_INTERVAL)),
        InfoBridge::MulticastQueryResponseInterval(ticks(RESPONSE_INTERVAL)),
        InfoBridge::MulticastStartupQueryInterval(ticks(RESPONSE_INTERVAL)),
        // Queries from 0.0.0.0 would not count as a querier's (RFC 4541 §2.1.1).
        InfoBridge::MulticastQueryUseIfaddr(true),
    ];
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(BRIDGE.into()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(options)),
        ]),
    ];
    RouteNetlinkMessage::NewLink(link)
}

/// Makes it a querier. In one request with the intervals it would be handled before them
/// (`br_changelink` in net/bridge/br_netlink.c), and the switch would not trust itself as a
/// querier for the ten seconds of the default response interval.
fn querier(index: u32) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Bridge),
        LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::MulticastQuerier(true)])),
    ]));
    RouteNetlinkMessage::NewLink(link)
}

/// A cable from `port` here to `peer` in another namespace.
fn veth(port: &str, peer: &str, namespace: &NetNs) -> RouteNetlinkMessage {
    let mut other = LinkMessage::default();
    other.attributes = vec![
        LinkAttribute::IfName(peer.into()),
        LinkAttribute::NetNsFd(namespace.as_fd().as_raw_fd()),
    ];
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(port.into()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other))),
        ]),
    ];
    RouteNetlinkMessage::NewLink(link)
}

/// A port as media networks set it: immediate leave, and no group that nobody reported.
fn media_port(index: u32) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(vec![
            InfoBridgePort::FastLeave(true),
            InfoBridgePort::MulticastFlood(false),
        ])),
    ]));
    RouteNetlinkMessage::NewLink(link)
}
