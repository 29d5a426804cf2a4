//! Builds and reads rtnetlink messages. Nothing is sent here.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;
use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecUnspec, InfoData, InfoIpVlan, InfoKind, InfoMacVlan, InfoPortKind, InfoVlan,
    IpVlanFlags, IpVlanMode, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
    MacVlanMode,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
    RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::net::devconf::DevConf;
use crate::primitives::MacAddr;
use crate::primitives::{IpvlanFlag, IpvlanMode, MacvlanMode};

/// The properties of a new macvlan child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Macvlan<'a> {
    /// Its name.
    pub name: &'a str,
    /// Index of its parent in the namespace of the requesting socket.
    pub parent: u32,
    /// How siblings reach each other.
    pub mode: MacvlanMode,
    /// Its MAC address; the kernel chooses one when absent.
    pub mac: Option<MacAddr>,
    /// Its MTU; the parent's when absent.
    pub mtu: Option<u32>,
    /// `IFLA_MACVLAN_BC_QUEUE_LEN`, in packets; the largest among the children of a parent is
    /// in force.
    pub bcqueuelen: u32,
    /// `IFLA_MACVLAN_BC_CUTOFF`; kernels before 6.4 ignore it.
    pub bclim: i32,
}

/// Creates a macvlan child, down, straight in the namespace `target`.
pub fn new_macvlan(child: &Macvlan<'_>, target: BorrowedFd<'_>) -> RouteNetlinkMessage {
    let mode = match child.mode {
        MacvlanMode::Bridge => MacVlanMode::Bridge,
        MacvlanMode::Private => MacVlanMode::Private,
        MacvlanMode::Vepa => MacVlanMode::Vepa,
        MacvlanMode::Passthru => MacVlanMode::Passthrough,
    };
    let data = vec![
        InfoMacVlan::Mode(mode),
        InfoMacVlan::BcQueueLen(child.bcqueuelen),
        InfoMacVlan::BcCutoff(child.bclim),
    ];
    let info = (InfoKind::MacVlan, InfoData::MacVlan(data));
    let mut link = new_child(child.name, child.parent, child.mtu, target, info);
    link.attributes.extend(child.mac.map(|mac| LinkAttribute::Address(mac.octets().to_vec())));
    RouteNetlinkMessage::NewLink(link)
}

/// The properties of a new ipvlan child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipvlan<'a> {
    /// Its name.
    pub name: &'a str,
    /// Index of its parent in the namespace of the requesting socket.
    pub parent: u32,
    /// Its mode. The kernel puts all children of the parent in this mode
    /// (`ipvlan_link_new` in drivers/net/ipvlan/ipvlan_main.c).
    pub mode: IpvlanMode,
    /// How siblings reach each other; the kernel sets it for all children too.
    pub flag: IpvlanFlag,
    /// Its MTU; the parent's when absent.
    pub mtu: Option<u32>,
}

/// Creates an ipvlan child, down, straight in the namespace `target`.
pub fn new_ipvlan(child: &Ipvlan<'_>, target: BorrowedFd<'_>) -> RouteNetlinkMessage {
    let mode = match child.mode {
        IpvlanMode::L2 => IpVlanMode::L2,
        IpvlanMode::L3 => IpVlanMode::L3,
        IpvlanMode::L3s => IpVlanMode::L3S,
    };
    let flags = match child.flag {
        IpvlanFlag::Bridge => IpVlanFlags::empty(),
        IpvlanFlag::Private => IpVlanFlags::Private,
        IpvlanFlag::Vepa => IpVlanFlags::Vepa,
    };
    let data = vec![InfoIpVlan::Mode(mode), InfoIpVlan::Flags(flags)];
    let info = (InfoKind::IpVlan, InfoData::IpVlan(data));
    RouteNetlinkMessage::NewLink(new_child(child.name, child.parent, child.mtu, target, info))
}

