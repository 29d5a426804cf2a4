//! Addresses and MAC addresses that somebody on the LAN has already: the host, a gateway, a
//! neighbour of the host. An attachment must not take one of them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::attachment::{Attachment, Driver};
use crate::link::error::{PlanError, refuse};
use crate::net::messages::{
    Link, Neighbour, get_addresses, get_links, get_neighbours, get_routes_through, read_address,
    read_gateways, read_link, read_neighbour,
};
use crate::net::netlink::{NetlinkError, RouteSocket};
use crate::primitives::{InterfaceName, MacvlanMode};

/// What is known of those on the LAN. It is read as far as attachments name an address or a MAC
/// address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// The host's addresses, each with the index of its interface.
    pub host_addresses: Vec<(u32, IpAddr)>,
    /// The links of the host; read if an attachment names a MAC address.
    pub host_links: Vec<Link>,
    /// Next hops of the host's routes through the parents, each with the index of its parent.
    pub gateways: Vec<(u32, IpAddr)>,
    /// Neighbours of the host on the parents.
    pub neighbours: Vec<Neighbour>,
}

impl Taken {
    /// Reads it for attachments to parents of these indexes.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn gather(
        attachments: &[Attachment],
        parents: &[u32],
        host: &mut RouteSocket,
    ) -> Result<Self, NetlinkError> {
        let mut taken = Taken::default();
        let addresses = || attachments.iter().flat_map(|a| a.ip.fixed());
        // Which address of a pool it is to be depends on what is read.
        let pools = || attachments.iter().filter_map(|a| a.pool.as_ref()).flat_map(|p| &p.subnets);
        let with_ip = addresses().chain(pools()).next().is_some();
        let with_mac = attachments.iter().any(|attachment| attachment.mac.is_some());
        if with_ip {
            let answers = host.dump(get_addresses())?;
            taken.host_addresses = answers.into_iter().filter_map(read_address).collect();
        }
        if with_mac {
            let answers = host.dump(get_links())?;
            taken.host_links = answers.into_iter().filter_map(read_link).collect();
        }
        if !with_ip && !with_mac {
            return Ok(taken);
        }
        for index in parents {
            let answers = host.dump(get_neighbours(*index))?;
            let known = answers.into_iter().filter_map(read_neighbour);
            // Kernels before 4.20 do not filter.
            taken.neighbours.extend(known.filter(|neighbour| neighbour.index == *index));
            for v6 in [false, true] {
                // Who takes a MAC address is told if it is the gateway's.
                if addresses().chain(pools()).any(|net| net.addr().is_ipv6() == v6)
                    || (with_mac && !v6)
                {
                    let answers = host.filtered_dump(get_routes_through(*index, v6))?;
                    let gateways = answers.into_iter().flat_map(read_gateways);
                    taken.gateways.extend(gateways.filter(|(through, _)| through == index));
                }
            }
        }
        Ok(taken)
    }
}

impl Taken {
    /// Whether the host, one of its gateways or one of its neighbours has an address.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.host_addresses.iter().chain(&self.gateways).any(|(_, taken)| *taken == address)
            || self.neighbours.iter().any(|neighbour| neighbour.address == address)
    }
}

/// Refuses an attachment that takes what somebody else has.
///
/// # Errors
/// The key, the value and who has it.
pub(super) fn check(
    attachment: &Attachment,
    parent: &Link,
    taken: &Taken,
    links: &BTreeMap<InterfaceName, Link>,
) -> Result<(), PlanError> {
    let name_of = |index: u32| {
        let link = links.values().chain(&taken.host_links).find(|link| link.index == index);
        link.map_or_else(|| format!("interface {index}"), |link| link.name.clone())
    };
    check_addresses(attachment, taken, name_of)?;
    check_mac(attachment, parent, taken, name_of)
}

fn check_addresses(
    attachment: &Attachment,
    taken: &Taken,
    name_of: impl Fn(u32) -> String,
) -> Result<(), PlanError> {
    for net in attachment.ip.fixed() {
        let address = net.addr();
        let has =
            |list: &[(u32, IpAddr)]| list.iter().find(|(_, a)| *a == address).map(|(i, _)| *i);
        if let Some(index) = has(&taken.host_addresses) {
            let on = name_of(index);
            return refuse(format!("ip={net}: {address} is the host's own address, on {on}"));
        }
        if attachment.gateways.contains(&address) {
            return refuse(format!("ip={net}: {address} is the gateway that gw= names"));
        }
        let via = |route: &crate::attachment::Route| route.gateway == Some(address);
        if let Some(route) = attachment.routes.iter().find(|route| via(route)) {
            return refuse(format!("ip={net}: {address} is the gateway of route={route}"));
        }
        if let Some(index) = has(&taken.gateways) {
            let on = name_of(index);
            return refuse(format!("ip={net}: {address} is a gateway of the host, on {on}"));
        }
        if let Some(neighbour) = taken.neighbours.iter().find(|n| n.address == address) {
            let on = name_of(neighbour.index);
            return refuse(format!(
                "ip={net}: {address} is the address of a neighbour of the host on {on}, {} (ip \
                 neigh)",
                neighbour.mac
            ));
        }
    }
    Ok(())
}

fn check_mac(
    attachment: &Attachment,
    parent: &Link,
    taken: &Taken,
    name_of: impl Fn(u32) -> String,
) -> Result<(), PlanError> {
    let Some(mac) = attachment.mac else { return Ok(()) };
    // With passthru the container has the parent for itself, and with it the parent's address.
    let passthru = matches!(attachment.driver, Driver::Macvlan(MacvlanMode::Passthru));
    if parent.mac == Some(mac) {
        return match passthru {
            true => Ok(()),
            false => refuse(format!("mac={mac}: this is the address of {} itself", parent.name)),
        };
    }
    if let Some(link) = taken.host_links.iter().find(|link| link.mac == Some(mac)) {
        return refuse(format!("mac={mac}: this is the address of the host's {}", link.name));
    }
    if let Some(neighbour) = taken.neighbours.iter().find(|neighbour| neighbour.mac == mac) {
        let address = neighbour.address;
        let is_gateway = attachment.gateways.contains(&address)
            || taken.gateways.iter().any(|(_, gateway)| *gateway == address);
        let who = if is_gateway { "the gateway" } else { "a neighbour of the host" };
        let on = name_of(neighbour.index);
        return refuse(format!(
            "mac={mac}: this is the address of {who} on {on}, {address} (ip neigh)"
        ));
    }
    Ok(())
}
