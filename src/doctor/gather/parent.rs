//! Facts of the interfaces that containers are attached to.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::doctor::facts::{Duplicate, Fact, MldFacts, OwnAddress, ParentFacts, Queriers, Wire};
use crate::doctor::gather::wire;
use crate::multicast::Address;
use crate::net::messages::Link;
use crate::net::route_query::RouteQuery;
use crate::net::sysctl::Sysctls;
use crate::notice::Notice;
use crate::primitives::MacAddr;
use crate::proxy::{InputProbe, MembershipFiles, MldProbe, QuerySocket};
use crate::survey::HostLinks;

/// Bytes of a file of /sys that are read.
const MAX_FILE: usize = 256;
/// Addresses that are asked for.
const MAX_ADDRESSES: usize = 64;

/// What is known of a parent beforehand.
#[derive(Debug, Clone, Default)]
pub(crate) struct ParentUse {
    pub(crate) name: String,
    /// Interfaces of containers, and how many of those are relayed to.
    pub(crate) users: usize,
    pub(crate) relays: usize,
    pub(crate) queriers: Queriers,
    /// None: no proxy speaks MLD there.
    pub(crate) mld: Option<MldUse>,
    /// What proxies say is wrong with it.
    pub(crate) notices: Vec<Notice>,
    /// Addresses of containers.
    pub(crate) addresses: Vec<OwnAddress>,
    /// Groups that containers have joined.
    pub(crate) joined: BTreeSet<Ipv4Addr>,
}

/// What is known beforehand of the MLD of a parent's LAN.
#[derive(Debug, Clone, Default)]
pub(crate) struct MldUse {
    pub(crate) queriers: Queriers,
    /// Whether a container has joined a group of IPv6 beyond link scope.
    pub(crate) is_wanted: bool,
}

/// The facts of all of them, which takes as long as is listened.
pub(crate) fn parents(
    uses: Vec<ParentUse>,
    links: &HostLinks,
    joined: &Fact<BTreeSet<(u32, Ipv4Addr)>>,
    time: Duration,
) -> Vec<ParentFacts> {
    thread::scope(|scope| {
        let threads: Vec<_> = uses
            .into_iter()
            .map(|parent| scope.spawn(|| facts(parent, links, joined, time)))
            .collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    })
}

/// What the host has joined, by index and group.
pub(crate) fn joined() -> Fact<BTreeSet<(u32, Ipv4Addr)>> {
    let memberships = MembershipFiles::open().and_then(|files| files.memberships());
    memberships.map(|joined| joined.into_keys().collect()).map_err(|error| error.to_string())
}

fn facts(
    parent: ParentUse,
    links: &HostLinks,
    joined: &Fact<BTreeSet<(u32, Ipv4Addr)>>,
    time: Duration,
) -> ParentFacts {
    let ParentUse { name, users, relays, queriers, mld, notices, addresses, joined: of_containers } =
        parent;
    let link = links.link(&name).cloned();
    let name_of =
        |index: u32| links.links.iter().find(|l| l.index == index).map(|l| l.name.clone());
    let port_of = link.as_ref().and_then(|link| link.port_of.as_ref());
    let index = link.as_ref().map_or(0, |link| link.index);
    let works = link.as_ref().is_some_and(|link| link.up && link.carrier);
    let route_to_querier = queriers.elected.as_ref().and_then(|querier| match querier.address {
        IpAddr::V4(address) => {
            let by = RouteQuery::open().and_then(|query| query.interface_towards(address));
            by.ok().flatten().and_then(name_of)
        }
        IpAddr::V6(_) => None,
    });
    let limits = link.as_ref().map(|link| links.limits(link)).unwrap_or_default();
    ParentFacts {
        port_of: port_of.map(|(index, kind)| name_of(*index).unwrap_or_else(|| kind.clone())),
        limits,
        members: members(index, links),
        bond_mode: read(index, &name, "bonding/mode")
            .and_then(|text| text.split_whitespace().next().map(str::to_owned)),
        bridge: flag(index, &name, "bridge/multicast_snooping").zip(flag(
            index,
            &name,
            "bridge/multicast_querier",
        )),
        is_promiscuous: is_promiscuous(index, &name),
        rp_filter: rp_filter(&name),
        route_to_querier,
        users,
        relays,
        queriers,
        mld: mld.map(|mld| mld_facts(mld, &name, index)),
        notices,
        lets_in: lets_in(&name),
        lets_out: lets_out(&name, index),
        wire: match link.as_ref().filter(|_| works) {
            Some(link) => heard(link, links, addresses, joined, &of_containers, time),
            None => Err("the interface does not work".into()),
        },
        link,
        name,
    }
}

/// Ports of a bridge, members of a bond or team.
fn members(index: u32, links: &HostLinks) -> Vec<(String, u32, bool)> {
    let is_member = |link: &&Link| link.port_of.as_ref().is_some_and(|(of, _)| *of == index);
    let members = links.links.iter().filter(is_member);
    members.map(|link| (link.name.clone(), link.mtu, link.carrier)).collect()
}

