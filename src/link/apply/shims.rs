//! The host's own leg on a parent, its shim: a macvlan link of the host's beside those of containers,
//! which do not hear the parent itself. The caller holds the lock of the shims' records.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::AsFd;

use ipnet::IpNet;

use crate::link::apply::ApplyError;
use crate::link::facts::link;
use crate::link::mark::{Mark, is_marked};
use crate::link::plan::{BC_CUTOFF, BC_QUEUE_LEN};
use crate::link::removal;
use crate::net::devconf::DevConf;
use crate::net::host_routes::{
    HostRoute, delete_neighbour, new_host_route, new_permanent_neighbour, read_host_route,
};
use crate::net::messages::{
    CHILD_GROUP, Link, Macvlan, delete_route, get_addresses, get_links, get_neighbours,
    get_routes_through, new_address, new_macvlan, read_address, read_link, read_neighbour,
    set_alias, set_alias_and_up, set_devconf,
};
use crate::net::netlink::{
    NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NetlinkError, Request, RouteSocket,
};
use crate::net::netns::NetNs;
use crate::net::sysctl::{Sysctl, Sysctls};
use crate::primitives::{MacAddr, MacvlanMode, printable};

/// Beginning of the names of shims.
pub const SHIM: &str = "mcshim-";

/// A shim that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeShim {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Index of its parent.
    pub parent: Option<u32>,
    /// Whether it has the mark that it was looked for by.
    pub is_marked: bool,
}

/// A container's address on the parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// The address.
    pub address: IpAddr,
    /// The MAC address of the container's interface.
    pub mac: MacAddr,
}

/// Makes the link on the parent of this index, with these addresses, and sets it up. What was made is
/// deleted when a later step fails.
///
/// # Errors
/// The first step that failed.
pub fn make_shim(
    name: &str,
    parent: u32,
    addresses: &[IpAddr],
    mark: &Mark,
    host: &mut RouteSocket,
) -> Result<u32, NetlinkError> {
    let namespace = NetNs::current()?;
    let child = Macvlan {
        name,
        parent,
        mode: MacvlanMode::Bridge,
        mac: None,
        mtu: None,
        bcqueuelen: BC_QUEUE_LEN,
        bclim: BC_CUTOFF,
    };
    // The mark comes later: a request behind a refused one would put it on somebody else's link.
    host.request(new_macvlan(&child, namespace.as_fd()), NLM_F_CREATE | NLM_F_EXCL)?;
    let missing = || NetlinkError { errno: libc::ENODEV, message: None };
    let index = link(host, name)?.ok_or_else(missing)?.index;
    let made = configure(name, index, addresses, mark, host);
    if made.is_err() {
        // The reason is told.
        let _ = removal::delete(host, index);
    }
    made.map(|()| index)
}

