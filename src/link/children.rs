//! The children of a link, in whatever namespace they are.
//!
//! rtnetlink does not list the children of a link. A child is found by looking at the links of each
//! namespace: a child names its parent.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::net::messages::{Link, get_links, get_namespace_id, read_link, read_namespace_id};
use crate::net::netlink::{NetlinkError, RouteSocket};
use crate::net::netns::NetNs;
use crate::primitives::{IpvlanFlag, IpvlanMode};
use crate::sys::mountinfo;
use crate::sys::mountinfo::Mount;

/// Most namespaces that are searched.
const MAX_NAMESPACES: usize = 4096;

/// A child of a kind that excludes other kinds on the same parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// Its name in its own namespace.
    pub name: String,
    /// What it is.
    pub kind: ChildKind,
}

/// What a child is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildKind {
    /// macvlan or macvtap, in any mode.
    Macvlan,
    /// ipvlan or ipvtap; all children of a parent have the same mode and flag.
    Ipvlan(IpvlanMode, IpvlanFlag),
}

impl ChildKind {
    /// As `ip link` calls it.
    pub fn name(self) -> &'static str {
        match self {
            ChildKind::Macvlan => "macvlan",
            ChildKind::Ipvlan(..) => "ipvlan",
        }
    }
}

/// A child of the parent of this index in the namespace of its own parent, the host's; `None` when
/// it has none there.
///
/// # Errors
/// The kernel's.
pub fn on_host(host: &mut RouteSocket, parent: u32) -> Result<Option<Child>, NetlinkError> {
    let links = host.dump(get_links())?.into_iter().filter_map(read_link);
    Ok(links.filter(|link| link.parent_namespace.is_none()).find_map(|link| child(link, parent)))
}

/// A child of the host's link of this index in another namespace. `host` is the caller's namespace.
///
/// # Errors
/// The kernel's, and those of entering the namespace.
pub fn in_namespace(
    namespace: &NetNs,
    host: &NetNs,
    parent: u32,
) -> Result<Option<Child>, NetlinkError> {
    let mut socket = RouteSocket::open_in(namespace)?;
    let links: Vec<_> = socket.dump(get_links())?.into_iter().filter_map(read_link).collect();
    let mut candidates = links.into_iter().filter(|link| link.parent == Some(parent)).peekable();
    if candidates.peek().is_none() {
        return Ok(None);
    }
    // Indexes repeat from namespace to namespace: the parent must be in the host's.
    let id = read_namespace_id(socket.get(get_namespace_id(host.as_fd()))?);
    let ours = candidates.filter(|link| id.is_some() && link.parent_namespace == id);
    Ok(ours.into_iter().find_map(|link| child(link, parent)))
}

/// A child of the host's link of this index in any other namespace that a process is in or that is
/// mounted, with the file of that namespace: in proc(5), or where it is mounted. Namespaces that
/// cannot be opened are skipped: processes end meanwhile.
///
/// # Errors
/// When the processes or the own namespace cannot be read.
pub fn anywhere(parent: u32) -> io::Result<Option<(Child, PathBuf)>> {
    let host = NetNs::current()?;
    let own = fs::metadata("/proc/thread-self/ns/net")?;
    let mut seen = BTreeSet::from([(own.dev(), own.ino())]);
    let processes = fs::read_dir("/proc")?.flatten().filter_map(|entry| {
        let numbered = entry.file_name().to_str()?.bytes().all(|b| b.is_ascii_digit());
        numbered.then(|| entry.path().join("ns/net"))
    });
    let is_netns = |mount: &Mount| mount.filesystem == "nsfs" && mount.root.starts_with("net:[");
    let named = mountinfo::mounts().into_iter().filter(is_netns).map(|mount| mount.point);
    for path in named.chain(processes) {
        let Ok(file) = fs::metadata(&path) else { continue };
        if seen.len() > MAX_NAMESPACES || !seen.insert((file.dev(), file.ino())) {
            continue;
        }
        let Ok(namespace) = NetNs::open(&path) else { continue };
        if let Ok(Some(child)) = in_namespace(&namespace, &host, parent) {
            return Ok(Some((child, path)));
        }
    }
    Ok(None)
}

/// Names a namespace that [`anywhere`] returned: by the process of a path in /proc, else by the
/// path.
pub fn describe(path: &Path) -> String {
    let process = path
        .strip_prefix("/proc")
        .ok()
        .and_then(|path| path.components().next())
        .map(|pid| pid.as_os_str().to_string_lossy().into_owned());
    match process {
        Some(pid) => match fs::read_to_string(format!("/proc/{pid}/comm")) {
            Ok(command) => format!("of process {pid} ({})", command.trim_end()),
            Err(_) => format!("of process {pid}"),
        },
        None => format!("in {}", path.display()),
    }
}

fn child(link: Link, parent: u32) -> Option<Child> {
    let kind = match (link.kind.as_deref()?, link.ipvlan) {
        _ if link.parent != Some(parent) => return None,
        ("macvlan" | "macvtap", _) => ChildKind::Macvlan,
        ("ipvlan" | "ipvtap", Some((mode, flag))) => ChildKind::Ipvlan(mode, flag),
        _ => return None,
    };
    Some(Child { name: link.name, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_called_by_its_process_or_its_path() {
        let own = std::process::id();
        let name = describe(Path::new(&format!("/proc/{own}/ns/net")));
        assert!(name.starts_with(&format!("of process {own} (")), "{name}");
        assert_eq!(describe(Path::new("/run/netns/blue")), "in /run/netns/blue");
    }
}