/// Group of the child links that mcrun makes (`IFLA_GROUP`). The kernel sets the group in the request
/// that creates a link, unlike an alias. So a link of a program that was killed is recognised. The
/// number is "mcru"; groups that people use are small numbers (`/etc/iproute2/group`).
pub const CHILD_GROUP: u32 = 0x6d63_7275;

fn new_child(
    name: &str,
    parent: u32,
    mtu: Option<u32>,
    target: BorrowedFd<'_>,
    (kind, data): (InfoKind, InfoData),
) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Link(parent),
        LinkAttribute::NetNsFd(target.as_raw_fd()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]),
    ];
    link.attributes.extend(mtu.map(LinkAttribute::Mtu));
    link.attributes.push(LinkAttribute::Group(CHILD_GROUP));
    link
}

/// Creates the tagged sub-interface of a link (IEEE 802.1Q), down, in the namespace of the
/// requesting socket.
pub fn new_vlan(name: &str, parent: u32, id: u16) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    let data = InfoData::Vlan(vec![InfoVlan::Id(id)]);
    link.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Link(parent),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vlan), LinkInfo::Data(data)]),
    ];
    RouteNetlinkMessage::NewLink(link)
}

/// Sets the alias of a link that is named, and sets the link up. An alias is for people; the kernel
/// does not use it (`IFLA_IFALIAS`).
pub fn set_alias_and_up(name: &str, alias: &str) -> RouteNetlinkMessage {
    let mut link = with_alias(name, alias);
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(link)
}

/// Sets the alias of a link that is named.
pub fn set_alias(name: &str, alias: &str) -> RouteNetlinkMessage {
    RouteNetlinkMessage::SetLink(with_alias(name, alias))
}

fn with_alias(name: &str, alias: &str) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes =
        vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::IfAlias(alias.to_owned())];
    link
}

/// Asks for one link by name.
pub fn get_link(name: &str) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::IfName(name.to_owned()), without_counters()];
    RouteNetlinkMessage::GetLink(link)
}

/// Asks for one link by index.
pub fn get_link_at(index: u32) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes.push(without_counters());
    RouteNetlinkMessage::GetLink(link)
}

/// Leaves out the counters of an interface, which are a large part of what the kernel tells of a link (Linux
/// 4.4).
fn without_counters() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

/// Asks for all links.
pub fn get_links() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetLink(LinkMessage::default())
}

/// Sets a link up.
pub fn set_up(index: u32) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(link)
}

/// Makes IPv4 settings of an interface (`inet_set_link_af` in net/ipv4/devinet.c).
pub fn set_devconf(index: u32, settings: &[(DevConf, u32)]) -> RouteNetlinkMessage {
    /// `IFLA_INET_CONF` of linux/if_link.h.
    const IFLA_INET_CONF: u16 = 1;
    let settings: Vec<_> = settings
        .iter()
        .map(|(setting, value)| DefaultNla::new(*setting as u16, value.to_ne_bytes().to_vec()))
        .collect();
    let mut bytes = vec![0; settings.as_slice().buffer_len()];
    settings.as_slice().emit(&mut bytes);
    let all = AfSpecInet::Other(DefaultNla::new(IFLA_INET_CONF | NLA_F_NESTED, bytes));
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![all])]));
    RouteNetlinkMessage::SetLink(link)
}

/// Deletes a link.
pub fn delete_link(index: u32) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    RouteNetlinkMessage::DelLink(link)
}

/// Asks for all addresses of all interfaces.
pub fn get_addresses() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetAddress(AddressMessage::default())
}

