//! The host's own leg on a parent, its shim. A macvlan or ipvlan link does not hear its parent, so host
//! and containers reach each other by a link of the host's beside those of the containers.
//!
//! Each shim has a record, which is there before the link and goes after it. Routes lead through a shim
//! to the addresses of containers on its parent. They follow the containers' records: whoever has
//! changed one calls [`sync_shims`].

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::attachment::{Attachment, Driver, SpecError, parse_spec};
use crate::link::apply::{
    ApplyError, MadeShim, Neighbour, SHIM, delete_shim, find_shim, keep_routes, made_shims,
    make_shim, mark_shim, parent_source,
};
use crate::link::facts::{Facts, link};
use crate::link::plan::{HostInterface, plan};
use crate::net::address_probe::AddressProbe;
use crate::net::netlink::{NetlinkError, RouteSocket};
use crate::primitives::{InterfaceName, MacvlanMode};
use crate::proxy;
use crate::service::{AttachError, host_links, parents};
use crate::state::{AttachedInterface, Claimed, LockedShims, Shim, StateDirError, Store};

/// Longest name of an interface.
const LONGEST_NAME: usize = 15;

/// Why a shim was not made or removed.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// It is there already, with other addresses.
    #[error("{parent} has a shim with {}; mcrun shim rm {parent} removes it", addresses_of(there))]
    Another {
        /// The parent.
        parent: InterfaceName,
        /// Its addresses.
        there: Vec<IpAddr>,
    },
    /// There is none.
    #[error("{0} has no shim (mcrun shim ls shows them)")]
    None(InterfaceName),
    /// Neither the shim nor the parent has an address.
    #[error("{0} has no IPv4 address that the host could have there; give one with --ip")]
    NoAddress(InterfaceName),
    /// A container has the address.
    #[error("--ip {address}: this is the address of container {container}, on {parent}")]
    AddressOfContainer {
        /// The address.
        address: IpAddr,
        /// The container's name.
        container: String,
        /// On which LAN.
        parent: InterfaceName,
    },
    /// A station of the LAN has the address.
    #[error("--ip {address}: in use on {parent}, by {mac}; give another address")]
    AddressOfStation {
        /// The address.
        address: IpAddr,
        /// On which LAN.
        parent: InterfaceName,
        /// The station.
        mac: String,
    },
    /// The rules were refused.
    #[error("cannot install the nf_tables rules of {link}: {source}")]
    Rules {
        /// The shim.
        link: InterfaceName,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The rules could not be removed.
    #[error("cannot remove the nf_tables rules of {link}: {source}")]
    OldRules {
        /// The shim.
        link: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A parent that cannot be one.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// What goes for containers too.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The state directory.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The kernel's refusal.
    #[error("cannot {step}: {source}")]
    Step {
        /// What was to be done.
        step: String,
        /// The kernel's answer.
        source: NetlinkError,
    },
}

fn addresses_of(there: &[IpAddr]) -> String {
    match there {
        [] => "no address of its own".to_owned(),
        _ => there.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// Makes the host's leg on a parent, with these addresses of its own: of each family at most one is
/// meant. Without any, the host's first address on the parent is the source of what it sends. A shim
/// that is there with these addresses is put in order. Returns its name.
///
/// # Errors
/// [`ShimError`]; nothing is left behind then.
pub fn add_shim(
    parent: &InterfaceName,
    addresses: &[IpAddr],
    store: &Store,
) -> Result<InterfaceName, ShimError> {
    let mut host = open()?;
    let locked = lock(store, true)?;
    let there = store.shims()?.into_iter().find(|shim| shim.parent == *parent);
    if let Some(there) = there {
        if there.made && there.addresses != addresses {
            return Err(ShimError::Another { parent: parent.clone(), there: there.addresses });
        }
        if there.made {
            restore(&there, store, &mut host)?;
            return Ok(there.link);
        }
        // A program that made or removed it was killed.
        take_back(&there, store, &locked, &mut host)?;
    }
    let index = check(parent, addresses, store, &mut host)?;
    let name = name_of(parent, index);
    // One of which the record was lost.
    let left = find_shim(name.as_str(), &host_links::mark(store), false, &mut host);
    if let Some(left) = left.map_err(AttachError::from)? {
        delete(&left, &mut host)?;
    }
    let mut shim =
        Shim { parent: parent.clone(), link: name, addresses: addresses.to_vec(), made: false };
    let made = locked.write(&shim).map_err(ShimError::from).and_then(|()| {
        make(&shim, index, &mut host, store)?;
        keep_its_routes(&shim, store, &mut host)?;
        shim.made = true;
        Ok(locked.write(&shim)?)
    });
    if let Err(error) = made {
        // The reason is more useful than that something stays: mcrun gc removes it.
        let _ = take_back(&shim, store, &locked, &mut host);
        return Err(error);
    }
    Ok(shim.link)
}

/// Removes the host's leg on a parent.
///
/// # Errors
/// [`ShimError`].
pub fn remove_shim(parent: &InterfaceName, store: &Store) -> Result<(), ShimError> {
    let Some(locked) = store.lock_shims(false)? else {
        return Err(ShimError::None(parent.clone()));
    };
    let shim = store.shims()?.into_iter().find(|shim| shim.parent == *parent);
    let shim = shim.ok_or_else(|| ShimError::None(parent.clone()))?;
    let shim = Shim { made: false, ..shim };
    // Whoever finds the record knows that the rest is to be removed.
    locked.write(&shim)?;
    take_back(&shim, store, &locked, &mut open()?)?;
    // A VLAN link stays for as long as something hangs on it.
    Ok(host_links::collect(store).map(drop)?)
}

/// Puts all shims in order: links that are missing and whose parents are there, rules, and the routes to
/// containers.
///
/// # Errors
/// The first failure; the other shims are put in order all the same.
pub fn sync_shims(store: &Store) -> Result<(), ShimError> {
    let Some(_locked) = store.lock_shims(false)? else { return Ok(()) };
    let shims = store.shims()?;
    if shims.is_empty() {
        return Ok(());
    }
    let mut host = open()?;
    let made = shims.iter().filter(|shim| shim.made);
    made.map(|shim| restore(shim, store, &mut host)).fold(Ok(()), Result::and)
}

/// The same, after a container's record has changed. What fails keeps no container from starting or
/// ending: `mcrun reload` tells.
pub(super) fn follow(store: &Store) {
    let _ = sync_shims(store);
}

/// Removes what is left of shims whose making or removal was interrupted, and links with the mark of the
/// state directory that no record names, with their rules. Puts the others in order. Returns the names of
/// links that it removed.
///
/// # Errors
/// The first failure.
pub(super) fn collect(store: &Store) -> Result<Vec<String>, ShimError> {
    let mut host = open()?;
    let mark = host_links::mark(store);
    let links = |host: &mut _| made_shims(&mark, host).map_err(step("list the host's links"));
    let is_clean = store.shims()?.is_empty() && links(&mut host)?.is_empty();
    let Some(locked) = store.lock_shims(!is_clean)? else { return Ok(Vec::new()) };
    let mut removed = Vec::new();
    let (made, unfinished): (Vec<_>, Vec<_>) =
        store.shims()?.into_iter().partition(|shim| shim.made);
    for shim in &unfinished {
        if take_back(shim, store, &locked, &mut host)? {
            removed.push(shim.link.to_string());
        }
    }
    locked.remove_others(&made)?;
    let is_known = |name: &str| made.iter().any(|shim| shim.link.as_str() == name);
    for link in links(&mut host)?.iter().filter(|link| !is_known(&link.name)) {
        delete(link, &mut host)?;
        remove_rules(&link.name)?;
        removed.push(link.name.clone());
    }
    made.iter().map(|shim| restore(shim, store, &mut host)).fold(Ok(()), Result::and)?;
    Ok(removed)
}

/// Checks that the parent can have the shim, and that nobody has the addresses. Returns the index of the
/// parent.
fn check(
    parent: &InterfaceName,
    addresses: &[IpAddr],
    store: &Store,
    host: &mut RouteSocket,
) -> Result<u32, ShimError> {
    // What goes for a container's interface there goes for this one.
    let attachment = as_attachment(parent, addresses)?;
    let attachments = [attachment];
    let facts = Facts::gather(&attachments, host_links::mark(store), host, &mut open()?)
        .map_err(AttachError::from)?;
    let plans = plan(&attachments, &facts).map_err(AttachError::from)?;
    let index = plans.first().and_then(|plan| plan.parent.index);
    let index = index.ok_or_else(|| ShimError::Step {
        step: format!("find {parent}"),
        source: NetlinkError { errno: libc::ENODEV, message: None },
    })?;
    let has_v4 = addresses.iter().any(IpAddr::is_ipv4);
    if !has_v4 && parent_source(index, false, host).map_err(step("list addresses"))?.is_none() {
        return Err(ShimError::NoAddress(parent.clone()));
    }
    for address in addresses {
        if let Some(claimed) = store.claimed(parent, *address)? {
            let container = match claimed {
                Claimed::Held(name) | Claimed::Unfinished { name, .. } => name,
                Claimed::Ours => continue,
            };
            let (address, parent) = (*address, parent.clone());
            return Err(ShimError::AddressOfContainer { address, container, parent });
        }
    }
    let probed = addresses.iter().map(|address| (index, *address));
    let conflict = match AddressProbe::send(probed).map_err(AttachError::Probe)? {
        Some(probe) => probe.wait().map_err(AttachError::Probe)?,
        None => None,
    };
    match conflict {
        Some(conflict) => Err(ShimError::AddressOfStation {
            address: conflict.address,
            parent: parent.clone(),
            mac: conflict.mac.to_string(),
        }),
        None => Ok(index),
    }
}

fn as_attachment(parent: &InterfaceName, addresses: &[IpAddr]) -> Result<Attachment, SpecError> {
    let addresses = addresses.iter().map(|address| format!(",ip={}", IpNet::from(*address)));
    parse_spec(&format!("parent={parent},igmp=off,name=mcshim{}", addresses.collect::<String>()))
}

/// `mcshim-PARENT`, or with the parent's index where that is too long.
fn name_of(parent: &InterfaceName, index: u32) -> InterfaceName {
    let named = format!("{SHIM}{parent}");
    let numbered = format!("{SHIM}{index}");
    let name = if named.len() <= LONGEST_NAME { named } else { numbered };
    name.parse().unwrap_or_else(|_| parent.clone())
}

/// Makes the rules and then the link, so that nothing leaves that the rules drop.
fn make(shim: &Shim, parent: u32, host: &mut RouteSocket, store: &Store) -> Result<u32, ShimError> {
    proxy::add_shim_rules(shim.link.as_str())
        .map_err(|source| ShimError::Rules { link: shim.link.clone(), source })?;
    let mark = host_links::mark(store);
    make_shim(shim.link.as_str(), parent, &shim.addresses, &mark, host).map_err(|source| {
        let interface = HostInterface { name: shim.parent.clone(), index: Some(parent) };
        match source.errno {
            libc::EBUSY => {
                let held = ApplyError::ParentHeld { parent: interface, driver: "macvlan" };
                parents::explain(held, store).into()
            }
            libc::EINVAL => AttachError::Parent(format!(
                "parent={}: the kernel refuses a macvlan link of the host there; a passthru child takes the parent for itself",
                shim.parent
            ))
            .into(),
            _ => step(&format!("make {}", shim.link))(source),
        }
    })
}

/// Makes what is missing of a shim whose parent is there, and leads the way to the containers.
fn restore(shim: &Shim, store: &Store, host: &mut RouteSocket) -> Result<(), ShimError> {
    let mark = host_links::mark(store);
    let there = find_shim(shim.link.as_str(), &mark, true, host).map_err(AttachError::from)?;
    if let Some(unmarked) = there.as_ref().filter(|there| !there.is_marked) {
        mark_shim(unmarked, &mark, host).map_err(step(&format!("mark {}", shim.link)))?;
    }
    let has_rules = || {
        proxy::shim_rules(shim.link.as_str())
            .is_ok_and(|rules| rules.iter().any(|name| name == shim.link.as_str()))
    };
    if there.is_none() {
        let found = link(host, shim.parent.as_str()).map_err(step("find the parent"))?;
        // It comes back with its parent.
        let Some(parent) = found else { return Ok(()) };
        make(shim, parent.index, host, store)?;
    } else if !has_rules() {
        proxy::add_shim_rules(shim.link.as_str())
            .map_err(|source| ShimError::Rules { link: shim.link.clone(), source })?;
    }
    keep_its_routes(shim, store, host)
}

fn keep_its_routes(shim: &Shim, store: &Store, host: &mut RouteSocket) -> Result<(), ShimError> {
    let mark = host_links::mark(store);
    let found = find_shim(shim.link.as_str(), &mark, true, host).map_err(AttachError::from)?;
    let Some(made) = found else { return Ok(()) };
    let has_v6 = shim.addresses.iter().any(IpAddr::is_ipv6);
    let neighbours = neighbours(&shim.parent, store)?;
    let reachable: BTreeSet<_> =
        neighbours.into_iter().filter(|n| n.address.is_ipv4() || has_v6).collect();
    let mut source = [None; 2];
    for v6 in [false, true] {
        let own = shim.addresses.iter().find(|address| address.is_ipv6() == v6);
        source[usize::from(v6)] = match (own, made.parent) {
            (Some(own), _) => Some(*own),
            (None, Some(parent)) => {
                parent_source(parent, v6, host).map_err(step("list addresses"))?
            }
            (None, None) => None,
        };
    }
    keep_routes(made.index, &reachable, source, host)
        .map_err(step(&format!("set the routes through {}", made.name)))
}

/// The addresses that containers have on a parent and that a shim reaches.
fn neighbours(parent: &InterfaceName, store: &Store) -> Result<BTreeSet<Neighbour>, StateDirError> {
    let mut all = BTreeSet::new();
    for id in store.list()? {
        // A record that cannot be read is the business of mcrun gc.
        let Ok(Some(record)) = store.read(&id) else { continue };
        let Some(attached) = record.attached().filter(|a| a.container.is_alive()) else { continue };
        let there = attached.interfaces.iter().filter(|i| is_reached(i, parent));
        all.extend(there.flat_map(|interface| {
            let addresses = interface.attachment.ip.addresses().iter();
            let mac = interface.mac;
            addresses.filter_map(move |net| Some(Neighbour { address: net.addr(), mac: mac? }))
        }));
    }
    Ok(all)
}

/// Whether a shim on the parent reaches an interface: macvlan links in mode bridge hear each other.
pub(super) fn is_reached(interface: &AttachedInterface, parent: &InterfaceName) -> bool {
    let attachment = &interface.attachment;
    attachment.parent_link() == parent
        && interface.index.is_some()
        && matches!(attachment.driver, Driver::Macvlan(MacvlanMode::Bridge))
}

/// Removes the link, the rules and the record. Returns whether there was a link.
fn take_back(
    shim: &Shim,
    store: &Store,
    locked: &LockedShims,
    host: &mut RouteSocket,
) -> Result<bool, ShimError> {
    let there = find_shim(shim.link.as_str(), &host_links::mark(store), true, host);
    // A link of somebody else stays, and so do its rules.
    let is_others = matches!(there, Err(ApplyError::Parent(_)));
    let there = there.unwrap_or_default();
    if let Some(link) = &there {
        delete(link, host)?;
    }
    if !is_others {
        remove_rules(shim.link.as_str())?;
    }
    locked.remove(&shim.parent)?;
    Ok(there.is_some())
}

fn remove_rules(link: &str) -> Result<(), ShimError> {
    let removed = proxy::remove_shim_rules(link);
    removed.map(drop).map_err(|source| ShimError::OldRules { link: link.to_owned(), source })
}

fn delete(link: &MadeShim, host: &mut RouteSocket) -> Result<(), ShimError> {
    delete_shim(link, host).map_err(step(&format!("delete {}", link.name)))
}

fn lock(store: &Store, make: bool) -> Result<LockedShims, ShimError> {
    let locked = store.lock_shims(make)?;
    locked.ok_or_else(|| ShimError::Step {
        step: "lock the records of shims".to_owned(),
        source: NetlinkError { errno: libc::ENOENT, message: None },
    })
}

fn open() -> Result<RouteSocket, ShimError> {
    RouteSocket::open().map_err(NetlinkError::from).map_err(step("open a netlink socket"))
}

fn step(what: &str) -> impl FnOnce(NetlinkError) -> ShimError {
    let step = what.to_owned();
    move |source| ShimError::Step { step, source }
}
