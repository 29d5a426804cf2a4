//! What no record names: proxies, and links in namespaces of containers that mcrun does not know.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::path::PathBuf;

use crate::inventory::processes::Processes;
use crate::inventory::{Change, GC, Host, Inventory, Kind};
use crate::link::children;
use crate::net::messages::{
    CHILD_GROUP, Link, get_links, get_namespace_id, read_link, read_namespace_id,
};
use crate::net::netlink::RouteSocket;
use crate::net::netns::{NetNs, NetNsId};
use crate::sys::mountinfo;

/// Most namespaces that are mounted and looked into.
const MAX_MOUNTED: usize = 4096;

/// What containers account for.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Those that have a directory.
    pub(super) ids: HashSet<String>,
    pub(super) proxies: HashSet<i32>,
    pub(super) namespaces: HashSet<NetNsId>,
}

/// Proxies that no record names.
pub(super) fn processes(processes: &Processes, seen: &Seen, found: &mut Inventory) {
    for proxy in &processes.proxies {
        if seen.proxies.contains(&proxy.process.pid) {
            continue;
        }
        let pid = proxy.process.pid;
        let container = proxy.container.as_deref();
        // Only of a container that has a directory mcrun gc knows that a proxy is one too many.
        let is_known = container.is_some_and(|id| seen.ids.contains(id));
        let remove = if is_known { GC.to_owned() } else { format!("kill {pid}") };
        let of = container.map_or(String::new(), |id| format!(" of container {id}"));
        let what = format!("mcrun-proxy{of}, pid {pid}, {} sockets", proxy.sockets);
        found.changes.push(Change::left(Kind::Process, what, remove));
    }
}

/// Links that mcrun has made in namespaces of which no record tells.
pub(super) fn links(processes: &Processes, seen: &Seen, host: &Host, found: &mut Inventory) {
    let Ok(own) = &host.namespace else { return };
    let is_netns =
        |mount: &mountinfo::Mount| mount.filesystem == "nsfs" && mount.root.starts_with("net:[");
    let mounted = mountinfo::mounts().into_iter().filter(is_netns).map(|mount| mount.point);
    let paths: Vec<PathBuf> =
        processes.namespaces.values().cloned().chain(mounted.take(MAX_MOUNTED)).collect();
    let mut looked: HashSet<_> = seen.namespaces.iter().copied().collect();
    looked.extend(own.id());
    for path in paths {
        let Ok(namespace) = NetNs::open(&path) else { continue };
        if !namespace.id().is_ok_and(|id| looked.insert(id)) {
            continue;
        }
        for link in made_in(&namespace, own) {
            let kind = link.kind.as_deref().unwrap_or("link");
            let parent = host.link_name(link.parent.unwrap_or(0));
            let place = children::describe(&path);
            let what = format!("{} ({kind}) on {parent}, {place}", link.name);
            let enter = format!("nsenter --net={} ip link delete {}", path.display(), link.name);
            found.changes.push(Change::left(Kind::Link, what, enter));
        }
    }
}

/// The child links in a namespace that mcrun has made, of parents in the host's.
pub(super) fn made_in(namespace: &NetNs, host: &NetNs) -> Vec<Link> {
    let Ok(mut socket) = RouteSocket::open_in(namespace) else { return Vec::new() };
    let Ok(links) = socket.dump(get_links()) else { return Vec::new() };
    let links = links.into_iter().filter_map(read_link);
    let made: Vec<_> = links.filter(|link| link.group == Some(CHILD_GROUP)).collect();
    if made.is_empty() {
        return made;
    }
    let id = socket.get(get_namespace_id(host.as_fd())).ok().and_then(read_namespace_id);
    made.into_iter().filter(|link| id.is_some() && link.parent_namespace == id).collect()
}