/// Adds an address to an interface. An IPv6 address is usable at once (`IFA_F_NODAD`): a
/// container that starts cannot wait a second to bind to it. The LAN was asked for it before
/// ([`crate::net::address_probe`]).
pub fn new_address(index: u32, net: IpNet) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = net.prefix_len();
    message.header.family = family(net.addr());
    message.attributes =
        vec![AddressAttribute::Local(net.addr()), AddressAttribute::Address(net.addr())];
    match net {
        IpNet::V4(v4) if v4.prefix_len() < 31 => {
            message.attributes.push(AddressAttribute::Broadcast(v4.broadcast()));
        }
        IpNet::V4(_) => {}
        IpNet::V6(_) => message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad)),
    }
    RouteNetlinkMessage::NewAddress(message)
}

/// Adds an address that is leased for so many seconds, or prolongs it: the kernel takes it away when it
/// is not `valid` any more. `u32::MAX`: for ever.
pub fn leased_address(index: u32, net: IpNet, preferred: u32, valid: u32) -> RouteNetlinkMessage {
    let mut message = new_address(index, net);
    if let RouteNetlinkMessage::NewAddress(address) = &mut message {
        let mut lifetime = CacheInfo::default();
        (lifetime.ifa_preferred, lifetime.ifa_valid) = (preferred, valid);
        address.attributes.push(AddressAttribute::CacheInfo(lifetime));
    }
    message
}

/// Takes an address off an interface.
pub fn delete_address(index: u32, net: IpNet) -> RouteNetlinkMessage {
    match new_address(index, net) {
        RouteNetlinkMessage::NewAddress(address) => RouteNetlinkMessage::DelAddress(address),
        other => other,
    }
}

/// Takes away what [`new_route`] adds.
pub fn delete_route(added: RouteNetlinkMessage) -> RouteNetlinkMessage {
    match added {
        RouteNetlinkMessage::NewRoute(route) => RouteNetlinkMessage::DelRoute(route),
        other => other,
    }
}

/// Adds a route through an interface. A metric of 0 means the kernel's default.
pub fn new_route(
    index: u32,
    destination: IpNet,
    gateway: Option<IpAddr>,
    metric: u32,
) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(destination.addr());
    message.header.destination_prefix_length = destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = match gateway {
        Some(_) => RouteScope::Universe,
        None => RouteScope::Link,
    };
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Oif(index));
    if destination.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(destination.network().into()));
    }
    message.attributes.extend(gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
    if metric > 0 {
        message.attributes.push(RouteAttribute::Priority(metric));
    }
    RouteNetlinkMessage::NewRoute(message)
}

/// 224.0.0.0/4, so that a join on INADDR_ANY picks the interface (`ip_mc_find_dev` in
/// net/ipv4/igmp.c asks the routing table).
pub fn all_multicast() -> IpNet {
    IpNet::V4(ipnet::Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4))
}