/// The stricter of `all` and the interface (`IN_DEV_RPFILTER` in include/linux/inetdevice.h).
pub(super) fn rp_filter(name: &str) -> Option<u32> {
    let settings = Sysctls::default();
    let number = |name: &str| settings.number(&format!("ipv4/conf/{name}/rp_filter"));
    Some(number("all")?.max(number(name)?))
}

fn lets_in(name: &str) -> Fact<bool> {
    let probe = InputProbe::open(name).map_err(|error| without_root(&error))?;
    probe.arrives().ok_or_else(|| "a packet to oneself cannot be sent there".to_owned())
}

fn lets_out(name: &str, index: u32) -> Fact<bool> {
    let socket = QuerySocket::open(name, index).map_err(|error| without_root(&error))?;
    Ok(socket.may_report())
}

fn mld_facts(mld: MldUse, name: &str, index: u32) -> MldFacts {
    let MldUse { queriers, is_wanted } = mld;
    let (lets_in, lets_out) = match MldProbe::open(name, index) {
        Ok(probe) => {
            let arrives = probe.lets_in();
            let unsent = || "a packet to oneself cannot be sent there".to_owned();
            (arrives.ok_or_else(unsent), Ok(probe.lets_out()))
        }
        Err(error) => {
            let why = match error.raw_os_error() {
                Some(libc::EADDRNOTAVAIL) => "it has no link-local address".to_owned(),
                _ => without_root(&error),
            };
            (Err(why.clone()), Err(why))
        }
    };
    MldFacts { queriers, is_wanted, lets_in, lets_out }
}

fn without_root(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "run it as root".to_owned(),
        _ => error.to_string(),
    }
}

fn heard(
    link: &Link,
    links: &HostLinks,
    mut addresses: Vec<OwnAddress>,
    joined: &Fact<BTreeSet<(u32, Ipv4Addr)>>,
    of_containers: &BTreeSet<Ipv4Addr>,
    time: Duration,
) -> Fact<Wire> {
    let joined = joined.as_ref().map_err(Clone::clone)?;
    if link.mac.is_none() {
        return Err("it is no Ethernet".into());
    }
    addresses.extend(links.networks_of(link.index).filter_map(|network| match network {
        ipnet::IpNet::V4(address) => {
            Some(OwnAddress { address, owner: "the host".into(), macs: Vec::new() })
        }
        ipnet::IpNet::V6(_) => None,
    }));
    addresses.truncate(MAX_ADDRESSES);
    let asked: Vec<_> = addresses.iter().map(|own| own.address.addr()).collect();
    let heard = wire::listen(link.index, link.mac, &asked, Instant::now() + time)
        .map_err(|error| without_root(&error))?;
    let mut duplicates = Vec::new();
    for OwnAddress { address, owner, macs } in addresses {
        let address = address.addr();
        let others = heard.stations.get(&address).into_iter().flatten();
        // An interface of the host on the same LAN answers for the others (arp_ignore in ip-sysctl.rst).
        let is_of_host = |mac: &MacAddr| links.links.iter().any(|link| link.mac == Some(*mac));
        let others = others.filter(|mac| !is_of_host(mac) && !macs.contains(mac));
        duplicates.extend(others.map(|mac| Duplicate { address, owner: owner.clone(), mac: *mac }));
    }
    let is_own = |group: &Ipv4Addr| {
        joined.contains(&(link.index, *group))
            || of_containers.contains(group)
            // Every switch floods these (RFC 4541 §2.1.2).
            || group.is_link_scope()
    };
    Ok(Wire {
        time,
        queriers: heard.queriers.into_iter().collect(),
        foreign: heard
            .groups
            .iter()
            .filter(|(group, _)| !is_own(group))
            .map(|(group, arrivals)| (*group, arrivals.packets))
            .collect(),
        groups: heard.groups,
        duplicates,
        asked: asked.len(),
    })
}

fn is_promiscuous(index: u32, name: &str) -> bool {
    let flags = read(index, name, "flags");
    let flags = flags.and_then(|text| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok());
    flags.is_some_and(|flags| flags & libc::IFF_PROMISC.cast_unsigned() != 0)
}

fn flag(index: u32, name: &str, file: &str) -> Option<bool> {
    read(index, name, file).map(|text| text != "0")
}

/// A file of an interface below /sys, which shows the network namespace in which it was mounted.
fn read(index: u32, name: &str, file: &str) -> Option<String> {
    let directory = Path::new("/sys/class/net").join(name);
    let there = fs::read_to_string(directory.join("ifindex")).ok()?;
    if there.trim().parse() != Ok(index) {
        return None;
    }
    let mut text = fs::read_to_string(directory.join(file)).ok()?;
    text.truncate(text.floor_char_boundary(MAX_FILE));
    Some(text.trim().to_owned())
}
