//! A link that another program has made in a container: whose child it is, and its addresses.

use std::net::IpAddr;
use std::os::fd::AsFd;

use ipnet::IpNet;

use crate::attachment::Driver;
use crate::link::facts::link;
use crate::net::messages::{
    Link, get_addresses, get_link_at, get_namespace_id, read_link, read_namespace_id, read_network,
};
use crate::net::netlink::{NetlinkError, RouteSocket};
use crate::net::netns::NetNs;
use crate::primitives::InterfaceName;

/// A link in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExistingLink {
    /// Its kind, as `ip link` names it; none for hardware.
    pub kind: Option<String>,
    /// Whether it is set up.
    pub up: bool,
    /// Its parent in the caller's namespace and the driver of such a child, if it is a macvlan or
    /// ipvlan link of that namespace.
    pub child_of: Option<(InterfaceName, Driver)>,
    /// Its addresses, without those of IPv6 that the kernel gives each link.
    pub addresses: Vec<IpNet>,
}

/// The link of this name in a namespace; `None` when there is none.
///
/// # Errors
/// The kernel's, and those of entering the namespace.
pub fn find(namespace: &NetNs, name: &str) -> Result<Option<ExistingLink>, NetlinkError> {
    let mut socket = RouteSocket::open_in(namespace)?;
    let Some(found) = link(&mut socket, name)? else { return Ok(None) };
    let child_of = parent_of(&found, &mut socket)?.zip(driver(&found));
    let addresses = socket.dump(get_addresses())?.into_iter().filter_map(read_network);
    let is_its = |(index, net): &(u32, IpNet)| {
        let own = matches!(net.addr(), IpAddr::V6(address) if address.is_unicast_link_local());
        *index == found.index && !own
    };
    let addresses = addresses.filter(is_its).map(|(_, net)| net).collect();
    Ok(Some(ExistingLink { kind: found.kind, up: found.up, child_of, addresses }))
}

/// The name of a link's parent, if that is in the caller's namespace.
fn parent_of(
    child: &Link,
    container: &mut RouteSocket,
) -> Result<Option<InterfaceName>, NetlinkError> {
    let (Some(index), Some(namespace)) = (child.parent, child.parent_namespace) else {
        return Ok(None);
    };
    // Indexes repeat from namespace to namespace.
    let host = NetNs::current()?;
    let ours = read_namespace_id(container.get(get_namespace_id(host.as_fd()))?);
    if ours != Some(namespace) {
        return Ok(None);
    }
    let parent = read_link(RouteSocket::open()?.get(get_link_at(index))?);
    Ok(parent.and_then(|parent| parent.name.parse().ok()))
}

fn driver(link: &Link) -> Option<Driver> {
    match link.kind.as_deref()? {
        "macvlan" => link.macvlan.map(Driver::Macvlan),
        "ipvlan" => link.ipvlan.map(|(mode, flag)| Driver::Ipvlan { mode, flag }),
        _ => None,
    }
}