fn family(addr: IpAddr) -> AddressFamily {
    match addr {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// A link as netlink shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Ethernet address; none on links of other kinds.
    pub mac: Option<MacAddr>,
    /// Address that the hardware was made with; none on virtual links.
    pub permanent_mac: Option<MacAddr>,
    /// Set up by the administrator (IFF_UP).
    pub up: bool,
    /// Whether the kernel has a carrier on it (IFF_LOWER_UP).
    pub carrier: bool,
    /// IFF_LOOPBACK.
    pub loopback: bool,
    /// Index of the bridge, bond or team whose port it is, and that one's kind.
    pub port_of: Option<(u32, String)>,
    /// Kind of a virtual link, as `ip link` names it.
    pub kind: Option<String>,
    /// Index of the parent link.
    pub parent: Option<u32>,
    /// Network namespace of the parent link, by its number in this link's namespace
    /// (`IFLA_LINK_NETNSID`); none when both are in the same namespace.
    pub parent_namespace: Option<i32>,
    /// Mode and flag of an ipvlan child.
    pub ipvlan: Option<(IpvlanMode, IpvlanFlag)>,
    /// Mode of a macvlan child.
    pub macvlan: Option<MacvlanMode>,
    /// Id of a VLAN link.
    pub vlan: Option<u16>,
    /// Its alias.
    pub alias: Option<String>,
    /// Its group.
    pub group: Option<u32>,
}

/// Reads a link from an answer; `None` when the answer is about something else.
pub fn read_link(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        loopback: message.header.flags.contains(LinkFlags::Loopback),
        ..Link::default()
    };
    let (mut controller, mut port_kind) = (None, None);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Group(group) => link.group = Some(group),
            LinkAttribute::Address(bytes) => link.mac = MacAddr::from_slice(&bytes),
            LinkAttribute::PermAddress(bytes) => link.permanent_mac = MacAddr::from_slice(&bytes),
            LinkAttribute::Controller(index) => controller = Some(index),
            LinkAttribute::Link(index) => link.parent = Some(index),
            LinkAttribute::LinkNetNsId(id) => link.parent_namespace = Some(id),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                        LinkInfo::PortKind(kind) => port_kind = Some(kind),
                        LinkInfo::Data(InfoData::IpVlan(data)) => link.ipvlan = read_ipvlan(&data),
                        LinkInfo::Data(InfoData::MacVlan(data)) => {
                            link.macvlan = data.iter().find_map(read_macvlan);
                        }
                        LinkInfo::Data(InfoData::Vlan(data)) => {
                            link.vlan = data.iter().find_map(|info| match info {
                                InfoVlan::Id(id) => Some(*id),
                                _ => None,
                            });
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    link.port_of = match (controller, port_kind) {
        // A VRF changes only the routing of its members: their frames stay theirs.
        (Some(_), Some(InfoPortKind::Vrf)) => None,
        (Some(index), kind) => Some((index, kind.map_or("device".into(), |k| k.to_string()))),
        (None, _) => None,
    };
    Some(link)
}

/// The mode, if the setting of a macvlan child is that.
fn read_macvlan(setting: &InfoMacVlan) -> Option<MacvlanMode> {
    match setting {
        InfoMacVlan::Mode(MacVlanMode::Bridge) => Some(MacvlanMode::Bridge),
        InfoMacVlan::Mode(MacVlanMode::Private) => Some(MacvlanMode::Private),
        InfoMacVlan::Mode(MacVlanMode::Vepa) => Some(MacvlanMode::Vepa),
        InfoMacVlan::Mode(MacVlanMode::Passthrough) => Some(MacvlanMode::Passthru),
        _ => None,
    }
}

/// Mode and flag among the settings of an ipvlan child.
fn read_ipvlan(data: &[InfoIpVlan]) -> Option<(IpvlanMode, IpvlanFlag)> {
    let mode = data.iter().find_map(|info| match info {
        InfoIpVlan::Mode(IpVlanMode::L2) => Some(IpvlanMode::L2),
        InfoIpVlan::Mode(IpVlanMode::L3) => Some(IpvlanMode::L3),
        InfoIpVlan::Mode(IpVlanMode::L3S) => Some(IpvlanMode::L3s),
        _ => None,
    })?;
    let flag = data.iter().find_map(|info| match info {
        InfoIpVlan::Flags(flags) if flags.contains(IpVlanFlags::Private) => {
            Some(IpvlanFlag::Private)
        }
        InfoIpVlan::Flags(flags) if flags.contains(IpVlanFlags::Vepa) => Some(IpvlanFlag::Vepa),
        _ => None,
    });
    // Kernels before 4.15 have no flags.
    Some((mode, flag.unwrap_or(IpvlanFlag::Bridge)))
}

/// Asks for the number that a namespace has in the namespace of the requesting socket.
pub fn get_namespace_id(namespace: BorrowedFd<'_>) -> RouteNetlinkMessage {
    let mut message = NsidMessage::default();
    message.attributes.push(NsidAttribute::Fd(namespace.as_raw_fd().unsigned_abs()));
    RouteNetlinkMessage::GetNsId(message)
}

/// Reads the answer; `None` when the namespace has no number there, so that nothing refers to it.
pub fn read_namespace_id(message: RouteNetlinkMessage) -> Option<i32> {
    let RouteNetlinkMessage::NewNsId(message) = message else { return None };
    message.attributes.into_iter().find_map(|attribute| match attribute {
        NsidAttribute::Id(id) if id >= 0 => Some(id),
        _ => None,
    })
}

/// Reads an interface index and address from an answer.
pub fn read_address(message: RouteNetlinkMessage) -> Option<(u32, IpAddr)> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    let index = message.header.index;
    let mut address = None;
    for attribute in message.attributes {
        match attribute {
            // On a point-to-point link IFA_ADDRESS is the peer's.
            AddressAttribute::Local(local) => return Some((index, local)),
            AddressAttribute::Address(other) => address = Some(other),
            _ => {}
        }
    }
    address.map(|address| (index, address))
}