fn configure(
    name: &str,
    index: u32,
    addresses: &[IpAddr],
    mark: &Mark,
    host: &mut RouteSocket,
) -> Result<(), NetlinkError> {
    let v6 = |setting: &str, value| Sysctl::Set(format!("ipv6/conf/{name}/{setting}"), value);
    let settings = match addresses.iter().any(IpAddr::is_ipv6) {
        // The given addresses and no others.
        true => vec![v6("accept_ra", 0), v6("autoconf", 0), v6("addr_gen_mode", 1)],
        false => vec![v6("disable_ipv6", 1)],
    };
    let sysctls = Sysctls::default();
    for setting in settings {
        let applied = sysctls.apply(&setting);
        applied
            .map_err(|error| NetlinkError { errno: libc::EIO, message: Some(error.to_string()) })?;
    }
    // It answers those to whom a route leads through it, so nobody of the LAN, whose questions it
    // hears too.
    let mut requests = vec![(set_devconf(index, &[(DevConf::ArpFilter, 1)]), 0)];
    let addresses = addresses.iter().map(|address| new_address(index, IpNet::from(*address)));
    requests.extend(addresses.map(|message| (message, NLM_F_CREATE | NLM_F_EXCL)));
    requests.push((set_alias_and_up(name, mark.alias()), 0));
    match host.batch(requests)?.into_iter().next() {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

/// The link of a shim; `None` if there is no link of this name. One that a record names need not have a
/// mark: earlier versions made it.
///
/// # Errors
/// The kernel's; [`ApplyError::Parent`] if it is somebody else's.
pub fn find_shim(
    name: &str,
    mark: &Mark,
    is_recorded: bool,
    host: &mut RouteSocket,
) -> Result<Option<MadeShim>, ApplyError> {
    let failed = |source| ApplyError::Step { step: format!("cannot find {name}"), source };
    let Some(found) = link(host, name).map_err(failed)? else { return Ok(None) };
    let is_ours =
        mark.is_on(&found) || (is_recorded && (mark.is_on_recorded(&found) || !is_marked(&found)));
    match (is_shim(&found), is_ours) {
        (true, true) => Ok(Some(made(found, mark))),
        (true, false) => Err(ApplyError::Parent(format!(
            "the host has {name} already, which no record of this state directory names; remove it \
             with the mcrun whose state directory is in its alias ({})",
            printable(found.alias.as_deref().unwrap_or("none"), 256)
        ))),
        (false, _) => Err(ApplyError::Parent(format!(
            "the host has another link {name}, which mcrun has not made; rename it"
        ))),
    }
}

/// Puts the mark on a shim that has none, or that of an earlier version.
///
/// # Errors
/// The kernel's.
pub fn mark_shim(shim: &MadeShim, mark: &Mark, host: &mut RouteSocket) -> Result<(), NetlinkError> {
    host.request(set_alias(&shim.name, mark.alias()), 0)
}

/// All links of the host that are shims and have the mark.
///
/// # Errors
/// The kernel's.
pub fn made_shims(mark: &Mark, host: &mut RouteSocket) -> Result<Vec<MadeShim>, NetlinkError> {
    let links = host.dump(get_links())?.into_iter().filter_map(read_link);
    let ours = links.filter(|link| is_shim(link) && mark.is_on(link));
    Ok(ours.map(|link| made(link, mark)).collect())
}

/// Whether mcrun has made a link of the host as a shim.
pub(crate) fn is_shim(link: &Link) -> bool {
    link.group == Some(CHILD_GROUP)
        && link.macvlan == Some(MacvlanMode::Bridge)
        && link.parent_namespace.is_none()
        && link.name.starts_with(SHIM)
}

fn made(link: Link, mark: &Mark) -> MadeShim {
    let is_marked = link.alias.as_deref() == Some(mark.alias());
    MadeShim { index: link.index, parent: link.parent, name: link.name, is_marked }
}

/// Deletes a shim, with its addresses and routes. That it is gone already is as wanted.
///
/// # Errors
/// The kernel's.
pub fn delete_shim(shim: &MadeShim, host: &mut RouteSocket) -> Result<(), NetlinkError> {
    match removal::delete(host, shim.index) {
        Err(error) if error.errno != libc::ENODEV => Err(error),
        _ => Ok(()),
    }
}

/// The first address of a family that the host has on an interface.
///
/// # Errors
/// The kernel's.
pub fn parent_source(
    parent: u32,
    v6: bool,
    host: &mut RouteSocket,
) -> Result<Option<IpAddr>, NetlinkError> {
    let addresses = host.dump(get_addresses())?.into_iter().filter_map(read_address);
    let is_usable = |address: &IpAddr| match address {
        IpAddr::V4(_) => !v6,
        IpAddr::V6(address) => v6 && !address.is_unicast_link_local(),
    };
    let mut usable = addresses.filter(|(index, address)| *index == parent && is_usable(address));
    Ok(usable.next().map(|(_, address)| address))
}

/// Leads the way to these neighbours through the shim of this index, and to nobody else. `source`
/// gives the source address for each of both families, IPv4 first.
///
/// The MAC addresses are told to the kernel: a question for one would go to the LAN too, where a
/// station would take the shim's MAC address for that of the host.
///
/// # Errors
/// The kernel's; what could be done is done.
pub fn keep_routes(
    index: u32,
    neighbours: &BTreeSet<Neighbour>,
    source: [Option<IpAddr>; 2],
    host: &mut RouteSocket,
) -> Result<(), NetlinkError> {
    let mut there = BTreeSet::new();
    for v6 in [false, true] {
        let answers = host.filtered_dump(get_routes_through(index, v6))?;
        let routes = answers.into_iter().filter_map(read_host_route);
        there.extend(routes.filter(|(through, _)| *through == index).map(|(_, route)| route));
    }
    let answers = host.dump(get_neighbours(index))?.into_iter().filter_map(read_neighbour);
    let known = answers.filter(|known| known.index == index);
    let known: BTreeSet<IpAddr> = known.map(|known| known.address).collect();
    let wanted: BTreeMap<IpAddr, HostRoute> = neighbours
        .iter()
        .map(|neighbour| {
            let to = neighbour.address;
            (to, HostRoute { to, source: source[usize::from(to.is_ipv6())] })
        })
        .collect();
    // A route to its own address, which the kernel has made, is in another table.
    let gone = there.iter().filter(|route| wanted.get(&route.to) != Some(route));
    let forgotten = known.iter().filter(|to| !wanted.contains_key(to));
    let mut requests: Vec<_> = gone
        .map(|route| (delete_route(new_host_route(index, *route)), 0))
        .chain(forgotten.map(|to| (delete_neighbour(index, *to), 0)))
        .collect();
    let removals = requests.len();
    for neighbour in neighbours {
        let message = new_permanent_neighbour(index, neighbour.address, neighbour.mac);
        requests.push((message, NLM_F_CREATE | NLM_F_REPLACE));
    }
    let new = wanted.values().filter(|route| !there.contains(route));
    requests.extend(new.map(|route| (new_host_route(index, *route), NLM_F_CREATE | NLM_F_EXCL)));
    change(requests, removals, host)
}

/// Leads the way to a neighbour through the shim of this index, and not to an `old` address any more.
///
/// # Errors
/// As those of [`keep_routes`].
pub fn change_route(
    index: u32,
    old: Option<IpAddr>,
    new: Option<Neighbour>,
    source: Option<IpAddr>,
    host: &mut RouteSocket,
) -> Result<(), NetlinkError> {
    let mut requests = Vec::new();
    if let Some(to) = old {
        let route = HostRoute { to, source: None };
        requests.push((delete_route(new_host_route(index, route)), 0));
        requests.push((delete_neighbour(index, to), 0));
    }
    let removals = requests.len();
    if let Some(Neighbour { address: to, mac }) = new {
        let message = new_permanent_neighbour(index, to, mac);
        requests.push((message, NLM_F_CREATE | NLM_F_REPLACE));
        let route = new_host_route(index, HostRoute { to, source });
        requests.push((route, NLM_F_CREATE | NLM_F_EXCL));
    }
    change(requests, removals, host)
}

/// Makes requests of which the first ones are `removals`.
fn change(
    requests: Vec<Request>,
    removals: usize,
    host: &mut RouteSocket,
) -> Result<(), NetlinkError> {
    // What has gone meanwhile need not be removed. A route that somebody else has made is theirs.
    let is_as_wanted = |(position, error): &(usize, NetlinkError)| match *position < removals {
        true => matches!(error.errno, libc::ESRCH | libc::ENOENT),
        false => error.errno == libc::EEXIST,
    };
    match host.batch(requests)?.into_iter().find(|refusal| !is_as_wanted(refusal)) {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}
