//! The host's own leg on a parent, its shim, follows a leased address at once.

use std::net::{IpAddr, Ipv4Addr};

use crate::link::apply::{Neighbour, change_route, find_shim, parent_source};
use crate::link::mark::Mark;
use crate::net::netlink::{NetlinkError, RouteSocket};
use crate::primitives::{InterfaceName, MacAddr};
use crate::state::{Store, state_dir};

/// Leads the way through the shim of this parent, if it has one, to the new address of the interface
/// with this MAC address instead of to the old one. The calling thread is in the host's namespace.
///
/// # Errors
/// The kernel's, and those of the state directory.
pub(super) fn follow(
    parent: &InterfaceName,
    mac: MacAddr,
    old: Option<Ipv4Addr>,
    new: Option<Ipv4Addr>,
) -> Result<(), Box<dyn std::error::Error>> {
    let store = Store::at(state_dir());
    // With the lock: what reads all records has read the old address, or reads the new one later.
    let Some(_locked) = store.lock_shims(false)? else { return Ok(()) };
    let shims = store.shims()?;
    let Some(shim) = shims.iter().find(|shim| shim.parent == *parent && shim.made) else {
        return Ok(());
    };
    let mut host = RouteSocket::open().map_err(NetlinkError::from)?;
    let mark = Mark::of(store.root());
    let Some(link) = find_shim(shim.link.as_str(), &mark, true, &mut host)? else {
        return Ok(());
    };
    let own = shim.addresses.iter().copied().find(IpAddr::is_ipv4);
    let source = match (own, link.parent) {
        (None, Some(parent)) => parent_source(parent, false, &mut host)?,
        (own, _) => own,
    };
    let new = new.map(|address| Neighbour { address: address.into(), mac });
    Ok(change_route(link.index, old.map(IpAddr::V4), new, source, &mut host)?)
}