/// Reads an interface index, its address and the prefix length from an answer.
pub fn read_network(message: RouteNetlinkMessage) -> Option<(u32, IpNet)> {
    let length = match &message {
        RouteNetlinkMessage::NewAddress(message) => message.header.prefix_len,
        _ => return None,
    };
    let (index, address) = read_address(message)?;
    Some((index, IpNet::new(address, length).ok()?))
}

/// A neighbour whose address on the link is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Index of the link.
    pub index: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address.
    pub mac: MacAddr,
}

/// Time since its last answer after which a neighbour is not known any more, in the kernel's units
/// for programs, hundredths of a second: ten minutes. The kernel keeps few entries without end.
const NEIGHBOUR_AGE: u32 = 10 * 60 * 100;

/// Asks for the neighbours on one link, of both address families.
pub fn get_neighbours(index: u32) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.attributes.push(NeighbourAttribute::IfIndex(index));
    RouteNetlinkMessage::GetNeighbour(message)
}

/// Reads a neighbour that has answered lately, or is permanent, from an answer.
pub fn read_neighbour(message: RouteNetlinkMessage) -> Option<Neighbour> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else { return None };
    use NeighbourState::{Delay, Permanent, Probe, Reachable, Stale};
    let state = message.header.state;
    if !matches!(state, Reachable | Stale | Delay | Probe | Permanent) {
        return None;
    }
    let (mut address, mut mac, mut age) = (None, None, 0);
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                address = Some(v4.into())
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                address = Some(v6.into());
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = MacAddr::from_slice(&bytes),
            NeighbourAttribute::CacheInfo(info) => age = info.confirmed,
            _ => {}
        }
    }
    if state != Permanent && age > NEIGHBOUR_AGE {
        return None;
    }
    Some(Neighbour { index: message.header.ifindex, address: address?, mac: mac? })
}

/// Asks for the routes of one address family through a link.
pub fn get_routes_through(index: u32, v6: bool) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.attributes.push(RouteAttribute::Oif(index));
    RouteNetlinkMessage::GetRoute(message)
}

/// Reads the next hops of a route from an answer, each with the index of its link.
pub fn read_gateways(message: RouteNetlinkMessage) -> Vec<(u32, IpAddr)> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return Vec::new() };
    let mut gateways = Vec::new();
    let through = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    gateways.extend(through.zip(gateway(&message.attributes)));
    for attribute in &message.attributes {
        if let RouteAttribute::MultiPath(hops) = attribute {
            let each =
                hops.iter().map(|hop| Some((hop.interface_index, gateway(&hop.attributes)?)));
            gateways.extend(each.flatten());
        }
    }
    gateways
}

/// The gateway among the attributes of a route or of a next hop.
fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(v4)) => Some((*v4).into()),
        RouteAttribute::Gateway(RouteAddress::Inet6(v6)) => Some((*v6).into()),
        RouteAttribute::Via(RouteVia::Inet(v4)) => Some((*v4).into()),
        RouteAttribute::Via(RouteVia::Inet6(v6)) => Some((*v6).into()),
        _ => None,
    })
}
